"""Whole courses that are committed together: what the journal says of them, and their rows.

Small courses are put together at once, by whoever has just made their rows; large ones, which may
lie in files, pass through one block of memory that is used again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from bulkfetch._journal import BLOCK, FailedCourse
from bulkfetch._model import Failed, Fetched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bulkfetch._journal import Course
    from bulkfetch._model import Outcome


@dataclass(slots=True)
class Batch:
    """Whole courses that are committed together; `data` are their rows with `crc`, if joined."""

    fetched: Sequence[Fetched]
    courses: Sequence[Course]
    failed: Sequence[FailedCourse]
    data: bytes | None = None
    crc: int = 0

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

    def join(self) -> bytes:
        """Put all rows together and note their CRC."""
        data = b"".join([piece for course in self.fetched for piece in course.rows.ndjson()])
        self.data, self.crc = data, crc32(data)
        return data


class Joiner:
    """Joins the rows of small courses, so that few large writes are made.

    Its blocks of at most 1 MiB all lie in the same memory, which is cheaper than fresh pages for
    each: a block is good until the next one is asked for.
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
