"""Kills at random moments, many of them: `pytest -m slow -s tests/scale/test_kills.py`.

Moments are numbers of requests that the server has heard, drawn from a seed that is printed; after
each run every row is compared, and the most starts in any second are printed.
"""

import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from clusters import check_whole, command, known, let_go, most_in_a_second, running, with_children
from commands import bulkfetch, started, until

from bulkfetch._output.parts import find_parts
from bulkfetch.testing import SimulatedServer, Simulation

pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here"),
]
COURSES, RATE = 600, 60
SIMULATION = Simulation(courses=COURSES, rows=(0, 4), latency=0.05, seed=16)


@pytest.fixture
def server():
    with SimulatedServer(SIMULATION) as server:
        yield server


def tell(server, *words):
    asked = Counter(server.counters.by_course.values())
    most = most_in_a_second(server.counters.started_at)
    repeated = sum((times - 1) * courses for times, courses in asked.items())
    print(*words, f"asked twice for {repeated} of {COURSES}, most starts in a second {most}")


def at_work(workers):
    """The workers that run a shard just now: they have its part open."""
    found = []
    for worker in workers:
        with suppress(FileNotFoundError):  # of a file that was closed while we looked
            links = Path(f"/proc/{worker.pid}/fd").iterdir()
            opened = [str(link.readlink()) for link in links]
            found += [worker] if any(".parts/" in name for name in opened) else []
    return found


@pytest.mark.parametrize("seed", range(4))
def test_workers_killed(seed, server, tmp_path):
    """Five of them, each at a random moment and replaced; one that Dask gives up is run again."""
    random = Random(seed)
    moments = sorted(random.sample(range(5, COURSES - 50), 5))
    # As many deaths of a task as Dask forgives: with 0 each one gives its shard up.
    forgiven = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(seed % 2 * 3)}
    with running(tmp_path, **forgiven) as cluster:
        cluster.add_worker()
        cluster.add_worker()
        words, out = command(server, cluster, tmp_path, 4, "--rate", f"{RATE}/s")
        with started(*words) as client:
            for moment in moments:
                until(lambda moment=moment: server.counters.requests >= moment)
                until(lambda: at_work(cluster.workers))
                cluster.kill(random.choice(at_work(cluster.workers)))
                cluster.add_worker(ready=False)
            said = client.communicate(timeout=120)[1]
    tell(server, f"seed {seed}: workers killed after {moments} requests,")
    assert client.returncode == 0, said
    check_whole(server, out)


@pytest.mark.parametrize("seed", range(2))
def test_clients_killed(seed, server, tmp_path):
    """Five of them, each followed at once by another with another number of shards."""
    random = Random(seed)
    shards, moment, done = 0, 0, []
    with running(tmp_path) as cluster:
        cluster.add_worker()
        cluster.add_worker()
        for _ in range(5):
            shards = random.choice([n for n in (1, 2, 3, 5, 8) if n != shards])
            moment = server.counters.requests + random.randrange(1, 80)
            done.append((shards, moment))
            words, out = command(server, cluster, tmp_path, shards, "--rate", f"{RATE}/s")
            with started(*words) as client:
                until(lambda moment=moment: server.counters.requests >= moment)
                client.kill()
        words, out = command(server, cluster, tmp_path, 4, "--rate", f"{RATE}/s")
        last = bulkfetch(*words)
    tell(server, f"seed {seed}: clients of (shards) killed after (requests) {done},")
    assert last.returncode == 0, last.stderr
    check_whole(server, out)


def test_a_worker_that_only_seemed_dead(server, tmp_path):
    """Stopped, given up, its shard begun elsewhere, then it wakes: two at one, no row twice."""
    with running(tmp_path, DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="8s") as cluster:
        sleeper = cluster.add_worker()
        cluster.add_worker()
        words, out = command(server, cluster, tmp_path, 2, "--rate", f"{RATE}/s")
        with started(*words) as client:
            until(lambda: len(at_work(cluster.workers)) == 2)
            os.kill(sleeper.pid, signal.SIGSTOP)
            until(lambda: any(Path(part.output).exists() for part in find_parts(out)))
            until(lambda: known(cluster.address) == 1)
            # Now the other worker has its shard done, and the sleeper's, whose lock is held.
            os.kill(sleeper.pid, signal.SIGCONT)
            said = client.communicate(timeout=120)[1]
    tell(server, "a worker stopped and woken:")
    assert client.returncode == 0, said
    check_whole(server, out)
    assert let_go(out)


def test_the_scheduler_killed_and_replaced(server, tmp_path):
    """Its run ends with 5; another cluster goes on with the parts, with other shards."""
    with running(tmp_path) as cluster:
        cluster.add_worker()
        cluster.add_worker()
        words, out = command(server, cluster, tmp_path, 3, "--rate", f"{RATE}/s")
        with started(*words) as client:
            until(lambda: server.counters.requests >= 60)
            with_children(cluster.scheduler, signal.SIGKILL)
            said = client.communicate(timeout=120)[1]
    assert client.returncode == 5, said
    (tmp_path / "scheduler.json").unlink()
    with running(tmp_path) as cluster:
        cluster.add_worker()
        words, out = command(server, cluster, tmp_path, 2, "--rate", f"{RATE}/s")
        done = bulkfetch(*words)
    tell(server, "scheduler killed after 60 requests,")
    assert done.returncode == 0, done.stderr
    check_whole(server, out)
