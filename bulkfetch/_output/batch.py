"""Whole courses on their way to the output: what the journal says of them, and their rows.

Rows in memory are gathered in pieces that stay in the processor's cache while their checksums are
made; large courses lie in files, and pass through one block of memory that is used again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.model import Failed, Fetched
from bulkfetch._output.frames import BLOCK, FailedCourse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bulkfetch._domain.model import Outcome
    from bulkfetch._output.frames import Course

_PIECE: Final = 32 << 10
"""Bytes from which on rows are a piece of their own: a feed of 64 KiB gives some 50 KiB."""


@dataclass(slots=True)
class Batch:
    """Whole courses that are written together; `pieces` are their rows, if they are at hand."""

    fetched: Sequence[Fetched]
    courses: Sequence[Course]
    failed: Sequence[FailedCourse]
    pieces: Sequence[bytes] | None = None

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Batch:
        fetched = [outcome for outcome in outcomes if isinstance(outcome, Fetched)]
        courses = [
            (course.course_id, len(course.rows), course.attempts, round(course.seconds, 3))
            for course in fetched
        ]
        failed: list[FailedCourse] = []
        if len(fetched) < len(outcomes):
            failed = [FailedCourse.of(one) for one in outcomes if isinstance(one, Failed)]
        return cls(fetched, courses, failed)

    def gather(self) -> Sequence[bytes]:
        """Return all rows, those of small courses together in pieces of some 32 KiB; keep them."""
        self.pieces = pieces = []
        small: list[bytes] = []
        held = 0
        for course in self.fetched:
            for piece in course.rows.ndjson():
                small.append(piece)
                held += len(piece)
                if held >= _PIECE:
                    pieces.append(b"".join(small))
                    small.clear()
                    held = 0
        if small:
            pieces.append(b"".join(small))
        return pieces


class Joiner:
    """Passes the rows of any courses on in blocks of at most 1 MiB, small ones together.

    All blocks lie in the same memory, which is cheaper than fresh pages for each: a block is good
    until the next one is asked for.
    """

    def __init__(self) -> None:
        self._room = memoryview(bytearray(BLOCK))

    def blocks(self, courses: Iterable[Fetched]) -> Iterator[memoryview]:
        room, at = self._room, 0
        for course in courses:
            for piece in course.rows.ndjson():
                for part in _parts(piece):
                    if at + len(part) > BLOCK:
                        yield room[:at]
                        at = 0
                    room[at : at + len(part)] = part
                    at += len(part)
        if at:
            yield room[:at]


def _parts(piece: bytes) -> Iterable[bytes]:
    if len(piece) <= BLOCK:
        return (piece,)
    return [piece[start : start + BLOCK] for start in range(0, len(piece), BLOCK)]
