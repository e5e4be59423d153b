"""Where each course of an output lies, in three arrays and a hash table of numbers.

Twenty-odd bytes a course instead of two hundred: a million courses fit beside the rows that are
being compared. Ids are not kept; one is read back from the rows where hashes agree.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import OutputError
from bulkfetch._domain.text import printable
from bulkfetch._load.courses import runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


_ID: Final = 1 << 14
"""Bytes at the beginning of a row that hold the whole id."""


class CourseIndex:
    """The courses of an output by id; `read(length, offset)` gives bytes of its rows."""

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._hashes = array("q")
        self._offsets = array("Q")
        self._lengths = array("Q")
        self._seen = bytearray()
        self._slots = array("L", bytes(array("L").itemsize * 1024))

    def __len__(self) -> int:
        return len(self._hashes)

    def fill(self, blocks: Iterable[bytes]) -> None:
        """Note where the courses of these rows lie; raises OutputError for one in two pieces."""
        at, last = 0, None
        for key, lines in runs(blocks):
            if key == last:
                self._lengths[-1] += len(lines)
            else:
                self._add(key, at, len(lines))
                last = key
            at += len(lines)

    def take(self, key: bytes) -> tuple[int, int]:
        """Return offset and length of a course and mark it as seen; no length: it is not there."""
        slot = self._slot(key)
        number = self._slots[slot]
        if not number:
            return 0, 0
        if self._seen[number - 1]:
            raise two_pieces(key)
        self._seen[number - 1] = 1
        return self._offsets[number - 1], self._lengths[number - 1]

    def has(self, key: bytes) -> bool:
        return self._slots[self._slot(key)] > 0

    @property
    def unseen(self) -> int:
        return self._seen.count(0)

    def _add(self, key: bytes, offset: int, length: int) -> None:
        # Rows are written before they are indexed, so that any id can be read back.
        slot = self._slot(key)
        if self._slots[slot]:
            raise two_pieces(key)
        self._hashes.append(hash(key))
        self._offsets.append(offset)
        self._lengths.append(length)
        self._seen.append(0)
        self._slots[slot] = len(self)
        if 2 * len(self) > len(self._slots):
            self._grow()

    def _slot(self, key: bytes) -> int:
        """Return the slot of this id, or the free one where it would stand."""
        code = hash(key)
        for slot in self._probe(code):
            number = self._slots[slot]
            if not number or (self._hashes[number - 1] == code and self._key(number - 1) == key):
                return slot
        raise AssertionError("the table is never full")

    def _probe(self, code: int) -> Iterator[int]:
        mask = len(self._slots) - 1
        slot = code & mask
        while True:
            yield slot
            slot = (slot + 1) & mask

    def _grow(self) -> None:
        size = 2 * len(self._slots)
        self._slots = array("L", bytes(self._slots.itemsize * size))
        for number, code in enumerate(self._hashes, 1):
            slot = next(slot for slot in self._probe(code) if not self._slots[slot])
            self._slots[slot] = number

    def _key(self, number: int) -> bytes:
        """Read an id back from the first row of its course."""
        length = min(self._lengths[number], _ID)
        line = self._read(length, self._offsets[number]).partition(b"\n")[0]
        ((key, _),) = runs([line + b"\n"])
        return key


def two_pieces(key: bytes) -> OutputError:
    shown = printable(key.decode(errors="replace"), 60)
    return OutputError(
        f"course {shown} stands in two pieces: this is no output of one run; fetch it again"
    )
