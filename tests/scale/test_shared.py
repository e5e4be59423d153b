"""What shards share, at given times: starts never above the rate, holds and ends for all."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch import Options
from bulkfetch._scale.leased import LeasedLimiter, Leases
from bulkfetch._scale.shared import SharedRun

OPTIONS = Options(endpoint="https://acme.example/", concurrency=4, rate=10)


@given(
    rate=st.sampled_from([0.5, 20, 200]),
    asks=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 32)), max_size=60),
)
def test_never_above_the_rate(rate, asks):
    """Whoever asks, when and for how many: starts are an interval apart, whatever is used."""
    run, now, starts = SharedRun(rate, 300, now=0.0), 0.0, []
    for pause, count in asks:
        now += pause
        given = run.lease(now, count)
        assert 1 <= len(given) <= count
        starts += [now + seconds for seconds in given]
    assert starts == sorted(starts)
    assert all(b - a >= 1 / rate - 1e-6 for a, b in pairwise(starts))


def test_starts_are_given_out_for_a_second_at_most():
    """A slow rate is not given away to one shard that may die."""
    assert SharedRun(2, 300, now=0.0).lease(0.0, 32) == [0.0, 0.5, 1.0, 1.5]


def test_a_hold_reaches_all():
    """After a Retry-After no start is given out before its end, and every shard hears of it."""
    run = SharedRun(10, 300, now=0.0)
    run.hold(1.0, 5.0, "Retry-After")
    assert run.lease(1.0, 1) == pytest.approx([5.0])
    news = run.pulse(2.0, "0/2", None, None)
    assert (news["held"], news["cause"]) == (4.0, "Retry-After")


def test_what_one_shard_waits_for():
    """The others wait with it, itself does not, and not for one that has fallen silent."""
    run = SharedRun(None, 300, now=0.0)
    assert run.pulse(0.0, "0/2", None, "http-500")["shut"] is None
    assert run.pulse(1.0, "1/2", None, None)["shut"] == "http-500"
    assert run.pulse(9.0, "1/2", None, None)["shut"] is None
    run.pulse(9.0, "0/2", None, "http-500")
    run.pulse(9.5, "0/2", None, None)
    assert run.pulse(9.6, "1/2", None, None)["shut"] is None


@pytest.mark.parametrize(("silent", "ended"), [(59.0, False), (61.0, True)])
def test_a_client_that_is_gone(silent, ended):
    """Shards end when nobody has looked for a minute."""
    run = SharedRun(None, 300, now=0.0)
    run.look(10.0)
    assert bool(run.pulse(10.0 + silent, "0/1", None, None)["stop"]) is ended


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


async def test_a_start_that_is_missed_is_lost():
    """A start time that comes too late is not used: another is asked for."""
    clock, given = Clock(), [[0.0], [0.5]]

    async def ask(count):
        found = given.pop(0)
        if given:
            await clock.sleep(0)
        return found

    async def late(seconds):
        await clock.sleep(seconds + (0.3 if given else 0.0))

    leases = Leases(ask, 10, clock, late)
    given[0] = [0.1]
    await leases.take()
    assert (given, clock.now) == ([], pytest.approx(0.9))


async def test_a_calm_limiter_leases_each_start():
    """However calm it is, no request starts without a lease."""
    asked = []

    async def ask(count):
        asked.append(count)
        return [0.0] * count

    limiter = LeasedLimiter(OPTIONS, Leases(ask, 10), lambda *_: None)
    for _ in range(20):
        async with limiter:
            pass
    assert sum(asked) == 20


async def test_a_scheduler_that_is_gone_stops_requests():
    """When no lease is to be had, entering fails and gives the slot back."""

    async def ask(count):
        raise ConnectionError

    limiter = LeasedLimiter(OPTIONS, Leases(ask, 10), lambda *_: None)
    with pytest.raises(ConnectionError):
        await limiter.enter()
    assert limiter.in_flight == 0


async def test_news_from_the_others():
    """A hold and a shut of others keep this shard waiting; its own are told, theirs are not."""
    told = []

    async def ask(count):
        return [0.0] * count

    limiter = LeasedLimiter(OPTIONS, Leases(ask, 10), lambda *hold: told.append(hold))
    limiter.hear({"held": 7.0, "cause": "Retry-After", "shut": "http-500"})
    assert limiter.held == pytest.approx(7.0, abs=1)
    assert (limiter.is_shut, limiter.own_shut, told) == (True, None, [])
    limiter.hear({"held": 0.0, "cause": "", "shut": None})
    assert not limiter.is_shut
    limiter.hold(9.0)
    limiter.hold(20.0, "this machine is short of sockets")
    assert told == [(9.0, "Retry-After")]
    mine = limiter.shut("diverted")
    assert limiter.own_shut == "diverted"
    limiter.reopen(mine)
    await asyncio.sleep(0)
