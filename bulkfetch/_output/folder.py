"""The folder of an output: its files by name, opened, locked, renamed, removed and made durable.

Files are opened to their owner alone and never through a link. What is written whole gets its name
when it is on disk. All files that are still open are closed together, the first one last.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from bulkfetch._domain.errors import OutputError
from bulkfetch._output.file import File, System, locked
from bulkfetch._output.frames import BLOCK
from bulkfetch._output.layout import Layout, failures, temporary

if TYPE_CHECKING:
    from collections.abc import Iterable


class Folder:
    """The files of the output `layout`; every error names the file, the reason and what to do."""

    def __init__(self, system: System, layout: Layout) -> None:
        self._system = system
        self._layout = layout
        self._files: list[File] = []
        self._directory: File | None = None

    def file(self, path: str, flags: int, *, private: bool = True) -> File:
        """Open a file, with `private` of mode 0600 and the user's own."""
        file = self._open(path, flags | os.O_APPEND | os.O_NOFOLLOW)
        if private:
            file.make_private()
        return file

    def journal(self) -> File:
        """Open and lock the journal; raises OutputLocked when another run holds it."""
        journal = self.file(self._layout.journal, os.O_RDWR | os.O_CREAT)
        self.lock(journal)
        if not journal.is_at(self.lstat(self._layout.journal)):
            raise locked(self._layout.output)  # it was replaced between the two calls
        return journal

    def lock(self, file: File) -> None:
        """Lock a file that is to be the journal, and let readers see that a run is there."""
        try:
            with failures(f"lock {self._layout.journal}"):
                self._system.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OutputError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise locked(self._layout.output) from None
            raise
        with suppress(OSError):  # readers then do not see it, which harms nothing
            self._system.mark(file.fd)

    def lstat(self, path: str) -> os.stat_result | None:
        """Look at a name, not through a link; None when there is no such file."""
        with failures(f"look at {path}"), suppress(FileNotFoundError):
            return self._system.lstat(path)
        return None

    def remove(self, path: str) -> None:
        with failures(f"remove {path}"), suppress(FileNotFoundError):
            self._system.unlink(path)

    def rename(self, source: str, target: str) -> None:
        with failures(f"rename {source} to {target}"):
            self._system.replace(source, target)

    def sync(self) -> None:
        """Make all changes of names durable."""
        if self._directory is None:
            self._directory = self._open(self._layout.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._directory.sync()
        except OutputError as error:
            # Some network file systems have no such thing, and nothing better.
            if getattr(error.__cause__, "errno", None) not in {errno.EINVAL, errno.ENOTSUP}:
                raise

    def write_whole(self, path: str, pieces: Iterable[bytes]) -> None:
        """Replace a file by these bytes, at once and durably but for the name."""
        file = self.file(temporary(path), os.O_WRONLY | os.O_CREAT)
        file.cut(0)
        for block in _blocks(pieces):
            file.append(block)
        file.sync()
        self.rename(file.path, path)
        self.release(file)

    def holds(self, path: str, data: bytes) -> bool:
        """Whether a file consists of just these bytes."""
        info = self.lstat(path)
        if info is None or not stat.S_ISREG(info.st_mode) or info.st_size != len(data):
            return False
        file = self.file(path, os.O_RDONLY, private=False)
        same = b"".join(file.blocks()) == data
        self.release(file)
        return same

    def head(self, path: str, size: int) -> bytes:
        """Return the first bytes of a file, none when it is not there."""
        if self.lstat(path) is None:
            return b""
        file = self.file(path, os.O_RDONLY, private=False)
        data = file.read(size, 0)
        self.release(file)
        return data

    def release(self, file: File) -> None:
        self._files.remove(file)
        file.close()

    def close(self) -> None:
        while self._files:  # the journal, which holds the lock, goes last
            self._files.pop().close()

    def _open(self, path: str, flags: int) -> File:
        with failures(f"open {path}"):
            file = File(self._system, path, flags)
        self._files.append(file)
        return file


def _blocks(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """Join small pieces to blocks of some 1 MiB; copied, since orjson keeps 4 KiB for each line."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= BLOCK:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
