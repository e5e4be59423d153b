"""What the micro benches run in a process of their own: functions of (job, begin)."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks import generator
from benchmarks.clients import options
from benchmarks.memory import MemoryTransport
from bulkfetch import _fetch, export, stream
from bulkfetch._export import _make_sink
from bulkfetch._gunzip import PIECE
from bulkfetch._ids import open_ids
from bulkfetch._model import GET_FINAL_STATUSES, Fetched
from bulkfetch._parser import ResponseParser
from bulkfetch._records import RowFormat
from bulkfetch._rows import Spool

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
        sink.commit(list(_settled(start, min(start + 500, job["count"]))))
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


def resume(job, begin) -> float:
    """Go on with it; returns the seconds until the first request, past all settled ids."""
    asked: list[float] = []
    transport = MemoryTransport(generator.body(1), lambda: asked.append(time.perf_counter()))
    ids = map(generator.course_id, range(job["count"] + 1))
    setup = options({**_NOWHERE, **job})
    begin()
    began = time.perf_counter()
    asyncio.run(export(ids, job["output"], setup, transport=transport))
    assert len(asked) == 1, asked
    return asked[0] - began


# The event loop's lag


def lag(job, begin) -> dict[str, float]:
    """Parse large responses while a ticker looks at the clock each ms; worst lags in ms."""
    transport = MemoryTransport(generator.body(job["rows"]))
    found = {name: [] for name in ("worst", "p99", "idle worst", "idle p99")}
    begin()
    for _ in range(job["rounds"]):
        for work, name in ((_read_one(transport), ""), (_spin(), "idle ")):
            lags = sorted(asyncio.run(_ticked(work)))
            found[f"{name}worst"].append(lags[-1] * 1000)
            found[f"{name}p99"].append(lags[int(len(lags) * 0.99)] * 1000)
    return {name: statistics.median(values) for name, values in found.items()}


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


async def _read_one(transport: MemoryTransport) -> None:
    setup = options(_NOWHERE)
    async with stream([generator.course_id(1)], setup, transport=transport) as outcomes:
        async for outcome in outcomes:
            assert isinstance(outcome, Fetched), outcome
            outcome.rows.close()


def yielding(job, begin) -> float:
    """Return what it costs to give others turns while a body is parsed, as a share."""
    transport = MemoryTransport(generator.body(job["rows"]))
    shares = []

    async def at_once(_seconds: float) -> None:
        return None

    def seconds() -> float:
        began = time.process_time()
        asyncio.run(_read_one(transport))
        return time.process_time() - began

    begin()
    for _ in range(job["rounds"]):
        usual = seconds()
        without = SimpleNamespace(sleep=at_once)
        with mock.patch.object(_fetch, "asyncio", without):
            shares.append(usual / seconds() - 1)
    return statistics.median(shares)
