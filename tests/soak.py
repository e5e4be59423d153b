"""The long run: 100,000 courses, 1 % of every passing fault, and nothing that grows.

    python tests/soak.py                    100,000 courses; some minutes
    python tests/soak.py --courses 3000

Answers 503 and 429, resets before the head and inside the body, and bodies cut in five ways, each
kind for 1 % of the requests. At the end every row is compared by value with what the simulated LMS
holds, memory at the end with that at a tenth of the run, and open descriptors with those before.
"""

import argparse
import asyncio
import ctypes
import gc
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bulkfetch import Hooks, Options, export
from bulkfetch.testing import SimulatedServer, Simulation, serve

SHARE = 0.01
CUTS = 5  # bodies are cut in five ways, and connections reset in two
RESETS = 2
MOST_GROWN = 5.0
ROWS = (0, 6)


def simulation(courses):
    return Simulation(
        seed=3,
        courses=courses,
        rows=ROWS,
        share_503=SHARE,
        share_429=SHARE,
        retry_after=None,
        share_reset=RESETS * SHARE,
        share_cut=CUTS * SHARE,
        gzip=True,
    )


def resident():
    """Memory of this process in MiB: as it is, and with free pages given back to the system.

    Between two looks glibc keeps some MiB of free pages scattered between used ones, which would
    hide a slow leak as well as look like one.
    """
    gc.collect()
    kept = _resident()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    return kept, _resident()


def _resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


class Watch:
    """Looks at the process now and then: after each tenth of the courses."""

    def __init__(self, courses):
        self._step = max(1, courses // 10)
        self._done = 0
        self.resident = []
        self.kinds = Counter()

    def outcome(self, _outcome):
        self._done += 1
        if self._done % self._step == 0:
            self.resident.append(resident())

    def attempt(self, attempt):
        if attempt.error is not None:
            self.kinds[attempt.error.kind] += 1


async def soak(courses, output, adaptive):
    """Export; returns the summary and what was seen."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", str(courses), stdout=asyncio.subprocess.PIPE
    )
    try:
        endpoint = (await process.stdout.readline()).decode().strip()
        ids = SimulatedServer(simulation(courses)).course_ids
        watch = Watch(courses)
        options = Options(
            endpoint=endpoint,
            token="simulated-token",
            concurrency=16,
            adaptive=adaptive,
            retries=30,
            backoff=0.02,
            max_backoff=0.2,
        )
        hooks = Hooks(outcome=watch.outcome, attempt=watch.attempt)
        return await export(ids, output, options, hooks=hooks), watch
    finally:
        process.terminate()
        await process.wait()


def serve_until_stopped(courses):
    """The simulated LMS, in a process of its own, so that its memory is not ours."""
    serve(simulation(courses), on_ready=lambda server: print(server.endpoint, flush=True))


def wrong_rows(courses, output):
    """Compare the output by value; returns how many rows are lost, how many doubled or foreign."""
    found = {}
    with output.open("rb") as lines:
        for line in lines:
            row = json.loads(line)
            key = row["userId"], row["status"], row["progress"]
            found.setdefault(row["contentItemId"], Counter())[key] += 1
    lost = extra = 0
    server = SimulatedServer(simulation(courses))
    for course_id in server.course_ids:
        rows = server.expected_rows(course_id)
        expected = Counter((row["userId"], row["status"], row["progress"]) for row in rows)
        seen = found.pop(course_id, Counter())
        lost += (expected - seen).total()
        extra += (seen - expected).total()
    return lost, extra + sum(seen.total() for seen in found.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--courses", type=int, default=100_000)
    parser.add_argument("--adaptive", action="store_true", help="with the adaptive limiter")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve_until_stopped(given.serve)
        return 0
    before = descriptors()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.ndjson"
        began = time.monotonic()
        summary, watch = asyncio.run(soak(given.courses, output, given.adaptive))
        seconds = time.monotonic() - began
        lost, extra = wrong_rows(given.courses, output)
    left = descriptors() - before
    kept, held = zip(*watch.resident, strict=True)
    grown = held[-1] - held[0]
    good = (lost, extra, summary.failed, left) == (0, 0, 0, 0) and grown <= MOST_GROWN
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in watch.kinds.most_common())
    print(f"courses        {summary.fetched:,} fetched, {summary.failed:,} failed")
    print(f"requests       {summary.requests:,} in {seconds:.0f} s")
    print(f"faults met     {kinds}")
    print(f"rows           {summary.rows:,}: {lost} lost, {extra} doubled or foreign")
    print("resident, MiB  " + " ".join(f"{size:.1f}" for size in kept))
    print("held, MiB      " + " ".join(f"{size:.1f}" for size in held))
    print(f"from 10 %      {grown:+.1f} MiB held at the end; at most {MOST_GROWN:+.1f}")
    print(f"descriptors    {left} left")
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
