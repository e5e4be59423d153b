"""What a run has done so far, counted: courses, rows, failures, retries, latencies, waits.

Fed by the engine with each outcome and each attempt; `summary` freezes it for a person, a program
or the manifest. Latencies go into an HDR histogram (two significant digits, microseconds up to
an hour), which can be stored and merged. Recording costs it 2 us, so equal ones are counted first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hdrh.histogram import HdrHistogram

from bulkfetch._model import Failed, Fetched

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkfetch._model import Outcome

_LONGEST_US: Final = 3_600_000_000
_STEP_US: Final = 10
_MOST_COUNTED: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run in numbers. Times are in seconds.

    `courses`, `fetched`, `rows`, `empty` (courses without rows) and the latencies are this run's;
    `waited` adds up, over all requests, what they waited by cause; `settled` is how many courses
    earlier runs had settled. `failures` (courses by kind), `refused` (those of them that no run
    asks for again by itself), `output_courses` and `output_rows` speak of the output as it is now,
    earlier runs included.
    """

    courses: int = 0
    fetched: int = 0
    rows: int = 0
    empty: int = 0
    failures: Mapping[str, int]
    refused: int = 0
    requests: int = 0
    retries: Mapping[str, int]
    seconds: float = 0.0
    latency_p50: float = 0.0
    latency_p90: float = 0.0
    latency_p99: float = 0.0
    waited: Mapping[str, float]
    settled: int = 0
    duplicates: int = 0
    output_courses: int = 0
    output_rows: int = 0

    @property
    def failed(self) -> int:
        """Courses without rows."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A run in progress, at one moment; `at` is Unix time, the rest as in Summary.

    `total` is the number of ids where it is known; `settled` how many of them earlier runs had
    settled; `in_flight` are some of the ids being asked for; `limit` is how many may be at once;
    `waiting` says in words why requests wait, if they do.
    """

    at: float
    seconds: float
    total: int | None
    settled: int
    courses: int
    fetched: int
    failed: int
    rows: int
    requests: int
    retries: int
    in_flight: tuple[str, ...]
    limit: int
    waiting: str | None
    waited: Mapping[str, float]
    latency_p50: float
    latency_p90: float
    latency_p99: float


class Tally:
    """Counts for one run; `add` and `attempted` are on the hot path."""

    def __init__(self) -> None:
        self.courses = self.fetched = self.rows = self.empty = self.requests = self.refused = 0
        self.failures: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self._counted: dict[int, int] = {}
        self._histogram = HdrHistogram(1, _LONGEST_US, 2)

    def add(self, outcome: Outcome) -> None:
        self.courses += 1
        match outcome:
            case Fetched():
                self.fetched += 1
                self.rows += (rows := len(outcome.rows))
                self.empty += not rows
            case Failed():
                self.failures[outcome.error.kind] += 1
                self.refused += outcome.error.settled

    def attempted(self, seconds: float) -> None:
        """Count a request that took `seconds` to its end, good or bad."""
        self.requests += 1
        counted, steps = self._counted, int(seconds * (1e6 / _STEP_US))
        counted[steps] = counted.get(steps, 0) + 1
        if len(counted) > _MOST_COUNTED:
            self._record()

    def retried(self, kind: str) -> None:
        self.retries[kind] += 1

    def quantile(self, percent: float) -> float:
        """Return a latency in seconds; 0 before the first request."""
        if not self.requests:
            return 0.0
        return float(self._record().get_value_at_percentile(percent)) / 1e6

    def latencies(self) -> str:
        """Return the histogram in HdrHistogram's compressed text form."""
        return str(self._record().encode().decode("ascii"))

    def _record(self) -> HdrHistogram:
        for steps, count in self._counted.items():
            micros = max(1, min(_LONGEST_US, steps * _STEP_US))
            self._histogram.record_value(micros, count)
        self._counted.clear()
        return self._histogram

    def summary(
        self, *, seconds: float, waited: Mapping[str, float], settled: int = 0, duplicates: int = 0
    ) -> Summary:
        """Freeze the counts of this run."""
        return Summary(
            courses=self.courses,
            fetched=self.fetched,
            rows=self.rows,
            empty=self.empty,
            failures=dict(self.failures.most_common()),
            refused=self.refused,
            requests=self.requests,
            retries=dict(self.retries.most_common()),
            seconds=seconds,
            latency_p50=self.quantile(50),
            latency_p90=self.quantile(90),
            latency_p99=self.quantile(99),
            waited=dict(waited),
            settled=settled,
            duplicates=duplicates,
            output_courses=self.fetched,
            output_rows=self.rows,
        )
