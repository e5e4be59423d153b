"""`status`: what an output holds, also while a run writes it."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import click

from bulkfetch._domain.text import printable
from bulkfetch.cli.files import read_output
from bulkfetch.cli.flags import command

if TYPE_CHECKING:
    from bulkfetch._engine.tally import State
    from bulkfetch._output.ledger import Ledger
    from bulkfetch.cli.voice import Voice

_COLORS: Final = {2: "red", 3: "red", 4: "red", 5: "yellow", 6: "red"}
"""Of a stop by its exit code; one that was asked for has none."""


@command("status")
@click.argument("output", metavar="OUT")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status(voice: Voice, *, output: str, as_json: bool) -> int:
    """Say how far a run is, or how the last one ended."""
    from bulkfetch._output.inspect import is_running

    ledger = read_output(output)
    running = is_running(output)
    state = _last_state(ledger)
    if as_json:
        import orjson

        found = _as_json(output, ledger, _word(ledger, running=running), state)
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    else:
        color = _COLORS.get(ledger.stop.exit_code) if ledger.stop and voice.color else None
        for line in _in_words(output, ledger, state, running=running):
            click.secho(line, fg=color if line.lstrip().startswith("why ") else None)
    return 0


def _word(ledger: Ledger, *, running: bool) -> str:
    if running:
        return "running"
    return "finished" if ledger.done else "stopped"


def _last_state(ledger: Ledger) -> State | None:
    """Return the last snapshot, if there is one and this version can read it."""
    from bulkfetch._engine.tally import State

    if not ledger.state:
        return None
    found: dict[str, Any] = dict(ledger.state)
    names = {field.name for field in fields(State)}
    found["in_flight"] = tuple(found.get("in_flight", ()))
    try:
        return State(**{name: value for name, value in found.items() if name in names})
    except TypeError:  # a field without a default is missing
        return None


def _in_words(output: str, ledger: Ledger, state: State | None, *, running: bool) -> list[str]:
    from bulkfetch._domain.wording import how_to_go_on, table
    from bulkfetch._watch.progress import verdicts

    counts = ledger.outcomes()
    on = how_to_go_on(ledger.stop.exit_code if ledger.stop else None)
    ended = {
        "running": "running",
        "finished": f"finished {_clock(ledger.done.at if ledger.done else 0)}",
        "stopped": f"stopped {_clock(ledger.updated)}: {on}",
    }[_word(ledger, running=running)]
    rows = [
        ("state", ended),
        *(_stopped(ledger) if not running else ()),
        ("courses", f"{counts['fetched']:,} fetched"),
        *_limited(ledger),
        *verdicts(counts["failed"], counts["refused"], ledger.failures()),
        ("rows", f"{ledger.rows:,}, {ledger.end:,} bytes"),
        ("runs", f"{len(ledger.runs):,}" if len(ledger.runs) > 1 else ""),
    ]
    if running and state:
        rows += _live(state)
    return [output, *table(rows)]


def _limited(ledger: Ledger) -> list[tuple[str, str]]:
    from bulkfetch._output.manifest import limit_of, limited_words, partial_of, partial_words

    if ledger.done is None:
        return []
    limited, partial = limit_of(ledger.done), partial_of(ledger.done)
    return [
        ("limited", limited_words(limited) if limited else ""),
        ("partial", partial_words(partial) if partial else ""),
    ]


def _stopped(ledger: Ledger) -> list[tuple[str, str]]:
    """Say why the last run ended early, if it did."""
    from bulkfetch._domain.text import printable

    if (stop := ledger.stop) is None:
        return [] if ledger.done else [("why", "not noted, as after a kill or a full disk")]
    name = "later run" if ledger.done else "why"
    failure = printable(stop.last_failure, 300) if stop.last_failure else ""
    return [
        (name, f"{printable(stop.message, 600)} (exit code {stop.exit_code})"),
        ("last failure", failure),
    ]


def _live(state: State) -> list[tuple[str, str]]:
    from bulkfetch._domain.wording import by_count, duration
    from bulkfetch._watch.progress import done_of

    done, total = done_of(state)
    speed = state.courses / state.seconds if state.seconds else 0.0
    left = ""
    if total is not None and speed:
        left = f"{max(0, total - done):,} courses, {duration(max(0, total - done) / speed)}"
    ids = ", ".join(printable(course_id, 40) for course_id in state.in_flight[:8])
    more = ", ..." if len(state.in_flight) > 8 else ""
    waited = {cause: round(seconds, 1) for cause, seconds in state.waited.items()}
    return [
        ("done", f"{done:,} of {total:,}" if total is not None else f"{done:,}"),
        ("left", left),
        ("speed", f"{state.requests / (state.seconds or 1):.1f} req/s since it began"),
        ("latency", f"p50 {state.latency_p50:.3f} s  p99 {state.latency_p99:.3f} s"),
        ("in flight", f"{ids}{more}"),
        ("waits", printable(state.waiting, 80) if state.waiting else ""),
        ("waited", f"{by_count(waited)} (seconds, all requests)" if any(waited.values()) else ""),
        ("as of", f"{_clock(state.at)}, {duration(max(0.0, time.time() - state.at))} ago"),
    ]


def _as_json(output: str, ledger: Ledger, word: str, state: State | None) -> dict[str, object]:
    return {
        "output": output,
        "state": word,
        "courses": ledger.outcomes(),
        "failures": ledger.failures(),
        "rows": ledger.rows,
        "bytes": ledger.end,
        "runs": ledger.runs,
        "started": ledger.header.started if ledger.header else None,
        "updated": ledger.updated,
        "stop": ledger.stop,
        "progress": state,
        "totals": ledger.done.totals if ledger.done else None,
    }


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
