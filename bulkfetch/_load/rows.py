"""The rows of a finished output at any place, as often as they are wanted.

A plain output is read where it lies. It stays open, so that another file at its name, or none,
changes nothing, and `require_unchanged` tells whether the file itself was written to: what was
hashed must be what was used. A compressed one is unpacked into a file without a name.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, BinaryIO

from bulkfetch._domain.compression import compression
from bulkfetch._domain.errors import OutputError
from bulkfetch._load.finished import opened, proven, unlinked
from bulkfetch._output.layout import failures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bulkfetch._load.finished import FinishedOutput

_BLOCK = 1 << 18


class RowsFile:
    """The uncompressed rows of an output: its own file, or the `copy` in `directory`."""

    def __init__(
        self, output: FinishedOutput, file: BinaryIO, directory: str, copy: BinaryIO | None
    ) -> None:
        self._output, self._file, self._directory, self._copy = output, file, directory, copy
        self._was = _marks(file)

    def fileno(self) -> int:
        return (self._copy or self._file).fileno()

    def blocks(self, progress: Callable[[int, int], object] | None = None) -> Iterator[bytes]:
        """Yield all rows once, as `blocks_of` does; of a compressed file this makes the copy."""
        for lines in proven(self._output, self._file, progress):
            if self._copy:
                with failures(f"keep rows in a file in {self._directory}"):
                    write_all(self._copy, lines)
            yield lines

    def read(self, length: int, offset: int) -> bytes:
        with failures(f"read {self._output.path}"):
            return os.pread(self.fileno(), length, offset)

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield rows in blocks of whole lines."""
        rest = b""
        while length:
            block = self.read(min(_BLOCK, length), offset)
            if not block:
                raise self._meddled("cut")
            offset, length = offset + len(block), length - len(block)
            data = rest + block
            cut = data.rfind(b"\n") + 1
            if cut:
                yield data[:cut]
            rest = data[cut:]

    def require_unchanged(self) -> None:
        """Raise OutputError if the output was written to since it was opened."""
        if _marks(self._file) != self._was:
            raise self._meddled("written to")

    def _meddled(self, how: str) -> OutputError:
        return OutputError(
            f"{self._output.path} was {how} while it was read: let that end, see with `bulkfetch "
            "verify` whether it is whole, then run the same command again"
        )


@contextmanager
def rows_file(output: FinishedOutput, directory: str) -> Iterator[RowsFile]:
    """Open the rows of an output; a copy of compressed ones lies in `directory`.

    At the end, and instead of any other error, raises OutputError if the output was written to.
    """
    with opened(output) as file, ExitStack() as stack:
        copied = compression(output.path) is not None
        copy = stack.enter_context(unlinked(directory)) if copied else None
        rows = RowsFile(output, file, directory, copy)
        try:
            yield rows
        except Exception:
            rows.require_unchanged()
            raise
        rows.require_unchanged()


def write_all(file: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _marks(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns
