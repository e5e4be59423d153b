"""Small charts as inline SVG with HTML labels: text keeps its size at any width, nothing runs.

Shapes are drawn in a box that stretches with the page; what is to be read stands beside it as text.
Every bar and bin says its value when pointed at. Callers escape what they hand over.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_TICK_SECONDS: Final = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1_800),
    *(3_600, 7_200, 10_800, 21_600, 43_200, 86_400),
)
_MOST_TICKS: Final = 6


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


def over_time(
    values: Sequence[float],
    *,
    seconds: float,
    name: str,
    unit: str,
    starts: Sequence[float] = (),
    bound: Sequence[int | None] = (),
    bound_name: str = "",
) -> str:
    """Draw values in equal bins over `seconds` as an area, and `bound` as a line above it.

    `starts` are moments at which something new begins; they get a dashed line.
    """
    limits = [limit for limit in bound if limit is not None]
    top = ceiling(max([*values, *limits], default=0))
    width = len(values)
    steps = _steps([value / top for value in values])
    shapes = [
        f'<path class="grid" d="M0 0H{width}M0 50H{width}M0 100H{width}"/>',
        f'<path class="area" d="M0 100{steps}V100Z"/>',
        f'<path class="line" d="M0 {_y(values[0] / top)}{steps}"/>' if values else "",
    ]
    if limits:
        heights = [(limit or 0) / top for limit in bound]
        shapes.append(f'<path class="bound" d="M0 {_y(heights[0])}{_steps(heights)}"/>')
    for start in starts:
        x = _short(start / seconds * width)
        shapes.append(f'<path class="start" d="M{x} 0V100"/>')
    titles = []
    for index, value in enumerate(values):
        limit = f", {bound_name} {bound[index]}" if limits else ""
        moment = clock(round(seconds * index / width, 1))
        titles.append(f"{moment}: {number(value)} {unit}{limit}")
    return _figure(
        _key(name, bound_name if limits else ""),
        svg=_svg(width, "".join(shapes) + _hover(titles), f"{name}, up to {number(max(values))}"),
        y=[(100, axis(top)), (50, axis(top / 2)), (0, "0")],
        x=[(100 * moment / seconds, clock(moment)) for moment in _ticks(seconds)],
    )


def columns(
    values: Sequence[int],
    *,
    name: str,
    titles: Sequence[str],
    x: Sequence[tuple[float, str]],
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Draw counts as columns; `x` and `marks` are places in percent and their labels."""
    width, top = len(values), ceiling(max([2, *values]))
    bars = "".join(
        f'<rect class="bar" x="{index + 0.06:g}" y="{_y(value / top)}" width=".88" '
        f'height="{_short(100 * value / top)}"/>'
        for index, value in enumerate(values)
        if value
    )
    lines = "".join(
        f'<path class="mark" d="M{_short(place * width / 100)} 0V100"/>' for place, _ in marks
    )
    grid = f'<path class="grid" d="M0 0H{width}M0 50H{width}M0 100H{width}"/>'
    return _figure(
        _key(name, ""),
        svg=_svg(width, grid + bars + lines + _hover(titles), name),
        y=[(100, axis(top)), (50, axis(top / 2)), (0, "0")],
        x=x,
        marks=marks,
    )


def share(part: float) -> str:
    """Draw a share, 0 to 1, as a bar of the width there is."""
    width = _short(max(100 * part, 0.4 if part else 0))
    return (
        '<svg class="share" aria-hidden="true"><rect class="trough" width="100%" height="100%"/>'
        f'<rect class="bar" width="{width}%" height="100%"/></svg>'
    )


def _figure(
    caption: str,
    *,
    svg: str,
    y: Sequence[tuple[float, str]],
    x: Sequence[tuple[float, str]],
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    heights = "".join(f'<span style="bottom:{_short(at)}%">{text}</span>' for at, text in y)
    above = "".join(_label(at, text) for at, text in marks)
    return (
        f'<figure class="chart"><figcaption>{caption}</figcaption>'
        + (f'<div class="marks">{above}</div>' if marks else "")
        + f'<div class="plot"><div class="y">{heights}</div>{svg}</div>'
        f'<div class="x">{"".join(_label(at, text) for at, text in x)}</div></figure>'
    )


def _label(at: float, text: str) -> str:
    # Labels at the ends stay inside of the box.
    side = ' class="first"' if at < 4 else ' class="last"' if at > 96 else ""
    return f'<span{side} style="left:{_short(at)}%">{text}</span>'


def _key(name: str, bound_name: str) -> str:
    if not bound_name:
        return f"<span>{name}</span>"
    return f'<span class="of-line">{name}</span> <span class="of-bound">{bound_name}</span>'


def _svg(width: float, shapes: str, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">{shapes}</svg>'
    )


def _hover(titles: Sequence[str]) -> str:
    cells = "".join(
        f'<path d="M{index} 0h1v100h-1z"><title>{title}</title></path>'
        for index, title in enumerate(titles)
    )
    return f'<g class="hover">{cells}</g>'


def _steps(heights: Sequence[float]) -> str:
    return "".join(f"V{_y(height)}H{index}" for index, height in enumerate(heights, 1))


def _ticks(seconds: float) -> list[float]:
    step = next((s for s in _TICK_SECONDS if seconds / s <= _MOST_TICKS), seconds / _MOST_TICKS)
    return [round(step * index, 3) for index in range(int(seconds / step) + 1)]


def _y(height: float) -> str:
    return _short(100 - 100 * height)


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
