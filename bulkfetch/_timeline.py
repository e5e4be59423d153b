"""What happened when: a journal's frames as courses, rows and concurrency over time.

The axis is the time in which a run was at work: pauses between runs are left out, so that a night's
run and the next day's repair are both readable. A journal tells when courses were committed, up to
0.2 s after they ended: a commit's courses are spread evenly over the time since the one before.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MOST_BINS: Final = 120
_LEAST_SECONDS: Final = 0.25
"""Of a bin; commits come up to 0.2 s apart."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run, or several one after the other, in bins of `bin_seconds`.

    `runs` says where on the axis each run begins. `courses` and `rows` are per second, `under_way`
    is how many courses were at work on average, waiting for a retry included, `limit` how many
    requests were allowed at once (None where that is not known).
    """

    seconds: float
    bin_seconds: float
    runs: tuple[float, ...]
    courses: tuple[float, ...]
    rows: tuple[float, ...]
    under_way: tuple[float, ...]
    limit: tuple[int | None, ...]


@dataclass(slots=True)
class Strip:
    """One run's share of the frames; times are Unix times and never run backwards."""

    began: float
    ended: float = 0.0
    commits: list[tuple[float, int, int, int]] = field(default_factory=list)
    """When, how many courses were fetched, how many of all ended, how many rows."""
    spans: array[float] = field(default_factory=lambda: array("d"))
    """The seconds of each fetched course."""
    limits: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ended = max(self.ended, self.began)

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def seen(self, at: float) -> float:
        """Take a frame's time, and return it or, had the clock been set back, the last one."""
        self.ended = max(self.ended, at)
        return self.ended

    def commit(
        self, at: float, courses: Sequence[tuple[str, int, int, float]], failed: int
    ) -> None:
        """Take whole courses (id, rows, attempts, seconds) and the number of those that failed."""
        fetched, rows = len(courses), sum(course[1] for course in courses)
        self.commits.append((self.seen(at), fetched, fetched + failed, rows))
        self.spans.extend(course[3] for course in courses)

    def limit(self, at: float, limit: int) -> None:
        self.limits.append((self.seen(at), limit))


def timeline(strips: Sequence[Strip]) -> Timeline | None:
    """Draw up the timeline of the runs; None when no time passed."""
    total = sum(strip.seconds for strip in strips)
    if total <= 0:
        return None
    number = max(1, min(_MOST_BINS, int(total / _LEAST_SECONDS)))
    width = total / number
    courses, rows, under_way = ([0.0] * number for _ in range(3))
    limits: list[int | None] = [None] * number
    starts = []
    offset = 0.0
    for strip in strips:
        starts.append(offset)
        _fill(strip, offset, width, (courses, rows, under_way, limits))
        offset += strip.seconds
    return Timeline(
        seconds=total,
        bin_seconds=width,
        runs=tuple(starts),
        courses=tuple(round(amount / width, 3) for amount in courses),
        rows=tuple(round(amount / width, 3) for amount in rows),
        under_way=tuple(round(amount, 3) for amount in under_way),
        limit=tuple(_carried(limits)),
    )


def _fill(
    strip: Strip,
    offset: float,
    width: float,
    series: tuple[list[float], list[float], list[float], list[int | None]],
) -> None:
    """Add a run that begins at `offset` to the bins."""
    courses, rows, under_way, limits = series

    def place(at: float) -> float:
        return (max(at, strip.began) - strip.began + offset) / width

    before, spans = strip.began, iter(strip.spans)
    for at, fetched, ended, number_of_rows in strip.commits:
        _spread(courses, place(before), place(at), ended)
        _spread(rows, place(before), place(at), number_of_rows)
        for number in range(1, fetched + 1):
            end = before + (at - before) * number / fetched
            begin = place(end - next(spans))
            _spread(under_way, begin, place(end), place(end) - begin)
        before = at
    for at, limit in strip.limits:
        limits[min(int(place(at)), len(limits) - 1)] = limit  # the last one of a bin stands


def _spread(bins: list[float], begin: float, end: float, amount: float) -> None:
    """Share an amount out evenly over the bins from `begin` to `end`, both counted in bins."""
    last = len(bins) - 1
    first = min(int(begin), last)
    if end <= first + 1 or end <= begin:
        bins[first] += amount
        return
    share = amount / (end - begin)
    at = begin
    for index in range(first, min(int(end), last) + 1):
        until = end if index == last else min(end, index + 1)
        bins[index] += share * (until - at)
        at = until


def _carried(limits: Iterable[int | None]) -> list[int | None]:
    """Fill the gaps with the value before, those at the beginning with the first."""
    known = list(limits)
    last = next((limit for limit in known if limit is not None), None)
    for index, limit in enumerate(known):
        last = known[index] = last if limit is None else limit
    return known
