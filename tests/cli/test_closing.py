"""`--summary FILE`: what a run came to, as JSON, whatever its end."""

import json
import signal
import stat

import jsonschema
import pytest
from commands import bulkfetch, fetch

from bulkfetch._report.story import SUMMARY_SCHEMA
from bulkfetch.cli.closing import _end
from bulkfetch.cli.signals import Signalled
from bulkfetch.testing import SimulatedServer, Simulation

SCHEMA = json.loads(SUMMARY_SCHEMA.read_text())
SIMULATION = Simulation(courses=12, unknown=2, rows=(1, 4), seed=3)


@pytest.fixture(scope="module")
def server():
    with SimulatedServer(SIMULATION) as server:
        yield server


@pytest.fixture
def run(server, tmp_path):
    """Run `fetch`; gives the process and the summary, held against its schema."""

    def call(*more, name="out.ndjson", **settings):
        arguments = fetch(server, name, tmp_path / "ids", "--summary", "s.json", *more)
        done = bulkfetch(*arguments, cwd=tmp_path, **settings)
        told = json.loads((tmp_path / "s.json").read_text())
        jsonschema.validate(told, SCHEMA)
        return done, told

    return call


def test_a_finished_run(run, tmp_path):
    """Counts of the run and of the output, the code of the command, in a private file."""
    done, told = run("-q")
    assert (done.returncode, done.stderr) == (1, "")
    assert (told["exit_code"], told["kind"], told["command"]) == (1, "finished", "fetch")
    assert (told["run"]["fetched"], told["run"]["refused"], told["run"]["failed"]) == (12, 2, 0)
    assert told["in_output"]["failures"] == {"unknown-content-item": 2}
    assert told["in_output"]["rows"] == told["run"]["rows"] > 0
    assert stat.S_IMODE((tmp_path / "s.json").stat().st_mode) == 0o600


def test_a_resumed_run_is_told_apart_from_the_output(run):
    """The run's numbers are this run's, the output's are those of all."""
    run("--limit", "5")
    _, told = run()
    assert (told["run"]["settled"], told["run"]["courses"], told["run"]["total"]) == (5, 9, 14)
    assert told["in_output"]["fetched"] + told["in_output"]["refused"] == 14


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "kind"),
    [
        (["--fail-fast", "--ordered", "--concurrency", "1"], {}, 3, "StoppedEarly"),
        (["--endpoint", "http://127.0.0.1:1/x", "--endpoint", "nonsense"], {}, 2, None),
        (["--timeout", "-1"], {}, 2, "ConfigurationError"),
        ([], {"token": ""}, 2, "ConfigurationError"),
    ],
)
def test_a_bad_end_is_told_as_on_the_screen(run, arguments, settings, code, kind):
    """Exit code, kind and words are those that the command ends with."""
    done, told = run(*arguments, **settings)
    assert (done.returncode, told["exit_code"]) == (code, code)
    assert told["kind"] == (kind or told["kind"])
    assert told["message"] in done.stderr


def test_a_signal_before_the_run_is_told_too():
    """Whatever could raise it: the signal's own code and words."""
    assert _end(Signalled(signal.SIGTERM), None) == (143, "Terminated", "stopped by SIGTERM")


def test_a_bad_end_tells_how_far_the_run_came(run):
    """A run that was stopped has its counts, and the output's."""
    _, told = run("--fail-fast", "--ordered", "--concurrency", "1")
    assert told["run"]["fetched"] == told["in_output"]["fetched"]
    assert told["run"]["requests"] > 0


def test_retry_failed_has_it_too(tmp_path):
    """Also when there was nothing to do."""
    with SimulatedServer(Simulation(courses=3)) as good:
        assert bulkfetch(*fetch(good, "o", tmp_path / "ids"), cwd=tmp_path).returncode == 0
        target = ("--endpoint", good.endpoint, "--summary", "s.json")
        assert bulkfetch("retry-failed", "o", *target, cwd=tmp_path).returncode == 0
    told = json.loads((tmp_path / "s.json").read_text())
    jsonschema.validate(told, SCHEMA)
    assert (told["command"], told["run"]) == ("retry-failed", None)
    assert told["message"] == "there was nothing to do"
    assert told["in_output"]["fetched"] == 3


@pytest.mark.parametrize(
    "name",
    ["o", "./o", "o.part", "o.journal", "o.failed.ndjson", "o.manifest.json", "ids", "link"],
)
@pytest.mark.parametrize("more", [(), ("--timeout", "-1")])
def test_no_file_of_the_run_is_replaced(server, tmp_path, name, more):
    """A name that is the run's own, by whatever path, is refused before the first request."""
    (tmp_path / "link").symlink_to("o.manifest.json")
    asked = server.counters.requests
    arguments = fetch(server, "o", tmp_path / "ids", "--summary", name, *more)
    done = bulkfetch(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert more or "is a file of the run itself" in done.stderr
    assert server.counters.requests == asked
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids", "link"]
    assert (tmp_path / "ids").read_text().split() == list(server.course_ids)


OTHERS = {
    "foreign": ("diary", "exists and was not made by this command"),
    "hard link to the list": ("hard", "is a file of the run itself"),
    "token file": ("token", "is a file of the run itself"),
    "data of another output": ("other", "belongs to the output"),
    "journal of another output": ("other.journal", "belongs to the output"),
    "manifest of another output": ("other.manifest.json", "belongs to the output"),
}


@pytest.mark.parametrize(("name", "words"), OTHERS.values(), ids=OTHERS)
def test_a_strangers_file_is_not_replaced(server, tmp_path, name, words):
    """It is refused before the first request, and no file changes; empty and older ones serve."""
    bulkfetch(*fetch(server, "other", tmp_path / "ids", "--limit", "1"), cwd=tmp_path)
    arguments = fetch(server, "o", tmp_path / "ids", "--token-file", "token", "--summary")
    for place, text in (("diary", "dear diary"), ("token", server.token), ("empty", "")):
        (tmp_path / place).write_text(text)
        (tmp_path / place).chmod(0o600)
    (tmp_path / "hard").hardlink_to(tmp_path / "ids")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    asked = server.counters.requests
    done = bulkfetch(*arguments, name, cwd=tmp_path, token="")
    assert (done.returncode, server.counters.requests) == (2, asked)
    assert words in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    for _ in range(2):
        assert bulkfetch(*arguments, "empty", "--limit", "1", cwd=tmp_path, token="").returncode < 2


def test_to_stdout(server, tmp_path):
    """`-` writes to stdout, but not into the rows."""
    arguments = fetch(server, "o", tmp_path / "ids", "-q", "--summary", "-")
    told = json.loads(bulkfetch(*arguments, cwd=tmp_path).stdout)
    jsonschema.validate(told, SCHEMA)
    arguments = fetch(server, "-", tmp_path / "ids", "-q", "--summary", "-")
    assert bulkfetch(*arguments, cwd=tmp_path).returncode == 2


def test_a_place_that_cannot_be_written_is_said(server, tmp_path):
    """After a good run it is the end; the output stays."""
    arguments = fetch(server, "o", tmp_path / "ids", "--summary", "no/such/folder")
    done = bulkfetch(*arguments, cwd=tmp_path)
    assert done.returncode == 6
    assert "cannot write no/such/folder" in done.stderr
    assert (tmp_path / "o.manifest.json").exists()


def test_the_schema_is_printed():
    """`report --summary-schema` publishes it."""
    printed = json.loads(bulkfetch("report", "--summary-schema").stdout)
    jsonschema.Draft202012Validator.check_schema(printed)
    assert printed == SCHEMA
