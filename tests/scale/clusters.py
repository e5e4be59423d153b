"""A Dask cluster of processes of its own, and what a run on it must have come to."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager

from commands import bulkfetch, environment, fetch, until

from bulkfetch._output.inspect import is_running
from bulkfetch._output.parts import find_parts, read_whole
from bulkfetch.testing import expected_rows


@contextmanager
def process(*arguments, before=(), **variables):
    """A process that is killed at the end; `before` are the words of what starts it."""
    with subprocess.Popen(
        [*before, sys.executable, "-m", *map(str, arguments)],
        env=environment(**variables) | {"DASK_DISTRIBUTED__COMM__COMPRESSION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as made:
        try:
            yield made
        finally:
            with_children(made, signal.SIGKILL)


def with_children(made, number):
    try:
        os.killpg(made.pid, number)
    except ProcessLookupError:
        return


class Cluster:
    """A scheduler and its workers."""

    def __init__(self, folder, stack, **variables):
        self._folder = folder
        self._stack = stack
        self.workers = []
        file = folder / "scheduler.json"
        arguments = ["--host", "tcp://127.0.0.1", "--port", "0", "--no-dashboard"]
        self.scheduler = stack.enter_context(
            process(
                "distributed.cli.dask_scheduler",
                *arguments,
                "--scheduler-file",
                file,
                **variables,
            )
        )
        until(lambda: file.exists() and file.read_text().endswith("}"))
        self.address = json.loads(file.read_text())["address"]

    def add_worker(self, before=(), *, ready=True, **variables):
        """Start a worker and, if it shall be `ready`, wait until the scheduler knows it."""
        arguments = ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
        arguments += ["--local-directory", self._folder / "scratch", "--death-timeout", "60"]
        command = ("distributed.cli.dask_worker", self.address, *arguments)
        worker = self._stack.enter_context(process(*command, before=before, **variables))
        self.workers.append(worker)
        if ready:
            until(lambda: known(self.address) >= len(self.workers))
        return worker

    def kill(self, worker):
        """Kill a worker; nobody knows of it beforehand."""
        self.workers.remove(worker)
        with_children(worker, signal.SIGKILL)


def known(address):
    """How many workers a scheduler knows."""
    return asyncio.run(_known(address))


async def _known(address):
    from distributed import rpc

    async with rpc(address) as scheduler:
        return len((await scheduler.identity(n_workers=-1))["workers"])


@contextmanager
def running(folder, **variables):
    """A scheduler without workers, ended with all of them."""
    with ExitStack() as stack:
        yield Cluster(folder, stack, **variables)


def rows_in(path):
    rows = map(json.loads, path.read_text().splitlines())
    return Counter((r["contentItemId"], r["userId"], r["status"], r["progress"]) for r in rows)


def wanted(server):
    return Counter(
        (r["contentItemId"], r["userId"], r["status"], r["progress"])
        for name in server.course_ids
        for r in expected_rows(server.simulation, name)
    )


def held(out):
    """How many courses the parts hold by now."""
    journal = out.with_name(out.name + ".journal")
    return read_whole(out).fetched if journal.exists() and journal.stat().st_size else 0


def check_whole(server, out):
    assert rows_in(out) == wanted(server)
    done = bulkfetch("verify", out)
    assert done.returncode == 0, done.stderr
    assert not out.with_name(out.name + ".parts").exists()


def command(server, cluster, tmp_path, count, *more):
    out = tmp_path / "out.ndjson"
    words = fetch(server, out, tmp_path / "ids", "--scheduler", cluster.address, *more)
    return (*words, "--shards", str(count)), out


def let_go(out):
    """Whether no shard is at work any more."""
    return not any(is_running(part.output) for part in find_parts(out))


def most_in_a_second(starts):
    """The most starts in any second that begins with one."""
    starts, first, most = sorted(starts), 0, 0
    for last, at in enumerate(starts):
        while starts[first] <= at - 1:
            first += 1
        most = max(most, last - first + 1)
    return most
