"""What became of a run: everything its journal and its rows can tell, as one record.

Nothing is asked of a server and nothing is changed; an unfinished output is told as far as it goes.
The record is small whatever the output is: of failed courses, statuses and slow courses the first
are named and the rest is counted. Making it takes the memory that reading the journal takes. It is
also the JSON form, described by `report.schema.json`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from bulkfetch._domain.wording import counted, iso
from bulkfetch._output.layout import Layout
from bulkfetch._output.manifest import limit_of, partial_of, partial_words
from bulkfetch._output.parts import data_of_whole, failed_of_whole, read_whole
from bulkfetch._report.acts import Ending, RunPart, Story
from bulkfetch._report.latency import Latency, read_latencies
from bulkfetch._report.survey import Survey, survey
from bulkfetch._report.timeline import Timeline, timeline

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from bulkfetch._output.frames import FailedCourse
    from bulkfetch._output.ledger import Ledger

FORMAT: Final = 1
SCHEMA: Final = Path(__file__).with_name("report.schema.json")
SUMMARY_SCHEMA: Final = Path(__file__).with_name("summary.schema.json")
_RUNS: Final = 100
_IDS: Final = 20
_MESSAGES: Final = 5
_WORDINGS: Final = 1_000
"""Different messages of one kind that are counted apart; beyond them each counts as its own."""
_KINDS: Final = 30


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
class FailureKind:
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
    stop: Ending | None
    """None when the last run finished, still runs, or could not say why it ended."""
    partial: Mapping[str, int] | None
    """What a merge joined of a run's `parts`, `of` how many, where it lacked some."""
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
    failures: tuple[FailureKind, ...]
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
    story = Story()
    ledger = read_whole(path, story.add)
    header, done = ledger.header, ledger.done
    assert header
    failures, other_failures = _failures(failed_of_whole(path, ledger))
    strips = [act.strip for act in story.acts]
    return Report(
        output=Path(Layout.of(path).output).name,
        made=iso(now),
        version=header.version,
        state="finished" if done else "unfinished",
        outcome=_outcome(ledger, story.acts[-1].state.get("total")),
        stop=story.stop,
        partial=partial_of(done) if done else None,
        host=header.fingerprint.get("endpoint", ""),
        started=iso(header.started),
        updated=iso(ledger.updated),
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
        survey=survey(*data_of_whole(path, ledger)),
        settings=story.settings,
    )


def as_json(report: Report) -> bytes:
    """Return the report as indented JSON, as `report.schema.json` describes it."""
    return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


@dataclass(slots=True)
class _Group:
    """Courses that failed alike, while they are read; a million of them take no room."""

    courses: int = 0
    again: int = 0
    other: int = 0
    wordings: Counter[str] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)

    def add(self, course: FailedCourse) -> None:
        self.courses += 1
        self.again += not course.settled
        if course.message in self.wordings or len(self.wordings) < _WORDINGS:
            self.wordings[course.message] += 1
        else:
            self.other += 1
        if len(self.ids) < _IDS:
            self.ids.append(course.course_id)

    def shown(self, kind: str) -> FailureKind:
        most = self.wordings.most_common(_MESSAGES)
        return FailureKind(
            kind=kind,
            courses=self.courses,
            again=self.again,
            wordings=tuple(Wording(message, number) for message, number in most),
            other_wordings=len(self.wordings) - len(most) + self.other,
            ids=tuple(self.ids),
        )


def _failures(failed: Iterable[FailedCourse]) -> tuple[tuple[FailureKind, ...], int]:
    """Group failed courses by kind, the largest first; count those of kinds beyond a bound."""
    groups: defaultdict[str, _Group] = defaultdict(_Group)
    for course in failed:
        groups[course.kind].add(course)
    ranked = sorted(groups.items(), key=lambda item: -item[1].courses)
    shown = tuple(group.shown(kind) for kind, group in ranked[:_KINDS])
    return shown, sum(group.courses for _, group in ranked[_KINDS:])


def _outcome(ledger: Ledger, listed: int | None) -> str:
    """Say in one sentence how it ended; `listed` is how many ids the last run's list had."""
    counts = ledger.outcomes()
    fetched, asked = counts["fetched"], sum(counts.values())
    left_out = listed is not None and listed > asked
    words = {
        "refused": f"{'was' if counts['refused'] == 1 else 'were'} refused",
        "failed": "failed",
    }
    without = " and ".join(f"{counts[name]:,} {words[name]}" for name in words if counts[name])
    if ledger.done is None:
        of_list = f" of {listed:,}" if left_out else ""
        failed = f", {without}" if without else ""
        rows = counted(ledger.rows, "row")
        return f"Not finished: {counted(fetched, 'course')}{of_list} with {rows} so far{failed}."
    if not asked:
        return "Finished: there was no course to fetch."
    limit, cut = ledger.done.options.get("limit"), limit_of(ledger.done)
    whole, limited = asked, ""
    if cut:  # by this run's limit, or by an earlier one's before a retry
        whole = cut["of"]
        limited = f" (--limit {limit})" if limit else f" ({cut['asked']:,} were asked for)"
    elif left_out and listed and limit:  # older journals do not say it
        whole, limited = listed, f" (--limit {limit})"
    if partial := partial_of(ledger.done):
        held = f"{partial_words(partial)}{f', but {without}' if without else ''}"
        rows = counted(ledger.rows, "row")
        return f"Finished with {held}: {counted(fetched, 'course')} fetched, {rows}."
    if without:
        return f"Finished, but {without}: {fetched:,} of {whole:,} courses were fetched{limited}."
    which = "the one course was" if whole == 1 else f"all {whole:,} courses were"
    if fetched != whole:
        which = f"{fetched:,} of {whole:,} courses were"
    return f"Finished: {which} fetched{limited}, {counted(ledger.rows, 'row')}."


def _ranked(counts: Counter[str]) -> dict[str, Any]:
    return {name: round(number, 3) for name, number in counts.most_common()}
