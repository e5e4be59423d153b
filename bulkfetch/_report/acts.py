"""The runs that worked at an output, told apart frame by frame as its journal is read.

Little is kept, whatever the output's size: of each commit and each second a few numbers, of each
run its last state, and of all courses the slowest and the largest.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from bulkfetch._domain.wording import iso
from bulkfetch._output.frames import (
    Adopted,
    Committed,
    Done,
    Header,
    Pause,
    Resume,
    Snapshot,
    Stop,
)
from bulkfetch._output.index import FAILED, FETCHED, Entry, Index
from bulkfetch._report.timeline import Band, Strip

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bulkfetch._output.frames import Course, Frame

UNTOLD: Final = "untold"
"""The cause of retries in a run that did not finish."""
_TOP: Final = 10
"""Courses in the lists of the slowest and largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPart:
    """One of the runs that worked at the output; what an unfinished one did may be a second old."""

    run: str
    started: str
    seconds: float
    finished: bool
    courses: int
    rows: int
    requests: int
    retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why the last run ended before its list did, in the words that it was told in.

    `kind` is the error's stable word; `last_failure` what was said of the last failed course.
    """

    at: str
    exit_code: int
    kind: str
    message: str
    last_failure: str | None


@dataclass(slots=True)
class Act:
    """One run while its frames are read."""

    run: str
    strip: Strip
    courses: int = 0
    rows: int = 0
    state: Mapping[str, Any] = field(default_factory=dict)
    totals: Mapping[str, Any] | None = None
    joined: bool = False
    """Whether it took other outputs over: its commits tell when the work was, its end does not."""

    @property
    def requests(self) -> int:
        return int((self.totals or self.state).get("requests", 0))

    @property
    def retries(self) -> Mapping[str, int]:
        if self.totals is not None:
            retries: Mapping[str, int] = self.totals.get("retries", {})
            return retries
        known: Mapping[str, int] = self.state.get("retries_by_kind") or {}
        untold = int(self.state.get("retries", 0)) - sum(known.values())
        return {**known, UNTOLD: untold} if untold > 0 else known

    def part(self) -> RunPart:
        return RunPart(
            run=self.run,
            started=iso(self.strip.began),
            seconds=round(self.strip.seconds, 3),
            finished=self.totals is not None,
            courses=self.courses,
            rows=self.rows,
            requests=self.requests,
            retries=sum(self.retries.values()),
        )


class Story:
    """The frames of a journal, run by run."""

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.slowest: list[Course] = []
        self.largest: list[Course] = []
        self.settings: Mapping[str, object] | None = None
        self.stop: Ending | None = None
        self._failed = Index()
        """What failed in the last run so far, and in which of its commits."""

    def add(self, frame: Frame) -> None:
        match frame:
            case Header():
                self._begin(frame.run, frame.started)
            case Resume():
                self.stop = None
                self._begin(frame.run, frame.at)
            case Committed():
                self._add_commit(frame)
            case Snapshot():
                self._add_state(frame.state)
            case Adopted():
                self._join()
            case Done():
                act = self.acts[-1]
                if not act.joined:
                    act.strip.seen(frame.at)
                act.totals = frame.totals
                self.settings = frame.options or self.settings
                self.stop = None
            case Stop():
                self.acts[-1].strip.seen(frame.at)
                self.stop = Ending(
                    at=iso(frame.at),
                    exit_code=frame.exit_code,
                    kind=frame.kind,
                    message=frame.message,
                    last_failure=frame.last_failure,
                )
            case Pause():
                band = Band(frame.at, frame.seconds, frame.cause)
                self.acts[-1].strip.pauses.append(band)

    def retries(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for act in self.acts:
            total.update(act.retries)
        return total

    def waits(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for act in self.acts:
            waited: Mapping[str, Any] = (act.totals or act.state).get("waited", {})
            total.update(waited)
        return total

    def latencies(self) -> Iterator[str]:
        """Yield the histograms of the runs that ended in good order."""
        for act in self.acts:
            if text := act.state.get("latencies"):
                yield str(text)

    def _begin(self, run: str, at: float) -> None:
        self.acts.append(Act(run, Strip(at)))
        self._failed = Index()

    def _join(self) -> None:
        """Let a run that takes others over have begun where the one before it ended."""
        act = self.acts[-1]
        act.joined = True
        if len(self.acts) > 1 and not act.strip.commits:
            act.strip = Strip(self.acts[-2].strip.ended)

    def _add_commit(self, commit: Committed) -> None:
        act = self.acts[-1]
        rows = [course[1] for course in commit.courses]
        act.courses += len(rows) + self._add_failed(act.strip, commit, rows)
        act.rows += sum(rows)
        self.slowest = heapq.nlargest(_TOP, [*self.slowest, *commit.courses], key=itemgetter(3))
        self.largest = heapq.nlargest(_TOP, [*self.largest, *commit.courses], key=itemgetter(1))

    def _add_failed(self, strip: Strip, commit: Committed, rows: Sequence[int]) -> int:
        """Tell the strip of a commit; return how many failed courses it adds to the run's.

        A course may fail and be fetched later, or be doubted and refused: its last word counts.
        """
        fetched = [course[0] for course in commit.courses]
        failed = {one.course_id for one in commit.failed}.difference(fetched)
        place, again = len(strip.commits), []
        for course_id in (*fetched, *failed) if self._failed else ():
            known = self._failed.get(course_id)
            if known and known.outcome == FAILED:
                strip.take_back(known.commit)
                again.append(course_id)
        strip.commit(commit.at, rows, len(failed))
        self._failed.put(failed, Entry(FAILED, 0, place))
        self._failed.put(set(again).difference(failed), Entry(FETCHED, 0, place))
        return len(failed) - len(again)

    def _add_state(self, state: Mapping[str, Any]) -> None:
        act = self.acts[-1]
        act.state = state
        if {"at", "limit", "seconds"} <= state.keys():
            act.strip.snapshot(state)
            # A resumed run says that it is there with its first commit only.
            earliest = self.acts[-2].strip.ended if len(self.acts) > 1 else act.strip.began
            began = max(float(state["at"]) - float(state["seconds"]), earliest)
            act.strip.began = min(act.strip.began, began)
