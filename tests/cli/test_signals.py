"""Signals, from the first moment of every command: what ends it, what does not, what is seen."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from commands import COMMAND, ENOUGH, environment, fetch, started, until

from bulkfetch.testing import SimulatedServer, Simulation

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
CODES = {INT: 130, TERM: 143, HUP: 129}
NAMES = {INT: "Ctrl-C", TERM: "SIGTERM", HUP: "SIGHUP"}


@pytest.fixture(scope="module")
def slow():
    """An account whose answers take so long that only a signal ends a command."""
    with SimulatedServer(Simulation(courses=4, latency=600)) as server:
        yield server


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
WAITING = {
    "check": ("check",),
    "discover": ("discover",),
    "all courses": ("fetch", "--all-courses", "-o", "out"),
    "bench": ("bench", "-i", "ids.txt"),
    "fetch": ("fetch", "-i", "ids.txt", "-o", "out", "--grace", "0"),
}


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("arguments", WAITING.values(), ids=WAITING)
def test_f120_a_signal_ends_a_command_that_waits_for_the_server(slow, tmp_path, arguments, number):
    """The exit code is 128 and the signal's number, and it is said in words."""
    (tmp_path / "ids.txt").write_text("1\n")
    command = (arguments[0], "--endpoint", slow.endpoint, *arguments[1:])
    before = slow.counters.requests
    with started(*command, cwd=tmp_path) as process:
        until(lambda: slow.counters.requests > before)
        process.send_signal(number)
        _, said = process.communicate(timeout=ENOUGH)
    assert process.returncode == CODES[number]
    assert f"stopped by {NAMES[number]}" in said
    assert "Traceback" not in said


@linux
@pytest.mark.parametrize("number", CODES)
def test_f120_a_signal_ends_a_command_that_waits_for_a_fifo(slow, tmp_path, number):
    """Nobody has opened the other end of -i yet, and nothing else is to be done."""
    os.mkfifo(tmp_path / "ids")
    arguments = ("fetch", "--endpoint", slow.endpoint, "-i", "ids", "-o", "out")
    with started(*arguments, cwd=tmp_path) as process:
        until(lambda: str(tmp_path / "ids") in opened_by(process.pid) and sleeps(process.pid))
        process.send_signal(number)
        assert process.wait(ENOUGH) == CODES[number]


@linux
@pytest.mark.parametrize("command", [("check",), ("fetch", "-i", "ids", "-o", "out")])
def test_a_signal_ends_a_command_that_waits_for_its_token(slow, tmp_path, command):
    """A token file that is a FIFO without a writer keeps nobody from ending the command."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "ids").write_text("1\n")
    arguments = (*command, "--endpoint", slow.endpoint, "--token-file", "fifo")
    with started(*arguments, token="", cwd=tmp_path) as process:
        until(lambda: str(tmp_path / "fifo") in opened_by(process.pid) and sleeps(process.pid))
        process.send_signal(TERM)
        assert process.wait(ENOUGH) == CODES[TERM]


@linux
def test_the_second_signal_ends_an_endless_token_command_without_a_word_too_many(slow, tmp_path):
    """Its pipe is let go of while there is an event loop to do so."""
    arguments = fetch(slow, "out", tmp_path / "ids", "--token-command", "yes")
    with started(*arguments, token="", cwd=tmp_path) as process:
        until(lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        process.send_signal(TERM)
        assert "once more" in process.stderr.readline()
        process.send_signal(TERM)
        _, said = process.communicate(timeout=ENOUGH)
    assert process.returncode == CODES[TERM]
    assert "Traceback" not in said


def opened_by(pid):
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.add(str(link.readlink()))
    return found


def sleeps(pid):
    return Path(f"/proc/{pid}/wchan").read_text() in {"ep_poll", "do_epoll_wait"}


def sleeping_in(pid):
    return Path(f"/proc/{pid}/wchan").read_text()


@linux
def test_f120_a_signal_ends_a_command_whose_reader_stands_still(tmp_path):
    """stdout is a pipe that is full: what is left in Python's buffer must not be waited for."""
    with (
        SimulatedServer(Simulation(courses=3000)) as server,
        started("discover", "--endpoint", server.endpoint, cwd=tmp_path) as process,
    ):
        until(lambda: "pipe_write" in sleeping_in(process.pid))
        process.send_signal(TERM)
        assert process.wait(ENOUGH) == 143


def may_unshare():
    words = ["unshare", "--fork", "--pid", "--mount-proc", "true"]
    return bool(shutil.which("unshare")) and not subprocess.run(words, check=False).returncode


@pytest.mark.skipif(not may_unshare(), reason="no new process namespace may be made here")
@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("arguments", WAITING.values(), ids=WAITING)
def test_f120_process_1_of_a_container_obeys(slow, tmp_path, arguments, number):
    """The kernel gives process 1 no default action: without a handler a signal is lost."""
    (tmp_path / "ids.txt").write_text("1\n")
    command = [*COMMAND, arguments[0], "--endpoint", slow.endpoint, *arguments[1:]]
    before = slow.counters.requests
    words = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", *command]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as outer:
        try:
            until(lambda: slow.counters.requests > before)
            (inner,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
            os.kill(int(inner), number)
            assert outer.wait(ENOUGH) == CODES[number]
        finally:
            outer.kill()


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("arguments", [WAITING["check"], WAITING["fetch"]], ids=["call", "run"])
def test_f120_a_signal_that_was_ignored_stays_ignored(slow, tmp_path, arguments, number):
    """nohup, and background jobs of a script: the command goes on, until another signal comes."""
    (tmp_path / "ids.txt").write_text("1\n")
    before = slow.counters.requests
    other = TERM if number != TERM else INT
    command = [*COMMAND, arguments[0], "--endpoint", slow.endpoint, *arguments[1:]]
    with subprocess.Popen(
        [sys.executable, "-c", IGNORING, str(int(number)), *command],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
    ) as process:
        until(lambda: slow.counters.requests > before)
        for _ in range(3):
            process.send_signal(number)
        process.send_signal(other)
        assert process.wait(ENOUGH) == CODES[other]


IGNORING = (
    "import os, signal, sys\n"
    "signal.signal(int(sys.argv[1]), signal.SIG_IGN)\n"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@linux
def test_f120_the_last_signal_ends_even_a_run_that_a_full_pipe_holds_up(tmp_path):
    """Rows go to a reader that stands still; the third signal received does not wait for it."""
    with SimulatedServer(Simulation(courses=300, rows=(90, 90))) as server:
        arguments = fetch(server, "-", tmp_path / "ids.txt")
        with started(*arguments, cwd=tmp_path) as process:
            until(lambda: any("pipe_write" in text for text in threads_of(process.pid)))
            process.send_signal(TERM)
            assert "stopping" in process.stderr.readline()
            until(lambda: process.send_signal(TERM) or process.poll() is not None)
            assert process.returncode == 143


def threads_of(pid):
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/wchan"):
        with suppress(OSError):  # the thread has ended meanwhile
            found.append(path.read_text())
    return found


# A terminal


HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


class Screen:
    """The other side of a terminal, and what was drawn there so far."""

    def __init__(self, fd):
        self.fd = fd
        self.seen = b""

    def read_until(self, condition):
        while not condition(self.seen):
            self.seen += os.read(self.fd, 1 << 16)


def test_f120_ctrl_z_gives_the_cursor_back_and_fg_draws_again(slow, tmp_path):
    """Stopped, the terminal is the shell's; continued, the bar is there again."""
    control, terminal = pty.openpty()
    screen = Screen(control)
    arguments = fetch(slow, tmp_path / "out", tmp_path / "ids.txt", "--grace", "0")
    # A process group of its own that has a parent in the session, as a shell's job.
    with started(*arguments, stderr=terminal, process_group=0) as process:
        screen.read_until(lambda seen: HIDE in seen and b"courses" in seen)
        process.send_signal(signal.SIGTSTP)
        screen.read_until(lambda seen: SHOW in seen)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        screen.seen = b""
        process.send_signal(signal.SIGCONT)
        screen.read_until(lambda seen: HIDE in seen and b"courses" in seen)
        assert SHOW not in screen.seen
        process.send_signal(TERM)
        assert process.wait(ENOUGH) == 143
    screen.read_until(lambda seen: seen.rfind(SHOW) > seen.rfind(HIDE))
    os.close(terminal)
    os.close(control)


def test_f120_ctrl_c_at_a_terminal_is_a_death_by_signal(slow, tmp_path):
    """A shell ends its loop only for a child that died of SIGINT; its $? is 130 all the same."""
    (tmp_path / "ids.txt").write_text("1\n")
    before = slow.counters.requests
    pid, control = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, [*COMMAND, "check", "--endpoint", slow.endpoint], environment())
    screen = Screen(control)
    until(lambda: slow.counters.requests > before)
    os.write(control, b"\x03")
    screen.read_until(lambda seen: b"stopped by Ctrl-C" in seen)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == INT
    os.close(control)
