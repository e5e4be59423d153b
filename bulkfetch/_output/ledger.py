"""What a journal's lines add up to: which courses are settled, and where the good data end.

`replay` keeps the longest prefix of lines whose CRC, JSON and order hold, whatever the bytes are:
a torn or flipped journal gives fewer commits, never an exception. The one function that adds a
frame serves who reads a journal and who writes it. Courses are remembered by what became of them
alone, and messages are read again from the journal, so that memory stays flat for a million. Pure:
callers bring the bytes.
"""

from __future__ import annotations

import heapq
import sys
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from zlib import crc32

from bulkfetch._output.frames import (
    BLOCK,
    FORMAT,
    Adopted,
    Committed,
    Course,
    Done,
    FailedCourse,
    Frame,
    Header,
    Resume,
    Snapshot,
    Stop,
    decode,
    lines,
    walk,
)
from bulkfetch._output.index import (
    FAILED,
    FETCHED,
    MOST_KINDS,
    REFUSED,
    Entry,
    Frozen,
    Index,
    key_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

_CONTROLS: Final = 3
_UNKNOWN: Final = "fault"
"""So format 1 called faults that no list names, and settled their courses: they are asked again."""
_OUT_OF_ORDER: Final = (ValueError, TypeError, IndexError, OverflowError)


@dataclass(slots=True)
class Ledger:
    """What a journal's good lines add up to; a run goes on adding its own."""

    header: Header | None = None
    runs: list[str] = field(default_factory=list)
    size: int = 0
    """Bytes of good lines."""
    end: int = 0
    """Bytes of data committed."""
    fetched: int = 0
    rows: int = 0
    empty: list[str] = field(default_factory=list)
    """Courses that were fetched and have no rows."""
    state: Mapping[str, object] | None = None
    """The last snapshot of progress."""
    controls: tuple[str, ...] = ()
    """Up to three of the smallest fetched courses, those with rows first: to ask once more."""
    stop: Stop | None = None
    """Why the last run ended early, if it did."""
    done: Done | None = None
    last_done: Done | None = None
    """What its last finish told, a later run or not: it may stand under its final name."""
    runs_told: int = 0
    """How many of the runs had been there by then."""
    updated: float = 0.0
    """Unix time of the last frame that tells one."""
    ends: array[int] = field(default_factory=lambda: array("Q"))
    crcs: array[int] = field(default_factory=lambda: array("I"))
    places: array[int] = field(default_factory=lambda: array("Q"))
    """Of each commit: where its data ends, their CRC, where its line begins in the journal."""
    older: int = 0
    """Where the bytes of format 1 end in the journal."""
    live: bool = False
    """Whether a run adds to it, which need not remember what it fetches: nobody asks that twice."""
    _index: Index = field(default_factory=Index)
    _opened: Frozen | None = None
    """What was known when the run began: only that settles courses in its eyes."""
    _kinds: list[str] = field(default_factory=list)
    _smallest: list[tuple[bool, int, str]] = field(default_factory=list)

    @property
    def settled(self) -> Container[str]:
        """Courses fetched or refused when the run began: nothing is left to ask."""
        return self._known({FETCHED, REFUSED})

    @property
    def unsettled(self) -> Container[str]:
        """Courses that had failed when the run began, and are asked again."""
        return self._known({FAILED})

    def settled_except(self, again: Container[str]) -> Container[str]:
        """Return the settled courses without the refused ones in `again`; rows never come twice."""
        return self._known({FETCHED, REFUSED}, again)

    def _known(self, outcomes: Container[int], but: Container[str] = frozenset()) -> Container[str]:
        if self._opened is not None and not self._opened:
            return frozenset()  # a new output knows none: each id would be looked up for nothing
        known = self._index if self._opened is None else self._opened
        return _Known(known.outcome, outcomes, but)

    def go_live(self) -> None:
        """Say that a run adds to it from now on."""
        self.live, self._opened = True, self._index.frozen()

    def commits(self) -> Iterator[tuple[int, int, int]]:
        """Yield start, end and CRC of each commit's data."""
        start = 0
        for end, crc in zip(self.ends, self.crcs, strict=True):
            yield start, end, crc
            start = end

    def count(self, courses: Sequence[Course], failed: Sequence[FailedCourse]) -> None:
        """Add whole courses to the totals.

        A course that has its rows stays settled, whatever is said of it later, and a refusal
        outlasts passing failures; else the later word counts.
        """
        rows = [course[1] for course in courses]
        self.rows += sum(rows)
        self.fetched += len(rows)
        if 0 in rows:
            self.empty += [course[0] for course in courses if not course[1]]
        self._choose_controls(courses)
        number = len(self.ends)
        if courses and not (self.live and not self._index):
            self._index.put([course[0] for course in courses], Entry(FETCHED, 0, number))
        if failed:
            self._count_failed(failed, number)

    def outcomes(self) -> dict[str, int]:
        """Count the courses by outcome; `failed` are those that the next run asks for again."""
        counts: Counter[int] = Counter()
        for (outcome, _), number in self._index.counts().items():
            counts[outcome] += number
        return {"fetched": self.fetched, "refused": counts[REFUSED], "failed": counts[FAILED]}

    @property
    def asked(self) -> int:
        """Courses with an outcome, whatever it is."""
        return sum(self.outcomes().values())

    def failures(self) -> dict[str, int]:
        """Count the courses without rows by kind, the most frequent first."""
        counts: Counter[str] = Counter()
        for (_, kind), number in self._index.counts().items():
            counts[self._kinds[kind]] += number
        return dict(counts.most_common())

    def failed(self, chunks: Iterable[bytes]) -> Iterator[FailedCourse]:
        """Yield the last word on each course without rows, as it stands in the journal's bytes."""
        wanted = bytearray(len(self.ends))
        for number in self._index.commits():
            if number < len(wanted):
                wanted[number] = 1
        if any(wanted):
            for number, frame in chosen(self, chunks, wanted.__getitem__):
                yield from self._last_words(number, frame)

    @property
    def doubled(self) -> bool:
        """Whether any course was committed more than once, which no run does."""
        return bool(self._index.twice())

    def twice(self, chunks: Iterable[bytes]) -> list[str]:
        """Return the courses that were committed more than once."""
        if not (keys := self._index.twice()):
            return []
        frames = chosen(self, chunks, lambda _number: True)
        ids = (course[0] for _, frame in frames for course in frame.courses)
        return list(dict.fromkeys(one for one in ids if key_of(one) in keys))

    def judged(self, frame: Committed, place: int) -> Sequence[FailedCourse]:
        """Return the failed courses of a commit as they count today."""
        if place >= self.older:
            return frame.failed
        return [replace(one, settled=one.settled and one.kind != _UNKNOWN) for one in frame.failed]

    def holds(self, course_id: str) -> bool:
        """Whether a course is known to have its rows, whenever they came."""
        return self._index.outcome(course_id) == FETCHED

    def _count_failed(self, failed: Iterable[FailedCourse], number: int) -> None:
        groups: defaultdict[Entry, list[str]] = defaultdict(list)
        for one in _last_of(failed):
            outcome = REFUSED if one.settled else FAILED
            groups[Entry(outcome, self._number_of(one.kind), number)].append(one.course_id)
        for entry, ids in groups.items():
            self._index.put(ids, entry)

    def _number_of(self, kind: str) -> int:
        if kind not in self._kinds and len(self._kinds) < MOST_KINDS:
            self._kinds.append(kind)
        return self._kinds.index(kind) if kind in self._kinds else MOST_KINDS - 1

    def _last_words(self, number: int, frame: Committed) -> Iterator[FailedCourse]:
        for one in _last_of(self.judged(frame, self.places[number])):
            entry = self._index.get(one.course_id)
            if entry and entry.commit == number and entry.outcome != FETCHED:
                yield one

    def _choose_controls(self, courses: Sequence[Course]) -> None:
        best, most = self._smallest, sys.maxsize
        if len(best) == _CONTROLS and not best[-1][0]:
            most = best[-1][1]  # all three have rows: only fewer rows are better
        found = [(not one[1], one[1], one[0]) for one in courses if one[1] < most]
        if found:
            self._smallest = heapq.nsmallest(_CONTROLS, [*best, *found])
            self.controls = tuple(course_id for *_, course_id in self._smallest)


@dataclass(frozen=True, slots=True)
class _Known:
    """The courses with one of these outcomes; of those in `but` the fetched."""

    outcome: Callable[[str], int]
    outcomes: Container[int]
    but: Container[str]

    def __contains__(self, course_id: object) -> bool:
        if (
            not isinstance(course_id, str)
            or (found := self.outcome(course_id)) not in self.outcomes
        ):
            return False
        return found == FETCHED or course_id not in self.but


def _last_of(failed: Iterable[FailedCourse]) -> Iterable[FailedCourse]:
    """Return the last word of one commit on each course without rows."""
    found: dict[str, FailedCourse] = {}
    for one in failed:
        before = found.get(one.course_id)
        if before is None or one.settled >= before.settled:
            found[one.course_id] = one
    return found.values()


def replay(
    chunks: Iterable[bytes],
    watch: Callable[[Frame], object] = lambda _frame: None,
    *,
    spill: str | None = None,
) -> Ledger:
    """Add up the longest good prefix of a journal; never raises for what the bytes are.

    `watch` sees each frame after it was added. What is known of many courses lies in the directory
    `spill`, by default the system's temporary one.
    """
    ledger = Ledger(_index=Index(spill))
    for size, frame in walk(chunks):
        try:
            add(ledger, frame, size)
        except _OUT_OF_ORDER:
            break
        if frame is not None:
            watch(frame)
    return ledger


def chosen(
    ledger: Ledger, chunks: Iterable[bytes], wanted: Callable[[int], object]
) -> Iterator[tuple[int, Committed]]:
    """Read those commits of a journal once more whose number, from 0, is `wanted`."""
    number = at = 0
    for line in lines(chunks):
        if number == len(ledger.places):
            return
        if at == ledger.places[number]:
            frame = decode(line) if wanted(number) else None
            if isinstance(frame, Committed):
                yield number, frame
            number += 1
        at += len(line) + 1


def verified(
    ledger: Ledger, read: Callable[[int, int], bytes], update: Callable[[memoryview], object]
) -> Iterator[bool]:
    """Yield for each commit whether its data are what was committed.

    `read(length, offset)` is asked for large blocks in rising order; `update` gets every byte that
    was read for a commit, once, for a running digest.
    """
    block, base = memoryview(b""), 0
    for start, end, crc in ledger.commits():
        at, seen = start, 0
        while at < end:
            if not base <= at < base + len(block):
                block, base = memoryview(read(BLOCK, at)), at
                if not block:
                    break
            piece = block[at - base : end - base]
            seen = crc32(piece, seen)
            update(piece)
            at += len(piece)
        yield at == end and seen == crc


def add(ledger: Ledger, frame: Frame | None, size: int) -> None:
    """Add one frame of `size` bytes; raises ValueError or the like when it cannot come here."""
    if (ledger.header is None) is not isinstance(frame, Header):
        raise ValueError("out of order")
    match frame:
        case Committed():
            _add_commit(ledger, frame)
        case Header():
            ledger.header, ledger.updated = frame, float(frame.started)
            ledger.older = size + frame.older if frame.format == FORMAT else sys.maxsize
            ledger.runs.append(frame.run)
        case Resume():
            ledger.done, ledger.stop, ledger.updated = None, None, float(frame.at)
            ledger.runs.append(frame.run)
        case Done():
            ledger.done = ledger.last_done = frame
            ledger.runs_told = len(ledger.runs)
            ledger.stop, ledger.updated = None, float(frame.at)
        case Stop():
            ledger.stop, ledger.updated = frame, float(frame.at)
        case Snapshot():
            ledger.state = frame.state
        case Adopted():
            ledger.runs.extend(frame.runs)
    ledger.size += size


def _add_commit(ledger: Ledger, frame: Committed) -> None:
    start, end, crc = frame.start, frame.end, frame.crc
    if ledger.done or start != ledger.end or end < start or not 0 <= crc < 1 << 32:
        raise ValueError("out of order")
    at = float(frame.at)
    ledger.count(frame.courses, ledger.judged(frame, ledger.size))
    ledger.ends.append(end)
    ledger.crcs.append(crc)
    ledger.places.append(ledger.size)
    ledger.end, ledger.updated = end, at
