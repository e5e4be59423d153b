"""An output becomes a table, by value, in all three targets, night after night."""

import contextlib
import hashlib
import json
import os
import pty
import stat
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import duckdb
import pytest
from nights import (
    FIRST,
    SECOND,
    SECOND_NIGHT,
    SUFFIXES,
    as_table,
    first_night,
    replaced,
    row,
    second_night,
    write_output,
)
from outputs import commit_to, course, refused

from bulkfetch import ConfigurationError, OutputError, diff, load
from bulkfetch._output.journaled import JournaledFile


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_nights_by_value(place, tmp_path, suffix):
    """After each night the table holds what was computed apart; a third load changes nothing."""
    one = write_output(tmp_path / f"one{suffix}", first_night())
    two = write_output(tmp_path / f"two{suffix}", second_night(), **SECOND_NIGHT)

    first = load(one, to=place.to)
    assert place.rows() == as_table(first_night())
    assert (first.new, first.rows, first.deleted) == (True, len(first_night()), 0)

    second = load(two, to=place.to)
    wanted = replaced(first_night(), second_night(), SECOND_NIGHT["empty"])
    assert place.rows() == as_table(wanted)
    deleted = len(first_night()) + len(second_night()) - len(wanted)
    assert (second.rows, second.deleted) == (len(second_night()), deleted)
    assert (second.left_alone, second.unknown, second.dropped) == (3, ("c6", "c99"), False)

    ledger = place.ledger()
    assert [line[0] for line in ledger] == [digest(one), digest(two)]
    assert ledger[1][1:] == (["r1"], second.courses, deleted, len(second_night()))
    assert not load(two, to=place.to).new
    assert (place.rows(), place.ledger()) == (as_table(wanted), ledger)


def test_rows_of_unknown_courses_go_when_told(place, tmp_path):
    """--drop-unknown deletes the rows of c6; those of a failed course stay in any case."""
    load(write_output(tmp_path / "one.ndjson", first_night()), to=place.to)
    two = write_output(tmp_path / "two.ndjson", second_night(), **SECOND_NIGHT)
    done = load(two, to=place.to, drop_unknown=True)
    gone = [*SECOND_NIGHT["empty"], "c6", "c99"]
    assert place.rows() == as_table(replaced(first_night(), second_night(), gone))
    assert (done.left_alone, done.dropped) == (1, True)


def test_an_older_output_is_refused_unless_forced(place, tmp_path):
    """The night before does not overwrite the night after."""
    one = write_output(tmp_path / "one.ndjson", [row("a", "1")], finished=FIRST)
    two = write_output(tmp_path / "two.ndjson", [row("a", "2")], finished=SECOND)
    load(two, to=place.to)
    with pytest.raises(ConfigurationError, match="--force"):
        load(one, to=place.to)
    assert place.rows() == as_table([row("a", "2")])
    load(one, to=place.to, force=True)
    assert place.rows() == as_table([row("a", "1")])
    assert len(place.ledger()) == 2


def test_the_same_rows_with_other_empty_courses_are_loaded(place, tmp_path):
    """What counts as the same is the output, not the bytes of its rows alone."""
    load(write_output(tmp_path / "one.ndjson", [row("a", "1"), row("b", "1")]), to=place.to)
    load(write_output(tmp_path / "two.ndjson", [row("a", "1")], finished=SECOND), to=place.to)
    later = SECOND.replace("02:10", "03:10")
    three = write_output(tmp_path / "three.ndjson", [row("a", "1")], empty=["b"], finished=later)
    assert load(three, to=place.to).deleted == 2
    assert place.rows() == as_table([row("a", "1")])


def test_an_output_without_any_row_empties_its_courses(place, tmp_path):
    """All courses are empty now: their rows go, the others stay."""
    load(write_output(tmp_path / "one.ndjson", [row("a", "1"), row("b", "1")]), to=place.to)
    two = write_output(tmp_path / "two.ndjson", [], empty=["a"], finished=SECOND)
    assert load(two, to=place.to).deleted == 1
    assert place.rows() == as_table([row("b", "1")])


def test_the_first_load_may_hold_nothing(place, tmp_path):
    """A table without rows is there all the same, with a line in its ledger."""
    load(write_output(tmp_path / "one.ndjson", [], empty=["a"]), to=place.to)
    assert place.rows() == []
    assert len(place.ledger()) == 1


@pytest.mark.parametrize("suffix", ["", ".manifest.json", ".failed.ndjson"])
def test_what_is_no_file_is_not_waited_for(tmp_path, suffix):
    """A FIFO in the place of the rows or of what tells of them is named, with what to do."""
    path = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    there = Path(f"{path}{suffix}")
    there.unlink(missing_ok=True)
    os.mkfifo(there)
    with pytest.raises(OutputError, match=f"{there} is no regular file: move it away"):
        load(path, to=f"duckdb:{tmp_path / 'x.duckdb'}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runs": None}, "runs is None"),
        ({"rows": "7"}, "rows is 7"),
        ({"courses": 3}, "courses is 3"),
        ({"courses": {}}, "it lacks courses.fetched"),
        ({"courses": {"fetched": 1, "refused": "x", "failed": 0}}, "courses.refused is x"),
        ({"empty_courses": "abc"}, "empty_courses is abc"),
        ({"fingerprint": []}, r"fingerprint is \[\]"),
        ({"finished": "yesterday"}, "finished is yesterday, no time with a zone"),
        ({"finished": "2026-11-24T02:10:00"}, "finished is 2026-11-24T02:10:00, no time with"),
        ({"limited": 5}, "limited is 5"),
        ({"partial": {"parts": 1, "of": 2}}, "it lacks partial.unfinished"),
        (["rows"], "it lacks rows"),
        (["fingerprint"], "it lacks fingerprint"),
        (b"[]", "it is no JSON object"),
        (b"{", "it is no JSON object"),
    ],
)
def test_a_damaged_manifest_is_named_by_its_field(tmp_path, changes, words):
    """What is missing or of another kind is told, with what mends it."""
    path = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    manifest = Path(f"{path}.manifest.json")
    told = json.loads(manifest.read_text())
    match changes:
        case bytes():
            manifest.write_bytes(changes)
        case list():
            manifest.write_text(json.dumps({key: told[key] for key in told if key not in changes}))
        case dict():
            manifest.write_text(json.dumps(told | changes))
    with pytest.raises(OutputError, match=f"is damaged: {words}.*; move it away, and the same"):
        load(path, to=f"duckdb:{tmp_path / 'x.duckdb'}")


@pytest.mark.parametrize(
    ("line", "words"),
    [(b"{", "is no failed course"), (b"[]", "is no failed course"), (b"{}", "lacks kind")],
)
def test_a_damaged_list_of_failed_courses_is_written_anew(tmp_path, line, words):
    """Its line is told, and what is advised mends it: a fetch that has nothing to ask."""
    path = tmp_path / "out.ndjson"
    failed, manifest = Path(f"{path}.failed.ndjson"), Path(f"{path}.manifest.json")

    def fetch():
        sink = JournaledFile(path, fingerprint={}, run_id="r", durability="none")
        with contextlib.closing(sink):
            if not sink.open().asked:
                commit_to(sink, [course("a", [("1", "Passed", 1.0)]), refused("b")])
            sink.finish({})

    fetch()
    failed.write_bytes(failed.read_bytes() + line)
    with pytest.raises(OutputError, match=f"line 2 {words}; move it and {manifest} away"):
        load(path, to=f"parquet:{tmp_path / 'x'}")
    failed.rename(tmp_path / "one")
    manifest.rename(tmp_path / "two")
    fetch()
    assert load(path, to=f"parquet:{tmp_path / 'x'}").unknown == ("b",)


def test_an_output_of_another_account_is_refused_unless_forced(tmp_path):
    """A Parquet file's ledger tells whose rows came last; one that does not refuses nobody."""
    to = f"parquet:{tmp_path / 'x'}"
    theirs = {"finished": SECOND, "fingerprint": {"endpoint": "other.example"}}
    one = write_output(tmp_path / "one.ndjson", [row("a", "1")], fingerprint={})
    two = write_output(tmp_path / "two.ndjson", [row("a", "2")])
    three = write_output(tmp_path / "three.ndjson", [row("a", "3")], **theirs)
    load(one, to=to)
    load(two, to=to)
    with pytest.raises(ConfigurationError, match=r"is of other.example, .*acme.example.* --force"):
        load(three, to=to)
    assert load(three, to=to, force=True).deleted == 1


MISCOUNTED = pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"empty_courses": ["e"]}, r"courses.fetched is 4, but 2 have rows and 1 .* have none"),
        ({"empty_courses": ["e", "f", "g"]}, r"courses.fetched is 4, but 2 have rows and 3 "),
        ({"empty_courses": ["e", "a"]}, 'empty_courses names "a", which has rows'),
        (
            {"courses": {"fetched": 5, "refused": 0, "failed": 0}},
            r"courses.fetched is 5, but 2 have rows and 2 ",
        ),
        ({"rows": 4}, r"holds 3 rows, but its manifest says 4"),
    ],
)
"""What a manifest may say of courses a and b with three rows and e and f without any."""


@MISCOUNTED
def test_a_manifest_that_miscounts_changes_nothing(place, tmp_path, changes, words):
    """An empty course that the manifest lost would keep its old rows: refused, code 6."""
    load(write_output(tmp_path / "one.ndjson", [row("e", "1")]), to=place.to)
    rows = [row("a", "1"), row("a", "2"), row("b", "1")]
    made = {"empty": ["e", "f"], "finished": SECOND, **changes}
    with pytest.raises(OutputError, match=words) as caught:
        load(write_output(tmp_path / "two.ndjson", rows, **made), to=place.to)
    assert "bulkfetch verify" in str(caught.value)
    assert place.rows() == as_table([row("e", "1")])


@MISCOUNTED
@pytest.mark.parametrize("which", ["old", "new"])
def test_a_manifest_that_miscounts_is_not_compared(tmp_path, changes, words, which):
    """Neither an old nor a new one; that an empty course has rows harms only in the new one."""
    rows = [row("a", "1"), row("a", "2"), row("b", "1")]
    good = write_output(tmp_path / "good.ndjson", rows, empty=["e", "f"])
    bad = write_output(tmp_path / "bad.ndjson", rows, **{"empty": ["e", "f"], **changes})
    if which == "old" and "which has rows" in words:
        return
    with pytest.raises(OutputError, match=words):
        list(diff(*((bad, good) if which == "old" else (good, bad))))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b"Passed", b"Failed")),
            "checksum",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "bytes instead of"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\n"), "bytes instead of"),
        (lambda path: Path(f"{path}.manifest.json").write_text("{}"), "damaged"),
        (lambda path: Path(f"{path}.manifest.json").write_text("[1, 2"), "damaged"),
    ],
)
def test_a_file_that_is_not_what_its_manifest_says_changes_nothing(place, tmp_path, damage, words):
    """Flipped, cut, longer, a broken manifest: exit code 6, and the table is as before."""
    load(write_output(tmp_path / "one.ndjson", first_night()), to=place.to)
    before = place.rows(), place.ledger()
    two = write_output(tmp_path / "two.ndjson", second_night(), finished=SECOND)
    damage(two)
    with pytest.raises(OutputError, match=words) as caught:
        load(two, to=place.to)
    assert caught.value.exit_code == 6
    assert (place.rows(), place.ledger()) == before


@pytest.mark.parametrize("suffix", [".ndjson.gz", ".ndjson.zst"])
@pytest.mark.parametrize("keep", [0.4, 0.99])
def test_a_compressed_file_cut_short_is_noticed(place, tmp_path, suffix, keep):
    """Even if its size in the manifest were right, as after a careless repair."""
    path = write_output(tmp_path / f"one{suffix}", first_night())
    data = path.read_bytes()[: int(path.stat().st_size * keep)]
    path.write_bytes(data)
    manifest = Path(f"{path}.manifest.json")
    manifest.write_text(manifest.read_text().replace('"bytes": ', f'"bytes": {len(data)}, "was": '))
    with pytest.raises(OutputError, match="not what its manifest says"):
        load(path, to=place.to)
    assert place.rows() == []


def test_a_wrong_count_is_noticed(place, tmp_path):
    """The manifest's number of rows is required too."""
    path = write_output(tmp_path / "one.ndjson", [row("a", "1")], rows=2)
    with pytest.raises(OutputError, match="1 rows, but its manifest says 2"):
        load(path, to=place.to)
    assert place.rows() == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: Path(f"{path}.part").write_text(""), "not finished"),
        (lambda path: Path(f"{path}.journal").write_text(""), "not finished"),
        (lambda path: Path(f"{path}.parts").mkdir(), "in parts"),
        (lambda path: None, "no finished output"),
        (lambda path: path.write_text(""), "no finished output"),
    ],
)
def test_what_is_no_finished_output_is_refused_in_words(place, tmp_path, make, words):
    """Unfinished, in parts, nothing there, rows without a manifest: code 2."""
    make(tmp_path / "out.ndjson")
    with pytest.raises(ConfigurationError, match=words):
        load(tmp_path / "out.ndjson", to=place.to)


def test_stamped_rows_have_two_columns_more(place, tmp_path):
    """--stamp's time and run id come along; rows without stamps leave them out."""
    stamp = ("2026-11-24T02:09:00Z", "run-1")
    load(write_output(tmp_path / "one.ndjson", first_night(), stamp=stamp), to=place.to)
    assert place.rows() == as_table(first_night())
    query = "select distinct fetched_at at time zone 'UTC', run_id from {}"
    if place.kind == "postgresql":
        found = place.server.rows(query.format("statuses"))
    elif place.kind == "duckdb":
        with duckdb.connect(place.path, read_only=True) as database:
            found = database.execute(
                "select distinct epoch(fetched_at)::bigint, run_id from statuses"
            ).fetchall()
    else:
        found = duckdb.execute(
            f"select distinct epoch(fetched_at)::bigint, run_id from '{place.path}'"
        ).fetchall()
    at = datetime.fromisoformat("2026-11-24T02:09:00")
    seconds = int(datetime.fromisoformat("2026-11-24T02:09:00Z").timestamp())
    assert found == [(at if place.kind == "postgresql" else seconds, "run-1")]
    two = write_output(tmp_path / "two.ndjson", second_night(), finished=SECOND)
    load(two, to=place.to)
    assert place.rows() == as_table(replaced(first_night(), second_night(), []))


def test_stamped_rows_do_not_go_into_a_table_without_their_columns(place, tmp_path):
    """Refused, with the columns to add; to a Parquet file nobody can add any."""
    load(write_output(tmp_path / "one.ndjson", [row("a", "1")]), to=place.to)
    stamp = ("2026-11-24T02:09:00Z", "run-1")
    two = write_output(tmp_path / "two.ndjson", [row("a", "2")], stamp=stamp, finished=SECOND)
    with pytest.raises(ConfigurationError, match=r"name another$") as caught:
        load(two, to=place.to)
    assert ("add fetched_at timestamp" in str(caught.value).lower()) is (place.kind != "parquet")
    assert place.rows() == as_table([row("a", "1")])


def test_files_are_private(tmp_path):
    """What a load creates is its owner's alone, whatever the umask was."""
    out = write_output(tmp_path / "one.ndjson", first_night())
    for to in ("duckdb:a.duckdb", "parquet:b.parquet"):
        kind, _, name = to.partition(":")
        load(out, to=f"{kind}:{tmp_path / name}")
    made = ["a.duckdb", "b.parquet", "b.parquet.lock"]
    assert {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in made} == (
        dict.fromkeys(made, 0o600)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*made, "one.ndjson", "one.ndjson.manifest.json"]
    )


@pytest.mark.parametrize("extra", [{}, {"note": "x"}])
@pytest.mark.parametrize("bad", [{"progress": "abc"}, {"status": 1}])
def test_a_field_of_another_type_is_never_loaded_as_something_else(place, tmp_path, extra, bad):
    """A word for a number ends the load; a number for a word is its text or ends it too."""
    out = write_output(tmp_path / "one.ndjson", [row("a", "1", **extra) | bad])
    with contextlib.suppress(OutputError):
        load(out, to=place.to)
        assert bad == {"status": 1}
    assert [line[2] for line in place.rows()] in ([], ["1"])


def test_a_terminal_shows_how_much_is_read(tmp_path):
    """The line is redrawn in place and gone at the end; the closing line follows."""
    out = write_output(tmp_path / "one.ndjson", first_night())
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "bulkfetch", "load", str(out), "--to", "duckdb:x.duckdb"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=slave) as process:
        os.close(slave)
        said = b""
        with contextlib.suppress(OSError):
            while data := os.read(master, 1 << 16):
                said += data
        os.close(master)
    assert process.returncode == 0
    assert b"reading 100%\r\x1b[K" in said
    assert said.endswith(b"0 old rows replaced\r\n")
