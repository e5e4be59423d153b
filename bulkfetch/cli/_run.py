"""One export as a person or a log sees it: its progress, its events, its summary.

The engine tells its hooks and its monitor; here that becomes words. On a terminal a bar is drawn
five times a second, elsewhere a line is written every ten seconds, in JSON an event for everything.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Final

from bulkfetch._errors import OutputLocked, RunError
from bulkfetch._export import Monitor, export
from bulkfetch._hooks import Attempt, Commit, Hooks, Wait
from bulkfetch._layout import Layout
from bulkfetch._model import Failed, Fetched
from bulkfetch._progress import Bar, Speed, counted, duration, figures, state_line, table
from bulkfetch.cli._loop import every, stoppable
from bulkfetch.cli._observe import Target, observing

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Container, Iterable

    from bulkfetch._errors import CourseError, Interrupted
    from bulkfetch._model import Outcome
    from bulkfetch._options import Options
    from bulkfetch._tally import State, Summary
    from bulkfetch.cli._voice import Voice

_BAR_SECONDS: Final = 0.2
_LINE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.1
"""Long after `status`, which holds the lock for microseconds, has let go of it."""


async def run_export(
    voice: Voice,
    ids: Iterable[str] | AsyncIterable[str],
    output: str,
    options: Options,
    *,
    overwrite: bool = False,
    again: Container[str] = frozenset(),
    metrics: Target = Target(),  # noqa: B008 - frozen
) -> Summary:
    """Export, and tell of it; returns the summary after it was told.

    Raises RunError when the run ended early, after telling how far it came.
    """
    monitor = Monitor()
    watcher = _Watcher(voice, monitor, options)
    told = {"output": output, "host": options.host, "concurrency": options.concurrency}
    voice.event("run_started", told)
    hooks = _hooks(voice) if voice.json else Hooks()
    try:
        with (
            observing(options, metrics, hooks) as observer,
            stoppable(watcher.stop, watcher.tell, _remedy(output)),
            watcher,
        ):
            begin = partial(export, ids, output, options, overwrite=overwrite, again=again)
            within = {"limiter": observer.limiter, "hooks": observer.hooks}
            summary = await _unless_held(partial(begin, monitor=monitor, **within))
            observer.finished(summary)
    except RunError:
        watcher.tell_last()
        raise
    voice.event("run_finished", {"output": output, **asdict(summary)})
    lines = table([*figures(summary), *_files_and_next(output, summary)])
    voice.say(f"finished in {duration(summary.seconds)}", *lines, *_nothing_left(output, summary))
    return summary


async def _unless_held(begin: Callable[[], Awaitable[Summary]]) -> Summary:
    """Begin once more if the output is held: perhaps `status` only looked at it just now.

    Nothing has happened by then, as the lock comes before the first id and the first request.
    """
    with suppress(OutputLocked):
        return await begin()
    await asyncio.sleep(_LOOK_SECONDS)
    return await begin()


def _remedy(output: str) -> str:
    if output == "-":
        return "what was written is whole courses"
    return "run the same command again to go on"


def _files_and_next(output: str, summary: Summary) -> list[tuple[str, str]]:
    """Say which files there are now and, when courses failed, what to do about them."""
    words = {"failed": summary.failed > summary.refused, "refused": summary.refused}
    which = " and ".join(word for word, number in words.items() if number)
    if output == "-":
        remedy = f"fetch the {which} courses again into a file: a pipe keeps no list of them"
        return [("next", remedy if summary.failed else "")]
    layout = Layout.of(output)
    retry = f"bulkfetch retry-failed {shlex.quote(output)} asks for the {which} courses again"
    if summary.refused:
        retry += ", once the cause is mended"
    failed = f"{layout.failed}  (the {which} courses)"
    return [
        ("files", layout.output),
        ("", failed if summary.failed else ""),
        ("", f"{layout.manifest}  (counts, checksum, settings)"),
        ("next", retry if summary.failed else ""),
    ]


def _nothing_left(output: str, summary: Summary) -> list[str]:
    """Say why a run without a new course will be followed by others like it."""
    if output == "-" or summary.fetched or not summary.refused == summary.failed > 0:
        return []
    refused = counted(summary.refused, "course") + (" is" if summary.refused == 1 else " are")
    return [f"nothing left to ask: {refused} refused; see {Layout.of(output).failed}"]


class _Watcher:
    """Looks at a running export through its monitor and tells what it sees."""

    def __init__(self, voice: Voice, monitor: Monitor, options: Options) -> None:
        self._voice = voice
        self._monitor = monitor
        self._options = options
        self._speed = Speed()
        self._stack = ExitStack()

    def __enter__(self) -> None:
        voice = self._voice
        if voice.on_terminal and not (voice.json or voice.quiet):
            bar = self._stack.enter_context(Bar(sys.stderr, color=voice.color))
            self._stack.enter_context(every(_BAR_SECONDS, lambda: self._draw(bar)))
        else:
            self._stack.enter_context(every(_LINE_SECONDS, self._tell_progress))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stop(self, error: Interrupted) -> None:
        """Let what is in flight finish, and say how long that may take."""
        self._monitor.stop(error)
        self._voice.say(
            f"stopping: what is in flight has {duration(self._options.grace)} to finish; "
            "once more stops at once"
        )
        self._voice.event("run_stopping", {"message": str(error), "grace": self._options.grace})

    def tell(self) -> None:
        """Say how far the run is, because somebody asked."""
        if state := self._look():
            self._voice.say(state_line(state, self._speed), always=True)
            self._voice.event("progress", asdict(state), always=True)

    def tell_last(self) -> None:
        """Say how far the run came."""
        if (state := self._look()) and state.requests:
            self._voice.say(f"so far: {state_line(state, self._speed)}")
            self._voice.event("run_stopped", asdict(state))

    def _look(self) -> State | None:
        state = self._monitor.state
        if state:
            self._speed.add(state)
        return state

    def _draw(self, bar: Bar) -> None:
        if state := self._look():
            bar.draw(state, self._speed)

    def _tell_progress(self) -> None:
        if state := self._look():
            self._voice.say(state_line(state, self._speed))
            self._voice.event("progress", asdict(state))


def _hooks(voice: Voice) -> Hooks:
    """Make an event of everything the engine tells."""

    def outcome(outcome: Outcome) -> None:
        told: dict[str, object] = {
            "course": outcome.course_id,
            "attempts": outcome.attempts,
            "seconds": round(outcome.seconds, 6),
        }
        match outcome:
            case Fetched(rows=rows):
                voice.event("course_fetched", {**told, "rows": len(rows)})
            case Failed(error=error):
                voice.event("course_failed", {**told, **_words(error), "settled": error.settled})

    def attempt(attempt: Attempt) -> None:
        if attempt.error:
            told = {"course": attempt.course_id, "number": attempt.number}
            seconds = round(attempt.seconds, 6)
            voice.event("attempt_failed", {**told, "seconds": seconds, **_words(attempt.error)})

    def wait(wait: Wait) -> None:
        voice.event(
            "wait",
            {"course": wait.course_id, "seconds": round(wait.seconds, 6), "class": wait.cause},
        )

    def commit(commit: Commit) -> None:
        voice.event("commit", asdict(commit))

    return Hooks(outcome=outcome, attempt=attempt, wait=wait, commit=commit)


def _words(error: CourseError) -> dict[str, str]:
    return {"class": error.kind, "message": error.message}
