"""Pauses that come at any pace, told from those of a limit; whole jobs in virtual time besides."""

from math import inf

import pytest

from benchmarks.pacing import Model, Quota, Setting, luck, measure
from bulkfetch._pace.learned import LearnedRate
from bulkfetch._pace.pauses import PauseTrial


class Job:
    """Asks for pauses after given numbers of accepted requests; the rate is cut for each."""

    def __init__(self):
        self.trial, self.now, self.level = PauseTrial(), 1e6, 0.0  # a machine is long up

    def pause(self, accepted, *, refused=1, soon=True):
        self.trial.accepted, self.trial.refused = accepted, refused
        self.now += 2.0 + accepted / (self.level or 160.0)
        rate = self.trial.asked(self.now, self.level, soon=soon and self.level > 0)
        if rate is None:
            self.level = 0.8 * self.level if self.level else 100.0
        elif rate < inf:
            self.level = rate
        return rate


def trial_of(job):
    """Pause until a trial begins; return its rate."""
    for _ in range(20):
        if (rate := job.pause(20)) is not None:
            return rate
    raise AssertionError("no trial")


def test_pauses_after_as_many_requests_at_a_slower_pace():
    """... come at any pace: a trial at what was given in all shows it, and none is cut for."""
    job = Job()
    rate = trial_of(job)
    assert 4 < rate < 20 / 2
    assert [job.pause(20), job.pause(15)] == [inf, inf]
    assert not job.trial.anyway
    assert job.pause(30) == inf
    assert job.trial.anyway
    assert [job.pause(20) for _ in range(30)] == [inf] * 30


def test_pauses_that_become_rare():
    """Without any for long the trial is over, and the level is that before it."""
    job = Job()
    trial_of(job)
    before, job.level = job.level, job.trial.over()
    assert job.level > before
    assert (job.trial.rare, job.trial.anyway) == (inf, False)
    assert [job.pause(20) for _ in range(5)] == [None] * 5  # the next takes longer to come


def test_pauses_that_become_rarer():
    """... are the pace's, too."""
    job = Job()
    trial_of(job)
    assert [job.pause(50), job.pause(60)] == [inf, inf]
    assert job.pause(40) is None
    assert not job.trial.anyway


@pytest.mark.parametrize(("accepted", "refused"), [(8, 1), (20, 5)], ids=["sooner", "bunches"])
def test_a_limit_that_begins_later(accepted, refused):
    """Pauses that come far sooner at full pace, or refuse far more requests, are a limit's."""
    job = Job()
    trial_of(job)
    for _ in range(3):
        job.pause(20)
    assert job.trial.anyway
    said = [job.pause(accepted, refused=refused) for _ in range(16)]
    assert None in said
    assert not job.trial.anyway


def test_an_outage_teaches_nothing():
    """Pauses with nothing accepted between them neither begin a trial nor cut the rate."""
    job = Job()
    job.pause(20)
    assert [job.pause(0, refused=9) for _ in range(20)] == [inf] * 20
    trial_of(job)
    for _ in range(3):
        job.pause(20)
    assert job.trial.anyway
    assert [job.pause(0, refused=9) for _ in range(20)] == [inf] * 20
    assert [job.pause(20) for _ in range(20)] == [inf] * 20


def test_a_limit_that_is_learnt_meanwhile():
    """A trial whose rate was cut for other reasons brings no older level back."""
    rate = LearnedRate()
    rate._pauses._usual, rate._pauses.rare, rate._pauses._back_to = 20.0, 60.0, 45.0
    for number in range(40):
        rate.succeeded(0.1 * number)
    assert rate.strained(4.0, 4.0, suspected=True) or rate.strained(4.0, 4.0, suspected=True)
    cut = rate.rate(4.0)
    for number in range(40):
        rate.succeeded(4.1 + 0.01 * number)
    assert rate.rate(4.5) <= 1.5 * cut < 45.0


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_pauses_at_random_cost_little_more_than_themselves(share):
    """A job with learning takes no third longer than without it; up to 9.6 times as long before."""
    assert luck(share, 1_000, 8, seeds=(1, 2), retry_after=2.0).ratio <= 1.35


def test_a_limit_with_pauses_is_still_learnt():
    """Nine tenths of what a bucket gives, and next to nothing refused."""
    bucket = Model("", lambda rng: Quota(rng, rate=20.0, burst=4.0, retry_after=1.0))
    found = measure(bucket, Setting(8, adaptive=True))
    assert found.throughput >= 0.9 * 20
    assert found.refused <= 0.02
