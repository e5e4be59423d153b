"""The examples of embedding, run as they stand: services around the engine, one pace for all."""

import asyncio
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import aiohttp
import httpx
import pytest
from aiohttp.test_utils import TestClient, TestServer

from bulkfetch import Options, export
from bulkfetch.testing import SimulatedServer, Simulation

EXAMPLES = Path(__file__).parent / "examples"
SIMULATION = Simulation(courses=60, unknown=2, rows=(0, 9), latency=0.01, seed=5)


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_order(rows):
    return sorted(rows, key=lambda row: (row["contentItemId"], row.get("userId", "")))


def expected(server, ids):
    rows = server.expected()
    return in_order(row for course_id in ids for row in rows.get(course_id, []))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_screen(path):
    """An example has at most 64 lines."""
    assert len(path.read_text().splitlines()) <= 64


async def test_aiohttp_service_streams_to_several_callers_at_one_pace():
    """Each caller gets all rows of his ids; together they never exceed the shared limiter."""
    async with SimulatedServer(SIMULATION) as server:
        options = Options(endpoint=server.endpoint, token=server.token, concurrency=3)
        app = load("aiohttp_service").make_app(options)
        ids = list(server.course_ids)

        async def ask(client, wanted):
            async with client.post("/statuses", json=wanted) as reply:
                assert reply.status == 200
                return [json.loads(line) async for line in reply.content]

        async with TestClient(TestServer(app)) as client:
            shares = [ids[:30], ids[20:50], ids[40:]]
            answers = await asyncio.gather(*(ask(client, share) for share in shares))
        assert server.counters.max_in_flight <= 3
        for share, answer in zip(shares, answers, strict=True):
            rows = [row for row in answer if "error" not in row]
            assert in_order(rows) == expected(server, share)
            failed = {row["contentItemId"]: row["error"] for row in answer if "error" in row}
            unknown = set(share) - set(server.expected())
            assert failed == dict.fromkeys(unknown, "unknown-content-item")


async def test_aiohttp_service_cuts_the_answer_of_a_run_that_fails():
    """A run that the server refuses reaches the caller as a broken answer, not as an empty one."""
    async with SimulatedServer(SIMULATION) as server:
        options = Options(endpoint=server.endpoint, token="wrong")
        app = load("aiohttp_service").make_app(options)
        async with TestClient(TestServer(app)) as client:
            with pytest.raises(aiohttp.ClientError):
                async with client.post("/statuses", json=list(server.course_ids)) as reply:
                    await reply.read()


async def test_fastapi_service_exports_in_the_background(tmp_path, monkeypatch):
    """Two exports at once share one limiter; each is whole on disk, looked at and counted."""
    async with SimulatedServer(SIMULATION) as server:
        monkeypatch.setenv("BULKFETCH_ENDPOINT", server.endpoint)
        monkeypatch.setenv("BULKFETCH_TOKEN", server.token)
        monkeypatch.setenv("EXPORTS", str(tmp_path))
        service = load("fastapi_service")
        ids = list(server.course_ids)
        transport = httpx.ASGITransport(service.app)
        async with (
            service.app.router.lifespan_context(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
            asyncio.TaskGroup() as group,
        ):
            begun = [
                group.create_task(client.post(f"/exports/{name}", json=share))
                for name, share in (("first", ids[:40]), ("second", ids[20:]))
            ]
            while len(service.exports) < 2:  # noqa: ASYNC110 - the example has no event for it
                await asyncio.sleep(0.001)
            assert (await client.post("/exports/first", json=ids)).status_code == 409
            assert [(await task).status_code for task in begun] == [202, 202]
            while len(service.ended) < 2:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.001)
            told = (await client.get("/exports/first")).json()
            assert (await client.get("/exports/third")).status_code == 404
            scraped = (await client.get("/metrics/")).text
            assert (await client.post("/exports/..%2Fetc", json=ids)).status_code >= 404
        assert server.counters.max_in_flight <= 8
        for name, share in (("first", ids[:40]), ("second", ids[20:])):
            lines = (tmp_path / f"{name}.ndjson").read_text().splitlines()
            assert in_order(map(json.loads, lines)) == expected(server, share)
        unknown = len(set(ids[:40]) - set(server.expected()))
        rows = len(expected(server, ids[:40]))
        assert told == {"courses": 40, "ended": f"{rows} rows, {unknown} courses without rows"}
        ended = re.findall(r'bulkfetch_courses_total\{outcome="\w+"\} (\S+)', scraped)
        assert sum(map(float, ended)) == 40 + len(ids) - 20


async def test_fastapi_service_says_why_an_export_ended(tmp_path, monkeypatch):
    """The run's own error is kept for whoever looks."""
    async with SimulatedServer(SIMULATION) as server:
        monkeypatch.setenv("BULKFETCH_ENDPOINT", server.endpoint)
        monkeypatch.setenv("BULKFETCH_TOKEN", "wrong")
        monkeypatch.setenv("EXPORTS", str(tmp_path))
        service = load("fastapi_service")
        transport = httpx.ASGITransport(service.app)
        async with (
            service.app.router.lifespan_context(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            await client.post("/exports/all", json=list(server.course_ids))
            while not service.ended:  # noqa: ASYNC110 - the example has no event for it
                await asyncio.sleep(0.001)
            told = (await client.get("/exports/all")).json()
        assert "token" in told["ended"]


async def test_fastapi_service_stops_when_it_is_told_to(tmp_path):
    """At SIGTERM uvicorn ends though an export has hours to go; what it committed is resumed."""
    slow = Simulation(courses=60, rows=(1, 3), latency=0.2, seed=5)
    async with SimulatedServer(slow) as server:
        environment = {
            **os.environ,
            "BULKFETCH_ENDPOINT": server.endpoint,
            "BULKFETCH_TOKEN": server.token,
            "EXPORTS": str(tmp_path),
        }
        words = ["-m", "uvicorn", "--port", "0", "--app-dir", str(EXAMPLES), "fastapi_service:app"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, env=environment, stderr=asyncio.subprocess.PIPE
        )
        try:
            url = ""
            while not url:
                line = (await process.stderr.readline()).decode()
                assert line, "uvicorn ended"
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    url = found[0]
            ids = [*server.course_ids] + [f"more-{number}" for number in range(100_000)]
            async with httpx.AsyncClient() as client:
                assert (await client.post(f"{url}/exports/all", json=ids)).status_code == 202
                while not (await client.get(f"{url}/exports/all")).json()["courses"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            process.terminate()
            async with asyncio.timeout(60):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        options = Options(endpoint=server.endpoint, token=server.token, concurrency=30)
        done = await export(server.course_ids, tmp_path / "all.ndjson", options)
    assert done.settled > 0
    assert done.output_courses == 60
