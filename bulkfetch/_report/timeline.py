"""What happened when: a journal's frames as courses, rows, requests and trouble over time.

The axis is the time in which a run was at work: pauses between runs are left out, so that a night's
run and the next day's repair are both readable; where each run begins by the clock stands beside.
A journal tells when courses were committed, up to 0.2 s after they ended: a commit's courses are
spread evenly over the time since the one before. Snapshots, one a second, tell the rest, which is
spread likewise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bulkfetch._domain.wording import iso

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_T = TypeVar("_T")
_MOST_BINS: Final = 120
_LEAST_SECONDS: Final = 0.25
"""Of a bin; commits come up to 0.2 s apart."""
_MOST_BANDS: Final = 200
_SNAPSHOT_SECONDS: Final = 1.0
_TROUBLE: Final = ("failed_requests", "throttled", "retries")
"""What snapshots count from a run's beginning on; older versions count retries only."""
_PACE: Final = ("for answers ", "limit ", "the server takes ", "the server strains", "retry budget")
"""How the words for a wait begin that only slows a run down."""


@dataclass(frozen=True, slots=True)
class Band:
    """A time in which nothing could start: where it begins on the axis, for how long, and why."""

    begin: float
    seconds: float
    cause: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run, or several one after the other, in bins of `bin_seconds`.

    `runs` says where on the axis each run begins, `began` when that was. `courses` and `rows` are
    per second; `failures` (courses that failed or were refused), `failed_requests`, `throttled`
    (those of them that were answered 429 or 503) and `retries` are numbers in each bin. `under_way`
    is how many requests were under way on average, `limit` how many were allowed at once (None
    where that is not known).
    """

    seconds: float
    bin_seconds: float
    runs: tuple[float, ...]
    began: tuple[str, ...]
    courses: tuple[float, ...]
    rows: tuple[float, ...]
    failures: tuple[int, ...]
    failed_requests: tuple[int, ...]
    throttled: tuple[int, ...]
    retries: tuple[int, ...]
    under_way: tuple[float, ...]
    limit: tuple[int | None, ...]
    pauses: tuple[Band, ...]


@dataclass(slots=True)
class Strip:
    """One run's share of the frames; times are Unix times and never run backwards."""

    began: float
    ended: float = 0.0
    commits: list[tuple[float, int, int, int]] = field(default_factory=list)
    """When, how many courses ended, how many of them without rows, how many rows."""
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """When, how many requests were allowed at once, how many were under way."""
    trouble: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    """When, and how many of each of `_TROUBLE` since the snapshot before."""
    pauses: list[Band] = field(default_factory=list)
    """As the journal tells them, `begin` in Unix time."""
    waits: list[Band] = field(default_factory=list)
    """As snapshots hint at them, for journals that tell of no pause."""
    _counted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TROUBLE, 0))

    def __post_init__(self) -> None:
        self.ended = max(self.ended, self.began)

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def seen(self, at: float) -> float:
        """Take a frame's time, and return it or, had the clock been set back, the last one."""
        self.ended = max(self.ended, at)
        return self.ended

    def commit(self, at: float, rows: Sequence[int], failed: int) -> None:
        """Take the rows of each fetched course, and the number of courses without rows."""
        self.seen(at)  # the commits of merged parts come part by part, so that times go back
        self.commits.append((at, len(rows) + failed, failed, sum(rows)))

    def take_back(self, number: int) -> None:
        """Take one failed course out of a commit: there was a later word on it."""
        at, ended, failed, rows = self.commits[number]
        self.commits[number] = (at, ended - 1, failed - 1, rows)

    def snapshot(self, state: Mapping[str, Any]) -> None:
        """Take what a snapshot tells of its moment, of which older versions tell less."""
        at, limit = self.seen(float(state["at"])), int(state["limit"])
        # A limit that was just lowered lets older requests end.
        under_way = min(int(state.get("under_way", len(state.get("in_flight", ())))), limit)
        self.samples.append((at, limit, under_way))
        counted = {name: int(state.get(name, 0)) for name in _TROUBLE}
        new = {name: max(0, number - self._counted[name]) for name, number in counted.items()}
        self.trouble.append((at, new))
        self._counted = counted
        if cause := _pause(state.get("waiting")):
            self.waits.append(Band(at, _SNAPSHOT_SECONDS, cause))


def timeline(strips: Sequence[Strip]) -> Timeline | None:
    """Draw up the timeline of the runs; None when no time passed."""
    total = sum(strip.seconds for strip in strips)
    if total <= 0:
        return None
    number = max(1, min(_MOST_BINS, int(total / _LEAST_SECONDS)))
    bins = _Bins(number, total / number)
    starts, bands = [], []
    offset = 0.0
    for strip in strips:
        starts.append(offset)
        bins.fill(strip, offset)
        bands += _bands(strip, offset, bins.width)
        offset += strip.seconds
    longest = sorted(bands, key=lambda band: -band.seconds)[:_MOST_BANDS]
    return Timeline(
        seconds=total,
        bin_seconds=bins.width,
        runs=tuple(starts),
        began=tuple(iso(strip.began) for strip in strips),
        courses=tuple(round(amount / bins.width, 3) for amount in bins.courses),
        rows=tuple(round(amount / bins.width, 3) for amount in bins.rows),
        failures=tuple(bins.failures),
        **{name: _whole(amounts) for name, amounts in bins.trouble.items()},
        under_way=tuple(round(value or 0, 3) for value in _carried(bins.means())),
        limit=tuple(_carried(bins.limits)),
        pauses=tuple(sorted(longest, key=lambda band: band.begin)),
    )


class _Bins:
    """The series while they are filled, `width` seconds a bin."""

    def __init__(self, number: int, width: float) -> None:
        self.width = width
        self.courses, self.rows = [0.0] * number, [0.0] * number
        self.failures = [0] * number
        self.trouble = {name: [0.0] * number for name in _TROUBLE}
        self.under_way: list[list[int]] = [[] for _ in range(number)]
        self.limits: list[int | None] = [None] * number

    def fill(self, strip: Strip, offset: float) -> None:
        """Add a run that begins at `offset` seconds."""

        def place(at: float) -> float:
            return (max(at, strip.began) - strip.began + offset) / self.width

        def bin_of(at: float) -> int:
            return min(int(place(at)), len(self.limits) - 1)

        before = strip.began
        for at, ended, failed, rows in strip.commits:
            _spread(self.courses, place(before), place(at), ended)
            _spread(self.rows, place(before), place(at), rows)
            self.failures[bin_of(at)] += failed
            before = at
        for at, limit, under_way in strip.samples:
            self.limits[bin_of(at)] = limit  # the last one of a bin stands
            self.under_way[bin_of(at)].append(min(under_way, limit))
        before = strip.began
        for at, new in strip.trouble:
            for name, amount in new.items():
                _spread(self.trouble[name], place(before), place(at), amount)
            before = at

    def means(self) -> list[float | None]:
        """Return how many requests were under way, never more than the bin's limit."""
        return [
            min(sum(found) / len(found), limit or 0) if found else None
            for found, limit in zip(self.under_way, self.limits, strict=True)
        ]


def _bands(strip: Strip, offset: float, width: float) -> list[Band]:
    """Place a run's pauses on the axis; those of one cause that nearly touch are one."""
    found: list[Band] = []
    near = width if strip.pauses else max(width, 2 * _SNAPSHOT_SECONDS)
    for pause in sorted(strip.pauses or strip.waits, key=lambda band: (band.cause, band.begin)):
        begin = min(max(pause.begin, strip.began), strip.ended)
        end = min(max(pause.begin + pause.seconds, begin), strip.ended)
        begin, end = begin - strip.began + offset, end - strip.began + offset
        last = found[-1] if found else None
        if last and last.cause == pause.cause and begin - (last.begin + last.seconds) <= near:
            end = max(end, last.begin + last.seconds)
            found[-1] = Band(last.begin, round(end - last.begin, 3), last.cause)
        else:
            found.append(Band(round(begin, 3), round(end - begin, 3), pause.cause))
    return found


def _pause(waiting: object) -> str | None:
    """Take the cause out of a snapshot's words for a wait; None if it only slows the run down."""
    if not isinstance(waiting, str) or waiting.startswith(_PACE):
        return None
    cause = waiting.partition("; prob")[0]
    head, _, last = cause.removesuffix(" s").rpartition(" ")
    return head if head and last.isdecimal() else cause


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


def _whole(amounts: Iterable[float]) -> tuple[int, ...]:
    """Round to whole numbers that add up as the amounts do."""
    told = [round(total) for total in accumulate(amounts)]
    return tuple(after - before for before, after in pairwise([0, *told]))


def _carried(values: Iterable[_T | None]) -> list[_T | None]:
    """Fill the gaps with the value before, those at the beginning with the first."""
    known = list(values)
    last = next((value for value in known if value is not None), None)
    for index, value in enumerate(known):
        last = known[index] = last if value is None else value
    return known
