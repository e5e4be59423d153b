"""`diff`: which rows of NEW were added, changed or removed since OLD, in flat memory.

An output holds each course in one piece, so nothing is sorted: OLD is indexed by course, NEW is
read once, and a course whose bytes are the same is done. Only courses that NEW fetched are
compared: one that failed, or that NEW was not asked for, has removed nothing.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from bulkfetch._domain.errors import ConfigurationError
from bulkfetch._domain.text import printable
from bulkfetch._load.courses import CourseCount, by_course, check_courses, key_of
from bulkfetch._load.differ import Added, Changed, Removed, parsed, unstamped
from bulkfetch._load.finished import blocks_of, counted_rows, read_finished, read_missing
from bulkfetch._load.index import CourseIndex, two_pieces
from bulkfetch._load.partition import Leftovers
from bulkfetch._load.rows import rows_file
from bulkfetch._load.walk import leftovers
from bulkfetch._output.layout import Layout

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterator

    from bulkfetch._load.differ import Change
    from bulkfetch._load.finished import FinishedOutput
    from bulkfetch._load.rows import RowsFile


class Comparison:
    """The changes from one output to the next, one by one, and how many there were.

    Iterate once; the numbers are final when the iteration is over. `close` frees files early.
    """

    def __init__(self, old: FinishedOutput, new: FinishedOutput) -> None:
        self._old, self._new = old, new
        self._missing = read_missing(new)
        self.added = self.changed = self.removed = 0
        self.courses = new.courses
        """Courses that NEW fetched."""
        self.failed = self.unasked = 0
        """Courses of OLD that failed or were refused in NEW, and that NEW was not asked for."""
        self.unlisted = self._missing.unlisted
        """Courses that failed in NEW and that no list names any more: they count as unasked."""
        self.swapped = new.finished < old.finished
        """Whether OLD is the newer one."""
        self._steps = self._compare()

    @property
    def unchanged(self) -> int:
        """Rows that both hold."""
        return self._new.rows - self.added - self.changed

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        change = next(self._steps)
        match change:
            case Added():
                self.added += 1
            case Changed():
                self.changed += 1
            case Removed():
                self.removed += 1
        return change

    def close(self) -> None:
        self._steps.close()

    def _compare(self) -> Generator[Change, None, None]:
        with ExitStack() as stack:
            directory = Layout.of(self._old.path).directory
            rows = stack.enter_context(rows_file(self._old, directory))
            index = CourseIndex(rows.read)
            index.fill(counted_rows(self._old, rows.blocks()))
            check_courses(self._old, len(index))
            found = CourseCount(self._new)
            courses = _Courses(rows, index, self._new, stamped=self._old.stamped)
            for key, pieces in by_course(counted_rows(self._new, blocks_of(self._new))):
                found.see(key)
                yield from courses.changes(key, pieces)
            found.check()
            for name in self._new.empty_courses:
                for lines in rows.pieces(*index.take(key_of(name))):
                    yield from map(Removed, map(parsed, lines.splitlines()))
            missing = (*self._missing.unknown, *self._missing.others)
            self.failed = sum(index.has(key_of(name)) for name in missing)
            self.unasked = index.unseen - self.failed


def diff(
    old: str | os.PathLike[str], new: str | os.PathLike[str], *, force: bool = False
) -> Comparison:
    """Compare two finished outputs; returns an iterator of Added, Changed and Removed.

    Raises ConfigurationError when one is not finished, or when they are of different accounts and
    `force` is not set; OutputError, also while iterating, when a file is not what its manifest
    says or a course stands in two pieces.
    """
    before, after = read_finished(old), read_finished(new)
    if before.endpoint != after.endpoint and not force:
        raise ConfigurationError(
            f"{before.path} is of {printable(str(before.endpoint))}, {after.path} of "
            f"{printable(str(after.endpoint))}: outputs of different accounts have no rows in "
            "common; if it is the same account after a move, say --force"
        )
    return Comparison(before, after)


class _Courses:
    """Compares one course of NEW after the other with the same of OLD."""

    def __init__(
        self, rows: RowsFile, index: CourseIndex, new: FinishedOutput, *, stamped: bool
    ) -> None:
        self._rows = rows
        self._index = index
        self._directory = Layout.of(new.path).directory
        self._stamped = stamped or new.stamped
        self._only_new: set[bytes] = set()

    def changes(self, key: bytes, new: Iterator[bytes]) -> Iterator[Change]:
        offset, length = self._index.take(key)
        if not length:
            if key in self._only_new:
                raise two_pieces(key)
            self._only_new.add(key)
            for piece in new:
                yield from map(Added, map(parsed, piece.splitlines()))
            return
        old = self._rows.pieces(offset, length)
        if self._stamped:
            old, new = map(unstamped, old), map(unstamped, new)
        with ExitStack() as stack:
            left = Leftovers(self._directory, stack)
            for gone, came in leftovers(old, new):
                left.add(gone, came)
            yield from left.changes()
