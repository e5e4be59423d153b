"""Looking at an output: beside a run that writes it, and for what is wrong with it."""

import contextlib
import os

import orjson
import pytest
from outputs import commit_to

from bulkfetch._domain.errors import OutputError, Transient
from bulkfetch._domain.model import Failed, Fetched
from bulkfetch._output import inspect
from bulkfetch._output.frames import Committed, Header, encode
from bulkfetch._output.inspect import is_running, read_ledger, verify
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._output.spool import Spool


def course(number, *, course_id=None):
    spool = Spool()
    spool.append(b'{"contentItemId":"%d"}\n' % number, 1)
    return Fetched(course_id or f"c{number}", spool)


def sink_on(path, **options):
    return JournaledFile(path, fingerprint={}, run_id="r", version="1", **options)


@pytest.fixture
def path(tmp_path):
    """Give the path of an output of three commits, finished."""
    path = tmp_path / "out.ndjson"
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        for batch in (range(8), range(8, 10), range(10, 12)):
            commit_to(sink, [course(number) for number in batch])
            sink.note({"fetched": batch.stop})
        commit_to(sink, [Failed("bad", Transient("timeout", "no answer"))])
        sink.finish({})
    return path


def beside(path, suffix):
    return path.with_name(path.name + suffix)


def test_beside_a_run(tmp_path):
    """The ledger can be read and the data verified while a run holds the output."""
    path = tmp_path / "out.ndjson"
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        commit_to(sink, [course(1), course(2)])
        sink.note({"n": 1})
        sink.note({"n": 2})
        with beside(path, ".journal").open("ab") as writing:
            writing.write(b"0123 {a line half")
        ledger = read_ledger(path)
        assert ledger.fetched == 2
        assert "c1" in ledger.settled
        assert ledger.state == {"n": 2}
        found = verify(path)
        assert (found.problems, found.unfinished) == ([], "not finished yet: a run is at work")
    assert verify(path).unfinished == "not finished yet: run the same command again"


def test_nothing_wrong(path):
    """A finished output has no problems; its frames can be read one by one."""
    assert verify(path).sound
    assert read_ledger(path).done
    seen = []
    read_ledger(path, seen.append)
    commits = [frame for frame in seen if isinstance(frame, Committed)]
    assert [len(commit.courses) for commit in commits] == [8, 2, 2, 0]


def test_changed_bytes(path):
    """A changed byte is reported with its range and the courses in it, some named, all counted."""
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    problems = verify(path).problems
    assert "bytes 0 to 176: courses c0, c1, c2, c3, c4 and 3 more" in problems[0]
    assert "sha256" in problems[1]
    assert len(problems) == 2


def test_short_and_long_files(path):
    """Missing bytes are reported by the commits they belong to, extra ones by their number."""
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert any("courses c10, c11" in problem for problem in verify(path).problems)
    path.write_bytes(data + b"more")
    assert list(verify(path).problems) == [
        f"{path} has 4 bytes more than its journal, from {len(data)}"
    ]


FIELDS = (
    *("rows", "bytes", "sha256", "courses", "empty_courses", "runs", "started", "finished"),
    *("version", "format", "fingerprint", "limited", "partial", "totals", "options"),
)


@pytest.mark.parametrize("name", FIELDS)
def test_manifest_that_differs(path, name):
    """A manifest that says something else, or no more than it must, is reported by the field."""
    manifest = beside(path, ".manifest.json")
    told = orjson.loads(manifest.read_bytes())
    assert {*told} - {"output"} == {*FIELDS}
    manifest.write_bytes(orjson.dumps(told | {name: "else"}))
    (problem,) = verify(path).problems
    assert f"says {name} else, but it is {told[name]}: move it away" in problem
    manifest.write_bytes(orjson.dumps({key: told[key] for key in told if key != name}))
    (problem,) = verify(path).problems
    assert f"{manifest} lacks {name}: move it away" in problem
    manifest.unlink()
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        sink.finish({})
    assert verify(path).sound


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("empty_courses", [], "says empty_courses[0] nothing, but it is none"),
        ("empty_courses", ["none", "c1"], "says empty_courses[1] c1, but it is nothing"),
        ("courses", {"fetched": 1, "refused": 0, "failed": 0}, "says courses.fetched 1, but it"),
        ("fingerprint", {"endpoint": "x"}, "says fingerprint.endpoint x, but it is None"),
        ("runs", None, "says runs None, but it is ['r']"),
        ("finished", "yesterday", "says finished yesterday, but it is 20"),
        ("format", 99, "says format 99, but it is 2"),
        ("format", 1, "says format 1, but it is 2"),
        ("version", "x" * 1000, f"says version {'x' * 100}…, but it is 1"),
    ],
)
def test_manifest_that_differs_in_one_place(tmp_path, name, value, words):
    """Where a list or a table differs the place is named, and a long value is cut short."""
    path = tmp_path / "out.ndjson"
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        commit_to(sink, [course(1), Fetched("none", Spool()), course(2)])
        sink.finish({})
    manifest = beside(path, ".manifest.json")
    manifest.write_bytes(orjson.dumps(orjson.loads(manifest.read_bytes()) | {name: value}))
    (problem,) = verify(path).problems
    assert words in problem


def test_manifest_of_an_earlier_finish(path):
    """A kill between a finish and its manifest leaves an output that is to be finished once more.

    What a later run in vain says only of failed courses and of itself leaves the manifest good.
    """
    manifest = beside(path, ".manifest.json")
    earlier = manifest.read_bytes()
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        commit_to(sink, [Failed("worse", Transient("timeout", "no answer"))])
    assert verify(path).sound
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        commit_to(sink, [Failed("worse", Transient("timeout", "no answer"))])
        sink.finish({"seconds": 1.0})
    assert verify(path).sound
    manifest.write_bytes(earlier)
    assert verify(path).unfinished == (
        f"published, but {manifest} is of an earlier run: run the same command again"
    )


def test_manifest_unreadable(path):
    """A manifest that is missing or garbled is reported."""
    manifest = beside(path, ".manifest.json")
    for garbled in (b"", b"[1]", b"7"):
        manifest.write_bytes(garbled)
        assert "cannot be read" in verify(path).problems[0]
    manifest.unlink()
    assert verify(path).unfinished == (
        f"published, but {manifest} is missing: run the same command again"
    )


def test_damaged_journal(path):
    """A damaged line is reported by its place, and what follows it is not believed."""
    journal = beside(path, ".journal")
    text = journal.read_bytes()
    line = text.rindex(b"\n", 0, text.index(b'"c8"')) + 1
    journal.write_bytes(text.replace(b'"c8"', b'"cX"'))
    problems = verify(path).problems
    assert f"is damaged from byte {line} on" in problems[0]
    journal.write_bytes(text + encode(Committed(7, 9, 0, [], [], 0.0)))
    assert "is damaged" in verify(path).problems[0]
    journal.write_bytes(text + encode(Header("r", {}, 0.0, "")))
    assert "is damaged" in verify(path).problems[0]


def test_course_committed_twice(tmp_path):
    """A course that was committed twice is named."""
    path = tmp_path / "out.ndjson"
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        commit_to(sink, [course(1, course_id="again"), course(2)])
        commit_to(sink, [course(3, course_id="again")])
    assert list(verify(path).problems) == ["committed twice: courses again"]


def test_not_published(path):
    """Complete data that a kill kept from their name are reported, with what to do."""
    path.rename(beside(path, ".part"))
    found = verify(path)
    assert not found.problems
    assert found.unfinished == "complete but not published: run the same command again"


def test_f127_published_while_it_is_looked_at(tmp_path, monkeypatch):
    """An output that is published between two looks of one `verify` is sound."""
    path = tmp_path / "out.ndjson"
    sink = sink_on(path)
    sink.open()
    commit_to(sink, [course(1), course(2)])
    looks = []

    def look(name, watch):
        ledger = read_ledger(name, watch)
        if not looks:
            sink.finish({})
        looks.append(ledger.done is not None)
        return ledger

    monkeypatch.setattr(inspect, "read_ledger", look)
    monkeypatch.setattr(inspect, "_MOMENT", 0.0)
    assert verify(path).sound
    assert looks == [False, True]
    sink.close()


def test_f127_a_killed_overwrite_is_not_finished(path):
    """The old output still stands, with its manifest, but it is not what the journal tells of."""
    with contextlib.closing(sink_on(path, overwrite=True)) as sink:
        sink.open()
        commit_to(sink, [course(1)])
    assert path.exists()
    assert beside(path, ".manifest.json").exists()
    assert verify(path).unfinished == "not finished yet: run the same command again"


@pytest.mark.parametrize("suffix", ["", ".part", ".journal", ".manifest.json"])
@pytest.mark.parametrize(("make", "what"), [(os.mkfifo, "no regular file"), (os.mkdir, "a folder")])
def test_no_file_in_a_place_of_the_output(path, suffix, make, what):
    """A FIFO, which would be waited for, or a folder is named; moved away it does no harm."""
    there = beside(path, suffix)
    there.rename(beside(path, ".kept")) if there.exists() else None
    make(there)
    with pytest.raises(OutputError, match=f"{there} is {what}: move it away"):
        verify(path)
    if suffix == ".journal":
        with pytest.raises(OutputError, match=f"{there} is {what}: move it away"):
            is_running(path)
    there.rename(beside(path, ".away"))
    if beside(path, ".kept").exists():
        beside(path, ".kept").rename(there)
    assert verify(path).sound


def test_nothing_to_look_at(path):
    """Without data, without a journal or with a foreign one there is an error in words."""
    path.unlink()
    with pytest.raises(OutputError, match="moved away"):
        verify(path)
    journal = beside(path, ".journal")
    for foreign in (b"", b"my diary\n", encode(Header("r", {}, 0.0, "9", format=9))):
        journal.write_bytes(foreign)
        with pytest.raises(OutputError, match="another version"):
            read_ledger(path)
    journal.unlink()
    for look in (read_ledger, verify):
        with pytest.raises(OutputError, match=r"journal: there is no such file"):
            look(path)
