"""The parts one by one, each figure beside its goal: `python -m benchmarks.micro`.

Parts that must not disturb each other run in processes of their own, on the client's core. What is
compared is measured in turn; shown are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lxml import etree

from benchmarks import generator, report
from benchmarks.endpoint import serving
from benchmarks.machine import MIB, Cores, Measured, cores, describe, measure, pin
from benchmarks.parts import parse
from bulkfetch._journal import lines
from bulkfetch._limiter import Limiter
from bulkfetch._model import GET_FINAL_STATUSES, Fetched
from bulkfetch._records import RowFormat
from bulkfetch._rows import Spool
from bulkfetch._sink import JournaledFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROOT = Path(__file__).resolve().parent.parent
_SMALL, _LARGE = 100_000, 2_000_000
"""Rows of responses of 15 MB and 300 MB."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `least` or `most` is its goal."""

    bench: str
    what: str
    value: float
    unit: str
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        goal, verdict = "", ""
        if self.least is not None:
            goal, verdict = f">= {self.least:g}", "" if self.value >= self.least else "missed"
        if self.most is not None:
            goal, verdict = f"<= {self.most:g}", "" if self.value <= self.most else "missed"
        digits = 3 if abs(self.value) < 1 else 2 if abs(self.value) < 100 else 0
        value = f"{self.value:,.{digits}f}"
        return f"{self.bench:<9}{self.what:<48}{value:>12} {self.unit:<12}{goal:>9} {verdict}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how thoroughly is measured."""

    folder: Path
    cores: Cores
    quick: bool

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 7

    def child(self, part: str, stdin=None, **job: object) -> Measured:
        """Run a part in a process of its own, with a fresh output."""
        output = self.folder / "statuses.ndjson"
        try:
            job = {"output": str(output), **job}
            return measure(f"benchmarks.{part}", job, core=self.cores.client, stdin=stdin)
        finally:
            for path in self.folder.glob("statuses.ndjson*"):
                path.unlink()


def in_turn(functions: dict[str, Callable[[], object]], rounds: int, seconds: float = 0.1):
    """Time functions in turn; returns the median seconds of one call of each."""
    calls = {}
    for name, function in functions.items():
        function()
        began = time.perf_counter()
        function()
        calls[name] = max(1, int(seconds / (time.perf_counter() - began)))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.process_time()
            for _ in range(calls[name]):
                function()
            times[name].append((time.process_time() - began) / calls[name])
    return {name: median(found) for name, found in times.items()}


def parser(place: Place) -> Iterator[Figure]:
    """The parser, rows encoded, against lxml.fromstring, which only builds the tree."""
    form = RowFormat(GET_FINAL_STATUSES)
    for rows in (3, 30, 300, 3000):
        body = generator.body(rows)
        taken = in_turn(
            {"ours": lambda body=body: parse(body, form), "tree": lambda body=body: _tree(body)},
            place.rounds,
        )
        yield Figure("parser", f"{rows} rows", len(body) / taken["ours"] / 1e6, "MB/s")
        yield Figure("parser", f"{rows} rows", rows / taken["ours"], "rows/s")
        goal = 0.35 if rows == 3000 else None
        share = taken["tree"] / taken["ours"]
        yield Figure("parser", f"{rows} rows, share of fromstring's speed", share, "", least=goal)


def _tree(body: bytes) -> None:
    etree.fromstring(body)


def sweep(place: Place) -> Iterator[Figure]:
    """The sweep's memory must not depend on the response's size."""
    over = {}
    for rows in (_SMALL, _LARGE):
        path = place.folder / f"{rows}.xml"
        with path.open("wb") as file:
            file.writelines(generator.pieces(rows))
        done = place.child("parts:sweep", path=str(path))
        path.unlink()
        assert done.answer == rows
        over[rows] = (done.peak - done.idle) / MIB
        yield Figure("sweep", f"{rows:,} rows, peak over idle", over[rows], "MiB")
        yield Figure("sweep", f"{rows:,} rows", rows / done.cpu, "rows/s")
    growth = over[_LARGE] - over[_SMALL]
    yield Figure("sweep", "growth from 15 MB to 300 MB", growth, "MiB", most=1)


def commit(place: Place) -> Iterator[Figure]:
    """Writing, syncing and journaling courses of 30 rows, by batch and durability."""
    for durability in ("batch", "course", "none"):
        for batch in (1, 8, 32, 256):
            taken = _commit(place, durability, batch)
            what = f"{durability}, {batch} courses of 30 rows a commit"
            yield Figure("commit", what, taken / batch / 30 * 1e6, "us/row")


def _commit(place: Place, durability, batch: int) -> float:
    """Return the seconds of one commit."""
    form, outcomes = RowFormat(GET_FINAL_STATUSES), []
    for number in range(batch):
        course_id, rows = generator.course_id(number), Spool()
        record = _ndjson(form, course_id)
        rows.append(record, 30)
        outcomes.append(Fetched(course_id, rows, 1, 0.1))
    path = place.folder / "commit.ndjson"
    sink = JournaledFile(path, fingerprint={}, run_id="benchmark", durability=durability)
    sink.open()
    began, count = time.perf_counter(), 0
    while count < 5 or time.perf_counter() - began < 0.15:
        sink.commit(outcomes)
        count += 1
    taken = (time.perf_counter() - began) / count
    sink.close()
    for left in place.folder.glob("commit.ndjson*"):
        left.unlink()
    return taken


def _ndjson(form: RowFormat, course_id: str) -> bytes:
    from bulkfetch._parser import ResponseParser

    made = ResponseParser(GET_FINAL_STATUSES, form.encoder(course_id))
    data = made.feed(generator.body(30)) + made.close()
    assert len(list(lines([data]))) == 30
    return data


def limiter(place: Place) -> Iterator[Figure]:
    """Entering and leaving the limiter: alone, and when eight workers share each slot."""
    count = 20_000

    async def alone(found: Limiter) -> None:
        for _ in range(count):
            async with found:
                pass

    async def crowd(found: Limiter | None) -> None:
        async def work() -> None:
            for _ in range(count // 64):
                if found is None:
                    await asyncio.sleep(0)
                else:
                    async with found:
                        await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for _ in range(64):
                group.create_task(work())

    taken = in_turn(
        {
            "alone": lambda: asyncio.run(alone(Limiter(8, adaptive=False))),
            "adaptive": lambda: asyncio.run(alone(Limiter(8, adaptive=True))),
            "crowd": lambda: asyncio.run(crowd(Limiter(8, adaptive=False))),
            "no limiter": lambda: asyncio.run(crowd(None)),
        },
        place.rounds,
    )
    each = {name: seconds / count * 1e6 for name, seconds in taken.items()}
    yield Figure("limiter", "enter and exit", each["alone"], "us")
    yield Figure("limiter", "enter and exit, adaptive", each["adaptive"], "us")
    waiting = each["crowd"] - each["no limiter"]
    yield Figure("limiter", "enter and exit, 64 workers for 8 slots", waiting, "us")


def engine(place: Place) -> Iterator[Figure]:
    """What a course costs without a network: all of it, and parsing alone."""
    names = ("parse_only", "stream_from_memory", "export_from_memory")
    for rows in (3, 30):
        taken: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(3):
            for name in names:
                done = place.child(f"parts:{name}", rows=rows, count=3000 if place.quick else 8000)
                taken[name].append(done.cpu / (3000 if place.quick else 8000) * 1e6)
        for name in names:
            what = f"{rows} rows, {name.replace('_', ' ')}"
            yield Figure("engine", what, median(taken[name]), "us/course")


def lag(place: Place) -> Iterator[Figure]:
    """How long the loop is held while 15 MB are parsed, and what not holding it costs."""
    rounds = 2 if place.quick else 7
    found = place.child("parts:lag", rows=_SMALL, rounds=rounds).answer
    yield Figure("lag", "worst while 15 MB are parsed", found["worst"], "ms", most=3)
    yield Figure("lag", "99th percentile", found["p99"], "ms")
    yield Figure("lag", "worst of an idle loop on this machine", found["idle worst"], "ms")
    yield Figure("lag", "99th percentile of an idle loop", found["idle p99"], "ms")
    share = place.child("parts:yielding", rows=_SMALL, rounds=rounds).answer
    yield Figure("lag", "cost of yielding", share * 100, "%", most=5)


def scaling(place: Place) -> Iterator[Figure]:
    """Courses of 10 rows over the in-memory transport: the price of a row, by their number."""
    counts = (1000, 10_000) if place.quick else (1000, 10_000, 100_000)
    taken: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(3):
        for count in counts:
            for _ in range(5 if count == 1000 else 1):
                done = place.child("parts:export_from_memory", rows=10, count=count)
                taken[count].append(done.cpu / count / 10 * 1e6)
    first = median(taken[1000])
    for count in counts:
        each = median(taken[count])
        yield Figure("scaling", f"{count:,} courses", each, "us/row")
        if count > 1000:
            growth = (each / first - 1) * 100
            yield Figure("scaling", f"{count:,} courses against 1,000", growth, "%", most=5)


def resume(place: Place) -> Iterator[Figure]:
    """From the start to the first request, when all ids but the last are settled."""
    count = 100_000 if place.quick else 1_000_000
    output = str(place.folder / "resumed.ndjson")
    place.child("parts:settle", count=count, output=output)
    done = place.child("parts:resume", count=count, output=output)
    for path in place.folder.glob("resumed.ndjson*"):
        path.unlink()
    most = 3 * count / 1_000_000
    yield Figure("resume", f"{count:,} settled courses", done.answer, "s", most=most)
    over = (done.peak - done.idle) / MIB
    yield Figure("resume", f"{count:,} settled courses, peak over idle", over, "MiB")


def memory(place: Place) -> Iterator[Figure]:
    """Peak memory of whole exports over the idle process."""
    with serving(place.folder, (3000, _LARGE), latencies=(0,), core=place.cores.server) as endpoint:
        for what, rows, count, connections, most in (
            ("one response of 300 MB", _LARGE, 1, 1, 6),
            ("32 connections of 3,000 rows", 3000, 320, 32, 25),
        ):
            job = {"url": endpoint.url(rows), "count": count, "connections": connections}
            done = place.child("clients:export", **job)
            over = (done.peak - done.idle) / MIB
            yield Figure("memory", f"{what}, over idle", over, "MiB", most=most)


def ids(place: Place) -> Iterator[Figure]:
    """The number of ids on stdin must not show in memory."""
    counts = (60_000, 120_000) if place.quick else (100_000, 1_000_000)
    over = []
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.generator", str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_ROOT) as source:
            done = place.child("parts:ids_from_stdin", stdin=source.stdout)
        assert done.answer == count
        over.append((done.peak - done.idle) / MIB)
        yield Figure("ids", f"{count:,} ids on stdin, over idle", over[-1], "MiB")
    yield Figure("ids", "growth with their number", over[1] - over[0], "MiB", most=2)


def latency(place: Place) -> Iterator[Figure]:
    """Answers after 50 ms: the share of the ideal rate, and CPU beside the naive scripts'."""
    wait, turns = 0.05, 20 if place.quick else 200  # 10 s: the careful start takes 0.1 s
    server = place.cores.server
    with serving(place.folder, (30,), latencies=(wait,), core=server) as endpoint:
        cpu = {}
        for client, connections, least in (
            ("export", 32, 0.96),
            ("export", 256, None),
            ("aiohttp_iterparse", 32, None),
            ("aiohttp_xpath", 32, None),
        ):
            job = {"url": endpoint.url(30, latency=wait), "connections": connections}
            done = place.child(f"clients:{client}", **job, count=connections * turns)
            what = f"{client}, {connections} connections, share of ideal"
            yield Figure("latency", what, wait * turns / done.seconds, "", least=least)
            cpu[client, connections] = done.cpu
        for peer, most in (("aiohttp_iterparse", None), ("aiohttp_xpath", 0.35)):
            share = cpu["export", 32] / cpu[peer, 32]
            yield Figure("latency", f"CPU against {peer}", share, "", most=most)


BENCHES = (
    parser, sweep, commit, limiter, engine, lag, scaling, resume, memory, ids, latency,
)  # fmt: skip


def main() -> None:
    known = {bench.__name__: bench for bench in BENCHES}
    given = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__)
    given.add_argument("--quick", action="store_true", help="smaller numbers, fewer rounds")
    given.add_argument("--only", metavar="NAMES", help=f"comma-separated: {', '.join(known)}")
    given.add_argument("--json", metavar="FILE", type=Path, help="where the figures go")
    arguments = given.parse_args()
    names = arguments.only.split(",") if arguments.only else list(known)
    if unknown := set(names) - set(known):
        sys.exit(f"--only {', '.join(unknown)}: no such bench; there are {', '.join(known)}")
    found, figures = cores(), []
    facts = {**describe(found), "endpoint": "in memory, where none is named"}
    print("\n".join(report.heading(facts, found)), flush=True)
    pin(found.client)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="bulkfetch-micro-") as folder:
            for figure in known[name](Place(Path(folder), found, arguments.quick)):
                print(figure, flush=True)
                figures.append(figure)
    if arguments.json:
        raw = {**facts, "figures": [asdict(figure) for figure in figures]}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
