"""Looking at an output: beside a run that writes it, and for what is wrong with it."""

import contextlib

import orjson
import pytest
from outputs import commit_to

from bulkfetch._errors import OutputError, Transient
from bulkfetch._inspect import read_frames, read_ledger, verify
from bulkfetch._journal import Commit, Header, encode
from bulkfetch._model import Failed, Fetched
from bulkfetch._rows import Spool
from bulkfetch._sink import JournaledFile


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
        ledger = read_ledger(path, every_state=True)
        assert ledger.settled == {"c1", "c2"}
        assert ledger.states == [{"n": 1}, {"n": 2}]
        assert verify(path) == []


def test_nothing_wrong(path):
    """A finished output has no problems; its frames can be read one by one."""
    assert verify(path) == []
    assert read_ledger(path).done
    commits = [frame for frame in read_frames(path) if isinstance(frame, Commit)]
    assert [len(commit.courses) for commit in commits] == [8, 2, 2, 0]


def test_changed_bytes(path):
    """A changed byte is reported with its range and the courses in it, some named, all counted."""
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    problems = verify(path)
    assert "bytes 0 to 176: courses c0, c1, c2, c3, c4 and 3 more" in problems[0]
    assert "sha256" in problems[1]
    assert len(problems) == 2


def test_short_and_long_files(path):
    """Missing bytes are reported by the commits they belong to, extra ones by their number."""
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert any("courses c10, c11" in problem for problem in verify(path))
    path.write_bytes(data + b"more")
    assert verify(path) == [f"{path} has 4 bytes more than its journal, from {len(data)}"]


@pytest.mark.parametrize("name", ["rows", "bytes", "courses", "sha256"])
def test_manifest_that_differs(path, name):
    """A manifest that says something else is reported with both values."""
    manifest = beside(path, ".manifest.json")
    told = orjson.loads(manifest.read_bytes())
    manifest.write_bytes(orjson.dumps(told | {name: "else"}))
    (problem,) = verify(path)
    assert f"says {name} else, but it is {told[name]}" in problem


def test_manifest_unreadable(path):
    """A manifest that is missing or garbled is reported."""
    manifest = beside(path, ".manifest.json")
    for garbled in (b"", b"[]", b"{}"):
        manifest.write_bytes(garbled)
        assert "cannot be read" in verify(path)[0]
    manifest.unlink()
    assert "FileNotFoundError" in verify(path)[0]


def test_damaged_journal(path):
    """A damaged line is reported by its place, and what follows it is not believed."""
    journal = beside(path, ".journal")
    text = journal.read_bytes()
    line = text.rindex(b"\n", 0, text.index(b'"c8"')) + 1
    journal.write_bytes(text.replace(b'"c8"', b'"cX"'))
    problems = verify(path)
    assert f"is damaged from byte {line} on" in problems[0]
    journal.write_bytes(text + encode(Commit(7, 9, 0, [], [], 0.0)))
    assert "is damaged" in verify(path)[0]
    journal.write_bytes(text + encode(Header("r", {}, 0.0, "")))
    assert "is damaged" in verify(path)[0]


def test_course_committed_twice(tmp_path):
    """A course that was committed twice is named."""
    path = tmp_path / "out.ndjson"
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        commit_to(sink, [course(1, course_id="again"), course(2)])
        commit_to(sink, [course(3, course_id="again")])
    assert verify(path) == ["committed twice: courses again"]


def test_not_published(path):
    """Complete data that a kill kept from their name are reported, with what to do."""
    path.rename(beside(path, ".part"))
    assert "complete but not published: run the same command again" in verify(path)[0]


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
    for look in (read_ledger, verify, lambda path: list(read_frames(path))):
        with pytest.raises(OutputError, match=r"journal: there is no such file"):
            look(path)
