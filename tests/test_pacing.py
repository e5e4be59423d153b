"""The pacing rules by table and by property, and their goals against simulated servers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pacing import MODELS, compare
from bulkfetch._adaptive import Blame, LearnedRate, Window
from bulkfetch._pacing import Breaker, Hold, Pace, RetryBudget, retry_pause

steps = st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=80)


def moments(gaps):
    now, result = 100.0, []
    for gap in gaps:
        now += gap
        result.append(now)
    return result


# --- Pace


@given(steps, st.floats(0.1, 1000))
def test_starts_never_exceed_the_rate(gaps, rate):
    """In any window of t seconds there are at most rate * t + 1 starts, in order."""
    pace = Pace(rate)
    starts = [pace.next_start(now) for now in moments(gaps)]
    for first, later in pairwise(starts):
        assert later - first >= 1 / rate - 1e-9
    assert all(start >= now for start, now in zip(starts, moments(gaps), strict=True))


def test_idle_time_is_not_saved_up():
    """After a minute of idling the next starts are as far apart as ever."""
    pace = Pace(10)
    pace.next_start(0)
    assert [pace.next_start(60) for _ in range(3)] == pytest.approx([60, 60.1, 60.2])


@given(steps, st.integers(0, 40))
def test_restart_keeps_the_distance(gaps, at):
    """Reservations given back never bring two starts closer than the rate allows."""
    pace = Pace(2)
    begun = []
    for index, now in enumerate(moments(gaps)):
        if index == at:
            pace.restart(now)
            begun = [start for start in begun if start <= now]
        begun.append(pace.next_start(now))
    assert all(b - a >= 0.5 - 1e-9 for a, b in pairwise(begun))


@given(st.floats(0, 1e6), st.floats(0.5, 100))
def test_a_clock_that_steps_back_delays_no_start(back, rate):
    """A start is reserved at most one interval ahead, however far the clock went back."""
    pace = Pace(rate)
    pace.next_start(1e6)
    start = pace.next_start(1e6 - back)
    assert 1e6 - back <= start <= 1e6 - back + 1 / rate + 1e-6


def test_a_start_can_be_held_off():
    """A start reserved for after a pause is not before its end."""
    pace = Pace(inf)
    assert pace.next_start(1, after=5) == 5
    assert pace.next_start(6, after=5) == 6


# --- Hold


@pytest.mark.parametrize(
    ("seconds", "left"),
    [(12, 12), (1e9, 300), (inf, 300), (0, 0), (-5, 0), (nan, 0), (300, 300)],
)
def test_a_hold_is_bounded(seconds, left):
    """Absurd, negative and unreadable pauses hold for at most the longest hold, or not at all."""
    hold = Hold(300)
    assert hold.extend(0, seconds, crowd=1) is (left > 0)
    assert hold.left(0) == left


def test_a_longer_hold_stays():
    """A shorter hold does not cut a longer one short; a longer one extends it."""
    hold = Hold(300)
    assert hold.extend(0, 60, crowd=1)
    assert not hold.extend(1, 10, crowd=1)
    assert hold.left(10) == 50
    assert hold.extend(10, 100, crowd=1)
    assert hold.left(10) == 100


def test_starts_after_a_hold_are_spread():
    """What waited for the end of the hold starts one by one, not all at once."""
    hold = Hold(300)
    hold.extend(0, 10, crowd=4)
    assert [hold.next_start(2) for _ in range(4)] == pytest.approx([10, 10.25, 10.5, 10.75])
    assert not hold.over(10.5)
    assert hold.next_start(11) == 11
    assert hold.over(11)


def test_the_spread_is_no_longer_than_asked():
    """A crowd is spread over one round trip when that is known to be shorter than a second."""
    hold = Hold(300)
    hold.extend(0, 10, crowd=5, within=0.05)
    assert [hold.next_start(2) for _ in range(3)] == pytest.approx([10, 10.01, 10.02])


def test_a_hold_survives_the_clock_stepping_back():
    """An hour back on the clock does not make the hold an hour longer."""
    hold = Hold(300)
    hold.extend(4000, 100, crowd=1)
    assert hold.left(400) == 300
    assert hold.over(702)


# --- Window

events = st.lists(
    st.tuples(st.sampled_from(["good", "good", "good", "strain"]), st.floats(0, 3)), max_size=400
)


@given(events, st.integers(1, 100))
def test_the_window_keeps_its_bounds(happenings, ceiling):
    """The limit stays between 1 and the ceiling, and strain never raises it."""
    window, now = Window(ceiling), 0.0
    for kind, seconds in happenings:
        now += seconds / 10
        before = window.limit
        if kind == "good":
            window.succeeded(now, seconds)
        else:
            window.strained(now)
            assert window.limit <= before
        assert 1 <= window.limit <= ceiling


class Rounds:
    """Feeds a window with whole rounds of answers, as a server with some capacity gives them."""

    def __init__(self, window, *, seconds=0.05, lanes=1000):
        self.window, self.seconds, self.lanes, self.now = window, seconds, lanes, 0.0

    def run(self, rounds):
        limits = []
        for _ in range(rounds):
            limit = self.window.limit
            trip = self.seconds * max(1.0, limit / self.lanes)
            for _ in range(limit):
                self.now += trip / limit
                self.window.succeeded(self.now, trip)
            limits.append(self.window.limit)
        return limits


def test_the_window_doubles_until_the_ceiling():
    """A healthy server is met with the whole ceiling after a few round trips."""
    assert Rounds(Window(32)).run(4) == [8, 16, 32, 32]


def test_the_window_adds_one_a_round_after_strain():
    """After the first strain the window climbs by one a round."""
    window = Window(32)
    rounds = Rounds(window)
    rounds.run(3)
    window.strained(rounds.now)
    assert window.limit == 16  # nothing else had come since the last round
    assert rounds.run(3) == [17, 18, 19]


def test_the_window_is_cut_less_for_little_strain():
    """One strained answer among many costs a tenth, a storm half."""
    window = Window(100)
    rounds = Rounds(window)
    rounds.run(5)
    for _ in range(99):
        rounds.now += 0.001
        window.succeeded(rounds.now, 0.05)
    window.strained(rounds.now)
    assert window.limit == 89


def test_one_round_trip_cuts_once():
    """All the refusals of one round trip are one sign; those of the next are another."""
    window = Window(32)
    rounds = Rounds(window)
    rounds.run(3)
    for _ in range(20):
        window.strained(rounds.now)
    assert window.limit == 16
    window.strained(rounds.now + 0.06)
    assert window.limit == 8


def test_strain_before_any_answer_goes_down_to_one():
    """A server that refuses everything from the start is asked one at a time."""
    window = Window(32)
    for second in range(10):
        window.strained(float(second))
    assert window.limit == 1
    assert window.round_trip is None


def test_a_round_with_late_strain_does_not_climb():
    """Stragglers of the last cut are no second cut, but no success either."""
    window = Window(32)
    rounds = Rounds(window)
    rounds.run(3)
    window.strained(rounds.now)
    window.strained(rounds.now)
    assert rounds.run(2) == [16, 17]


def test_slower_answers_alone_do_not_cost_the_window():
    """A server that slows down whatever the load gets its whole window back after one trial."""
    window = Window(32)
    rounds = Rounds(window)
    rounds.run(10)
    rounds.seconds = 0.5
    limits = rounds.run(60)
    assert min(limits) == 22
    assert limits[-1] == 32
    assert limits.count(22) < 10


def test_a_queue_is_made_shorter():
    """A server that only queues what is too much is soon asked for not much more than it can do."""
    window = Window(64)
    rounds = Rounds(window, lanes=8)
    rounds.run(150)
    assert max(rounds.run(100)) <= 20
    assert min(rounds.run(100)) >= 8


def test_strain_ends_a_trial():
    """A refusal in the middle of a trial is answered by a cut, and the trial is forgotten."""
    window = Window(64)
    rounds = Rounds(window, lanes=8)
    rounds.run(6)
    before = window.limit
    window.strained(rounds.now + 10)
    assert window.limit < before
    rounds.lanes = 1000
    assert rounds.run(300)[-1] == 64


# --- LearnedRate


def served(learned, *, rate, seconds, start=0.0, refused=0):
    """Feed good answers at a rate, then some refusals; returns the time."""
    for index in range(int(rate * seconds)):
        learned.succeeded(start + index / rate)
    now = start + seconds
    for _ in range(refused):
        learned.strained(now)
    return now


def test_no_refusal_no_rate():
    """As long as nothing is refused there is no rate to keep."""
    learned = LearnedRate()
    now = served(learned, rate=100, seconds=10)
    assert learned.rate(now) == inf


def test_a_rate_is_learned_a_little_below_what_was_accepted():
    """After refusals the rate is some 10 % below what the server took, then rests 2 % below."""
    learned = LearnedRate()
    now = served(learned, rate=100, seconds=10, refused=40)
    assert 85 < learned.rate(now) < 95
    assert 95 < learned.rate(now + 12) < 100


@given(st.lists(st.floats(0, 30), min_size=2, max_size=20))
def test_a_learned_rate_only_climbs_without_refusals(times):
    """Between two cuts the rate never falls, and in the end is forgotten."""
    learned = LearnedRate()
    now = served(learned, rate=100, seconds=4, refused=40)
    rates = [learned.rate(now + t) for t in sorted(times)]
    assert rates == sorted(rates)
    assert learned.rate(now + 30) == inf


@pytest.mark.parametrize(
    ("rate", "seconds", "refused"),
    [(100, 10, 2), (1, 5, 1), (1000, 0.2, 100), (0, 10, 50)],
    ids=["noise", "a lone refusal", "too early to tell", "outage"],
)
def test_what_teaches_no_rate(rate, seconds, refused):
    """A few refusals, the first moments and a total outage set no rate."""
    learned = LearnedRate()
    now = served(learned, rate=rate, seconds=seconds, refused=refused)
    assert learned.rate(now) == inf


def test_cuts_come_ever_later():
    """Refusals that a lower rate does not end lower it ever more slowly."""
    learned = LearnedRate()
    now, cuts = 0.0, []
    served(learned, rate=100, seconds=4)
    for tick in range(4000):
        now = 4 + tick / 100
        learned.succeeded(now)
        if tick % 4 == 0 and learned.strained(now):
            cuts.append(now)
    gaps = [b - a for a, b in pairwise(cuts)]
    assert gaps[:4] == pytest.approx([1, 2, 4, 8], abs=0.1)
    assert len(cuts) < 8


def test_a_quiet_moment_is_not_a_limit():
    """A refusal after a lull at most halves the best rate seen."""
    learned = LearnedRate()
    now = served(learned, rate=200, seconds=10)
    learned.succeeded(now + 60)
    now = served(learned, rate=1, seconds=3, start=now + 60, refused=5)
    assert learned.rate(now) >= 80


@pytest.mark.parametrize("first", ["strained", "held"])
def test_a_pause_asked_for_sets_the_rate_at_once(first):
    """A Retry-After is one cut, whichever of the two is told first."""
    learned = LearnedRate()
    now = served(learned, rate=100, seconds=1.5)
    if first == "strained":
        learned.strained(now)
    learned.held(now, now + 5, asked=True)
    learned.strained(now)
    learned.held(now, now + 6, asked=True)
    assert 85 < learned.rate(now + 6) < 95


def test_a_pause_of_our_own_sets_no_rate():
    """A hold for a fault of this machine says nothing about the server."""
    learned = LearnedRate()
    now = served(learned, rate=100, seconds=1.5)
    learned.held(now, now + 5, asked=False)
    assert learned.rate(now + 5) == inf


def test_a_pause_in_a_pause_keeps_the_longer_end():
    """A later hold within a hold only moves its end."""
    learned = LearnedRate()
    now = served(learned, rate=100, seconds=1.5)
    learned.held(now, now + 5, asked=True)
    rate = learned.rate(now + 9)
    learned.held(now + 1, now + 9, asked=True)
    assert learned.rate(now + 9) < rate


def test_an_early_pause_means_far_too_fast():
    """A pause asked for within the first second takes more off than a later one."""
    learned = LearnedRate()
    now = served(learned, rate=100, seconds=0.5)
    learned.held(now, now + 1, asked=True)
    assert 55 < learned.rate(now + 1) < 70


@given(events, st.floats(-1e6, 1e6))
def test_a_stepping_clock_keeps_the_rate_sane(happenings, jump):
    """Whatever the clock does, the rate is a number above zero, or none."""
    learned, now = LearnedRate(), 0.0
    for index, (kind, seconds) in enumerate(happenings):
        now += jump if index == 50 else seconds / 10
        if kind == "good":
            learned.succeeded(now)
        else:
            learned.strained(now)
        assert 0.5 < learned.rate(now) <= inf


# --- RetryBudget


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20)), max_size=150), st.floats(0, 1))
def test_retries_keep_their_share(happenings, share):
    """In any window there are at most `minimum` plus the share of its requests."""
    budget = RetryBudget(share, 3, window=5)
    now, requests, taken, history = 0.0, 0, [], []
    for gap, more in happenings:
        now += gap
        requests += more
        history.append((now, requests))
        wait = budget.take(now, requests=requests)
        assert 0 <= wait <= 5
        if wait == 0:
            taken.append(now)
        recent = [count for at, count in history if at > now - 5]
        within = requests - recent[0]
        assert sum(at > now - 5 for at in taken) <= 3 + share * within


def test_a_retry_beyond_the_budget_is_delayed_not_dropped():
    """Waiting as long as it says always frees a retry, even without any request."""
    budget = RetryBudget(0.2, 2, window=10)
    assert [budget.take(t, requests=5) for t in (0, 1)] == [0, 0]
    wait = budget.take(2, requests=5)
    assert wait == 8
    assert budget.take(2 + wait, requests=5) == 0


def test_requests_earn_retries():
    """At a share of 20 % ten more requests allow two more retries."""
    budget = RetryBudget(0.2, 0)
    assert budget.take(0, requests=0) == 10
    assert [budget.take(1, requests=10) == 0 for _ in range(3)] == [True, True, False]


def test_the_budget_survives_the_clock_stepping_back():
    """An hour back on the clock makes nobody wait longer than the window."""
    budget = RetryBudget(0.2, 1)
    assert budget.take(4000, requests=0) == 0
    assert budget.take(400, requests=0) == 10
    assert budget.take(410, requests=0) == 0


# --- Breaker, retry_pause


@pytest.mark.parametrize(
    ("limit", "answers", "is_open"),
    [(3, "FFF", True), (3, "FF", False), (0, "F" * 99, False), (3, "AFFFF", False)],
)
def test_the_breaker_opens_after_failures_in_a_row(limit, answers, is_open):
    """It opens at its limit, never at limit 0, and not at once for a server that has answered."""
    breaker = Breaker(limit)
    for now, answer in enumerate(answers):
        if answer == "F":
            breaker.failed(now / 10)
        else:
            breaker.answered()
    assert breaker.open is is_open


def test_a_server_that_has_answered_is_probed_until_patience_ends():
    """Its failures cost pauses that double up to 30 s; past the patience the breaker opens."""
    breaker = Breaker(1, patience=100)
    breaker.answered()
    pauses, now = [], 0.0
    while not breaker.open:
        pauses.append(breaker.failed(now))
        assert breaker.failed(now) == 0  # begun before the pause
        now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30, 0]


def test_an_answer_closes_the_row():
    """After an answer failures are counted, and pauses doubled, from the start again."""
    breaker = Breaker(2)
    breaker.answered()
    assert [breaker.failed(now) for now in (0, 1, 9)] == [0, 1, 2]
    breaker.answered()
    assert [breaker.failed(now) for now in (90, 91)] == [0, 1]
    assert breaker.in_a_row == 2


@pytest.mark.parametrize(
    ("attempt", "more", "least", "most"),
    [
        (1, {}, 0, 0.5),
        (3, {}, 0, 2),
        (99999, {}, 0, 60),
        (3, {"overload": True}, 1, 2),
        (1, {"retry_after": 12.0, "overload": True}, 12, 12.5),
        (1, {"retry_after": 12.0}, 12, 12.5),
        (1, {"retry_after": 1e9}, 300, 300.5),
        (1, {"retry_after": -3.0}, 0, 0.5),
        (1, {"retry_after": nan}, 0, 0.5),
    ],
)
def test_pauses_before_a_retry(attempt, more, least, most):
    """Full jitter in general, at least half under overload, at least Retry-After up to its cap."""
    ends = [
        retry_pause(attempt, backoff=0.5, max_backoff=60, random=lambda n=n: n, **more)
        for n in (0.0, 1.0)
    ]
    assert ends == [least, most]


# --- goals


@pytest.mark.parametrize(
    "model", [model for model in MODELS if model.goals], ids=lambda model: model.name
)
def test_the_goals(model):
    """From a ceiling 8x too high: 90 % of the best fixed throughput, at most 2 % refused."""
    row = compare(replace(model, seconds=min(model.seconds, 50.0)), seed=2, quick=True)
    print(row)
    assert row.share >= 0.9
    assert row.refused <= 0.02


def test_a_healthy_server_costs_nothing():
    """With constant latency the throughput lost by adapting is less than 2 %."""
    row = compare(replace(MODELS[0], seconds=30.0, warm_up=1.0), quick=True)
    assert row.share >= 0.98
    assert row.limit == MODELS[0].ceiling


def test_refusals_that_no_pace_avoids_cost_little_throughput():
    """A server that fails 5 % of whatever it is asked is not crawled along at a fraction."""
    model = next(model for model in MODELS if model.name == "503 for 5 %, any load")
    row = compare(replace(model, seconds=60.0, warm_up=20.0), seed=2, quick=True)
    print(row)
    assert row.share >= 0.9


def blame_after(samples):
    """Feed samples of (window, rate, requests, refused), two seconds each; return the verdicts."""
    blame, now, verdicts = Blame(), 100.0, []
    for window, rate, requests, refused in samples:
        told = False
        for number in range(requests):
            now += 2.05 / requests
            if number * refused // requests != (number + 1) * refused // requests:
                told = blame.strained(now, limit=window, rate=rate) or told
            elif blame.active:
                blame.succeeded(now, limit=window, rate=rate)
        verdicts.append(told)
    return blame, verdicts


@pytest.mark.parametrize(
    ("samples", "tolerated"),
    [
        # The same share at half the load, again and again: the load is not to blame.
        ([(32, inf, 400, 20)] * 2 + [(16, inf, 200, 10)] * 6, True),
        # A full server takes 100 in two seconds, whatever is asked of it.
        ([(64, inf, 400, 300)] * 2 + [(45, inf, 280, 180)] * 6, False),
        # Half the load and hardly a refusal any more: the load it was.
        ([(32, inf, 400, 40)] * 2 + [(16, inf, 200, 1)] * 6, False),
        # Never any gentler: nothing can be known.
        ([(32, inf, 400, 20)] * 8, False),
    ],
)
def test_refusals_are_tolerated_only_if_a_gentler_pace_has_not_helped(samples, tolerated):
    """Going slower that bought nothing is taken back; going slower that helped is not."""
    blame, verdicts = blame_after(samples)
    assert any(verdicts) is tolerated
    assert (blame.tolerated > 0) is tolerated


def test_tolerance_ends_when_more_is_refused_and_when_nothing_is():
    """A tolerated share is no licence: more refusals count again, and none forgets it."""
    known = [(32, inf, 400, 20)] * 2 + [(16, inf, 200, 10)] * 6
    worse, _ = blame_after([*known, (32, inf, 400, 200)])
    assert worse.active
    assert not worse.tolerated
    healed, _ = blame_after([*known, *[(32, inf, 500, 0)] * 4])
    assert not healed.active
    assert not healed.tolerated
