"""What another program does to an output while a run works at it, and whether our advice works."""

import os
import re

import orjson
import pytest
from outputs import commit_to, course, timeout

from bulkfetch._domain.errors import OutputError
from bulkfetch._output.inspect import verify
from bulkfetch._output.journaled import JournaledFile

ROWS = {"c1": 2, "c2": 1, "c3": 3}


def sink_on(path, **options):
    return JournaledFile(path, fingerprint={}, run_id="r", **options)


def outcomes(*names):
    return [course(name, [(f"u{n}", "Passed", 1.0) for n in range(ROWS[name])]) for name in names]


def run(path, **options):
    """Do what the same command does: fetch what is not settled, and publish."""
    sink = sink_on(path, **options)
    try:
        ledger = sink.open()
        commit_to(sink, outcomes(*(name for name in ROWS if name not in ledger.settled)))
        return sink.finish({})
    finally:
        sink.close()


def rows_of(path):
    found = [orjson.loads(line)["contentItemId"] for line in path.read_bytes().splitlines()]
    return {name: found.count(name) for name in found}


def beside(path, suffix):
    return path.with_name(path.name + suffix)


def empty(file):
    file.write_bytes(b"")


def cut(file):
    with file.open("r+b") as data:
        data.truncate(file.stat().st_size - 3)


def append(file):
    with file.open("ab") as data:
        data.write(b"x\n")


def remove(file):
    file.unlink()


def replace(file):
    file.rename(file.with_name("taken"))
    file.write_bytes(b"theirs\n")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.ndjson"


@pytest.mark.parametrize("suffix", [".part", ".journal"])
@pytest.mark.parametrize("harm", [empty, cut, append, remove, replace])
@pytest.mark.parametrize("when", ["commit", "idle commit", "finish"])
def test_f114_harmed_in_mid_run(path, suffix, harm, when):
    """The next commit, or publishing at the latest, says so; the advice given leads to all rows."""
    sink = sink_on(path)
    sink.open()
    commit_to(sink, outcomes("c1"))
    commit_to(sink, outcomes("c2"))
    harm(beside(path, suffix))
    acts = {
        "commit": lambda: commit_to(sink, outcomes("c3")),
        "idle commit": sink.commit,
        "finish": lambda: sink.finish({}),
    }
    with pytest.raises(OutputError, match=re.escape(str(beside(path, suffix)))) as caught:
        acts[when]()
    sink.close()
    assert not path.exists()
    follow(str(caught.value), path, beside(path, suffix))
    assert rows_of(path) == ROWS
    assert verify(path).sound


def follow(advice, path, harmed):
    """Do what a message says, until the output is there."""
    if "bring it back" in advice:
        harmed.unlink(missing_ok=True)  # moved away
        run(path, overwrite=True)
        return
    assert "run the same command again" in advice
    try:
        run(path)
    except OutputError as refused:
        if "--overwrite" not in str(refused):
            raise
        run(path, overwrite=True)


@pytest.mark.parametrize("suffix", [".part", ".journal"])
def test_f114_brought_back(path, suffix):
    """A file that was taken away and is brought back is gone on with."""
    sink = sink_on(path)
    sink.open()
    commit_to(sink, outcomes("c1"))
    file, aside = beside(path, suffix), path.with_name("aside")
    file.rename(aside)
    with pytest.raises(OutputError, match="bring it back and run the same command again"):
        sink.commit()
    sink.close()
    aside.rename(file)
    run(path)
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("harm", [cut, append, remove, replace])
def test_f114_published_output_harmed_in_a_run_in_vain(path, harm):
    """A run that only brings failures publishes nothing over a file that was changed."""
    run(path)
    sink = sink_on(path)
    sink.open()
    commit_to(sink, [timeout("x")])
    harm(path)
    with pytest.raises(OutputError, match=re.escape(str(path))) as caught:
        sink.finish({})
    sink.close()
    follow(str(caught.value), path, path)
    assert rows_of(path) == ROWS


@pytest.mark.parametrize("bytes_off", [1, 5, 40])
@pytest.mark.parametrize("overwritten", [False, True])
def test_f123_last_line_torn_after_publishing(path, bytes_off, overwritten):
    """With its journal's last line torn a published output is found whole and published again."""
    if overwritten:
        path.write_bytes(b"older\n")
    manifest = run(path, overwrite=overwritten)
    journal = beside(path, ".journal")
    os.truncate(journal, journal.stat().st_size - bytes_off)
    assert verify(path).unfinished == "not finished yet: run the same command again"
    assert run(path).sha256 == manifest.sha256
    assert rows_of(path) == ROWS
    assert verify(path).sound


def test_f123_torn_and_changed(path):
    """If its bytes are not what the journal says, one remedy is named, and it works."""
    run(path)
    journal = beside(path, ".journal")
    os.truncate(journal, journal.stat().st_size - 5)
    append(path)
    with pytest.raises(OutputError, match=r"not what its journal says.*--overwrite"):
        run(path)
    run(path, overwrite=True)
    assert rows_of(path) == ROWS
