"""What a run will do and has left undone: dry runs, limits, words that changed, completion."""

from __future__ import annotations

import subprocess
from contextlib import closing

import pytest
from commands import COMMAND, bulkfetch, environment
from outputs import commit_to, course

from bulkfetch import Options
from bulkfetch._engine.export import fingerprint
from bulkfetch._output.index import Index
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._output.layout import Layout
from bulkfetch._output.ledger import Ledger
from bulkfetch.cli.plan import _time, plan
from bulkfetch.testing import SimulatedServer, Simulation

URL = "https://acme.example/soap"
SEEN = {"courses": 100, "seconds": 10.0, "latency_p50": 0.5}
FEW = {"courses": 3, "seconds": 10.0, "latency_p50": 0.5}
TIMES = {
    "nothing known": ({}, None, "50 s if a request takes 1 s"),
    "a rate": ({"rate": 2}, None, "at least 3 min 20 s; 3 min 20 s if a request takes 1 s"),
    "a fast rate": ({"rate": 100}, None, "at least 4.0 s; 50 s if a request takes 1 s"),
    "a pace": ({}, SEEN, "about 40 s, at up to 10.0 courses/s as before"),
    "a pace, fewer at once": ({"concurrency": 2}, SEEN, "about 1 min 40 s, at up to 10.0"),
    "a pace and a rate": ({"rate": 2}, SEEN, "about 3 min 20 s, at up to 10.0 courses/s"),
    "a latency": ({}, FEW, "about 25 s, with 500 ms a request as before"),
}


@pytest.mark.parametrize(("changes", "state", "words"), TIMES.values(), ids=TIMES)
def test_the_time_follows_from_rate_concurrency_and_the_pace_seen(changes, state, words):
    """400 courses, eight at once: the slowest of what is known decides."""
    ledger = Ledger(state=state) if state else None
    assert _time(400, Options(endpoint=URL, **changes), ledger).startswith(words)


@pytest.fixture(scope="module")
def server():
    with SimulatedServer(Simulation(courses=403, rows=(1, 1))) as server:
        yield server


@pytest.fixture
def ids(server, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("".join(f"{course_id}\n" for course_id in server.course_ids))
    return path


async def test_what_is_done_is_looked_up_fast(tmp_path, monkeypatch):
    """What the output and its parts hold is not asked again, and known in one look an id."""
    out, options = tmp_path / "out.ndjson", Options(endpoint=URL)
    (tmp_path / "out.ndjson.parts").mkdir()
    marks = fingerprint(options)
    part = Layout.of(out).shard(0, 2).output
    for path, more, names in ((out, {}, "ab"), (part, {"shard": "0/2"}, "cde")):
        sink = JournaledFile(path, fingerprint=marks | more, run_id="r", durability="none")
        with closing(sink):
            sink.open()
            commit_to(sink, [course(name, [("u", "Passed", 1.0)]) for name in names])
    monkeypatch.delattr(Index, "get")  # slow
    said = await plan([*"abcdefg"], "ids", str(out), options, overwrite=False)
    assert [line for line in said if line.startswith(("settled", "to fetch"))] == [
        "settled   5 are done already",
        "to fetch  2 courses",
    ]


def test_f122_a_limit_is_told_before_and_after(server, ids, tmp_path):
    """10 of 403: nobody takes what was fetched for all there is."""
    out = tmp_path / "out.ndjson"
    arguments = ("fetch", "--endpoint", server.endpoint, "-i", ids, "-o", out, "--limit", "10")
    planned = bulkfetch(*arguments, "--dry-run")
    assert "403 from" in planned.stdout
    assert "10 courses of 403, as --limit 10 says" in planned.stdout
    words = "10 of 403 courses asked for, as limit 10 says; the same command asks for the next"
    for _ in range(2):
        done = bulkfetch(*arguments)
        assert (done.returncode, words in done.stderr) == (0, True), done.stderr
    last = bulkfetch(*arguments[:-1], "383")
    assert last.returncode == 0
    assert "asked for" not in last.stderr


MISSING = {
    "token": ({}, (), "no access token: set BULKFETCH_TOKEN"),
    "token file": ({}, ("--token-file", "none"), "the token file none cannot be read"),
    "open token file": ({}, ("--token-file", "open"), "can be read by others"),
    "endpoint": ({"BULKFETCH_ENDPOINT": ""}, (), "no endpoint: say --endpoint URL"),
}


@pytest.mark.parametrize(("variables", "flags", "words"), MISSING.values(), ids=MISSING)
def test_a_dry_run_says_what_is_missing(tmp_path, variables, flags, words):
    """What would end the real run at once ends this one: exit 2, in words."""
    (tmp_path / "ids.txt").write_text("1\n")
    (tmp_path / "open").write_text("token")
    (tmp_path / "open").chmod(0o644)
    done = bulkfetch(
        *("fetch", "-i", "ids.txt", "-o", "out", "-n", *flags),
        token="",
        variables={"BULKFETCH_ENDPOINT": URL, **variables},
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.txt", "open"]


def test_the_old_word_for_a_kind_is_answered_with_the_new_one():
    """`--class` was what `--kind` is."""
    done = bulkfetch("retry-failed", "out", "--class", "timeout")
    assert done.returncode == 2
    assert "--class is called --kind: say --kind timeout" in done.stderr


@pytest.mark.parametrize(
    "words",
    ["fetch -i ", "fetch -o ", "fetch --token-file ", "verify ", "parse ", "fetch --config "],
)
def test_the_shell_completes_files_where_files_are_meant(words):
    """Lists, outputs, certificates: the shell is told to complete a file's name."""
    line = f"bulkfetch {words}"
    variables = {
        "_BULKFETCH_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split())),
    }
    done = subprocess.run(
        COMMAND, env=environment(**variables), capture_output=True, text=True, check=False
    )
    assert done.stdout == "file,\n"
