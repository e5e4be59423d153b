"""Where one course ends and the next begins, in the rows of an output.

An output holds each course in one piece, its id first in every row, so a single regular expression
walks from course to course in C, line by line (a back-reference compares the id), at half a
gigabyte a second, and exactly: a foreign row between two of a course cannot be overlooked.
"""

from __future__ import annotations

import re
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import orjson

from bulkfetch._domain.errors import OutputError
from bulkfetch._domain.text import printable
from bulkfetch._load.finished import not_as_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bulkfetch._load.finished import FinishedOutput

_RUN: Final = re.compile(
    rb'(\{ *"contentItemId": *("(?:[^"\\\n]++|\\.)*+") *,)[^\n]*+\n(?:\1[^\n]*+\n)*+'
)


def runs(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows of one course after the other, as its id in JSON and whole lines.

    A course that reaches over several blocks comes in several pieces. Raises OutputError where a
    line is no row.
    """
    for block in blocks:
        at = 0
        while at < len(block):
            match = _RUN.match(block, at)
            if match is None:
                line = block[at : block.index(b"\n", at)]
                shown = printable(line[:40].decode(errors="replace"))
                raise OutputError(f"a line of the rows is no row of bulkfetch: {shown}")
            end = match.end()
            yield _canonical(match[2]), block[at:end]
            at = end


def by_course(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Yield each course's id in JSON, and its rows in pieces of whole lines."""
    for key, pieces in groupby(runs(blocks), itemgetter(0)):
        yield key, (lines for _, lines in pieces)


def key_of(course_id: str) -> bytes:
    """Return an id as `runs` names it."""
    return orjson.dumps(course_id)


class CourseCount:
    """Counts the courses with rows as they pass, to be held against what the manifest says."""

    def __init__(self, output: FinishedOutput) -> None:
        self._output = output
        self._empty = {key_of(name) for name in output.empty_courses}
        self._last: bytes | None = None
        self._number = 0

    def see(self, key: bytes) -> bool:
        """Take the course of the next rows; return whether it is another. Raises OutputError."""
        if key == self._last:
            return False
        if key in self._empty:
            named = printable(key.decode())
            raise not_as_manifest(self._output, f"empty_courses names {named}, which has rows")
        self._last = key
        self._number += 1
        return True

    def check(self) -> None:
        """Raise OutputError unless those with rows and the empty ones are all that was fetched."""
        check_courses(self._output, self._number)


def check_courses(output: FinishedOutput, rows: int) -> None:
    """Raise OutputError unless `rows`, the courses with rows, and the empty ones are all fetched.

    A manifest that lost an empty course would leave its old rows where they are.
    """
    empty = len(output.empty_courses)
    if rows + empty != output.courses:
        why = (
            f"courses.fetched is {output.courses:,}, but {rows:,} have rows and {empty:,} "
            "(empty_courses) have none"
        )
        raise not_as_manifest(output, why)


def _canonical(key: bytes) -> bytes:
    return key if b"\\" not in key else orjson.dumps(orjson.loads(key))
