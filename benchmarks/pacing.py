"""The limiter against simulated servers in virtual time: `python -m benchmarks.pacing`.

Workers and servers are coroutines on an event loop whose clock jumps to the next timer, so that
minutes pass in a second and every run with the same seed is the same. Each server is met with a
ceiling of 32 or 64 requests at once (eight times too high for those with a capacity, more for those
with a quota) and compared with the best fixed number of them, found by trying.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import selectors
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from bulkfetch._limiter import Limiter
from bulkfetch._pacing import retry_pause

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Result = TypeVar("Result")


class _Jump(selectors.SelectSelector):
    """Waits for nothing: moves the clock on instead."""

    now = 0.0

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("every task waits and no timer is set: this would hang for ever")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds take no time."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run_virtual(main: Coroutine[object, object, Result]) -> Result:
    """Run a coroutine in virtual time, from second 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@dataclass(frozen=True, slots=True)
class Answer:
    good: bool
    seconds: float
    retry_after: float | None = None


class Server(Protocol):
    def answer(self, now: float) -> Answer:
        """Decide what a request arriving `now` gets, and after how many seconds."""


def latency(rng: random.Random, mean: float) -> float:
    """Mostly near the mean, now and then twice of it."""
    return mean * (0.8 + rng.expovariate(5.0))


class Steady:
    """Always the same latency, however many ask; slower by a factor for a period."""

    def __init__(self, rng, *, mean=0.05, slow=(0.0, 0.0), factor=10.0):
        self._rng, self._mean, self._slow, self._factor = rng, mean, slow, factor

    def answer(self, now):
        slow = self._slow[0] <= now < self._slow[1]
        return Answer(
            good=True, seconds=latency(self._rng, self._mean) * (self._factor if slow else 1)
        )


class Capacity:
    """So many lanes with a queue before them; contention makes each request dearer beyond them.

    With `queue`, whoever finds more waiting is refused with 503; from `brownout[0]` to
    `brownout[1]` each request takes `factor` times as long.
    """

    def __init__(
        self,
        rng,
        *,
        lanes=8,
        mean=0.05,
        contention=0.0,
        queue=None,
        brownout=(0.0, 0.0),
        factor=4.0,
    ):
        self._rng, self._mean, self._contention = rng, mean, contention
        self._lanes, self._queue, self._brownout, self._factor = lanes, queue, brownout, factor
        self._free = [0.0] * lanes
        self._ends: list[float] = []

    def answer(self, now):
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        waiting = max(0, len(self._ends) - self._lanes)
        if self._queue is not None and waiting >= self._queue:
            return Answer(good=False, seconds=0.005)
        factor = self._factor if self._brownout[0] <= now < self._brownout[1] else 1.0
        work = latency(self._rng, self._mean) * factor * (1 + self._contention * waiting)
        end = max(now, heapq.heappop(self._free)) + work
        heapq.heappush(self._free, end)
        heapq.heappush(self._ends, end)
        return Answer(good=True, seconds=end - now)


class Quota:
    """A token bucket: `rate` requests a second, 429 for the rest at once."""

    def __init__(self, rng, *, rate=100.0, burst=10.0, mean=0.05, retry_after=None):
        self._rng, self._rate, self._burst, self._mean = rng, rate, burst, mean
        self._retry_after = retry_after
        self._tokens, self._at = burst, 0.0

    def answer(self, now):
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return Answer(good=False, seconds=0.005, retry_after=self._retry_after)
        self._tokens -= 1
        return Answer(good=True, seconds=latency(self._rng, self._mean))


class Windowed:
    """So many requests in each whole second, 429 for the rest."""

    def __init__(self, rng, *, rate=100, mean=0.05):
        self._rng, self._rate, self._mean = rng, rate, mean
        self._second, self._used = -1, 0

    def answer(self, now):
        if int(now) != self._second:
            self._second, self._used = int(now), 0
        self._used += 1
        if self._used > self._rate:
            return Answer(good=False, seconds=0.005)
        return Answer(good=True, seconds=latency(self._rng, self._mean))


class Failing:
    """A share of 503 for a period, whatever the load."""

    def __init__(self, rng, *, share, period, mean=0.05):
        self._rng, self._share, self._period, self._mean = rng, share, period, mean

    def answer(self, now):
        ill = self._period[0] <= now < self._period[1] and self._rng.random() < self._share
        return Answer(good=not ill, seconds=0.005 if ill else latency(self._rng, self._mean))


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    server: Callable[[random.Random], Server]
    seconds: float = 90.0
    warm_up: float = 10.0
    ceiling: int = 64
    goals: bool = True
    """Whether the goals apply: 90 % of the best fixed throughput, 2 % refused."""


MODELS = (
    Model("steady, 50 ms", Steady, ceiling=32, seconds=60),
    Model("capacity, queue grows", Capacity),
    Model("capacity, contention", lambda rng: Capacity(rng, contention=0.03)),
    Model("capacity, 503 past a queue of 8", lambda rng: Capacity(rng, queue=8)),
    Model("429 past 100/s", Quota),
    Model("429 past 100/s, Retry-After 1", lambda rng: Quota(rng, retry_after=1.0)),
    Model("429 past 20/s", lambda rng: Quota(rng, rate=20.0, burst=4.0)),
    Model("429 past 100 in a second", Windowed),
    Model(
        "brown-out: a quarter of the capacity",
        lambda rng: Capacity(rng, queue=8, brownout=(20.0, 35.0)),
        seconds=150,
    ),
    Model("brown-out: latency x10", lambda rng: Steady(rng, slow=(20.0, 35.0)), ceiling=32),
    Model(
        "brown-out: 503 for 20 %, any load",
        lambda rng: Failing(rng, share=0.2, period=(20.0, 35.0)),
        ceiling=32,
        goals=False,
    ),
    Model(
        "503 for 1 %, any load",
        lambda rng: Failing(rng, share=0.01, period=(0.0, 1e9)),
        ceiling=32,
        goals=False,
    ),
    Model(
        "503 for 5 %, any load",
        lambda rng: Failing(rng, share=0.05, period=(0.0, 1e9)),
        ceiling=32,
        goals=False,
    ),
    Model(
        "503 for 30 %, any load",
        lambda rng: Failing(rng, share=0.3, period=(0.0, 1e9)),
        ceiling=32,
        goals=False,
    ),
)


class Meter:
    """Counts what the server answered after the warm-up."""

    def __init__(self, warm_up: float) -> None:
        self.warm_up = warm_up
        self.good = self.refused = 0

    def count(self, now: float, *, good: bool) -> None:
        if now >= self.warm_up:
            self.good += good
            self.refused += not good


async def work(limiter: Limiter, server: Server, meter: Meter, rng: random.Random) -> None:
    """One worker of the engine: course after course, each with its tries."""
    clock = asyncio.get_running_loop().time
    while True:
        attempt = 1
        while not (answer := await once(limiter, server)).good:
            meter.count(clock(), good=False)
            limiter.strained()
            if answer.retry_after:
                limiter.hold(answer.retry_after)
            await limiter.allow_retry()
            pause = retry_pause(
                attempt, backoff=0.5, max_backoff=60, random=rng.random, overload=True
            )
            await asyncio.sleep(pause)
            attempt += 1
        meter.count(clock(), good=True)
        limiter.succeeded(answer.seconds)


async def once(limiter: Limiter, server: Server) -> Answer:
    async with limiter:
        answer = server.answer(asyncio.get_running_loop().time())
        await asyncio.sleep(answer.seconds)
    return answer


@dataclass(frozen=True, slots=True)
class Outcome:
    throughput: float
    refused: float
    limit: int


def measure(model: Model, concurrency: int, *, adaptive: bool, seed: int = 1) -> Outcome:
    """Run one model in virtual time."""

    async def main() -> Outcome:
        rng = random.Random(seed)
        meter = Meter(model.warm_up)
        clock = asyncio.get_running_loop().time
        limiter = Limiter(concurrency, adaptive=adaptive, clock=clock)
        server = model.server(rng)
        tasks = [
            asyncio.ensure_future(work(limiter, server, meter, rng)) for _ in range(concurrency)
        ]
        ended, _ = await asyncio.wait(
            tasks, timeout=model.seconds, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in ended:  # only an error ends a worker early
            task.result()
        answers = meter.good + meter.refused
        return Outcome(
            throughput=meter.good / (model.seconds - model.warm_up),
            refused=meter.refused / max(1, answers),
            limit=limiter.limit,
        )

    return run_virtual(main())


def levels(ceiling: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... up to the ceiling."""
    steps = {1, 2, 3, ceiling}
    for power in range(2, ceiling.bit_length()):
        steps |= {1 << power, 3 << (power - 1)}
    return sorted(step for step in steps if step <= ceiling)


@dataclass(frozen=True, slots=True)
class Row:
    model: str
    throughput: float
    refused: float
    limit: int
    best_fixed: int
    best_throughput: float
    share: float
    goals: bool
    reached: bool


def compare(model: Model, *, seed: int = 1, quick: bool = False) -> Row:
    """Measure the adaptive limiter and the best fixed concurrency; `quick` tries powers of 2."""
    tried = [n for n in levels(model.ceiling) if not quick or n & (n - 1) == 0]
    fixed = {n: measure(model, n, adaptive=False, seed=seed) for n in tried}
    best = max(fixed, key=lambda n: fixed[n].throughput)
    mine = measure(model, model.ceiling, adaptive=True, seed=seed)
    share = mine.throughput / fixed[best].throughput
    return Row(
        model=model.name,
        throughput=mine.throughput,
        refused=mine.refused,
        limit=mine.limit,
        best_fixed=best,
        best_throughput=fixed[best].throughput,
        share=share,
        goals=model.goals,
        reached=share >= 0.9 and mine.refused <= 0.02,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pacing", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(
        f"{'server':38} {'good/s':>7} {'refused':>8} {'limit':>5}  {'best fixed':>16} {'share':>6}"
    )
    rows = []
    for model in MODELS:
        row = compare(model, seed=arguments.seed)
        rows.append(row)
        verdict = "" if row.reached else "  (no goal)" if not row.goals else "  MISSED"
        print(
            f"{row.model:38} {row.throughput:7.1f} {row.refused:8.2%} {row.limit:5} "
            f"{row.best_throughput:8.1f}/s at {row.best_fixed:2} {row.share:6.1%}{verdict}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0 if all(row.reached for row in rows if row.goals) else 1


if __name__ == "__main__":
    raise SystemExit(main())
