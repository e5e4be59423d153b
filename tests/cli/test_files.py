"""Options that would overwrite what a run reads or keeps; `verify` and `status` as they say it."""

import contextlib
import json

import pytest
from commands import bulkfetch
from outputs import commit_to, course, timeout

from bulkfetch._output.frames import Stop
from bulkfetch._output.journaled import JournaledFile

ENDPOINT = ("--endpoint", "http://127.0.0.1:9/")


def sink_on(path):
    return JournaledFile(path, fingerprint={"endpoint": "127.0.0.1"}, run_id="r")


def make_output(path, *, finish=True, stop=None):
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        commit_to(sink, [course("c1", [("u", "Passed", 1.0)]), timeout("c2")])
        if finish:
            sink.finish({})
        if stop:
            sink.stopped(stop)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.ndjson"


@pytest.mark.parametrize(
    "words",
    [
        ("-i", "out.ndjson", "-o", "out.ndjson", "--overwrite"),
        ("-i", "link", "-o", "out.ndjson", "--overwrite"),
        ("-i", "out.ndjson.part", "-o", "out.ndjson", "--overwrite"),
        ("-i", "ids", "-o", "token", "--token-file", "token", "--overwrite"),
        ("-i", "ids", "-o", "out.ndjson", "--metrics-file", "out.ndjson"),
        ("-i", "ids", "-o", "out.ndjson", "--metrics-file", "out.ndjson.journal"),
        ("-i", "ids", "-o", "out.ndjson", "--metrics-file", "ids"),
        ("-i", "ids", "-o", "new.ndjson", "--metrics-file", "out.ndjson"),
        ("-i", "ids", "-o", "new.ndjson", "--metrics-file", "diary"),
    ],
)
def test_f124_nothing_is_overwritten(path, words):
    """Exit 2 before the first request, the file named; every file is as it was."""
    folder = path.parent
    make_output(path)
    (folder / "ids").write_text("c1\n")
    (folder / "token").write_text("sentinel")
    (folder / "token").chmod(0o600)
    (folder / "diary").write_text("dear diary\n")
    (folder / "link").symlink_to("out.ndjson")
    (folder / "out.ndjson.part").write_text("c1\n")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    done = bulkfetch("fetch", *ENDPOINT, *words, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert any(word in done.stderr for word in words if not word.startswith("-"))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("there", [True, False], ids=["finished", "new"])
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--token-file", "nowhere"),
        ("--token-file", "shown"),
        ("--token-file", "empty"),
        ("--token-command", "nowhere-at-all"),
        ("--token-command", "'unbalanced"),
        ("--token-url", "http://127.0.0.1:9/token"),
        ("--token-file", "good", "--cacert", "nowhere"),
        ("--token-file", "good", "--cert", "empty"),
        ("--token-file", "good", "--id-column", "nowhere"),
        ("--token-file", "good", "-i", "nowhere"),
        ("--token-file", "good", "-i", "empty"),
        ("--token-file", "good", "--endpoint", "nowhere"),
    ],
)
def test_no_output_is_begun_or_replaced_with_settings_that_cannot_serve(path, words, there):
    """Exit 2 with every file as it was, also with --overwrite; none is there that was not."""
    folder = path.parent
    if there:
        make_output(path)
    for name, text, mode in (
        ("ids", "course\nc1\n", 0o600),
        ("good", "sentinel", 0o600),
        ("shown", "sentinel", 0o644),
        ("empty", "", 0o600),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(mode)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    said = ("fetch", *ENDPOINT, "-i", "ids", "-o", path.name, "--overwrite", *words)
    done = bulkfetch(*said, cwd=folder, token="")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("words", [("--html", "diary"), ("--json", "diary"), ("--html", "OUT")])
def test_f124_a_report_replaces_only_reports(path, words):
    """A report goes to a new name or over an earlier report; 0600 in any case."""
    make_output(path)
    diary = path.with_name("diary")
    diary.write_text("dear diary\n")
    done = bulkfetch(
        "report", "out.ndjson", *(w.replace("OUT", path.name) for w in words), cwd=path.parent
    )
    assert (done.returncode, diary.read_text()) == (2, "dear diary\n")
    for flags in ((), (), ("--json", "r.json"), ("--json", "r.json")):
        assert bulkfetch("report", "out.ndjson", *flags, cwd=path.parent).returncode == 0
    modes = {file.stat().st_mode & 0o777 for file in path.parent.glob("*report.html")}
    assert modes == {0o600}


@pytest.mark.parametrize(
    ("words", "code", "made"),
    [
        (("--html", "a", "--json", "b"), 0, ["a", "b"]),
        (("--html", "-", "--json", "-"), 2, []),
        (("--html", "a", "--json", "./a"), 2, []),
    ],
)
def test_a_report_in_two_forms_goes_to_two_places(path, words, code, made):
    """The page and the JSON are both written, or neither is."""
    make_output(path)
    done = bulkfetch("report", path.name, *words, cwd=path.parent)
    assert done.returncode == code
    assert code == 0 or "name two files" in done.stderr
    assert [name for name in "ab" if path.with_name(name).exists()] == made


def test_f127_verify_says_0_only_for_what_is_published(path):
    """0 for a finished output, 7 for one that is not, 6 for one that is not what it says."""
    make_output(path)
    assert bulkfetch("verify", path).returncode == 0
    path.write_bytes(path.read_bytes() + b"x")
    assert bulkfetch("verify", path).returncode == 6
    make_output(path.with_name("half"), finish=False)
    done = bulkfetch("verify", path.with_name("half"))
    assert (done.returncode, done.stdout) == (7, "")
    assert "not finished yet: run the same command again" in done.stderr
    assert "1 course, 1 row" in done.stderr


STOP = Stop(1_700_000_000.0, 5, "TemporarilyUnavailable", "20 courses failed", "HTTP 503")


def test_f112_status_says_why_a_run_stopped(path):
    """In words and as JSON: the sentence, the exit code and the last failure."""
    make_output(path, finish=False, stop=STOP)
    said = bulkfetch("status", path).stdout
    assert "20 courses failed (exit code 5)" in said
    assert "HTTP 503" in said
    stop = json.loads(bulkfetch("status", path, "--json").stdout)["stop"]
    assert (stop["exit_code"], stop["kind"], stop["last_failure"]) == (5, STOP.kind, "HTTP 503")


def test_a_finished_output_stays_finished_when_a_later_run_stops(path):
    """It is sound, and its status tells both."""
    make_output(path, stop=STOP)
    assert bulkfetch("verify", path).returncode == 0
    said = json.loads(bulkfetch("status", path, "--json").stdout)
    assert (said["state"], said["stop"]["exit_code"]) == ("finished", 5)


def test_status_sees_a_run_and_leaves_it_alone(path):
    """A run is seen while it holds its lock, and not before or after."""
    make_output(path, finish=False)

    def state():
        return json.loads(bulkfetch("status", path, "--json").stdout)["state"]

    assert state() == "stopped"
    sink = sink_on(path)
    sink.open()
    assert state() == "running"
    sink.close()
    assert state() == "stopped"


def test_retry_failed_leaves_a_run_at_work_alone(path):
    """Exit 5 while a run holds the output, be it new, unfinished or finished; else what it is."""

    def code():
        done = bulkfetch("retry-failed", path.name, *ENDPOINT, cwd=path.parent)
        return done.returncode, "another run holds out.ndjson" in done.stderr

    for begun in (lambda: None, lambda: make_output(path, finish=False), lambda: make_output(path)):
        begun()
        sink = sink_on(path)
        with contextlib.closing(sink):
            sink.open()
            assert code() == (5, True)
        if not path.exists():
            assert code() == (2, False)
