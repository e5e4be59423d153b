"""The parts one by one, each figure beside its goal: `python -m benchmarks.micro`.

Parts that must not disturb each other run in processes of their own, on the client's core. What is
compared is measured in turn. Shown are medians of the rounds and, in brackets, the least and the
largest of them; a figure without brackets was measured once.
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
from benchmarks.machine import Cores, Measured, cores, describe, end_with_signals, measure, pin
from benchmarks.parts import BUSY, CROWD, SINGLE, parse
from bulkfetch._domain.model import GET_FINAL_STATUSES, Fetched
from bulkfetch._output.frames import lines
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._output.spool import Spool
from bulkfetch._pace.limiter import Limiter
from bulkfetch._soap.records import RowFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_ROOT = Path(__file__).resolve().parent.parent
_SMALL, _LARGE = 100_000, 2_000_000
"""Rows of responses of 15 MB and 300 MB."""
_ENDPOINT = "a transport in memory; for memory and latency a server on loopback"


@dataclass(frozen=True, slots=True)
class Figure:
    """The values of one thing, a round each, not many; `least` or `most` is the median's goal."""

    bench: str
    what: str
    values: tuple[float, ...]
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def value(self) -> float | None:
        return median(self.values) if self.values else None

    def __str__(self) -> str:
        value = self.value
        if value is None:
            return f"{self.bench:<9}{self.what:<54}{'n/a':>12} {self.unit}"
        digits = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 0
        spread = f"[{min(self.values):,.{digits}f} {max(self.values):,.{digits}f}]"
        goal, met = "", True
        if self.least is not None:
            goal, met = f">= {self.least:g}", value >= self.least
        if self.most is not None:
            goal, met = f"<= {self.most:g}", value <= self.most
        return (
            f"{self.bench:<9}{self.what:<54}{value:>12,.{digits}f} {self.unit:<10}"
            f"{spread if len(self.values) > 1 else '':<22}"
            f"{goal:>8} {report.verdict(met=met) if goal else ''}"
        ).rstrip()


def figure(
    bench: str, what: str, values: Iterable[float | None], unit: str, **goal: float | None
) -> Figure:
    """Make a figure of what could be measured."""
    return Figure(bench, what, tuple(value for value in values if value is not None), unit, **goal)


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how thoroughly is measured."""

    folder: Path
    cores: Cores
    quick: bool

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 7

    @property
    def few(self) -> int:
        """Rounds of what takes seconds."""
        return 1 if self.quick else 3

    def child(self, part: str, stdin=None, **job: object) -> Measured:
        """Run a part in a process of its own, with a fresh output."""
        output = self.folder / "statuses.ndjson"
        try:
            job = {"output": str(output), **job}
            return measure(f"benchmarks.{part}", job, core=self.cores.client, stdin=stdin)
        finally:
            for path in self.folder.glob("statuses.ndjson*"):
                path.unlink()


def in_turn(
    functions: dict[str, Callable[[], object]], rounds: int, seconds: float = 0.1
) -> dict[str, list[float]]:
    """Time functions in turn; returns the seconds of one call of each, by round."""
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
    return times


def parser(place: Place) -> Iterator[Figure]:
    """The parser, rows encoded, against lxml.fromstring, which only builds the tree."""
    form = RowFormat(GET_FINAL_STATUSES)
    for rows in (3, 30, 300, 3000):
        body = generator.body(rows)
        taken = in_turn(
            {"ours": lambda body=body: parse(body, form), "tree": lambda body=body: _tree(body)},
            place.rounds,
        )
        ours, tree = taken["ours"], taken["tree"]
        yield figure("parser", f"{rows} rows", [len(body) / each / 1e6 for each in ours], "MB/s")
        yield figure("parser", f"{rows} rows", [rows / each for each in ours], "rows/s")
        share = [theirs / each for theirs, each in zip(tree, ours, strict=True)]
        goal = 0.35 if rows == 3000 else None
        yield figure("parser", f"{rows} rows, share of fromstring's speed", share, "", least=goal)


def _tree(body: bytes) -> None:
    etree.fromstring(body)


def sweep(place: Place) -> Iterator[Figure]:
    """The sweep's memory must not depend on the response's size."""
    over: dict[int, list[float | None]] = {}
    for rows in (_SMALL, _LARGE):
        path = place.folder / f"{rows}.xml"
        with path.open("wb") as file:
            file.writelines(generator.pieces(rows))
        done = [place.child("parts:sweep", path=str(path)) for _ in range(place.few)]
        path.unlink()
        assert all(one.answer == rows for one in done)
        over[rows] = [one.over for one in done]
        yield figure("sweep", f"{rows:,} rows, peak over idle", over[rows], "MiB")
        yield figure("sweep", f"{rows:,} rows", [rows / one.cpu for one in done], "rows/s")
    yield figure("sweep", "growth from 15 MB to 300 MB", _growth(over), "MiB", most=1)


def _growth(over: dict[int, list[float | None]]) -> list[float]:
    """Return what the second kind takes more than the first, by round."""
    first, second = over.values()
    pairs = zip(first, second, strict=True)
    return [more - less for less, more in pairs if less is not None and more is not None]


def commit(place: Place) -> Iterator[Figure]:
    """Writing, syncing and journaling courses of 30 rows, by batch and durability."""
    for durability in ("batch", "course", "none"):
        for batch in (1, 8, 32, 256):
            taken = [_commit(place, durability, batch) for _ in range(place.few)]
            what = f"{durability}, {batch} courses of 30 rows a commit"
            yield figure("commit", what, [each / batch / 30 * 1e6 for each in taken], "us/row")


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
        for group in [[one] for one in outcomes] if durability == "course" else [outcomes]:
            sink.write(sink.prepare(group))
            sink.commit()
        count += 1
    taken = (time.perf_counter() - began) / count
    sink.close()
    for left in place.folder.glob("commit.ndjson*"):
        left.unlink()
    return taken


def _ndjson(form: RowFormat, course_id: str) -> bytes:
    from bulkfetch._soap.parser import ResponseParser

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
    each = {name: [seconds / count * 1e6 for seconds in found] for name, found in taken.items()}
    yield figure("limiter", "enter and exit", each["alone"], "us")
    yield figure("limiter", "enter and exit, adaptive", each["adaptive"], "us")
    pairs = zip(each["crowd"], each["no limiter"], strict=True)
    waiting = [crowd - without for crowd, without in pairs]
    yield figure("limiter", "enter and exit, 64 workers for 8 slots", waiting, "us")


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
            yield figure(
                "engine", f"{rows} rows, {name.replace('_', ' ')}", taken[name], "us/course"
            )


def lag(place: Place) -> Iterator[Figure]:
    """How long the loop is held while 15 MB are parsed, and what not holding it costs."""
    found = place.child("parts:lag", rows=_SMALL, rounds=2 if place.quick else 7).answer
    for work, most in ((SINGLE, 3), (CROWD, None), (BUSY, None)):
        worst = found[work]["worst"]
        yield figure("lag", f"{work}: a round's worst", worst, "ms", most=most)
        yield figure("lag", f"{work}: worst of all rounds", [max(worst)], "ms")
        yield figure("lag", f"{work}: 99th percentile of all ticks", [found[work]["p99"]], "ms")
    shares = place.child("parts:yielding", rows=_SMALL, pairs=3 if place.quick else 15).answer
    cost = [share * 100 for share in shares]
    yield figure("lag", "cost of yielding, pair by pair", cost, "%", most=5)


def scaling(place: Place) -> Iterator[Figure]:
    """Courses of 10 rows over the in-memory transport: the price of a row, by their number.

    The fixed cost of a start is in all of them and shows in the 1,000, which the goal speaks of;
    beside it stands the growth from 10,000 on, where a start is next to nothing.
    """
    runs = {1000: 7, 10_000: 3} | ({} if place.quick else {100_000: 1})
    taken: dict[int, list[float]] = {count: [] for count in runs}
    for _ in range(3):
        for count, times in runs.items():
            for _ in range(times):
                done = place.child("parts:export_from_memory", rows=10, count=count)
                taken[count].append(done.cpu / count / 10 * 1e6)
    for count, each in taken.items():
        yield figure("scaling", f"{count:,} courses", each, "us/row")
    for base, most in ((1000, 5), (10_000, None)):
        first = median(taken[base])
        for count in (count for count in runs if count > base):
            growth = [(each / first - 1) * 100 for each in taken[count]]
            what = f"{count:,} courses against {base:,}"
            yield figure("scaling", what, growth, "%", most=most)


def resume(place: Place) -> Iterator[Figure]:
    """From the start to the first request, when all ids but the last are settled."""
    count = 100_000 if place.quick else 1_000_000
    output = str(place.folder / "resumed.ndjson")
    place.child("parts:settle", count=count, output=output)
    done = [place.child("parts:resume", count=count, output=output) for _ in range(place.few)]
    for path in place.folder.glob("resumed.ndjson*"):
        path.unlink()
    what, most = f"{count:,} settled courses", 3 * count / 1_000_000
    yield figure("resume", what, [one.answer for one in done], "s", most=most)
    yield figure("resume", f"{what}, peak over idle", [one.over for one in done], "MiB")


def memory(place: Place) -> Iterator[Figure]:
    """Peak memory of whole exports over the idle process."""
    with serving(place.folder, (3000, _LARGE), latencies=(0,), core=place.cores.server) as endpoint:
        for what, rows, count, connections, most in (
            ("one response of 300 MB", _LARGE, 1, 1, 6),
            ("32 connections of 3,000 rows", 3000, 320, 32, 25),
        ):
            job = {"url": endpoint.url(rows), "count": count, "connections": connections}
            over = [place.child("clients:export", **job).over for _ in range(place.few)]
            yield figure("memory", f"{what}, over idle", over, "MiB", most=most)


def ids(place: Place) -> Iterator[Figure]:
    """The number of ids on stdin must not show in memory."""
    counts = (60_000, 120_000) if place.quick else (100_000, 1_000_000)
    over: dict[int, list[float | None]] = {count: [] for count in counts}
    for _ in range(place.few):
        for count in counts:
            over[count].append(_over_with_ids(place, count))
    for count in counts:
        yield figure("ids", f"{count:,} ids on stdin, over idle", over[count], "MiB")
    yield figure("ids", "growth with their number", _growth(over), "MiB", most=2)


def _over_with_ids(place: Place, count: int) -> float | None:
    command = [sys.executable, "-m", "benchmarks.generator", str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=_ROOT) as source:
        try:
            done = place.child("parts:ids_from_stdin", stdin=source.stdout)
        finally:
            source.kill()
    assert done.answer == count
    return done.over


def latency(place: Place) -> Iterator[Figure]:
    """Answers after 50 ms: the share of the ideal rate, and CPU beside the naive scripts'."""
    wait, turns = 0.05, 20 if place.quick else 200  # 10 s: the careful start takes 0.1 s
    server = place.cores.server
    cases = (
        ("export", 32, None if place.quick else 0.96),  # in 1 s the start is most of it
        ("export", 256, None),
        ("aiohttp_tuned", 32, None),
        ("aiohttp_iterparse", 32, None),
        ("aiohttp_xpath", 32, None),
    )
    done: dict[tuple[str, int], list[Measured]] = {case[:2]: [] for case in cases}
    with serving(place.folder, (30,), latencies=(wait,), core=server) as endpoint:
        for _ in range(place.few):
            for (client, connections), measured in done.items():
                job = {"url": endpoint.url(30, latency=wait), "connections": connections}
                child = place.child(f"clients:{client}", **job, count=connections * turns)
                measured.append(child)
    for client, connections, least in cases:
        what = f"{client}, {connections} connections, share of ideal"
        shares = [wait * turns / one.seconds for one in done[client, connections]]
        yield figure("latency", what, shares, "", least=least)
    for peer, most in (
        ("aiohttp_tuned", None),
        ("aiohttp_iterparse", None),
        ("aiohttp_xpath", None if place.quick else 0.35),
    ):
        pairs = zip(done["export", 32], done[peer, 32], strict=True)
        share = [ours.cpu / theirs.cpu for ours, theirs in pairs]
        yield figure("latency", f"CPU of export against {peer}", share, "", most=most)


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
    end_with_signals()
    names = arguments.only.split(",") if arguments.only else list(known)
    if unknown := set(names) - set(known):
        sys.exit(f"--only {', '.join(unknown)}: no such bench; there are {', '.join(known)}")
    found, figures = cores(), []
    facts = {**describe(found), "endpoint": _ENDPOINT}
    print("\n".join(report.heading(facts, found)), flush=True)
    pin(found.client)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="bulkfetch-micro-") as folder:
            for one in known[name](Place(Path(folder), found, arguments.quick)):
                print(one, flush=True)
                figures.append(one)
        if arguments.json:
            raw = {**facts, "figures": [asdict(one) | {"value": one.value} for one in figures]}
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
