"""PostgreSQL alone: passwords that are never shown, and a connection that is lost at the commit."""

import socket
import threading

import pytest
from commands import bulkfetch
from nights import FIRST, SECOND, as_table, first_night, replaced, row, second_night, write_output
from places import Postgres
from server import PASSWORD

from bulkfetch import load

HUSH = "hush&hush"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://loader:hush%26hush@127.0.0.1:1/x",
        "postgresql://loader@127.0.0.1:1/x?password=hush%26hush",
        "postgresql://loader@127.0.0.1:1/x?sslpassword=hush%26hush&sslmode=disable",
        "postgresql://loader@127.0.0.1:1/x?pass%77ord=hush%26hush",
        "postgres://127.0.0.1:1/x?application_name=y&sslpassword=hush%26hush",
    ],
)
def test_a_password_in_the_address_is_warned_of_and_never_shown(tmp_path, address):
    """Wherever in --to it stands: one warning says where else to give it."""
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    done = bulkfetch("load", out, "--to", address, "-vv")
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("a password in --to can be seen") == 1
    assert "PGPASSFILE or a service file" in done.stderr
    assert "hush" not in done.stderr


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://loader@127.0.0.1:1/x?passwort=hush",
        "postgresql://loader@127.0.0.1:1/x?password=hu%zzsh",
        "postgresql://loader@127.0.0.1:1/x?sslmode=hush",
        "postgresql://loader@127.0.0.1:1/x?sslpassword=hush&sslmode=other",
    ],
)
def test_an_address_that_cannot_be_read_shows_no_password(tmp_path, address):
    """A mistyped parameter may be the password: what it says is not repeated."""
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    done = bulkfetch("load", out, "--to", address, "-vv")
    assert done.returncode in {2, 5}
    assert "hush" not in done.stderr.replace('"hush"', "") or "sslmode=hush" in address


def test_no_warning_without_a_password(tmp_path):
    """A user, a key file, a service: nothing to hide."""
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    done = bulkfetch("load", out, "--to", "postgresql://u@127.0.0.1:1/x?sslkey=/k&passfile=/p")
    assert "can be seen" not in done.stderr


def test_a_schema_that_is_not_there_is_to_be_created_first(server, tmp_path, monkeypatch):
    """Code 2: in PostgreSQL a schema has an owner and rights, so it is not made in passing."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    out = write_output(tmp_path / "one.ndjson", [row("a", "1")])
    done = bulkfetch("load", out, "--to", server.url, "--table", "nowhere.statuses")
    assert done.returncode == 2
    assert 'schema "nowhere" does not exist: create it first' in done.stderr


class LostAtCommit:
    """A way to the server that goes away at the commit: before the server has it, or after."""

    def __init__(self, port, *, told):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._target, self._told = port, told
        self.ended = threading.Thread(target=self._serve, daemon=True)
        self.ended.start()

    def _serve(self):
        client, _ = self._listener.accept()
        upstream = socket.create_connection(("127.0.0.1", self._target))
        with self._listener, client, upstream:
            client.settimeout(0.01)
            upstream.settimeout(0.01)
            while True:
                data = received(client)
                if data and b"COMMIT\0" in data:
                    break
                upstream.sendall(data)
                client.sendall(received(upstream))
            if self._told:
                upstream.settimeout(60)
                upstream.sendall(data)
                upstream.recv(1 << 16)  # the server says that it is done; nobody hears it
            client.shutdown(socket.SHUT_RDWR)


def received(end):
    try:
        return end.recv(1 << 16)
    except TimeoutError:
        return b""


@pytest.mark.parametrize("told", [False, True])
def test_the_connection_is_lost_at_the_commit(server, tmp_path, told, monkeypatch):
    """Code 5, not claiming what nobody knows; the same command again ends in the same table."""
    server.execute("drop table if exists statuses, statuses_loads")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    place = Postgres(server)
    load(write_output(tmp_path / "one.ndjson", first_night(), finished=FIRST), to=place.to)
    two = write_output(tmp_path / "two.ndjson", second_night(), finished=SECOND)
    way = LostAtCommit(server.port, told=told)
    url = server.url.replace(str(server.port), str(way.port))
    done = bulkfetch("load", two, "--to", f"{url}?sslmode=disable&gssencmode=disable")
    way.ended.join(60)
    assert done.returncode == 5, done.stderr
    assert "it is not known whether the rows are in" in done.stderr
    assert "as it was before" not in done.stderr
    while server.rows("select 1 from pg_locks where locktype = 'advisory'"):
        pass  # the server has yet to notice that the other end is gone
    assert len(place.ledger()) == 1 + told
    again = bulkfetch("load", two, "--to", place.to)
    assert again.returncode == 0
    assert ("nothing to do" in again.stderr) is told
    assert place.rows() == as_table(replaced(first_night(), second_night(), []))
    assert len(place.ledger()) == 2
