"""How fast this machine is, and how fast an endpoint: `bulkfetch bench`.

Without an endpoint the simulated LMS runs in a process of its own and is exported from, one size
of course after the other; with one, a bounded number of its courses is. What is measured is the
whole `export`, file and syncs included. The verdict names the side that sets the limit, so that
nobody buys cores for a slow server or blames a server for a slow client.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from bulkfetch._config.options import Options
from bulkfetch._domain.errors import RunError
from bulkfetch._domain.hooks import Attempt, Hooks
from bulkfetch._engine.export import export
from bulkfetch._output.layout import Layout
from bulkfetch.testing import SimulatedServer, Simulation, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping


SIZES: Final = (3, 30, 300, 3000)
_MOST_ROWS: Final = 3_000_000
_MOST_COURSES: Final = 30_000
_BUSY: Final = 0.9
_PATIENCE: Final = 10.0
"""Seconds that a server gets to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured export. Times in seconds; `cpu` is this process's, `waited` as in Summary.

    `concurrency` is how many requests could be under way at once, `in_flight` how many were, on
    average. `way` is how requests went: "direct", or "session" and why in brackets.
    """

    label: str
    way: str
    concurrency: int
    in_flight: float
    requests: int
    fetched: int
    rows: int
    seconds: float
    cpu: float
    latency_p50: float
    latency_p90: float
    latency_p99: float
    waited: Mapping[str, float]
    simulated: bool

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def cpu_share(self) -> float:
        """Of one core; the commits' thread can bring it a little above 1."""
        return self.cpu / self.seconds

    @property
    def cpu_per_request(self) -> float:
        return self.cpu / max(1, self.requests)

    @property
    def verdict(self) -> str:
        """Which side is the limit, in words."""
        share = f"{self.cpu_share:.0%} of a core"
        if self.cpu_share >= _BUSY:
            return f"this machine is the limit: the client keeps {share} busy"
        paused = {name: seconds for name, seconds in self.waited.items() if name != "slots"}
        cause = max(paused, key=paused.__getitem__, default="")
        if cause and self._is_long(paused[cause]):
            return f"the pacing is the limit ({cause}): the client uses {share}"
        room = f"about {self.requests_per_second / max(self.cpu_share, 0.01):,.0f} requests/s"
        if self.simulated:
            return (
                f"the simulated LMS, a server on this machine too, is the limit: "
                f"the client uses {share} and has room for {room}"
            )
        # Slots are few when the endpoint answers no quicker for more: that is its limit, not ours.
        held = self._is_long(self.waited.get("slots", 0.0))
        return (
            f"the endpoint and the way to it are the limit: {self.in_flight:,.1f} requests at once "
            f"on average, at most {self.concurrency}"
            f"{' (the adaptive pacing held the others back)' if held else ''}, "
            f"half of them answered within {self.latency_p50 * 1000:,.1f} ms; "
            f"the client uses {share} and has room for {room}"
        )

    def _is_long(self, waited: float) -> bool:
        """Whether requests waited for so long, together, that it was half of all time."""
        return waited > self.seconds * self.concurrency / 2


async def measure_endpoint(
    ids: Iterable[str] | AsyncIterable[str], options: Options, *, requests: int, seconds: float
) -> Measurement:
    """Export at most so many courses, begun within so many seconds, with the usual pacing.

    The rows go to a private temporary folder and are removed. Raises RunError.
    """
    least = requests if options.limit is None else min(requests, options.limit)
    limited = replace(options, limit=least)
    return await _measure(_for_a_while(ids, seconds), limited, label=options.host, simulated=False)


async def measure_machine(rows: int, *, concurrency: int, seconds: float) -> Measurement:
    """Export courses of so many rows from the simulated LMS for so many seconds."""
    with _simulated(rows) as (endpoint, ids):
        options = Options(
            endpoint=endpoint,
            token=Simulation().token,
            concurrency=concurrency,
        )
        return await _measure(
            _for_a_while(ids, seconds), options, label=f"{rows:,} rows a course", simulated=True
        )


async def _measure(
    ids: AsyncIterator[str], options: Options, *, label: str, simulated: bool
) -> Measurement:
    under_way = 0.0

    def attempted(attempt: Attempt) -> None:
        nonlocal under_way
        under_way += attempt.seconds

    with TemporaryDirectory(prefix="bulkfetch-bench-") as folder:
        output = str(Path(folder, "statuses.ndjson"))
        began, cpu = time.perf_counter(), time.process_time()
        summary = await export(ids, output, options, hooks=Hooks(attempt=attempted))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        way = way_of(output)
    if not summary.fetched:
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary.failures.items())
        raise RunError(f"nothing to measure, no course was fetched ({kinds or 'no ids'})")
    return Measurement(
        label=label,
        way=way,
        concurrency=min(options.concurrency, summary.requests),
        in_flight=under_way / seconds,
        requests=summary.requests,
        fetched=summary.fetched,
        rows=summary.rows,
        seconds=seconds,
        cpu=cpu,
        latency_p50=summary.latency_p50,
        latency_p90=summary.latency_p90,
        latency_p99=summary.latency_p99,
        waited=summary.waited,
        simulated=simulated,
    )


def way_of(output: str) -> str:
    """Return which way the requests of a finished export went, as its manifest says."""
    manifest = Path(Layout.of(output).manifest)
    if not manifest.exists():  # of an export without a course
        return "unknown"
    return str(json.loads(manifest.read_bytes())["options"].get("way", "unknown"))


async def _for_a_while(
    ids: Iterable[str] | AsyncIterable[str], seconds: float
) -> AsyncIterator[str]:
    """Pass ids on until the time is up: what is in flight then is finished and counted."""
    deadline = time.monotonic() + seconds
    if isinstance(ids, AsyncIterable):
        async for course_id in ids:
            if time.monotonic() > deadline:
                return
            yield course_id
    else:
        for course_id in ids:
            if time.monotonic() > deadline:
                return
            yield course_id


@contextmanager
def _simulated(rows: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Run the simulated LMS in a process of its own; yields its endpoint and its course ids."""
    command = [sys.executable, "-m", "bulkfetch.cli.measure", str(rows)]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().decode().strip()
        if not endpoint:
            raise RunError("the simulated LMS did not start")
        yield endpoint, SimulatedServer(_simulation(rows)).course_ids


@contextmanager
def started(command: list[str], **others: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the context is entered; then ask it to end, and see to it."""
    with subprocess.Popen(command, **others) as process:  # noqa: S603 - a program of ours
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            process.kill()  # does nothing to one that has ended


def _simulation(rows: int) -> Simulation:
    courses = max(8, min(_MOST_COURSES, _MOST_ROWS // max(1, rows)))
    return Simulation(courses=courses, rows=(rows, rows))


def _say_endpoint(server: SimulatedServer) -> None:
    print(server.endpoint, flush=True)  # noqa: T201 - for the process that started this one


def _end_with_parent() -> None:
    """End this process when stdin does, since a parent that is killed ends nobody."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    serve(_simulation(int(sys.argv[1])), on_ready=_say_endpoint)
