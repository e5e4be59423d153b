import pytest
import server as postgres


@pytest.fixture(scope="session")
def server():
    """One PostgreSQL server for all tests of a session."""
    if reason := postgres.why_no_server():
        pytest.skip(reason)
    with postgres.running() as running:
        yield running


@pytest.fixture(params=["duckdb", "parquet", "postgresql"])
def place(request, tmp_path, monkeypatch):
    """Each of the three targets, empty: where to load to, and what is read from it."""
    from places import PLACES

    kind = request.param
    if kind == "postgresql":
        running = request.getfixturevalue("server")
        running.execute("drop table if exists statuses, statuses_loads")
        monkeypatch.setenv("PGPASSWORD", postgres.PASSWORD)
        return PLACES[kind](running)
    return PLACES[kind](tmp_path)
