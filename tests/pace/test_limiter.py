"""The limiter in virtual time: who gets a slot, when it starts, and what happens to the cancelled.

The event loop's clock jumps to the next timer; a task that would wait for ever is an error there.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pacing import run_virtual
from bulkfetch._pace.limiter import Limiter


def clock():
    return asyncio.get_running_loop().time()


def make(*args, **more):
    return Limiter(*args, clock=clock, **more)


async def request(limiter, seconds, started):
    async with limiter:
        started.append(clock())
        await asyncio.sleep(seconds)


async def requests(limiter, count, seconds):
    """Start `count` requests at once; returns when each began."""
    started = []
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(request(limiter, seconds, started))
    return started


def test_never_more_than_the_limit_at_once():
    """Of seven requests at a limit of three, three start at once, and so on, in order."""

    async def main():
        limiter = make(3, adaptive=False)
        assert await requests(limiter, 7, 1.0) == [0, 0, 0, 1, 1, 1, 2]
        assert limiter.waited == {"slots": 5.0}
        assert (limiter.in_flight, limiter.started) == (0, 7)

    run_virtual(main())


def test_the_rate_spreads_all_starts():
    """With a rate even the first starts are one interval apart; the waiting is accounted for."""

    async def main():
        limiter = make(8, rate=10)
        assert await requests(limiter, 4, 0.0) == pytest.approx([0, 0.1, 0.2, 0.3])
        assert limiter.waited["rate"] == pytest.approx(0.6)

    run_virtual(main())


def test_slots_are_given_in_the_order_of_asking():
    """A newcomer does not overtake those who wait for a slot."""

    async def main():
        limiter, order = make(1), []

        async def ask(name):
            async with limiter:
                order.append(name)
                await asyncio.sleep(1)
            if name < 3:
                async with limiter:
                    order.append(name + 10)

        async with asyncio.TaskGroup() as group:
            for name in range(5):
                group.create_task(ask(name))
        assert order == [0, 1, 2, 3, 4, 10, 11, 12]

    run_virtual(main())


def test_nothing_is_made_as_long_as_nothing_waits():
    """Entering a free limiter creates no future."""

    async def main():
        limiter = make(2)
        asyncio.get_running_loop().create_future = None
        for _ in range(10):
            async with limiter:
                assert limiter.in_flight == 1

    run_virtual(main())


def test_retry_after_pauses_everybody():
    """During a hold nothing starts, also what waits already; afterwards starts are spread."""

    async def main():
        limiter = make(4, adaptive=False)
        limiter.hold(10)
        assert limiter.waiting == "Retry-After, 10 s left"
        assert await requests(limiter, 4, 0.0) == pytest.approx([10, 10.25, 10.5, 10.75])
        assert limiter.waited["Retry-After"] == 40
        await asyncio.sleep(1)
        assert limiter.waiting is None
        assert await requests(limiter, 4, 0.0) == [clock()] * 4

    run_virtual(main())


def test_a_hold_reaches_those_who_wait_for_their_start():
    """A start time reserved before the hold is given back and taken anew after it."""

    async def main():
        limiter = make(8, rate=1)
        async with asyncio.TaskGroup() as group:
            started = group.create_task(requests(limiter, 4, 0.0))
            await asyncio.sleep(0.5)
            limiter.hold(10, "this machine has no sockets left")
            await asyncio.sleep(4)
            assert limiter.waiting == "this machine has no sockets left, 6 s left"
        starts = started.result()
        assert starts[0] == 0
        assert starts[1] >= 10.5
        assert all(b - a >= 1 - 1e-9 for a, b in pairwise(starts))

    run_virtual(main())


@pytest.mark.parametrize("clock", [lambda: 0.0, lambda: 1e9], ids=["stands at 0", "stands at 1e9"])
def test_a_clock_that_stands_still_hangs_nothing(clock):
    """A wait is over once it was slept, also when the clock does not show it."""

    async def main():
        limiter = Limiter(4, rate=1e-3, clock=clock)
        await requests(limiter, 4, 0.0)
        assert limiter.started == 4

    run_virtual(main())


@pytest.mark.parametrize("step", [-1e6, -3, 3, 1e6])
def test_f133_a_clock_that_steps_costs_little(step):
    """Whatever the clock does in a hold and between paced starts, each start is soon made."""

    async def main():
        behind = [0.0]
        limiter = Limiter(8, rate=2, clock=lambda: clock() + behind[0])
        limiter.hold(5)
        async with asyncio.TaskGroup() as group:
            started = group.create_task(requests(limiter, 8, 0.0))
            await asyncio.sleep(6.2)
            behind[0] = step
        starts = started.result()
        assert all(a <= b for a, b in pairwise(starts))
        assert starts[-1] <= 5 + 8 * 0.5 + 6

    run_virtual(main())


def test_f111_starts_that_were_slept_through_are_planned_anew():
    """After the loop was held for a second the starts of that second are no burst."""

    async def main():
        late = [0.0]

        async def sleep(seconds):
            await asyncio.sleep(seconds)
            if clock() < 2:  # the loop is held from second 1 to 2: whoever wakes then wakes late
                await asyncio.sleep(late[0] and max(0.0, 2 - clock()))

        limiter = make(32, rate=20, adaptive=False, sleep=sleep)
        async with asyncio.TaskGroup() as group:
            started = group.create_task(requests(limiter, 32, 0.0))
            await asyncio.sleep(1)
            late[0] = 1.0
        starts = started.result()
        assert sum(1 <= start <= 2.05 for start in starts) <= 4
        assert all(b - a >= 0.05 - 1e-9 for a, b in pairwise(starts) if b > 2.1)
        assert len(starts) == 32

    run_virtual(main())


def test_f111_a_little_lateness_is_made_up():
    """Starts that are late by less than 20 ms or an interval cost the rate nothing."""

    async def main():
        async def sleep(seconds):
            await asyncio.sleep(seconds + 0.004)

        limiter = make(8, rate=200, adaptive=False, sleep=sleep)
        starts = await requests(limiter, 201, 0.0)
        assert starts[-1] == pytest.approx(1.0, abs=0.01)

    run_virtual(main())


def test_a_hold_is_capped():
    """A server cannot ask for more than max_hold; nonsense holds nothing."""

    async def main():
        limiter = make(1, max_hold=30)
        limiter.hold(-1)
        assert limiter.waiting is None
        limiter.hold(1e9)
        assert await requests(limiter, 1, 0.0) == [30]

    run_virtual(main())


@pytest.mark.parametrize("when", [0.5, 1.0])
def test_a_cancelled_waiter_for_a_slot_leaves_it_to_the_next(when):
    """Cancelled while waiting, or in the moment the slot came: the slot goes to the next."""

    async def main():
        limiter, started = make(1), []

        async def cancel_second():
            await asyncio.sleep(when)
            tasks[1].cancel()

        tasks = [asyncio.create_task(request(limiter, 1.0, started)) for _ in range(3)]
        await cancel_second()
        await asyncio.wait(tasks)
        assert tasks[1].cancelled()
        assert started == [0, 1]
        assert limiter.in_flight == 0

    run_virtual(main())


def test_a_slot_that_comes_with_the_cancellation_is_handed_on():
    """When the slot is given and the waiter cancelled in one step, the next gets it."""

    async def main():
        limiter, started = make(1), []
        await limiter.__aenter__()
        tasks = [asyncio.create_task(request(limiter, 0.0, started)) for _ in range(2)]
        await asyncio.sleep(0)
        await limiter.__aexit__()
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert tasks[0].cancelled()
        assert len(started) == 1
        assert limiter.in_flight == 0

    run_virtual(main())


def test_a_cancelled_waiter_is_passed_over():
    """A slot freed between the cancellation and its arrival goes to the next in line."""

    async def main():
        limiter, started = make(1), []
        await limiter.__aenter__()
        tasks = [asyncio.create_task(request(limiter, 0.0, started)) for _ in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await limiter.__aexit__()
        await asyncio.wait(tasks)
        assert len(started) == 1
        assert limiter.in_flight == 0

    run_virtual(main())


def test_a_cancelled_waiter_for_its_start_gives_the_slot_back():
    """Cancelled in a hold, a request keeps no slot and counts for nothing; its time goes unused."""

    async def main():
        limiter = make(1)
        limiter.hold(10)
        task = asyncio.create_task(request(limiter, 0.0, []))
        await asyncio.sleep(1)
        assert limiter.in_flight == 1
        task.cancel()
        await asyncio.wait([task])
        assert (limiter.in_flight, limiter.started) == (0, 0)
        assert await requests(limiter, 1, 0.0) == [11]

    run_virtual(main())


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.floats(0, 3), st.none() | st.floats(0, 4)),
        min_size=1,
        max_size=25,
    ),
    st.integers(1, 4),
    st.none() | st.floats(0.5, 20),
    st.none() | st.floats(0, 4),
)
def test_no_slot_is_ever_lost(visits, concurrency, rate, hold_at):
    """Whoever comes, stays or is cancelled when: bounds hold, all others get in, all is freed."""

    async def main():
        limiter, started = make(concurrency, rate=rate, adaptive=False), []

        async def visit(arrive, stay, cancel_at):
            await asyncio.sleep(arrive)
            async with asyncio.timeout_at(cancel_at), limiter:
                assert limiter.in_flight <= concurrency
                started.append(clock())
                await asyncio.sleep(stay)

        tasks = [asyncio.create_task(visit(*plan)) for plan in visits]
        if hold_at is not None:
            await asyncio.sleep(hold_at)
            limiter.hold(2)
        await asyncio.wait(tasks)
        for task, (_, _, cancel_at) in zip(tasks, visits, strict=True):
            assert task.exception() is None or cancel_at is not None
        assert limiter.in_flight == 0
        if rate is not None:
            gaps = [b - a for a, b in pairwise(started)]
            assert all(gap >= 1 / rate - 1e-6 for gap in gaps)
        await requests(limiter, concurrency, 0.0)

    run_virtual(main())


def test_strain_takes_slots_away_and_success_gives_them_back():
    """Below what is in flight no slot is given out until it fits; then the limit climbs again."""

    async def main():
        limiter = make(8)
        for _ in range(4):
            limiter.succeeded(0.05)
        assert limiter.limit == 8
        async with asyncio.TaskGroup() as group:
            first = group.create_task(requests(limiter, 8, 1.0))
            await asyncio.sleep(0.5)
            for _ in range(9):  # a bunch, of which seven are enough
                limiter.strained()
            assert limiter.limit < 8
            later = group.create_task(requests(limiter, 6, 1.0))
            await asyncio.sleep(0.1)
            assert limiter.in_flight == 8
            assert limiter.waiting == "the server strains: 4 of 8 at once"
        assert first.result() == [0] * 8
        assert later.result() == [1] * 4 + [2] * 2
        for _ in range(200):
            limiter.succeeded(0.05)
        assert limiter.limit == 8

    run_virtual(main())


def test_a_raised_limit_lets_the_waiting_in():
    """Those who wait for a slot get it as soon as successes raise the limit."""

    async def main():
        limiter = make(16)
        async with asyncio.TaskGroup() as group:
            started = group.create_task(requests(limiter, 16, 1.0))
            await asyncio.sleep(0.5)
            for _ in range(8):
                limiter.succeeded(0.5)
        assert started.result() == [0] * 8 + [0.5] * 8

    run_virtual(main())


def test_without_adapting_the_limit_is_the_concurrency():
    """With adaptive off neither strain nor success moves the limit."""

    async def main():
        limiter = make(8, adaptive=False)
        for _ in range(20):
            limiter.strained()
            limiter.succeeded(0.1)
        assert limiter.limit == 8
        limiter.hold(1)
        await requests(limiter, 1, 0.0)
        await asyncio.sleep(1)
        assert await requests(limiter, 8, 0.0) == [clock()] * 8

    run_virtual(main())


def test_a_learned_rate_is_kept_and_named():
    """After refusals of a fast server starts are spaced, and the progress line can say why."""

    async def main():
        limiter = make(4)
        for _ in range(200):
            await asyncio.sleep(0.01)
            limiter.succeeded(0.01)
        for _ in range(2):  # one cut is enough for both
            for _ in range(20):
                limiter.strained()
            await asyncio.sleep(0.1)
        async with asyncio.TaskGroup() as group:
            started = group.create_task(requests(limiter, 20, 0.0))
            await asyncio.sleep(0.05)
            assert limiter.waiting == "the server takes about 94/s"
        starts = started.result()
        assert starts[-1] - starts[0] == pytest.approx(19 / 94, rel=0.02)

    run_virtual(main())


def test_the_users_rate_is_named():
    """The progress line names the user's own rate when that is what requests wait for."""

    async def main():
        limiter = make(4, rate=0.5)
        async with asyncio.TaskGroup() as group:
            group.create_task(requests(limiter, 2, 0.0))
            await asyncio.sleep(1)
            assert limiter.waiting == "limit 0.5/s"
        assert limiter.waiting is None

    run_virtual(main())


def test_a_retry_beyond_the_budget_waits():
    """Once the minimum is used up a retry waits for the window, or for requests that earn it."""

    async def main():
        limiter, allowed = make(8), 0
        while limiter.waited.get("retry budget", 0) == 0:
            async with asyncio.TaskGroup() as group:
                retry = group.create_task(limiter.allow_retry())
                await asyncio.sleep(0)
                if not retry.done():
                    assert limiter.waiting == "retry budget"
            allowed += 1
        assert allowed >= 2
        assert clock() == pytest.approx(10)
        waiting = asyncio.create_task(exhaust(limiter))
        await asyncio.sleep(1)
        assert limiter.waiting == "retry budget"
        before = clock()
        await requests(limiter, 1000, 0.0)
        await waiting
        assert clock() - before < 1

    async def exhaust(limiter):
        for _ in range(200):
            await limiter.allow_retry()

    run_virtual(main())


def test_one_limiter_serves_several_streams():
    """Two streams with one limiter together keep its bounds."""

    async def main():
        limiter = make(2, adaptive=False)
        async with asyncio.TaskGroup() as group:
            both = [group.create_task(requests(limiter, 3, 1.0)) for _ in range(2)]
        assert sorted(both[0].result() + both[1].result()) == [0, 0, 1, 1, 2, 2]

    run_virtual(main())
