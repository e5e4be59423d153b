"""A fetch on a Dask cluster: a scheduler and workers as processes of their own, one folder."""

import fcntl
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from clusters import (
    check_whole,
    command,
    held,
    let_go,
    most_in_a_second,
    rows_in,
    running,
    wanted,
    with_children,
)
from commands import bulkfetch, environment, fetch, started, until

from bulkfetch import Options, OutputLocked, shards
from bulkfetch._output.parts import find_parts
from bulkfetch.testing import SimulatedServer, Simulation

pytest.importorskip("distributed")
TOKEN = "simulated-token"
SIMULATION = Simulation(courses=120, rows=(0, 4), latency=0.05)


@pytest.fixture
def cluster(tmp_path):
    with running(tmp_path) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """A cluster with one worker, for runs that leave it as it was."""
    with running(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.add_worker()
        yield cluster


@pytest.fixture
def server():
    with SimulatedServer(SIMULATION) as server:
        yield server


def test_deaths(cluster, server, tmp_path):
    """A worker killed in mid-shard, then the client: with other shards the rest, no row twice."""
    cluster.add_worker()
    victim = cluster.add_worker()
    words, out = command(server, cluster, tmp_path, 4, "--rate", "60/s")
    with started(*words) as client:
        until(lambda: held(out) >= 20)
        cluster.kill(victim)
        until(lambda: held(out) >= 50)
        client.kill()
    until(lambda: let_go(out))
    words, out = command(server, cluster, tmp_path, 3)
    done = bulkfetch(*words)
    assert done.returncode == 0, done.stderr
    check_whole(server, out)
    # What was in flight at the two kills may have been asked for twice, nothing else.
    assert 120 <= server.counters.requests <= 120 + 3 * 8
    assert most_in_a_second(sorted(server.counters.started_at)[:50]) <= 60 * 1.03 + 2


def test_a_run_in_parts_is_told(server, tmp_path, monkeypatch):
    """While only parts are there, the commands that look at an output know how far it is."""
    monkeypatch.setenv("BULKFETCH_TOKEN", TOKEN)
    out = tmp_path / "out.ndjson"
    shards.run_shard(shards.plan(server.course_ids, out, Options(endpoint=server.endpoint), 4)[1])
    assert "fetched" in bulkfetch("status", out).stdout
    assert bulkfetch("report", out).returncode == 0
    assert bulkfetch("verify", out).returncode == 7
    assert "not finished" in bulkfetch("retry-failed", out).stderr


@contextmanager
def tapped(address):
    """A way to the scheduler that keeps all bytes which pass in either direction."""
    host, port = address.removeprefix("tcp://").split(":")
    seen = []

    def pump(source, sink):
        kept = bytearray()
        seen.append(kept)
        with suppress(OSError):
            while block := source.recv(1 << 16):
                kept.extend(block)
                sink.sendall(block)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    class Tap(socketserver.BaseRequestHandler):
        def handle(self):
            with socket.create_connection((host, int(port))) as there:
                back = threading.Thread(target=pump, args=(there, self.request))
                back.start()
                pump(self.request, there)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tap) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


CONTROL = """
import os, sys
from distributed import Client
with Client(sys.argv[1], timeout="20s") as client:
    client.submit(len, os.environ["BULKFETCH_TOKEN"]).result()
"""


def test_the_token_is_not_in_the_traffic(cluster, tmp_path):
    """All bytes to and from the scheduler hold no token; one passed as an argument is found."""
    token = "sentinel-7f3a91"
    bare = {"DASK_DISTRIBUTED__COMM__COMPRESSION": "false"}
    with (
        SimulatedServer(replace(SIMULATION, token=token)) as server,
        tapped(cluster.address) as tap,
    ):
        cluster.address, seen = tap
        cluster.add_worker(token=token)
        words, out = command(server, cluster, tmp_path, 2)
        done = bulkfetch(*words, token=token, variables=bare)
        assert done.returncode == 0, done.stderr
        check_whole(server, out)
        assert sum(map(len, seen)) > 10_000
        size, times = sum(map(len, seen)), sum(kept.count(token.encode()) for kept in seen)
        assert times == 0
        subprocess.run(
            [sys.executable, "-c", CONTROL, cluster.address],
            env=environment(token, **bare),
            check=True,
            timeout=300,
        )
        control = sum(kept.count(token.encode()) for kept in seen)
        print(f"{size:,} bytes hold the token {times} times; as a task's argument {control} times")
        assert control


@pytest.mark.slow
def test_the_scheduler_dies(cluster, server, tmp_path):
    """Nobody begins anything without it, the parts stay, and another one goes on."""
    cluster.add_worker()
    words, out = command(server, cluster, tmp_path, 2, "--rate", "60/s")
    with started(*words) as client:
        until(lambda: held(out) >= 10)
        with_children(cluster.scheduler, signal.SIGKILL)
        said = client.communicate(timeout=300)[1]
        assert client.returncode == 5, said
        assert "the scheduler" in said
    until(lambda: let_go(out))
    assert server.counters.requests <= held(out) + 8
    done = bulkfetch(*fetch(server, out, tmp_path / "ids"))
    assert done.returncode == 0, done.stderr
    check_whole(server, out)


async def test_every_worker_gets_a_shard(standing):
    """As many shards run at once as the workers have threads."""
    from distributed import Client

    from bulkfetch._scale.looks import check_workers

    options = Options(endpoint="https://acme.example/")
    async with Client(standing.address, asynchronous=True) as client:
        assert await check_workers(client, options) == len(standing.workers)


def test_ctrl_c(standing, server, tmp_path):
    """The first Ctrl-C lets all shards finish what is in flight; one process goes on alone."""
    words, out = command(server, standing, tmp_path, 2, "--rate", "60/s")
    with started(*words) as client:
        until(lambda: held(out) >= 10)
        client.send_signal(signal.SIGINT)
        said = client.communicate(timeout=300)[1]
        assert client.returncode == 130, said
    assert server.counters.requests == held(out)  # nothing in flight was thrown away
    done = bulkfetch(*fetch(server, out, tmp_path / "ids"))
    assert done.returncode == 0, done.stderr
    assert server.counters.requests == 120
    check_whole(server, out)


def test_a_shard_that_is_stopped_stops_all(standing, tmp_path):
    """A refused token ends the run with its code and reason; the parts stay."""
    with SimulatedServer(replace(SIMULATION, token="another")) as server:
        words, out = command(server, standing, tmp_path, 3)
        done = bulkfetch(*words)
    assert done.returncode == 4, done.stderr
    assert "(shard " in done.stderr
    assert find_parts(out)


@pytest.mark.parametrize(
    ("brake", "failed", "courses", "stopped"),
    [
        ({"max_errors": "3"}, (1, 2), 9, None),
        ({"max_errors": "3"}, (2, 2), 9, "4 of 18 courses failed or were refused"),
        ({"max_errors": "10%"}, (4, 4), 9, None),  # too few to judge a share
        ({"max_errors": "10%"}, (1, 1), 10, None),
        ({"max_errors": "10%"}, (2, 1), 10, "3 of 20 courses failed .* max_errors 10%"),
        ({"fail_fast": True}, (1, 0), 9, None),  # the shard tells of its course
        ({"max_duration": 7}, (0, 0), 9, "stopped after 7 s, as max_duration says"),
    ],
)
def test_brakes_of_the_whole_run(brake, failed, courses, stopped):
    """What counts courses or time is judged over all shards together."""
    from bulkfetch._scale.cluster import Crew

    crew = Crew(Options(endpoint="https://acme.example/", **brake), None)
    crew.saw([{"courses": courses, "failed": number} for number in failed], seconds=7.0)
    assert re.search(stopped or "^None$", str(crew.stopped))


def test_overwrite_refused(standing, server, tmp_path, monkeypatch):
    """Who may not begin anew, since another run holds the output, removes nothing."""
    monkeypatch.setenv("BULKFETCH_TOKEN", TOKEN)
    words, out = command(server, standing, tmp_path, 2, "--overwrite")
    for job in shards.plan(server.course_ids, out, Options(endpoint=server.endpoint), 2):
        shards.run_shard(job)
    parts = out.with_name(out.name + ".parts")
    before = {path: path.read_bytes() for path in parts.iterdir()}
    with out.with_name(out.name + ".journal").open("r+b") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        done = bulkfetch(*words)
    assert (done.returncode, "another run holds" in done.stderr) == (5, True)
    assert {path: path.read_bytes() for path in parts.iterdir()} == before
    assert bulkfetch(*words).returncode == 0
    assert server.counters.requests == 240  # all of them anew
    check_whole(server, out)


def test_one_shard_twice(server, tmp_path, monkeypatch):
    """Who comes second to a shard gets the lock's refusal."""
    monkeypatch.setenv("BULKFETCH_TOKEN", TOKEN)
    out = tmp_path / "out.ndjson"
    options = Options(endpoint=server.endpoint, concurrency=1)
    (job,) = shards.plan(server.course_ids, out, options, 1)
    script = "import pickle, sys; f, x = pickle.load(sys.stdin.buffer); f(x)"
    import pickle

    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, env=environment()
    ) as first:
        first.stdin.write(pickle.dumps((shards.run_shard, job)))
        first.stdin.close()
        until(lambda: held(out) >= 3)
        with pytest.raises(OutputLocked):
            shards.run_shard(job)
        first.kill()
    shards.run_shard(job)
    shards.merge([job.output], out)
    assert rows_in(out) == wanted(server)
