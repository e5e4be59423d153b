"""The three standard streams: each is there, and none of them holds up the work.

A descriptor that was closed when the process began is opened on /dev/null, so that no socket or
file gets its number and is written to by mistake; a command that needs it says so. What goes to
stderr is written by a thread: a log pipe that nobody reads, or a terminal that was stopped, costs
lines, which are counted and told of later, but never the run.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import sys
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

from bulkfetch._domain.errors import ConfigurationError, OutputClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAMES: Final = ("stdin", "stdout", "stderr")
_INSTEAD: Final = ("name a file: -i FILE", "name a file: -o FILE", "")
_MOST_WAITING: Final = 1 << 20
"""Bytes that wait for a reader of stderr; beyond, lines are dropped."""
_MOMENT: Final = 0.05
_LAST_SECONDS: Final = 2.0
"""How long the end of a command waits for a reader of stderr."""


class _Closed(io.TextIOBase):
    """Stands for a stream that was closed: words are dropped, but data is asked for in vain."""

    encoding = "utf-8"

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def readable(self) -> bool:
        return self._fd == 0

    def writable(self) -> bool:
        return self._fd != 0

    def write(self, text: str, /) -> int:
        return len(text)

    @property
    def buffer(self) -> NoReturn:
        raise _is_closed(self._fd)


def _is_closed(fd: int) -> ConfigurationError:
    return ConfigurationError(f"{_NAMES[fd]} is closed: {_INSTEAD[fd]}, or open it")


def open_missing() -> None:
    """Open each standard descriptor that is closed on /dev/null; call it before any other opens."""
    for fd in range(3):
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, fd)  # which children inherit, as any standard stream
            if opened != fd:
                os.close(opened)
            setattr(sys, _NAMES[fd], _Closed(fd))


def speak_utf8() -> None:
    """Let stdout take text as UTF-8 whatever the locale says, as the rows of a run always are.

    A file's name that is not UTF-8 comes out as the bytes that it came in as.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def need(fd: int) -> None:
    """Raise ConfigurationError unless standard descriptor `fd` can be read, or written."""
    if isinstance(getattr(sys, _NAMES[fd]), _Closed):
        raise _is_closed(fd)
    unfit = os.O_RDONLY if fd else os.O_WRONLY
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == unfit:
        verb = "written to" if fd else "read"
        raise ConfigurationError(f"{_NAMES[fd]} cannot be {verb}: {_INSTEAD[fd]}")


class Stderr(io.TextIOBase):
    """A text stream to a descriptor that takes every text at once and has a thread write it.

    `dropped` makes a line of the number of texts that were lost since nobody read.
    """

    encoding = "utf-8"

    def __init__(self, fd: int, dropped: Callable[[int], str]) -> None:
        self._fd = fd
        self._dropped = dropped
        self._texts: deque[bytes] = deque()
        self._waiting = 0
        self._lost = 0
        self._stuck = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    @property
    def idle(self) -> bool:
        """Whether all that was said has been written."""
        return not (self._waiting or self._lost)

    def write(self, text: str, /) -> int:
        data = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._waiting + len(data) > _MOST_WAITING:
                self._lost += 1
                return len(text)
            self._texts.append(data)
            self._waiting += len(data)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._write_all, name="bulkfetch-stderr", daemon=True
                )
                self._thread.start()
        return len(text)

    def flush(self) -> None:
        """Wait a moment, so that words and data keep their order on a terminal.

        While a moment was too short, no other is lost.
        """
        self._stuck = not self.drain(0.0 if self._stuck else _MOMENT)

    def drain(self, seconds: float) -> bool:
        """Wait until everything is written, or this time is over; returns which."""
        with self._changed:
            return self._changed.wait_for(lambda: self.idle, seconds)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts or self._lost)
                data = b"".join(self._texts)
                self._texts.clear()
                lost, self._lost = self._lost, 0
            if lost:
                data += self._dropped(lost).encode()
            self._write(data)
            with self._changed:
                self._waiting = sum(map(len, self._texts))
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # whoever shares the descriptor made it so
                select.select([], [self._fd], [])
            except OSError:
                return  # nobody listens, or the disk is full: the work goes on


@contextmanager
def unblocked(dropped: Callable[[int], str]) -> Iterator[None]:
    """Inside, sys.stderr never keeps anybody waiting; at the end what was said is written."""
    before: Any = sys.stderr
    if isinstance(before, _Closed):
        yield
        return
    sys.stderr = stderr = Stderr(2, dropped)
    try:
        yield
    finally:
        stderr.drain(_LAST_SECONDS)
        sys.stderr = before


def behind() -> bool:
    """Whether stderr has not yet been written: what is only of this moment need not be said."""
    return isinstance(sys.stderr, Stderr) and not sys.stderr.idle


def drain(seconds: float) -> None:
    """Wait for a while until stderr is written."""
    if isinstance(sys.stderr, Stderr):
        sys.stderr.drain(seconds)


@contextmanager
def as_long_as_read() -> Iterator[None]:
    """Inside, a reader of stdout that went away is OutputClosed; click would make it code 1."""
    try:
        yield
    except BrokenPipeError:
        raise OutputClosed("the reader of stdout went away") from None


def forget_stdout() -> None:
    """Let what is left in stdout's buffer go nowhere: Python flushes it once more at its end."""
    fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(fd, 1)
    os.close(fd)
