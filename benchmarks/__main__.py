"""bulkfetch against what its user would pick instead: `python -m benchmarks`.

Cells (a size, an encoding, a latency) are measured one after the other; within a cell the clients
take turns, round by round, so that whatever else the machine does meets all of them. A ratio is
taken within a round; shown is the median of the rounds. An output that is wrong in any value
counts as a failure, whatever its speed. Raw results are kept after each cell. Nothing is
installed; what is missing is said.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import generator, report, shards
from benchmarks.clients import CLIENTS, CONNECTIONS, Client
from benchmarks.endpoint import Ceiling, Endpoint, ceiling, serving
from benchmarks.machine import (
    ChildError,
    Cores,
    cores,
    describe,
    end_with_signals,
    measure,
    tools,
    versions,
)
from benchmarks.report import Cell, Run
from bulkfetch.cli.measure import way_of
from bulkfetch.testing._wsdl import wsdl

RESULTS = Path(__file__).parent / "results"
FULL_CELLS = (
    *(Cell(rows) for rows in (3, 30, 300, 3000)),
    Cell(30, gzip=True),
    Cell(3000, gzip=True),
    Cell(30, latency=0.05),
    Cell(100_000),  # takes longest, so that running out of time costs only rounds of it
)
QUICK_CELLS = (Cell(30), Cell(3000))
_COMPRESSED = {"export", "stream", "aiohttp tuned", "aiohttp iterparse"}
_LATE = {*_COMPRESSED, "requests", "zeep"}
"""Who takes part where bodies are compressed or late, unless clients are asked for by name."""
_LARGE = 100_000
_START = 0.5
"""Seconds a run takes besides its measured time, roughly: to start, and to be verified."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured; no round begins that is not over within `budget` seconds."""

    cells: tuple[Cell, ...]
    clients: tuple[Client, ...]
    rounds: int
    seconds: float
    least: int
    budget: float
    large: int = 8
    """Courses of 100,000 rows a run, for everybody the same."""
    named: bool = False
    """Whether the clients were asked for by name: then all take part everywhere."""

    def rounds_of(self, cell: Cell) -> int:
        return min(self.rounds, 3) if cell.rows >= _LARGE else self.rounds

    def count(self, client: Client, cell: Cell, rate: float | None) -> int:
        """Choose how many requests take about `seconds`, from the last rate or a guess."""
        if cell.rows >= _LARGE:
            return self.large
        if cell.latency:
            rate = CONNECTIONS / cell.latency
        wanted = self.seconds * (rate or 1 / client.expected(cell.rows))
        return max(self.least, round(wanted))

    def clients_of(self, cell: Cell) -> list[Client]:
        part = _LATE if cell.latency else _COMPRESSED
        everybody = self.named or not (cell.gzip or cell.latency)
        return [one for one in self.clients if everybody or one.name in part]

    def expected(self, cell: Cell) -> float:
        """Guess the seconds of a cell's first round."""
        return sum(
            _START
            + self.count(one, cell, None) * max(one.expected(cell.rows), cell.latency / CONNECTIONS)
            for one in self.clients_of(cell)
        )


@dataclass(slots=True)
class Bench:
    """One run of the whole comparison."""

    plan: Plan
    endpoint: Endpoint
    folder: Path
    cores: Cores
    deadline: float
    runs: list[Run] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def measure_cell(self, cell: Cell) -> None:
        clients = self.plan.clients_of(cell)
        rates: dict[str, float] = {}
        seconds, rounds = self.plan.expected(cell), self.plan.rounds_of(cell)
        for number in range(rounds):
            began = time.monotonic()
            if began + seconds > self.deadline:
                self.skipped.append(f"{cell}: {number} of {rounds} rounds done, out of time")
                break
            first = number % len(clients)  # who comes after whom changes
            for client in (*clients[first:], *clients[:first]):
                _show(f"{cell}, round {number + 1}: {client.name}")
                run = self._measure(client, cell, number, rates.get(client.name))
                self.runs.append(run)
                if run.error is None:
                    rates[client.name] = run.rate
            seconds = time.monotonic() - began
        _show("")

    def _measure(self, client: Client, cell: Cell, number: int, rate: float | None) -> Run:
        count = self.plan.count(client, cell, rate)
        output = self.folder / "statuses.ndjson"
        url = self.endpoint.url(cell.rows, gzip=cell.gzip, latency=cell.latency)
        description = self.folder / "lms.wsdl"
        description.write_bytes(wsdl(url, generator.NAMESPACE))
        job = {
            "url": url,
            "wsdl": str(description),
            "count": count,
            "connections": CONNECTIONS,
            "output": str(output),
        }
        try:
            done = measure(f"benchmarks.clients:{client.function}", job, core=self.cores.client)
            generator.verify(output, generator.course_ids(count), cell.rows)
            way = way_of(str(output)) if client.name == report.SUBJECT else None
        except (ChildError, ValueError) as error:
            return Run(client.name, cell, number, count, error=str(error))
        finally:
            for path in self.folder.glob("statuses.ndjson*"):
                path.unlink()
        return Run(
            client.name, cell, number, count,
            seconds=done.seconds, cpu=done.cpu, idle=done.idle, peak=done.peak, way=way,
        )  # fmt: skip


def _show(text: str) -> None:
    """Say on a terminal what is going on, on a line that goes away."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    given = _arguments()
    if given.versions:
        for name, version in (versions() | tools()).items():
            print(f"{name:<12} {version or 'not installed'}")
        return 0
    if given.shards:
        return shards.run(given, _shards_path(given))
    end_with_signals()
    plan = _plan(given)
    _tell_missing()
    found = cores()
    with tempfile.TemporaryDirectory(prefix="bulkfetch-benchmarks-") as name:
        folder = Path(name)
        sizes = tuple(sorted({cell.rows for cell in plan.cells}))
        latencies = tuple(sorted({cell.latency for cell in plan.cells}))
        with serving(folder, sizes, latencies=latencies, core=found.server) as endpoint:
            facts = {**describe(found), "endpoint": str(endpoint)}
            print("\n".join(report.heading(facts, found)), flush=True)
            bench = Bench(plan, endpoint, folder, found, time.monotonic() + plan.budget)
            path = _path(given, facts)
            _measure_all(bench, facts, path)
    print("\n".join(report.guarantees(bench.runs)))
    for line in bench.skipped:
        print(f"skipped: {line}")
    if path is not None:
        print(f"\nraw results: {path}")
    return 1 if any(run.error for run in bench.runs) else 0


def _measure_all(bench: Bench, facts: dict[str, object], path: Path | None) -> None:
    """Measure cell after cell; what is measured is shown and kept, whatever comes after it."""
    ceilings: list[dict[str, object]] = []
    for cell in bench.plan.cells:
        top = _ceiling(bench, cell)
        ceilings.append({**asdict(cell), **asdict(top)})
        bench.measure_cell(cell)
        print("\n".join(report.table(cell, bench.runs, top)), flush=True)
        if path is not None:
            runs = [asdict(run) for run in bench.runs]
            raw = {**facts, "ceilings": ceilings, "skipped": bench.skipped, "runs": runs}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(raw, indent=1) + "\n")


def _ceiling(bench: Bench, cell: Cell) -> Ceiling:
    seconds = 1.0 if bench.plan.seconds < 1 else 2.0
    url = bench.endpoint.url(cell.rows, gzip=cell.gzip, latency=cell.latency)
    return ceiling(
        url,
        bench.folder,
        server=bench.endpoint.kind(cell.latency),
        core=bench.cores.client,
        seconds=seconds,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sizes, short rounds: < 2 min")
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="comma-separated sizes (30), clients (export, zeep) or both; export always runs",
    )
    parser.add_argument("--rounds", type=int, help="rounds a cell (5, quick 3; large courses 3)")
    parser.add_argument("--seconds", type=float, help="target time of one run (2, quick 0.4)")
    parser.add_argument(
        "--shards",
        action="store_true",
        help="one process against two shards instead; --only takes sizes, ways and 'many'",
    )
    parser.add_argument(
        "--minutes", type=float, default=70.0, help="of --shards: begin no round that ends later"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="where the raw results go")
    parser.add_argument("--versions", action="store_true", help="name the versions and leave")
    return parser.parse_args()


def _plan(given: argparse.Namespace) -> Plan:
    cells, clients = QUICK_CELLS if given.quick else FULL_CELLS, CLIENTS
    wanted: set[str] = set()
    if given.only:
        names = [name.strip() for name in given.only.split(",")]
        sizes = {int(name) for name in names if name.isdecimal()}
        wanted = {name for name in names if not name.isdecimal()}
        if unknown := wanted - {client.name for client in CLIENTS}:
            known = ", ".join(client.name for client in CLIENTS)
            sys.exit(f"--only {', '.join(unknown)}: no such client; there are {known}")
        if sizes:
            cells = tuple(c for c in FULL_CELLS if c.rows in sizes) or tuple(map(Cell, sizes))
            cells = tuple(cell for cell in cells if not given.quick or cell == Cell(cell.rows))
        if wanted:
            clients = tuple(one for one in CLIENTS if one.name in {*wanted, "export"})
    clients = tuple(one for one in clients if not one.missing)
    return Plan(
        cells,
        clients,
        rounds=given.rounds or (3 if given.quick else 5),
        seconds=given.seconds or (0.4 if given.quick else 2.0),
        least=8 if given.quick else CONNECTIONS,
        budget=100 if given.quick else 28 * 60,
        large=4 if given.quick else 8,
        named=bool(wanted),
    )


def _tell_missing() -> None:
    missing = {client.name: client.missing for client in CLIENTS if client.missing}
    for name, packages in missing.items():
        print(f"not measured: {name}, as {', '.join(packages)} is not installed")
    if missing:
        print("all peers, from a checkout: pip install '.[bench]'")
    said = tools()
    if lacking := [name for name in ("nginx", "wrk") if not said[name]]:
        print(f"without {' and '.join(lacking)}; to have both: apt install nginx-light wrk")
    if missing or lacking:
        print()


def _shards_path(given: argparse.Namespace) -> Path | None:
    if given.json is None and not (given.quick or given.only):
        return RESULTS / time.strftime("%Y-%m-%dT%H%M-shards.json")
    return given.json


def _path(given: argparse.Namespace, facts: dict[str, object]) -> Path | None:
    if given.json is None and not (given.quick or given.only):
        return RESULTS / f"{str(facts['date'])[:16].replace(':', '')}.json"
    return given.json


if __name__ == "__main__":
    sys.exit(main())
