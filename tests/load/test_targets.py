"""Targets that will not have the rows: another shape, in use, unreachable, killed in mid-load."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest
from commands import bulkfetch, environment
from nights import SECOND, as_table, first_night, row, second_night, write_output

from bulkfetch import OutputError, load
from bulkfetch.cli.commands.load import closing_line

WRONG = "create table statuses (id text, n int)"
KEYED = (
    "create table statuses (content_item_id text not null, user_id text not null, status text, "
    "progress double precision, extra json, primary key (content_item_id, user_id))"
)


def execute(place, statement):
    if place.kind == "postgresql":
        place.server.execute(statement)
    elif place.kind == "duckdb":
        with duckdb.connect(place.path) as database:
            database.execute(statement)
    else:
        duckdb.execute(f"copy (select 1 as id, 2 as n) to '{place.path}'")


def loaded(place, tmp_path):
    """A first night in the table, and the second one still to be loaded."""
    load(write_output(tmp_path / "one.ndjson", first_night()), to=place.to)
    return write_output(tmp_path / "two.ndjson", second_night(), finished=SECOND)


def test_a_table_of_another_shape_is_left_alone(place, tmp_path):
    """Code 2, with the columns that it has and those that it would need."""
    execute(place, WRONG)
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    done = bulkfetch("load", out, "--to", place.to)
    assert done.returncode == 2
    assert "another shape" in done.stderr
    assert "content_item_id" in done.stderr


def test_a_key_that_a_repeated_learner_breaks(place, tmp_path):
    """A table with a primary key cannot hold what the server says: code 2, nothing changed."""
    if place.kind == "parquet":
        pytest.skip("a Parquet file has no keys")
    execute(place, KEYED)
    out = write_output(tmp_path / "one.ndjson", [row("a", "1"), row("a", "1")])
    done = bulkfetch("load", out, "--to", place.to)
    assert done.returncode == 2, done.stderr
    assert place.rows() == []


def test_a_target_in_use_is_not_waited_for_long(place, tmp_path):
    """Somebody else writes there: code 5, and the table is as before."""
    two = loaded(place, tmp_path)
    before = place.rows()
    with holding(place):
        done = bulkfetch(
            "load", two, "--to", place.to, variables={"PGOPTIONS": "-c lock_timeout=1"}
        )
    assert done.returncode == 5, done.stderr
    assert place.rows() == before
    assert bulkfetch("load", two, "--to", place.to).returncode == 0


@contextlib.contextmanager
def holding(place):
    """Hold the target as a second writer does."""
    if place.kind == "postgresql":
        with place.server.connect() as connection, connection.transaction():
            connection.execute("lock table statuses in row exclusive mode")
            yield
    else:
        holder = (
            f"import duckdb; file = duckdb.connect({str(place.path)!r})"
            if place.kind == "duckdb"
            else f"import fcntl; file = open('{place.path}.lock'); fcntl.flock(file, fcntl.LOCK_EX)"
        )
        script = f"{holder}\nprint(1, flush=True)\ninput()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
            process.stdout.readline()
            yield
            process.kill()


@pytest.mark.parametrize(
    ("to", "code", "words"),
    [
        ("duckdb:no/folder/x.duckdb", 2, "no folder"),
        ("parquet:no/folder/x.parquet", 2, "no folder"),
        ("duckdb:one.ndjson", 2, "no DuckDB file"),
        ("parquet:one.ndjson", 2, "no Parquet file"),
        ("duckdb:", 2, "no target"),
        ("sqlite:x.db", 2, "no target"),
        ("x.duckdb", 2, "no target"),
        ("postgresql://loader:se%zcret@127.0.0.1/x", 2, "cannot be read"),
        ("postgresql://loader:secret@127.0.0.1:port/x", 2, "cannot be read"),
        ("postgresql://loader:se/cret@127.0.0.1/x", 2, "cannot be read"),
        ("postgresql://loader:se@cret@127.0.0.1/x", 2, "cannot be read"),
        ("postgresql://loader:secret@127.0.0.1:1/x", 5, "cannot be reached"),
        ("postgresql://loader:secret@no-such-host.invalid/x", 5, "cannot be reached"),
    ],
)
def test_a_target_that_cannot_be(tmp_path, to, code, words):
    """Said in words, with a code that tells a job what to do; no password in any of them."""
    write_output(tmp_path / "one.ndjson", [row("a", "1")])
    before = (tmp_path / "one.ndjson").read_bytes()
    done = bulkfetch("load", "one.ndjson", "--to", to, "-vv", cwd=tmp_path)
    assert (tmp_path / "one.ndjson").read_bytes() == before
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "cret" not in done.stderr.replace("_secret", "")


@pytest.mark.parametrize("name", ["", "a.", ".b", "x" * 60, "a\nb", "a.b.c", "a..b"])
def test_a_table_that_has_no_name(tmp_path, name):
    """Code 2 before anything is touched."""
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    done = bulkfetch("load", out, "--to", "duckdb:x.duckdb", "--table", name, cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "x.duckdb").exists()


@pytest.mark.parametrize("name", ['we"ird; drop table x', "Über", "lms.Learners"])
def test_a_table_by_any_other_name(place, tmp_path, name):
    """Names are quoted; a schema before the dot is made in DuckDB and expected in PostgreSQL."""
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    if place.kind == "parquet":
        assert bulkfetch("load", out, "--to", place.to, "--table", name).returncode == 2
        return
    if place.kind == "postgresql":
        execute(place, "drop schema if exists lms cascade; create schema lms")
    for words in ("1 row of 1 course loaded", "nothing to do"):
        done = bulkfetch("load", out, "--to", place.to, "--table", name)
        assert done.returncode == 0, done.stderr
        assert words in done.stderr


# Killed at any moment: the table is as it was before, and the same command then does the work.

MOMENTS = ("reading", "half", "before the end")


def victim(place, out, moment):
    """Run a load that kills itself at a moment; give its return code."""
    when = {
        "reading": "load.load(sys.argv[1], to=sys.argv[2], progress=lambda done, size: die())",
        "half": "patch('check_count'); load.load(sys.argv[1], to=sys.argv[2])",
        "before the end": "last(); load.load(sys.argv[1], to=sys.argv[2])",
    }[moment]
    script = f"""
import os, signal, sys
from bulkfetch._load import duck, load, parquet, plan, postgres
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def patch(name):
    for module in (duck, parquet, postgres):
        if hasattr(module, name):
            setattr(module, name, die)
def last():
    patch("_publish")  # Parquet
    duck.Moved = postgres.Moved = die  # all is done but the commit
{when}
"""
    command = [sys.executable, "-c", script, str(out), place.to]
    return subprocess.run(command, check=False, env=environment(), timeout=300).returncode


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_mid_load(place, tmp_path, moment):
    """The table and its ledger are as before; the same command then loads everything."""
    two = loaded(place, tmp_path)
    before = place.rows(), place.ledger()
    assert victim(place, two, moment) == -signal.SIGKILL
    assert (place.rows(), place.ledger()) == before
    done = load(two, to=place.to)
    assert (done.new, done.rows) == (True, len(second_night()))
    assert len(place.ledger()) == 2


def test_killed_in_the_first_load(place, tmp_path):
    """There is no table then, or an empty one, and the next load is an ordinary first one."""
    out = write_output(tmp_path / "one.ndjson", first_night())
    assert victim(place, out, "half") == -signal.SIGKILL
    assert place.rows() == []
    load(out, to=place.to)
    assert place.rows() == as_table(first_night())


class Cut:
    """A way to the server that is cut off after so many bytes from the client."""

    def __init__(self, port, after):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._target, self._left = port, after
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        client, _ = self._listener.accept()
        upstream = socket.create_connection(("127.0.0.1", self._target))
        threading.Thread(target=self._back, args=(upstream, client), daemon=True).start()
        while self._left > 0 and (data := client.recv(min(1 << 14, self._left))):
            upstream.sendall(data)
            self._left -= len(data)
        for end in (client, upstream):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._listener.close()

    def _back(self, upstream, client):
        with contextlib.suppress(OSError):
            while data := upstream.recv(1 << 14):
                client.sendall(data)


@pytest.mark.parametrize("after", [900, 2_000, 40_000])
def test_the_connection_is_cut_in_mid_load(server, tmp_path, after, monkeypatch):
    """Code 5, the table as before; the same command then does the work."""
    from places import Postgres
    from server import PASSWORD

    server.execute("drop table if exists statuses, statuses_loads")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    place = Postgres(server)
    two = loaded(place, tmp_path)
    before = place.rows(), place.ledger()
    cut = Cut(server.port, after)
    url = (
        f"{server.url.replace(str(server.port), str(cut.port))}?sslmode=disable&gssencmode=disable"
    )
    done = bulkfetch("load", two, "--to", url)
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("\n") == 1
    assert (place.rows(), place.ledger()) == before
    assert bulkfetch("load", two, "--to", place.to).returncode == 0
    assert len(place.ledger()) == 2


@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_a_full_disk(tmp_path, kind):
    """A file that may not grow: code 6, and what was there before is unharmed."""
    from places import PLACES

    place = PLACES[kind](tmp_path)
    load(write_output(tmp_path / "one.ndjson", [row("a", "1")]), to=place.to)
    two = write_output(tmp_path / "two.ndjson", second_night(), finished=SECOND)
    script = "ulimit -f 16; trap '' XFSZ; exec \"$@\""
    command = ["bash", "-c", script, "_", sys.executable, "-m", "bulkfetch", "load", str(two)]
    done = subprocess.run(
        [*command, "--to", place.to], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 6, done.stderr
    assert place.rows() == as_table([row("a", "1")])
    assert not [path for path in tmp_path.iterdir() if ".tmp" in path.name]


def test_the_closing_line_and_the_json_event(tmp_path):
    """One line: rows, courses, replaced, left alone; ids that are strangers' text do no harm."""
    failed = [("u1\x1b[2J", "unknown-content-item"), ("f1", "timeout")]
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")], empty=["b"], failed=failed)
    done = bulkfetch("load", out, "--to", f"duckdb:{tmp_path / 'x.duckdb'}")
    assert done.returncode == 0
    assert done.stderr == (
        f"{tmp_path / 'x.duckdb'}: 1 row of 2 courses loaded, 0 old rows replaced; "
        "2 failed or refused courses left alone; 1 of them unknown to the server left alone "
        "(--drop-unknown deletes their rows): u1\\x1b[2J\n"
    )
    done = bulkfetch("load", out, "--to", f"parquet:{tmp_path / 'x.p'}", "--log-format", "json")
    event = json.loads(done.stderr)
    assert (event["event"], event["rows"], event["new"]) == ("loaded", 1, True)
    again = bulkfetch("load", out, "--to", f"parquet:{tmp_path / 'x.p'}")
    assert "nothing to do" in again.stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limited": None, "partial": None}, ""),
        ({"limited": {"asked": 5, "of": 4300}}, " (5 of 4,300 ids asked)"),
        ({"partial": {"parts": 1, "of": 2, "unfinished": 0}}, " (1 of 2 parts)"),
        (
            {
                "limited": {"asked": 5, "of": 43},
                "partial": {"parts": 2, "of": 2, "unfinished": 1},
            },
            " (5 of 43 ids asked, 2 of 2 parts, 1 of them unfinished)",
        ),
    ],
)
def test_the_closing_line_says_what_the_output_lacks(tmp_path, changes, words):
    """That --limit cut the list, or that parts lacked, is told when it is loaded, and again."""
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")], **changes)
    first, again = (load(out, to=f"parquet:{tmp_path / 'x.p'}") for _ in range(2))
    assert f"1 row of 1 course loaded{words}, 0 old rows" in closing_line("OUT", first)
    assert f"OUT is there already{words}: nothing to do" in closing_line("OUT", again)


@pytest.mark.parametrize("what", ["other rows", "cut"])
def test_an_output_that_is_written_to_meanwhile(place, tmp_path, what):
    """Rows other than those that were hashed never get into a table: code 6, and all as before."""
    out = write_output(tmp_path / "out.ndjson", first_night())
    good, done = out.read_bytes(), []

    def meddle(read, _size):
        if read == len(good) and not done:  # hashed to the end, not yet read by the target
            done.append(read)
            with out.open("r+b") as file:
                file.truncate(1000) if what == "cut" else file.write(bad)

    bad = good.replace(b"Passed", b"Failed")
    os.utime(out, (0, 0))  # finished long ago
    if place.kind == "postgresql":  # read and hashed at once
        load(out, to=place.to, progress=meddle)
        assert (done, place.rows()) == ([len(good)], as_table(first_night()))
        return
    with pytest.raises(OutputError, match=r"out\.ndjson was written to while") as caught:
        load(out, to=place.to, progress=meddle)
    assert (caught.value.exit_code, place.rows(), place.ledger()) == (6, [], [])


def test_an_output_that_is_moved_meanwhile(place, tmp_path):
    """Another name, mode or link, or none at all, changes no row: it is loaded."""
    out = write_output(tmp_path / "out.ndjson", first_night())

    def move(_read, _size):
        if out.exists():
            out.chmod(0o640)
            (tmp_path / "link").hardlink_to(out)
            out.rename(tmp_path / "old.ndjson")

    load(out, to=place.to, progress=move)
    assert not out.exists()
    assert place.rows() == as_table(first_night())


@pytest.mark.parametrize("package", ["duckdb", "psycopg"])
def test_a_package_that_is_missing_is_named(tmp_path, package):
    """Code 2 and what to install."""
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise ImportError")
    to = "duckdb:x.duckdb" if package == "duckdb" else "postgresql://127.0.0.1:1/x"
    done = bulkfetch("load", out, "--to", to, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'bulkfetch[" in done.stderr


# diff as a command


def test_diff_prints_rows_and_nothing_else(tmp_path):
    """Each line a row with `_op`; the counts go to stderr, or with --stat alone to stdout."""
    old = write_output(tmp_path / "old.ndjson", [row("a", "1"), row("a", "2"), row("f", "1")])
    new = write_output(
        tmp_path / "new.ndjson",
        [row("a", "1", "Failed", 3.0), row("b", "1", note="x")],
        failed=[("f", "timeout")],
        finished=SECOND,
    )
    done = bulkfetch("diff", old, new)
    assert done.returncode == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        row("a", "1", "Failed", 3.0, _op="changed", _old=row("a", "1")),
        row("a", "2", _op="removed"),
        row("b", "1", note="x", _op="added"),
    ]
    counts = (
        "rows      1 added, 1 changed, 1 removed, 0 unchanged\n"
        "courses   2 compared\n"
        "left out  1 course failed or refused\n"
    )
    assert done.stderr == counts
    stat = bulkfetch("diff", old, new, "--stat")
    assert (stat.stdout, stat.stderr) == (counts, "")


def test_diff_whose_reader_goes_away_ends_quietly(tmp_path):
    """A closed pipe is code 141, without a word."""
    old = write_output(tmp_path / "old.ndjson", [])
    new = write_output(tmp_path / "new.ndjson", second_night() * 3, finished=SECOND)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        command = [sys.executable, "-m", "bulkfetch", "diff", str(old), str(new)]
        done = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, check=False, timeout=300
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_nothing_of_a_large_course_stays_behind(tmp_path, monkeypatch):
    """Parts live in files without names, freed also when the reader stops early."""
    from bulkfetch import diff
    from bulkfetch._load import partition

    monkeypatch.setattr(partition, "LARGE", 1)
    old = write_output(tmp_path / "old.ndjson.gz", first_night())
    new = write_output(tmp_path / "new.ndjson.gz", second_night(), finished=SECOND)
    before = set(Path("/dev/fd").iterdir()), sorted(Path(tmp_path).iterdir())
    comparison = diff(old, new)
    next(comparison)
    comparison.close()
    assert (set(Path("/dev/fd").iterdir()), sorted(Path(tmp_path).iterdir())) == before


def test_a_row_without_a_field_hides_no_other_rows_extra(place, tmp_path):
    """One field too few and one too many: refused, never loaded with the one too many lost."""
    few = {name: value for name, value in row("a", "1").items() if name != "progress"}
    out = write_output(tmp_path / "one.ndjson", [few, row("a", "2", note="x")])
    done = bulkfetch("load", out, "--to", place.to)
    if done.returncode == 0:
        assert [one[-1] for one in place.rows() if one[1] == "2"] == [{"note": "x"}]
    else:
        assert done.returncode == 6
