"""What the micro benches run in a process of their own: functions of (job, begin)."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import generator
from benchmarks.clients import options
from benchmarks.memory import MemoryTransport
from bulkfetch import export, stream
from bulkfetch._domain.model import GET_FINAL_STATUSES, Fetched
from bulkfetch._engine import course
from bulkfetch._engine.export import _make_sink
from bulkfetch._http.gunzip import PIECE
from bulkfetch._ids.reader import open_ids
from bulkfetch._output.spool import Spool
from bulkfetch._soap.parser import ResponseParser
from bulkfetch._soap.records import RowFormat

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

_NOWHERE = {"url": "http://127.0.0.1:9/soap", "connections": 32}


def parse(body: bytes, form: RowFormat) -> int:
    """Parse and encode a whole response as the engine does, without the engine."""
    parser = ResponseParser(GET_FINAL_STATUSES, form.encoder(generator.course_id(1)))
    for start in range(0, len(body), PIECE):
        parser.feed(body[start : start + PIECE])
    parser.close()
    return parser.rows


def sweep(job, begin) -> int:
    """Parse a large file in pieces; the rows are dropped."""
    encode = RowFormat(GET_FINAL_STATUSES).encoder(generator.course_id(1))
    parse(generator.body(1000), RowFormat(GET_FINAL_STATUSES))  # whatever is made once
    begin()
    parser = ResponseParser(GET_FINAL_STATUSES, encode)
    with Path(job["path"]).open("rb") as file:
        while piece := file.read(PIECE):
            parser.feed(piece)
    parser.close()
    return parser.rows


def export_from_memory(job, begin) -> None:
    """Export courses of so many rows over the in-memory transport."""
    transport = MemoryTransport(generator.body(job["rows"]))
    ids = generator.course_ids(job["count"])
    setup = options({**_NOWHERE, **job})
    begin()
    summary = asyncio.run(export(ids, job["output"], setup, transport=transport))
    assert summary.rows == job["count"] * job["rows"], summary


def stream_from_memory(job, begin) -> None:
    transport = MemoryTransport(generator.body(job["rows"]))
    ids = generator.course_ids(job["count"])
    setup = options({**_NOWHERE, **job})

    async def main() -> int:
        async with stream(ids, setup, transport=transport) as outcomes:
            return sum([len(outcome.rows) async for outcome in outcomes])

    begin()
    assert asyncio.run(main()) == job["count"] * job["rows"]


def parse_only(job, begin) -> None:
    """Do of the same work only the parsing."""
    body, form = generator.body(job["rows"]), RowFormat(GET_FINAL_STATUSES)
    begin()
    for _ in range(job["count"]):
        parse(body, form)


def ids_from_stdin(job, begin) -> int:
    """Export one row for each id that comes through a pipe."""
    transport = MemoryTransport(generator.body(1))
    setup = options({**_NOWHERE, **job})

    async def main() -> int:
        summary = await export(open_ids("-"), job["output"], setup, transport=transport)
        return summary.fetched

    begin()
    return asyncio.run(main())


# Resuming


def settle(job, begin) -> None:
    """Leave an unfinished output with so many settled courses of one row each."""
    sink = _make_sink(job["output"], options({**_NOWHERE, **job}), "benchmark", overwrite=False)
    begin()
    sink.open()
    for start in range(0, job["count"], 500):
        sink.write(sink.prepare(list(_settled(start, min(start + 500, job["count"])))))
        sink.commit()
    sink.close()


def _settled(start: int, end: int) -> Iterator[Fetched]:
    for number in range(start, end):
        course_id, rows = generator.course_id(number), Spool()
        rows.append(
            b'{"contentItemId":"%b","userId":"265f433a-6214-11e9-b9cf-7ef279cfa744",'
            b'"status":"Passed","progress":100.0}\n' % course_id.encode(),
            1,
        )
        yield Fetched(course_id, rows, 1, 0.1)


class _EnoughError(Exception):
    """The first request was about to be sent; the output is left as it was."""


def resume(job, begin) -> float:
    """Go on with it; returns the seconds until the first request, past all settled ids."""
    asked: list[float] = []

    def ask() -> None:
        asked.append(time.perf_counter())
        raise _EnoughError

    transport = MemoryTransport(generator.body(1), ask)
    ids = map(generator.course_id, range(job["count"] + 1))
    setup = options({**_NOWHERE, **job})
    begin()
    began = time.perf_counter()
    with suppress(_EnoughError):
        asyncio.run(export(ids, job["output"], setup, transport=transport))
    assert len(asked) == 1, asked
    return asked[0] - began


# The event loop's lag


SINGLE, CROWD = "one large course", "8 large courses at once"
BUSY = "a loop kept busy, 0.1 ms at a time"
"""What the loop is watched doing; the last shows what this machine adds."""


def lag(job, begin) -> dict[str, dict[str, object]]:
    """Look at the clock each ms while the loop works; the lags in ms.

    `worst` is each round's, `p99` of the ticks of all rounds, as a round has some hundred.
    """
    transport = MemoryTransport(generator.body(job["rows"]))
    works = {
        SINGLE: lambda: _read(transport, 1),
        CROWD: lambda: _read(transport, 8),
        BUSY: _spin,
    }
    found: dict[str, list[list[float]]] = {name: [] for name in works}
    begin()
    for _ in range(job["rounds"]):
        for name, work in works.items():
            found[name].append(asyncio.run(_ticked(work())))
    return {name: _summary(rounds) for name, rounds in found.items()}


def _summary(rounds: list[list[float]]) -> dict[str, object]:
    ticks = sorted(lag for lags in rounds for lag in lags)
    worst = [max(lags) * 1000 for lags in rounds]
    return {"worst": worst, "p99": ticks[int(len(ticks) * 0.99)] * 1000}


async def _spin() -> None:
    """Keep the core busy for half a second, but the loop never for more than 0.1 ms."""
    end = time.perf_counter() + 0.5
    while (now := time.perf_counter()) < end:
        while time.perf_counter() < now + 0.0001:
            pass
        await asyncio.sleep(0)


async def _ticked(work: Coroutine[object, object, None]) -> list[float]:
    lags: list[float] = []

    async def tick() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - began - 0.001)

    async with asyncio.TaskGroup() as group:
        ticker = group.create_task(tick())
        await work
        ticker.cancel()
    return lags


async def _read(transport: MemoryTransport, count: int) -> None:
    """Stream so many courses, all at once."""
    setup = options(_NOWHERE, adaptive=False)
    async with stream(generator.course_ids(count), setup, transport=transport) as outcomes:
        async for outcome in outcomes:
            assert isinstance(outcome, Fetched), outcome
            outcome.rows.close()


def yielding(job, begin) -> list[float]:
    """Return what it costs to give others turns while a body is parsed, as shares, by pair."""
    transport = MemoryTransport(generator.body(job["rows"]))

    async def at_once(_seconds: float) -> None:
        return None

    def seconds() -> float:
        began = time.process_time()
        asyncio.run(_read(transport, 1))
        return time.process_time() - began

    def without() -> float:
        with mock.patch.object(course, "asyncio", SimpleNamespace(sleep=at_once)):
            return seconds()

    begin()
    shares = []
    for number in range(job["pairs"]):
        taken: dict[object, float] = {}
        for measured in (seconds, without) if number % 2 else (without, seconds):
            taken[measured] = measured()
        shares.append(taken[seconds] / taken[without] - 1)
    return shares
