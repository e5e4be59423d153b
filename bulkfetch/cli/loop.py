"""The event loop of a command: signals in two steps, a clock.

Where nothing needs to be finished the first signal ends the work; a run lets what is in flight
finish at the first and ends at the second. One more ends the process at once, should the disk or a
pipe hold it up: no kill can hurt the output.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from bulkfetch.cli.signals import handled, stopped_by
from bulkfetch.cli.streams import drain

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Coroutine, Iterator

    from bulkfetch._domain.errors import Interrupted

_T = TypeVar("_T")


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end in an event loop of its own; a signal cancels it.

    Raises Interrupted then.
    """
    return asyncio.run(_cancelled_by_signals(work))


async def _cancelled_by_signals(work: Coroutine[Any, Any, _T]) -> _T:
    try:
        with stoppable():
            return await work
    finally:
        work.close()  # which a signal may have kept from its first step


@contextmanager
def stoppable(
    stop: Callable[[Interrupted], None] | None = None, remedy: str = ""
) -> Iterator[None]:
    """Inside, signals end this task's work step by step.

    The first calls `stop` with the error that should come out; the next cancels the task, whose
    cancellation then comes out as that error, too; one more ends the process.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    errors: list[Interrupted] = []

    def end(error: Interrupted) -> None:
        drain(0.1)
        os._exit(error.exit_code)

    steps = [*([stop] if stop else []), lambda _: task.cancel(), end]

    def received(number: signal.Signals) -> None:
        errors.append(stopped_by(number, remedy))
        steps[min(len(errors), len(steps)) - 1](errors[0])

    try:
        with handled(lambda number: loop.call_soon_threadsafe(received, number)):
            yield
    except asyncio.CancelledError:
        if errors:
            raise errors[0] from None
        raise


@contextmanager
def told(number: signal.Signals, call: Callable[[], None]) -> Iterator[None]:
    """Inside, a signal calls a function in this event loop."""
    loop = asyncio.get_running_loop()
    with handled(lambda _: loop.call_soon_threadsafe(call), [number]):
        yield


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
