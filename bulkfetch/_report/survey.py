"""What the rows of an output say, counted in one pass over its bytes.

Memory stays flat whatever the output's size: statuses, courses and users are remembered up to a
bound, and what was not looked at is counted. A million rows take about a second.
"""

from __future__ import annotations

import gzip
import heapq
import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson
import zstandard

from bulkfetch._domain.compression import compression
from bulkfetch._output.inspect import open_data
from bulkfetch._output.layout import Layout

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

_BLOCK: Final = 1 << 20
_STATUSES: Final = 50
_KEPT: Final = 1_000
"""Distinct statuses that are counted apart; a service has a handful."""
_WORST: Final = 20
_LARGEST: Final = 500_000
"""Users of one course that are remembered, 60 MB: beyond them repetitions are not looked for."""
_UNREADABLE: Final = (EOFError, OSError, zlib.error, zstandard.ZstdError)
_NO_ROWS: Final = (ValueError, TypeError, KeyError, AttributeError)
_BINS: Final = 12
_DISTINCT: Final = 20_000
"""Values of progress that are counted apart before they go into bins: two decimals fit."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """A course and how many of its rows speak of a user that an earlier one spoke of."""

    course: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Statuses, progress and oddities of the rows.

    `progress` counts in twelve bins: exactly 0, above 0 to below 10, then tens up to below 100, and
    exactly 100. `unchecked` rows belong to courses too large to look for repeated users.
    """

    rows: int
    statuses: dict[str, int]
    """The most frequent first; those beyond are added up in `other_statuses`."""
    other_statuses: int
    without_status: int
    progress: tuple[int, ...]
    without_progress: int
    outside: int
    """Rows whose progress is below 0 or above 100."""
    repeated: int
    repeated_courses: int
    repeated_most: tuple[Repeated, ...]
    unchecked: int
    damaged: str | None
    """Why the rows could not be read to their end, if so."""


def survey(*outputs: tuple[str | os.PathLike[str], int]) -> Survey:
    """Count the rows in the first bytes, so many, of each output or of its unfinished part.

    Never raises for what the bytes are; raises OutputError when there is no file to read.
    """
    counts = _Counts()
    damaged = None
    for path, size in outputs:
        damaged = _count(counts, Layout.of(path), size) or damaged
    return counts.frozen(damaged)


def _count(counts: _Counts, layout: Layout, size: int) -> str | None:
    with open_data(layout) as file:
        try:
            for rows in _rows(_plain(file, size, layout.output)):
                counts.add(rows)
        except (*_UNREADABLE, *_NO_ROWS) as error:
            return f"{type(error).__name__} after {counts.rows:,} rows"
    return None


class _Counts:
    """The running counts of one pass."""

    def __init__(self) -> None:
        self.rows = 0
        self._statuses: Counter[object] = Counter()
        self._other = 0
        self._progress: Counter[object] = Counter()
        self._bins = [0] * _BINS
        self._without = self._outside = 0
        self._course: object = None
        self._users: set[object] = set()
        self._again = 0
        self._repeated = self._repeated_courses = self._unchecked = 0
        self._worst: list[tuple[int, str]] = []

    def add(self, rows: list[dict[str, Any]]) -> None:
        self._count_statuses(Counter([row.get("status") for row in rows]))
        self._progress.update([row.get("progress") for row in rows])
        if len(self._progress) > _DISTINCT:
            self._fold_progress()
        for course, group in groupby(rows, key=itemgetter("contentItemId")):
            self._count_users(course, [row["userId"] for row in group])
        self.rows += len(rows)

    def frozen(self, damaged: str | None) -> Survey:
        self._close_course()
        self._fold_progress()
        statuses = Counter({str(s): n for s, n in self._statuses.items() if s is not None})
        shown = dict(statuses.most_common(_STATUSES))
        return Survey(
            rows=self.rows,
            statuses=shown,
            other_statuses=self._other + statuses.total() - sum(shown.values()),
            without_status=self._statuses[None],
            progress=tuple(self._bins),
            without_progress=self._without,
            outside=self._outside,
            repeated=self._repeated,
            repeated_courses=self._repeated_courses,
            repeated_most=tuple(Repeated(name, n) for n, name in sorted(self._worst, reverse=True)),
            unchecked=self._unchecked,
            damaged=damaged,
        )

    def _count_statuses(self, found: Counter[object]) -> None:
        for status, number in found.items():
            if status in self._statuses or len(self._statuses) < _KEPT:
                self._statuses[status] += number
            else:
                self._other += number

    def _fold_progress(self) -> None:
        """Put the values counted so far into their bins."""
        for progress, number in self._progress.items():
            if not isinstance(progress, int | float):
                self._without += number
            elif 0 <= progress <= 100:
                self._bins[0 if progress == 0 else int(progress // 10) + 1] += number
            else:
                self._outside += number
        self._progress.clear()

    def _count_users(self, course: object, users: list[object]) -> None:
        if course != self._course:
            self._close_course()
            self._course = course
        if len(self._users) > _LARGEST:
            self._unchecked += len(users)
            return
        before = len(self._users)
        self._users.update(users)
        self._again += len(users) - (len(self._users) - before)

    def _close_course(self) -> None:
        """Note how many rows of the course that ends here were repetitions."""
        if self._again:
            self._repeated += self._again
            self._repeated_courses += 1
            push = heapq.heappush if len(self._worst) < _WORST else heapq.heappushpop
            push(self._worst, (self._again, str(self._course)))
        self._users, self._again = set(), 0


def _rows(blocks: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    """Read whole lines many at a time: as one JSON array they take half the time."""
    rest = b""
    for block in blocks:
        lines, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            yield orjson.loads(b"[" + lines.replace(b"\n", b",") + b"]")
    if rest:
        raise ValueError("an unfinished last line")


class _Head:
    """The first bytes of a file, as a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def _plain(file: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    """Yield the uncompressed bytes of a file's first `size` bytes, by the output's name."""
    head: Any = _Head(file, size)
    kind = compression(name)
    if kind == "gzip":
        head = gzip.GzipFile(fileobj=head)
    elif kind == "zstd":
        head = zstandard.ZstdDecompressor().stream_reader(head, read_across_frames=True)
    while block := head.read(_BLOCK):
        yield block
