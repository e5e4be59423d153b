"""The event loop of a command: uvloop where it is installed, signals in two steps, a clock.

The first Ctrl-C or SIGTERM lets what is in flight finish, the second ends the run at once, and a
third ends the process, should the disk or a pipe hold it up: no kill can hurt the output.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from bulkfetch._errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

_T = TypeVar("_T")


class Terminated(Interrupted):
    """The run was asked to stop by SIGTERM."""

    exit_code: ClassVar[int] = 143


_SIGNALS: dict[signal.Signals, tuple[str, type[Interrupted]]] = {
    signal.SIGINT: ("Ctrl-C", Interrupted),
    signal.SIGTERM: ("SIGTERM", Terminated),
}


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end in an event loop of its own."""
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        return runner.run(work)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    fastest: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return fastest


@contextmanager
def stoppable(
    stop: Callable[[Interrupted], None], tell: Callable[[], None], remedy: str
) -> Iterator[None]:
    """Inside, signals stop this task's work in two steps, and SIGUSR1 calls `tell`.

    The first signal calls `stop` with the error that should come out; the second cancels the task,
    whose cancellation then comes out as that error, too. Handlers are restored afterwards.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    errors: list[Interrupted] = []

    def received(number: signal.Signals) -> None:
        name, kind = _SIGNALS[number]
        errors.append(kind(f"stopped by {name}; {remedy}"))
        if len(errors) == 1:
            stop(errors[0])
        elif len(errors) == 2:
            task.cancel()
        else:
            sys.stderr.flush()
            os._exit(errors[0].exit_code)

    handlers = {number: signal.getsignal(number) for number in (*_SIGNALS, signal.SIGUSR1)}
    for number in _SIGNALS:
        loop.add_signal_handler(number, received, number)
    loop.add_signal_handler(signal.SIGUSR1, tell)
    try:
        yield
    except asyncio.CancelledError:
        if errors:
            raise errors[0] from None
        raise
    finally:
        for number, handler in handlers.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextmanager
def every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Call something again and again while the context is entered."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def tick() -> None:
        nonlocal timer
        timer = loop.call_later(seconds, tick)
        call()

    timer = loop.call_later(seconds, tick)
    try:
        yield
    finally:
        timer.cancel()
