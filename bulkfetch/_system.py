"""The system calls of the output, in one place: shaped like `os`, so that tests can stand in.

Every error comes out as an OutputError that names the file, the reason and what to do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from bulkfetch._errors import OutputError
from bulkfetch._journal import BLOCK
from bulkfetch._layout import failure, failures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bulkfetch._members import Block


_PRIVATE = 0o600


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


POSIX: System = Posix()


class File:
    """An open file that is read, appended to, cut and synced; every error names it."""

    __slots__ = ("_system", "fd", "path")

    def __init__(self, system: System, path: str, flags: int) -> None:
        self._system = system
        self.path = path
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
