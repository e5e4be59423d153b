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
_BINS_PER_DECADE: Final = 10
_US: Final = 1e6


@dataclass(frozen=True, slots=True)
class Bin:
    """How many requests took from `least` to less than `most` seconds."""

    least: float
    most: float
    requests: int


@dataclass(frozen=True, slots=True)
class Latency:
    """How long requests took, in seconds; the bins' edges grow by the tenth root of ten."""

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
    counts: Counter[int] = Counter()
    for item in total.get_recorded_iterator():
        place = math.floor(math.log10(item.value_iterated_to) * _BINS_PER_DECADE)
        counts[place] += item.count_at_value_iterated_to
    return tuple(
        Bin(_edge(place), _edge(place + 1), counts[place])
        for place in range(min(counts), max(counts) + 1)
    )


def _edge(place: int) -> float:
    return round(float(10 ** (place / _BINS_PER_DECADE)) / _US, 9)
