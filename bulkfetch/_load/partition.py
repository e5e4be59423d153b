"""The lines of one course that may differ: in memory, or dealt out by learner when they are many.

All rows of a learner go into the same part, before and after; so each pair of parts is compared on
its own. One file without a name holds all parts of a side, in pieces, each written and read once.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Final
from zlib import crc32

from bulkfetch._load.differ import changes, parsed
from bulkfetch._load.finished import unlinked
from bulkfetch._output.layout import failures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bulkfetch._load.differ import Change

LARGE: Final = 4 << 20
"""Bytes of lines up to which they wait in memory."""
_PARTS: Final = 256
_HELD: Final = 1 << 14
"""Bytes of a part that wait in memory to be written together."""
_USER: Final = re.compile(rb'\{"contentItemId":"(?:[^"\\]++|\\.)*+","userId":"([^"\\]*+)"')


class Leftovers:
    """The lines that may differ, collected; `changes` tells what became of them."""

    def __init__(self, directory: str, stack: ExitStack) -> None:
        self._directory, self._stack = directory, stack
        self._lines: tuple[list[bytes], list[bytes]] = [], []
        self._size = 0
        self._parts: list[_Partition] = []

    def add(self, gone: list[bytes], came: list[bytes]) -> None:
        for lines, more in zip(self._lines, (gone, came), strict=True):
            lines.extend(more)
            self._size += sum(map(len, more))
        if self._size > LARGE:
            self._deal()

    def changes(self) -> Iterator[Change]:
        if not self._parts:
            yield from changes(*self._lines)
            return
        self._deal()
        before, after = self._parts
        for number in range(_PARTS):
            yield from changes(before.part(number), after.part(number))

    def _deal(self) -> None:
        if not self._parts:
            self._parts = [
                self._stack.enter_context(closing(_Partition(self._directory))) for _ in range(2)
            ]
        for part, lines in zip(self._parts, self._lines, strict=True):
            part.fill(lines)
            lines.clear()
        self._size = 0


class _Partition:
    """Lines in parts; `close` frees the file."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._file = unlinked(directory)
        self._size = 0
        self._held: list[list[bytes]] = [[] for _ in range(_PARTS)]
        self._held_size = [0] * _PARTS
        self._places: list[list[tuple[int, int]]] = [[] for _ in range(_PARTS)]

    def fill(self, lines: Iterable[bytes]) -> None:
        held, sizes = self._held, self._held_size
        for line in lines:
            part = crc32(_learner(line)) % _PARTS
            held[part].append(line)
            sizes[part] += len(line)
            if sizes[part] > _HELD:
                self._write(part)

    def part(self, number: int) -> list[bytes]:
        with failures(f"read rows back from a file in {self._directory}"):
            pieces = [os.pread(self._file.fileno(), *place) for place in self._places[number]]
        return [*b"".join(pieces).splitlines(keepends=True), *self._held[number]]

    def close(self) -> None:
        self._file.close()

    def _write(self, part: int) -> None:
        rest = memoryview(b"".join(self._held[part]))
        self._places[part].append((len(rest), self._size))
        self._held[part] = []
        self._held_size[part] = 0
        with failures(f"keep rows in a file in {self._directory}"):
            while rest:
                written = os.pwrite(self._file.fileno(), rest, self._size)
                self._size += written
                rest = rest[written:]


def _learner(line: bytes) -> bytes:
    """Return the learner's id, the same for every way to write it."""
    match = _USER.match(line)
    return match[1] if match else str(parsed(line).user_id).encode(errors="surrogatepass")
