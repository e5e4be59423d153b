"""The commands as a user runs them: streams, files, signals, exit codes, and what is said."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from commands import until

import bulkfetch
from bulkfetch import Options
from bulkfetch._config.options import settings
from bulkfetch._config.sources import default_text
from bulkfetch.cli import main
from bulkfetch.cli.examples import EXAMPLES
from bulkfetch.cli.program import _COMMANDS
from bulkfetch.cli.voice import Voice
from bulkfetch.testing import SimulatedServer, Simulation, expected_rows

SIMULATION = Simulation(courses=40, rows=(0, 20), unknown=3, denied=1, seed=7)
BULKFETCH = (sys.executable, "-m", "bulkfetch")
RESPONSE = b"""<E:Envelope xmlns:E="http://schemas.xmlsoap.org/soap/envelope/" xmlns:n="urn:x">
<E:Body><n:GetContentItemFinalStatusesResult><n:statuses><n:status><n:userId>u1</n:userId>
<n:status>Passed</n:status><n:progress>45.22</n:progress></n:status></n:statuses>
</n:GetContentItemFinalStatusesResult></E:Body></E:Envelope>"""
ROW = {"contentItemId": "ok", "userId": "u1", "status": "Passed", "progress": 45.22}


@pytest.fixture(scope="module")
def server():
    with SimulatedServer(SIMULATION) as server:
        yield server


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Run in an empty folder, without settings, and leave logging as it was."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("BULKFETCH_")]:
        monkeypatch.delenv(name)
    logger = logging.getLogger("bulkfetch")
    before = logger.handlers[:], logger.level
    yield tmp_path
    logger.handlers[:] = before[0]
    logger.setLevel(before[1])


@pytest.fixture
def account(server, monkeypatch, place):
    """Settings for the simulated account, and the list of its ids in ids.txt."""
    use(server, monkeypatch)
    write_ids(place / "ids.txt", server.course_ids)
    return server


@pytest.fixture
def run(capfd):
    """Run a command in this process; returns its code, stdout and stderr."""

    def run(*argv):
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(argv)
        out, err = capfd.readouterr()
        return caught.value.code, out, err

    return run


def use(server, monkeypatch):
    monkeypatch.setenv("BULKFETCH_ENDPOINT", server.endpoint)
    monkeypatch.setenv("BULKFETCH_TOKEN", server.token)


def write_ids(path, ids):
    path.write_text("".join(f"{course_id}\n" for course_id in ids))


def started(*argv, **options):
    """Start a command of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([*BULKFETCH, *argv], **pipes)


def read_rows(path):
    return sort(json.loads(line) for line in Path(path).read_text().splitlines())


def sort(rows):
    return sorted(rows, key=lambda row: (row["contentItemId"], row["userId"]))


def all_rows(server):
    return sort(row for rows in server.expected().values() for row in rows)


# --help


def test_help_imports_nothing_heavy():
    """`bulkfetch --help` loads click and names, not the libraries that commands need."""
    code = (
        "import sys; from bulkfetch.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print([m for m in ('aiohttp', 'lxml', 'rich', 'orjson', 'asyncio', 'tenacity')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "fetch" in done.stdout


def test_every_setting_but_secrets_has_a_flag_under_its_group(run):
    """The flags of fetch are the settings, each with its help and default, grouped."""
    code, out, _ = run("fetch", "--help-all")
    assert code == 0
    words = " ".join(out.split())
    for name, item in settings().items():
        assert (f"--{name.replace('_', '-')} " in words) is item.flag, name
        assert f"\n{item.group}:\n" in out
        if item.flag:
            default = default_text(name)
            assert (f"{item.help} [default: {default}]" if default else item.help) in words
    assert "-c, --concurrency N" in words


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_explains_itself(run, command, monkeypatch):
    """Its help begins as in `bulkfetch --help`, fits a screen, and ends with its exit codes."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(command, "--help")
    assert code == 0
    assert len(out.splitlines()) <= 70
    assert "\nExit codes:\n  0 " in out
    assert "--no-color" in run(command, "--help-all")[1]
    assert run("help", command) == (0, out, "")
    assert _COMMANDS[command][1] in " ".join(out.split())
    assert "--log-format" in out
    assert _COMMANDS[command][1] in " ".join(run("--help")[1].split())


@pytest.mark.parametrize("command", EXAMPLES)
def test_every_example_names_a_command(command):
    """Each piece of a line to copy begins with a command of the shell or one of ours."""
    for line in EXAMPLES[command]:
        for piece in re.split(r" (?:\||&&) ", line):
            ours, name, *_ = piece.split()
            assert ours in {"bulkfetch", "grep", "jq"}, line
            assert ours != "bulkfetch" or name in _COMMANDS, line
    assert any(f"bulkfetch {command}" in line for line in EXAMPLES[command])


def test_every_command_has_an_example():
    """But those that print what the shell is to run."""
    assert set(_COMMANDS) - set(EXAMPLES) <= {"completion"}


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("load", "0 2 5 6 130"),
        ("diff", "0 2 6 130"),
        ("report", "0 2 6 130"),
        ("status", "0 2 6 130"),
    ],
)
def test_help_lists_the_exit_codes_that_a_script_meets(run, command, codes):
    """A scheduler is told which code to try again later."""
    listed = run(command, "--help")[1].partition("Exit codes:\n")[2]
    assert re.findall(r"^  (\d+)", listed, re.MULTILINE) == codes.split()


def test_the_flags_of_simulate_are_those_of_the_simulation():
    """Every knob of the simulated LMS but its credentials has a flag, with the same default."""
    from bulkfetch.cli.commands.simulate import simulate

    flags = {flag.name: flag.default for flag in simulate.params}
    for field in fields(Simulation):
        if field.name not in {"token", "client_id", "client_secret"}:
            assert flags[field.name] == field.default, field.name


# fetch


def test_fetch_writes_every_row_once_and_lists_what_failed(account, run):
    """Exit 1: the rows are right by value, and the failed courses are in their own file."""
    code, out, err = run("fetch", "-i", "ids.txt", "-o", "out.ndjson")
    assert code == 1
    assert out == ""
    assert read_rows("out.ndjson") == all_rows(account)
    failed = read_rows_of_failed("out.ndjson.failed.ndjson")
    assert set(failed) == {*account.unknown_ids, *account.denied_ids}
    told = [
        "refused  4, the server's final word",
        "kinds  unknown-content-item 3, permission-denied 1",
    ]
    assert_told(told, err)
    assert "retry-failed out.ndjson asks for the refused courses again, once the cause" in err
    assert "(the refused courses)" in err
    assert "nothing left to ask" not in err
    assert_told(told, run("status", "out.ndjson")[1])
    _, _, err = run("fetch", "-i", "ids.txt", "-o", "out.ndjson")
    assert "nothing left to ask: 4 courses are refused; see out.ndjson.failed.ndjson" in err


def assert_told(rows, text):
    lines = [line.split() for line in text.splitlines()]
    for row in rows:
        assert row.split() in lines, text


def test_what_failed_and_what_was_refused_are_told_apart_in_the_same_words(run, place, monkeypatch):
    """Summary and status agree, and the hint speaks of both."""
    with SimulatedServer(Simulation(courses=30, unknown=1, share_503=0.3)) as server:
        use(server, monkeypatch)
        write_ids(place / "ids.txt", server.expected())
        argv = ("fetch", "-i", "ids.txt", "-o", "out.ndjson", "--retries", "0")
        code, _, err = run(*argv)
    number = len(read_rows_of_failed("out.ndjson.failed.ndjson"))
    told = [f"failed  {number}, will be tried again", f"kinds  http-503 {number}"]
    assert code == 1
    assert_told(told, err)
    assert_told(told, run("status", "out.ndjson")[1])
    assert "asks for the failed courses again\n" in err
    assert "nothing left to ask" not in err


def read_rows_of_failed(path):
    lines = Path(path).read_text().splitlines()
    return {row["contentItemId"]: row["kind"] for row in map(json.loads, lines)}


def test_fetch_of_all_courses_needs_no_list(account, run):
    """--all-courses takes what the account lists; every one of it can be fetched but the denied."""
    code, _, err = run("fetch", "--all-courses", "--type", "course", "-o", "out.ndjson")
    assert code == 1
    assert read_rows("out.ndjson") == all_rows(account)
    assert "the account lists 41 courses" in err


def test_all_fetched_is_exit_0_and_a_repetition_asks_for_nothing(account, run, place):
    """A complete output is left as it is."""
    write_ids(place / "ids.txt", account.expected())
    assert run("fetch", "-i", "ids.txt", "-o", "out.ndjson")[0] == 0
    before = account.counters.requests
    code, _, err = run("fetch", "-i", "ids.txt", "-o", "out.ndjson")
    assert code == 0
    assert account.counters.requests == before
    assert "settled before 40" in err
    assert not Path("out.ndjson.failed.ndjson").exists()


def test_a_csv_list_is_read_by_column(account, run, place):
    """--id-column names the ids of a table."""
    (place / "ids.csv").write_text("n;course\n1;" + next(iter(account.expected())) + "\n")
    assert run("fetch", "-i", "ids.csv", "--id-column", "course", "-o", "out.ndjson")[0] == 0
    assert read_rows("out.ndjson") == sort(next(iter(account.expected().values())))


def test_a_csv_list_through_a_pipe_asks_for_its_ids_alone(account, place):
    """`cat c.csv | fetch -i -` reads the column of the ids, though a pipe has no name."""
    ids = [*account.expected()][:3]
    table = "contentItemId,title\n" + "".join(f"{course_id},x\n" for course_id in ids)
    fetch = started("fetch", "-i", "-", "-o", "out.ndjson", "-q", stdin=subprocess.PIPE)
    assert fetch.communicate(table, timeout=300) == ("", "")
    assert fetch.returncode == 0
    assert committed("out.ndjson") == set(ids)


def test_pipes_compose(account):
    """`discover --ids | fetch -i - -o -` gives every row, and stdout is data only."""
    discover = started("discover", "--ids")
    fetch = started("fetch", "-i", "-", "-o", "-", "-q", stdin=discover.stdout)
    discover.stdout.close()
    out, err = fetch.communicate(timeout=300)
    assert discover.wait(timeout=300) == 0
    assert fetch.returncode == 1  # one is denied
    assert err == ""
    assert sort(map(json.loads, out.splitlines())) == all_rows(account)
    discover.stderr.close()


def test_a_pipe_that_never_ends_does_not_hold_up_the_end(account):
    """When time is up the command ends, though its stdin is still open."""
    argv = ("fetch", "-i", "-", "-o", "out.ndjson", "--max-duration", "1")
    with started(*argv, stdin=subprocess.PIPE) as process:
        process.stdin.write("".join(f"{course_id}\n" for course_id in account.course_ids))
        process.stdin.flush()
        assert process.wait(timeout=300) == 5
    assert committed("out.ndjson") == set(account.course_ids)


def test_a_regular_file_on_stdin_is_read_too(account, place):
    """`fetch -i - < ids.txt` works, though no event loop can watch a file."""
    with (place / "ids.txt").open() as ids:
        done = started("fetch", "-i", "-", "-o", "out.ndjson", stdin=ids)
        done.communicate(timeout=300)
    assert done.returncode == 1
    assert read_rows("out.ndjson") == all_rows(account)


def test_dry_run_says_the_plan_and_does_nothing(account, run, place):
    """Ids, repeated ones, settled ones and the time at the rate; no request, no file."""
    ids = list(account.expected())
    write_ids(place / "few.txt", ids[:5])
    assert run("fetch", "-i", "few.txt", "-o", "out.ndjson")[0] == 0
    write_ids(place / "more.txt", [*ids[:20], *ids[5:8]])
    before, files = account.counters.requests, set(place.iterdir())
    code, out, _ = run("fetch", "-i", "more.txt", "-o", "out.ndjson", "-n", "--rate", "30/m")
    assert code == 0
    for words in ("23 from more.txt", "5 are done already", "3 are repeated", "15 courses"):
        assert words in out
    assert "about 30 s" in out
    assert (account.counters.requests, set(place.iterdir())) == (before, files)
    _, out, _ = run("fetch", "-i", "more.txt", "-o", "new.ndjson", "-n", "--rate", "30/m")
    assert "at least 40 s" in out


# What is wrong, in words and codes


WRONG = {
    "no output": (["fetch", "-i", "ids.txt"], 2, "no output: say -o OUT.ndjson"),
    "no ids": (["fetch", "-o", "x"], 2, "no course ids: say -i IDS"),
    "both": (["fetch", "-i", "a", "--all-courses", "-o", "x"], 2, "both -i and --all-courses"),
    "two lists": (["fetch", "-i", "a", "--input=b", "-o", "x"], 2, "-i is given 2 times"),
    "two outputs": (["fetch", "-ox", "-i", "a", "-o", "y"], 2, "-o is given 2 times"),
    "two merged": (["merge", "a", "-o", "x", "-o", "y"], 2, "name one"),
    "type alone": (["fetch", "-i", "a", "--type", "b", "-o", "x"], 2, "--type goes with"),
    "no such type": (
        ["fetch", "--all-courses", "--type", "quiz", "-o", "x"],
        2,
        "no content item of type quiz; its types are course",
    ),
    "missing list": (["fetch", "-i", "no.txt", "-o", "x"], 2, "no.txt cannot be read"),
    "empty list": (["fetch", "-i", "/dev/null", "-o", "x"], 2, "/dev/null holds no ids"),
    "missing folder": (["fetch", "-i", "ids.txt", "-o", "no/x"], 6, "create the folder first"),
    "folder": (["fetch", "-i", "ids.txt", "-o", "."], 6, "is a folder"),
    "wrong flag": (["fetch", "--rate", "fast"], 2, "--rate: 'fast' is not a rate"),
    "unknown flag": (["fetch", "--concurency", "3"], 2, "--concurrency"),
    "unknown command": (["fech"], 2, "there is no command 'fech': did you mean fetch?"),
    "http": (["check", "--endpoint", "http://a.example/"], 2, "the token would travel unencrypted"),
    "not found": (["check", "--endpoint", "{other}"], 4, "answers HTTP 404"),
    "unknown course": (["check", "nobody"], 4, "does not know course nobody"),
    "fail fast": (["fetch", "-i", "ids.txt", "-o", "x", "--fail-fast"], 3, "as fail_fast says"),
    "not there": (["fetch", "-i", "ids.txt", "-o", "x", "--endpoint", "{other}"], 4, "HTTP 404"),
    "time is up": (
        ["fetch", "-i", "ids.txt", "-o", "x", "--rate", "2", "--max-duration", "0.3"],
        5,
        "stopped after 0.3 s",
    ),
    "no server": (
        ["fetch", "-i", "ids.txt", "-o", "x", "--endpoint", "http://127.0.0.1:1/", "--breaker=2"],
        5,
        "no connection to 127.0.0.1:1",
    ),
    "no such output": (["status", "x"], 2, "there is no x.journal"),
    "nothing to verify": (["verify", "x"], 2, "there is no x.journal"),
    "nothing to retry": (["retry-failed", "x"], 2, "there is no x.journal"),
    "port taken": (["simulate", "--port", "{port}"], 2, "cannot listen on 127.0.0.1:"),
    "wrong share": (["simulate", "--share-503", "2"], 2, "--share-503"),
    "no such port": (["simulate", "--port", "99999"], 2, "--port"),
    "no number": (["simulate", "--latency", "nan"], 2, "is no number"),
    "endless latency": (["simulate", "--latency", "inf"], 2, "--latency"),
    "too many courses": (["simulate", "--courses", "100000000000"], 2, "--courses"),
    "too many rows": (["simulate", "--rows", "5-99999999999999999999"], 2, "--rows"),
    "endless bench": (["bench", "--seconds", "inf"], 2, "--seconds"),
    "bench for no number": (["bench", "--seconds", "nan"], 2, "is no number"),
    "no pace for one call": (["check", "--rate", "5/s"], 2, "No such option"),
    "wrong span": (["simulate", "--rows", "few"], 2, "write it like 5-60"),
}


@pytest.mark.parametrize(("argv", "code", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_gets_one_clear_message_and_its_code(account, run, argv, code, message):
    """No traceback; the message names what was wrong and what to do."""
    other = account.endpoint.replace("soap", "other")
    argv = [part.format(other=other, port=account.port) for part in argv]
    got, out, err = run(*argv)
    assert (got, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert account.token not in err


def test_no_token_and_a_wrong_token_are_told_apart(account, run, monkeypatch):
    """Without a token: usage, 2; with one that is refused: 4."""
    monkeypatch.delenv("BULKFETCH_TOKEN")
    code, _, err = run("fetch", "-i", "ids.txt", "-o", "a")
    assert code == 2
    assert "set BULKFETCH_TOKEN" in err
    monkeypatch.setenv("BULKFETCH_TOKEN", "wrong-token")
    code, _, err = run("fetch", "-i", "ids.txt", "-o", "b")
    assert code == 4
    assert "does not accept the token" in err
    assert "wrong-token" not in err


def test_a_misspelt_variable_is_warned_of(account, run, monkeypatch):
    """A variable without effect is named, and the command goes on."""
    monkeypatch.setenv("BULKFETCH_CONCURENCY", "3")
    code, _, err = run("check")
    assert code == 0
    assert "did you mean BULKFETCH_CONCURRENCY" in err


def test_a_defect_is_code_70_with_a_traceback_only_when_asked(account, run, monkeypatch):
    """What nobody foresaw is said in a line; -v shows where it came from."""

    def broken(options):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(bulkfetch._engine.discover, "discover", broken)
    code, _, err = run("discover")
    assert code == 70
    assert "unexpected ZeroDivisionError: oops" in err
    assert "-v" in err
    assert "Traceback" not in err
    code, _, err = run("discover", "-v")
    assert code == 70
    assert "Traceback" in err


# Signals and pipes


@pytest.fixture
def slow(monkeypatch, place):
    """An account whose answers take so long that only a signal ends a run."""
    with SimulatedServer(Simulation(courses=20, latency=600)) as server:
        use(server, monkeypatch)
        write_ids(place / "ids.txt", server.course_ids)
        yield server


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_f75_f76_a_signal_drains_and_the_same_command_goes_on(
    monkeypatch, place, run, number, code
):
    """What is in flight is committed; the next run makes the file whole, every row once."""
    simulation = Simulation(courses=60, rows=(0, 20), latency=0.05)
    argv = ("fetch", "-i", "ids.txt", "-o", "out.ndjson", "-c", "4")
    with SimulatedServer(simulation) as server:
        use(server, monkeypatch)
        write_ids(place / "ids.txt", server.course_ids)
        process = started(*argv)
        until(lambda: server.counters.requests >= 12)
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (code, "")
        assert "run the same command again" in err
        assert "Traceback" not in err
        assert run("status", "out.ndjson")[1].splitlines()[1].startswith("  state    stopped")
        assert run("verify", "out.ndjson")[0] == 7
        assert server.counters.by_status[200] == len(set(committed("out.ndjson")))
        assert run(*argv)[0] == 0
        assert read_rows("out.ndjson") == all_rows(server)
        assert max(server.counters.by_course.values()) == 1


def committed(output):
    from bulkfetch._output.frames import Committed
    from bulkfetch._output.inspect import read_ledger

    frames = []
    read_ledger(output, frames.append)
    commits = [frame for frame in frames if isinstance(frame, Committed)]
    fetched = {course[0] for frame in commits for course in frame.courses}
    return fetched | {one.course_id for frame in commits for one in frame.failed if one.settled}


def test_f75_the_second_signal_ends_the_run_at_once(slow):
    """Though the server would take ten minutes more, and the grace time as long."""
    with started("fetch", "-i", "ids.txt", "-o", "out.ndjson", "--grace", "600") as process:
        until(lambda: slow.counters.in_flight)
        process.send_signal(signal.SIGINT)
        assert "stopping" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 130
    assert Path("out.ndjson.journal").exists()


def test_a_signal_ends_a_run_that_waits_for_its_ids(slow):
    """Nobody writes to stdin, and Ctrl-C still ends the command, in good order."""
    process = started("fetch", "-i", "-", "-o", "out.ndjson", stdin=subprocess.PIPE)
    with process:
        until(lambda: Path("out.ndjson.part").exists())
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 130


def test_usr1_prints_the_state_and_status_sees_the_run(slow, run):
    """A run can be asked from another terminal, by signal and by file."""
    with started("fetch", "-i", "ids.txt", "-o", "out.ndjson", "-q", "-c", "3") as process:
        until(lambda: slow.counters.in_flight == 3)
        process.send_signal(signal.SIGUSR1)
        assert process.stderr.readline().startswith("0/20 courses, 0 rows")
        until(lambda: run("status", "out.ndjson", "--json")[1].count('"in_flight"'))
        code, out, _ = run("status", "out.ndjson", "--json")
        found = json.loads(out)
        assert (code, found["state"]) == (0, "running")
        assert len(found["progress"]["in_flight"]) == 3
        assert found["progress"]["total"] == 20
        code, out, _ = run("status", "out.ndjson")
        assert slow.course_ids[0] in out
        assert "0 of 20" in out
        code, _, err = run("fetch", "-i", "ids.txt", "-o", "out.ndjson")
        assert code == 5
        assert "another run holds out.ndjson" in err
        process.kill()
    assert "stopped" in run("status", "out.ndjson")[1]


@pytest.mark.parametrize(
    "argv",
    [
        ("fetch", "-i", "ids.txt", "-o", "-", "-q"),
        ("discover", "-q"),
        ("completion", "bash"),
        ("--version",),
        ("--help",),
        ("fetch", "--help-all"),
        ("report", "--schema"),
    ],
)
def test_f77_a_closed_pipe_is_quiet(account, argv):
    """`| head` ends the command with 141, without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    process = started(*argv, stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (141, "")


def test_handlers_are_restored_after_a_run(account, run):
    """An embedding program finds its signals as they were."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    run("fetch", "-i", "ids.txt", "-o", "out.ndjson")
    assert [signal.getsignal(number) for number in numbers] == before


# Logs, secrets, private files


def test_json_logs_are_json_to_the_last_line(monkeypatch, place, run):
    """One event a line with stable names: run, course, attempt, wait, commit."""
    simulation = Simulation(courses=60, rows=(0, 5), unknown=1, share_503=0.2, seed=3)
    with SimulatedServer(simulation) as server:
        use(server, monkeypatch)
        write_ids(place / "ids.txt", server.course_ids)
        argv = ("fetch", "-i", "ids.txt", "-o", "out.ndjson", "--backoff", "0.01")
        code, out, err = run(*argv, "--log-format", "json")
    events = [json.loads(line) for line in err.splitlines()]
    names = [event["event"] for event in events]
    assert (code, out) == (1, "")
    assert (names[0], names[-1]) == ("run_started", "run_finished")
    assert {"course_fetched", "course_failed", "attempt_failed", "wait", "commit"} <= set(names)
    assert names.count("course_fetched") == 60
    assert sum(event.get("courses", 0) for event in events if event["event"] == "commit") == 60
    assert events[-1]["rows"] == len(read_rows("out.ndjson"))
    assert all(event["time"].endswith("+00:00") for event in events)


def test_json_logs_stand_broken_unicode(capfd):
    """Bytes that no JSON can hold, as of a header, are written all the same, and in ASCII."""
    voice = Voice()
    voice.json = True
    voice.event("log", {"message": "caf\udce9 \u009b", "path": Path("x")})
    line = capfd.readouterr().err
    assert line.isascii()
    assert json.loads(line)["message"] == "caf\udce9 \u009b"


def test_json_logs_tell_of_errors_too(run):
    """An error is an event with its kind and the exit code."""
    code, _, err = run("check", "--log-format", "json")
    event = json.loads(err)
    assert code == 2
    assert (event["event"], event["kind"]) == ("error", "ConfigurationError")
    assert event["exit_code"] == 2


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(account, run, monkeypatch):
    """Not on a terminal, a line is written at intervals instead of a bar."""
    monkeypatch.setattr("bulkfetch.cli.export._LINE_SECONDS", 0.1)
    _, _, err = run("fetch", "-i", "ids.txt", "-o", "out.ndjson", "--rate", "60")
    assert "/44 courses" in err
    assert "\x1b" not in err


def test_f86_no_secret_is_written_anywhere(account, run, place, monkeypatch):
    """Neither streams nor files hold the token, not even with -vv."""
    token = account.token
    for argv in (
        ("fetch", "-i", "ids.txt", "-o", "out.ndjson", "-vv"),
        ("fetch", "-i", "ids.txt", "-o", "b.ndjson", "--log-format", "json", "-vv"),
        ("config",),
        ("check", "-vv"),
    ):
        _, out, err = run(*argv)
        assert token not in out + err
    for file in place.iterdir():
        assert token.encode() not in file.read_bytes(), file


def test_f87_files_are_private_whatever_the_umask(account, place):
    """Output, journal, manifest and lists are 0600 under umask 0."""
    (place / "ok.xml").write_bytes(RESPONSE)
    for argv in (
        ("fetch", "-i", "ids.txt", "-o", "out.ndjson", "-q"),
        ("parse", "ok.xml", "-o", "parsed.ndjson"),
    ):
        subprocess.run([*BULKFETCH, *argv], check=False, umask=0, timeout=300)
    made = {path.name: path for path in place.iterdir()}
    for name in ("ids.txt", "ok.xml"):
        del made[name]
    assert {"out.ndjson", "out.ndjson.journal", "parsed.ndjson"} <= set(made)
    modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in made.items()}
    assert set(modes.values()) == {0o600}, modes


# The other commands


def test_demo_exports_a_thousand_courses_and_shows_three_rows(run, place):
    """What a newcomer runs first: no configuration, retries seen, exit 0; and once more."""
    for _ in range(2):
        code, out, err = run("demo")
        assert code == 0, err
        rows = [json.loads(line) for line in out.splitlines()]
        assert len(rows) == 3
        assert set(rows[0]) == {"contentItemId", "userId", "status", "progress"}
        assert "1,000 fetched" in err
        assert "http-503" in err
        assert "bulkfetch-demo/statuses.ndjson" in err
    code, out, _ = run("verify", "bulkfetch-demo/statuses.ndjson")
    assert code == 0
    assert "1,000 courses" in out


def test_discover_lists_the_account(account, run):
    """One JSON object a line, or ids alone; of one type if asked."""
    code, out, err = run("discover")
    items = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert items == [{name: item[name] for name in items[0]} for item in account.expected_content()]
    assert "41 content items" in err
    code, out, _ = run("discover", "--ids", "-q")
    assert out.splitlines() == [item["contentItemId"] for item in account.expected_content()]
    assert run("discover", "--ids", "--type", "track")[1] == ""


def test_check_says_what_works(account, run):
    """Endpoint, namespaces and token; with a course its permission, too."""
    code, out, _ = run("check")
    assert code == 0
    assert "good: endpoint, namespaces and token work" in out
    course_id, rows = next(iter(account.expected().items()))
    code, out, _ = run("check", course_id)
    assert f"{len(rows)} learners" in out


def test_parse_reads_saved_responses(run, place):
    """The course's id is the file's name, or is said; rows of a broken file are not shown."""
    (place / "ok.xml").write_bytes(RESPONSE)
    (place / "cut.xml").write_bytes(RESPONSE[: RESPONSE.index(b"</n:statuses>")])
    (place / "page.xml").write_text("<html><body>log in</body></html>")
    (place / "fault.xml").write_text(
        '<E:Envelope xmlns:E="http://schemas.xmlsoap.org/soap/envelope/"><E:Body><E:Fault>'
        "<faultcode>Server</faultcode><faultstring>Unknown &#27;[2J item</faultstring>"
        "</E:Fault></E:Body></E:Envelope>".replace("&#27;", "\u009b")
    )
    code, out, err = run("parse", "ok.xml", "cut.xml", "page.xml", "fault.xml", "no.xml")
    assert code == 1
    assert [json.loads(line) for line in out.splitlines()] == [ROW]
    for words in (
        "cut.xml: the response ends too soon",
        "page.xml: the endpoint answers with an HTML page",
        "fault.xml: the server answered with a fault: Unknown",
        "no.xml: cannot be read: No such file",
    ):
        assert words in err
    assert "\u009b" not in err
    code, out, _ = run("parse", "ok.xml", "--id", "a&b")
    assert json.loads(out) == {**ROW, "contentItemId": "a&b"}


def test_parse_writes_a_file_only_where_there_was_none(run, place):
    """An existing file is kept unless --overwrite says otherwise; .gz compresses."""
    (place / "ok.xml").write_bytes(RESPONSE)
    (place / "rows.ndjson").write_text("precious")
    code, _, err = run("parse", "ok.xml", "-o", "rows.ndjson")
    assert code == 2
    assert "rows.ndjson exists" in err
    assert (place / "rows.ndjson").read_text() == "precious"
    assert run("parse", "ok.xml", "-o", "rows.ndjson", "--overwrite")[0] == 0
    assert read_rows("rows.ndjson") == [ROW]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ZeroDivisionError])
def test_parse_that_ends_early_leaves_no_file(run, place, monkeypatch, error):
    """Neither Ctrl-C nor an error leaves rows behind under another name."""
    (place / "ok.xml").write_bytes(RESPONSE)
    from bulkfetch.cli.commands.parse import _read as read

    def broken(file, course_id, spool):
        if file == "bad.xml":
            assert Path("rows.ndjson.tmp").exists()
            raise error
        read(file, course_id, spool)

    monkeypatch.setattr("bulkfetch.cli.commands.parse._read", broken)
    assert run("parse", "ok.xml", "bad.xml", "-o", "rows.ndjson")[0] > 1
    assert [path.name for path in place.iterdir()] == ["ok.xml"]


def test_parse_refuses_an_id_for_many_files(run, place):
    """One id cannot be that of two courses, and stdin has no name."""
    assert run("parse", "a.xml", "b.xml", "--id", "1")[0] == 2
    assert run("parse", "-")[0] == 2


def test_simulate_is_a_server_to_fetch_from(run, place, monkeypatch):
    """It prints what to set, writes the ids, serves until Ctrl-C and tells what it saw."""
    argv = ("--port", "0", "--courses", "6", "--rows", "3", "--unknown", "1", "--seed", "5")
    with started("simulate", *argv, "--write-ids", "ids.txt") as process:
        for _ in range(2):
            words, _, value = process.stdout.readline().strip().partition("=")
            export, name = words.split()
            assert export == "export"
            monkeypatch.setenv(name, value)
        assert run("fetch", "-i", "ids.txt", "-o", "out.ndjson")[0] == 1
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0
        assert "7," in err
    simulation = Simulation(courses=6, rows=(3, 3), unknown=1, seed=5)
    ids = (place / "ids.txt").read_text().split()
    assert read_rows("out.ndjson") == sort(
        row for course_id in ids for row in expected_rows(simulation, course_id)
    )


def test_verify_finds_a_flipped_byte(account, run, place):
    """Exit 6, and the message says which bytes and courses are not what was committed."""
    run("fetch", "-i", "ids.txt", "-o", "out.ndjson")
    assert run("verify", "out.ndjson")[0] == 0
    with (place / "out.ndjson").open("r+b") as file:
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))
    code, out, err = run("verify", "out.ndjson")
    assert (code, out) == (6, "")
    assert "is not what was committed in bytes 0 to" in err


def test_retry_failed_makes_the_output_that_of_a_clean_run(run, place, monkeypatch):
    """Refused courses are asked again once the server is mended, by kind if wanted."""
    mended = Simulation(courses=50, rows=(0, 10), denied=2)
    with SimulatedServer(Simulation(courses=40, rows=(0, 10), denied=2)) as server:
        use(server, monkeypatch)
        with SimulatedServer(mended) as other:
            write_ids(place / "ids.txt", other.course_ids)
        assert run("fetch", "-i", "ids.txt", "-o", "out.ndjson", "--stamp")[0] == 1
        assert len(read_rows_of_failed("out.ndjson.failed.ndjson")) == 12
        code, _, err = run("retry-failed", "out.ndjson", "--kind", "timeout")
        assert code == 2
        assert "kinds here: permission-denied, unknown-content-item" in err
        port = server.port
    with SimulatedServer(mended, port=port) as server:
        code, _, err = run("retry-failed", "out.ndjson", "--kind", "unknown-content-item")
        assert code == 1
        assert_told(["refused  2, the server's final word", "kinds  permission-denied 2"], err)
        assert server.counters.requests == 10
        rows = [{k: v for k, v in row.items() if k[0] != "_"} for row in read_rows("out.ndjson")]
        assert rows == all_rows(server)
        assert run("verify", "out.ndjson")[0] == 0
        assert run("retry-failed", "out.ndjson")[0] == 1


@pytest.mark.parametrize("more", [[], ["--limit", "1"]])
def test_retry_failed_asks_for_no_new_course_and_claims_none(account, run, place, more):
    """An output that --limit cut stays cut in the manifest, until a fetch asks for the rest."""
    good, unknown = list(account.expected()), list(account.unknown_ids)
    ids = [good[0], *unknown[:2], *good[1:10]]
    write_ids(place / "ids.txt", ids)

    def limited():
        return json.loads((place / "out.ndjson.manifest.json").read_text())["limited"]

    run("fetch", "-i", "ids.txt", "-o", "out.ndjson", "--limit", "4")
    assert limited() == {"asked": 4, "of": len(ids)}
    assert run("retry-failed", "out.ndjson", *more)[0] == 1
    assert limited() == {"asked": 4, "of": len(ids)}
    assert "4 of 12 ids asked" in run("status", "out.ndjson")[1]
    assert "finished, 4 of 12 ids asked;" in run("verify", "out.ndjson")[1]
    outcome = json.loads(run("report", "out.ndjson", "--json", "-")[1])["outcome"]
    assert re.search(r": 2 of 12 courses were fetched \((4 were asked for|--limit 1)\)", outcome)
    run("fetch", "-i", "ids.txt", "-o", "out.ndjson")
    assert limited() is None
    assert run("retry-failed", "out.ndjson", *more)[0] == 1
    assert limited() is None


def test_retry_failed_of_a_clean_output_has_nothing_to_do(account, run, place):
    """Exit 0, and no request."""
    write_ids(place / "ids.txt", list(account.expected())[:3])
    run("fetch", "-i", "ids.txt", "-o", "out.ndjson")
    before = account.counters.requests
    code, _, err = run("retry-failed", "out.ndjson")
    assert code == 0
    assert "nothing to retry" in err
    assert account.counters.requests == before


def test_retry_failed_never_publishes_an_unfinished_output(account, run, place):
    """An output whose list was not worked off is left to the fetch command."""
    argv = ("fetch", "-i", "ids.txt", "-o", "out.ndjson", "--fail-fast")
    assert run(*argv)[0] == 3
    code, _, err = run("retry-failed", "out.ndjson")
    assert code == 2
    assert "run the fetch command again" in err


async def test_again_with_a_longer_list_says_what_its_limit_left_out(account, place):
    """Nothing new was fetched, but the list was cut: that is told, not what was told before."""
    options = Options(endpoint=account.endpoint, token=account.token)
    good, unknown = list(account.expected()), list(account.unknown_ids)
    await bulkfetch.export([*good[:3], unknown[0]], "out.ndjson", options)
    longer = [unknown[0], *good]
    limited = replace(options, limit=1)
    await bulkfetch.export(longer, "out.ndjson", limited, again=frozenset(unknown))
    manifest = json.loads((place / "out.ndjson.manifest.json").read_text())
    assert manifest["limited"] == {"asked": 4, "of": len(longer)}


async def test_again_never_fetches_a_course_that_has_its_rows(account, place):
    """Whatever ids are named, rows stay exactly once."""
    ids = list(account.course_ids)
    options = Options(endpoint=account.endpoint, token=account.token)
    for again, asked in (((), 44), (account.unknown_ids, 3), (ids, 4)):
        summary = await bulkfetch.export(ids, "out.ndjson", options, again=frozenset(again))
        assert summary.courses == asked
    assert read_rows("out.ndjson") == all_rows(account)


def test_config_shows_every_setting_and_its_source(run, place, monkeypatch):
    """What is in effect and why; what is missing is said after it, with code 2."""
    (place / "b.toml").write_text('rate = "5/s"\nendpoint = "https://a.example/x"\n')
    monkeypatch.setenv("BULKFETCH_CONFIG", "b.toml")
    monkeypatch.setenv("BULKFETCH_TOKEN", "very-secret")
    code, out, _ = run("config", "-c", "3", "--no-adaptive")
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert code == 0
    assert lines["concurrency"] == ["3", "--concurrency"]
    assert lines["adaptive"] == ["no", "--no-adaptive"]
    assert lines["rate"] == ["5", "b.toml"]
    assert lines["token"] == ["***", "BULKFETCH_TOKEN"]
    assert lines["retries"] == ["5", "default"]
    (place / "b.toml").write_text("")
    code, out, err = run("config")
    assert code == 2
    assert "no endpoint" in err
    assert "endpoint" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(run, shell):
    """Each shell gets its own."""
    code, out, _ = run("completion", shell)
    assert code == 0
    assert f"_BULKFETCH_COMPLETE={shell}_complete" in out


def test_completion_knows_commands_and_flags(monkeypatch, run):
    """What the script asks for is answered."""
    for words, answer in (("bulkfetch retr", "retry-failed"), ("bulkfetch fetch --conc", "--conc")):
        monkeypatch.setenv("_BULKFETCH_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert answer in run()[1]


def test_f88_rows_on_a_terminal_obey_nobody():
    """What a terminal might obey is spelled out, and the JSON means the same."""
    from bulkfetch._domain.text import harmless

    text = '{"title":"Passé \u009b2J \u202e \U000e0001"}'
    shown = harmless(text)
    assert json.loads(shown) == json.loads(text)
    assert shown == '{"title":"Passé \\u009b2J \\u202e \\udb40\\udc01"}'
