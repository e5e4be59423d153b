"""The limiter against simulated servers in virtual time: `python -m benchmarks.pacing`.

Workers and servers are coroutines on an event loop whose clock jumps to the next timer, so that
minutes pass in a second and every run with the same seed is the same. Servers that strain or limit
are met with a ceiling that is much too high, and compared with `--no-adaptive` and with the best
fixed setting, found by trying `-c` and `--rate` in the same run. Servers that fail at random are
given jobs of some hundred to some thousand courses, and compared with `--no-adaptive`.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import selectors
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Protocol, TypeVar

from bulkfetch._pace.limiter import Limiter
from bulkfetch._pace.rules import retry_pause

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

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
    overload: bool = True
    """Whether one that is not good is a 429 or 503; otherwise the connection was reset."""


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


class Connections:
    """So many requests under way at once, 503 for the rest: nginx's `limit_conn`."""

    def __init__(self, rng, *, most, mean=0.05):
        self._rng, self._most, self._mean = rng, most, mean
        self._ends: list[float] = []

    def answer(self, now):
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        if len(self._ends) >= self._most:
            return Answer(good=False, seconds=0.005)
        seconds = latency(self._rng, self._mean)
        heapq.heappush(self._ends, now + seconds)
        return Answer(good=True, seconds=seconds)


class Failing:
    """A share of failures for a period, whatever the load; `resets` of them are no overload."""

    def __init__(self, rng, *, share, period=(0.0, inf), mean=0.05, resets=0.0, retry_after=None):
        self._rng, self._share, self._period, self._mean = rng, share, period, mean
        self._resets, self._retry_after = resets, retry_after

    def answer(self, now):
        ill = self._period[0] <= now < self._period[1] and self._rng.random() < self._share
        overload = not ill or self._rng.random() >= self._resets
        seconds = 0.005 if ill else latency(self._rng, self._mean)
        asked = self._retry_after if ill and overload else None
        return Answer(good=not ill, seconds=seconds, retry_after=asked, overload=overload)


@dataclass(frozen=True, slots=True)
class Model:
    """A server, how long it is met, and what it takes where that is known."""

    name: str
    server: Callable[[random.Random], Server]
    seconds: float = 90.0
    warm_up: float = 10.0
    ceiling: int = 64
    goals: bool = True
    """Whether the goals apply: 90 % of the best fixed throughput, 2 % refused."""
    takes: float | None = None
    """Requests per second that the server takes at most; `--rate` is tried around it."""


def _limiter(rate: float, **more: float) -> Callable[[random.Random], Server]:
    return lambda rng: Quota(rng, rate=rate, **more)


def _connections(most: int) -> Callable[[random.Random], Server]:
    return lambda rng: Connections(rng, most=most)


def _failing(share: float, **more: object) -> Callable[[random.Random], Server]:
    return lambda rng: Failing(rng, share=share, **more)


STRAINED = (
    Model("steady, 50 ms", Steady, ceiling=32, seconds=60),
    Model("capacity, queue grows", Capacity),
    Model("capacity, contention", lambda rng: Capacity(rng, contention=0.03)),
    Model("capacity, 503 past a queue of 8", lambda rng: Capacity(rng, queue=8)),
    Model("429 past 100/s", Quota, takes=100),
    Model("429 past 100/s, Retry-After 1", lambda rng: Quota(rng, retry_after=1.0), takes=100),
    Model("429 past 20/s", lambda rng: Quota(rng, rate=20.0, burst=4.0), takes=20),
    Model("429 past 100 in a second", Windowed, takes=100),
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
    Model("503 for 1 %, any load", _failing(0.01), ceiling=32, goals=False),
    Model("503 for 5 %, any load", _failing(0.05), ceiling=32, goals=False),
    Model("503 for 30 %, any load", _failing(0.3), ceiling=32, goals=False),
)
# A 503 and a 429 are the same to the limiter, so that each stands for both.
LIMITERS = tuple(
    Model(
        f"{rate}/s, {'no burst' if burst == 1 else f'burst {burst}'}"
        + (f", Retry-After {after}" if after else ""),
        _limiter(float(rate), burst=float(burst), retry_after=after, mean=mean),
        seconds=120,
        takes=float(rate),
        ceiling=ceiling,
    )
    for rate, bursts, mean, ceiling in (
        (2, (1,), 0.1, 8),
        (10, (1, 10), 0.25, 8),
        (10, (1, 10), 0.25, 32),
        (50, (1, 50), 0.1, 32),
        (200, (1, 200), 0.1, 64),
    )
    for burst in bursts
    for after in (None, 1.0)
) + tuple(
    Model(f"at most {most} at once", _connections(most), ceiling=ceiling, seconds=120)
    for most in (2, 5, 10)
    for ceiling in (8, 32)
    if most < ceiling
)
MODELS = STRAINED + LIMITERS


@dataclass(slots=True)
class Meter:
    """Counts what the server answered after the warm-up, and how many courses failed in a row."""

    warm_up: float = 0.0
    good: int = 0
    refused: int = 0
    ever: bool = False
    """Whether anything good came at all."""
    in_a_row: int = 0
    """The most distinct courses that failed between two good answers."""
    failed: int = 0
    """Courses that ran out of tries."""
    _row: set[int] = field(default_factory=set)

    def count(self, now: float, course: int, *, good: bool) -> None:
        if good:
            self.ever = True
            self._row.clear()
        else:
            self._row.add(course)
            self.in_a_row = max(self.in_a_row, len(self._row))
        if now >= self.warm_up:
            self.good += good
            self.refused += not good


class Crew:
    """The engine's workers: course after course, and others at work while some rest."""

    def __init__(
        self, setting: Setting, server: Server, courses: Iterator[int], *, meter: Meter, seed: int
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.limiter = Limiter(
            setting.concurrency, setting.rate, adaptive=setting.adaptive, clock=self._loop.time
        )
        self._most, self._server, self._courses = setting.concurrency, server, courses
        self._meter, self._rng = meter, random.Random(seed)
        self._workers: set[asyncio.Task[None]] = set()
        self._resting = 0

    async def run(self, seconds: float) -> float:
        """Work until no course is left, at most so long; returns how long it was."""
        for _ in range(self._most):
            self._hire()
        try:
            async with asyncio.timeout(seconds):
                while self._workers:
                    await asyncio.wait(self._workers)
        except TimeoutError:
            for worker in self._workers:
                worker.cancel()
            await asyncio.wait(self._workers)
        return self._loop.time()

    def _hire(self) -> None:
        worker = asyncio.ensure_future(self._work())
        self._workers.add(worker)
        worker.add_done_callback(self._leave)

    def _leave(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled():
            worker.result()

    async def _work(self) -> None:
        while len(self._workers) - self._resting <= self._most:
            if (course := next(self._courses, None)) is None:
                return
            await self._course(course)

    async def _course(self, course: int) -> None:
        for attempt in range(1, 7):
            if attempt > 1:
                await self.limiter.allow_retry()
            answer = await self._once(course)
            if answer.good:
                return
            await self._rest(
                retry_pause(
                    attempt,
                    backoff=0.5,
                    max_backoff=60,
                    random=self._rng.random,
                    retry_after=answer.retry_after,
                    overload=answer.overload,
                )
            )
        self._meter.failed += 1

    async def _rest(self, seconds: float) -> None:
        self._resting += 1
        if self._meter.ever and self._resting <= 4 * self._most:
            self._hire()
        await asyncio.sleep(seconds)
        self._resting -= 1

    async def _once(self, course: int) -> Answer:
        async with self.limiter:
            began = self._loop.time()
            await asyncio.sleep(self._rng.uniform(0.0005, 0.0007))  # the way there
            answer = self._server.answer(self._loop.time())
            await asyncio.sleep(answer.seconds)
            now = self._loop.time()
            self._meter.count(now, course, good=answer.good)
            if answer.good:
                self.limiter.succeeded(now - began)
            elif answer.overload:
                self.limiter.strained(now - began)
            if answer.retry_after:
                self.limiter.hold(answer.retry_after)
        return answer


@dataclass(frozen=True, slots=True)
class Setting:
    """What a user would choose."""

    concurrency: int
    rate: float | None = None
    adaptive: bool = False

    def __str__(self) -> str:
        return f"--rate {self.rate:g}" if self.rate else f"-c {self.concurrency}"


@dataclass(frozen=True, slots=True)
class Outcome:
    throughput: float
    refused: float
    limit: int
    seconds: float
    in_a_row: int
    failed: int


def measure(
    model: Model, setting: Setting, *, seed: int = 1, courses: int | None = None
) -> Outcome:
    """Run one model in virtual time, to its end or for a number of courses."""

    async def main() -> Outcome:
        meter = Meter(0.0 if courses else model.warm_up)
        numbers = iter(range(courses)) if courses else iter(range(10**9))
        server = model.server(random.Random(seed))
        crew = Crew(setting, server, numbers, meter=meter, seed=seed + 1000)
        seconds = await crew.run(1e6 if courses else model.seconds)
        answers = meter.good + meter.refused
        return Outcome(
            throughput=meter.good / (seconds - meter.warm_up),
            refused=meter.refused / max(1, answers),
            limit=crew.limiter.limit,
            seconds=seconds,
            in_a_row=meter.in_a_row,
            failed=meter.failed,
        )

    return run_virtual(main())


def settings(model: Model) -> list[Setting]:
    """Return the fixed settings to try: `-c` 1, 2, 4, 5, ..., `--rate` near what it takes."""
    steps = {1 << power for power in range(model.ceiling.bit_length())} | {5, 10, model.ceiling}
    fixed = [Setting(step) for step in sorted(steps) if step <= model.ceiling]
    rates = (0.95, 0.98) if model.takes else ()
    return fixed + [Setting(model.ceiling, round(model.takes * share, 2)) for share in rates]


@dataclass(frozen=True, slots=True)
class Row:
    """How the adaptive limiter did with a server, beside the others."""

    model: str
    ceiling: int
    throughput: float
    refused: float
    limit: int
    in_a_row: int
    unadapted: float
    unadapted_refused: float
    best_fixed: str
    best_throughput: float
    share: float
    goals: bool
    reached: bool


def compare(model: Model, *, seed: int = 1) -> Row:
    """Measure the adaptive limiter, none, and the best fixed setting."""
    fixed = {one: measure(model, one, seed=seed) for one in settings(model)}
    best = max(fixed, key=lambda one: fixed[one].throughput)
    none = fixed[Setting(model.ceiling)]
    mine = measure(model, Setting(model.ceiling, adaptive=True), seed=seed)
    share = mine.throughput / fixed[best].throughput
    return Row(
        model=model.name,
        ceiling=model.ceiling,
        throughput=mine.throughput,
        refused=mine.refused,
        limit=mine.limit,
        in_a_row=mine.in_a_row,
        unadapted=none.throughput,
        unadapted_refused=none.refused,
        best_fixed=str(best),
        best_throughput=fixed[best].throughput,
        share=share,
        goals=model.goals,
        reached=share >= 0.9 and mine.refused <= 0.02,
    )


@dataclass(frozen=True, slots=True)
class Luck:
    """How much longer a job took with learning than without, the mean and the worst seed."""

    share: float
    courses: int
    concurrency: int
    seconds: float
    unadapted: float
    ratio: float
    worst: float
    in_a_row: int

    @property
    def reached(self) -> bool:
        return self.ratio <= 1.35


def luck(
    share: float,
    courses: int,
    concurrency: int,
    *,
    seeds: tuple[int, ...],
    retry_after: float | None = None,
) -> Luck:
    """Time jobs with a server that fails a share of requests, a third of them by a reset.

    With `retry_after` none is reset, and each asks for a pause.
    """
    resets = 0.0 if retry_after else 1 / 3
    server = _failing(share, mean=0.12, resets=resets, retry_after=retry_after)
    model = Model("luck", server)
    pairs = [
        tuple(
            measure(model, Setting(concurrency, adaptive=adaptive), seed=seed, courses=courses)
            for adaptive in (True, False)
        )
        for seed in seeds
    ]
    mine = fmean(pair[0].seconds for pair in pairs)
    without = fmean(pair[1].seconds for pair in pairs)
    return Luck(
        share=share,
        courses=courses,
        concurrency=concurrency,
        seconds=mine,
        unadapted=without,
        ratio=mine / without,
        worst=max(pair[0].seconds / pair[1].seconds for pair in pairs),
        in_a_row=max(pair[0].in_a_row for pair in pairs),
    )


def print_servers(*, seed: int, only: str) -> list[Row]:
    """Print how the adaptive limiter does with each server."""
    print(
        f"{'server':38} {'-c':>3} {'good/s':>7} {'refused':>8} {'row':>4}  "
        f"{'--no-adaptive':>15}  {'best fixed':>22} {'share':>6}"
    )
    rows = []
    for model in MODELS:
        if only not in model.name:
            continue
        row = compare(model, seed=seed)
        rows.append(row)
        verdict = "" if row.reached else "  (no goal)" if not row.goals else "  MISSED"
        print(
            f"{row.model:38} {row.ceiling:3} {row.throughput:7.1f} {row.refused:8.2%} "
            f"{row.in_a_row:4}  {row.unadapted:7.1f} {row.unadapted_refused:7.1%}  "
            f"{row.best_throughput:7.1f}/s {row.best_fixed:>12} {row.share:6.1%}{verdict}",
            flush=True,
        )
    return rows


def print_luck(
    *, seeds: tuple[int, ...], full: bool, retry_after: float | None = None
) -> list[Luck]:
    """Print what learning costs with servers that fail at random, or ask for pauses at random."""
    what = f"Retry-After {retry_after:g}" if retry_after else "fails at random"
    print(f"\n{what:16} {'courses':>7} {'-c':>3} {'s':>7} {'without':>8} ratio worst")
    rows = []
    for share in (0.02, 0.05, 0.1) if retry_after else (0.02, 0.05, 0.1, 0.15, 0.3):
        for courses in (300, 1000, 5000) if full else (300, 1000):
            for concurrency in (8, 32):
                row = luck(share, courses, concurrency, seeds=seeds, retry_after=retry_after)
                rows.append(row)
                print(
                    f"{row.share:16.0%} {row.courses:7} {row.concurrency:3} {row.seconds:7.1f} "
                    f"{row.unadapted:8.1f} {row.ratio:5.2f} {row.worst:5.2f}"
                    f"{'' if row.reached else '  MISSED'}",
                    flush=True,
                )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pacing",
        description=__doc__,
        epilog="It takes some seven minutes of one core, with --full some twelve.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--seed", type=int, default=1, help="the first of those that are taken")
    parser.add_argument("--seeds", type=int, default=4, help="how many, for failures at random")
    parser.add_argument("--full", action="store_true", help="jobs of 5,000 courses too")
    parser.add_argument("--only", default="", metavar="TEXT", help="servers with this in the name")
    arguments = parser.parse_args()
    rows = print_servers(seed=arguments.seed, only=arguments.only)
    seeds = tuple(range(arguments.seed, arguments.seed + arguments.seeds))
    chance = [] if arguments.only else print_luck(seeds=seeds, full=arguments.full)
    if arguments.only in {"", "Retry-After"}:
        chance += print_luck(seeds=seeds, full=arguments.full, retry_after=2.0)
    if arguments.json:
        figures = {"servers": rows, "failures at random": chance}
        text = {name: [asdict(row) for row in table] for name, table in figures.items()}
        arguments.json.write_text(json.dumps(text, indent=2) + "\n")
    return (
        0
        if all(row.reached or not row.goals for row in rows) and all(row.reached for row in chance)
        else 1
    )


if __name__ == "__main__":
    raise SystemExit(main())
