"""One process against two: `python -m benchmarks --shards`.

The same list by the real command: one process; two by hand, `--shard 0/2` and `1/2`, then `merge`;
and `--shards 2 --scheduler local`. Time runs from the first start to the last end, so that the
merge and a cluster's beginning are in it; every byte of the output is compared. The ways take
turns, round by round, and a ratio is taken within a round. Nothing is pinned: processes and server
share the cores, so what the server takes is measured, too, and bounds what two can gain.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import generator
from benchmarks.clients import CONNECTIONS
from benchmarks.endpoint import Endpoint, serving
from benchmarks.machine import MIB, Cores, describe, end_with_signals, measure, peak
from benchmarks.report import heading, verdict
from bulkfetch.cli.measure import started

if TYPE_CHECKING:
    import argparse

GOALS = {30: 1.4, 300: 1.55, 3000: 1.7, 100_000: 1.7}
"""How many times as fast two processes are to be, by rows a course."""
ONE, HAND, LOCAL = "one", "by hand", "local"
WAYS = (ONE, HAND, LOCAL)
MANY = "many"
_MANY_SHARDS, _MANY_ROWS = 64, 3
_PATIENCE = 900.0
"""Seconds after which a command is given up."""
_COMMAND = (sys.executable, "-m", "bulkfetch")
_LINE = "{:<20}{:>11}{:>8}{:>12}{:>9}{:>10}{:>15}{:>7} {}"


@dataclass(frozen=True, slots=True)
class Taken:
    """One run; seconds, CPU seconds of its processes and of the server."""

    rows: int
    way: str
    round: int
    count: int
    seconds: float = 0.0
    merge: float = 0.0
    cpu: float = 0.0
    server_cpu: float = 0.0
    error: str | None = None

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.count / self.seconds


@dataclass(slots=True)
class Course:
    """What is measured, where, and what was found."""

    endpoint: Endpoint
    folder: Path
    seconds: float
    ways: tuple[str, ...]
    deadline: float
    counts: dict[int, int] = field(default_factory=dict)
    runs: list[Taken] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def measure_round(self, rows: int, number: int) -> None:
        """Measure every way once, unless that would not end in time."""
        if rows not in self.counts:
            self.counts[rows] = self._choose(rows)
        if time.monotonic() + 2.5 * self.seconds > self.deadline:
            self.skipped.append(f"{rows:,} rows, round {number + 1}: out of time")
            return
        first = number % len(self.ways)  # who comes after whom changes
        for way in (*self.ways[first:], *self.ways[:first]):
            print(f"{rows:,} rows, round {number + 1}: {way}", file=sys.stderr, flush=True)
            self.runs.append(self.run(way, rows, number, self.counts[rows]))

    def _choose(self, rows: int) -> int:
        """Return how many courses one process fetches in the time that is wanted."""
        count = max(8, round(max(2, self.seconds / 6) / (150e-6 + 4e-6 * rows)))
        taken = self.run(ONE, rows, -1, count)
        if taken.error:
            raise RuntimeError(taken.error)
        return max(8, round(taken.rate * self.seconds))

    def run(self, way: str, rows: int, number: int, count: int) -> Taken:
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            output, ids = Path(name, "out.ndjson"), Path(name, "ids.txt")
            ids.write_text("".join(f"{one}\n" for one in generator.course_ids(count)))
            steps = _steps(way, self.endpoint.url(rows), ids, output)
            before = _cpu(), _server_cpu(self.folder)
            try:
                seconds = [_side_by_side(commands) for commands in steps]
                used = _cpu() - before[0], _server_cpu(self.folder) - before[1]
                generator.verify_pieces(output, generator.course_ids(count), rows)
            except (RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
                return Taken(rows, way, number, count, error=str(error))
        merge = seconds[1] if seconds[1:] else 0.0
        return Taken(rows, way, number, count, sum(seconds), merge, *used)


def _steps(way: str, url: str, ids: Path, output: Path) -> list[list[list[str]]]:
    """Return commands: those of a step run side by side, the steps one after the other."""

    def fetch(target: Path, *more: str, connections: int = CONNECTIONS) -> list[str]:
        words = ["fetch", "-q", "--endpoint", url, "-i", str(ids), "-o", str(target)]
        return [*_COMMAND, *words, "--concurrency", str(connections), *more]

    if way == ONE:
        return [[fetch(output)]]
    if way == LOCAL:
        return [[fetch(output, "--shards", "2", "--scheduler", "local")]]
    parts = [output.with_name(f"part-{number}.ndjson") for number in range(2)]
    half = CONNECTIONS // 2
    return [
        [fetch(part, "--shard", f"{n}/2", connections=half) for n, part in enumerate(parts)],
        [[*_COMMAND, "merge", "-q", *map(str, parts), "-o", str(output)]],
    ]


def _side_by_side(commands: list[list[str]]) -> float:
    """Run commands to their end; returns the seconds they took."""
    environment = os.environ | {"BULKFETCH_TOKEN": "benchmark"}
    began = time.perf_counter()
    with ExitStack() as stack:
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        running = [
            stack.enter_context(started(command, env=environment, **pipes)) for command in commands
        ]
        for process in running:
            said = process.communicate(timeout=_PATIENCE)[1]
            if process.returncode:
                raise RuntimeError(f"exit code {process.returncode}: {said.strip()[-300:]}")
        return time.perf_counter() - began


def _cpu() -> float:
    """Return the CPU seconds of all processes that ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _server_cpu(folder: Path) -> float:
    """Return the CPU seconds of nginx and its workers, 0 where that cannot be seen."""
    total = 0
    with suppress(OSError, ValueError):
        master = int((folder / "nginx.pid").read_text())
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        for process in (master, *map(int, children)):
            stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            total += int(stat[11]) + int(stat[12])
    return total / os.sysconf("SC_CLK_TCK")


# What comes out


def table(rows: int, runs: list[Taken]) -> list[str]:
    """Show what was measured with courses of so many rows."""
    here = [run for run in runs if run.rows == rows]
    if not here:
        return []
    by_way = {way: {run.round: run for run in here if run.way == way} for way in WAYS}
    good = {
        way: {number: run for number, run in found.items() if not run.error}
        for way, found in by_way.items()
    }
    head = _LINE.format(
        "way",
        "requests/s",
        "spread",
        "CPU us/req",
        "merge s",
        "speed-up",
        "[of rounds]",
        "goal",
        "",
    )
    lines = ["", f"{rows:,} rows, {here[0].count:,} courses, rounds: {len(by_way[ONE])}", head]
    lines += [_line(way, found, good[ONE], rows) for way, found in good.items() if found]
    lines += [f"{run.way:<20} FAILED: {run.error}" for run in here if run.error]
    return lines + _bound(list(good[ONE].values()))


def _line(way: str, found: dict[int, Taken], ones: dict[int, Taken], rows: int) -> str:
    rates = [run.rate for run in found.values()]
    ratios = sorted(found[n].rate / ones[n].rate for n in found if n in ones)
    gain = median(ratios) if ratios and way != ONE else None
    goal = GOALS.get(rows) if gain else None
    return _LINE.format(
        way,
        f"{median(rates):,.1f}",
        f"{(max(rates) - min(rates)) / median(rates):.0%}",
        f"{median(run.cpu / run.count for run in found.values()) * 1e6:,.0f}",
        f"{median(run.merge for run in found.values()):.2f}" if way == HAND else "",
        f"{gain:.2f}x" if gain else "",
        f"[{ratios[0]:.2f} {ratios[-1]:.2f}]" if gain else "",
        f"{goal:g}" if goal else "",
        verdict(met=gain >= goal) if gain and goal else "",
    ).rstrip()


def _bound(ones: list[Taken]) -> list[str]:
    """Say what two processes could gain if nothing but their own work cost them anything."""
    if not ones or not any(run.server_cpu for run in ones):
        return []
    cores = len(os.sched_getaffinity(0))
    server = median(run.server_cpu / run.count for run in ones)
    most = median(cores * run.seconds / (run.cpu + run.server_cpu) for run in ones)
    said = f"nginx takes {server * 1e6:,.0f} us a request on the same {cores} cores"
    return [f"{said}: two processes can be {min(2, most):.2f} times as fast as one, at most"]


# Many shards


def many(job, begin) -> dict[str, float]:
    """Fetch 64 shards on two workers, in this process as the client; returns what it took."""
    from psutil import Process  # Dask brings it

    from bulkfetch import Options
    from bulkfetch._scale import cluster

    options = Options(endpoint=job["url"], token="benchmark", concurrency=CONNECTIONS)
    took: dict[str, float] = {}

    async def listed(_layout) -> tuple[str, None]:
        return job["ids"], None

    async def main() -> None:
        crew = cluster.Crew(options, job["count"])
        await cluster.run_on_cluster(
            crew, listed, job["output"], options, shards=job["shards"], scheduler="local"
        )

    def joined(*given):
        took["files"] = len(list(Path(f"{job['output']}.parts").iterdir()))
        took["before"] = peak() / MIB
        below = Process().children(recursive=True)
        took["workers"] = max(peak(child.pid) for child in below) / MIB
        began = time.perf_counter()
        summary = join(*given)
        took["merge"] = time.perf_counter() - began
        return summary

    join = cluster._join  # noqa: SLF001 - what is timed
    begin()
    with mock.patch.object(cluster, "_join", joined):
        asyncio.run(main())
    return took


def measure_many(course: Course, count: int) -> dict[str, object]:
    """Run it, then verify and report its output by the real commands."""
    with tempfile.TemporaryDirectory(dir=course.folder) as name:
        output, ids = Path(name, "out.ndjson"), Path(name, "ids.txt")
        ids.write_text("".join(f"{one}\n" for one in generator.course_ids(count)))
        job = {
            "url": course.endpoint.url(_MANY_ROWS),
            "ids": str(ids),
            "output": str(output),
            "count": count,
            "shards": _MANY_SHARDS,
        }
        done = measure("benchmarks.shards:many", job, core=None, patience=_PATIENCE)
        generator.verify_pieces(output, generator.course_ids(count), _MANY_ROWS)
        size = output.stat().st_size
        after = {
            word: _side_by_side([[*_COMMAND, word, "-q", str(output), *more]])
            for word, more in (("verify", ()), ("report", ("--html", f"{name}/report.html")))
        }
    assert isinstance(done.answer, dict)
    return {
        "courses": count,
        "shards": _MANY_SHARDS,
        "bytes": size,
        "seconds": done.seconds,
        "client_peak_mib": done.peak / MIB,
        **done.answer,
        **after,
    }


def tell_many(found: dict) -> str:
    return (
        f"\n{found['courses']:,} courses of {_MANY_ROWS} rows in {found['shards']} shards on 2 "
        f"workers: {found['seconds']:.1f} s; the merge of {found['bytes'] / MIB:,.0f} MiB "
        f"{found['merge']:.2f} s\n"
        f"peak memory: client {found['client_peak_mib']:.0f} MiB "
        f"({found['before']:.0f} before the merge), a worker {found['workers']:.0f} MiB; "
        f"verify {found['verify']:.1f} s, report {found['report']:.1f} s; every byte compared"
    )


# The command


def run(given: argparse.Namespace, path: Path | None) -> int:
    """Do as the arguments of `python -m benchmarks --shards` say."""
    end_with_signals()
    sizes, ways, with_many = _wanted(given.only)
    rounds = given.rounds or (1 if given.quick else 5)
    seconds = given.seconds or (3.0 if given.quick else 60.0)
    facts = describe(Cores(None, None))
    with tempfile.TemporaryDirectory(prefix="bulkfetch-benchmarks-") as name:
        folder = Path(name)
        bodies = tuple(sorted({*sizes, _MANY_ROWS}))
        with serving(folder, bodies, latencies=(0.0,), core=None) as endpoint:
            raw: dict[str, object] = {**facts, "endpoint": str(endpoint)}
            shared = "server and processes share the cores"
            print("\n".join(heading(raw, Cores(None, None), shared)), flush=True)
            deadline = time.monotonic() + given.minutes * 60
            course = Course(endpoint, folder, seconds, ways, deadline)
            for number in range(rounds):
                for rows in sizes:
                    course.measure_round(rows, number)
                    _keep(path, raw, course)
            print("\n".join(line for rows in sizes for line in table(rows, course.runs)))
            if with_many:
                raw["many"] = measure_many(course, 5_000 if given.quick else 200_000)
                print(tell_many(raw["many"]))
                _keep(path, raw, course)
    print("\n".join(f"skipped: {line}" for line in course.skipped))
    if path is not None:
        print(f"raw results: {path}")
    return 1 if any(one.error for one in course.runs) else 0


def _wanted(only: str | None) -> tuple[tuple[int, ...], tuple[str, ...], bool]:
    names = [name.strip() for name in (only or "").split(",") if name.strip()]
    sizes = tuple(int(name) for name in names if name.isdecimal())
    ways = tuple(way for way in WAYS if way in {ONE, *names})
    if unknown := [name for name in names if not (name.isdecimal() or name in {*WAYS, MANY})]:
        sys.exit(f"--only {', '.join(unknown)}: say sizes, {', '.join((*WAYS, MANY))}")
    if not names:
        return tuple(GOALS), WAYS, True
    return sizes, ways if len(ways) > 1 else WAYS, MANY in names


def _keep(path: Path | None, raw: dict[str, object], course: Course) -> None:
    """Keep what is measured so far, whatever comes after it."""
    if path is not None:
        runs = [asdict(run) for run in course.runs]
        text = json.dumps({**raw, "skipped": course.skipped, "runs": runs}, indent=1)
        path.write_text(f"{text}\n")
