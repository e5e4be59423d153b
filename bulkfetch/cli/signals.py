"""Signals that end a command, from its first moment to its last.

Handlers stand even where nothing runs yet: process 1 of a container is sent no signal that it has
no handler for. A signal that was ignored when the process began (nohup, a background job of a
script) stays ignored. At the end the process exits with 128 and the signal's number, which reads
the same to a shell, a scheduler and a container; only Ctrl-C at a terminal is passed on as a death
by signal, since a shell ends its loop for nothing else.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

from bulkfetch._domain.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType


class Terminated(Interrupted):
    """The run was asked to stop by SIGTERM."""

    exit_code: ClassVar[int] = 128 + signal.SIGTERM


class HungUp(Interrupted):
    """The run was asked to stop by SIGHUP: its terminal went away."""

    exit_code: ClassVar[int] = 128 + signal.SIGHUP


ENDING: Final[dict[signal.Signals, tuple[str, type[Interrupted]]]] = {
    signal.SIGINT: ("Ctrl-C", Interrupted),
    signal.SIGTERM: ("SIGTERM", Terminated),
    signal.SIGHUP: ("SIGHUP", HungUp),
}


class Signalled(SystemExit):
    """A signal ends what runs outside of an event loop."""

    def __init__(self, number: signal.Signals) -> None:
        self.error = stopped_by(number)
        super().__init__(self.error.exit_code)


def stopped_by(number: signal.Signals, remedy: str = "") -> Interrupted:
    """Return the error that a signal comes out as."""
    name, kind = ENDING[number]
    return kind(f"stopped by {name}{f'; {remedy}' if remedy else ''}")


@contextmanager
def handled(
    act: Callable[[signal.Signals], object], numbers: Iterable[signal.Signals] = ENDING
) -> Iterator[None]:
    """Inside, `act` is called with each of these signals, between two steps of the main thread.

    Handlers are as before afterwards. What is ignored, or handled by other than Python, stays so.
    """

    def receive(number: int, _: FrameType | None) -> None:
        act(signal.Signals(number))

    before = {number: signal.getsignal(number) for number in numbers}
    taken = {
        number: handler
        for number, handler in before.items()
        if handler not in {signal.SIG_IGN, None}
    }
    for number in taken:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


@contextmanager
def raised() -> Iterator[None]:
    """Inside, a signal that should end the command is raised as Signalled; SIGUSR1 is harmless."""
    with handled(_raise), handled(lambda _: None, [signal.SIGUSR1]):
        yield


def _raise(number: signal.Signals) -> None:
    raise Signalled(number)


def die_of_ctrl_c() -> None:
    """Die by SIGINT if a shell at a terminal waits for this process, else do nothing."""
    if not _in_foreground():
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)  # process 1 survives it


def _in_foreground() -> bool:
    try:
        fd = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(fd)
