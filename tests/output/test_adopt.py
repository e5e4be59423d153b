"""Commits of other outputs taken over with their bytes: what a merge of parts is made of."""

import contextlib
import errno
import gzip
import os
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from outputs import commit_to, course, refused

from bulkfetch._domain.errors import OutputError
from bulkfetch._output.file import Posix
from bulkfetch._output.frames import Committed, decode
from bulkfetch._output.inspect import read_commits, read_failed, read_ledger, verify
from bulkfetch._output.journaled import JournaledFile


def sink_on(path):
    return JournaledFile(path, fingerprint={}, run_id="r")


def make_part(path, *names, finish=True):
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        for name in names:
            commit_to(sink, [course(name, [(f"{name}-u", "Passed", 1.0)] * 3)])
        commit_to(sink, [course(f"{names[0]}-empty", []), refused(f"{names[0]}-gone")])
        if finish:
            sink.finish({})


def merge(parts, path):
    with contextlib.closing(sink_on(path)) as sink:
        settled = sink.open().settled
        for part in parts:
            for frame, blocks in read_commits(part, read_ledger(part)):
                ids = [one[0] for one in frame.courses]
                if not ids or ids[0] not in settled:
                    sink.adopt(frame, blocks, ["other"])
        return sink.finish({})


@pytest.fixture(params=["", ".gz", ".zst"])
def paths(request, tmp_path):
    """Give two parts, one of them unfinished, and where they are to be merged."""
    parts = [tmp_path / f"{name}.ndjson{request.param}" for name in "ab"]
    make_part(parts[0], "a1", "a2")
    make_part(parts[1], "b1", finish=False)
    return parts, tmp_path / f"out.ndjson{request.param}"


def data_of(path):
    part = path.with_name(path.name + ".part")
    return (part if part.exists() else path).read_bytes()


def test_joined_as_they_are(paths):
    """The bytes are those of the parts one after the other, and all is an ordinary output."""
    parts, path = paths
    manifest = merge(parts, path)
    assert path.read_bytes() == b"".join(map(data_of, parts))
    assert manifest.courses == {"fetched": 5, "refused": 2, "failed": 0}
    assert manifest.runs.count("other") == 1
    assert manifest.empty_courses == ("a1-empty", "b1-empty")
    assert verify(path).sound
    gone = [one.course_id for one in read_failed(path, read_ledger(path))]
    assert gone == ["a1-gone", "b1-gone"]
    rows = {
        ".gz": gzip.decompress,
        ".zst": lambda data: (
            zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
        ),
    }.get(path.suffix, bytes)(path.read_bytes())
    assert rows.count(b"\n") == manifest.rows == 9


def test_a_merge_is_gone_on_with(paths):
    """A merge that ended after one part goes on with the other; so does one of a longer list."""
    parts, path = paths
    merge(parts[:1], path)
    merge(parts, path)
    assert path.read_bytes() == b"".join(map(data_of, parts))
    assert verify(path).sound


def test_a_course_in_two_parts(paths, tmp_path):
    """A course that has its rows already is refused by name, in this merge or from an earlier."""
    parts, path = paths
    twin = tmp_path / f"twin.ndjson{path.suffix if path.suffix != '.ndjson' else ''}"
    make_part(twin, "c1", "a2")
    with pytest.raises(OutputError, match=r"course 'a2' has its rows in .* already"):
        merge([parts[0], twin], path)
    merge(parts, path)
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        (_, (frame, blocks), *_) = read_commits(twin, read_ledger(twin))
        with pytest.raises(OutputError, match="course 'a2'"):
            sink.adopt(frame, blocks, ["other"])


def test_a_course_twice_in_one_commit(paths):
    """... is refused by name likewise."""
    parts, path = paths
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        frame, blocks = next(read_commits(parts[0], read_ledger(parts[0])))
        with pytest.raises(OutputError, match="course 'a1'"):
            sink.adopt(replace(frame, courses=frame.courses * 2), blocks, [])


def test_bytes_that_are_not_what_was_committed(paths):
    """Changed or missing bytes of a part are refused, and nothing of that commit is kept."""
    parts, path = paths
    good = parts[0].read_bytes()
    for bad in (b"X" + good[1:], good[:10]):
        parts[0].write_bytes(bad)
        with pytest.raises(OutputError, match="not what their journal says"):
            merge(parts, path)
    parts[0].write_bytes(good)
    merge(parts, path)
    assert path.read_bytes() == b"".join(map(data_of, parts))


def test_several_that_are_apart_become_safe_at_the_end(paths):
    """They need no commit of their own, and a compressed whole gets no empty member."""
    parts, path = paths
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        assert sink.new
        for part in parts:
            for frame, blocks in read_commits(part, read_ledger(part)):
                sink.adopt(frame, blocks, [], apart=True)
        assert not sink.new
        sink.finish({})
    assert path.read_bytes() == b"".join(map(data_of, parts))
    assert verify(path).sound


@pytest.mark.parametrize("rows", [1, 3_000], ids=["small", "large"])
def test_courses_that_follow_adopted_ones(rows, tmp_path):
    """Their bytes are summed up behind those that were taken over and not committed yet."""
    part, path = tmp_path / "a.ndjson", tmp_path / "out.ndjson"
    with contextlib.closing(sink_on(part)) as sink:
        sink.open()
        commit_to(sink, [course("a", [(f"u{n}", "Passed", 1.0) for n in range(rows)])])
        sink.finish({})
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        for frame, blocks in read_commits(part, read_ledger(part)):
            sink.adopt(frame, blocks, [], apart=True)
        commit_to(sink, [course("b", [("u", "Passed", 1.0)])])
        sink.finish({})
    assert verify(path).sound


def test_small_and_large_commits_in_turn(tmp_path):
    """They are summed up in their order, whoever does it."""
    part, path = tmp_path / "a.ndjson", tmp_path / "out.ndjson"
    with contextlib.closing(sink_on(part)) as sink:
        sink.open()
        for number, rows in enumerate((1, 3_000, 1, 2, 3_000, 1)):
            users = [(f"u{n}", "Passed", 1.0) for n in range(rows)]
            commit_to(sink, [course(f"c{number}", users)])
        sink.finish({})
    with contextlib.closing(sink_on(path)) as sink:
        sink.open()
        for frame, blocks in read_commits(part, read_ledger(part)):
            sink.adopt(frame, blocks, [], apart=True)
        sink.finish({})
    assert path.read_bytes() == part.read_bytes()
    assert verify(path).sound


class Disk(Posix):
    """A disk that remembers what became safe and what was told of it; one sync may fail."""

    def __init__(self, failing=0):
        self.failing, self.names = failing, {}
        self.written = self.synced = self.syncs = 0
        self.early = []

    def open(self, path, flags, mode):
        fd = os.open(path, flags, mode)
        self.names[fd] = Path(path).suffix
        return fd

    def fdatasync(self, fd):
        if self.names[fd] == ".part":
            self.syncs += 1
            if self.syncs == self.failing:
                raise OSError(errno.EIO, "failed")
            self.synced = os.fstat(fd).st_size

    def writev(self, fd, blocks):
        if self.names[fd] == ".journal":
            for line in b"".join(blocks).splitlines():
                frame = decode(line)
                if isinstance(frame, Committed) and frame.end > self.synced:
                    self.early.append(frame)
        return os.writev(fd, blocks)


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_no_commit_is_told_of_before_its_data_are_safe(failing, tmp_path, monkeypatch):
    """... though a thread syncs them; and none whose sync failed, nor any after it."""
    monkeypatch.setattr("bulkfetch._output.journaled._MANY", 2)
    part, path, disk = tmp_path / "a.ndjson", tmp_path / "out.ndjson", Disk(failing)
    make_part(part, *(f"a{n}" for n in range(5)))
    broken = pytest.raises(OutputError, match="cannot sync")
    sink = JournaledFile(path, fingerprint={}, run_id="r", system=disk)
    with contextlib.closing(sink), broken if failing else contextlib.nullcontext():
        sink.open()
        for frame, blocks in read_commits(part, read_ledger(part)):
            sink.adopt(frame, blocks, [], apart=True)
        sink.finish({})
    assert disk.syncs == (failing or 3)
    assert not disk.early
    assert len(list(read_commits(path, read_ledger(path)))) == (2 * (failing - 1) if failing else 6)
    merge([part], path)
    assert path.read_bytes() == part.read_bytes()
