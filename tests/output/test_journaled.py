"""Every row exactly once, whatever is cut off: the sink on a fake disk, then on the real one."""

import contextlib
import copy
import errno
import gzip
import hashlib
import os
import random
import shutil
import stat
import subprocess
import sys
from collections import Counter

import orjson
import pytest
import zstandard
from fake_os import FakeOS, Killed
from outputs import commit_to

from bulkfetch._domain.errors import (
    ConfigurationError,
    OutputError,
    OutputLocked,
    Refused,
    RunRefused,
    Transient,
)
from bulkfetch._domain.model import Failed, Fetched
from bulkfetch._output.frames import FORMAT, Header, encode, walk
from bulkfetch._output.inspect import verify
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._output.ledger import replay
from bulkfetch._output.spool import Spool

OUT = "/d/out.ndjson"
JOURNAL, PART = f"{OUT}.journal", f"{OUT}.part"
FAILED, MANIFEST = f"{OUT}.failed.ndjson", f"{OUT}.manifest.json"
FINGERPRINT = {"endpoint": "lms.example", "method": "GetContentItemFinalStatuses"}
IDS = [f"c{number}" for number in range(11)]
MORE = [f"d{number}" for number in range(4)]
VAIN = [f"x{number}" for number in range(1, 5)]
"""Courses that nobody answers for, while the server is dead."""
DURABILITIES = ("batch", "course", "none")
ERRORS = (errno.EIO, errno.ENOSPC)


def row(course_id, number):
    return orjson.dumps({"contentItemId": course_id, "userId": f"u{number}"}) + b"\n"


def rows_of(course_id):
    # c0 has no rows, the others up to five.
    return [row(course_id, number) for number in range(int(course_id[1:]) * 2 % 6)]


def outcome_of(course_id, *, passing=True):
    if course_id == "c4":
        return Failed(course_id, Refused("unknown-content-item", "Unknown content item"))
    if course_id == "c7" and passing:
        return Failed(course_id, Transient("timeout", "no answer in 300 s"), attempts=6)
    if course_id in VAIN and passing:
        return Failed(course_id, Transient("connect", "connection refused"), attempts=6)
    spool = Spool()
    for line in rows_of(course_id):
        spool.append(line, 1)
    return Fetched(course_id, spool)


def sink_on(system, *, path=OUT, run_id="r", durability="batch", overwrite=False, **options):
    return JournaledFile(
        path,
        fingerprint=options.pop("fingerprint", FINGERPRINT),
        run_id=run_id,
        durability=durability,
        overwrite=overwrite,
        version="1.0",
        system=system,
        clock=lambda: 1_700_000_000.0,
        **options,
    )


def settled_in(ledger):
    return {course_id for course_id in (*IDS, *MORE, *VAIN) if course_id in ledger.settled}


def run(system, ids=IDS, *, passing=True, acknowledged=None, **options):
    """Do what the engine does: skip what is settled, commit in batches, finish."""
    sink = sink_on(system, **options)
    try:
        ledger = sink.open()
        if acknowledged is not None:
            acknowledged.update(settled_in(ledger))
        todo = [course_id for course_id in ids if course_id not in ledger.settled]
        for at in range(0, len(todo), 3):
            batch = [outcome_of(course_id, passing=passing) for course_id in todo[at : at + 3]]
            for outcome in batch:  # several writes a commit
                sink.write(sink.prepare([outcome]))
                if options.get("durability") == "course":
                    sink.commit()
            sink.commit()
            if acknowledged is not None:
                acknowledged.update(outcome.course_id for outcome in batch)
                acknowledged.discard("c7")  # failed in passing
            sink.note({"done": at})
        return sink.finish({"seconds": 1.5}, {"concurrency": 8})
    finally:
        sink.close()


def run_until_fault(system, plan, ids=IDS, **options):
    """Run against the plan; say whether it got to its end."""
    system.restart(plan)
    try:
        run(system, ids, **options)
    except (Killed, OutputError):
        return False
    finally:
        system.restart()
    return True


def calls_of(system, ids=IDS, **options):
    """Count the calls of a run that nothing disturbs."""
    run(system, ids, **options)
    return system.counts


def check(system, ids=IDS, *, missing=("c4", "c7")):
    """Each row once, and every companion says the same."""
    expected = Counter(
        line for course_id in ids if course_id not in missing for line in rows_of(course_id)
    )
    data = system.read(OUT)
    assert Counter(data.splitlines(keepends=True)) == expected
    manifest = orjson.loads(system.read(MANIFEST))
    assert manifest["sha256"] == hashlib.sha256(data).hexdigest()
    assert (manifest["rows"], manifest["bytes"]) == (expected.total(), len(data))
    assert manifest["courses"]["fetched"] == len(ids) - len(missing)
    failed = [orjson.loads(line)["contentItemId"] for line in system.read(FAILED).splitlines()]
    assert sorted(failed) == sorted(missing)
    assert set(system.names) == {OUT, JOURNAL, FAILED, MANIFEST}


def finished(ids=IDS, **options):
    system = FakeOS()
    run(system, ids, **options)
    system.restart()
    return system


def unfinished():
    """Leave what a run leaves that is killed after committing most of its courses."""
    system = FakeOS()
    run_until_fault(system, {("write", 8): "kill"})
    assert replay([system.read(JOURNAL)]).end == len(system.read(PART)) > 0
    return system


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_whole_run(durability):
    """An undisturbed run publishes each row once, with failed courses and manifest beside it."""
    system = FakeOS()
    manifest = run(system, durability=durability)
    check(system)
    assert manifest.courses == {"fetched": 9, "refused": 1, "failed": 1}
    assert manifest.empty_courses == ("c0", "c3", "c6", "c9")
    assert manifest.options == {"concurrency": 8}
    assert orjson.loads(system.read(MANIFEST)) == orjson.loads(orjson.dumps(manifest))
    assert orjson.loads(system.read(FAILED).splitlines()[1]) == {
        "contentItemId": "c7",
        "kind": "timeout",
        "message": "no answer in 300 s",
        "attempts": 6,
        "retry": True,
    }


def test_f87_private_modes():
    """Every file that holds data of people is made with mode 0600."""
    system = finished()
    assert {stat.S_IMODE(inode.mode) for inode in system.inodes.values()} == {0o600}


LEFT = (JOURNAL, PART, f"{FAILED}.tmp", f"{MANIFEST}.tmp")
"""Names at which another program, or an older run, may have left a file."""


def test_f87_files_that_were_there_are_made_private():
    """A file that existed with a wider mode is private before anything is written to it."""
    system = FakeOS()
    for path in LEFT:
        system.put(path, b"", mode=0o644)
    run(system)
    check(system)
    assert {stat.S_IMODE(inode.mode) for inode in system.inodes.values()} == {0o600}


def test_f87_a_published_output_is_made_private_when_it_grows():
    """The mode that its owner gave a published file stays until there is something to add."""
    system = finished()
    inode = system.inodes[system.names[OUT]]
    inode.mode = stat.S_IFREG | 0o640
    run(system, IDS + VAIN)
    assert stat.S_IMODE(inode.mode) == 0o640
    run(system, IDS + MORE)
    assert stat.S_IMODE(inode.mode) == 0o600


@pytest.mark.parametrize("path", LEFT)
def test_f87_files_of_another_user(path, monkeypatch):
    """Nothing is written to a file of another user; once it is moved away the run completes."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    system = FakeOS()
    system.put(path, b"")
    inode = system.inodes[system.names[path]]
    inode.uid = 4321
    with pytest.raises(OutputError, match=r"another user \(uid 4321\): move it away"):
        run(system)
    assert not inode.data
    assert not system.fds
    del system.names[path]
    run(system)
    check(system)


def test_f87_root_may_take_over_a_file(monkeypatch):
    """Root goes on with the output of another user, and keeps it private."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    system = unfinished()
    system.inodes[system.names[PART]].mode = stat.S_IFREG | 0o644
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    run(system)
    check(system)
    assert {stat.S_IMODE(inode.mode) for inode in system.inodes.values()} == {0o600}


@pytest.mark.parametrize(("error", "ended"), [(errno.EPERM, True), (errno.EIO, False)])
def test_modes_that_cannot_be_set(error, ended):
    """A file system that has no modes is used all the same; one that fails is not."""
    system = FakeOS()
    system.put(PART, b"", mode=0o755)
    assert run_until_fault(system, {("fchmod", 1): error}) is ended
    run(system)
    check(system)


def test_syncs_per_durability():
    """A commit syncs data and journal once; not at all with `none`."""
    courses = [outcome_of(course_id) for course_id in ("c1", "c2", "c5")]
    for durability, syncs in (("batch", 2), ("course", 2), ("none", 0)):
        system = FakeOS()
        sink = sink_on(system, durability=durability)
        sink.open()
        before = system.counts["fdatasync"] + system.counts["fsync"]
        commit_to(sink, courses)
        assert system.counts["fdatasync"] + system.counts["fsync"] - before == syncs
        sink.close()


def test_many_writes_share_a_commit():
    """What several writes brought is journaled and synced once, all of it, with the CRC of all."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    before = system.counts["fdatasync"]
    for course_id in ("c1", "c2", "c5"):
        sink.write(sink.prepare([outcome_of(course_id)]))
    assert system.counts["fdatasync"] == before
    sink.commit()
    sink.commit()
    assert system.counts["fdatasync"] == before + 2
    sink.close()
    run(system)
    check(system)


def test_courses_of_all_sizes_share_a_commit(tmp_path):
    """Rows in memory and rows in files follow each other; the checksums are those of the whole."""
    path = tmp_path / "out.ndjson"
    sink = JournaledFile(path, fingerprint={}, run_id="r")
    sink.open()
    for number, sizes in enumerate([(1,), (1, 20_000, 1), (0, 2), (12_000,), (3,)]):
        courses = [(f"c{number}-{at}", size) for at, size in enumerate(sizes)]
        outcomes = []
        for course_id, size in courses:
            spool = Spool()
            for user in range(size):
                row = {"contentItemId": course_id, "userId": f"{user:060}"}
                spool.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE), 1)
            outcomes.append(Fetched(course_id, spool))
        sink.write(sink.prepare(outcomes))
        if number == 2:
            sink.commit()
    sink.commit()
    manifest = sink.finish({})
    sink.close()
    assert manifest.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest.rows == path.read_bytes().count(b"\n") == 32_008
    assert verify(path).sound


def test_what_was_written_is_not_yet_committed():
    """A run killed between write and commit fetches those courses again: each row once."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    sink.write(sink.prepare([outcome_of("c1"), outcome_of("c2")]))
    system.restart()
    assert settled_in(sink_on(system).open()) == set()
    system.restart()
    run(system)
    check(system)


def test_data_before_journal():
    """A commit writes and syncs data before the journal's line that speaks of them."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    system.plan = {("write", system.counts["write"] + 2): "kill"}
    with pytest.raises(Killed):
        commit_to(sink, [outcome_of("c1")])
    part = system.inodes[system.names[PART]]
    assert part.disk == b"".join(rows_of("c1"))
    assert replay([system.read(JOURNAL)]).end == 0


def test_small_courses_share_a_write():
    """A batch of small courses costs one write of data and one of the journal."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    before = system.counts["write"]
    commit_to(sink, [Fetched(str(number), outcome_of("c1").rows) for number in range(500)])
    assert system.counts["write"] - before == 2
    sink.close()


def test_failures_alone_need_no_data():
    """A commit of failed courses writes a frame and leaves the data alone."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    commit_to(sink, [])
    commit_to(sink, [outcome_of("c4"), outcome_of("c7")])
    sink.close()
    assert system.read(PART) == b""
    assert settled_in(replay([system.read(JOURNAL)])) == {"c4"}
    assert len(system.read(FAILED).splitlines()) == 2


# Kills, errors and power cuts


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("action", ["kill", "torn"])
def test_f59_f67_killed_at_every_call(durability, action):
    """A run killed at any call or within any write is completed by the next: each row once."""
    for number in range(1, calls_of(FakeOS(), durability=durability)["any"] + 1):
        system = FakeOS()
        assert not run_until_fault(system, {("any", number): action}, durability=durability)
        run(system, durability=durability)
        check(system)


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("error", ERRORS)
def test_f63_f65_error_at_every_call(durability, error):
    """An error of any call at any time ends the run as OutputError, and the next completes it."""
    for name, count in calls_of(FakeOS(), durability=durability).items():
        for number in range(1, count + 1):
            system = FakeOS()
            ended = run_until_fault(system, {(name, number): error}, durability=durability)
            assert not ended or name in {"close", "mark", "any"}
            run(system, durability=durability)
            check(system)


def test_f66_short_write_at_every_write():
    """A write that takes only half is followed by one for the rest."""
    for number in range(1, calls_of(FakeOS())["write"] + 1):
        system = FakeOS()
        assert run_until_fault(system, {("write", number): "short"})
        check(system)


def settled_on(system):
    """Return what a next run would find settled."""
    with contextlib.closing(sink_on(copy.deepcopy(system))) as sink:
        return settled_in(sink.open())


def check_manifest(system):
    """A manifest is never there without the output that it describes."""
    if MANIFEST in system.names:
        told = orjson.loads(system.read(MANIFEST))
        assert told["sha256"] == hashlib.sha256(system.read(OUT)).hexdigest()


def lose_power_anywhere(seed, durability):
    rng = random.Random(seed)
    system = FakeOS()
    calls = calls_of(FakeOS(), durability=durability)["any"]
    safe = set()
    for last in (False,) * rng.choice((0, 0, 1, 2)) + (True,):
        # Earlier runs may be less careful, and be killed without a power cut.
        chosen = durability if last else rng.choice(DURABILITIES)
        acknowledged = set()
        system.restart({("any", rng.randint(1, calls)): rng.choice(("kill", "torn"))})
        with contextlib.suppress(Killed):
            run(system, durability=chosen, acknowledged=acknowledged)
        safe |= acknowledged if chosen != "none" else set()
        system.restart()
        if last or rng.random() < 0.5:
            system.lose_power(rng)
        assert safe <= settled_on(system)
        check_manifest(system)
    run(system, durability=durability)
    check(system)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_f62_power_cuts(durability):
    """Unsynced pages lost or torn at random: still each row once, and what was called safe is."""
    for seed in range(150):
        lose_power_anywhere(seed, durability)


class Unlucky:
    """Chance at its worst: all that can be lost is lost."""

    def choice(self, fates):
        return "lost"

    def random(self):
        return 0.99


def test_f62_what_a_kill_left_is_made_safe():
    """What a run finds settled when it begins is safe from then on, however it was written."""
    calls = calls_of(FakeOS(), durability="none")["any"]
    for first in range(1, calls + 1):
        for second in range(20, 34):
            system = FakeOS()
            run_until_fault(system, {("any", first): "kill"}, durability="none")
            settled = set()
            system.restart({("any", second): "kill"})
            with contextlib.suppress(Killed):
                run(system, acknowledged=settled)
            system.lose_power(Unlucky())
            assert settled <= settled_on(system)
            run(system)
            check(system)


@pytest.mark.slow
@pytest.mark.parametrize("durability", DURABILITIES)
def test_f62_three_thousand_power_cuts(durability):
    """The same for 3,000 cuts."""
    for seed in range(1_000, 2_000):
        lose_power_anywhere(seed, durability)


def test_f60_killed_twice_in_recovery():
    """A kill during recovery, and one during the recovery from that, lose and double nothing."""
    calls = calls_of(FakeOS())["any"]
    for first in range(12, calls, 9):
        for second in range(1, 40, 2):
            system = FakeOS()
            run_until_fault(system, {("any", first): "torn"})
            run_until_fault(system, {("any", second): "kill"})
            run_until_fault(system, {("any", second + 1): "torn"})
            run(system)
            check(system)


def test_f62_power_lost_in_recovery():
    """Power that goes during a recovery, after an earlier cut, loses and doubles nothing."""
    for seed in range(200):
        rng = random.Random(seed)
        system = FakeOS()
        for limit in (60, 30, 30):
            system.restart({("any", rng.randint(10, limit)): "torn"})
            with contextlib.suppress(Killed):
                run(system, durability="none")
            system.lose_power(rng)
        run(system)
        check(system)


# Taking a finished output up again


def test_a_finished_output_is_left_alone():
    """Opening, noting and finishing an output that is complete changes no byte of any file."""
    system = finished()
    before = system.snapshot()
    sink = sink_on(system, run_id="later")
    ledger = sink.open()
    assert ledger.done
    sink.note({"done": 1})
    manifest = sink.finish({}, {})
    sink.close()
    assert system.snapshot() == before
    assert system.counts["write"] == 0
    assert orjson.loads(system.read(MANIFEST)) == orjson.loads(orjson.dumps(manifest))


def test_f79_more_courses_later():
    """A later run with more ids appends them, publishes again and is named in the manifest."""
    system = finished()
    run(system, IDS + MORE, run_id="later", passing=False)
    check(system, IDS + MORE, missing=("c4",))
    assert orjson.loads(system.read(MANIFEST))["runs"] == ["r", "later"]


def test_one_sink_may_finish_twice():
    """A commit of a course after finish opens the output again, in the same run too."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    commit_to(sink, [outcome_of("c1")])
    sink.finish({})
    commit_to(sink, [outcome_of("c4"), outcome_of("c7")])
    assert set(system.names) == {JOURNAL, OUT, MANIFEST}
    commit_to(sink, [outcome_of("c5")])
    assert set(system.names) == {JOURNAL, PART}
    sink.finish({})
    sink.close()
    check(system, ["c1", "c4", "c5", "c7"])


def test_a_run_in_vain_leaves_the_output_published():
    """A later run that brings only failures and is stopped leaves OUT and its manifest in place."""
    system = finished()
    before = system.snapshot()
    for _ in range(2):  # a dead server, twice
        sink = sink_on(system, run_id="later")
        sink.open()
        commit_to(sink, [outcome_of(course_id) for course_id in VAIN])
        sink.note({"done": 4})
        sink.close()
        assert set(system.names) == {OUT, JOURNAL, FAILED, MANIFEST}
        assert {path: system.read(path) for path in (OUT, MANIFEST)} == {
            path: before[path] for path in (OUT, MANIFEST)
        }
        assert len(system.read(FAILED).splitlines()) == 6
    run(system, IDS + VAIN, run_id="last")
    check(system, IDS + VAIN, missing=("c4", "c7", *VAIN))
    manifest = orjson.loads(system.read(MANIFEST))
    assert manifest["courses"] == {"fetched": 9, "refused": 1, "failed": 5}
    assert manifest["runs"] == ["r", "later", "later", "last"]
    assert system.read(OUT) == before[OUT]


def test_a_course_without_rows_reopens_the_output():
    """A fetched course without rows changes the manifest, which goes before it can be wrong."""
    system = finished(["c1"])
    sink = sink_on(system)
    sink.open()
    commit_to(sink, [outcome_of("c0")])
    assert set(system.names) == {JOURNAL, PART}
    assert sink.finish({}).empty_courses == ("c0",)
    sink.close()


IN_VAIN = (IDS + VAIN, ("c4", "c7", *VAIN))
"""Ids of a later run that brings only failures, and those that are without rows then."""
LATE_ROWS = (VAIN + IDS + MORE, ("c4", "c7", *VAIN))
"""Ids of one whose first commit holds only failures, and whose others hold rows too."""


def stands(system, published, *, always):
    """OUT is the published file, or, where it may be gone, all of it is in the data to come."""
    check_manifest(system)
    if always:
        assert system.read(OUT) == published
    else:
        assert system.read(OUT if OUT in system.names else PART).startswith(published)


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("action", ["kill", "torn", *ERRORS])
@pytest.mark.parametrize("plan", [IN_VAIN, LATE_ROWS])
def test_f78_ended_in_a_run_of_failures(plan, action, durability):
    """A run of failures that ends at any call, twice, leaves OUT published; the next finishes."""
    ids, missing = plan
    options = {"run_id": "later", "durability": durability}
    original = finished()
    published = original.read(OUT)
    for number in range(1, calls_of(copy.deepcopy(original), ids, **options)["any"] + 1):
        system = copy.deepcopy(original)
        for call in (number, number // 2 + 1):
            run_until_fault(system, {("any", call): action}, ids, **options)
            stands(system, published, always=plan is IN_VAIN)
        run(system, ids, **options)
        check(system, ids, missing=missing)


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("plan", [IN_VAIN, LATE_ROWS])
def test_f62_power_lost_in_a_run_of_failures(plan, durability):
    """So does one that a power cut ends, and then another in the recovery."""
    ids, missing = plan
    options = {"run_id": "later", "durability": durability}
    original = finished()
    published = original.read(OUT)
    calls = calls_of(copy.deepcopy(original), ids, **options)["any"]
    for seed in range(100):
        rng = random.Random(seed)
        system = copy.deepcopy(original)
        for _ in range(2):
            system.restart({("any", rng.randint(1, calls)): "torn"})
            with contextlib.suppress(Killed):
                run(system, ids, **options)
            system.lose_power(rng)
            stands(system, published, always=plan is IN_VAIN)
        run(system, ids, **options)
        check(system, ids, missing=missing)


def test_f62_refusals_beside_a_published_output_are_made_safe():
    """What a kill left of them in the journal is synced by the next run before it counts on it."""
    system = finished(["c1", "c2"])
    system.restart({("fsync", 3): "kill"})  # two at opening: what follows them is not synced
    with pytest.raises(Killed):
        run(system, ["c1", "c4"], run_id="later", durability="none")
    system.restart()
    sink = sink_on(system, run_id="last")
    assert "c4" in sink.open().settled
    system.lose_power(Unlucky())
    assert "c4" in settled_on(system)


def test_f69_published_file_changed_after_a_run_in_vain():
    """A published file is still held against its journal when that ends in failures."""
    system = finished()
    run_until_fault(system, {("replace", 1): "kill"}, IDS + VAIN)
    system.put(OUT, system.read(OUT) + b"more\n")
    explain(system, "is not what its journal says")


def test_published_file_replaced_in_a_run_in_vain():
    """A run of failures gives no manifest to a file that another program put in OUT's place."""
    system = finished()
    manifest = system.read(MANIFEST)
    sink = sink_on(system)
    sink.open()
    commit_to(sink, [outcome_of("x1")])
    system.put(OUT, b"theirs\n")
    with pytest.raises(OutputError, match="replaced by another program"):
        sink.finish({})
    sink.close()
    assert system.read(MANIFEST) == manifest


def test_a_refusal_outlasts_a_passing_failure():
    """A refused course that is retried while the server is dead stays settled, reason and all."""
    system = finished()
    sink = sink_on(system, run_id="later")
    ledger = sink.open()
    commit_to(sink, [Failed("c4", Transient("connect", "connection refused"), attempts=6)])
    assert ledger.failures() == {"unknown-content-item": 1, "timeout": 1}
    sink.close()
    assert "c4" in settled_on(system)
    assert orjson.loads(system.read(FAILED).splitlines()[0])["kind"] == "unknown-content-item"


@pytest.mark.parametrize("action", ["kill", "torn"])
def test_f78_killed_while_reopening(action):
    """A kill at any call of a run that extends a finished output is made good by the next run."""
    options = {"run_id": "later", "passing": False}
    calls = calls_of(finished(), IDS + MORE, **options)["any"]
    for number in range(1, calls + 1):
        system = finished()
        assert not run_until_fault(system, {("any", number): action}, IDS + MORE, **options)
        run_until_fault(system, {("any", number // 2 + 1): action}, IDS + MORE, **options)
        run(system, IDS + MORE, **options)
        check(system, IDS + MORE, missing=("c4",))


@pytest.mark.parametrize("durability", DURABILITIES)
def test_f62_power_lost_while_reopening(durability):
    """So is a power cut there; and the committed rows of the first run are never fetched again."""
    options = {"run_id": "later", "passing": False, "durability": durability}
    calls = calls_of(finished(), IDS + MORE, **options)["any"]
    for seed in range(150):
        rng = random.Random(seed)
        system = finished()
        system.restart({("any", rng.randint(1, calls)): "torn"})
        with contextlib.suppress(Killed):
            run(system, IDS + MORE, **options)
        system.lose_power(rng)
        check_manifest(system)
        assert len(settled_in(replay([system.read(JOURNAL)]))) >= 10
        run(system, IDS + MORE, **options)
        check(system, IDS + MORE, missing=("c4",))


def test_a_failed_course_is_fetched_later():
    """A course that failed in passing is asked again, and then leaves the failed file."""
    system = finished()
    run(system, passing=False)
    check(system, missing=("c4",))


def test_f62_finished_is_on_disk():
    """When finish returns, no power cut takes anything of the output away."""
    for seed in range(40):
        system = finished()
        system.lose_power(random.Random(seed))
        check(system)


def test_whoever_finishes_is_named():
    """A run that only publishes what another committed is named in the manifest."""
    system = unfinished()
    run(system, IDS[:6], run_id="later")
    assert orjson.loads(system.read(MANIFEST))["runs"] == ["r", "later"]


def test_published_file_replaced_during_the_run():
    """An output that another program replaces before it is extended is left to that program."""
    system = finished()
    sink = sink_on(system)
    sink.open()
    system.put(OUT, b"theirs\n")
    with pytest.raises(OutputError, match="replaced by another program"):
        commit_to(sink, [outcome_of("c7", passing=False)])
    sink.close()
    assert system.read(OUT) == b"theirs\n"


def test_killed_before_nothing_failed():
    """A kill while the failed file is written leaves no piece of it once nothing failed."""
    ids = ["c1", "c7"]
    for number in range(1, calls_of(FakeOS(), ids)["any"] + 1):
        system = FakeOS()
        run_until_fault(system, {("any", number): "kill"}, ids)
        run(system, ids, passing=False)
        assert set(system.names) == {OUT, JOURNAL, MANIFEST}


def test_nothing_failed_leaves_no_failed_file():
    """When no course failed any more, the file of failed courses goes."""
    system = finished(["c1", "c7"])
    assert FAILED in system.names
    run(system, ["c1", "c7"], passing=False)
    assert FAILED not in system.names


def test_stopped_early_lists_the_failed():
    """A run that is closed before its end leaves the failed file and no output."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    commit_to(sink, [outcome_of("c4"), outcome_of("c5")])
    sink.close()
    sink.close()
    assert set(system.names) == {JOURNAL, PART, FAILED}
    run(system)
    check(system)


# Overwriting


@pytest.mark.parametrize("action", ["kill", "torn"])
def test_f78_killed_while_overwriting(action):
    """Whenever an overwriting run is killed, the old output stands whole until the new one does."""
    old = finished(MORE, run_id="old")
    published = old.read(OUT)
    calls = calls_of(old, run_id="new", overwrite=True)["any"]
    check(old)
    for number in range(1, calls + 1):
        system = finished(MORE, run_id="old")
        options = {"run_id": "new", "overwrite": True}
        run_until_fault(system, {("any", number): action}, **options)
        if system.read(OUT) != published:
            assert replay([system.read(JOURNAL)]).done
        header = replay([system.read(JOURNAL)]).header
        if header is not None and header.run == "new":
            options = {"run_id": "newer"}  # resumes without being told to overwrite
        run(system, **options)
        check(system)


def test_f62_power_lost_while_overwriting():
    """A power cut in an overwriting run never mixes old rows with new ones."""
    calls = calls_of(finished(MORE), overwrite=True)["any"]
    for seed in range(300):
        rng = random.Random(seed)
        system = finished(MORE, run_id="old")
        system.restart({("any", rng.randint(1, calls)): "torn"})
        with contextlib.suppress(Killed):
            run(system, run_id="new", overwrite=True, durability=rng.choice(DURABILITIES))
        system.lose_power(rng)
        header = replay([system.read(JOURNAL)]).header
        resumes = header is not None and header.run == "new"
        run(system, overwrite=not resumes)
        check(system)


def test_f62_old_frames_never_meet_new_data():
    """A power cut right at the start of an overwriting run leaves no mixture of two journals."""
    for seed in range(600):
        rng = random.Random(seed)
        system = FakeOS()
        system.put(OUT, b"older\n")
        run(system, MORE, run_id="old", overwrite=True)
        system.restart({("any", rng.randint(8, 24)): "kill"})
        with contextlib.suppress(Killed):
            run(system, run_id="new", overwrite=True)
        system.lose_power(rng)
        check_manifest(system)
        header = replay([system.read(JOURNAL)]).header
        run(system, run_id="new", overwrite=header is None or header.run == "old")
        check(system)


def test_overwrite_keeps_the_locked_inode():
    """Overwriting empties the journal in place, since the lock is on its inode."""
    system = finished(MORE)
    number = system.names[JOURNAL]
    run(system, overwrite=True)
    assert system.names[JOURNAL] == number


# What is refused


def explain(system, match, error=OutputError, **options):
    before = system.snapshot()
    with pytest.raises(error, match=match):
        run(system, **options)
    assert system.snapshot() == before
    assert not system.fds


TORN_HEADER = encode(Header("r", FINGERPRINT, 0.0, "1.0"))[:40]


@pytest.mark.parametrize("path", [OUT, PART])
@pytest.mark.parametrize("journal", [None, b"", TORN_HEADER])
def test_f70_data_without_journal(path, journal):
    """Data that no journal explains are refused untouched, and replaced only by --overwrite."""
    system = FakeOS()
    system.put(path, b"precious\n")
    if journal is not None:
        system.put(JOURNAL, journal)
    explain(system, "--overwrite")
    run(system, overwrite=True)
    check(system)


@pytest.mark.parametrize("path", [OUT, PART])
def test_empty_files_are_no_data(path):
    """An empty file in the place of the output is taken over."""
    system = FakeOS()
    system.put(path, b"")
    assert not run_until_fault(system, {("any", 40): "kill"})
    run(system)
    check(system)


def test_f67_torn_header_is_begun_again():
    """A journal whose header never got whole, with no data, is begun again."""
    system = FakeOS()
    system.put(JOURNAL, bytes(300))
    run(system)
    check(system)


@pytest.mark.parametrize("path", [JOURNAL, FAILED, MANIFEST])
@pytest.mark.parametrize("times", [1, 10_000])
def test_f124_foreign_companions(path, times):
    """Another program's file at a companion's name is not touched, even when told to overwrite."""
    for overwrite in (False, True):
        system = FakeOS()
        system.put(path, b"my diary\n" * times)
        explain(system, "was not made by bulkfetch: move it away", overwrite=overwrite)
    del system.names[path]
    run(system)
    check(system)


def test_a_large_damaged_journal():
    """A journal whose header is damaged is not emptied."""
    system = FakeOS()
    damaged = bytearray(finished().read(JOURNAL))
    damaged[20] ^= 1
    system.put(JOURNAL, bytes(damaged) * 40)
    explain(system, "a journal that cannot be read: move it away")


def test_f71_another_endpoint():
    """An output begun with another endpoint is refused; both are named, with the remedy."""
    other = {**FINGERPRINT, "endpoint": "other.example"}
    explain(
        finished(),
        "endpoint 'lms.example', this run has 'other.example': .*--overwrite",
        ConfigurationError,
        fingerprint=other,
    )


def test_f71_another_format():
    """An output of another format is refused, whatever its journal holds beyond the header."""
    system = FakeOS()
    header = encode(Header("r", FINGERPRINT, 0.0, "9.0", format=FORMAT + 1))
    system.put(JOURNAL, header + b"something new\n")
    system.put(PART, b"rows")
    explain(system, r"format 3 \(bulkfetch 9.0\)", ConfigurationError)


def test_f69_data_gone():
    """A journal whose data were moved away is refused: what they were is not fetched in silence."""
    for system in (finished(), unfinished()):
        system.names.pop(OUT, None) or system.names.pop(PART)
        explain(system, "bring them back")


def test_output_made_by_another():
    """A file that appears at the output's name while a run is unfinished is not overwritten."""
    system = unfinished()
    system.put(OUT, b"theirs\n")
    explain(system, "move it away")
    del system.names[OUT]
    sink = sink_on(system)
    sink.open()
    system.put(OUT, b"theirs\n")
    with pytest.raises(OutputError, match="made by another program"):
        sink.finish({})
    sink.close()
    assert system.read(OUT) == b"theirs\n"
    del system.names[OUT]
    run(system)
    check(system)


@pytest.mark.parametrize("path", [JOURNAL, PART])
def test_files_replaced_during_the_run(path):
    """A run whose files were replaced by another program publishes nothing."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    system.put(path, b"")
    with pytest.raises(OutputError, match="replaced by another program"):
        sink.finish({})
    assert OUT not in system.names


@pytest.mark.parametrize("change", [b"", b"more\n", b"flip"])
def test_f69_published_file_changed(change):
    """A published file that is not what its journal says is refused, never cut."""
    system = finished()
    data = system.read(OUT)
    changed = b"X" + data[1:] if change == b"flip" else data + change if change else data[:-1]
    system.put(OUT, changed)
    explain(system, "is not what its journal says")


def test_f68_f69_flipped_bits_of_unfinished_data():
    """A flipped bit in unfinished data or their journal costs a fetch, never a wrong row."""
    rng = random.Random(7)
    for _ in range(60):
        system = unfinished()
        first = system.read(JOURNAL).index(b"\n") + 1
        path, least = rng.choice([(PART, 0), (JOURNAL, first)])
        system.flip(path, rng.randrange(8 * least, 8 * len(system.read(path))))
        run(system)
        check(system)


def test_f69_data_shorter_than_the_journal():
    """Data cut at any byte are brought back to the last commit that is whole."""
    system = unfinished()
    whole, journal = system.read(PART), system.read(JOURNAL)
    for size in range(len(whole)):
        system = FakeOS()
        system.put(JOURNAL, journal)
        system.put(PART, whole[:size])
        run(system)
        check(system)


# After an error


def test_f65_dead_after_an_error():
    """After an error the sink writes nothing more: not the journal, not at close."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    commit_to(sink, [outcome_of("c4")])
    system.plan = {("fdatasync", system.counts["fdatasync"] + 1): errno.EIO}
    with pytest.raises(OutputError, match=r"sync /d/out.ndjson.part: the disk reports an error"):
        commit_to(sink, [outcome_of("c5")])
    writes, syncs = system.counts["write"], system.counts["fdatasync"]
    for act in (lambda: commit_to(sink, [outcome_of("c1")]), lambda: sink.note({})):
        with pytest.raises(OutputError):
            act()
    with pytest.raises(OutputError, match="run the same command again"):
        sink.finish({})
    sink.close()
    assert system.counts["write"] == writes
    assert system.counts["fdatasync"] == syncs
    assert not system.fds
    assert not system.locks
    run(system)
    check(system)


def test_rows_that_break_in_mid_commit():
    """An error that comes out of the rows themselves also ends the sink, before any frame."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    closed = outcome_of("c5")
    closed.rows.close()
    with pytest.raises(ValueError, match="closed"):
        commit_to(sink, [outcome_of("c1"), closed])
    with pytest.raises(OutputError, match="given up after an error"):
        commit_to(sink, [outcome_of("c1")])
    sink.close()
    system.restart()
    run(system)
    check(system)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.ENOSPC, r"write \d+ bytes to /d/out.ndjson.part: the disk is full: free some space"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENOLCK, "No locks available: set it right"),
    ],
)
def test_f63_f64_words_for_errors(error, words):
    """An error says what failed, on which file, and what to do."""
    system = FakeOS()
    sink = sink_on(system)
    sink.open()
    system.plan = {("write", system.counts["write"] + 1): error}
    with pytest.raises(OutputError, match=words) as caught:
        commit_to(sink, [outcome_of("c5")])
    assert caught.value.exit_code == 6
    sink.close()


@pytest.mark.parametrize(("error", "ended"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_folders_that_cannot_be_synced(error, ended):
    """A file system that has no sync of folders is used all the same; one that fails is not."""
    system = FakeOS()
    assert run_until_fault(system, {("fsync", 3): error}) is ended
    run(system)
    check(system)


def test_journal_grows_by_whole_frames():
    """What a run journals reads back as its frames in their order."""
    system = finished(["c1", "c4"])
    run(system, ["c1", "c4", "c5"], run_id="later")
    kinds = [type(frame).__name__ for _, frame in walk([system.read(JOURNAL)])]
    assert kinds == [
        "Header",
        "Committed",
        "Snapshot",
        "Done",
        "Resume",
        "Committed",
        "Snapshot",
        "Done",
    ]


# On the real file system


def real_run(path, ids=IDS, **options):
    from bulkfetch._output.journaled import POSIX

    return run(POSIX, ids, path=path, **options)


def test_f79_f87_real_files(tmp_path):
    """On a real disk the run, its resumption and its files are what they are on the fake one."""
    path = tmp_path / "out.ndjson"
    before = os.umask(0)
    try:
        real_run(path)
    finally:
        os.umask(before)
    manifest = real_run(path, IDS + MORE)
    assert manifest.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(
        line for i in IDS + MORE if i not in {"c4", "c7"} for line in rows_of(i)
    )
    for name in ("out.ndjson", "out.ndjson.journal", "out.ndjson.manifest.json.tmp"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)
    real_run(path, [*IDS, *MORE, "d5"])
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}
    assert len(modes) == 4


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_f80_compressed_members(tmp_path, suffix):
    """Compressed outputs hold a member per commit, resume, and open with the standard tools."""
    path = tmp_path / f"out.ndjson{suffix}"
    with contextlib.closing(sink_on_real(path)) as sink:
        sink.open()
        commit_to(sink, [outcome_of("c1"), outcome_of("c2")])
        commit_to(sink, [outcome_of("c3")])
    with path.with_name(f"{path.name}.part").open("ab") as torn:
        torn.write(b"half a member")
    real_run(path)
    expected = sorted(line for i in IDS if i not in {"c4", "c7"} for line in rows_of(i))
    assert sorted(unpack(path).splitlines(keepends=True)) == expected
    again = tmp_path / f"again.ndjson{suffix}"
    with contextlib.closing(sink_on_real(again)) as sink:
        sink.open()
        commit_to(sink, [outcome_of("c1"), outcome_of("c2")])
        sink.finish({})
    assert path.read_bytes().startswith(again.read_bytes())


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_nothing_at_all(tmp_path, suffix):
    """An export without any row is an empty file that the standard tools accept."""
    path = tmp_path / f"out.ndjson{suffix}"
    manifest = real_run(path, ["c0", "c4"])
    assert unpack(path) == b""
    assert manifest.rows == 0
    assert manifest.bytes == path.stat().st_size


def sink_on_real(path):
    return JournaledFile(path, fingerprint=FINGERPRINT, run_id="r")


def unpack(path):
    data = path.read_bytes()
    if path.suffix == ".gz":
        unpacked, tool = gzip.decompress(data), "gzip"
    elif path.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            unpacked, tool = reader.read(), "zstd"
    else:
        return data
    if shutil.which(tool):
        done = subprocess.run([tool, "-dc", path], capture_output=True, check=True)
        assert done.stdout == unpacked
    return unpacked


HOLD = """
import sys
from bulkfetch._output.journaled import JournaledFile
JournaledFile(sys.argv[1], fingerprint={}, run_id="other").open()
print("held", flush=True)
sys.stdin.read()
"""


def test_f72_f73_one_run_at_a_time(tmp_path):
    """A second run leaves at once, and starts when the holder was killed."""
    path = tmp_path / "out.ndjson"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        sink = JournaledFile(path, fingerprint={}, run_id="r")
        with pytest.raises(OutputLocked, match=r"another run holds .*out\.ndjson"):
            sink.open()
        holder.kill()
        holder.wait(10)
    sink = JournaledFile(path, fingerprint={}, run_id="r")
    sink.open()
    other = JournaledFile(path, fingerprint={}, run_id="r", overwrite=True)
    with pytest.raises(OutputLocked):
        other.open()
    commit_to(sink, [outcome_of("c1")])
    assert sink.finish({}).rows == 2
    sink.close()


def make_folder(path):
    path.mkdir()


def make_link(path):
    path.with_name("real").write_bytes(b"")
    path.symlink_to("real")


def make_dangling(path):
    path.symlink_to("nowhere")


def make_fifo(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_folder, "is a folder: name a file"),
        (make_link, "is a symbolic link: name the file"),
        (make_dangling, "is a symbolic link: name the file"),
        (make_fifo, "is no regular file"),
    ],
)
def test_f74_targets(tmp_path, make, words):
    """A target that is no plain file is refused in words, even when told to overwrite."""
    path = tmp_path / "out.ndjson"
    make(path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=words):
            real_run(path, overwrite=overwrite)


@pytest.mark.parametrize("suffix", [".part", ".journal", ".manifest.json", ".failed.ndjson.tmp"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_folder, "is a folder: move it away"),
        (make_link, "is a symbolic link: move it away"),
        (make_dangling, "is a symbolic link: move it away"),
        (make_fifo, "is no regular file: move it away"),
    ],
)
def test_no_file_beside_the_target(tmp_path, make, words, suffix):
    """So is what stands at another of its names; moved away, nothing hinders the run."""
    path, beside = tmp_path / "out.ndjson", tmp_path / f"out.ndjson{suffix}"
    make(beside)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=f"{beside} {words}"):
            real_run(path, overwrite=overwrite)
    beside.rename(tmp_path / "away")
    real_run(path)


def test_f74_part_is_a_link(tmp_path):
    """A link in the place of the data is not followed, even when told to overwrite."""
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (tmp_path / "out.ndjson.part").symlink_to(target)
    with pytest.raises(OutputError, match=r"out\.ndjson\.part is a symbolic link: move it away"):
        real_run(tmp_path / "out.ndjson", overwrite=True)
    assert target.read_bytes() == b"precious"


def test_folder_is_a_link(tmp_path):
    """A folder that is reached through a link is as good as any."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert real_run(tmp_path / "link" / "out.ndjson").rows
    assert (tmp_path / "real" / "out.ndjson").exists()


def test_f74_no_such_folder(tmp_path):
    """A missing folder is named, with the remedy."""
    with pytest.raises(OutputError, match=r"nowhere/out.*create the folder first"):
        real_run(tmp_path / "nowhere" / "out.ndjson")


def test_name_too_long(tmp_path):
    """A name without room for the companions is refused before the run, not at its end."""
    with pytest.raises(OutputError, match="the name is too long"):
        real_run(tmp_path / ("x" * 245))
    assert not list(tmp_path.iterdir())


def test_a_journal_of_a_run_that_got_nothing_does_not_block_a_corrected_endpoint(tmp_path):
    """After a mistyped endpoint the corrected command begins anew; one that got rows is kept."""
    path = tmp_path / "out.ndjson"

    def sink(host):
        return JournaledFile(path, fingerprint={"endpoint": host}, run_id=host)

    mistyped = sink("wrong")
    mistyped.open()
    commit_to(mistyped, [Failed("1", RunRefused("html-page", "a login page"))])
    mistyped.note({"padding": "x" * 20_000})
    mistyped.close()
    corrected = sink("right")
    assert not corrected.open().failures()
    rows = Spool()
    rows.append(b"{}\n", 1)
    commit_to(corrected, [Fetched("1", rows)])
    corrected.close()
    with pytest.raises(ConfigurationError, match="was begun with endpoint 'right'"):
        sink("wrong").open()
    assert path.with_name("out.ndjson.part").read_bytes() == b"{}\n"
