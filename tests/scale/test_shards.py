"""A job as shards: planned, run by a pool of processes, merged; nothing is fetched twice."""

import asyncio
import json
import pickle
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context

import pytest
from outputs import commit_to, course

from bulkfetch import ConfigurationError, Options, Secret, TemporarilyUnavailable, export, shards
from bulkfetch._engine.export import fingerprint
from bulkfetch._ids.source import shard_of
from bulkfetch._output.index import Frozen, Index
from bulkfetch._output.inspect import verify
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._scale.shards import export_shard
from bulkfetch.cli.parts import join_parts
from bulkfetch.testing import (
    ScriptedReply,
    ScriptedTransport,
    SimulatedServer,
    Simulation,
    answer,
    expected_rows,
    reply,
    row,
)

TOKEN = "simulated-token"
BROKEN = [ScriptedReply(status=500, pieces=(b"oops",))]
SIMULATION = Simulation(courses=40, rows=(0, 3))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("BULKFETCH_TOKEN", TOKEN)
    with SimulatedServer(SIMULATION) as server:
        yield server


def rows_in(path):
    rows = map(json.loads, path.read_text().splitlines())
    return Counter((row["contentItemId"], row["userId"]) for row in rows)


def wanted(server):
    return Counter(
        (row["contentItemId"], row["userId"])
        for name in server.course_ids
        for row in expected_rows(SIMULATION, name)
    )


def run_all(jobs):
    for job in jobs:
        shards.run_shard(job)
    return [job.output for job in jobs]


def test_a_pool_of_processes(server, tmp_path):
    """Shards can be pickled, hold no token, and make one output wherever they run."""
    out = tmp_path / "out.ndjson"
    options = Options(endpoint=server.endpoint, token=TOKEN)
    jobs = shards.plan(server.course_ids, out, options, 3)
    assert TOKEN.encode() not in pickle.dumps(jobs)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        courses = [summary.courses for summary in pool.map(shards.run_shard, jobs)]
    assert sum(courses) == 40
    shards.merge([job.output for job in jobs], out)
    assert rows_in(out) == wanted(server)
    assert verify(out).sound
    assert not out.with_name("out.ndjson.parts").exists()


@pytest.mark.parametrize("count", [1, 2, 50])
def test_another_cut_goes_on(count, server, tmp_path):
    """What parts of another cut hold is joined first; no course is asked for twice."""
    out = tmp_path / "out.ndjson"
    options = Options(endpoint=server.endpoint, durability="none")
    run_all(shards.plan(server.course_ids, out, options, 3)[:2])
    asked = server.counters.requests
    assert 0 < asked < 40
    parts = run_all(shards.plan(server.course_ids, out, options, count))
    assert server.counters.requests == 40
    shards.merge(parts, out)
    assert rows_in(out) == wanted(server)
    assert verify(out).sound


async def test_settled_ids_are_passed_over(tmp_path, monkeypatch):
    """A shard looks up its own ids alone, in what is made for that, and lets others in between."""
    monkeypatch.setenv("BULKFETCH_TOKEN", TOKEN)
    out, ids = tmp_path / "out.ndjson", [f"c{number}" for number in range(9000)]
    options = Options(endpoint="http://127.0.0.1:9/", concurrency=1)
    sink = JournaledFile(out, fingerprint=fingerprint(options), run_id="r", durability="none")
    with closing(sink):
        sink.open()
        commit_to(sink, [course(name, [("u", "Passed", 1.0)]) for name in ids])
    job = shards.plan(ids, out, options, 2)[1]
    asked, turns = [], []

    def look(frozen, course_id, real=Frozen.outcome):
        asked.append(course_id)
        turns[-1] += 1
        return real(frozen, course_id)

    async def others():
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    monkeypatch.setattr(Frozen, "outcome", look)
    monkeypatch.delattr(Index, "get")  # slow
    waiting = asyncio.create_task(others())
    summary = await export_shard(job)
    waiting.cancel()
    mine = [name for name in ids if shard_of(name, 2) == 1]
    assert (asked, summary.settled, summary.courses) == (mine, len(mine), 0)
    assert max(turns) <= 1000


async def test_begun_anew_in_one_process(server, tmp_path):
    """Parts of the run that is replaced are gone with it: none of their rows comes back."""
    out = tmp_path / "out.ndjson"
    options = Options(endpoint=server.endpoint, token=Secret(TOKEN), durability="none")
    for job in shards.plan(server.course_ids, out, options, 2):
        await export_shard(job)
    few = server.course_ids[:7]
    summary = await export(few, out, options, overwrite=True)
    assert (summary.output_courses, verify(out).sound) == (7, True)
    assert not out.with_name("out.ndjson.parts").exists()
    join_parts(str(out), options)
    assert {name for name, _ in rows_in(out)} <= {*few}


@pytest.mark.parametrize(
    ("changes", "count", "words"),
    [
        ({}, 0, "shards is 0: there can be 1 to 10,000"),
        ({}, 10_001, "shards is 10001"),
        ({"ordered": True}, 2, "ordered does not go with shards"),
        ({"limit": 3}, 2, "limit does not go with shards"),
        ({"shard": (0, 2)}, 2, "shard does not go with shards"),
    ],
)
def test_what_cannot_be_cut(changes, count, words, tmp_path):
    """A cut that makes no sense is refused in words, before anything is written."""
    options = Options(endpoint="https://acme.example/", token=Secret("t0ken"), **changes)
    with pytest.raises(ConfigurationError, match=words):
        shards.plan(["1"], tmp_path / "out.ndjson", options, count)
    assert list(tmp_path.iterdir()) == []


def test_odd_ids_are_spooled_as_they_are(tmp_path):
    """Ids of any kind reach the shards as they were given."""
    from bulkfetch._ids.reader import open_ids

    odd = ["#1", "a,b", '"q"', "{x}", "é", "0"]
    job = shards.plan(odd, tmp_path / "o.ndjson", Options(endpoint="https://a.example/"), 1)[0]
    assert list(open_ids(job.ids, job.id_column)) == odd


@pytest.mark.parametrize("known", [True, False])
async def test_a_shard_of_bad_courses_alone(known, tmp_path):
    """What other shards fetched shows that the service works: the failures are the courses' own."""
    replies = {"good": [reply(answer([row("u", "Passed", 100)]))] * 9}
    transport = ScriptedTransport(lambda request: replies.get(request.course_id, BROKEN)[0])
    options = Options(endpoint="http://127.0.0.1:9/", token="t0ken", retries=0, patience=0)
    call = export(
        ["bad"],
        tmp_path / "part.ndjson",
        options,
        controls=("good",) if known else (),
        transport=transport,
    )
    if known:
        assert (await call).failures == {"http-500": 1}
    else:
        with pytest.raises(TemporarilyUnavailable):
            await call
