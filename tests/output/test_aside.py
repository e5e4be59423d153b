"""The thread beside the caller's: its order, its errors, and what is done without it."""

import contextlib
import threading

import pytest

from bulkfetch._output.aside import Aside


def test_one_after_the_other():
    """In the order given, also more of them than may wait."""
    done = []
    with contextlib.closing(Aside()) as aside:
        for number in range(100):
            aside.do(done.append, number)
        aside.finish()
        assert done == list(range(100))


def test_errors_come_out():
    """... of whoever waits for what raised them."""
    with contextlib.closing(Aside()) as aside:
        aside.do(int, "x")
        with pytest.raises(ValueError, match="'x'"):
            aside.finish()


@pytest.mark.parametrize("after", [0, 3])
def test_where_no_thread_can_be_had(after, monkeypatch):
    """The caller does it, each job once and in order; a program that ends has no threads either."""
    done = []
    with contextlib.closing(Aside()) as aside:
        for number in range(after):
            aside.do(done.append, number)
        refuse = RuntimeError("can't start new thread")
        with monkeypatch.context() as patch:
            if after:
                aside._thread.shutdown()
            else:
                patch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(refuse))
            for number in range(after, 6):
                aside.do(done.append, number)
        aside.do(done.append, 6)
        aside.finish()
    assert done == list(range(7))
