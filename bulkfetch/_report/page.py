"""A report as one HTML page: no script, no request, readable on a phone, in the dark and on paper.

The page is a template that escapes whatever it is given, after hidden characters were spelled out;
a content security policy in it forbids whatever could still leave it. Here is only what the
template asks for: which colour, which charts, which words.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import MISSING, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bulkfetch._config.options import Options
from bulkfetch._domain.text import printable
from bulkfetch._domain.wording import counted, duration, how_to_go_on
from bulkfetch._report.acts import UNTOLD
from bulkfetch._report.charts import (
    Axis,
    Series,
    apart,
    columns,
    number,
    over_time,
    round_ticks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bulkfetch._report.charts import Chart
    from bulkfetch._report.latency import Latency
    from bulkfetch._report.story import Report
    from bulkfetch._report.timeline import Band, Timeline

_MARKED: Final = ("50", "90", "99")
_MANY: Final = 0.1
"""The share of courses without rows from which on a run looks bad, not just imperfect."""
_LONGEST: Final = 4000
_LEVELS: Final = {2: "bad", 3: "bad", 4: "bad", 5: "warn", 6: "bad"}
"""The colour of a stop by its exit code; one that was asked for is none of them."""
_PAUSES: Final = 5


def page(report: Report) -> str:
    """Return the report as an HTML document that stands alone."""
    changed, defaults = _settings(report.settings or {})
    return _ENVIRONMENT.get_template("page.html.j2").render(
        report=report,
        level=_level(report),
        level_of_failures=_level_of_failures(report),
        name=shlex.quote(report.output),
        charts=_over_time(report.timeline) if report.timeline else [],
        pauses=_longest(report.timeline.pauses) if report.timeline else [],
        latency_chart=_latency(report.latency) if report.latency else None,
        progress_chart=_progress(report.survey.progress),
        waits={name: value for name, value in report.waits.items() if value >= 0.05},
        notes=list(_notes(report)),
        changed=changed,
        defaults=defaults,
        untold=UNTOLD,
        how_to_go_on=how_to_go_on,
    )


def _shown(value: object) -> object:
    """Spell out hidden characters of whatever the template shows, and bound its length."""
    return value if hasattr(value, "__html__") else printable(str(value), _LONGEST)


def _span(seconds: float) -> str:
    """Write a time as a request takes it: `0.4 ms`, `19 ms`, `1.25 s`, `2 min 5 s`."""
    if seconds < 0.01:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.3g} s" if seconds < 60 else duration(seconds)


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "n": lambda value: f"{value:,}",
        "number": number,
        "duration": duration,
        "span": _span,
        "counted": counted,
        "cut": lambda text, limit: printable(str(text), limit),
        "moment": lambda text: text[:19].replace("T", " "),
        "per_second": lambda amount, seconds: number(amount / (seconds or math.inf)),
    }
    return found


_ENVIRONMENT: Final = _environment()


def _level(report: Report) -> str:
    if report.stop:
        return _LEVELS.get(report.stop.exit_code, "open")
    return "open" if report.state != "finished" else _level_of_failures(report)


def _level_of_failures(report: Report) -> str:
    without = report.courses["failed"] + report.courses["refused"]
    if not without:
        return "warn" if report.partial else "good"
    return "bad" if without >= _MANY * (without + report.courses["fetched"]) else "warn"


def _over_time(timeline: Timeline) -> Iterator[Chart]:
    axis = Axis(
        seconds=timeline.seconds,
        runs=timeline.runs,
        began=[datetime.fromisoformat(moment) for moment in timeline.began],
        pauses=[
            (one.begin, one.seconds, f"{one.cause}, {duration(one.seconds)}")
            for one in timeline.pauses
        ],
    )
    yield over_time([Series("Courses per second", "courses/s", timeline.courses)], axis)
    yield over_time([Series("Rows per second", "rows/s", timeline.rows)], axis)
    if trouble := list(_trouble(timeline)):
        yield over_time(trouble, axis)
    if any(timeline.under_way):  # else no snapshot saw one
        under_way = Series("Requests under way", "under way", timeline.under_way)
        yield over_time(
            [under_way, Series("most at once", "at most", timeline.limit, "bound")], axis
        )


def _trouble(timeline: Timeline) -> Iterator[Series]:
    """Yield what went wrong, most of all requests; what never did is left out."""
    within = f" in {_span(timeline.bin_seconds)}"
    for name, values, kind in (
        ("Failed requests", timeline.failed_requests, "line"),
        ("Retries", timeline.retries, "again"),
        ("429 or 503", timeline.throttled, "bound"),
        ("Courses failed or refused", timeline.failures, "failed"),
    ):
        if any(values):
            yield Series(name + within, name.lower(), values, kind)
            within = ""


def _longest(pauses: tuple[Band, ...]) -> list[Band]:
    return sorted(pauses, key=lambda one: -one.seconds)[:_PAUSES]


def _latency(latency: Latency) -> Chart:
    first, last = latency.bins[0].least, latency.bins[-1].most
    width = math.log10(last / first)

    def place(seconds: float) -> float:
        return 100 * math.log10(max(seconds, first) / first) / width

    return columns(
        [one.requests for one in latency.bins],
        name="Requests by time to their end",
        titles=[
            f"{_span(one.least)} to {_span(one.most)}: {one.requests:,}" for one in latency.bins
        ],
        x=apart([(place(tick), _span(tick)) for tick in round_ticks(first, last)]),
        marks=[(place(latency.percentiles[name]), f"p{name}") for name in _MARKED],
    )


def _progress(bins: tuple[int, ...]) -> Chart:
    edges = ["0", "over 0", *(f"{low} to below {low + 10}" for low in range(10, 100, 10)), "100"]
    labels = ["0", ">0", *(str(low) for low in range(10, 100, 10)), "100"]
    return columns(
        bins,
        name="Rows by progress in percent",
        titles=[f"{edge}: {count:,}" for edge, count in zip(edges, bins, strict=True)],
        x=[(100 * (index + 0.5) / len(bins), label) for index, label in enumerate(labels)],
    )


def _notes(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what a loader of the rows should know: a kind (empty: worth a look) and words."""
    found = report.survey
    odd = list(_odd(report))
    yield from (("", words) for words in odd)
    if not (found.rows or report.rows):
        yield "plain", "No rows."
    elif not odd:
        fine = "no repeated user within a course, progress within 0 to 100."
        yield "fine", f"Nothing odd in the rows: {fine}"
    if found.unchecked:
        rows = counted(found.unchecked, "row")
        yield "plain", f"{rows} of very large courses were not searched for repeated users."
    if empty := report.courses["empty"]:
        listed = " The manifest lists them." if report.state == "finished" else ""
        loader = "a loader that replaces by course removes their old rows"
        yield "plain", f"{counted(empty, 'course')} fetched without any row: {loader}.{listed}"


def _odd(report: Report) -> Iterator[str]:
    """Yield what is worth a look in the rows."""
    found = report.survey
    verify = f"run: bulkfetch verify {shlex.quote(report.output)}"
    if found.damaged:
        yield f"The rows cannot be read to their end ({found.damaged}); {verify}"
    elif found.rows != report.rows:
        yield f"{found.rows:,} rows found, {report.rows:,} in the journal; {verify}"
    if found.repeated:
        most = ", ".join(
            f"{printable(one.course, 80)} ({one.rows:,})" for one in found.repeated_most[:5]
        )
        rows, courses = counted(found.repeated, "row"), counted(found.repeated_courses, "course")
        again = f"{rows} in {courses} with a user whom the course had already, kept as sent"
        yield f"{again}; the most in {most}."
    if found.outside:
        rows = counted(found.outside, "row")
        yield f"{rows} with a progress outside 0 to 100, kept as sent."
    for count, what in ((found.without_status, "status"), (found.without_progress, "progress")):
        if count:
            yield f"{counted(count, 'row')} without a {what}."


def _settings(settings: Mapping[str, object]) -> tuple[dict[str, str], dict[str, str]]:
    """Tell the settings that were chosen from those at their defaults."""
    known = {one.name: None if one.default is MISSING else one.default for one in fields(Options)}
    told = {name: _value(value) for name, value in settings.items()}
    defaults = {name: words for name, words in told.items() if words == _value(known.get(name))}
    return {name: told[name] for name in told if name not in defaults}, defaults


def _value(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return f"{value:,.10g}"
        case list() | tuple():
            return ", ".join(map(str, value)) or "none"
        case _:
            return str(value)
