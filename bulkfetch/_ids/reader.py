"""Course ids from files and pipes, plain or compressed, read as needed.

A file of moderate size is read through before anything else happens, so that a mistake in its last
line costs no request and the number of ids is known. What is read afterwards must be what was
counted: a list that is cut, rewritten or replaced in the meantime ends the run in words, and no id
is given that was put together from an old half and a new one. What may keep its reader waiting (a
pipe, a terminal) is read without blocking the event loop.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import stat
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import zstandard

from bulkfetch._domain.compression import compression
from bulkfetch._domain.errors import ConfigurationError
from bulkfetch._domain.text import printable
from bulkfetch._ids.formats import IdReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
    from typing import BinaryIO, TypeAlias

    Warn: TypeAlias = Callable[[str], object]

_BLOCK: Final = 64 << 10
_COUNTED: Final = 16 << 20
"""Files up to this size are read through beforehand: 440,000 UUIDs, 0.6 s."""
_STDIN: Final = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_DAMAGED: Final = (EOFError, OSError, zlib.error, zstandard.ZstdError)
_WAITING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_log = logging.getLogger("bulkfetch")


def open_ids(
    path: str, column: str | None = None, *, warn: Warn = _log.warning
) -> Iterable[str] | AsyncIterable[str]:
    """Return the ids in the file `path`, or on stdin for "-"; with a length where it is known.

    `column` names the CSV column or NDJSON field; `warn` is told of ids that look wrong. Raises
    ConfigurationError for a list that is missing, empty, a folder or no text, at once where it can
    be seen, else while it is read, and then also when it changes.
    """
    if path in _STDIN:
        return _open_stdin(column, warn)
    with _openable(path):
        info = Path(path).stat()
        if stat.S_ISREG(info.st_mode):
            return _open_file(path, column, info, warn)
        if stat.S_ISDIR(info.st_mode):
            name = printable(path, 1000)
            raise ConfigurationError(f"{name} is a folder: name a file with one course id a line")
        # Not blocking: whoever writes into a FIFO may come later, and the event loop waits better.
        fd = os.open(path, _WAITING)
        return _from_descriptor(fd, IdReader(path, column, warn=warn))


class IdFile:
    """The ids of a file that can be read any number of times, as long as it stays what it is."""

    def __init__(self, path: str, column: str | None, info: os.stat_result, warn: Warn) -> None:
        self._path = path
        self._column = column
        self._was = _version(info)
        self._warn = warn

    def __iter__(self) -> Iterator[str]:
        return _ids(self._blocks(), IdReader(self._path, self._column, warn=self._warn))

    def look(self) -> None:
        """Read the first id: what can be wrong with all of a list shows at its beginning."""
        next(_ids(self._blocks(), IdReader(self._path, self._column)))

    def _blocks(self) -> Iterator[bytes]:
        with _openable(self._path), Path(self._path).open("rb") as file:
            plain = _decompressed(file, self._path)
            try:
                while block := plain.read(_BLOCK):
                    self._check(file)
                    yield block
            except _DAMAGED as error:
                self._check(file)
                if plain is file:
                    raise
                raise _damaged(self._path, error) from None
            self._check(file)

    def _check(self, file: BinaryIO) -> None:
        """Raise if the file is another by now, or its name another's."""
        if _version(os.fstat(file.fileno())) != self._was or self._is_replaced():
            raise _changed(self._path)

    def _is_replaced(self) -> bool:
        try:
            return _version(Path(self._path).stat()) != self._was
        except OSError:
            return False  # removed, but still open and whole


class CountedIds(IdFile):
    """The ids of a file that was read through: all of them are good, and their number is known."""

    def __init__(self, path: str, column: str | None, info: os.stat_result, warn: Warn) -> None:
        super().__init__(path, column, info, warn)
        # Two writes within a tick of the file system's clock show in the sums alone.
        self._sums = [zlib.crc32(block) for block in super()._blocks()]
        self._count = sum(1 for _ in self)
        self._warn = _silent

    def __len__(self) -> int:
        return self._count

    def _blocks(self) -> Iterator[bytes]:
        number = 0
        for number, block in enumerate(super()._blocks(), 1):
            if number > len(self._sums) or zlib.crc32(block) != self._sums[number - 1]:
                raise _changed(self._path)
            yield block
        if number != len(self._sums):
            raise _changed(self._path)


class PipedIds:
    """The ids that come through a pipe or from a terminal; they can be read once."""

    def __init__(self, fd: int, reader: IdReader) -> None:
        self._fd = fd
        self._reader = reader

    async def __aiter__(self) -> AsyncIterator[str]:
        stream = asyncio.StreamReader()
        pipe = os.fdopen(os.dup(self._fd), "rb", buffering=0)  # the event loop closes it
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), pipe
        )
        try:
            while block := await stream.read(_BLOCK):
                for course_id in self._reader.feed(block):
                    yield course_id
            for course_id in self._reader.close():
                yield course_id
        finally:
            transport.close()
            # Others that read from the same pipe expect to find it as it was.
            os.set_blocking(self._fd, True)
            os.close(self._fd)


def _open_file(path: str, column: str | None, info: os.stat_result, warn: Warn) -> IdFile:
    if info.st_size <= _COUNTED and not compression(path):
        return CountedIds(path, column, info, warn)
    ids = IdFile(path, column, info, warn)
    ids.look()
    return ids


def _open_stdin(column: str | None, warn: Warn) -> Iterable[str] | AsyncIterable[str]:
    try:
        # A terminal is shared with stdout and stderr, which must not become non-blocking.
        if os.isatty(0):
            fd = os.open(os.ttyname(0), os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        else:
            fd = os.dup(0)
    except OSError as error:
        raise ConfigurationError(f"stdin cannot be read ({error.strerror}): use -i FILE") from None
    return _from_descriptor(fd, IdReader("stdin", column, warn=warn))


def _from_descriptor(fd: int, reader: IdReader) -> Iterable[str] | AsyncIterable[str]:
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd):
        return PipedIds(fd, reader)
    return _ids(_descriptor_blocks(fd), reader)


def _descriptor_blocks(fd: int) -> Iterator[bytes]:
    try:
        was = _version(os.fstat(fd))
        while True:
            with _openable("stdin"):
                block = os.read(fd, _BLOCK)
            if _version(os.fstat(fd)) != was:
                raise _changed("stdin")
            if not block:
                return
            yield block
    finally:
        os.close(fd)


def _ids(blocks: Iterable[bytes], reader: IdReader) -> Iterator[str]:
    for block in blocks:
        yield from reader.feed(block)
    yield from reader.close()


def _silent(_: str) -> None:
    """Say nothing: it has been said."""


def _version(info: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file does; a device is always what it was."""
    if not stat.S_ISREG(info.st_mode):
        return (info.st_dev, info.st_ino)
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def _changed(path: str) -> ConfigurationError:
    return ConfigurationError(
        f"{printable(path, 1000)}: the list changed while it was read; let it be written to its "
        "end under another name and renamed, then run the same command again to go on"
    )


def _damaged(path: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"{printable(path, 1000)} cannot be decompressed ({error}): is it whole, and what its "
        "name says?"
    )


def _decompressed(file: BinaryIO, path: str) -> BinaryIO:
    match compression(path):
        case "gzip":
            return gzip.open(file)  # type: ignore[return-value] # it reads like one
        case "zstd":
            decompressor = zstandard.ZstdDecompressor()
            return decompressor.stream_reader(file, read_across_frames=True)
        case None:
            return file


@contextmanager
def _openable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"the list of ids {printable(path, 1000)} cannot be read: "
            f"{error.strerror or error}; check its name"
        ) from None
