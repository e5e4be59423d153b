"""What a run does when much fails: exit codes, requests and seconds, in virtual time.

    python tests/trials.py

Bad courses among good ones, servers that never work, and an outage in the middle of a run.
"""

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # virtual time comes from the benchmarks

from answers import fault, options, scripted
from virtual import Server, limiter, passed

from bulkfetch import RunError, Transient, export
from bulkfetch.testing import ScriptedReply

REAL = {"adaptive": True, "backoff": 0.5, "max_retry_after": 300.0, "grace": 30.0}
KINDS = {
    "500": lambda: ScriptedReply(status=500),
    "cut": lambda: scripted(b"<?xml version='1.0'?><a><b>"),
    "malformed": lambda: scripted(b"<?xml version='1.0'?><a></b>"),
    "foreign": lambda: scripted(b"<?xml version='1.0'?><other/>"),
    "403": lambda: ScriptedReply(status=403, pieces=[b"Forbidden"]),
    "unknown fault": lambda: scripted(fault("Division by zero"), status=500),
}
NOBODY = lambda: ScriptedReply(error=Transient("connect", "connection refused"))  # noqa: E731
DROPPED = lambda: ScriptedReply(  # noqa: E731
    error=Transient("connect-timeout", "no answer while connecting", overload=True), delay=10.0
)
PAGE = lambda: scripted(b"<!doctype html><title>Log in</title>")  # noqa: E731
DEAD = {
    "server down": NOBODY,
    "503 only": lambda: ScriptedReply(status=503),
    "wrong token": lambda: scripted(fault("Authorization failed"), status=500),
    "expired": lambda: scripted(fault("Account subscription expired"), status=500),
    "all unknown": lambda: scripted(fault("Unknown content item"), status=500),
    "wrong path": lambda: ScriptedReply(status=404, pieces=[b"not here"]),
    "login page": PAGE,
}
OUTAGES = {"nobody": NOBODY, "503": DEAD["503 only"], "HTML": PAGE, "dropped": DROPPED}


def night(ids, output, server, **changes):
    """One run of the command; return exit code, requests, seconds, whether it was published."""
    settings = options(**REAL | changes)
    before = len(server.requests)

    async def main():
        try:
            summary = await export(
                ids, output, settings, transport=server, limiter=limiter(settings)
            )
        except RunError as error:
            return error.exit_code
        return int(summary.failed > 0)

    code, seconds = passed(main())
    return code, len(server.requests) - before, seconds, Path(output).exists()


def bad_courses(kind, number, *, spread, courses=1_000):
    """Three nights of a list of which `number` always fail."""
    step = courses // number if spread else 1
    start = 0 if spread else courses // 2
    bad = {f"c{start + place * step}" for place in range(number)}
    reply = KINDS[kind]()
    server = Server(lambda _, course, __: reply if course in bad else None)
    ids = [f"c{place}" for place in range(courses)]
    with tempfile.TemporaryDirectory() as folder:
        return [night(ids, f"{folder}/out.ndjson", server) for _ in range(3)]


def dead(kind, number):
    """A server that never gives a good answer."""
    reply = DEAD[kind]()
    with tempfile.TemporaryDirectory() as folder:
        ids = [f"c{place}" for place in range(number)]
        return night(ids, f"{folder}/out.ndjson", Server(lambda *_: reply))


def outage(kind, *, seconds=60.0, courses=5_000, **changes):
    """A server that fails for some time in the middle of a run; seconds lost beyond that too."""
    ids = [f"c{place}" for place in range(courses)]
    reply = OUTAGES[kind]()
    lost = []
    for begin in (1e9, 5.0):
        server = Server(
            lambda now, *_, begin=begin: reply if begin <= now < begin + seconds else None
        )
        with tempfile.TemporaryDirectory() as folder:
            code, requests, took, _ = night(ids, f"{folder}/out.ndjson", server, **changes)
            rows = len(Path(f"{folder}/out.ndjson").read_bytes().splitlines()) if code == 0 else 0
        lost.append(took)
    return code, requests, rows, lost[1] - lost[0] - seconds


def main():
    print("1,000 courses of which some always fail: exit, requests, seconds of three nights")
    for kind in KINDS:
        for number in (1, 3, 6, 19, 25, 60, 300):
            for spread in (True, False):
                nights = bad_courses(kind, number, spread=spread)
                told = "   ".join(
                    f"{code} {requests:>6,} {seconds:>7.1f} {'' if published else 'NOT PUBLISHED'}"
                    for code, requests, seconds, published in nights
                )
                where = "spread" if spread else "adjacent"
                print(f"{kind:<14}{number:>4} {where:<9}{told}", flush=True)
    print("\na server that never works: exit, requests, seconds, with 3, 30 and 3,000 ids")
    for kind in DEAD:
        cells = [dead(kind, number) for number in (3, 30, 3_000)]
        told = "   ".join(
            f"{code} {requests:>5,} {seconds:>6.1f}" for code, requests, seconds, _ in cells
        )
        print(f"{kind:<14}{told}", flush=True)
    print("\n60 s of outage in 5,000 courses: exit, requests, rows, seconds lost beyond it")
    for kind in OUTAGES:
        code, requests, rows, lost = outage(kind)
        print(f"{kind:<14}{code} {requests:>6,} {rows:>7,} {lost:>7.1f}", flush=True)
    print("10 minutes, --patience 15m")
    for kind in OUTAGES:
        code, requests, rows, lost = outage(kind, seconds=600.0, patience=900.0)
        print(f"{kind:<14}{code} {requests:>6,} {rows:>7,} {lost:>7.1f}")


if __name__ == "__main__":
    sys.exit(main())
