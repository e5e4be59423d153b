"""The measuring itself: what is compared is right, and the commands run. No figure is judged."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from commands import bulkfetch

from benchmarks import generator, machine, report, shards
from benchmarks.__main__ import Bench, Plan
from benchmarks.clients import CLIENTS
from benchmarks.endpoint import Ceiling
from benchmarks.machine import ChildError, Cores, measure
from benchmarks.memory import MemoryTransport
from benchmarks.report import Cell, Run
from benchmarks.shards import Taken
from bulkfetch import Options, RunError, export
from bulkfetch.cli.measure import Measurement, measure_endpoint, measure_machine
from bulkfetch.testing import SimulatedServer, Simulation

ROOT = Path(__file__).resolve().parent.parent
MEMORY = Options(endpoint="http://127.0.0.1:9/soap", token="t", adaptive=False)


TINY = ("--quick", "--rounds", "1", "--seconds", "0.01")


def run(*arguments, how="-m"):
    return subprocess.run(
        [sys.executable, how, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
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
    with pytest.raises(ValueError, match="course"):
        generator.verify_pieces(output, ids, 3)


async def test_pieces_are_verified_as_rows_are(tmp_path):
    """What bulkfetch writes is right by either way of looking."""
    ids, output = generator.course_ids(9), tmp_path / "out.ndjson"
    await export(ids, output, MEMORY, transport=MemoryTransport(generator.body(30)))
    generator.verify(output, ids, 30)
    generator.verify_pieces(output, ids, 30)


def test_an_output_that_is_not_there_is_refused(tmp_path):
    """A client that wrote nothing at all is wrong, too, and not the end of the whole run."""
    with pytest.raises(ValueError, match="not written"):
        generator.verify(tmp_path / "out.ndjson", generator.course_ids(1), 3)


# The harness


def test_the_comparison_runs_with_every_client_that_is_installed(tmp_path):
    """All clients get the same rows from the endpoint, and the raw results are kept."""
    raw = tmp_path / "raw.json"
    done = run("benchmarks", *TINY, "--only", "3", "--json", str(raw))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(raw.read_text())
    clients = {item["client"] for item in found["runs"]}
    assert clients == {client.name for client in CLIENTS if not client.missing}
    assert all(item["seconds"] > 0 and item["error"] is None for item in found["runs"])
    assert found["versions"]["bulkfetch"]
    assert {item["way"] for item in found["runs"] if item["client"] == "export"} == {"direct"}
    assert {"revision", "nginx", "wrk", "pinned", "skipped"} <= found.keys()


@pytest.mark.parametrize("options", [{"gzip": True}, {"latency": 0.05}])
def test_a_client_asked_for_by_name_takes_part_everywhere(options):
    """Compressed and late answers leave out some clients, but none that was asked for."""
    cell, plan = Cell(30, **options), Plan((), CLIENTS, rounds=1, seconds=1, least=1, budget=1)
    assert {"export", "aiohttp tuned"} <= {one.name for one in plan.clients_of(cell)}
    assert len(plan.clients_of(cell)) < len(CLIENTS)
    assert plan.clients_of(Cell(30)) == replace(plan, named=True).clients_of(cell)


def bench(monkeypatch, tmp_path, budget):
    """A bench whose clients need no time."""
    plan = Plan((), CLIENTS[:3], rounds=3, seconds=1, least=1, budget=budget)
    found = Bench(plan, None, tmp_path, Cores(None, None), machine.time.monotonic() + budget)

    def measured(_bench, client, cell, number, _rate):
        return Run(client.name, cell, number, 1, seconds=1)

    monkeypatch.setattr(Bench, "_measure", measured)
    return found


def test_each_round_begins_with_another_client(monkeypatch, tmp_path):
    """Nobody always runs after the same neighbour, nor always first."""
    found = bench(monkeypatch, tmp_path, budget=1000)
    found.measure_cell(Cell(30))
    first, second, third = (client.name for client in CLIENTS[:3])
    rounds = [[run.client for run in found.runs if run.round == number] for number in range(3)]
    assert rounds == [[first, second, third], [second, third, first], [third, first, second]]


def test_a_round_that_would_take_too_long_is_not_begun(monkeypatch, tmp_path):
    """What the budget has no room for is left out, and named."""
    found = bench(monkeypatch, tmp_path, budget=1)
    found.measure_cell(Cell(30))
    assert not found.runs
    assert found.skipped == ["30 rows: 0 of 3 rounds done, out of time"]


LOSE_A_ROW = """
from benchmarks import __main__ as program, generator
pieces = generator.pieces
generator.pieces = lambda rows: pieces(rows - 1)
raise SystemExit(program.main())
"""


def test_a_wrong_output_fails_the_run(tmp_path):
    """A client whose rows are not the expected ones has no figures, and the exit code is 1."""
    raw = tmp_path / "raw.json"
    done = run(LOSE_A_ROW, *TINY, "--only", "3,export", "--json", str(raw), how="-c")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: statuses.ndjson" in done.stdout
    assert "miss rows" in json.loads(raw.read_text())["runs"][0]["error"]


BREAK_LATER = """
from benchmarks import __main__ as program
from benchmarks.endpoint import Ceiling
ceilings = iter([Ceiling("a server", "raw", 1)])
program.ceiling = lambda *_, **__: next(ceilings)
raise SystemExit(program.main())
"""


def test_what_was_measured_is_kept_when_the_rest_breaks(tmp_path):
    """Raw results are written after every cell, not only at the end."""
    raw = tmp_path / "raw.json"
    done = run(BREAK_LATER, *TINY, "--only", "3,30,export", "--json", str(raw), how="-c")
    assert "StopIteration" in done.stderr
    assert [item["cell"]["rows"] for item in json.loads(raw.read_text())["runs"]] == [3]


def test_a_terminated_run_leaves_nothing_behind(tmp_path):
    """After SIGTERM neither the servers nor the measured client nor any file is left."""
    command = [sys.executable, "-m", "benchmarks", *TINY, "--seconds", "60", "--only", "3,export"]
    place = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=place, stdout=subprocess.PIPE) as process:
        process.stdout.readline()  # the heading is printed when the servers run
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        process.stdout.read()  # to its end, which comes when nobody is left who could write
    assert list(tmp_path.iterdir()) == []
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in lines.stdout


def test_a_client_that_hangs_is_given_up(monkeypatch, tmp_path):
    """A measured process that does not come to an end is killed, and has no figures."""
    monkeypatch.setattr(machine, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        job = {"url": url, "count": 1, "connections": 1, "output": str(tmp_path / "out.ndjson")}
        with pytest.raises(ChildError, match="not done"):
            measure("benchmarks.clients:export", job, core=None)


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


@pytest.mark.slow
def test_shards_are_held_against_one_process(tmp_path):
    """Two shards by hand make the rows that one process makes; the raw results are kept."""
    raw = tmp_path / "raw.json"
    words = ("--shards", *TINY, "--only", f"30,{shards.HAND}", "--json", str(raw))
    done = run("benchmarks", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(raw.read_text())["runs"]
    assert [item["way"] for item in found] == [shards.ONE, shards.HAND]
    assert all(item["cpu"] > 0 and item["error"] is None for item in found)


def test_a_speed_up_is_taken_within_a_round():
    """It is the median over rounds, beside its goal; the server's share bounds it."""
    one = Taken(30, shards.ONE, 0, 100, seconds=2.0, cpu=2.0, server_cpu=0.5)
    two = replace(one, way=shards.HAND, seconds=1.0)
    runs = [one, two, replace(one, round=1, seconds=3.0), replace(two, round=1, seconds=2.0)]
    runs += [replace(one, round=2), replace(two, round=2, error="a wrong row")]
    table = shards.table(30, runs)
    assert "1.75x" in table[4]
    assert "[1.50 2.00]" in table[4]
    assert table[4].endswith("1.4 met")
    assert "FAILED: a wrong row" in table[5]


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


def test_the_table_says_what_its_figures_are_worth():
    """A goal is met or missed, an unknown figure n/a, and a client near the ceiling is marked."""
    cell = Cell(30)
    export = Run("export", cell, 0, 100, seconds=1.0, cpu=1.0, idle=1 << 20, peak=3 << 20)
    bare = replace(export, client="bare loop", cpu=0.95, idle=None)
    runs = [export, bare, replace(export, client="zeep", seconds=30.0),
            replace(export, client="scrapy", seconds=2.0)]  # fmt: skip
    table = {
        line.split()[0]: line for line in report.table(cell, runs, Ceiling("nginx", "wrk", 190))[2:]
    }
    assert "+2.0" in table["export"]
    assert "NEAR THE CEILING" in table["export"]
    assert "n/a" in table["bare"]
    assert table["zeep"].endswith("12 met")
    assert table["scrapy"].endswith("28 missed")
    assert report.guarantees(runs)[-1].endswith("(goal: at most 10 %) met")
    late = Cell(30, latency=0.05)
    runs = [replace(export, cell=late)]
    assert "NEAR" not in report.table(late, runs, Ceiling("a server", "wrk", 100))[-1]


# bulkfetch bench

MEASURED = Measurement(
    label="x",
    way="direct",
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
    assert found.way == "direct"


def test_the_command_measures_this_machine():
    """Without ids each size of course has its figures and a verdict."""
    done = bulkfetch("bench", "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    sizes = [line.partition(" rows a course")[0] for line in lines[1::2]]
    assert sizes == ["3", "30", "300", "3,000"]
    assert all("limit" in line and line.endswith("way: direct") for line in lines[2::2])


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
from bulkfetch.cli.measure import _simulated
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
        process.communicate(timeout=300)  # to the end of stderr, which the server had, too
