"""Rows into a pipe."""

import errno
import hashlib
import os

import pytest
from outputs import commit_to

from bulkfetch._domain.errors import OutputClosed, OutputError, Transient
from bulkfetch._domain.model import Failed, Fetched
from bulkfetch._output.pipe import PipeOutput
from bulkfetch._output.spool import Spool


def course(course_id, data, rows):
    spool = Spool()
    if rows:
        spool.append(data, rows)
    return Fetched(course_id, spool)


def outcomes():
    failed = Failed("3", Transient("timeout", "no answer"))
    return [course("1", b"a\nb\n", 2), course("2", b"", 0), failed]


def test_whole_courses():
    """Courses come out in order, and the manifest counts rows, bytes, outcomes and the digest."""
    reader, writer = os.pipe()
    sink = PipeOutput(writer, fingerprint={}, run_id="r", clock=lambda: 5.0)
    assert "a" not in sink.open().settled
    commit_to(sink, outcomes())
    sink.note({"done": 3})
    commit_to(sink, [course("4", b"c\n", 1)])
    manifest = sink.finish({"seconds": 1.0}, {"rate": 2})
    sink.close()
    os.close(writer)
    with os.fdopen(reader, "rb") as read:
        assert read.read() == b"a\nb\nc\n"
    assert (manifest.output, manifest.rows, manifest.bytes) == ("-", 3, 6)
    assert manifest.courses == {"fetched": 3, "refused": 0, "failed": 1}
    assert (manifest.empty_courses, manifest.runs) == (("2",), ("r",))
    assert manifest.sha256 == hashlib.sha256(b"a\nb\nc\n").hexdigest()


def test_reader_gone():
    """When the reader is gone the output is closed, quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    sink = PipeOutput(writer, fingerprint={}, run_id="r")
    with pytest.raises(OutputClosed) as caught:
        commit_to(sink, outcomes())
    assert caught.value.exit_code == 141
    os.close(writer)


def test_other_errors():
    """Any other error of the pipe is an OutputError that says why."""

    def write(fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sink = PipeOutput(1, fingerprint={}, run_id="r", write=write)
    with pytest.raises(OutputError, match="output pipe: the disk is full"):
        commit_to(sink, outcomes())
