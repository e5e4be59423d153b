"""What a run has done so far, counted: courses, rows, failures, retries, latencies, waits.

Fed by the engine with each outcome and each attempt; `summary` freezes it for a person, a program
or the manifest. Latencies go into an HDR histogram (two significant digits, microseconds up to
an hour), which can be stored and merged. Recording costs it 2 us, so equal ones are counted first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Final

from hdrh.histogram import HdrHistogram

from bulkfetch._domain.errors import Refused
from bulkfetch._domain.model import Failed, Fetched

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bulkfetch._domain.errors import CourseError
    from bulkfetch._domain.model import Outcome

_LONGEST_US: Final = 3_600_000_000
_STEP_US: Final = 10
_MOST_COUNTED: Final = 256
_THROTTLED: Final = frozenset({"http-429", "http-503"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run in numbers. Times are in seconds.

    Of this run:

        courses: courses that ended, fetched or not
        fetched: courses whose rows came, all of them
        rows: rows of these courses
        empty: fetched courses without rows
        requests: requests that ended, probes and retries among them
        retries: retries by the kind of the failure before
        seconds: how long the run took
        latency_p50: time within which half of the requests ended
        latency_p90: the same for nine of ten
        latency_p99: the same for 99 of a hundred
        waited: what requests waited by cause, added up over all of them
        settled: ids that earlier runs had settled, not asked for again
        duplicates: ids that the list held again
        strayed: courses with rows that name another one
        limited: how many ids were `asked` `of` how many, where the limit cut the list; else None

    Of the output as it is now, earlier runs included:

        failures: courses without rows by kind
        refused: those of them that no run asks for again by itself
        output_courses: fetched courses
        output_rows: rows
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
    strayed: int = 0
    limited: Mapping[str, int] | None = None
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
    settled; `failed` courses may be asked for again, `refused` ones had the server's final word;
    `failed_requests` are those without rows or a final fault, `throttled` those of them that were
    answered 429 or 503; `in_flight` are some of the ids being asked for, `under_way` is the number
    of requests, `limit` how many may be at once; `waiting` says what the run
    waits for, if it does.
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
    refused: int = 0
    under_way: int = 0
    retries_by_kind: Mapping[str, int] = field(default_factory=dict)
    failed_requests: int = 0
    throttled: int = 0


def joined_totals(totals: Iterable[Mapping[str, Any]], *, seconds: float) -> dict[str, Any]:
    """Add up what runs side by side came to, as their outputs tell it; they took `seconds`.

    Latencies cannot be added up from quantiles: see `joined_latencies`.
    """
    whole: dict[str, Any] = {**asdict(Summary(failures={}, retries={}, waited={}))}
    for one in totals:
        for name, value in one.items():
            if isinstance(value, dict):
                whole[name] = dict(Counter(whole.get(name) or {}) + Counter(value))
            elif isinstance(value, int | float) and name in whole:
                whole[name] += value
    return whole | {"seconds": seconds}


def joined_latencies(texts: Iterable[str]) -> dict[str, Any]:
    """Add up histograms in their text form: that of all, and its quantiles in seconds."""
    total = HdrHistogram(1, _LONGEST_US, 2)
    for text in texts:
        total.add(HdrHistogram.decode(text))
    if not total.get_total_count():
        return {}
    quantiles = {
        f"latency_p{percent}": float(total.get_value_at_percentile(percent)) / 1e6
        for percent in (50, 90, 99)
    }
    return {"latencies": str(total.encode().decode("ascii"))} | quantiles


class Tally:
    """Counts for one run; `add` and `attempted` are on the hot path."""

    def __init__(self) -> None:
        self.courses = self.fetched = self.rows = self.empty = self.requests = self.refused = 0
        self.failed_requests = self.throttled = 0
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

    def claim_only(self, fetched: int, rows: int) -> None:
        """Take back the fetched courses and rows beyond these."""
        self.courses -= self.fetched - fetched
        self.fetched, self.rows = fetched, rows

    def attempted(self, seconds: float, error: CourseError | None = None) -> None:
        """Count a request that took `seconds` to its end, good or bad."""
        self.requests += 1
        if error is not None and not isinstance(error, Refused):
            self.failed_requests += 1
            self.throttled += error.kind in _THROTTLED
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

    def summary(self, *, seconds: float, waited: Mapping[str, float], **counts: Any) -> Summary:
        """Freeze the counts of this run; `counts` are those that others keep."""
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
            output_courses=self.fetched,
            output_rows=self.rows,
            **counts,
        )


class Pauses:
    """The times in which nothing could start, by cause: those that overlap are one.

    Each is a Unix time, a number of seconds and a cause.
    """

    def __init__(self) -> None:
        self._open: dict[str, tuple[float, float]] = {}
        self._over: list[tuple[float, float, str]] = []

    def add(self, at: float, seconds: float, cause: str) -> None:
        begin, end = self._open.get(cause, (at, at))
        if at > end:
            self._close(cause)
            begin = at
        self._open[cause] = (begin, max(end, at + seconds))

    def take(self, now: float, *, last: bool = False) -> list[tuple[float, float, str]]:
        """Return those that are over, once each; the last time also those that are going on."""
        for cause in [cause for cause, (_, end) in self._open.items() if last or end <= now]:
            self._close(cause, latest=now)
        over, self._over = self._over, []
        return over

    def _close(self, cause: str, latest: float = inf) -> None:
        begin, end = self._open.pop(cause)
        if (seconds := min(end, latest) - begin) > 0:
            self._over.append((begin, seconds, cause))
