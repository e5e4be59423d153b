"""From ids to a finished file: every row once, whatever ended the run before."""

import asyncio
import contextlib
import errno
import gzip
import json
import os
import threading
from collections import Counter

import pytest
import zstandard
from answers import GOOD, TOKEN, fault, options, scripted, statuses, users

from bulkfetch import (
    Commit,
    ConfigurationError,
    Hooks,
    Interrupted,
    Limiter,
    Monitor,
    OutputError,
    OutputLocked,
    ServerRefuses,
    StoppedEarly,
    TemporarilyUnavailable,
    export,
)
from bulkfetch._output.file import POSIX
from bulkfetch._output.inspect import read_ledger
from bulkfetch._watch.progress import figures
from bulkfetch.testing import ScriptedReply, ScriptedTransport, SimulatedServer, Simulation

BUSY = ScriptedReply(status=503)
UNKNOWN = scripted(fault("Unknown content item"), status=500)
MANY = [f"c{number}" for number in range(60)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.ndjson"


def rows_of(data):
    """The rows of a file by course, in its order."""
    found = {}
    for line in data.splitlines():
        row = json.loads(line)
        assert list(row) == ["contentItemId", "userId", "status", "progress"]
        found.setdefault(row["contentItemId"], []).append(
            (row["userId"], row["status"], row["progress"])
        )
    return found


def by_course(**replies):
    """Named courses have their replies in turn, all others rows of their own."""
    turns = Counter()

    def answer(request):
        course = request.course_id
        turns[course] += 1
        if course not in replies:
            return scripted(statuses(users(course, 3)))
        return replies[course][min(turns[course], len(replies[course])) - 1]

    return ScriptedTransport(answer)


class Gate:
    """A `sleep` for a transport: requests beyond the first `free` wait until it is opened."""

    def __init__(self, free=0):
        self.opened = asyncio.Event()
        self.asked = 0
        self.free = free
        self.reached = asyncio.Event()

    async def __call__(self, seconds):
        self.asked += 1
        if self.asked > self.free:
            self.reached.set()
            await self.opened.wait()


# A whole run


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("durability", ["batch", "course", "none"])
async def test_by_value(suffix, durability, tmp_path):
    """Under faults of every kind the file holds the server's rows, once each."""
    out = tmp_path / f"out.ndjson{suffix}"
    simulation = Simulation(
        courses=50,
        unknown=3,
        denied=2,
        rows=(0, 30),
        share_503=0.05,
        share_reset=0.1,
        share_cut=0.1,
    )
    async with SimulatedServer(simulation) as server:
        settings = options(server.endpoint, token=server.token, durability=durability, retries=20)
        summary = await export(server.course_ids, out, settings)
        expected = server.expected()
        refused = {*server.unknown_ids, *server.denied_ids}
    unpack = {"": bytes, ".gz": gzip.decompress, ".zst": unzstd}[suffix]
    assert rows_of(unpack(out.read_bytes())) == {
        course: [(row["userId"], row["status"], row["progress"]) for row in rows]
        for course, rows in expected.items()
        if rows
    }
    assert summary.output_rows == sum(map(len, expected.values()))
    assert (summary.courses, summary.fetched, summary.failed) == (55, 50, 5)
    failed = (tmp_path / f"{out.name}.failed.ndjson").read_bytes().splitlines()
    assert {json.loads(line)["contentItemId"] for line in failed} == refused


def unzstd(data):
    return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()


@pytest.mark.parametrize("concurrency", [1, 4, 16])
async def test_ordered_gives_the_same_bytes(concurrency, out):
    """With `ordered` the file does not depend on concurrency, delays or retries."""
    transport = by_course(c1=[BUSY, scripted(statuses(users("c1", 3)))], c2=[UNKNOWN])
    await export(MANY, out, options(ordered=True, concurrency=concurrency), transport=transport)
    plain = by_course(c2=[UNKNOWN])
    alone = out.with_name("alone")
    await export(MANY, alone, options(ordered=True, concurrency=1), transport=plain)
    assert out.read_bytes() == alone.read_bytes()
    assert list(rows_of(out.read_bytes())) == [course for course in MANY if course != "c2"]


async def test_the_summary_speaks_of_the_whole_output(out):
    """A second run counts its own work, and the output as it is now."""
    transport = by_course(c1=[BUSY], c2=[UNKNOWN])
    first = await export(["c0", "c1", "c2"], out, options(retries=1), transport=transport)
    assert (first.courses, first.output_courses, first.output_rows) == (3, 1, 3)
    assert first.failures == {"http-503": 1, "unknown-content-item": 1}
    again = await export(["c0", "c1", "c2", "c3"], out, options(), transport=by_course())
    assert (again.courses, again.settled, again.requests) == (2, 2, 2)
    assert (again.output_courses, again.output_rows) == (3, 9)
    assert again.failures == {"unknown-content-item": 1}


async def test_nothing_to_do(out):
    """An empty list makes an empty file."""
    transport = ScriptedTransport([])
    summary = await export([], out, options(), transport=transport)
    assert (summary.courses, summary.output_rows) == (0, 0)
    assert out.read_bytes() == b""


async def test_refused_courses_are_fetched_again_when_asked(out):
    """`again` names courses that the server refused; those with rows never come twice."""
    ids = ["c0", "c1", "c2"]
    await export(ids, out, options(), transport=by_course(c1=[UNKNOWN], c2=[UNKNOWN]))
    transport = by_course()
    summary = await export(ids, out, options(), transport=transport, again={"c0", "c1"})
    assert [request.course_id for request in transport.requests] == ["c1"]
    assert summary.failures == {"unknown-content-item": 1}
    assert set(rows_of(out.read_bytes())) == {"c0", "c1"}


async def test_overwrite_begins_anew(out):
    """Everything is fetched again, and the file holds it once."""
    await export(MANY, out, options(), transport=by_course())
    transport = by_course()
    summary = await export(MANY[:5], out, options(), transport=transport, overwrite=True)
    assert (len(transport.requests), summary.output_courses) == (5, 5)
    assert set(rows_of(out.read_bytes())) == set(MANY[:5])


async def test_large_courses_go_through_files(out, tmp_path, monkeypatch):
    """Rows beyond a megabyte wait beside the output, without a name, and are all written."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    rows = users("large", 30_000)
    seen = []
    hooks = Hooks(outcome=lambda _: seen.append(sorted(path.name for path in tmp_path.iterdir())))
    transport = ScriptedTransport([scripted(statuses(rows))])
    await export(["c1", "c2"], out, options(), transport=transport, hooks=hooks)
    assert rows_of(out.read_bytes()) == {"c1": rows, "c2": rows}
    assert seen == [["out.ndjson.journal", "out.ndjson.part"]] * 2


async def test_stamped_rows(out):
    """Rows say when and by which run they were fetched; the manifest names the same run."""
    await export(["c1"], out, options(stamp=True), transport=by_course())
    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    manifest = json.loads(out.with_name("out.ndjson.manifest.json").read_bytes())
    assert {row["_run_id"] for row in rows} == {manifest["runs"][-1]}
    assert all(row["_fetched_at"].endswith("Z") for row in rows)


async def test_no_secret_in_any_file(out, tmp_path):
    """Neither token nor client secret nor token command is written anywhere."""
    await export(["c0", "c1"], out, options(), transport=by_course(c1=[UNKNOWN]))
    files = list(tmp_path.iterdir())
    assert len(files) == 4
    assert all(TOKEN.encode() not in path.read_bytes() for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


# Ended early


@pytest.mark.parametrize("after", [0, 1, 7, 30, 59])
async def test_cancelled_and_resumed(after, out):
    """However far it came, the next run fetches what is missing and no row comes twice."""
    gate = Gate(free=after)
    first = by_course()
    first._sleep = gate
    committed = asyncio.Semaphore(0)
    hooks = Hooks(commit=lambda commit: [committed.release() for _ in range(commit.courses)])
    settings = options(concurrency=3, durability="course")
    task = asyncio.create_task(export(MANY, out, settings, transport=first, hooks=hooks))
    for _ in range(after):
        await committed.acquire()
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not out.exists()
    second = by_course()
    summary = await export(MANY, out, options(), transport=second)
    assert rows_of(out.read_bytes()) == {course: users(course, 3) for course in MANY}
    assert summary.settled == 60 - len(second.requests)
    assert summary.settled == after


@pytest.mark.parametrize("turns", range(0, 60, 6))
async def test_cancelled_at_any_moment(turns, out):
    """Also in the middle of a commit: no lock, no thread, no half a course stays behind."""
    task = asyncio.create_task(export(MANY, out, options(), transport=by_course()))
    for _ in range(turns):
        await asyncio.sleep(0.0005)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await export(MANY, out, options(), transport=by_course())
    assert rows_of(out.read_bytes()) == {course: users(course, 3) for course in MANY}


@pytest.mark.parametrize(
    ("replies", "changes", "error"),
    [
        ({"c9": [UNKNOWN]}, {"fail_fast": True}, StoppedEarly),
        ({course: [UNKNOWN] for course in MANY[9:]}, {"max_errors": "3"}, StoppedEarly),
        (BUSY, {"patience": 0}, TemporarilyUnavailable),
        (ScriptedReply(status=404), {"refusals": 3, "patience": 0}, ServerRefuses),
    ],
)
async def test_what_was_fetched_before_a_stop_is_kept(replies, changes, error, out):
    """The run's error comes out after the commit; the same call goes on from there."""
    if isinstance(replies, ScriptedReply):  # to whatever is asked, once nine courses were fetched
        first = ScriptedTransport(
            [*[scripted(statuses(users(course, 3))) for course in MANY[:9]], replies]
        )
    else:
        first = by_course(**replies)
    with pytest.raises(error):
        await export(MANY, out, options(concurrency=2, **changes), transport=first)
    assert not out.exists()
    transport = by_course()
    summary = await export(MANY, out, options(), transport=transport)
    refused = set(summary.failures)
    assert refused <= {"unknown-content-item"}
    missing = {course for course in MANY if course not in rows_of(out.read_bytes())}
    assert len(missing) == summary.failed
    assert not {request.course_id for request in transport.requests} & set(MANY[:7])


async def test_a_monitor_stops_in_good_order(out):
    """What is in flight is finished and committed, then the error comes out."""
    gate = Gate(free=10)
    transport = by_course()
    transport._sleep = gate
    monitor = Monitor()
    assert monitor.state is None
    task = asyncio.create_task(
        export(MANY, out, options(concurrency=3), transport=transport, monitor=monitor)
    )
    await gate.reached.wait()
    assert monitor.state.total == 60
    monitor.stop()
    monitor.stop()
    gate.opened.set()
    with pytest.raises(Interrupted) as caught:
        await task
    assert caught.value.exit_code == 130
    asked = len(transport.requests)
    assert asked < 60
    assert monitor.state.courses == asked
    again = by_course()
    summary = await export(MANY, out, options(), transport=again)
    assert summary.settled == asked
    assert len(again.requests) == 60 - asked


async def test_a_monitor_stops_with_an_error_of_ones_own(out):
    """What is handed in comes out; also when it is handed in before the run begins."""

    class Mine(Exception):
        pass

    monitor, error = Monitor(), Mine()
    monitor.stop(error)
    transport = by_course()
    with pytest.raises(Mine) as caught:
        await export(MANY, out, options(), transport=transport, monitor=monitor)
    assert caught.value is error
    assert transport.requests == []


ENDS = [
    KeyboardInterrupt(),
    SystemExit(3),
    asyncio.CancelledError(),
    StopAsyncIteration(),
    Interrupted(),
]


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["loop", "thread"])
def test_f128_a_monitor_stops_from_any_thread_with_any_exception(out, error, place):
    """What was in flight is committed, nothing is published, and the very same error comes out."""
    monitor = Monitor()
    transport = by_course()

    def stop(_):
        if place == "loop":
            monitor.stop(error)
        else:
            thread = threading.Thread(target=monitor.stop, args=[error])
            thread.start()
            thread.join()

    async def main():
        try:
            hooks = Hooks(attempt=stop)
            settings = options(concurrency=1)
            await export(MANY, out, settings, transport=transport, hooks=hooks, monitor=monitor)
        except BaseException as caught:  # noqa: BLE001 - which of them is what is asked
            return caught

    with asyncio.Runner() as runner:
        assert runner.run(main()) is error
    assert not out.exists()
    asked = len(transport.requests)
    assert 0 < asked < 60
    settled = asyncio.run(export(MANY, out, options(), transport=by_course())).settled
    assert settled == asked


async def test_f128_a_monitor_may_be_stopped_when_all_is_over(out):
    """Too late is no error, also where the event loop is closed."""
    monitor = Monitor()
    await export(MANY, out, options(), transport=by_course(), monitor=monitor)
    monitor.stop()
    late = Monitor()
    task = export(MANY, out, options(), transport=by_course(), monitor=late, overwrite=True)
    await asyncio.to_thread(asyncio.run, task)
    late.stop()


async def test_f117_an_output_whose_name_is_no_text_costs_no_request(tmp_path):
    """It could not be told in the manifest, at the very end."""
    transport = by_course()
    with pytest.raises(ConfigurationError, match="UTF-8"):
        await export(MANY, tmp_path / os.fsdecode(b"a\xff"), options(), transport=transport)
    assert transport.requests == []


async def test_a_monitor_stop_grants_the_grace_and_no_more(out):
    """A request that never ends is given up; what was fetched is kept."""
    gate = Gate(free=5)
    transport = by_course()
    transport._sleep = gate
    monitor = Monitor()
    settings = options(concurrency=1, grace=0.05)
    task = asyncio.create_task(export(MANY, out, settings, transport=transport, monitor=monitor))
    await gate.reached.wait()
    monitor.stop()
    with pytest.raises(Interrupted):
        await task
    assert (await export(MANY, out, options(), transport=by_course())).settled == 5


# The disk


async def test_a_locked_output_costs_the_server_nothing(out):
    """The second export leaves before its first request; the first is unharmed."""
    gate = Gate()
    first, second = by_course(), by_course()
    first._sleep = gate
    task = asyncio.create_task(export(MANY, out, options(), transport=first))
    await gate.reached.wait()
    with pytest.raises(OutputLocked):
        await export(MANY, out, options(), transport=second)
    assert second.requests == []
    gate.opened.set()
    assert (await task).output_courses == 60


@pytest.mark.parametrize("good", [1, 2])
async def test_what_did_not_reach_the_disk_is_not_claimed(good, out, monkeypatch):
    """With a full disk the last state tells the courses and rows that `status` will find."""
    real, left, monitor = POSIX.writev, [], Monitor()

    def full(descriptor, blocks):
        if b'"commit"' in bytes(blocks[0])[:30]:
            left.append(descriptor)
            if len(left) > good:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, blocks)

    monkeypatch.setattr(type(POSIX), "writev", staticmethod(full))
    settings = options(durability="course", concurrency=1)
    with pytest.raises(OutputError, match="the disk is full"):
        await export(MANY, out, settings, transport=by_course(), monitor=monitor)
    ledger = read_ledger(out)
    assert ledger.outcomes() == {"fetched": good, "refused": 0, "failed": 0}
    state = monitor.state
    assert (state.courses, state.fetched, state.rows) == (good, good, ledger.rows)


async def test_no_such_folder(tmp_path):
    """Words for the disk, before the first request."""
    transport = by_course()
    with pytest.raises(OutputError, match="no such file or folder"):
        await export(MANY, tmp_path / "a" / "b", options(), transport=transport)
    assert transport.requests == []


async def test_a_disk_that_fails_in_mid_run_stops_it(out, monkeypatch):
    """Exit 6; no further courses are asked for; with a mended disk the same call goes on."""
    real, count = POSIX.fdatasync, 0

    def failing(descriptor):
        nonlocal count
        count += 1
        if count > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor)

    transport = by_course()
    settings = options(durability="course", concurrency=1)
    with monkeypatch.context() as patched:
        patched.setattr(POSIX, "fdatasync", failing)
        with pytest.raises(OutputError, match="the disk is full") as caught:
            await export(iter(f"c{n}" for n in range(5_000)), out, settings, transport=transport)
    assert caught.value.exit_code == 6
    assert len(transport.requests) < 5_000
    ids = [f"c{number}" for number in range(100)]
    await export(ids, out, settings, transport=by_course())
    assert set(rows_of(out.read_bytes())) >= set(ids)


@pytest.mark.parametrize(("durability", "least", "most"), [("course", 40, 40), ("batch", 2, 12)])
async def test_syncs_per_durability(out, monkeypatch, durability, least, most):
    """`course` syncs data and journal for each course, `batch` for many at once."""
    synced = []

    def sync(descriptor, real=POSIX.fdatasync):
        synced.append(descriptor)
        return real(descriptor)

    monkeypatch.setattr(POSIX, "fdatasync", sync)
    ids = [f"c{number}" for number in range(20)]
    await export(ids, out, options(durability=durability), transport=by_course())
    assert least <= len(synced) <= most


async def test_a_slow_disk_slows_the_run(out, monkeypatch):
    """While a sync lasts no more courses are fetched than a commit and the outbox hold."""
    real = POSIX.fdatasync
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    transport = ScriptedTransport([scripted(statuses(users("u", 100)))])

    def slow(descriptor):
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(20)
        return real(descriptor)

    monkeypatch.setattr(POSIX, "fdatasync", slow)
    ids = [f"c{number}" for number in range(3_000)]
    task = asyncio.create_task(export(ids, out, options(), transport=transport))
    for _ in range(100):
        await asyncio.sleep(0.01)
    waiting = len(transport.requests)
    release.set()
    summary = await task
    size = out.stat().st_size / 3_000
    assert summary.output_courses == 3_000
    assert 0 < waiting <= (2**23 + 2**20 + 2**21) / size + 8 + 2


async def test_a_quiet_run_notes_its_state(out, monkeypatch):
    """While nothing comes the journal still hears of the run, so that others can look at it."""
    monkeypatch.setattr("bulkfetch._engine.desk._NOTE_SECONDS", 0.02)
    gate = Gate()
    transport = by_course()
    transport._sleep = gate
    task = asyncio.create_task(export(MANY, out, options(), transport=transport))
    await gate.reached.wait()
    journal, sizes = out.with_name("out.ndjson.journal"), set()
    while len(sizes) < 3:
        await asyncio.sleep(0.02)
        sizes.add(journal.stat().st_size)
    gate.opened.set()
    assert (await task).output_courses == 60


async def test_to_stdout(capfdbinary):
    """With "-" the rows go to stdout, and nothing else does."""
    summary = await export(MANY, "-", options(), transport=by_course(c1=[UNKNOWN]))
    written = capfdbinary.readouterr().out
    assert rows_of(written) == {course: users(course, 3) for course in MANY if course != "c1"}
    assert summary.output_rows == len(written.splitlines()) == 59 * 3


# Commits and hooks


async def test_commits_are_told(out):
    """Every course is committed once, with its rows; small ones share a commit."""
    commits = []
    transport = by_course(c1=[UNKNOWN])
    await export(MANY, out, options(), transport=transport, hooks=Hooks(commit=commits.append))
    assert all(isinstance(commit, Commit) for commit in commits)
    assert sum(commit.courses for commit in commits) == 59
    assert sum(commit.rows for commit in commits) == 59 * 3
    assert len(commits) < 30


async def test_a_shared_limiter(out):
    """Two exports with one limiter stay within it together."""
    limiter = Limiter(2, adaptive=False)
    transport = ScriptedTransport([scripted(statuses(GOOD), delay=0.001)])
    async with asyncio.TaskGroup() as group:
        for number in range(2):
            path = out.with_name(str(number))
            group.create_task(export(MANY, path, options(), transport=transport, limiter=limiter))
    assert transport.max_in_flight == 2


async def test_the_loop_is_never_blocked_by_the_disk(out, monkeypatch):
    """Commits happen in a thread: not one of them in the loop's own."""
    real, threads = POSIX.fdatasync, set()

    def noting(descriptor):
        threads.add(threading.current_thread().name)
        return real(descriptor)

    monkeypatch.setattr(POSIX, "fdatasync", noting)
    await export(MANY, out, options(), transport=by_course())
    assert len(threads) == 1
    assert "bulkfetch-commit" in threads.pop()


async def test_only_what_is_beyond_doubt_is_settled(out):
    """A refusal before rows is settled; one after the last rows is not, when the run is stopped."""
    gone = asyncio.Event()

    async def sleep(seconds):
        if seconds:
            gone.set()
            await asyncio.Event().wait()

    first = ["c0", "c1", "c2", "c3"]
    replies = {"c1": UNKNOWN, "c3": UNKNOWN, "c4": scripted(b"", delay=1.0)}
    transport = ScriptedTransport(
        lambda request: replies.get(request.course_id, scripted(statuses(GOOD))), sleep=sleep
    )
    monitor = Monitor()
    settings = options(concurrency=1, grace=0)
    task = asyncio.create_task(
        export([*first, "c4"], out, settings, transport=transport, monitor=monitor)
    )
    await gone.wait()
    monitor.stop()
    with pytest.raises(Interrupted):
        await task
    transport = by_course()
    await export(first, out, settings, transport=transport)
    assert [request.course_id for request in transport.requests] == ["c3"]


async def test_the_way_and_the_pauses_are_kept(out):
    """The manifest says how requests went, the journal when nothing could start, and why."""
    asked = ScriptedReply(status=503, headers={"Retry-After": "1"})
    transport = by_course(c1=[asked, scripted(statuses(GOOD))])
    transport.way = "scripted"
    await export(["c0", "c1"], out, options(concurrency=1), transport=transport)
    manifest = json.loads(out.with_name(f"{out.name}.manifest.json").read_bytes())
    assert manifest["options"]["way"] == "scripted"
    assert manifest["totals"]["strayed"] == 0
    lines = out.with_name(f"{out.name}.journal").read_bytes().splitlines()
    pauses = [body["pause"] for body in (json.loads(line[9:]) for line in lines) if "pause" in body]
    assert [(pause["cause"], 0 < pause["seconds"] <= 0.06) for pause in pauses] == [
        ("Retry-After", True)
    ]


async def test_courses_with_rows_of_another_one_are_counted(out):
    """Each once, in the summary and in the closing words."""
    own = statuses([("u1", "Passed", 1), ("u2", "Passed", 2)]).replace(
        b"<ns1:userId>", b"<ns1:contentItemId>other</ns1:contentItemId><ns1:userId>"
    )
    transport = by_course(c1=[scripted(own)])
    summary = await export(["c0", "c1"], out, options(), transport=transport)
    assert (summary.fetched, summary.strayed) == (2, 1)
    assert ("strayed", "1 course with rows that name another one: look at _contentItemId") in (
        figures(summary)
    )
