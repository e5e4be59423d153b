"""The examples of embedding, run as they stand: services around the engine, one pace for all."""

import asyncio
import importlib.util
import json
from pathlib import Path

import aiohttp
import httpx
import pytest
from aiohttp.test_utils import TestClient, TestServer

from bulkfetch import Options
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
    """An example has at most 60 lines."""
    assert len(path.read_text().splitlines()) <= 60


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
    """Two exports at once share one limiter; each is whole on disk, and can be looked at."""
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
            # This client waits for background tasks, too.
            begun = [
                group.create_task(client.post(f"/exports/{name}", json=share))
                for name, share in (("first", ids[:40]), ("second", ids[20:]))
            ]
            while len(service.exports) < 2:  # noqa: ASYNC110 - the example has no event for it
                await asyncio.sleep(0.001)
            assert (await client.post("/exports/first", json=ids)).status_code == 409
            assert [(await task).status_code for task in begun] == [202, 202]
            told = (await client.get("/exports/first")).json()
            assert (await client.get("/exports/third")).status_code == 404
            assert (await client.post("/exports/..%2Fetc", json=ids)).status_code >= 404
        assert server.counters.max_in_flight <= 8
        for name, share in (("first", ids[:40]), ("second", ids[20:])):
            lines = (tmp_path / f"{name}.ndjson").read_text().splitlines()
            assert in_order(map(json.loads, lines)) == expected(server, share)
        unknown = len(set(ids[:40]) - set(server.expected()))
        rows = len(expected(server, ids[:40]))
        assert told == {"courses": 40, "ended": f"{rows} rows, {unknown} courses failed"}


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
            told = (await client.get("/exports/all")).json()
        assert "refuses the run" in told["ended"]
