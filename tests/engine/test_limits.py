"""Where the machine says no: full and read-only disks, file-size limits, slow disks, other clocks.

Injected for real wherever the machine allows it: a small tmpfs needs the right to mount.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time

import hostile
import pytest
from answers import options, statuses, users
from commands import bulkfetch, fetch
from victim import Victims, check, ids

from bulkfetch import Hooks, export
from bulkfetch._output.file import Posix
from bulkfetch._output.inspect import read_ledger, verify
from bulkfetch._output.journaled import JournaledFile
from bulkfetch.testing import ScriptedReply, ScriptedTransport, SimulatedServer, Simulation

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def victims():
    with Victims() as running:
        yield running


class Disk:
    """A tmpfs of its own."""

    def __init__(self, folder):
        self.folder = folder

    def remount(self, what):
        subprocess.run(["mount", "-o", f"remount,{what}", self.folder], check=True)


@pytest.fixture
def disk(tmp_path):
    """A disk of one page; skips where nothing may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={PAGE}", "tmpfs", folder]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", folder], check=True)


# Full


def test_f63_a_full_disk(disk, victims):
    """A disk that is full, page after page: exit 6 in words each time, and in the end all rows."""
    output = disk.folder / "out.ndjson"
    full = 0
    for pages in itertools.count(1):
        disk.remount(f"size={pages * PAGE}")
        end = victims.run(output)
        if end.code == 0:
            break
        full += 1
        assert end.code == 6
        assert "the disk is full: free some space, then run the same command again" in end.said
    assert full >= 3
    check(output, ids(30))


def test_f64_a_limit_on_the_size_of_files(tmp_path, victims):
    """A file that may not grow: exit 6, naming ulimit; what was written stays."""
    for limit in range(100, 12_000, 1_300):
        output = tmp_path / f"{limit}" / "out.ndjson"
        output.parent.mkdir()
        end = victims.run(output, fsize=limit)
        assert end.code == 6
        assert "raise its limit (ulimit -f), then run the same command again" in end.said
        end = victims.run(output)
        assert end.code == 0
        check(output, ids(30))


def test_f64_the_command_under_ulimit(tmp_path):
    """The real command too ends in words and with exit 6, not by the signal."""
    output = tmp_path / "out.ndjson"
    with SimulatedServer(Simulation(courses=40)) as server:
        words = fetch(server, output, tmp_path / "ids.txt", "--no-adaptive")
        command = " ".join(map(str, (sys.executable, "-m", "bulkfetch", *words)))
        shell = ["bash", "-c", f"ulimit -f 8; exec {command}"]
        variables = os.environ | {"BULKFETCH_TOKEN": server.token}
        done = subprocess.run(shell, capture_output=True, text=True, check=False, env=variables)
        assert done.returncode == 6, done.stderr
        assert "ulimit -f" in done.stderr
        assert "Traceback" not in done.stderr
        assert bulkfetch(*words).returncode == 0
        assert read_ledger(output).rows == sum(map(len, server.expected().values()))


# Where nothing can be written


def refused(output, tmp_path, *more):
    """Fetch into an output that cannot be; no request is made. Returns what is said."""
    with SimulatedServer(Simulation(courses=3)) as server:
        done = bulkfetch(*fetch(server, output, tmp_path / "ids.txt", *more))
        assert server.counters.requests == 0
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    return done.stderr


def test_f74_a_read_only_file_system(disk, tmp_path):
    """A read-only disk is named before anything is asked."""
    disk.remount("ro")
    said = refused(disk.folder / "out.ndjson", tmp_path)
    assert f"cannot open {disk.folder / 'out.ndjson.journal'}: the file system is read-only" in said
    assert "choose another folder" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_f74_a_folder_without_permission(tmp_path):
    """So is a folder that may not be written to."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    assert "permission denied: make it writable" in refused(folder / "out.ndjson", tmp_path)


def test_f74_no_plain_file(tmp_path):
    """A folder or a dangling link in the output's place is named with the remedy."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    assert "is a folder: name a file" in refused(tmp_path / "folder", tmp_path)
    said = refused(tmp_path / "link", tmp_path, "--overwrite")
    assert "is a symbolic link: name the file" in said
    assert "create the folder first" in refused(tmp_path / "no" / "out.ndjson", tmp_path)


# Clocks


async def test_f81_f133_the_clock_jumps(tmp_path, monkeypatch):
    """Whatever the wall clock says from one call to the next, rows and journal are right."""
    rng = random.Random(81)
    output = tmp_path / "out.ndjson"

    def jumping():
        return rng.choice([0.0, 1.0, 1_700_000_000.0, 1_699_990_000.0, 4_000_000_000.0])

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setitem(JournaledFile.__init__.__kwdefaults__, "clock", jumping)
    later = {"Retry-After": "Fri, 31 Dec 2038 23:59:59 GMT", "Content-Type": "text/html"}
    busy = ScriptedReply(status=503, headers=later)
    script = {name: [busy, ScriptedReply(pieces=(statuses(users(name, 3)),))] for name in ids(8)}
    settings = options(max_retry_after=0.01, retry_budget=1.0)
    for count in (4, 8):
        transport = ScriptedTransport(script)
        summary = await export(ids(count), output, settings, transport=transport)
        assert summary.failed == 0
        assert len(transport.requests) == 8  # each of four courses was refused once
    rows = [json.loads(line)["userId"] for line in output.read_bytes().splitlines()]
    assert sorted(rows) == sorted(user for name in ids(8) for user, *_ in users(name, 3))
    assert verify(output).sound


# Slow disks


async def test_f82_a_slow_disk_slows_the_requests(tmp_path, monkeypatch):
    """While the disk hangs, no more is fetched than what the bounds of the memory hold."""
    body = statuses(users("u" * 100, 150))  # 19 kB of rows
    transport = ScriptedTransport(lambda request: ScriptedReply(pieces=(body,)))
    committed, ahead = [0], []

    def hanging(fd):
        """Return only when the engine has stopped asking."""
        seen = -1
        while seen != len(transport.requests):
            seen = len(transport.requests)
            threading.Event().wait(0.05)
        ahead.append(seen - committed[0])

    def count(commit):
        committed[0] += commit.courses

    monkeypatch.setattr(Posix, "fdatasync", staticmethod(hanging))
    await export(
        ids(1_500),
        tmp_path / "out.ndjson",
        options(concurrency=8),
        transport=transport,
        hooks=Hooks(commit=count),
    )
    size = (tmp_path / "out.ndjson").stat().st_size / 1_500
    # 8 MiB that are written and wait for the disk, an outbox of 2 MiB, a batch, one course each.
    assert max(ahead) <= (11 << 20) / size + 2 + 8
    assert len(ahead) >= 8
    assert committed == [1_500]


# Hostile servers


@pytest.mark.parametrize(
    ("name", "words"),
    [("billion laughs", "declares a DOCTYPE"), ("100,000 headers", "not valid HTTP")],
    ids=["f41", "f22"],
)
async def test_f22_f41_refusing_a_hostile_answer_takes_no_memory(name, words):
    """Refused in words, for less than four megabytes; bombs and endless bodies are in F46-F49."""
    [answer] = [answer for named, answer, _ in hostile.answers() if named == name]
    memory, _, said = await hostile.cost(answer)
    assert words in said
    assert memory < 4
