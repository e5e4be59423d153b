"""A run in words: the line while it runs, the summary at its end, the bar on a terminal.

The words are pure functions of a `State` or a `Summary`; only `Bar` draws, with rich, which is
imported when the first bar is. Strangers' text (ids, reasons) is made printable here.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Self

from bulkfetch._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TextIO

    from rich.console import RenderableType

    from bulkfetch._tally import State, Summary

_WINDOW: Final = 15.0
"""Seconds over which the speed shown is averaged."""


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


def duration(seconds: float) -> str:
    """Write a duration for a person: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(number: int, noun: str) -> str:
    """Write `1 course`, `1,000 courses`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def by_count(counts: Mapping[str, float]) -> str:
    """Write `timeout 3, http-503 2`, the largest first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{printable(name, 60)} {number:,}" for name, number in ranked)


def done_of(state: State) -> tuple[int, int | None]:
    """Return how many courses are done, earlier runs included, and of how many."""
    return state.settled + state.courses, state.total


def state_words(state: State, speed: Speed) -> list[str]:
    """Return what a running state has to say, part by part; why it waits is not among them."""
    done, total = done_of(state)
    words = [f"{done:,}/{total:,} courses" if total is not None else counted(done, "course")]
    words += [counted(state.rows, "row"), f"{speed.requests:.1f} req/s"]
    if state.failed:
        words.append(f"{state.failed:,} failed or refused")
    if total is not None and total > done and speed.courses > 0:
        words.append(f"{duration((total - done) / speed.courses)} left")
    return words


def state_line(state: State, speed: Speed) -> str:
    """Return a run at one moment on one line."""
    waiting = f"; waits: {printable(state.waiting, 80)}" if state.waiting else ""
    return ", ".join(state_words(state, speed)) + waiting


def table(rows: Iterable[tuple[str, str]], indent: str = "  ") -> list[str]:
    """Align names and words in two columns; rows without words are left out."""
    said = [(name, words) for name, words in rows if words]
    width = max((len(name) for name, _ in said), default=0)
    return [f"{indent}{name:<{width}}  {words}".rstrip() for name, words in said]


def verdicts(failed: int, refused: int, kinds: Mapping[str, int]) -> list[tuple[str, str]]:
    """Tell the courses that the next run asks for from those that the server has refused."""
    return [
        ("failed", f"{failed:,}, will be tried again" if failed else ""),
        ("refused", f"{refused:,}, the server's final word" if refused else ""),
        ("why", by_count(kinds)),
    ]


def figures(summary: Summary) -> list[tuple[str, str]]:
    """Return the closing summary of a run, for `table`."""
    seconds = summary.seconds or 1e-9
    earlier = ""
    if summary.output_courses != summary.fetched:
        earlier = f" in this run, {summary.output_courses:,} in the output"
    empty = f", {counted(summary.empty, 'course')} without rows" if summary.empty else ""
    rows = f"{summary.rows:,} at {summary.rows / seconds:,.0f}/s{empty}"
    if summary.output_rows != summary.rows:
        rows += f"; {summary.output_rows:,} in the output"
    retries = sum(summary.retries.values())
    skipped = {"settled before": summary.settled, "repeated ids": summary.duplicates}
    return [
        ("courses", f"{summary.fetched:,} fetched{earlier}"),
        ("skipped", by_count({name: number for name, number in skipped.items() if number})),
        *verdicts(summary.failed - summary.refused, summary.refused, summary.failures),
        ("rows", rows),
        ("requests", f"{summary.requests:,} at {summary.requests / seconds:,.1f}/s"),
        ("retries", f"{retries:,}: {by_count(summary.retries)}" if retries else ""),
        ("latency", _latencies(summary) if summary.requests else ""),
        ("waited", _waits(summary)),
    ]


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
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def draw(self, state: State, speed: Speed) -> None:
        self._live.update(_drawing(state, speed), refresh=True)


def _drawing(state: State, speed: Speed) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    done, total = done_of(state)
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    share = f"{100 * done // total}%" if total else ""
    bar = ProgressBar(total=total or None, completed=done, pulse=not total)
    line.add_row(bar, share)
    words = Text(", ".join(state_words(state, speed)), no_wrap=True, overflow="ellipsis")
    waits = Text(no_wrap=True, overflow="ellipsis", style="yellow")
    if state.waiting:
        waits.append(f"waits: {printable(state.waiting, 80)}")
    return Group(line, words, waits)
