"""`status` and `verify`: what an output holds, also while a run writes it."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from bulkfetch._errors import OutputError
from bulkfetch.cli._files import read_output
from bulkfetch.cli._flags import command

if TYPE_CHECKING:
    from bulkfetch._journal import Ledger
    from bulkfetch._tally import State
    from bulkfetch.cli._voice import Voice


@command("status")
@click.argument("output", metavar="OUT")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status(voice: Voice, *, output: str, as_json: bool) -> int:  # noqa: ARG001 - all get it
    """Say how far a run is, or how the last one ended."""
    ledger = read_output(output)
    running = _is_running(output)
    state = _last_state(ledger)
    if as_json:
        import orjson

        found = _as_json(output, ledger, _word(ledger, running=running), state)
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    else:
        click.echo("\n".join(_in_words(output, ledger, state, running=running)))
    return 0


@command("verify")
@click.argument("output", metavar="OUT")
def verify(voice: Voice, *, output: str) -> int:
    """Check every byte of OUT against its journal."""
    from bulkfetch import _inspect
    from bulkfetch._progress import counted

    ledger = read_output(output)
    problems = _inspect.verify(output)
    for problem in problems:
        voice.say(problem, always=True)
        voice.event("problem", {"message": problem}, always=True)
    if problems:
        raise OutputError(f"{output} is not sound: {counted(len(problems), 'problem')}")
    finished = "finished" if ledger.done else "not finished yet, sound so far"
    click.echo(
        f"{output}: {finished}; {counted(ledger.fetched, 'course')}, "
        f"{counted(ledger.rows, 'row')}, {counted(ledger.end, 'byte')}, as the journal says"
    )
    return 0


def _is_running(output: str) -> bool:
    """Whether a run holds the output's lock.

    No list of locks tells it on every file system and in every container; so the lock is asked
    for, shared and for a moment. A run that begins in that moment tries again.
    """
    from bulkfetch._layout import Layout

    fd = os.open(Layout.of(output).journal, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _word(ledger: Ledger, *, running: bool) -> str:
    if running:
        return "running"
    return "finished" if ledger.done else "stopped"


def _last_state(ledger: Ledger) -> State | None:
    """Return the last snapshot, if there is one and this version can read it."""
    from bulkfetch._tally import State

    if not ledger.states:
        return None
    found: dict[str, Any] = dict(ledger.states[-1])
    names = {field.name for field in fields(State)}
    if not names <= set(found):
        return None
    found["in_flight"] = tuple(found["in_flight"])
    return State(**{name: found[name] for name in names})


def _in_words(output: str, ledger: Ledger, state: State | None, *, running: bool) -> list[str]:
    from bulkfetch._progress import table, verdicts

    counts = ledger.outcomes()
    ended = {
        "running": "running",
        "finished": f"finished {_clock(ledger.updated)}",
        "stopped": f"stopped {_clock(ledger.updated)}: the same command goes on",
    }[_word(ledger, running=running)]
    rows = [
        ("state", ended),
        ("courses", f"{counts['fetched']:,} fetched"),
        *verdicts(counts["failed"], counts["refused"], _kinds(ledger)),
        ("rows", f"{ledger.rows:,}, {ledger.end:,} bytes"),
        ("runs", f"{len(ledger.runs):,}" if len(ledger.runs) > 1 else ""),
    ]
    if running and state:
        rows += _live(state)
    return [output, *table(rows)]


def _live(state: State) -> list[tuple[str, str]]:
    from bulkfetch._progress import by_count, done_of, duration
    from bulkfetch._text import printable

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


def _kinds(ledger: Ledger) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(course.kind for course in ledger.failed.values()))


def _as_json(output: str, ledger: Ledger, word: str, state: State | None) -> dict[str, object]:
    return {
        "output": output,
        "state": word,
        "courses": ledger.outcomes(),
        "failures": _kinds(ledger),
        "rows": ledger.rows,
        "bytes": ledger.end,
        "runs": ledger.runs,
        "started": ledger.header.started if ledger.header else None,
        "updated": ledger.updated,
        "progress": state,
        "totals": ledger.done.totals if ledger.done else None,
    }


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
