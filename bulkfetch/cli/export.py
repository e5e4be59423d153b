"""One export as a person or a log sees it: its progress, its events, its summary.

The engine tells its hooks and its monitor; here that becomes words. On a terminal a bar is drawn
five times a second, elsewhere a line is written every ten seconds, in JSON an event for everything.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from bulkfetch._domain.errors import Refused, RunError
from bulkfetch._domain.hooks import Attempt, Commit, Hooks, Wait
from bulkfetch._domain.model import Failed, Fetched
from bulkfetch._domain.wording import counted, duration
from bulkfetch._engine.export import Monitor, export
from bulkfetch._output.layout import Layout
from bulkfetch._watch.progress import Bar, Speed, figures, state_line, state_words
from bulkfetch.cli.loop import every, stoppable, told
from bulkfetch.cli.observe import Target, observing
from bulkfetch.cli.streams import behind, drain

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Container, Iterable

    from bulkfetch._config.options import Options
    from bulkfetch._domain.errors import CourseError, Interrupted
    from bulkfetch._domain.model import Outcome
    from bulkfetch._engine.tally import State, Summary
    from bulkfetch.cli.voice import Voice

_COLORS: Final = {"failed": "33", "refused": "31", "kinds": "2", "next": "36"}
"""Of what wants attention in the summary."""
_BAR_SECONDS: Final = 0.2
_LINE_SECONDS: Final = 10.0
_SUSPEND_SECONDS: Final = 0.5


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
    if voice.closing:
        voice.closing.begin(options, lambda: monitor.state)
    watcher = Watcher(voice, monitor, options)
    begins = {"output": output, "host": options.host, "concurrency": options.concurrency}
    voice.event("run_started", begins)
    hooks = _hooks(voice) if voice.json else Hooks()
    task = asyncio.current_task() if options.token_file else None
    try:
        with (
            observing(options, metrics, hooks) as observer,
            stoppable(partial(_stop, task, watcher, monitor), remedy(output)),
            told(signal.SIGUSR1, watcher.tell),
            watcher,
        ):
            summary = await export(
                ids,
                output,
                options,
                overwrite=overwrite,
                again=again,
                limiter=observer.limiter,
                hooks=observer.hooks,
                monitor=monitor,
            )
            observer.finished(summary)
    except RunError:
        watcher.tell_last()
        raise
    if voice.closing:
        voice.closing.finish(summary)
    tell_summary(voice, output, summary, _limited(options, watcher.ids, summary))
    return summary


def _stop(
    task: asyncio.Task[Any] | None, watcher: Watcher, monitor: Monitor, error: Interrupted
) -> None:
    if task and monitor.state is None:  # a pipe that should bring the token keeps it waiting
        task.cancel()
    else:
        watcher.stop(error)


def tell_summary(
    voice: Voice, output: str, summary: Summary, limited: list[tuple[str, str]]
) -> None:
    voice.event("run_finished", {"output": output, **asdict(summary)})
    color = _COLORS["failed"] if summary.failed else "32"
    voice.say(f"in {duration(summary.seconds)}", label="finished", color=color)
    voice.say_table([*figures(summary), *limited, *_files_and_next(output, summary)], _COLORS)
    voice.say(*_nothing_left(output, summary))


def _limited(options: Options, ids: int | None, summary: Summary) -> list[tuple[str, str]]:
    """Say that the limit ended the run, so that nobody takes its courses for all of them."""
    if options.limit is None or summary.courses < options.limit:
        return []
    left = ids - summary.settled - summary.duplicates - summary.courses if ids is not None else None
    if left == 0:
        return []
    of = f" of {ids:,}" if ids is not None else ""
    asked = f"{summary.courses:,}{of} courses asked for, as limit {options.limit} says"
    return [("limit", f"{asked}; the same command asks for the next")]


def remedy(output: str) -> str:
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


class Watched(Protocol):
    """A run that can be looked at and ended: one of a Monitor's kind."""

    @property
    def state(self) -> State | None: ...
    def stop(self, error: BaseException) -> None: ...


class Watcher:
    """Looks at a running export through its monitor and tells what it sees."""

    def __init__(self, voice: Voice, monitor: Watched, options: Options) -> None:
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
            self._stack.enter_context(told(signal.SIGTSTP, lambda: _suspend(bar)))
        else:
            self._stack.enter_context(every(_LINE_SECONDS, self._tell_progress))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def ids(self) -> int | None:
        """How many ids there are, where it is known."""
        return self._monitor.state.total if self._monitor.state else None

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
            self._voice.say(", ".join(state_words(state, self._speed, ended=True)))
            self._voice.event("run_stopped", asdict(state))

    def _look(self) -> State | None:
        state = self._monitor.state
        if not state:
            return None
        self._speed.add(state)
        if state.total is None or self._options.limit is None:
            return state
        return replace(state, total=min(state.total, state.settled + self._options.limit))

    def _draw(self, bar: Bar) -> None:
        if not behind() and (state := self._look()):
            bar.draw(state, self._speed)

    def _tell_progress(self) -> None:
        if state := self._look():
            self._voice.say(state_line(state, self._speed))
            self._voice.event("progress", asdict(state))


def _suspend(bar: Bar) -> None:
    """Stop at Ctrl-Z, with the terminal as it was, and draw again once the shell goes on."""
    bar.pause()
    drain(_SUSPEND_SECONDS)
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTSTP)  # returns after SIGCONT
    signal.signal(signal.SIGTSTP, handler)
    bar.resume()


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
                # Whether this settles the course is known only once rows come after it.
                refused = isinstance(error, Refused)
                voice.event("course_failed", {**told, **_words(error), "refused": refused})

    def attempt(attempt: Attempt) -> None:
        if attempt.error:
            told = {"course": attempt.course_id, "number": attempt.number}
            seconds = round(attempt.seconds, 6)
            voice.event("attempt_failed", {**told, "seconds": seconds, **_words(attempt.error)})

    def wait(wait: Wait) -> None:
        voice.event(
            "wait",
            {"course": wait.course_id, "seconds": round(wait.seconds, 6), "kind": wait.cause},
        )

    def commit(commit: Commit) -> None:
        voice.event("commit", asdict(commit))

    return Hooks(outcome=outcome, attempt=attempt, wait=wait, commit=commit)


def _words(error: CourseError) -> dict[str, str]:
    return {"kind": error.kind, "message": error.message}
