"""Who else watches a run: Prometheus and OpenTelemetry, through the engine's hooks."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from bulkfetch._domain.errors import RunError
from bulkfetch.cli.help import Flag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bulkfetch._config.options import Options
    from bulkfetch._domain.hooks import Hooks
    from bulkfetch._engine.tally import Summary
    from bulkfetch._pace.limiter import Limiter
    from bulkfetch._watch.metrics import Metrics

_F = TypeVar("_F", bound="Callable[..., Any]")
_FILE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run's metrics go, if anywhere."""

    address: str | None = None
    file: str | None = None


def metrics_flags(function: _F) -> Callable[..., Any]:
    """Add the flags for metrics to a command; it is given a Target as `metrics`."""

    @click.option(
        "--metrics-addr",
        cls=Flag,
        metavar="[HOST:]PORT",
        envvar="BULKFETCH_METRICS_ADDR",
        help="Serve Prometheus metrics here while running; without HOST on this machine only.",
        heading="Messages",
        daily=False,
    )
    @click.option(
        "--metrics-file",
        cls=Flag,
        metavar="FILE.prom",
        envvar="BULKFETCH_METRICS_FILE",
        help="Keep Prometheus metrics in this file, for node_exporter's textfile collector.",
        heading="Messages",
        daily=False,
    )
    @wraps(function)
    def call(*args: Any, metrics_addr: str | None, metrics_file: str | None, **given: Any) -> Any:
        return function(*args, metrics=Target(metrics_addr, metrics_file), **given)

    return call


class Observer:
    """What a run is to be given so that it can be watched."""

    def __init__(self, hooks: Hooks, limiter: Limiter | None, metrics: Metrics | None) -> None:
        self.hooks = hooks
        self.limiter = limiter
        self._metrics = metrics

    def finished(self, summary: Summary) -> None:
        if self._metrics:
            self._metrics.succeeded(time.time())
            self._metrics.exited(1 if summary.failed else 0)


@contextmanager
def observing(options: Options, target: Target, hooks: Hooks) -> Iterator[Observer]:
    """Watch the run inside, within a running event loop; `hooks` are told, too.

    Raises ConfigurationError when the metrics cannot be served or written.
    """
    from bulkfetch._pace.limiter import Limiter
    from bulkfetch._watch.tracing import tracing

    with ExitStack() as stack:
        traced = stack.enter_context(
            tracing({"server.address": options.host, "bulkfetch.concurrency": options.concurrency})
        )
        if not (target.address or target.file):
            yield Observer(hooks | traced, None, None)
            return
        limiter = Limiter.of(options)
        metrics = stack.enter_context(_measuring(limiter, target))
        yield Observer(hooks | traced | metrics.hooks, limiter, metrics)


@contextmanager
def _measuring(limiter: Limiter, target: Target) -> Iterator[Metrics]:
    from bulkfetch._watch.metrics import Metrics, MetricsFile, serving
    from bulkfetch.cli.loop import every

    metrics = Metrics(limiter)
    with ExitStack() as stack:
        if target.file:
            file = MetricsFile(metrics, target.file)
            stack.callback(file.write)
            stack.enter_context(every(_FILE_SECONDS, file.write))
        if target.address:
            stack.enter_context(serving(metrics, target.address))
        try:
            yield metrics
        except RunError as error:
            metrics.exited(error.exit_code)
            raise
