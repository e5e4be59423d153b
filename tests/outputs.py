"""Outputs as runs leave them, made by the sink itself: known rows, times and failures."""

import contextlib
from dataclasses import asdict

import orjson

from bulkfetch import Failed, Fetched, Options, Refused, Transient
from bulkfetch._engine.desk import public_options
from bulkfetch._engine.tally import Tally
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._output.spool import Spool

BEGAN = 1_800_000_000.0
SETTINGS = Options(endpoint="https://acme.example/soap", token="sentinel", concurrency=4)


def course(course_id, rows, *, attempts=1, seconds=0.5):
    """A fetched course; a row is (user, status, progress)."""
    spool = Spool()
    if rows:
        keys = ("contentItemId", "userId", "status", "progress")
        lines = [orjson.dumps(dict(zip(keys, (course_id, *row), strict=True))) for row in rows]
        spool.append(b"\n".join(lines) + b"\n", len(lines))
    return Fetched(course_id, spool, attempts, seconds)


def refused(course_id, message="Unknown content item", kind="unknown-content-item"):
    return Failed(course_id, Refused(kind, message), 1, 0.1)


def timeout(course_id, message="no answer within 300 s"):
    return Failed(course_id, Transient("timeout", message), 6, 9.0)


def commit_to(sink, outcomes):
    """Do with outcomes what an export does."""
    sink.write(sink.prepare(outcomes))
    sink.commit()


class Writer:
    """Runs on one output, their clock in the test's hand."""

    def __init__(self, path):
        self.path = path
        self.now = BEGAN

    @contextlib.contextmanager
    def run(self, name="r1", *, finish=True, stop=None):
        """One run: gives the function that commits outcomes `seconds` after what was before."""
        sink = JournaledFile(
            self.path,
            fingerprint={"endpoint": "acme.example"},
            run_id=name,
            version="1.2.3",
            durability="none",
            clock=lambda: self.now,
        )
        tally, began = Tally(), self.now
        with contextlib.closing(sink):
            sink.open()

            def commit(outcomes, *, seconds=1.0, limit=4):
                self.now += seconds
                commit_to(sink, outcomes)
                for outcome in outcomes:
                    tally.add(outcome)
                    tally.attempted(outcome.seconds)
                state = {"requests": tally.requests, "retries": 2, "waited": {"rate": 1.5}}
                sink.note({"at": self.now, "seconds": self.now - began, "limit": limit, **state})

            yield commit
            if stop:
                sink.stopped(stop)
            if finish:
                tally.retries["http-503"] = 3
                sink.note({"at": self.now, "latencies": tally.latencies()})
                totals = tally.summary(seconds=1.0, waited={"slots": 2.0})
                sink.finish(asdict(totals), public_options(SETTINGS))
