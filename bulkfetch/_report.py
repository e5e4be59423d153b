"""What became of a run: everything its journal and its rows can tell, as one record.

Nothing is asked of a server and nothing is changed; an unfinished output is told as far as it goes.
Memory and the record's size stay bounded: of failed courses, statuses and slow courses the first
are named and the rest is counted. The record is also the JSON form, described by
`report.schema.json`.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from bulkfetch._inspect import read_frames, read_ledger
from bulkfetch._journal import Commit, Done, Header, Resume, State
from bulkfetch._latency import Latency, read_latencies
from bulkfetch._layout import Layout
from bulkfetch._progress import counted
from bulkfetch._survey import Survey, survey
from bulkfetch._timeline import Strip, Timeline, timeline

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from bulkfetch._journal import Course, FailedCourse, Frame, Ledger

FORMAT: Final = 1
SCHEMA: Final = Path(__file__).with_name("report.schema.json")
UNTOLD: Final = "untold"
"""The cause of retries in a run that did not finish."""
_TOP: Final = 10
"""Courses in the lists of the slowest and largest."""
_RUNS: Final = 100
_IDS: Final = 20
_MESSAGES: Final = 5
_CLASSES: Final = 30


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


@dataclass(frozen=True, slots=True)
class FetchedCourse:
    """A course with its rows; `seconds` run from its first request to its end."""

    course: str
    rows: int
    attempts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Wording:
    """What was said of failed courses, and of how many."""

    message: str
    courses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureClass:
    """Courses without rows that failed alike; `again` of them are asked for by the next run.

    `ids` are the first of them, `wordings` the most frequent.
    """

    kind: str
    courses: int
    again: int
    wordings: tuple[Wording, ...]
    other_wordings: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run, or all runs of one output, told. Durations are in seconds, times ISO 8601 in UTC."""

    format: int = FORMAT
    output: str
    made: str
    version: str
    state: str
    """`finished` or `unfinished`."""
    outcome: str
    """One sentence."""
    host: str
    started: str
    updated: str
    seconds: float
    """At work, pauses between runs left out."""
    courses: Mapping[str, int]
    """By outcome: fetched, refused, failed; and `empty`, fetched and without rows."""
    rows: int
    bytes: int
    requests: int
    retries: Mapping[str, int]
    """By cause; `untold` are those of unfinished runs."""
    waits: Mapping[str, float]
    """Seconds by cause, added up over all requests."""
    runs: tuple[RunPart, ...]
    """The last of them, at most a hundred."""
    earlier_runs: int
    timeline: Timeline | None
    latency: Latency | None
    failures: tuple[FailureClass, ...]
    other_failures: int
    """Courses that failed in still other ways."""
    slowest: tuple[FetchedCourse, ...]
    largest: tuple[FetchedCourse, ...]
    survey: Survey
    settings: Mapping[str, object] | None
    """Without secrets; None until a run has finished."""


def read_report(path: str | os.PathLike[str], *, now: float) -> Report:
    """Read journal and rows of the output `path`; `now` is the Unix time of the report.

    Raises OutputError when one of them is missing or not of this version.
    """
    ledger = read_ledger(path)
    story = _Story()
    for frame in read_frames(path):
        story.add(frame)
    header, done = ledger.header, ledger.done
    assert header
    failures, other_failures = _failures(ledger.failed.values())
    strips = [act.strip for act in story.acts]
    return Report(
        output=Path(Layout.of(path).output).name,
        made=_iso(now),
        version=header.version,
        state="finished" if done else "unfinished",
        outcome=_outcome(ledger),
        host=header.fingerprint.get("endpoint", ""),
        started=_iso(header.started),
        updated=_iso(ledger.updated),
        seconds=round(sum(strip.seconds for strip in strips), 3),
        courses={**ledger.outcomes(), "empty": len(ledger.empty)},
        rows=ledger.rows,
        bytes=ledger.end,
        requests=sum(act.requests for act in story.acts),
        retries=_ranked(story.retries()),
        waits=_ranked(story.waits()),
        runs=tuple(act.part() for act in story.acts[-_RUNS:]),
        earlier_runs=len(story.acts[:-_RUNS]),
        timeline=timeline(strips),
        latency=read_latencies(story.latencies()),
        failures=failures,
        other_failures=other_failures,
        slowest=tuple(FetchedCourse(*course) for course in story.slowest),
        largest=tuple(FetchedCourse(*course) for course in story.largest),
        survey=survey(path, ledger.end),
        settings=story.settings,
    )


def as_json(report: Report) -> bytes:
    """Return the report as indented JSON, as `report.schema.json` describes it."""
    return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


@dataclass(slots=True)
class _Act:
    """One run while its frames are read."""

    run: str
    strip: Strip
    courses: int = 0
    rows: int = 0
    state: Mapping[str, Any] = field(default_factory=dict)
    totals: Mapping[str, Any] | None = None

    @property
    def requests(self) -> int:
        return int((self.totals or self.state).get("requests", 0))

    @property
    def retries(self) -> Mapping[str, int]:
        if self.totals is not None:
            retries: Mapping[str, int] = self.totals.get("retries", {})
            return retries
        untold = int(self.state.get("retries", 0))
        return {UNTOLD: untold} if untold else {}

    def part(self) -> RunPart:
        return RunPart(
            run=self.run,
            started=_iso(self.strip.began),
            seconds=round(self.strip.seconds, 3),
            finished=self.totals is not None,
            courses=self.courses,
            rows=self.rows,
            requests=self.requests,
            retries=sum(self.retries.values()),
        )


class _Story:
    """The frames of a journal, run by run."""

    def __init__(self) -> None:
        self.acts: list[_Act] = []
        self.slowest: list[Course] = []
        self.largest: list[Course] = []
        self.settings: Mapping[str, object] | None = None

    def add(self, frame: Frame) -> None:
        match frame:
            case Header():
                self.acts.append(_Act(frame.run, Strip(frame.started)))
            case Resume():
                self.acts.append(_Act(frame.run, Strip(frame.at)))
            case Commit():
                self._add_commit(frame)
            case State():
                self._add_state(frame.state)
            case Done():
                act = self.acts[-1]
                act.strip.seen(frame.at)
                act.totals = frame.totals
                self.settings = frame.options or self.settings

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
        """Yield the finished runs' histograms."""
        for act in self.acts:
            if text := act.state.get("latencies"):
                yield str(text)

    def _add_commit(self, commit: Commit) -> None:
        act = self.acts[-1]
        act.strip.commit(commit.at, commit.courses, len(commit.failed))
        act.courses += len(commit.courses) + len(commit.failed)
        act.rows += sum(map(itemgetter(1), commit.courses))
        self.slowest = heapq.nlargest(_TOP, [*self.slowest, *commit.courses], key=itemgetter(3))
        self.largest = heapq.nlargest(_TOP, [*self.largest, *commit.courses], key=itemgetter(1))

    def _add_state(self, state: Mapping[str, Any]) -> None:
        act = self.acts[-1]
        act.state = state
        if {"at", "limit", "seconds"} <= state.keys():
            at = float(state["at"])
            act.strip.limit(at, int(state["limit"]))
            # A resumed run says that it is there with its first commit only.
            earliest = self.acts[-2].strip.ended if len(self.acts) > 1 else act.strip.began
            began = max(at - float(state["seconds"]), earliest)
            act.strip.began = min(act.strip.began, began)


def _failures(failed: Iterable[FailedCourse]) -> tuple[tuple[FailureClass, ...], int]:
    """Group failed courses by class, the largest first; count those of classes beyond a bound."""
    groups: defaultdict[str, list[FailedCourse]] = defaultdict(list)
    for course in failed:
        groups[course.kind].append(course)
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))
    shown = tuple(_failure_class(kind, courses) for kind, courses in ranked[:_CLASSES])
    return shown, sum(len(courses) for _, courses in ranked[_CLASSES:])


def _failure_class(kind: str, courses: list[FailedCourse]) -> FailureClass:
    wordings = Counter(course.message for course in courses)
    shown = wordings.most_common(_MESSAGES)
    return FailureClass(
        kind=kind,
        courses=len(courses),
        again=sum(not course.settled for course in courses),
        wordings=tuple(Wording(message, number) for message, number in shown),
        other_wordings=len(wordings) - len(shown),
        ids=tuple(course.course_id for course in courses[:_IDS]),
    )


def _outcome(ledger: Ledger) -> str:
    """Say in one sentence how it ended."""
    counts = ledger.outcomes()
    fetched, total = counts["fetched"], sum(counts.values())
    without = [
        f"{counts[name]:,} {words}"
        for name, words in (("refused", "were refused"), ("failed", "failed"))
        if counts[name]
    ]
    if ledger.done is None:
        failed = f", {' and '.join(without)}" if without else ""
        rows = counted(ledger.rows, "row")
        return f"Not finished: {counted(fetched, 'course')} with {rows} so far{failed}."
    if not total:
        return "Finished: there was no course to fetch."
    if not without:
        which = f"all {total:,} courses were" if total > 1 else "the one course was"
        return f"Finished: {which} fetched, {counted(ledger.rows, 'row')}."
    return f"Finished, but {' and '.join(without)}: {fetched:,} of {total:,} courses were fetched."


def _ranked(counts: Counter[str]) -> dict[str, Any]:
    return {name: round(number, 3) for name, number in counts.most_common()}


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
