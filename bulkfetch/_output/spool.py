"""The rows of one course as NDJSON bytes, held until their document is proven whole.

Small courses stay a list of byte strings, since this is the hot path; what goes past the bound
moves to an unlinked temporary file, so that a kill leaves no personal data behind.
"""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson

from bulkfetch._domain.model import IN_MEMORY, FinalStatus
from bulkfetch._output.frames import lines
from bulkfetch._output.layout import failures

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 256 << 10
"""Bytes written to and read from the file at once."""
_NAMES = ("contentItemId", "userId", "status", "progress")


class Spool:
    """Rows of one course (a `Rows`), in memory up to `bound` bytes, beyond it in a file.

    The file is made in `directory` (the system's temporary folder by default), mode 0600, without
    a name. Raises OutputError when it cannot be written or read.
    """

    __slots__ = ("_bound", "_chunks", "_directory", "_file", "_held", "_rows")

    def __init__(self, directory: str | None = None, *, bound: int = IN_MEMORY) -> None:
        self._directory = directory
        self._bound = bound
        self._chunks: list[bytes] = []
        self._held = 0
        self._rows = 0
        self._file: _Unlinked | None = None

    def append(self, data: bytes, count: int) -> None:
        """Add `count` whole rows; `data` ends with a line feed."""
        self._chunks.append(data)
        self._rows += count
        self._held += len(data)
        if self._held > (self._bound if self._file is None else _PIECE):
            self._spill()

    def clear(self) -> None:
        """Forget all rows: the course begins again."""
        if self._rows or self._held:
            self.close()
            self._rows = 0

    def __len__(self) -> int:
        return self._rows

    @property
    def nbytes(self) -> int:
        """Bytes of NDJSON."""
        return self._held + (self._file.size if self._file else 0)

    def ndjson(self) -> Iterator[bytes]:
        """Yield all bytes in order, whole rows or not, about 1 MiB at a time at most."""
        if self._file is not None:
            yield from self._file.blocks()
        if self._rows and not self._chunks and self._file is None:
            raise ValueError("the rows of this course were closed")
        yield from self._chunks

    def __iter__(self) -> Iterator[FinalStatus]:
        return map(_final_status, map(orjson.loads, lines(self.ndjson())))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spool):
            return NotImplemented
        same = (self._rows, self.nbytes) == (other._rows, other.nbytes)
        return same and (not self.nbytes or self._digest() == other._digest())

    def __hash__(self) -> int:
        return hash((Spool, self._rows))

    def __reduce__(self) -> tuple[Any, ...]:
        return _respooled, (tuple(self.ndjson()), self._rows)

    def close(self) -> None:
        """Free memory and file; reading rows afterwards raises ValueError."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._chunks.clear()
        self._held = 0

    def _digest(self) -> bytes:
        digest = sha256()
        for block in self.ndjson():
            digest.update(block)
        return digest.digest()

    def _spill(self) -> None:
        with failures(f"keep rows in a file in {self._directory or tempfile.gettempdir()}"):
            if self._file is None:
                self._file = _Unlinked(self._directory)
            for chunk in self._chunks:
                self._file.append(chunk)
        self._chunks.clear()
        self._held = 0


class _Unlinked:
    """A file without a name; freed with the object, silently, as memory is."""

    __slots__ = ("_fd", "size")

    def __init__(self, directory: str | None) -> None:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            self._fd = os.dup(file.fileno())
        self.size = 0

    def append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._fd, rest, self.size)
            self.size += written
            rest = rest[written:]

    def blocks(self) -> Iterator[bytes]:
        at = 0
        while at < self.size:
            with failures("read rows back from their temporary file"):
                block = os.pread(self._fd, min(_PIECE, self.size - at), at)
            at += len(block)
            yield block

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def _respooled(blocks: tuple[bytes, ...], rows: int) -> Spool:
    spool = Spool()
    for block in blocks:
        spool.append(block, 0)
    spool._rows = rows  # noqa: SLF001 - its own other constructor
    return spool


def _final_status(row: dict[str, Any]) -> FinalStatus:
    course_id, user_id, status, progress = (row.pop(name, None) for name in _NAMES)
    return FinalStatus(course_id, user_id, status, progress, row or None)
