"""Latencies as a run stored them, read back: percentiles, and how they are spread.

Several runs' histograms are added up, which is exact: HdrHistogram keeps counts, not samples.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hdrh.histogram import HdrHistogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
_PER_DECADE: Final = (10, 20, 50)
"""Bins to a factor of ten, as many as needed; two digits, which is all that is kept, bear 50."""
_FEWEST_BINS: Final = 8
_US: Final = 1e6


@dataclass(frozen=True, slots=True)
class Bin:
    """How many requests took from `least` to less than `most` seconds."""

    least: float
    most: float
    requests: int


@dataclass(frozen=True, slots=True)
class Latency:
    """How long requests took, in seconds; the bins' edges grow by an equal factor."""

    requests: int
    mean: float
    least: float
    most: float
    percentiles: Mapping[str, float]
    bins: tuple[Bin, ...]


def read_latencies(texts: Iterable[str]) -> Latency | None:
    """Add up histograms in HdrHistogram's text form; None when they hold no request."""
    total: HdrHistogram | None = None
    for text in texts:
        one = HdrHistogram.decode(text)
        if total is None:
            total = one
        else:
            total.add(one)
    if total is None or not total.get_total_count():
        return None
    return Latency(
        requests=int(total.get_total_count()),
        mean=round(float(total.get_mean_value()) / _US, 6),
        least=float(total.get_min_value()) / _US,
        most=float(total.get_max_value()) / _US,
        percentiles={
            f"{percent:g}": float(total.get_value_at_percentile(percent)) / _US
            for percent in PERCENTILES
        },
        bins=_bins(total),
    )


def _bins(total: HdrHistogram) -> tuple[Bin, ...]:
    """Spread the requests over bins, empty ones at both sides when their times are alike."""
    for per_decade in _PER_DECADE:
        counts: Counter[int] = Counter()
        for item in total.get_recorded_iterator():
            place = math.floor(math.log10(item.value_iterated_to) * per_decade)
            counts[place] += item.count_at_value_iterated_to
        first, last = min(counts), max(counts)
        if (missing := _FEWEST_BINS - (last - first + 1)) <= 0:
            break
    first -= max(0, (missing + 1) // 2)
    last += max(0, (missing + 1) // 2)
    return tuple(
        Bin(_edge(place, per_decade), _edge(place + 1, per_decade), counts[place])
        for place in range(first, last + 1)
    )


def _edge(place: int, per_decade: int) -> float:
    return round(float(10 ** (place / per_decade)) / _US, 9)
