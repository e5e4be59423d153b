"""A run in words: the line while it runs, the summary at its end, the bar on a terminal.

The words are pure functions of a `State` or a `Summary`; only `Bar` draws, with rich, which is
imported when the first bar is. Strangers' text (ids, reasons) is made printable here.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from bulkfetch._domain.text import printable
from bulkfetch._domain.wording import by_count, counted, duration

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from rich.console import RenderableType

    from bulkfetch._engine.tally import State, Summary

_WINDOW: Final = 15.0
"""Seconds over which the speed shown is averaged."""
_BAR_STYLES: Final = ("complete_style", "finished_style", "pulse_style")
_NARROW: Final = 60
"""Columns below which the bar's words are folded, not cut."""


class Speed:
    """Requests and courses per second over the last moments of a run."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)])

    def add(self, state: State) -> None:
        self._seen.append((state.seconds, state.requests, state.courses))
        while len(self._seen) > 2 and self._seen[1][0] < state.seconds - _WINDOW:
            self._seen.popleft()

    @property
    def requests(self) -> float:
        return self._per_second(1)

    @property
    def courses(self) -> float:
        return self._per_second(2)

    def _per_second(self, column: int) -> float:
        first, last = self._seen[0], self._seen[-1]
        seconds = last[0] - first[0]
        return (last[column] - first[column]) / seconds if seconds else 0.0


def done_of(state: State) -> tuple[int, int | None]:
    """Return how many courses are done, earlier runs included, and of how many."""
    return state.settled + state.courses, state.total


def state_words(state: State, speed: Speed, *, ended: bool = False) -> list[str]:
    """Return what a state has to say, part by part; why it waits is not among them.

    Of a run that has `ended` early no time is left.
    """
    done, total = done_of(state)
    words = [f"{done:,}/{total:,} courses" if total is not None else counted(done, "course")]
    if state.settled:
        words[0] += f" ({state.settled:,} before)"
    words += [counted(state.rows, "row") + (" now" if state.settled else "")]
    words += trouble(state)
    words.append(f"{speed.requests:.1f} req/s")
    if ended:
        return [*words, f"ended after {duration(state.seconds)}"]
    words.append(f"{duration(state.seconds)} so far")
    if total is not None and total > done and speed.courses > 0:
        words.append(f"{duration((total - done) / speed.courses)} left")
    return words


def trouble(state: State) -> list[str]:
    """Return what went wrong with courses so far."""
    counts = {"failed": state.failed, "refused": state.refused}
    return [f"{number:,} {name}" for name, number in counts.items() if number]


def state_line(state: State, speed: Speed) -> str:
    """Return a run at one moment on one line."""
    waiting = f"; waits: {printable(state.waiting, 80)}" if state.waiting else ""
    return ", ".join(state_words(state, speed)) + waiting


def verdicts(failed: int, refused: int, kinds: Mapping[str, int]) -> list[tuple[str, str]]:
    """Tell the courses that the next run asks for from those that the server has refused."""
    return [
        ("failed", f"{failed:,}, will be tried again" if failed else ""),
        ("refused", f"{refused:,}, the server's final word" if refused else ""),
        ("kinds", by_count(kinds)),
    ]


def figures(summary: Summary) -> list[tuple[str, str]]:
    """Return the closing summary of a run, for `table`."""
    seconds = summary.seconds or 1e-9
    retries = sum(summary.retries.values())
    skipped = {"settled before": summary.settled, "repeated ids": summary.duplicates}
    courses = _told_apart(f"{summary.fetched:,} fetched", summary.fetched, summary.output_courses)
    rows = f"{summary.rows:,} at {summary.rows / seconds:,.0f}/s"
    empty = f"; {counted(summary.empty, 'course')} without rows" if summary.empty else ""
    return [
        ("courses", courses),
        ("skipped", by_count({name: number for name, number in skipped.items() if number})),
        *verdicts(summary.failed - summary.refused, summary.refused, summary.failures),
        ("rows", _told_apart(rows, summary.rows, summary.output_rows) + empty),
        ("strayed", _strayed(summary.strayed) if summary.strayed else ""),
        ("requests", f"{summary.requests:,} at {summary.requests / seconds:,.1f}/s"),
        ("retries", f"{retries:,}: {by_count(summary.retries)}" if retries else ""),
        ("latency", _latencies(summary) if summary.requests else ""),
        ("waited", _waits(summary)),
    ]


def _strayed(courses: int) -> str:
    return f"{counted(courses, 'course')} with rows that name another one: look at _contentItemId"


def _told_apart(words: str, now: int, output: int) -> str:
    """Tell this run's number from the output's, where earlier runs had a part in it."""
    return words if now == output else f"{words} in this run, {output:,} in the output"


def _latencies(summary: Summary) -> str:
    figures = {"p50": summary.latency_p50, "p90": summary.latency_p90, "p99": summary.latency_p99}
    return "  ".join(f"{name} {_short(seconds)}" for name, seconds in figures.items())


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _waits(summary: Summary) -> str:
    """Say why requests waited, those causes that cost a tenth of a second or more."""
    ranked = sorted(summary.waited.items(), key=lambda item: -item[1])
    causes = [
        f"{printable(cause, 60)} {duration(seconds)}" for cause, seconds in ranked if seconds >= 0.1
    ]
    return f"{', '.join(causes)} (added up over all requests)" if causes else ""


class Bar:
    """The progress of a run on a terminal, redrawn in place; gone when the context is left.

    What is written to `sys.stderr` meanwhile appears above it.
    """

    def __init__(self, stream: TextIO, *, color: bool) -> None:
        from rich.console import Console  # noqa: PLC0415 - 60 ms that only a terminal needs
        from rich.live import Live  # noqa: PLC0415

        console = Console(file=stream, no_color=not color, highlight=False)
        self._make = partial(Live, console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def resume(self) -> None:
        """Draw from here on."""
        self._live = self._make()
        self._live.start()

    def pause(self) -> None:
        """Leave the terminal as it was, with its cursor."""
        self._live.stop()

    def draw(self, state: State, speed: Speed) -> None:
        self._live.update(_drawing(state, speed, self._live.console.width), refresh=True)


def _drawing(state: State, speed: Speed, width: int) -> RenderableType:
    """Draw the bar, the words, the wait; where there is little room, the wait comes first."""
    from rich.console import Group  # noqa: PLC0415
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    done, total = done_of(state)
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    share = f"{100 * done // total}%" if total else ""
    neutral: dict[str, Any] = dict.fromkeys(_BAR_STYLES, "default")
    line.add_row(
        ProgressBar(total=total or None, completed=done, pulse=not total, **neutral), share
    )
    narrow = width < _NARROW
    fold: dict[str, Any] = {"no_wrap": not narrow, "overflow": "fold" if narrow else "ellipsis"}
    words = Text(", ".join(state_words(state, speed)), **fold)
    words.highlight_words(trouble(state), "red")
    waits = Text(**fold, style="yellow")
    if state.waiting:
        waits.append(f"waits: {printable(state.waiting, 80)}")
    return Group(line, waits, words) if narrow and state.waiting else Group(line, words, waits)
