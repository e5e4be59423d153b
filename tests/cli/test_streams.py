"""The standard streams: closed, full, never read, stopped; none of them costs a row."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from commands import COMMAND, ENOUGH, bulkfetch, environment, fetch, started, until

from bulkfetch.cli.streams import Stderr
from bulkfetch.testing import SimulatedServer, Simulation

SIMULATION = Simulation(courses=12, rows=(1, 5), seed=11)


@pytest.fixture(scope="module")
def server():
    with SimulatedServer(SIMULATION) as server:
        yield server


def in_shell(words, *arguments, cwd):
    """Run a command through `sh`, which can close and redirect what it inherits."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {words}', "sh", *COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=ENOUGH,
        check=False,
    )


def rows_of(text):
    return sorted(text.splitlines())


def expected(server):
    return sorted(
        json.dumps(row, separators=(",", ":"), ensure_ascii=False)
        for rows in server.expected().values()
        for row in rows
    )


@pytest.mark.parametrize("words", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_f115_a_closed_stream_costs_nothing(server, tmp_path, words):
    """Whichever standard streams are closed, a run into a file writes every row there."""
    done = in_shell(words, *fetch(server, "out.ndjson", tmp_path / "ids.txt"), cwd=tmp_path)
    assert done.returncode == 0
    values = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert len(values) == sum(map(len, server.expected().values()))


CLOSED = {
    "rows": ("1>&-", ("fetch", "-i", "ids.txt", "-o", "-"), "stdout is closed"),
    "rows, stdin too": ("0<&- 1>&-", ("fetch", "-i", "ids.txt", "-o", "-"), "stdout is closed"),
    "rows, to be read": ("1<ids.txt", ("fetch", "-i", "ids.txt", "-o", "-"), "stdout cannot be"),
    "ids": ("0<&-", ("fetch", "-i", "-", "-o", "x"), "stdin is closed"),
    "ids, to be written": ("0>sink", ("fetch", "-i", "-", "-o", "x"), "stdin cannot be read"),
    "ids to measure": ("0<&-", ("bench", "-i", "-"), "stdin is closed"),
    "list": ("1>&-", ("discover",), "stdout is closed"),
}


@pytest.mark.parametrize(("words", "arguments", "message"), CLOSED.values(), ids=CLOSED)
def test_f115_data_asked_of_a_closed_stream_is_a_mistake(
    server, tmp_path, words, arguments, message
):
    """Exit 2 before the first request, naming the stream and what to say instead."""
    (tmp_path / "ids.txt").write_text("1\n")
    before = server.counters.requests
    done = in_shell(words, *arguments, "--endpoint", server.endpoint, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert server.counters.requests == before


def test_f115_check_needs_no_stdout(server, tmp_path):
    """What `check` says is its exit code; the words are for whoever listens."""
    assert in_shell("1>&-", "check", "--endpoint", server.endpoint, cwd=tmp_path).returncode == 0


@pytest.fixture
def unread():
    """A pipe that nobody reads, full to the brim."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"\n")
    os.set_blocking(writing, True)
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("form", [("--log-format", "json"), ("-vv",)])
def test_f116_a_log_that_nobody_reads_holds_up_no_run(server, tmp_path, unread, form):
    """Every row is written and the exit code is 0, though not one line of the log got through."""
    arguments = fetch(server, tmp_path / "out.ndjson", tmp_path / "ids.txt", *form)
    with started(*arguments, stderr=unread[1]) as process:
        assert process.wait(ENOUGH) == 0
    assert (tmp_path / "out.ndjson").exists()


def test_f116_a_signal_ends_a_run_whose_log_nobody_reads(tmp_path, unread):
    """SIGTERM is obeyed, in good order."""
    with SimulatedServer(Simulation(courses=9, latency=600)) as slow:
        arguments = fetch(slow, tmp_path / "out.ndjson", tmp_path / "ids.txt", "--grace", "0")
        with started(*arguments, "--log-format", "json", stderr=unread[1]) as process:
            until(lambda: slow.counters.in_flight)
            process.send_signal(signal.SIGTERM)
            assert process.wait(ENOUGH) == 143


def test_f116_a_stopped_terminal_holds_up_no_run(server, tmp_path):
    """Ctrl-S, or the copy mode of tmux: the bar waits, the run does not."""
    control, terminal = pty.openpty()
    termios.tcflow(terminal, termios.TCOOFF)
    try:
        arguments = fetch(server, tmp_path / "out.ndjson", tmp_path / "ids.txt")
        with started(*arguments, stderr=terminal) as process:
            assert process.wait(ENOUGH) == 0
        assert (tmp_path / "out.ndjson").exists()
    finally:
        os.close(terminal)
        os.close(control)


def test_f116_what_was_dropped_is_told_once_somebody_reads():
    """Beyond 1 MiB lines are dropped, whole, and their number stands where they would."""
    reading, writing = os.pipe()
    stderr = Stderr(writing, lambda number: f"{number} dropped\n")
    line = "x" * 1023 + "\n"
    for _ in range(1500):
        stderr.write(line)
    assert not stderr.idle
    with os.fdopen(reading) as reader:
        lines = [reader.readline()]
        while lines[-1] == line:
            lines.append(reader.readline())
        assert stderr.drain(ENOUGH)
        os.close(writing)
        lines += reader.readlines()
    told = [found for found in lines if found != line]
    assert [found.split()[1] for found in told] == ["dropped"] * len(told)
    assert sum(int(found.split()[0]) for found in told) + lines.count(line) == 1500
    assert lines.count(line) < 1500


def test_f116_a_descriptor_that_somebody_made_nonblocking_is_waited_for():
    """What shares stderr may have switched it; every byte is written all the same."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stderr = Stderr(writing, str)
    text = "".join(f"{number}\n" for number in range(30_000))
    stderr.write(text)
    with os.fdopen(reading) as reader:
        assert reader.read(len(text)) == text
    os.close(writing)


def test_words_and_data_keep_their_order(tmp_path):
    """On a terminal both go to one place, and what was said first is read first."""
    done = subprocess.run(
        [*COMMAND, "demo", "--courses", "20"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=ENOUGH,
        check=False,
    )
    lines = done.stdout.splitlines()
    heading = next(at for at, line in enumerate(lines) if line.startswith("Three of the"))
    assert [line[:1] for line in lines[heading + 1 : heading + 5]] == ["{", "{", "{", ""]


def test_f116_a_stderr_that_fails_is_forgotten():
    """A reader that went away is no reason to end."""
    reading, writing = os.pipe()
    os.close(reading)
    stderr = Stderr(writing, str)
    stderr.write("anybody there?\n")
    assert stderr.drain(ENOUGH)
    os.close(writing)


FORMS = {
    "flag": (("--log-format", "json"), {}),
    "flag in one": (("--log-format=json",), {}),
    "variable": ((), {"BULKFETCH_LOG_FORMAT": "json"}),
}


@pytest.mark.parametrize("wrong", [("fetch", "--concurency", "3"), ("fech",), ("fetch",), ()])
@pytest.mark.parametrize(("flags", "variables"), FORMS.values(), ids=FORMS)
def test_a_usage_error_is_json_where_json_is_asked_for(tmp_path, wrong, flags, variables):
    """A log collector gets an object, also for a flag that does not exist."""
    done = subprocess.run(
        [*COMMAND, *wrong, *(flags if wrong else ())],
        env=environment(**variables),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    if wrong or variables:
        told = json.loads(done.stderr)
        assert (told["event"], told["kind"], told["exit_code"]) == ("error", "Usage", 2)


@pytest.mark.parametrize(("value", "colored"), [("", True), ("1", False)])
def test_an_empty_no_color_is_none(value, colored, monkeypatch):
    """https://no-color.org: present and not an empty string."""
    from bulkfetch.cli.voice import Voice

    monkeypatch.setenv("NO_COLOR", value)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(Voice, "on_terminal", True)
    voice = Voice()
    voice.set(log_format="text", quiet=False, verbose=0, no_color=False)
    assert voice.color is colored


BYTES = os.fsdecode(b"a\xff")
NOT_TEXT = {
    "output": ("-o", BYTES),
    "token file": ("-o", "out", "--token-file", BYTES),
    "fault": ("-o", "out", "--retry-faults", BYTES),
    "list": ("-o", "out", "-i", BYTES),
    "settings": ("-o", "out", "--config", BYTES),
    "metrics": ("-o", "out", "--metrics-file", f"{BYTES}.prom"),
}


@pytest.mark.parametrize("arguments", NOT_TEXT.values(), ids=NOT_TEXT)
def test_f117_bytes_that_are_no_text_never_cost_a_run(server, tmp_path, arguments):
    """They work, or are refused with 2 before the first request; never 70 at the end."""
    ids = f"{next(iter(server.expected()))}\n"
    for name, text in ((BYTES, ids), ("ids.txt", ids)):
        (tmp_path / name).write_text(text)
    if "--token-file" in arguments:
        (tmp_path / BYTES).write_text("simulated-token")
    if "--config" in arguments:
        (tmp_path / BYTES).write_text("rate = 50\n")
    for name in (BYTES, "ids.txt"):
        Path(tmp_path / name).chmod(0o600)
    before = server.counters.requests
    ids = () if "-i" in arguments else ("-i", "ids.txt")
    done = in_shell("", "fetch", "--endpoint", server.endpoint, *ids, *arguments, cwd=tmp_path)
    assert done.returncode in {0, 2}, done.stderr
    if done.returncode:
        assert server.counters.requests == before
        assert "UTF-8" in done.stderr


ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
    "POSIX": {"PYTHONUTF8": "0", "LC_ALL": "POSIX"},
}
TEXTS = {
    "rows": ("discover",),
    "help": ("fetch", "--help-all"),
    "json": ("status", "ä.ndjson", "--json"),
    "words": ("status", "ä.ndjson"),
    "a page's name": ("report", "ä.ndjson"),
}


@pytest.mark.parametrize("variables", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("arguments", TEXTS.values(), ids=TEXTS)
def test_stdout_is_utf8_whatever_the_locale_says(server, tmp_path, arguments, variables):
    """Text is as in a UTF-8 locale, byte by byte; a name that is none there is refused."""
    if "ä.ndjson" in arguments:
        bulkfetch(*fetch(server, "ä.ndjson", tmp_path / "ids.txt"), cwd=tmp_path)
    target = {"BULKFETCH_ENDPOINT": server.endpoint}
    told = [
        bulkfetch(*arguments, variables=target | more, cwd=tmp_path, text=False)
        for more in ({"PYTHONUTF8": "1"}, variables)
    ]
    no_text = "LC_ALL" in variables and "ä.ndjson" in arguments
    assert [done.returncode for done in told] == [0, 2 if no_text else 0], told[1].stderr
    assert told[1].stdout == (b"" if no_text else told[0].stdout)
    told[0].stdout.decode("utf-8")
