"""What a load makes of what is there already: a damaged file, its mode, rows that are to go."""

import os
import stat

import duckdb
import pytest
from commands import bulkfetch
from nights import SECOND, SECOND_NIGHT, as_table, first_night, replaced, row, write_output
from nights import second_night as second

from bulkfetch import ConfigurationError, OutputError, load
from bulkfetch._load import duck


def flipped(data, at, size=40):
    return data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + size]) + data[at + size :]


DAMAGES = {
    "a page": lambda data: flipped(data, len(data) // 3),
    "the footer": lambda data: flipped(data, len(data) - 12, 4),
    "the ledger": lambda data: flipped(data, data.rindex(b'[{"sha256"'), 2),
    "a line of the ledger": lambda data: data.replace(b'"finished":', b'"finishes":'),
    "cut": lambda data: data[:-20],
    "all but its beginning": lambda data: data[:4],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_parquet_file_is_not_blamed_on_the_new_rows(tmp_path, damage):
    """Code 6, naming the file that is there; it stays as it is."""
    path = tmp_path / "x.parquet"
    load(write_output(tmp_path / "one.ndjson", first_night()), to=f"parquet:{path}")
    bad = DAMAGES[damage](path.read_bytes())
    path.write_bytes(bad)
    two = write_output(tmp_path / "two.ndjson", second(), **SECOND_NIGHT)
    with pytest.raises(OutputError, match=r"x\.parquet, as it is there already, is damaged"):
        load(two, to=f"parquet:{path}")
    assert path.read_bytes() == bad
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda data, at=at: flipped(data, at) for at in (16, 4096, 8192, 12_288)),
        *(lambda data, part=part: flipped(data, int(len(data) * part)) for part in (0.1, 0.5)),
        *(lambda data, size=size: data[:size] for size in (100, 5_000, 13_000)),
        lambda data: data[: len(data) // 2],
    ],
)
def test_a_damaged_duckdb_file_is_told_as_one(tmp_path, damage):
    """Code 6 and what to do: never a file in use, to be tried again for ever, nor a bad table."""
    path = tmp_path / "x.duckdb"
    load(write_output(tmp_path / "one.ndjson", first_night()), to=f"duckdb:{path}")
    path.write_bytes(damage(path.read_bytes()))
    two = write_output(tmp_path / "two.ndjson", second(), **SECOND_NIGHT)
    with pytest.raises(OutputError, match=r"x\.duckdb, as it is there already, is damaged") as told:
        load(two, to=f"duckdb:{path}")
    assert told.value.exit_code == 6


@pytest.mark.parametrize(
    ("kind", "said", "code"),
    [
        ("IOException", "Corrupt database file: checksum 1 does not match in block at 0", 6),
        ("Error", "Corrupt database file: checksum 1 does not match in block at 0", 6),
        ("SerializationException", "Failed to deserialize: field id mismatch", 6),
        ("IOException", 'Could not set lock on file "x": Conflicting lock is held', 5),
        ("IOException", 'Could not open file "corrupt lock checksum": Permission denied', 6),
        ("TransactionException", "Failed to commit: Could not write file: File too large", 6),
        ("TransactionException", "Failed to commit: No space left on device", 6),
        ("TransactionException", "cannot start a transaction within a transaction", 5),
        ("BinderException", 'no column "checksum"', 2),
    ],
)
def test_what_duckdb_says_is_read_alike_in_every_version(kind, said, code):
    """The same damage is an Error in one version and an IOException in another."""
    found = duck._told(duckdb, getattr(duckdb, kind)(said), "/x.duckdb")
    assert found.exit_code == code
    damaged = "damaged" in str(found)
    assert damaged is (code == 6 and "Permission" not in said and "commit" not in said)
    assert ("free some space" in str(found)) is ("No space" in said)


def test_a_row_that_is_damaged_is_still_blamed(tmp_path):
    """The file that is there is whole: then it is the row."""
    path = tmp_path / "x.parquet"
    load(write_output(tmp_path / "one.ndjson", first_night()), to=f"parquet:{path}")
    two = write_output(tmp_path / "two.ndjson", [row("a", "1", "x", "abc")], finished=SECOND)
    with pytest.raises(OutputError, match="a row is not what it should be"):
        load(two, to=f"parquet:{path}")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600, 0o664])
def test_a_parquet_file_keeps_its_mode(tmp_path, mode):
    """Whoever could read last night's file reads tonight's; a new one is its owner's alone."""
    path = tmp_path / "x.parquet"
    load(write_output(tmp_path / "one.ndjson", first_night()), to=f"parquet:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(mode)
    load(write_output(tmp_path / "two.ndjson", second(), **SECOND_NIGHT), to=f"parquet:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_parquet_file_keeps_its_owner(tmp_path):
    """A load by root does not take the file away from those who read it."""
    path = tmp_path / "x.parquet"
    load(write_output(tmp_path / "one.ndjson", first_night()), to=f"parquet:{path}")
    os.chown(path, 1234, 4321)
    path.chmod(0o640)
    load(write_output(tmp_path / "two.ndjson", second(), **SECOND_NIGHT), to=f"parquet:{path}")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 4321, 0o640)


def test_unknown_courses_go_also_when_the_output_is_there_already(place, tmp_path):
    """--drop-unknown on the same output once more: their rows go; after that nothing is to do."""
    load(write_output(tmp_path / "one.ndjson", first_night()), to=place.to)
    two = write_output(tmp_path / "two.ndjson", second(), **SECOND_NIGHT)
    load(two, to=place.to)
    assert "c6" in {one[0] for one in place.rows()}
    done = load(two, to=place.to, drop_unknown=True)
    gone = [*SECOND_NIGHT["empty"], "c6", "c99"]
    assert place.rows() == as_table(replaced(first_night(), second(), gone))
    assert (done.new, done.dropped, len(place.ledger())) == (True, True, 3)
    again = load(two, to=place.to, drop_unknown=True)
    assert (again.new, len(place.ledger())) == (False, 3)


@pytest.mark.parametrize("extra", [{}, {"note": "x"}])
@pytest.mark.parametrize("lacks", ["null", "absent"])
def test_a_row_without_a_learner_is_damaged(place, tmp_path, extra, lacks):
    """Code 6 in all three targets, never a row that belongs to nobody."""
    bad = row("a", None, **extra)
    if lacks == "absent":
        del bad["userId"]
    with pytest.raises(OutputError) as caught:
        load(write_output(tmp_path / "one.ndjson", [row("a", "1"), bad]), to=place.to)
    assert caught.value.exit_code == 6
    assert place.rows() == []


def test_a_table_that_wants_more_than_ours_is_another_shape(tmp_path):
    """A constraint of the table's owner is not blamed on the rows: code 2."""
    path = tmp_path / "x.duckdb"
    with duckdb.connect(path) as database:
        database.execute(
            "create table statuses (content_item_id text not null, user_id text not null, "
            "status text not null, progress double, extra json)"
        )
    with pytest.raises(ConfigurationError, match="does not take the rows"):
        load(write_output(tmp_path / "one.ndjson", [row("a", "1", None)]), to=f"duckdb:{path}")


@pytest.mark.parametrize("kept", [None, 0, 1])
def test_courses_that_no_list_names_are_not_dropped_in_silence(place, tmp_path, kept):
    """The list is gone or cut short: code 6 where it says what to drop, a warning elsewhere."""
    load(write_output(tmp_path / "one.ndjson", first_night()), to=place.to)
    before = place.rows(), place.ledger()
    two = write_output(tmp_path / "two.ndjson", second(), **SECOND_NIGHT)
    listed = tmp_path / "two.ndjson.failed.ndjson"
    lines = listed.read_text().splitlines(keepends=True)
    listed.unlink() if kept is None else listed.write_text("".join(lines[:kept]))
    done = bulkfetch("load", two, "--to", place.to, "--drop-unknown")
    assert done.returncode == 6
    lacks = 3 - (kept or 0)
    assert f"two.ndjson.failed.ndjson lacks {lacks} of the courses" in done.stderr
    assert (place.rows(), place.ledger()) == before
    done = bulkfetch("load", two, "--to", place.to)
    assert done.returncode == 0
    assert f"does not name {lacks} course" in done.stderr
    assert "3 failed or refused courses left alone" in done.stderr
    compared = bulkfetch("diff", tmp_path / "one.ndjson", two, "--stat")
    assert f"does not name {lacks} course" in compared.stderr
