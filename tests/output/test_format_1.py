"""Outputs that version 0.1.0 left: read, taken over, gone on with, and refused by it from then on.

`tests/data/output-0.1.0` was written by that version's own code.
"""

import contextlib
import os
import shutil
from collections import Counter
from pathlib import Path

import orjson
import pytest
from fake_os import FakeOS, Killed
from outputs import commit_to, course

from bulkfetch._domain.errors import OutputLocked
from bulkfetch._output.inspect import read_ledger, verify
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._output.ledger import replay

LEFT = Path(__file__).parents[1] / "data" / "output-0.1.0"
FINGERPRINT = {
    "endpoint": "acme.example",
    "method": "GetContentItemFinalStatuses",
    "stamp": "false",
}
ROWS = Counter({"c1": 3, "c3": 2, "c4": 1})


def open_sink(path, **options):
    sink = JournaledFile(path, fingerprint=FINGERPRINT, run_id="new", version="0.2.0", **options)
    return sink, sink.open()


def rows_of(data):
    return Counter(orjson.loads(line)["contentItemId"] for line in data.splitlines())


@pytest.fixture(params=["finished", "unfinished"])
def path(request, tmp_path):
    """Give the path of an output of 0.1.0."""
    shutil.copytree(LEFT / request.param, tmp_path / "old")
    return tmp_path / "old" / "out.ndjson"


def test_read(path):
    """It is read as it is, but courses refused for a fault that no list names are asked again."""
    ledger = read_ledger(path)
    assert ledger.header.format == 1
    assert ledger.outcomes() == {"fetched": 4, "refused": 1, "failed": 2}
    assert {name for name in ("c1", "c2", "gone", "sql", "late") if name in ledger.settled} == {
        "c1",
        "c2",
        "gone",
    }


def test_a_finished_one_is_sound(tmp_path):
    """Its manifest, which says less than one of today, is good, and stays so when taken over."""
    shutil.copytree(LEFT / "finished", tmp_path / "old")
    path = tmp_path / "old" / "out.ndjson"
    assert verify(path).sound
    open_sink(path)[0].close()
    assert read_ledger(path).header.format == 2
    assert verify(path).sound
    manifest = path.with_name("out.ndjson.manifest.json")
    told = orjson.loads(manifest.read_bytes())
    manifest.write_bytes(orjson.dumps(told | {"empty_courses": []}))
    assert "empty_courses[0] nothing, but it is c2" in verify(path).problems[0]


def test_taken_over_and_finished(path):
    """A run goes on with it: what was settled stays, each row is there once, the format is 2."""
    sink, ledger = open_sink(path)
    with contextlib.closing(sink):
        assert "sql" not in ledger.settled
        assert ledger.controls == ("c4", "c3", "c1")
        commit_to(sink, [course("sql", [("u", "Passed", 1.0)])])
        manifest = sink.finish({})
    assert manifest.format == 2
    assert manifest.version == "0.1.0"
    assert manifest.courses == {"fetched": 5, "refused": 1, "failed": 1}
    assert rows_of(path.read_bytes()) == ROWS + Counter({"sql": 1})
    assert b'"format":2' in path.with_name("out.ndjson.journal").read_bytes().split(b"\n")[0]
    assert (
        replay([path.with_name("out.ndjson.journal").read_bytes()]).outcomes() == manifest.courses
    )
    assert not path.with_name("out.ndjson.journal.tmp").exists()


def test_what_was_taken_over_is_read_alike_later(path):
    """Opened once and left, it is the same output to the next run."""
    for _ in range(2):
        sink, ledger = open_sink(path)
        sink.close()
        assert ledger.outcomes() == {"fetched": 4, "refused": 1, "failed": 2}
        assert "sql" not in ledger.settled


def test_killed_while_it_is_taken_over():
    """Killed or torn at any call of it, the output is whole for the next run."""
    for action in ("kill", "torn"):
        for number in range(1, 60):
            system = FakeOS()
            for file in (LEFT / "unfinished").iterdir():
                system.put(f"/d/{file.name}", file.read_bytes())
            system.restart({("any", number): action})
            with contextlib.suppress(Killed):
                open_sink("/d/out.ndjson", system=system)
            system.restart()
            sink, ledger = open_sink("/d/out.ndjson", system=system)
            assert (ledger.header.format, ledger.fetched, ledger.end) == (2, 4, 450)
            sink.close()
            assert "/d/out.ndjson.journal.tmp" not in system.names


def test_one_run_at_a_time(path):
    """While one run takes it over, another is refused, by whichever of the two journals."""
    before = os.open(path.with_name("out.ndjson.journal"), os.O_RDWR)
    sink, _ = open_sink(path)
    with contextlib.closing(sink):
        import fcntl

        for fd in (before, os.open(path.with_name("out.ndjson.journal"), os.O_RDWR)):
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(fd)
        with pytest.raises(OutputLocked):
            open_sink(path)
