"""The system calls of the output, in one place: shaped like `os`, so that tests can stand in.

Every error comes out as an OutputError that names the file, the reason and what to do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from bulkfetch._domain.errors import OutputError, OutputLocked
from bulkfetch._output.frames import BLOCK
from bulkfetch._output.layout import failure, failures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bulkfetch._output.compress import Block


_PRIVATE = 0o600
_OFD = hasattr(fcntl, "F_OFD_GETLK")


class System(Protocol):
    """The system calls that a sink makes, shaped like `os`."""

    def open(self, path: str, flags: int, mode: int, /) -> int: ...
    def close(self, fd: int, /) -> None: ...
    def writev(self, fd: int, blocks: Sequence[Block], /) -> int: ...
    def pread(self, fd: int, length: int, offset: int, /) -> bytes: ...
    def fsync(self, fd: int, /) -> None: ...
    def fdatasync(self, fd: int, /) -> None: ...
    def ftruncate(self, fd: int, length: int, /) -> None: ...
    def fchmod(self, fd: int, mode: int, /) -> None: ...
    def fstat(self, fd: int, /) -> os.stat_result: ...
    def lstat(self, path: str, /) -> os.stat_result: ...
    def replace(self, source: str, target: str, /) -> None: ...
    def unlink(self, path: str, /) -> None: ...
    def flock(self, fd: int, operation: int, /) -> None: ...
    def mark(self, fd: int, /) -> None: ...


def _mark(fd: int) -> None:
    """Take a lock of a second kind, which others can see without asking for it."""
    if _OFD:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))


def is_held(path: str) -> bool:
    """Whether a run holds the journal `path`, as far as this machine can see.

    Where locks can be looked at (Linux), no run that begins now notices; elsewhere the lock is
    asked for, shared and for a moment.
    """
    with failures(f"open {path}"):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _OFD:
            found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_RDLCK))
            return bool(struct.unpack_from("h", found)[0] != fcntl.F_UNLCK)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def locked(output: str | os.PathLike[str]) -> OutputLocked:
    """Return what is said of an output that a run works at."""
    return OutputLocked(
        f"another run holds {os.fspath(output)}: let it end, or stop it, then run again"
    )


def _whole_file(kind: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


class Posix:
    """The real ones. macOS has no fdatasync."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    writev = staticmethod(os.writev)
    pread = staticmethod(os.pread)
    fsync = staticmethod(os.fsync)
    fdatasync = staticmethod(getattr(os, "fdatasync", os.fsync))
    ftruncate = staticmethod(os.ftruncate)
    fchmod = staticmethod(os.fchmod)
    fstat = staticmethod(os.fstat)
    lstat = staticmethod(os.lstat)
    replace = staticmethod(os.replace)
    unlink = staticmethod(os.unlink)
    flock = staticmethod(fcntl.flock)
    mark = staticmethod(_mark)


POSIX: System = Posix()


class File:
    """An open file that is read, appended to, cut and synced; every error names it."""

    __slots__ = ("_identity", "_system", "fd", "path")

    def __init__(self, system: System, path: str, flags: int) -> None:
        self._system = system
        self.path = path
        self._identity: tuple[int, int] | None = None
        self.fd = system.open(path, flags | os.O_CLOEXEC, _PRIVATE)

    def make_private(self) -> None:
        """Leave it to its owner alone, who must be the user of this process, unless that is root.

        Opening a file that existed keeps its mode and owner, whatever is written to it then.
        """
        info = self.stat()
        # Root is let through: some shares show even the files that root made as another's.
        if os.geteuid() not in {0, info.st_uid}:
            raise OutputError(
                f"{self.path} belongs to another user (uid {info.st_uid}): "
                "move it away, run as that user, or choose another folder"
            )
        if stat.S_IMODE(info.st_mode) != _PRIVATE:
            try:
                self._system.fchmod(self.fd, _PRIVATE)
            except OSError as error:
                # To its owner this says that the file system has no modes: nothing better is there.
                if error.errno not in {errno.EPERM, errno.ENOTSUP}:
                    raise failure(error, f"make {self.path} private") from error

    def append(self, *blocks: Block) -> None:
        """Write all of them, in one call if the system takes so much; 1,024 at the most."""
        size = sum(map(len, blocks))
        with failures(f"write {size} bytes to {self.path}"):
            written = self._system.writev(self.fd, blocks)
            while written < size:
                rest = memoryview(b"".join(blocks))[written:]
                written += self._system.writev(self.fd, (rest,))

    def read(self, length: int, offset: int) -> bytes:
        with failures(f"read {self.path}"):
            return self._system.pread(self.fd, length, offset)

    def blocks(self) -> Iterator[bytes]:
        at = 0
        while block := self.read(BLOCK, at):
            at += len(block)
            yield block

    def stat(self) -> os.stat_result:
        with failures(f"look at {self.path}"):
            return self._system.fstat(self.fd)

    def is_at(self, there: os.stat_result | None) -> bool:
        """Whether a name that was looked at is this file's."""
        if self._identity is None:
            info = self.stat()
            self._identity = info.st_dev, info.st_ino
        return there is not None and (there.st_dev, there.st_ino) == self._identity

    def size(self) -> int:
        return self.stat().st_size

    def cut(self, size: int) -> None:
        if self.size() != size:
            with failures(f"cut {self.path} to {size} bytes"):
                self._system.ftruncate(self.fd, size)

    def sync_data(self) -> None:
        with failures(f"sync {self.path}"):
            self._system.fdatasync(self.fd)

    def sync(self) -> None:
        with failures(f"sync {self.path}"):
            self._system.fsync(self.fd)

    def close(self) -> None:
        with suppress(OSError):  # what matters was synced before
            self._system.close(self.fd)
