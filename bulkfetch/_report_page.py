"""A report as one HTML page: no script, no request, readable on a phone, in the dark and on paper.

Everything that came from a server, a file or a setting goes through `_safe`; a content security
policy in the page forbids whatever could still leave it.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import MISSING, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulkfetch._charts import columns, number, over_time, share
from bulkfetch._options import Options
from bulkfetch._progress import counted, duration
from bulkfetch._report import UNTOLD
from bulkfetch._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from bulkfetch._latency import Latency
    from bulkfetch._report import FailureClass, FetchedCourse, Report
    from bulkfetch._timeline import Timeline

_STYLE: Final = Path(__file__).with_name("report.css")
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_SIGNS: Final = {
    "good": "M5 12.5 10 17.5 19 7",
    "warn": "M12 5v9M12 18.6v.1",
    "bad": "M6 6 18 18M18 6 6 18",
    "open": "M6 12h.1M12 12h.1M18 12h.1",
}
_MARKED: Final = ("50", "90", "99")
_MANY: Final = 0.1
"""The share of courses without rows from which on a run looks bad, not just imperfect."""


def page(report: Report) -> str:
    """Return the report as an HTML document that stands alone."""
    sections = (
        _header(report),
        _tiles(report),
        _failures(report),
        _over_time(report.timeline) if report.timeline else "",
        _pair(_latency(report.latency) if report.latency else "", _causes(report)),
        _pair(_statuses(report), _progress(report)),
        _quality(report),
        _pair(
            _courses("Slowest courses", report.slowest, "waiting for retries included"),
            _courses("Largest courses", report.largest, "by rows"),
        ),
        _runs(report),
        _settings(report.settings),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_safe(report.output)}: {_safe(report.outcome)}</title>"
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head>\n<body><main>\n"
        + "\n".join(filter(None, sections))
        + f"\n{_footer(report)}\n</main></body></html>\n"
    )


def _safe(text: object, limit: int = 200) -> str:
    """Make a stranger's text harmless: one line, nothing hidden, bounded, no markup."""
    return escape(printable(str(text), limit))


def _header(report: Report) -> str:
    level = _level(report)
    began, ended = _moment(report.started), _moment(report.updated)
    return (
        f'<header class="{level}"><div class="sign"><svg viewBox="0 0 24 24" aria-hidden="true">'
        f'<path d="{_SIGNS[level]}"/></svg></div><h1>{_safe(report.outcome)}</h1>'
        f"<p>{_safe(report.output)} · from {_safe(report.host)} · {began} to {ended}</p>"
        f"{_todo(report)}</header>"
    )


def _level(report: Report) -> str:
    if report.state != "finished":
        return "open"
    failed = _failed(report)
    if not failed:
        return "good"
    return "bad" if failed >= _MANY * (failed + report.courses["fetched"]) else "warn"


def _failed(report: Report) -> int:
    return report.courses["failed"] + report.courses["refused"]


def _todo(report: Report) -> str:
    """Say what to do next, if anything."""
    name = _safe(shlex.quote(report.output))
    if report.state != "finished":
        return (
            '<p class="todo">Stopped, or still running: the same <code>fetch</code> command goes '
            f"on where it ended, <code>bulkfetch status {name}</code> says how far it is.</p>"
        )
    if report.failures:
        return (
            f'<p class="todo">Once the cause is mended: <code>bulkfetch retry-failed {name}</code> '
            "fetches them again into the same output.</p>"
        )
    return ""


def _tiles(report: Report) -> str:
    counts, seconds, failed = report.courses, report.seconds or math.inf, _failed(report)
    verdicts = {"refused": counts["refused"], "to be tried again": counts["failed"]}
    tried = f"{counts['fetched'] + failed:,}{'' if report.state == 'finished' else ' so far'}"
    done = sum(run.courses for run in report.runs)
    retries = sum(report.retries.values())
    latency = report.latency
    runs = len(report.runs) + report.earlier_runs
    tiles = [
        ("Courses fetched", f"{counts['fetched']:,}", f"of {tried}", ""),
        ("Rows", f"{report.rows:,}", f"{number(report.rows / seconds)} a second", ""),
        (
            "Failed",
            f"{failed:,}",
            ", ".join(f"{count:,} {name}" for name, count in verdicts.items() if count) or "none",
            _level(report) if failed else "",
        ),
        (
            "Time at work",
            duration(report.seconds),
            f"{number(done / seconds)} courses a second" + (f", {runs} runs" if runs > 1 else ""),
            "",
        ),
        ("Requests", f"{report.requests:,}", f"{retries:,} of them retries", ""),
    ]
    if latency:
        median, late = latency.percentiles["50"], latency.percentiles["99"]
        tiles.append(("Median latency", _span(median), f"99 % within {_span(late)}", ""))
    boxes = "".join(
        f'<dl class="tile {kind}"><dt>{name}</dt><dd>{value}</dd><dd>{more}</dd></dl>'
        for name, value, more, kind in tiles
    )
    return f'<div class="tiles">{boxes}</div>'


def _over_time(timeline: Timeline) -> str:
    starts = timeline.runs[1:]
    seconds = timeline.seconds
    charts = [
        over_time(values, seconds=seconds, name=name, unit=unit, starts=starts)
        for values, name, unit in (
            (timeline.courses, "Courses per second", "courses/s"),
            (timeline.rows, "Rows per second", "rows/s"),
        )
    ]
    charts.append(
        over_time(
            timeline.under_way,
            seconds=seconds,
            name="Courses under way",
            unit="under way",
            starts=starts,
            bound=timeline.limit,
            bound_name="most requests at once",
        )
    )
    note = "Dotted lines: a later run begins; the pause before it is left out." if starts else ""
    return _section("Over time", *charts, note=note)


def _latency(latency: Latency) -> str:
    first, last = latency.bins[0].least, latency.bins[-1].most
    width = math.log10(last / first)

    def place(seconds: float) -> float:
        return 100 * math.log10(max(seconds, first) / first) / width

    decades = range(math.ceil(math.log10(first) - 1e-9), math.floor(math.log10(last) + 1e-9) + 1)
    step = 1 + len(decades) // 5
    ticks = [10.0**decade for decade in decades[::step]] if len(decades) > 1 else [first, last]
    chart = columns(
        [one.requests for one in latency.bins],
        name="Requests by time to their end",
        titles=[
            f"{_span(one.least)} to {_span(one.most)}: {one.requests:,}" for one in latency.bins
        ],
        x=[(place(tick), _span(tick)) for tick in ticks],
        marks=[(place(latency.percentiles[name]), f"p{name}") for name in _MARKED],
    )
    figures = {f"p{name}": seconds for name, seconds in latency.percentiles.items()}
    figures |= {"longest": latency.most, "mean": latency.mean}
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{_span(seconds)}</dd></div>" for name, seconds in figures.items()
    )
    return _section(
        "Latency", f'<div class="tall">{chart}</div>', f'<dl class="figures">{cells}</dl>'
    )


def _causes(report: Report) -> str:
    retries = [
        (name if name != UNTOLD else "not told", f"{value:,}", value)
        for name, value in report.retries.items()
    ]
    waits = [
        (name, duration(value), value) for name, value in report.waits.items() if value >= 0.05
    ]
    untold = UNTOLD in report.retries
    return _section(
        "Retries and waits",
        "<h3>Retries by cause</h3>" + (_shares(retries) or '<p class="soft">None.</p>'),
        "<h3>Waited, by cause</h3>" + (_shares(waits) or '<p class="soft">Nowhere.</p>'),
        note="Waits are added up over all requests."
        + (" A run that did not finish does not tell the causes of its retries." if untold else ""),
    )


def _statuses(report: Report) -> str:
    survey = report.survey
    rows = survey.rows or 1
    found = [
        *((status or "(empty)", count) for status, count in survey.statuses.items()),
        ("other statuses", survey.other_statuses),
        ("(none)", survey.without_status),
    ]
    lines = [(name, f"{count:,}", count, count / rows) for name, count in found if count]
    body = "".join(
        f'<tr><th>{_safe(name, 60)}</th><td class="drawn">{share(part)}</td>'
        f'<td class="num">{text}</td><td class="num soft">{100 * part:.1f} %</td></tr>'
        for name, text, _, part in lines
    )
    table = f'<table class="shares">{body}</table>' if body else '<p class="soft">No rows.</p>'
    return _section("Statuses", table)


def _progress(report: Report) -> str:
    bins = report.survey.progress
    edges = ["0", "over 0", *(f"{low} to below {low + 10}" for low in range(10, 100, 10)), "100"]
    labels = ["0", "&gt;0", *(str(low) for low in range(10, 100, 10)), "100"]
    chart = columns(
        bins,
        name="Rows by progress in percent",
        titles=[f"{edge}: {count:,}" for edge, count in zip(edges, bins, strict=True)],
        x=[(100 * (index + 0.5) / len(bins), label) for index, label in enumerate(labels)],
    )
    note = "Exactly 0 and exactly 100 stand alone; else a label is the lower edge."
    return _section("Progress", f'<div class="tall">{chart}</div>', note=note)


def _quality(report: Report) -> str:
    notes = list(_notes(report))
    if not any(kind == "" for kind, _ in notes):
        fine = "Nothing odd in the rows: no repeated user within a course, progress within 0 to 100"
        notes.insert(0, ("fine", f"{fine}."))
    items = "".join(f'<li class="{kind}">{text}</li>' for kind, text in notes)
    return _section("About the rows", f'<ul class="notes">{items}</ul>')


def _notes(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what a loader of the rows should know: a kind (empty: worth a look) and HTML."""
    survey, name = report.survey, _safe(shlex.quote(report.output))
    verify = f"run <code>bulkfetch verify {name}</code>"
    if survey.damaged:
        yield "", f"The rows cannot be read to their end ({_safe(survey.damaged)}): {verify}."
    elif survey.rows != report.rows:
        yield "", f"{survey.rows:,} rows found, {report.rows:,} in the journal: {verify}."
    if survey.repeated:
        most = ", ".join(
            f"<code>{_safe(one.course)}</code> ({one.rows:,})" for one in survey.repeated_most[:5]
        )
        rows, courses = counted(survey.repeated, "row"), counted(survey.repeated_courses, "course")
        again = f"{rows} in {courses} with a user whom the course had already, kept as sent"
        yield "", f"{again}; the most in {most}."
    if survey.outside:
        rows = counted(survey.outside, "row")
        yield "", f"{rows} with a progress outside 0 to 100, kept as sent."
    for count, what in ((survey.without_status, "status"), (survey.without_progress, "progress")):
        if count:
            yield "", f"{counted(count, 'row')} without a {what}."
    if survey.unchecked:
        rows = counted(survey.unchecked, "row")
        yield "plain", f"{rows} of very large courses were not searched for repeated users."
    if empty := report.courses["empty"]:
        courses = counted(empty, "course")
        listed = " The manifest lists them." if report.state == "finished" else ""
        loader = "a loader that replaces by course removes their old rows"
        yield "plain", f"{courses} fetched without any row: {loader}.{listed}"


def _failures(report: Report) -> str:
    if not report.failures:
        return ""
    return _section(
        "Failures by class",
        "".join(_failure(failure, report) for failure in report.failures),
        note=f"{report.other_failures:,} courses failed in still other ways."
        if report.other_failures
        else "",
    )


def _failure(failure: FailureClass, report: Report) -> str:
    refused = failure.courses - failure.again
    verdicts = [
        f"{refused:,} refused: only retry-failed asks again" if refused else "",
        f"{failure.again:,} asked for again by the next run" if failure.again else "",
    ]
    words = "".join(
        f'<p class="words">{_safe(wording.message, 400)}'
        + (f" <small>&times;&nbsp;{wording.courses:,}</small>" if failure.courses > 1 else "")
        + "</p>"
        for wording in failure.wordings
    )
    if failure.other_wordings:
        words += f'<p class="soft">and {counted(failure.other_wordings, "other wording")}</p>'
    ids = "".join(f"<code>{_safe(course_id, 80)}</code>" for course_id in failure.ids)
    if more := failure.courses - len(failure.ids):
        once = "" if report.state == "finished" else " once the run has ended"
        ids += f"<span>and {more:,} more, all in {_safe(report.output)}.failed.ndjson{once}</span>"
    return (
        f'<article class="failure"><h3><code>{_safe(failure.kind, 60)}</code>'
        f"<span>{counted(failure.courses, 'course')}</span>"
        f"<small>{'; '.join(filter(None, verdicts))}</small></h3>"
        f'{words}<p class="ids">{ids}</p></article>'
    )


def _courses(title: str, courses: Sequence[FetchedCourse], note: str) -> str:
    if not courses:
        return ""
    lines = [
        [
            f"<code>{_safe(one.course, 80)}</code>",
            f"{one.rows:,}",
            f"{one.attempts:,}",
            _span(one.seconds),
        ]
        for one in courses
    ]
    table = _table(["course", "rows", "tries", "time"], lines)
    return _section(f"{title} <small>{note}</small>", table)


def _runs(report: Report) -> str:
    if len(report.runs) < 2:
        return ""
    lines = [
        [
            _moment(run.started),
            "finished" if run.finished else "ended early",
            duration(run.seconds),
            f"{run.courses:,}",
            f"{run.rows:,}",
            f"{run.requests:,}",
            f"{run.retries:,}",
        ]
        for run in report.runs
    ]
    if not report.runs[-1].finished:
        lines[-1][1] = "open"
    heads = ["began", "end", "time", "courses", "rows", "requests", "retries"]
    note = "What a run tells that ended early is up to a second old."
    if report.earlier_runs:
        note += f" {report.earlier_runs:,} earlier runs are left out."
    return _section("Runs of this output", _table(heads, lines, texts=2), note=note)


def _settings(settings: Mapping[str, object] | None) -> str:
    if settings is None:
        return ""
    defaults = {
        item.name: None if item.default is MISSING else item.default for item in fields(Options)
    }
    changed, rest = [], []
    for name, value in settings.items():
        line = f"<dt>{_safe(name)}</dt><dd><code>{_safe(_value(value))}</code></dd>"
        if _value(value) == _value(defaults.get(name)):
            rest.append(f"<div>{line}</div>")
        else:
            changed.append(f'<div class="set">{line}</div>')
    return _section(
        "Settings <small>without secrets, of the last run that finished</small>",
        f'<dl class="settings">{"".join(changed)}</dl>',
        f"<details><summary>{len(rest)} settings at their defaults</summary>"
        f'<dl class="settings">{"".join(rest)}</dl></details>',
    )


def _value(value: object) -> str:
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


def _footer(report: Report) -> str:
    runs = " ".join(run.run for run in report.runs[-3:])
    return (
        f"<footer>Made {_moment(report.made)} by bulkfetch {_safe(report.version)} from the "
        f"journal and the rows of {_safe(report.output)}; run {_safe(runs)}. "
        "All times in UTC.</footer>"
    )


def _section(title: str, *parts: str, note: str = "") -> str:
    said = f"<small>{note}</small>" if note else ""
    return f"<section><h2>{title}</h2>{''.join(filter(None, parts))}{said}</section>"


def _pair(*sections: str) -> str:
    there = "".join(filter(None, sections))
    return f'<div class="pair">{there}</div>' if there else ""


def _shares(lines: Iterable[tuple[str, str, float]]) -> str:
    found = list(lines)
    most = max((value for _, _, value in found), default=1)
    body = "".join(
        f'<tr><th>{_safe(name, 60)}</th><td class="drawn">{share(value / most)}</td>'
        f'<td class="num">{text}</td></tr>'
        for name, text, value in found
    )
    return f'<table class="shares">{body}</table>' if body else ""


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """Make a table of cells that are HTML already; after `texts` columns come numbers."""

    def cell(tag: str, index: int, text: str) -> str:
        kind = ' class="num"' if index >= texts else ""
        return f"<{tag}{kind}>{text}</{tag}>"

    head = "".join(cell("th", index, text) for index, text in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(cell('td', index, text) for index, text in enumerate(line))}</tr>"
        for line in lines
    )
    kind = "scroll whole" if texts > 1 else "scroll"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="{kind}">{table}</div>'


def _moment(iso: str) -> str:
    return f'<span class="moment">{_safe(iso[:19].replace("T", " "))}</span>'


def _span(seconds: float) -> str:
    """Write a time as a request takes it: `0.4 ms`, `19 ms`, `1.25 s`, `2 min 5 s`."""
    if seconds < 0.01:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.3g} s" if seconds < 60 else duration(seconds)
