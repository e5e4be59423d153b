"""The thread beside the caller's: its order, its errors, and what is done without it."""

import contextlib
import threading

import pytest

from bulkfetch._output.thread import OrderedThread


def test_one_after_the_other():
    """In the order given, also more of them than may wait."""
    done = []
    with contextlib.closing(OrderedThread()) as thread:
        for number in range(100):
            thread.do(done.append, number)
        thread.finish()
        assert done == list(range(100))


def test_no_more_wait_than_may():
    """Who gives one more has to wait for one of those before it."""
    free, started = threading.Event(), threading.Event()
    given = []

    def give():
        for number in range(40):
            thread.do(free.wait if number == 0 else started.is_set)
            given.append(number)

    with contextlib.closing(OrderedThread()) as thread:
        giver = threading.Thread(target=give)
        giver.start()
        giver.join(0.3)
        assert len(given) <= 16
        free.set()
        giver.join()
        assert len(given) == 40


def test_errors_come_out():
    """... of whoever waits for what raised them."""
    with contextlib.closing(OrderedThread()) as thread:
        thread.do(int, "x")
        with pytest.raises(ValueError, match="'x'"):
            thread.finish()


@pytest.mark.parametrize("after", [0, 3])
def test_where_no_thread_can_be_had(after, monkeypatch):
    """The caller does it, each job once and in order; a program that ends has no threads either."""
    done = []
    with contextlib.closing(OrderedThread()) as thread:
        for number in range(after):
            thread.do(done.append, number)
        refuse = RuntimeError("can't start new thread")
        with monkeypatch.context() as patch:
            if after:
                thread._thread.shutdown()
            else:
                patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(refuse))
            for number in range(after, 6):
                thread.do(done.append, number)
        thread.do(done.append, 6)
        thread.finish()
    assert done == list(range(7))
