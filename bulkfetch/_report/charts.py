"""Small charts as numbers and paths; the page's template draws them as SVG with HTML labels.

Text keeps its size at any width: shapes are drawn in a box that stretches with the page, and what
is to be read stands beside it. Every bin says its value when pointed at. Pure, and free of markup:
escaping is the template's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

_TICK_SECONDS: Final = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1_800),
    *(3_600, 7_200, 10_800, 21_600, 43_200, 86_400),
)
_MOST_TICKS: Final = 6
_APART: Final = 9
"""Percent of a chart's width that a label of the clock needs."""
_ROOM: Final = 12
"""Percent of half a page's width that a label of a time needs."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values in equal bins under a name; `kind` is how the first is drawn, or a line over it."""

    name: str
    unit: str
    values: Sequence[float | None]
    kind: str = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What there is to draw: `width` bins side by side, heights in percent from above.

    `paths` are (class, d), `bars` (x, y, height), `bands` (x, width, title), `titles` one a bin;
    labels are (place in percent, text).
    """

    name: str
    keys: Sequence[tuple[str, str]]
    width: int
    titles: Sequence[str]
    y: Sequence[tuple[float, str]]
    x: Sequence[tuple[float, str]]
    paths: Sequence[tuple[str, str]] = ()
    bars: Sequence[tuple[float, str, str]] = ()
    bands: Sequence[tuple[str, str, str]] = ()
    clock: Sequence[tuple[float, str]] = ()
    marks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The time at work: its length, where runs begin and when by the clock, and pauses.

    `pauses` are (begin, seconds, title).
    """

    seconds: float
    runs: Sequence[float]
    began: Sequence[datetime]
    pauses: Sequence[tuple[float, float, str]] = ()


def number(value: float) -> str:
    """Write a number with three digits or more: `0.25`, `12.5`, `1,234`."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def axis(value: float) -> str:
    """Write a number for a narrow axis: `250`, `40k`, `1.5M`."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return number(value)


def clock(seconds: float) -> str:
    """Write a moment on a time axis: `0.5 s`, `40 s`, `5 min`, `1:30 h`."""
    if seconds < 60:
        return f"{seconds:g} s"
    if seconds < 3600:
        rest = f":{seconds % 60:02.0f}" if seconds % 60 else ""
        return f"{seconds // 60:.0f}{rest} min"
    return f"{seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f} h"


def ceiling(value: float) -> float:
    """Return the round number at or above a value, for the top of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    steps = (round(step * power, 9) for step in (1, 2, 3, 4, 5, 6, 8, 10))
    return next(step for step in steps if step >= value * 0.999)


def over_time(series: Sequence[Series], axis_: Axis) -> Chart:
    """Draw the first of the series as an area if it is a plain line, the others as lines over it.

    Later runs begin at a dotted line.
    """
    known = [value for one in series for value in one.values if value is not None]
    top = ceiling(max(known, default=0))
    width, seconds = len(series[0].values), axis_.seconds
    shown = [one for one in series if any(value is not None for value in one.values)]
    titles = []
    for index in range(width):
        moment = clock(round(seconds * index / width, 1))
        titles.append(_title(moment, [(one, one.values[index]) for one in shown]))
    return Chart(
        name=f"{series[0].name}, up to {number(max(known, default=0))}",
        keys=[(one.kind, one.name) for one in shown],
        width=width,
        titles=titles,
        y=_heights(top),
        x=[(100 * moment / seconds, clock(moment)) for moment in _ticks(seconds)],
        clock=_clock_ticks(axis_),
        paths=[
            ("grid", _grid(width)),
            *_lines(shown, top),
            *(("start", f"M{_short(at / seconds * width)} 0V100") for at in axis_.runs[1:]),
        ],
        bands=[
            (_short(begin / seconds * width), _short(max(length / seconds, 0.002) * width), title)
            for begin, length, title in axis_.pauses
        ],
    )


def columns(
    values: Sequence[int],
    *,
    name: str,
    titles: Sequence[str],
    x: Sequence[tuple[float, str]],
    marks: Sequence[tuple[float, str]] = (),
) -> Chart:
    """Draw counts as columns; `x` and `marks` are places in percent and their labels."""
    width, top = len(values), ceiling(max([2, *values]))
    return Chart(
        name=name,
        keys=[("", name)],
        width=width,
        titles=titles,
        y=_heights(top),
        x=x,
        marks=marks,
        paths=[
            ("grid", _grid(width)),
            *(("mark", f"M{_short(place * width / 100)} 0V100") for place, _ in marks),
        ],
        bars=[
            (round(index + 0.06, 2), _y(value / top), _short(100 * value / top))
            for index, value in enumerate(values)
            if value
        ],
    )


def round_ticks(first: float, last: float) -> list[float]:
    """Return at most seven round numbers on a logarithmic axis, like 1, 2, 5, 10."""
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    for steps in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        ticks = [round(step * 10.0**decade, 9) for decade in decades for step in steps]
        ticks = [tick for tick in ticks if first * 0.999 <= tick <= last * 1.001]
        if len(ticks) <= _MOST_TICKS + 1:
            break
    return ticks[:: 1 + len(ticks) // (_MOST_TICKS + 2)]


def apart(labels: Iterable[tuple[float, str]]) -> list[tuple[float, str]]:
    """Leave out labels that would touch the one before; the last one leans to the left."""
    kept: list[tuple[float, str]] = []
    for at, text in labels:
        if not kept or at - kept[-1][0] >= (_ROOM if at <= 96 else 1.5 * _ROOM):
            kept.append((at, text))
    return kept


def _lines(series: Sequence[Series], top: float) -> Iterator[tuple[str, str]]:
    for place, one in enumerate(series):
        heights = [(value or 0) / top for value in one.values]
        if not place and one.kind == "line":
            yield "area", f"M0 100{_steps(heights)}V100Z"
        yield one.kind, f"M0 {_y(heights[0])}{_steps(heights)}"


def _title(moment: str, values: Iterable[tuple[Series, float | None]]) -> str:
    told = [f"{number(value)} {one.unit}" for one, value in values if value is not None]
    return f"{moment}: {', '.join(told)}"


def _clock_ticks(axis_: Axis) -> list[tuple[float, str]]:
    """Say what the clock showed: at each run's begin, and at round times where there is room."""
    ends = [*axis_.runs[1:], axis_.seconds]
    found: list[tuple[float, str]] = []
    days = {began.date() for began in axis_.began}
    for run, (start, began, end) in enumerate(zip(axis_.runs, axis_.began, ends, strict=True)):
        name = f"{began:%m-%d %H:%M}" if run and len(days) > 1 else f"{began:%H:%M:%S}"
        moments = [(start, name), *_round_times(start, began, end, axis_.seconds)]
        for at, text in moments:
            place = 100 * at / axis_.seconds
            if not found or place - found[-1][0] >= _APART:
                found.append((place, text))
    return found


def _round_times(
    start: float, began: datetime, end: float, total: float
) -> Iterable[tuple[float, str]]:
    step = next((s for s in _TICK_SECONDS if s >= 1 and total / s <= _MOST_TICKS), 86_400)
    midnight = began.replace(hour=0, minute=0, second=0, microsecond=0)
    first = math.ceil((began - midnight).total_seconds() / step) * step
    for index in range(_MOST_TICKS + 2):
        moment = midnight + timedelta(seconds=first + index * step)
        at = start + (moment - began).total_seconds()
        if at > end:
            return
        yield at, f"{moment:%H:%M:%S}" if step < 60 else f"{moment:%H:%M}"


def _grid(width: float) -> str:
    return f"M0 0H{width}M0 50H{width}M0 100H{width}"


def _heights(top: float) -> list[tuple[float, str]]:
    return [(100, axis(top)), (50, axis(top / 2)), (0, "0")]


def _steps(heights: Sequence[float]) -> str:
    return "".join(f"V{_y(height)}H{index}" for index, height in enumerate(heights, 1))


def _ticks(seconds: float) -> list[float]:
    step = next((s for s in _TICK_SECONDS if seconds / s <= _MOST_TICKS), seconds / _MOST_TICKS)
    return [round(step * index, 3) for index in range(int(seconds / step) + 1)]


def _y(height: float) -> str:
    return _short(100 - 100 * height)


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
