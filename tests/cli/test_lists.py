"""Lists of ids as a user gives them: shards, lists that change, lists that look wrong."""

from __future__ import annotations

import gzip
import json

import pytest
from commands import bulkfetch, started

from bulkfetch._output.inspect import read_ledger
from bulkfetch.testing import SimulatedServer, Simulation

SIMULATION = Simulation(courses=40, rows=(1, 5), unknown=2, seed=3)


@pytest.fixture(scope="module")
def server():
    with SimulatedServer(SIMULATION) as server:
        yield server


@pytest.fixture
def ids(server, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"{one}\n" for one in server.course_ids))
    return path


def fetch(server, output, ids, *more):
    return bulkfetch("fetch", "--endpoint", server.endpoint, "-i", ids, "-o", output, *more)


def rows_of(*paths):
    return sorted(line for path in paths for line in path.read_bytes().splitlines())


def test_shards_are_exports_of_their_own_and_together_the_whole(server, ids, tmp_path):
    """Each row is in exactly one part; the same command goes on, and asks nothing again."""
    whole = tmp_path / "whole.ndjson"
    assert fetch(server, whole, ids).returncode == 1
    parts = [tmp_path / f"part-{index}.ndjson" for index in range(3)]
    for index, part in enumerate(parts):
        assert fetch(server, part, ids, "--shard", f"{index}/3").returncode in {0, 1}
    assert rows_of(*parts) == rows_of(whole)
    before = server.counters.requests
    assert fetch(server, parts[1], ids, "--shard", "1/3").returncode in {0, 1}
    assert server.counters.requests == before
    assert read_ledger(str(parts[1])).header.fingerprint["shard"] == "1/3"


@pytest.mark.parametrize("more", [(), ("--shard", "0/3"), ("--shard", "1/4")])
def test_a_part_is_not_gone_on_with_as_another(more, server, ids, tmp_path):
    """Another shard, another number of them, or none: each is another output."""
    part = tmp_path / "part.ndjson"
    fetch(server, part, ids, "--shard", "1/3")
    done = fetch(server, part, ids, *more)
    assert done.returncode == 2
    assert "part.ndjson was begun with shard '1/3', this run has" in done.stderr


def test_retry_failed_of_a_part_knows_its_shard(server, ids, tmp_path):
    """Nobody has to say it again."""
    for index in range(2):
        part = tmp_path / f"{index}.ndjson"
        if fetch(server, part, ids, "--shard", f"{index}/2").returncode == 1:
            done = bulkfetch(
                "retry-failed", part, variables={"BULKFETCH_ENDPOINT": server.endpoint}
            )
            assert done.returncode == 1, done.stderr
            assert "fetched" in done.stderr


def test_the_plan_of_a_shard_tells_what_is_others(server, ids, tmp_path):
    """--dry-run counts all ids and says how many belong elsewhere."""
    counts = []
    for index in range(2):
        done = fetch(server, tmp_path / "x", ids, "--shard", f"{index}/2", "-n", "--limit", "9999")
        assert "ids       42 from" in done.stdout
        assert f"shard     {index}/2, " in done.stdout
        assert "as --limit" not in done.stdout
        counts.append(int(done.stdout.partition("to fetch  ")[2].split()[0]))
    assert sum(counts) == 42


def test_f113_a_list_that_changes_in_mid_run_ends_it_in_words(server, tmp_path):
    """Exit code 2, "the list changed", and every id that was asked is one of the old list."""
    ids = tmp_path / "ids.txt"
    old = "".join(f"{one}\n" for one in server.course_ids)
    filler = "".join(f"no-such-course-{number:06}\n" for number in range(6_000))
    ids.write_text(old + filler)
    argv = ("fetch", "-i", ids, "-o", tmp_path / "out", "--endpoint", server.endpoint)
    with started(*argv, "--log-format", "json") as process:
        for line in process.stderr:
            if json.loads(line)["event"] == "course_fetched":
                break
        ids.write_text(filler.upper())
        rest = process.communicate(timeout=300)[1]
    events = [json.loads(line) for line in rest.splitlines()]
    assert process.returncode == 2
    assert "the list changed while it was read" in events[-1]["message"]
    assert not any("NO-SUCH" in event.get("course", "") for event in events)


def test_f121_what_looks_wrong_in_a_list_is_said_on_stderr(server, ids, tmp_path):
    """A warning with the line for a person, and as an event for a program."""
    ids.write_text(f"{server.course_ids[0]}\n1.23E+15\n")
    done = fetch(server, tmp_path / "a", ids)
    assert "warning: " in done.stderr
    assert "ids.txt, line 2: '1.23E+15' is a number that a spreadsheet rounded" in done.stderr
    done = fetch(server, tmp_path / "b", ids, "--log-format", "json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    (warning,) = [one for one in events if one.get("level") == "warning"]
    assert "line 2: '1.23E+15'" in warning["message"]


def test_a_list_that_ends_in_gz_in_capitals_is_unpacked(server, ids, tmp_path):
    """The suffix counts in any case."""
    packed = tmp_path / "IDS.CSV.GZ"
    packed.write_bytes(gzip.compress(b"ID,title\n" + server.course_ids[0].encode() + b",x\n"))
    assert fetch(server, tmp_path / "out", packed).returncode in {0, 1}
