"""Two checkouts against each other: `python -m benchmarks.versions OLD NEW`.

Whole exports over loopback from one server, pinned as in the comparison: old and new in turn, and
every second round the other way round, so that whatever else the machine does meets both. A ratio
is taken within a round; shown is the median of the rounds. Each checkout runs with the interpreter
of its own `.venv` where it has one, and only through what it publishes. Every value that comes out
is compared, and the raw results are kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import generator
from benchmarks.__main__ import RESULTS
from benchmarks.clients import CONNECTIONS
from benchmarks.endpoint import serving
from benchmarks.machine import PACKAGES, cores, describe, first_line, pin

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = {3: 12_000, 30: 6_000, 300: 1_500, 3000: 300}
"""Requests of one run, by rows a course: about a second."""
_STARTS = 20
_EXPORT = """
import asyncio, json, sys, time
from importlib import metadata
import bulkfetch
url, output, ids, connections, packages = json.load(sys.stdin)
options = bulkfetch.Options(endpoint=url, token="benchmark", concurrency=connections)
work = bulkfetch.export
began, cpu = time.perf_counter(), time.process_time()
summary = asyncio.run(work(ids, output, options))
taken = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
assert summary.fetched == len(ids), summary
found = {name: metadata.version(name) for name in packages}
print(json.dumps({**taken, "versions": {"python": sys.version.split()[0], **found}}))
"""


@dataclass(frozen=True, slots=True)
class Checkout:
    """One side; its process starts in its folder, whose package is then the one that is found."""

    folder: Path

    def run(self, *arguments: str, said: str = "") -> bytes:
        own = self.folder / ".venv" / "bin" / "python"
        command = [str(own) if own.exists() else sys.executable, *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            input=said.encode(),
            stdout=subprocess.PIPE,
            check=True,
            timeout=300,
        ).stdout

    def export(self, url: str, ids: list[str], rows: int) -> dict[str, object]:
        with tempfile.TemporaryDirectory(prefix="bulkfetch-versions-") as name:
            output = Path(name, "statuses.ndjson")
            job = [url, str(output), ids, CONNECTIONS, PACKAGES[:4]]
            found = json.loads(self.run("-c", _EXPORT, said=json.dumps(job)))
            generator.verify(output, ids, rows)
        return {**found, "us_per_request": found["cpu"] / len(ids) * 1e6}

    def help(self) -> dict[str, float]:
        began = time.perf_counter()
        self.run("-m", "bulkfetch", "--help")
        return {"ms": (time.perf_counter() - began) * 1000}


def in_turn(sides: list[Checkout], rounds: int, measure: Callable[[Checkout], dict]) -> list[dict]:
    """Measure both sides in each round; returns what was found as [old, new] of a round."""
    found = []
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        taken = {side: measure(sides[side]) for side in order}
        found.append({"old": taken[0], "new": taken[1]})
    return found


def line(what: str, unit: str, found: list[dict]) -> str:
    """Show the medians, and of the ratios of the rounds the median, the least and the largest."""
    old, new = ([one[side][unit] for one in found] for side in ("old", "new"))
    ratios = sorted(after / before for before, after in zip(old, new, strict=True))
    return (
        f"{what:<14}{median(old):>12,.1f}{median(new):>12,.1f}{median(ratios):>10.3f}"
        f"   [{ratios[0]:.3f} {ratios[-1]:.3f}]  {unit.replace('_', ' ')}"
    )


def main() -> None:
    given = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__)
    given.add_argument("checkouts", metavar="OLD NEW", nargs=2, type=Path)
    given.add_argument("--rounds", type=int, default=5)
    given.add_argument("--scale", type=float, default=1.0, help="of the number of requests")
    given.add_argument("--json", metavar="FILE", type=Path, help="where the raw results go")
    arguments = given.parse_args()
    sides, place = [Checkout(path.resolve()) for path in arguments.checkouts], cores()
    revisions = [first_line("git", "-C", str(side.folder), "rev-parse", "HEAD") for side in sides]
    raw = {**describe(place), "old": revisions[0], "new": revisions[1], "rounds": {}}
    print(f"old {revisions[0]}, new {revisions[1]}; load before the start {raw['load']:.1f}")
    print(f"{'':<14}{'old':>12}{'new':>12}{'new/old':>10}   [of the rounds]", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="bulkfetch-versions-") as name,
        serving(Path(name), tuple(SIZES), latencies=(0.0,), core=place.server) as endpoint,
    ):
        pin(place.client)  # which the processes inherit
        raw["endpoint"] = str(endpoint)
        for rows, count in SIZES.items():
            url, ids = (
                endpoint.url(rows),
                generator.course_ids(max(32, int(count * arguments.scale))),
            )
            work = lambda side, url=url, ids=ids, rows=rows: side.export(url, ids, rows)  # noqa: E731 - one line
            raw["rounds"][f"{rows} rows"] = in_turn(sides, arguments.rounds, work)
            print(
                line(f"{rows:,} rows", "us_per_request", raw["rounds"][f"{rows} rows"]), flush=True
            )
    raw["rounds"]["--help"] = in_turn(sides, _STARTS, Checkout.help)
    print(line("--help", "ms", raw["rounds"]["--help"]))
    path = arguments.json or RESULTS / f"{str(raw['date'])[:16].replace(':', '')}-versions.json"
    path.write_text(json.dumps(raw, indent=1) + "\n")
    print(f"raw results: {path}")


if __name__ == "__main__":
    main()
