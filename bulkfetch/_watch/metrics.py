"""What runs do, as Prometheus metrics: scraped from a port, or left in a file for node_exporter.

Counters are fed by the engine's hooks, gauges are read from the limiter when somebody looks; each
`Metrics` has a registry of its own. Names and units follow Prometheus' conventions. Needs the
extra `metrics`.
"""

from __future__ import annotations

import errno
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import ConfigurationError, Refused
from bulkfetch._domain.hooks import Hooks
from bulkfetch._domain.model import Fetched
from bulkfetch._output.layout import failure

try:
    from prometheus_client import (
        CollectorRegistry,
        Counter,
        Histogram,
        start_http_server,
        write_to_textfile,
    )
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.parser import text_string_to_metric_families
    from prometheus_client.registry import Collector
except ImportError:
    raise ConfigurationError(
        "metrics need a package that is not installed: pip install 'bulkfetch[metrics]'"
    ) from None

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from bulkfetch._domain.hooks import Attempt, Commit, Wait
    from bulkfetch._domain.model import Outcome
    from bulkfetch._pace.limiter import Limiter

_log = logging.getLogger("bulkfetch")

_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 300)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LAST_SUCCESS: Final = "bulkfetch_last_success_timestamp_seconds"


def counting_hooks(registry: CollectorRegistry, limiter: Limiter | None) -> Hooks:
    """Return hooks that count in `registry`, and let it read `limiter`; see `adapters`."""
    try:
        counts = _HookCounts(registry)
    except ValueError:
        raise ConfigurationError(
            "this registry has bulkfetch's metrics already: call prometheus_hooks once and give "
            "the same hooks to every run"
        ) from None
    if limiter is not None:
        registry.register(_Pace(limiter))
    return Hooks(counts.ended, counts.attempted, counts.waits, counts.commits)


class Metrics:
    """The metrics of whatever runs with `hooks` and `limiter`; `registry` holds them."""

    def __init__(self, limiter: Limiter) -> None:
        counts = CollectorRegistry()
        self.hooks = counting_hooks(counts, limiter)
        self.registry = CollectorRegistry()
        self._readings = _Readings(counts)
        self.registry.register(self._readings)

    def succeeded(self, at: float) -> None:
        """Note the Unix time of a run that finished, failed courses or not."""
        self._readings.last_success = at

    def exited(self, code: int) -> None:
        """Note how the run ended."""
        self._readings.exit_code = code


class _HookCounts:
    """What the hooks count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._courses = Counter(
            "bulkfetch_courses", "Courses that ended.", ["outcome"], registry=registry
        )
        for name in ("fetched", "refused", "failed"):
            self._courses.labels(name)  # a series that is there can be seen not to grow
        self._rows = Counter("bulkfetch_rows", "Rows of fetched courses.", registry=registry)
        self._requests = Counter(
            "bulkfetch_requests",
            "Requests by result: ok, or the kind of the failure.",
            ["result"],
            registry=registry,
        )
        self._retries = Counter(
            "bulkfetch_retries", "Retries by what made them needed.", ["kind"], registry=registry
        )
        self._duration = Histogram(
            "bulkfetch_request_duration_seconds",
            "Time from the start of a request to its end, good or bad.",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._committed = Histogram(
            "bulkfetch_commit_duration_seconds",
            "Time to write the courses of one commit and to bring them to the disk.",
            buckets=_BUCKETS[:9],
            registry=registry,
        )

    def ended(self, outcome: Outcome) -> None:
        if isinstance(outcome, Fetched):
            self._courses.labels("fetched").inc()
            self._rows.inc(len(outcome.rows))
        else:
            refused = isinstance(outcome.error, Refused)
            self._courses.labels("refused" if refused else "failed").inc()

    def attempted(self, attempt: Attempt) -> None:
        self._requests.labels(attempt.error.kind if attempt.error else "ok").inc()
        self._duration.observe(attempt.seconds)

    def waits(self, wait: Wait) -> None:
        self._retries.labels(wait.cause).inc()

    def commits(self, commit: Commit) -> None:
        self._committed.observe(commit.seconds)


class _Pace(Collector):
    """What the limiter says right now."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def collect(self) -> Iterable[Metric]:
        limiter = self._limiter
        yield GaugeMetricFamily(
            "bulkfetch_in_flight", "Requests under way.", value=limiter.in_flight
        )
        yield GaugeMetricFamily(
            "bulkfetch_concurrency_limit", "Most requests at once, now.", value=limiter.limit
        )
        waits = CounterMetricFamily(
            "bulkfetch_wait_seconds",
            "Time that requests waited by cause, added up over all of them.",
            labels=["cause"],
        )
        for cause, seconds in dict(limiter.waited).items():
            waits.add_metric([cause], seconds)
        yield waits


class _Readings(Collector):
    """The counts, without the times of their creation, and how the last run ended."""

    def __init__(self, counts: CollectorRegistry) -> None:
        self._counts = counts
        self.last_success: float | None = None
        self.exit_code: int | None = None

    def collect(self) -> Iterable[Metric]:
        for metric in self._counts.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric
        for name, text, value in (
            (_LAST_SUCCESS, "When a run last finished, failed courses or not.", self.last_success),
            ("bulkfetch_exit_code", "Exit code of the run, once it has ended.", self.exit_code),
        ):
            if value is not None:  # not zero before, which would say something
                yield GaugeMetricFamily(name, text, value=value)


@contextmanager
def serving(metrics: Metrics, address: str) -> Iterator[int]:
    """Serve the metrics over HTTP while the context is entered; gives the port.

    `address` is HOST:PORT, or the port alone for this machine; port 0 takes a free one. Raises
    ConfigurationError.
    """
    host, port = _split(address)
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise ConfigurationError(
            f"metrics cannot be served on {address}: {error.strerror or error}; choose another "
            "--metrics-addr"
        ) from None
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class MetricsFile:
    """A file of metrics for node_exporter's textfile collector, always whole.

    The time of the last success is carried over from the file that was there: else each new run
    would make the old one's success forgotten. Readable by others as the umask says; it holds no
    names and no ids. Raises ConfigurationError when it cannot be written at first, OutputError when
    the disk is full; later the work goes on, with a warning.
    """

    def __init__(self, metrics: Metrics, path: str) -> None:
        self._metrics = metrics
        self._path = path
        if (before := _last_success(path)) is not None:
            metrics.succeeded(before)
        try:
            write_to_textfile(path, metrics.registry)
        except OSError as error:
            if error.errno in _FULL:
                raise failure(error, f"write {path}") from None
            raise ConfigurationError(
                f"metrics cannot be written to {path}: {error.strerror or error}; choose another "
                "--metrics-file"
            ) from None

    def write(self) -> None:
        try:
            write_to_textfile(self._path, self._metrics.registry)
        except OSError as error:
            _log.warning("metrics cannot be written to %s: %s", self._path, error.strerror or error)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise ConfigurationError(
            f"--metrics-addr {address!r} has no port: write it like 127.0.0.1:9464, or 9464"
        )
    return host.strip("[]") or "127.0.0.1", int(port)


def _last_success(path: str) -> float | None:
    """Return what an earlier run left in the file; None when there is no such thing."""
    try:
        for family in text_string_to_metric_families(Path(path).read_text(encoding="utf-8")):
            if family.name == _LAST_SUCCESS:
                return float(family.samples[0].value)
    except (OSError, ValueError, IndexError):
        return None
    return None
