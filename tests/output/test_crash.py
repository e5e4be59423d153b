"""Killed, or refused by the disk, at every call: the next run leaves each row there once.

System calls are counted and tampered with by strace, over the calls on the output alone. The
normal run takes a sample; every N of every call, and more random kills:

    pytest -m slow -s tests/output/test_crash.py
"""

import itertools
import json
import random
import shutil
import signal
import subprocess
import time
from collections import Counter

import pytest
from commands import bulkfetch, fetch, started
from victim import CALLS, ERRORS, KILL, REFUSED, Victims, check, ids, why_no_strace

from bulkfetch._output.inspect import read_ledger, verify
from bulkfetch.testing import SimulatedServer, Simulation

DURABILITIES = ("batch", "course", "none")
COUNT = 30
SAMPLE = {"write": 7, "fdatasync": 7, "fsync": 2, "open": 2}
"""Of so many calls the normal run takes one; of those not named all, for they are few."""

needs_strace = pytest.mark.skipif(why_no_strace() is not None, reason=str(why_no_strace()))


@pytest.fixture(scope="module")
def victims():
    with Victims() as running:
        yield running


class Folders:
    """Fresh folders, one for each try; the last ones are removed as the next are made."""

    def __init__(self, root, name="out.ndjson"):
        self._root = root
        self._name = name
        self._numbers = itertools.count()

    def fresh(self, like=None):
        """Return the path of an output in a new folder, a copy of another output's if given."""
        for old in self._root.iterdir():
            if old != (like and like.parent):
                shutil.rmtree(old)
        folder = self._root / str(next(self._numbers))
        shutil.copytree(like.parent, folder) if like else folder.mkdir()
        return folder / self._name


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path)


def points(victims, folders, call, what, *, step=1, like=None, **order):
    """Tamper with the Nth call, for N = 1, 1 + step, ... until a run is left alone.

    Yields the output and how the run ended, for each run that was met.
    """
    for number in itertools.count(1, step):
        output = folders.fresh(like)
        end = victims.run(output, inject=f"{CALLS[call]}:{what}:when={number}", **order)
        if end.code == 0:
            check(output, ids(COUNT))
            return
        yield output, end


def complete(victims, output, **order):
    """Run once more, undisturbed: everything is there once."""
    end = victims.run(output, **order)
    assert end.code == 0, end.said
    check(output, ids(COUNT))


def kill_everywhere(victims, folders, steps, **order):
    """Kill at every call, complete, compare; returns the kill points by call."""
    killed = Counter()
    for call in CALLS:
        step = steps.get(call, 1)
        for output, end in points(victims, folders, call, KILL, step=step, **order):
            assert end.was_killed
            complete(victims, output, durability=order.get("durability", "batch"))
            killed[call] += 1
    return killed


def fail_everywhere(victims, folders, steps, errors=ERRORS, **order):
    """Let every call fail; the run says which file and what to do, and the next completes it."""
    failed = Counter()
    for call, error in itertools.product(CALLS, errors):
        step = steps.get(call, 1)
        for output, end in points(victims, folders, call, f"error={error}", step=step, **order):
            assert end.code == 6
            assert str(output.parent) in end.said
            assert "run the same command again" in end.said
            complete(victims, output, durability=order.get("durability", "batch"))
            failed[call] += 1
    return failed


def tell(what, durability, counts):
    by_call = ", ".join(f"{number} {call}" for call, number in counts.items())
    print(f"\n{durability}: {counts.total()} {what} ({by_call}): 0 lost, 0 doubled")


# At chosen calls


@needs_strace
def test_f59_f78_killed_at_calls_on_the_output(victims, folders):
    """Killed at a call of any kind, the rename among them: the next run completes each row once."""
    killed = kill_everywhere(victims, folders, SAMPLE)
    tell("kill points", "batch", killed)
    assert set(killed) == set(CALLS) - {"truncate"}  # nothing is cut but in recovery
    assert killed["rename"] >= 3  # failed courses, the output, the manifest


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("durability", DURABILITIES)
def test_f59_f78_killed_at_every_call(victims, folders, durability):
    """The same for every call there is, at each durability."""
    killed = kill_everywhere(victims, folders, {}, durability=durability)
    tell("kill points", durability, killed)
    assert killed["write"] > 20


@needs_strace
def test_f63_f65_errors_at_calls_on_the_output(victims, folders):
    """A full or failing disk at a call of any kind: exit 6 in words, and the next run completes."""
    steps = {"write": 11, "fdatasync": 11, "fsync": 3, "open": 3}
    failed = fail_everywhere(victims, folders, steps)
    tell("injected errors", "batch", failed)
    assert set(failed) == set(CALLS) - {"truncate"}


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("durability", DURABILITIES)
def test_f63_f65_errors_at_every_call(victims, folders, durability):
    """The same for every call there is, at each durability."""
    failed = fail_everywhere(victims, folders, {}, durability=durability)
    tell("injected errors", durability, failed)
    assert failed["write"] > 40


def half_done(victims, folders):
    """Leave what a run leaves that is killed in the middle, with a torn line and half a row."""
    output = folders.fresh()
    end = victims.run(output, inject=f"writev:{KILL}:when=12")
    assert end.was_killed
    assert read_ledger(output).fetched > 3
    for suffix, torn in ((".journal", b'0123abcd {"commit":{"start":'), (".part", b'{"cont')):
        with output.with_name(output.name + suffix).open("ab") as file:
            file.write(torn)
    return output


def recovered_after_two_kills(victims, folders, steps):
    """Kill at every call of a recovery, again in the recovery from that; returns kill points."""
    killed = Counter()
    like = half_done(victims, folders)
    for call in CALLS:
        step = steps.get(call, 1)
        for output, end in points(victims, folders, call, KILL, step=step, like=like):
            assert end.was_killed
            again = victims.run(output, inject=f"{CALLS[call]}:{KILL}:when=2")
            complete(victims, output)
            killed[call] += 1 + again.was_killed
    return killed


@needs_strace
def test_f60_f67_killed_in_recovery_twice(victims, folders):
    """Killed while it recovers from a kill, and again: the third run completes each row once."""
    killed = recovered_after_two_kills(victims, folders, SAMPLE)
    tell("kill points in recovery", "batch", killed)
    assert killed["truncate"] >= 2


@needs_strace
@pytest.mark.slow
def test_f60_killed_at_every_call_of_a_recovery(victims, folders):
    """The same for every call of it."""
    killed = recovered_after_two_kills(victims, folders, {})
    tell("kill points in recovery", "batch", killed)
    assert killed.total() > 50


@needs_strace
def test_f78_killed_while_a_finished_output_is_extended(victims, folders):
    """Killed around the renames there and back: the rows of the first run are never lost."""
    like = folders.fresh()
    assert victims.run(like, count=20).code == 0
    killed = Counter()
    for call, step in (("rename", 1), ("unlink", 1), ("fsync", 3)):
        for output, end in points(victims, folders, call, KILL, step=step, like=like):
            assert end.was_killed
            assert read_ledger(output).fetched >= 19
            complete(victims, output)
            killed[call] += 1
    tell("kill points in extending", "batch", killed)
    assert killed["rename"] >= 4


@needs_strace
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_f80_killed_while_compressed(victims, tmp_path, suffix):
    """A compressed output is cut at the border of a member and goes on from there."""
    folders = Folders(tmp_path, f"out.ndjson{suffix}")
    killed = 0
    for output, end in points(victims, folders, "write", KILL, step=5):
        assert end.was_killed
        complete(victims, output)
        killed += 1
    assert killed >= 3


# At random moments


def kill_at_random(victims, folders, times, durability, seed):
    """Kill so many times, going on with the same output until it is complete, then with another."""
    rng = random.Random(seed)
    output, killed = folders.fresh(), 0
    order = {"durability": durability, "delay": 0.003}
    while killed < times:
        end = victims.run(output, kill_after=rng.uniform(0.005, 0.08), **order)
        killed += end.was_killed
        if not end.was_killed:
            assert end.code == 0, end.said
            check(output, ids(COUNT))
            output = folders.fresh()
    complete(victims, output)
    print(f"\n{durability}: {killed} random SIGKILLs: 0 lost, 0 doubled")


@pytest.mark.parametrize("durability", DURABILITIES)
def test_f61_killed_at_random_moments(victims, folders, durability):
    """SIGKILL at any moment, again and again: each row once."""
    kill_at_random(victims, folders, 6, durability, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("durability", DURABILITIES)
def test_f61_fifty_random_kills(victims, folders, durability):
    """The same, 50 times."""
    kill_at_random(victims, folders, 50, durability, seed=2)


def lost_and_doubled(output, server):
    """Compare the output with the server's rows, by value."""
    found = Counter(row_key(json.loads(line)) for line in output.read_bytes().splitlines())
    expected = Counter(row_key(row) for course in server.expected().values() for row in course)
    return (expected - found).total(), (found - expected).total()


def row_key(row):
    return row["contentItemId"], row["userId"], row["status"], row["progress"]


def kill_the_command(tmp_path, courses, times, seed):
    """Kill `bulkfetch fetch` so many times; returns how many outputs were completed meanwhile."""
    rng = random.Random(seed)
    simulation = Simulation(courses=courses, rows=(0, 20), zero_share=0.05)
    outputs = killed = 0
    longest = 0.0
    with SimulatedServer(simulation) as server:
        while killed < times:
            output = tmp_path / f"out-{outputs}.ndjson"
            words = fetch(server, output, tmp_path / "ids.txt", "--no-adaptive", "-q")
            # One killed between publishing and the manifest is finished by the same command.
            while not output.with_name(f"{output.name}.manifest.json").exists():
                began = time.monotonic()
                # The first run is left alone, to see how long one takes; starting is half of it.
                again = outputs and killed < times
                killed += _killed(words, rng.uniform(0.3, 0.9) * longest if again else None)
                longest = max(longest, time.monotonic() - began)
            assert lost_and_doubled(output, server) == (0, 0)
            assert verify(output).sound
            outputs += 1
    return killed, outputs


def _killed(words, moment):
    with started(*words) as process:
        try:
            _, said = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
    assert process.returncode in {0, -signal.SIGKILL}, said
    return process.returncode != 0


def test_f61_the_command_killed_at_random_moments(tmp_path):
    """The real command, over HTTP, killed at any moment: each row once."""
    kill_the_command(tmp_path, courses=300, times=3, seed=3)


@pytest.mark.slow
def test_f61_two_hundred_random_kills_of_the_command(tmp_path):
    """200 kills over runs of 2,000 courses."""
    killed, outputs = kill_the_command(tmp_path, courses=2000, times=200, seed=4)
    print(f"\n{killed} random SIGKILLs, {outputs} outputs of 2,000 courses: 0 lost, 0 doubled")


# Going on


def test_f79_other_lists_of_ids(victims, tmp_path):
    """However the next list looks, only what is missing is fetched, and each row is there once."""
    output = tmp_path / "out.ndjson"
    first = victims.run(output, count=10)
    assert Counter(first.asked) == Counter(ids(10))
    for listed, missing in (
        (ids(4), []),
        (ids(10)[::-1], []),
        ([*ids(12), *ids(12)], ["c10", "c11"]),
        (ids(20)[::-1] * 2, ids(8, 12)),
        (["c25", "c3", "c25"], ["c25"]),
        (ids(COUNT), ids(5, 20) + ids(4, 26)),
    ):
        end = victims.run(output, ids=listed)
        assert end.code == 0, end.said
        assert Counter(end.asked) == Counter(missing)
    check(output, ids(COUNT))


def test_f79_a_finished_run_asks_nothing(victims, tmp_path):
    """The same command once more: no request, no byte of any file changed."""
    output = tmp_path / "out.ndjson"
    victims.run(output)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    end = victims.run(output)
    assert (end.code, end.asked) == (0, [])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert REFUSED in (tmp_path / "out.ndjson.failed.ndjson").read_text()


# Signals and two at once


def wait_for_rows(process, output):
    """Wait until the first rows are committed."""
    journal = output.with_name(f"{output.name}.journal")
    while not (journal.exists() and b'"commit"' in journal.read_bytes()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def test_f75_interrupted_twice(tmp_path):
    """A second SIGINT ends the run at once; the next one completes it."""
    output = tmp_path / "out.ndjson"
    simulation = Simulation(courses=40, rows=(1, 5), latency=2.0, latency_shape="exponential")
    with SimulatedServer(simulation) as server:
        words = fetch(server, output, tmp_path / "ids.txt", "--no-adaptive", "-c", 20)
        with started(*words) as process:
            wait_for_rows(process, output)
            process.send_signal(signal.SIGINT)
            while "once more stops at once" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=300)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert verify(output).problems == []
        assert read_ledger(output).fetched < server.counters.requests  # not waited for
    with SimulatedServer(Simulation(courses=40, rows=(1, 5)), port=server.port) as server:
        done = bulkfetch(*words)
        assert done.returncode == 0, done.stderr
        assert lost_and_doubled(output, server) == (0, 0)


def test_f72_two_commands_at_once(tmp_path):
    """The second leaves at once with exit 5, asking nothing; the first is unharmed."""
    output = tmp_path / "out.ndjson"
    with SimulatedServer(Simulation(courses=100, rows=(1, 5), latency=0.05)) as server:
        words = fetch(server, output, tmp_path / "ids.txt", "--no-adaptive")
        with started(*words) as first:
            wait_for_rows(first, output)
            first.send_signal(signal.SIGSTOP)  # so that it is still there, however slow the second
            second = bulkfetch(*words)
            first.send_signal(signal.SIGCONT)
            _, said = first.communicate(timeout=300)
        assert second.returncode == 5
        assert f"another run holds {output}" in second.stderr
        assert first.returncode == 0, said
        assert set(server.counters.by_course.values()) == {1}
        assert lost_and_doubled(output, server) == (0, 0)


def test_f73_the_holder_killed(tmp_path):
    """A killed run holds nothing: the next one starts, and asks only for what is missing."""
    output = tmp_path / "out.ndjson"
    with SimulatedServer(Simulation(courses=100, rows=(1, 5), latency=0.05)) as server:
        words = fetch(server, output, tmp_path / "ids.txt", "--no-adaptive")
        with started(*words) as first:
            wait_for_rows(first, output)
        kept = read_ledger(output).fetched
        done = bulkfetch(*words)
        assert done.returncode == 0, done.stderr
        # By its own count: the server may still meet requests of the one that was killed.
        manifest = json.loads(output.with_name(f"{output.name}.manifest.json").read_bytes())
        assert manifest["totals"]["requests"] == 100 - kept < 100
        assert lost_and_doubled(output, server) == (0, 0)
