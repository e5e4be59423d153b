"""What --to and --table cannot name: other machines, passwords in the wrong place, views."""

from pathlib import Path

import duckdb
import psycopg
import pytest
from commands import bulkfetch
from nights import row, write_output
from server import PASSWORD

from bulkfetch._load import postgres


def refused(tmp_path, *words, code=2, **variables):
    """Run a load that ends with a code; return what it said."""
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    done = bulkfetch("load", out, "--to", *words, "-vv", variables=variables, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("duckdb:{folder}", "is a folder"),
        ("parquet:{folder}", "is a folder"),
        ("duckdb:/dev/null", "is no regular file"),
        ("duckdb:{empty}", "is an empty file"),
        ("host=db password=hush", "is no target"),
        ("user@db password=hush:1", "is no target"),
        ("duckdb::memory:", "no file of this machine"),
        ("duckdb:md:nights", "no file of this machine"),
        ("duckdb:md:db?motherduck_token=hush", "is no target"),
        ("duckdb:MotherDuck:db?motherduck_token=hush", "is no target"),
        ("duckdb:sqlite:x.db", "is no target"),
        ("duckdb:x.db?motherduck_token=hush", "is no target"),
        ("duckdb:host=db password=hush", "is no target"),
        ("duckdb://etl:hush@h/db", "is no target"),
        ("duckdb:etl:hush@h/db", "is no target"),
        ("duckdb://etl:hu/sh@h/hush", "is no target"),
        ("duckdb:postgresql://etl:hush@h/db", "is no target"),
        ("parquet://u:hush@h/x", "is no target"),
        ("parquet:s3://key:hush@bucket/x.parquet", "is no target"),
        ("parquet:https://h/x.parquet?sig=hush", "is no target"),
    ],
)
def test_what_cannot_hold_the_rows_is_refused(to, words, tmp_path):
    """Memory, another machine, folders, devices: code 2; what --to says may hold a password."""
    empty = tmp_path / "empty.duckdb"
    empty.touch()
    said = refused(tmp_path, to.format(folder=tmp_path, empty=empty))
    assert words in said
    assert "hu" not in said
    assert empty.exists()
    assert Path("/dev/null").is_char_device()
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"one", "empty"}


@pytest.mark.parametrize("name", ["./a:b@c.x", "a@b.x", "2026-11:c.x"])
@pytest.mark.parametrize("kind", ["duckdb", "parquet"])
def test_a_file_may_be_called_nearly_anything(tmp_path, kind, name):
    """A colon or an @ alone make no address; ./ says that it is a file."""
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    done = bulkfetch("load", out, "--to", f"{kind}:{name}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).is_file()


# PostgreSQL: what no waiting mends is code 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("loader@", "loader:hush-hush@", "PGPASSWORD"),
        ("loader@", "nobody:hush-hush@", "PGPASSWORD"),
        ("/postgres", "/nowhere", "name one that is there"),
        ("/postgres", "/postgres?sslmode=bogus", "correct the address"),
        ("/postgres", "/postgres?sslmode=require", "correct the address"),
        ("/postgres", "/postgres?target_session_attrs=bogus", "correct the address"),
        ("/postgres", "/postgres?connect_timeout=soon", "correct the address"),
        ("/postgres", "/postgres?keepalives_idle=soon", "correct the address"),
        ("/postgres", "/postgres?service=nowhere", "correct the address"),
        ("/postgres", "/postgres?require_auth=none", "PGPASSWORD"),
        ("127.0.0.1:{port}", "127.0.0.1:99999", "correct the address"),
        ("127.0.0.1:{port}", "127.0.0.1:0", "correct the address"),
        ("127.0.0.1:{port}", "127.0.0.1:1,127.0.0.1:99999", "correct the address"),
    ],
)
def test_a_connection_that_no_waiting_mends(server, tmp_path, old, new, words):
    """Code 2 with what to do; the password is not shown, wherever it came from."""
    old = old.format(port=server.port)
    assert server.url.count(old) == 1
    said = refused(tmp_path, server.url.replace(old, new), PGPASSWORD=PASSWORD)
    assert words in said
    assert "hush" not in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("password", "words"), [("hush", "authentication failed"), ("", "no pass")]
)
def test_a_refused_password_is_told_without_it(server, tmp_path, password, words):
    """Code 2: wrong or none, by the environment."""
    said = refused(tmp_path, server.url, PGPASSWORD=password, PGPASSFILE="/nowhere")
    assert words in said
    assert "PGPASSFILE or a service file" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("made", "user", "database", "code"),
    [
        ("create role busy login password 'x' connection limit 0", "busy", "postgres", 5),
        ("create role plain login password 'x'", "plain", "closed", 2),
        ("create role asleep password 'x'", "asleep", "postgres", 2),
    ],
)
def test_what_the_server_says_of_the_user(server, tmp_path, made, user, database, code):
    """Too many connections pass; a user who may not come in does not."""
    server.execute(made)
    server.execute("create database closed")
    try:
        server.execute("revoke connect on database closed from public")
        url = server.url.replace("loader@", f"{user}@").replace("/postgres", f"/{database}")
        refused(tmp_path, url, code=code, PGPASSWORD="x")
    finally:
        server.execute("drop database closed")
        server.execute(f"drop role {user}")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("FATAL:  the database system is starting up", 5),
        ("FATAL:  sorry, too many clients already", 5),
        ("Connection refused\n\tIs the server running on that host?", 5),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", 5),
        ("session is read-only", 5),
        ("server closed the connection unexpectedly", 5),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "u"', 2),
        ("FATAL:  no such database: nights", 2),
        ('root certificate file "/r.crt" does not exist', 2),
        ("SSL error: certificate verify failed", 2),
        ('connection to server on socket "/s" failed: Permission denied', 2),
        ('Connection refused\n- host: b: FATAL:  database "nights" does not exist', 2),
    ],
)
def test_words_of_libpq_that_time_mends_and_others(said, code):
    """What is not known to last may pass: code 5."""
    error = psycopg.OperationalError(f"connection failed: {said}")
    assert postgres._unconnected(psycopg, error, {}).exit_code == code


# A name that is taken by what is no table


@pytest.mark.parametrize(
    ("made", "what"),
    [
        ("create view {} as select 1 as id", "is a view, no table"),
        ("create materialized view {} as select 1 as id", "is a materialized view, no table"),
        ("create sequence {}", "is a sequence, no table"),
        ("create type {} as (id text)", ""),
    ],
)
@pytest.mark.parametrize("name", ["elsewhere", "elsewhere_loads"])
def test_a_postgresql_name_that_is_taken(server, tmp_path, made, what, name):
    """Said for what it is, of the table and of its ledger: code 2."""
    server.execute("drop schema if exists taken cascade; create schema taken")
    server.execute(made.format(f"taken.{name}"))
    words = (server.url, "--table", "taken.elsewhere")
    assert what in refused(tmp_path, *words, PGPASSWORD=PASSWORD)


@pytest.mark.parametrize("view", ["elsewhere", "Elsewhere", "elsewhere_loads"])
def test_a_duckdb_view_is_no_table(tmp_path, view):
    """Said for what it is: code 2."""
    with duckdb.connect(tmp_path / "x.duckdb") as database:
        database.execute(f"create view {view} as select 1 as id")
    said = refused(tmp_path, "duckdb:x.duckdb", "--table", "elsewhere")
    assert f"{view} is a view, no table" in said
