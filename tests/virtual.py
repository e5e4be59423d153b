"""The whole engine in virtual time: a night of outages passes in a second, the same each time.

`passed` runs a coroutine on a loop whose clock jumps; the clock of the engine and of the limiter is
the loop's, and blocking calls are made at once, since a thread would live in the time outside.
`Server` is a scripted LMS whose answers may depend on the time, the course and how often it was
asked for.
"""

import asyncio
import time
from collections import Counter
from contextlib import contextmanager
from unittest import mock

from answers import scripted, statuses, users

from benchmarks.pacing import VirtualLoop
from bulkfetch import Limiter
from bulkfetch.testing import ScriptedTransport

EPOCH = 1_800_000_000.0


class Loop(VirtualLoop):
    def run_in_executor(self, executor, function, *args):
        done = self.create_future()
        try:
            done.set_result(function(*args))
        except Exception as error:  # noqa: BLE001 - the caller's
            done.set_exception(error)
        return done


@contextmanager
def _clocks(loop):
    with (
        mock.patch.object(time, "monotonic", loop.time),
        mock.patch.object(time, "time", lambda: EPOCH + loop.time()),  # noqa: PT008 - it moves
    ):
        yield


def passed(main):
    """Run the coroutine; return its result and how many seconds passed."""
    with asyncio.Runner(loop_factory=Loop) as runner, _clocks(runner.get_loop()):
        return runner.run(main), time.monotonic()


def limiter(options):
    """The limiter of a run with these options, on the clock that is patched now."""
    return Limiter(
        options.concurrency,
        options.rate,
        adaptive=options.adaptive,
        max_hold=options.max_retry_after,
        retry_budget=options.retry_budget,
        clock=time.monotonic,
    )


class Server(ScriptedTransport):
    """Answers with `rows` of the course's own, unless `trouble` returns another reply.

    `trouble` is a function of time, course id and how often the course was asked for before.
    """

    def __init__(self, trouble, *, latency=0.02, rows=2):
        super().__init__(self._answer)
        self.times = []
        self.asked = Counter()
        self._trouble, self._latency, self._rows = trouble, latency, rows

    def _answer(self, request):
        now, course = time.monotonic(), request.course_id
        reply = self._trouble(now, course, self.asked[course])
        self.times.append(now)
        self.asked[course] += 1
        if reply is not None:
            return reply
        return scripted(statuses(users(course, self._rows)), delay=self._latency)
