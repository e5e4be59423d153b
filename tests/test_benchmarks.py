"""The measuring itself: what is compared is right, and the commands run. No figure is judged."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from commands import bulkfetch

from benchmarks import generator, report
from benchmarks.machine import ChildError, measure
from benchmarks.memory import MemoryTransport
from benchmarks.report import Cell, Run
from bulkfetch import Options, RunError, export
from bulkfetch._bench import Measurement, measure_endpoint, measure_machine
from bulkfetch.testing import SimulatedServer, Simulation

ROOT = Path(__file__).resolve().parent.parent
MEMORY = Options(endpoint="http://127.0.0.1:9/soap", token="t", adaptive=False)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# The generator


@pytest.mark.parametrize("rows", [0, 3, 30, 3000])
async def test_generated_bodies_hold_the_expected_rows(tmp_path, rows):
    """What the generator writes as XML, it expects as rows, value by value."""
    ids, output = generator.course_ids(3), tmp_path / "out.ndjson"
    await export(ids, output, MEMORY, transport=MemoryTransport(generator.body(rows)))
    generator.verify(output, ids, rows)


def good_lines():
    lines = []
    for course in generator.course_ids(2):
        for user, status, progress in generator._expected(3):
            row = {"contentItemId": course, "userId": user, "status": status, "progress": progress}
            lines.append(row)
    return lines


DAMAGES = {
    "a lost row": lambda rows: rows[:-1],
    "a lost course": lambda rows: rows[3:],
    "a doubled row": lambda rows: [*rows, rows[-1]],
    "a foreign course": lambda rows: [*rows, {**rows[0], "contentItemId": "x"}],
    "an emptied status": lambda rows: [{**rows[0], "status": None}, *rows[1:]],
    "progress as text": lambda rows: [{**rows[0], "progress": "100"}, *rows[1:]],
    "a lost field": lambda rows: [{"contentItemId": rows[0]["contentItemId"]}, *rows[1:]],
    "two rows changed places": lambda rows: [rows[1], rows[0], *rows[2:]],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_wrong_output_is_refused(tmp_path, damage):
    """Every way in which an output can differ from the generator's rows is an error."""
    output, ids = tmp_path / "out.ndjson", generator.course_ids(2)
    output.write_text("".join(json.dumps(row) + "\n" for row in good_lines()))
    generator.verify(output, ids, 3)
    output.write_text("".join(json.dumps(row) + "\n" for row in damage(good_lines())))
    with pytest.raises(ValueError, match=r"row|course"):
        generator.verify(output, ids, 3)


# The harness


def test_the_comparison_runs_with_every_client_that_is_installed(tmp_path):
    """All clients get the same rows from the endpoint, and the raw results are kept."""
    raw = tmp_path / "raw.json"
    done = run(
        *("benchmarks", "--quick", "--only", "3", "--rounds", "1"),
        *("--seconds", "0.01", "--json", str(raw)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(raw.read_text())
    clients = {item["client"] for item in found["runs"]}
    assert {"export", "stream", "bare loop", "aiohttp iterparse", "aiohttp xpath"} <= clients
    assert all(item["seconds"] > 0 and item["error"] is None for item in found["runs"])
    assert found["versions"]["bulkfetch"]


def test_results_are_drawn(tmp_path):
    """A file of raw results becomes two pictures, the same each time."""
    pytest.importorskip("matplotlib")
    raw = tmp_path / "raw.json"
    runs = [
        Run(client, Cell(rows), 0, 10, seconds=rows / 10, peak=2 << 20, idle=1 << 20)
        for client in ("export", "zeep")
        for rows in (3, 30)
    ]
    raw.write_text(json.dumps({"runs": [asdict(item) for item in runs]}))
    pictures = []
    for _ in range(2):
        drawn = run("benchmarks.plot", str(raw))
        assert drawn.returncode == 0, drawn.stderr
        pictures.append((tmp_path / "raw-throughput.svg").read_bytes())
        assert (tmp_path / "raw-memory.svg").exists()
    assert pictures[0].startswith(b"<?xml")
    assert pictures[0] == pictures[1]


def test_a_micro_bench_runs(tmp_path):
    """A micro bench prints its figures and keeps them."""
    raw = tmp_path / "raw.json"
    done = run("benchmarks.micro", "--quick", "--only", "commit", "--json", str(raw))
    assert done.returncode == 0, done.stderr
    assert {figure["bench"] for figure in json.loads(raw.read_text())["figures"]} == {"commit"}


def test_unknown_names_are_refused():
    """A client that does not exist is named, with those that do."""
    done = run("benchmarks", "--only", "curl")
    assert done.returncode != 0
    assert "curl" in done.stderr
    assert "zeep" in done.stderr


def test_a_failing_client_has_no_figures():
    """A client that dies raises, with its last words."""
    with pytest.raises(ChildError, match="KeyError"):
        measure("benchmarks.parts:sweep", {}, core=None)


def test_ratios_are_taken_within_a_round():
    """The ratio is the median over rounds; a failed run has none, nor has its round."""
    cell = Cell(30)
    run = Run("export", cell, 0, 100, seconds=1.0)
    peer = replace(run, client="zeep")
    runs = [
        run, replace(peer, seconds=10),
        replace(run, round=1, seconds=2), replace(peer, round=1, seconds=24),
        replace(run, round=2, seconds=4), replace(peer, round=2, seconds=60),
        replace(run, round=3), replace(peer, round=3, error="a wrong row"),
    ]  # fmt: skip
    assert report.ratio(runs, "zeep", cell) == pytest.approx(12)
    assert report.ratio(runs, "zeep", Cell(3)) is None


# bulkfetch bench

MEASURED = Measurement(
    label="x",
    concurrency=8,
    in_flight=7.9,
    requests=100,
    fetched=100,
    rows=3000,
    seconds=10.0,
    cpu=1.0,
    latency_p50=0.5,
    latency_p90=0.6,
    latency_p99=0.7,
    waited={},
    simulated=False,
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "the endpoint and the way to it are the limit"),
        ({"waited": {"slots": 10.0}}, "7.9 requests at once on average, at most 8, half"),
        (
            {"waited": {"slots": 70.0}, "in_flight": 0.9},
            "0.9 requests at once on average, at most 8 (the adaptive pacing held the others back)",
        ),
        ({"waited": {"rate": 39.0}}, "the endpoint and the way to it are the limit"),
        ({"waited": {"rate": 70.0}}, "the pacing is the limit (rate)"),
        ({"waited": {"rate": 1.0, "Retry-After": 50.0}}, "the pacing is the limit (Retry-After)"),
        ({"cpu": 9.5}, "this machine is the limit"),
        ({"cpu": 9.5, "simulated": True}, "this machine is the limit"),
        ({"cpu": 5.0, "simulated": True}, "has room for about 20 requests/s"),
    ],
)
def test_the_verdict_names_the_limit(changes, words):
    """A busy client blames this machine, long pauses the pacing, all else the other side."""
    assert words in replace(MEASURED, **changes).verdict


async def test_an_endpoint_is_asked_a_bounded_number_of_times():
    """No more courses are asked for than was said, and all that were are counted."""
    async with SimulatedServer(Simulation(courses=50)) as server:
        options = Options(endpoint=server.endpoint, token=server.token, concurrency=4)
        found = await measure_endpoint(server.course_ids, options, requests=7, seconds=60)
        assert server.counters.requests == found.requests == found.fetched == 7
        assert 0 < found.in_flight <= found.concurrency == 4
        assert found.rows == sum(
            len(server.expected_rows(course)) for course in server.counters.by_course
        )


async def test_time_bounds_an_endpoint_too():
    """When the time is over no further id is taken, from an async iterable either."""
    async with SimulatedServer(Simulation(courses=50)) as server:

        async def ids():
            for course in server.course_ids:
                yield course

        options = Options(endpoint=server.endpoint, token=server.token)
        with pytest.raises(RunError, match="nothing to measure"):
            await measure_endpoint(ids(), options, requests=50, seconds=-1)
        assert server.counters.requests == 0


async def test_this_machine_is_measured_with_a_server_of_its_own():
    """Without an endpoint the simulated LMS is started, asked and ended."""
    found = await measure_machine(3, concurrency=4, seconds=0.1)
    assert found.fetched == found.requests > 0
    assert found.rows == 3 * found.fetched
    assert found.simulated


def test_the_command_measures_this_machine():
    """Without ids each size of course has its figures and a verdict."""
    done = bulkfetch("bench", "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    sizes = [line.partition(" rows a course")[0] for line in lines[1::2]]
    assert sizes == ["3", "30", "300", "3,000"]
    assert all("limit" in line for line in lines[2::2])


def test_the_command_measures_an_endpoint(tmp_path):
    """With ids the endpoint is measured, by no more requests than were said."""
    ids = tmp_path / "ids.txt"
    with SimulatedServer(Simulation(courses=20)) as server:
        ids.write_text("".join(f"{name}\n" for name in server.course_ids))
        done = bulkfetch("bench", "--endpoint", server.endpoint, "-i", ids, "-n", "5")
        assert done.returncode == 0, done.stderr
        assert server.counters.requests == 5
    assert "127.0.0.1" in done.stdout
    assert "limit" in done.stdout


START_A_SERVER = """
import time
from bulkfetch._bench import _simulated
with _simulated(3) as (endpoint, ids):
    print(endpoint, flush=True)
    time.sleep(60)
"""


def test_a_killed_measurement_leaves_no_server_behind():
    """The simulated LMS ends with the process that started it, however that ends."""
    command = [sys.executable, "-c", START_A_SERVER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe) as process:
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        process.kill()
        process.communicate(timeout=60)  # to the end of stderr, which the server had, too
