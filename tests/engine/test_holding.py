"""A run that is held: who is asked meanwhile, what ends the hold, and what a stop waits for.

Whole runs against a scripted server, in virtual time.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from math import inf

import pytest
from answers import TOKEN, fault, options, scripted, statuses, users
from trials import DEAD, KINDS, NOBODY, OUTAGES, PAGE, bad_courses, dead, outage
from virtual import Server, limiter, passed

from bulkfetch import (
    Failed,
    Fetched,
    Hooks,
    Interrupted,
    RunError,
    ServerRefuses,
    TemporarilyUnavailable,
    Transient,
    stream,
)
from bulkfetch._domain.errors import LocalFault, RunRefused
from bulkfetch.testing import ScriptedReply

BUSY = ScriptedReply(status=500)
IDS = [f"c{number}" for number in range(400)]


def play(server, ids=IDS, *, meanwhile=None, **changes):
    """Run to the end; return outcomes by id, the run's error, its summary, attempts, seconds."""
    attempts = []

    async def main():
        settings = options(**{"concurrency": 4, "backoff": 0.5, "max_retry_after": 300} | changes)
        outcomes, error = {}, None
        hooks = Hooks(attempt=attempts.append)
        async with stream(
            ids, settings, transport=server, limiter=limiter(settings), hooks=hooks
        ) as run:
            if meanwhile:
                asyncio.get_running_loop().create_task(meanwhile(run))
            try:
                async for outcome in run:
                    outcomes[outcome.course_id] = outcome
            except RunError as caught:
                error = caught
            assert not run._limiter.is_shut
        return outcomes, error, run.summary

    (outcomes, error, summary), seconds = passed(main())
    return outcomes, error, summary, attempts, seconds


def fails(begin, end, reply=BUSY):
    return lambda now, *_: reply if begin <= now < end else None


def test_probes_go_one_at_a_time_and_spend_no_try():
    """While held nothing else is asked: at once, then after 1, 2, 4, ... seconds."""
    server = Server(fails(0.5, 60.0))
    outcomes, error, summary, attempts, _ = play(server, breaker=4, retries=2)
    assert error is None
    assert {type(outcome) for outcome in outcomes.values()} == {Fetched}
    assert len(attempts) < len(server.requests) == summary.requests
    held = [at for at in server.times if 1.0 < at < 60.0]
    gaps = [round(later - at, 1) for at, later in itertools.pairwise(held)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(16.0, abs=0.1)
    assert max(outcome.attempts for outcome in outcomes.values()) <= 3


def test_the_control_is_a_course_that_was_fetched():
    """Its rows end the hold; they are thrown away, and nothing comes twice."""
    bad = set(IDS[100:160])
    server = Server(lambda _, course, __: BUSY if course in bad else None)
    outcomes, error, summary, _, _ = play(server, breaker=5, retries=0)
    assert error is None
    assert {course for course, one in outcomes.items() if isinstance(one, Failed)} == bad
    again = [course for course, number in server.asked.items() if number > 1]
    assert again
    assert all(isinstance(outcomes[course], Fetched) for course in again)
    assert summary.fetched == len(IDS) - 60


def test_an_older_request_that_brings_rows_ends_the_hold():
    """No probe need be answered for it."""
    slow = scripted(statuses(users("slow", 2)), delay=10.0)

    def trouble(now, course, before):
        if course == "c0":
            return slow
        return BUSY if now < 10.0 or before == 0 else None

    server = Server(trouble)
    outcomes, error, *_ = play(server, IDS[:12], breaker=3, retries=20)
    assert error is None
    assert len(outcomes) == 12
    assert any(9.9 < at < 10.1 for at in server.times)  # the next probe was due at 15 s


@pytest.mark.parametrize(
    ("reply", "setup", "least", "most"),
    [
        (BUSY, {}, 60, 65.1),  # connected, nothing good: at most 5 s for older requests
        (NOBODY(), {}, 5, 5.1),  # never connected: for none
        (PAGE(), {}, 5, 10.1),
        (BUSY, {"patience": 0}, 0, 6),
    ],
)
def test_a_stop_does_not_wait_long_for_older_requests(reply, setup, least, most):
    """One request hangs for 300 s; the run ends as if it were not there."""
    hangs = ScriptedReply(error=reply.error or Transient("timeout", "too late"), delay=300.0)
    server = Server(lambda _, course, __: hangs if course == "c0" else reply)
    _, error, _, _, seconds = play(server, **setup)
    assert isinstance(error, TemporarilyUnavailable | ServerRefuses)
    assert least - 0.001 <= seconds <= most  # a timer may be early by a millisecond


def test_a_good_answer_while_the_stop_waits_takes_it_back():
    """The run goes on."""
    late = scripted(statuses(users("late", 1)), delay=8.0)
    server = Server(
        lambda now, course, __: late if course == "c0" else PAGE() if now < 8.0 else None
    )
    outcomes, error, _, _, _ = play(server, IDS[:9], refusals=3, retries=9, patience=8)
    assert error is None
    assert all(isinstance(outcome, Fetched) for outcome in outcomes.values())


@pytest.mark.parametrize("moment", [0.5, 0.53, 1.0, 1.5, 2.2, 8.0, 59.0])
@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_a_hold_may_be_ended_at_any_moment(moment, how):
    """Stopped or cancelled: it ends then, and a limiter that others share is open again."""

    async def meanwhile(run):
        await asyncio.sleep(moment)
        run.stop(Interrupted("enough")) if how == "stop" else run.cancel()

    server = Server(fails(0.5, 1e9))
    *_, seconds = play(server, breaker=4, grace=1, meanwhile=meanwhile)
    assert moment <= seconds <= moment + 1.1


def test_two_streams_with_one_limiter():
    """What holds one holds both, each probes, and both go on."""
    server = Server(fails(0.5, 30.0))

    async def main():
        settings = options(concurrency=4, breaker=4, backoff=0.5)
        shared = limiter(settings)

        async def one(ids):
            async with stream(ids, settings, transport=server, limiter=shared) as run:
                return [outcome async for outcome in run]

        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(one(ids)) for ids in (IDS[:200], IDS[200:])]
        assert not shared.is_shut
        return [outcome for run in runs for outcome in run.result()]

    outcomes, seconds = passed(main())
    assert {type(outcome) for outcome in outcomes} == {Fetched}
    assert len(outcomes) == 400
    assert 30.0 <= seconds < 60.0
    assert server.max_in_flight <= 4 + 2


# The faults of a bad night


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [True, False])
def test_f98_bad_courses_keep_no_good_one_from_being_published(kind, spread):
    """Each night the same: exit 1, published, the bad ones named; later nights ask only them."""
    for number in (1, 6, 25):
        first, second, _ = bad_courses(kind, number, spread=spread, courses=200)
        assert (first[0], first[3]) == (second[0], second[3]) == (1, True)
        assert second[1] <= number * 6 * 1.2 + 4  # controls: one for five failures at most


@pytest.mark.parametrize(
    ("trouble", "least", "most"), [(BUSY, 0.0, 20.0), (ScriptedReply(status=503), 100.0, inf)]
)
def test_many_bad_courses_end_soon_once_a_control_was_answered(trouble, least, most):
    """Their tries are then made side by side and without a budget; not if it said it is busy."""
    server = Server(lambda _, course, __: trouble if int(course[1:]) >= 100 else None)
    outcomes, error, summary, attempts, seconds = play(server)
    assert error is None
    assert (summary.fetched, summary.failed, len(outcomes)) == (100, 300, 400)
    assert Counter(Counter(one.course_id for one in attempts).values()) == {1: 100, 6: 300}
    assert least < seconds < most


@pytest.mark.parametrize("begin", [0.0, 0.5])
@pytest.mark.parametrize("concurrency", [4, 8, 32])
def test_f95_a_bad_second_in_unknown_words_costs_no_course(begin, concurrency, monkeypatch):
    """Every answer is a Server fault that nobody knows, at the start or later: all rows come."""
    monkeypatch.setattr(random, "random", random.Random(14).random)
    bad = scripted(fault("SQLSTATE[HY000] [2002] Connection refused"), status=500)
    server = Server(fails(begin, begin + 1.0, bad))
    outcomes, error, summary, *_ = play(server, concurrency=concurrency)
    assert error is None
    assert (summary.fetched, summary.failed, len(outcomes)) == (400, 0, 400)


@pytest.mark.parametrize(
    "reply",
    [
        scripted(fault("wrong version", "SOAP-ENV:VersionMismatch"), status=500),
        scripted(fault("Procedure 'x' not present"), status=500),
        scripted(fault("Authorization failed"), status=500),
        scripted(b"", status=401),
        ScriptedReply(error=RunRefused("token", "the token endpoint answers HTTP 404")),
    ],
)
def test_a_moment_of_what_worked_before_costs_a_retry(reply):
    """The token, a namespace, where tokens come from: all were right before, and are again."""
    outcomes, error, *_ = play(Server(fails(0.5, 1.0, reply)))
    assert error is None
    assert {type(outcome) for outcome in outcomes.values()} == {Fetched}


def test_an_account_that_expires_ends_the_run_at_once():
    """No waiting mends it."""
    gone = scripted(fault("Account subscription expired"), status=500)
    _, error, _, _, seconds = play(Server(fails(0.5, 1e9, gone)))
    assert isinstance(error, ServerRefuses)
    assert seconds < 2


@pytest.mark.parametrize(
    "reply",
    [
        scripted(fault("Invalid token"), status=500),
        scripted(fault("Session is gone 4711"), status=500),
        scripted(b'{"error":"invalid_token"}', status=403),
        scripted(b'{"error":"invalid_token"}'),
        scripted(b"<html>log in</html>"),
        scripted(b"", status=302),
        scripted(b"", status=500),
    ],
)
def test_f97_a_dead_session_in_unknown_words(reply, monkeypatch):
    """Many courses fail alike after good answers, in whatever dress: the token is renewed once."""
    renewed = []

    async def fetch():
        renewed.append(time.monotonic())
        from bulkfetch import Secret

        return Secret(f"{TOKEN}-{len(renewed)}"), 1e6

    from bulkfetch._http.token import RenewedToken

    monkeypatch.setattr(
        "bulkfetch._engine.setup.make_provider", lambda *_: RenewedToken(fetch, time.monotonic)
    )

    def trouble(now, *_):
        return reply if now > 0.5 and len(renewed) < 2 else None

    server = Server(trouble)
    changes = {"token": None, "token_command": "true"}
    outcomes, error, _, _, _ = play(server, **changes)
    assert error is None
    assert {type(outcome) for outcome in outcomes.values()} == {Fetched}
    assert len(renewed) == 2


@pytest.mark.parametrize("status", [503, 429])
def test_f99_a_limiter_without_burst(status):
    """Ten requests a second, all others refused at once: slower, but every row."""
    last = [-1.0]

    def trouble(now, *_):
        if now - last[0] < 0.1:
            return ScriptedReply(status=status)
        last[0] = now
        return None

    server = Server(trouble, latency=0.1)
    outcomes, error, *_ = play(server, IDS[:60], concurrency=8, adaptive=True)
    assert error is None
    assert {type(outcome) for outcome in outcomes.values()} == {Fetched}


@pytest.mark.parametrize(
    "reply",
    [
        PAGE(),
        ScriptedReply(headers={"Content-Type": "text/html"}),
        ScriptedReply(status=404),
        ScriptedReply(status=403),
        ScriptedReply(status=302, headers={"Location": "https://login.example/"}),
    ],
    ids=["page", "empty html", "404", "403", "302"],
)
@pytest.mark.parametrize("seconds", [0.3, 5.0, 120.0])
def test_f100_a_moment_of_something_else_in_mid_run(reply, seconds):
    """It passes: exit 0 and every course."""
    outcomes, error, *_ = play(Server(fails(1.0, 1.0 + seconds, reply)))
    assert error is None
    assert {type(outcome) for outcome in outcomes.values()} == {Fetched}


def test_f105_one_defect_in_every_answer():
    """Twenty courses, each asked once, and the run says what it is."""
    body = statuses([("u", "Passed", "0,4")])
    server = Server(lambda *_: scripted(body))
    _, error, *_ = play(server, IDS[:150])
    assert type(error) is ServerRefuses
    assert "0,4" in str(error)
    assert len(server.requests) <= 20 + 4


@pytest.mark.parametrize(
    ("kind", "code"),
    [("server down", 5), ("503 only", 5), ("wrong token", 4), ("expired", 4), ("wrong path", 4)],
)
def test_f106_fewer_courses_than_any_threshold(kind, code):
    """Three ids are enough to see that nothing works: the exit code says what, unpublished."""
    ended, requests, seconds, published = dead(kind, 3)
    assert (ended, published) == (code, False)
    assert requests <= 3 * 6 + 7
    assert seconds <= 60


@pytest.mark.parametrize(("number", "most"), [(30, 28), (200, 28), (1_000, 108)])
def test_f107_all_ids_unknown(number, most):
    """Wrong account or wrong list: exit 4 after twenty, or a tenth of the list."""
    code, requests, _, published = dead("all unknown", number)
    assert (code, published) == (4, False)
    assert requests <= most


def test_f110_this_machine_is_short_for_longer_than_the_breaker():
    """Two minutes without a descriptor, from the start or later, are waited out."""
    short = ScriptedReply(error=LocalFault("local", "no file descriptors left"))
    for begin in (0.0, 1.0):
        outcomes, error, *_ = play(Server(fails(begin, begin + 120.0, short)))
        assert error is None
        assert {(type(one), one.attempts) for one in outcomes.values()} == {(Fetched, 1)}


@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_of_a_minute_costs_little_more(kind):
    """Every course in the end, and at most one pause between probes beyond the outage."""
    code, requests, rows, lost = outage(kind, courses=2_500)
    assert (code, rows) == (0, 5_000)
    assert requests <= 2_500 + 8 + 200
    assert lost <= 45


@pytest.mark.parametrize("concurrency", [1, 2, 8])
@pytest.mark.parametrize("kind", [*OUTAGES, "unknown fault", "foreign", "401"])
def test_no_course_is_lost_to_an_outage(kind, concurrency):
    """However few are tried at once, and however slowly: before one is given up, a control is."""
    reply = {**OUTAGES, **KINDS, "401": lambda: ScriptedReply(status=401)}[kind]()
    server = Server(fails(1.0, 601.0, reply), latency=0.1)
    outcomes, error, *_ = play(
        server, IDS[:60], retries=5, patience=900, concurrency=concurrency, refusals=5
    )
    assert error is None
    assert {type(outcome) for outcome in outcomes.values()} == {Fetched}


def test_a_failing_course_costs_no_more_controls_than_tries():
    """Each of two courses that never work is named, and the tries do not begin anew."""
    server = Server(lambda _, course, __: BUSY if course in ("c3", "c4") else None)
    outcomes, error, summary, *_ = play(server, IDS[:6], retries=2)
    assert error is None
    failed = {name: it.attempts for name, it in outcomes.items() if isinstance(it, Failed)}
    assert failed == {"c3": 3, "c4": 3}
    assert summary.requests <= 4 + 2 * 3 + 3


@pytest.mark.parametrize("kind", DEAD)
def test_requests_to_a_server_that_never_works(kind):
    """No more than the rules' docstring says, however long the list."""
    code, requests, seconds, published = dead(kind, 3_000)
    assert (code in (4, 5), published) == (True, False)
    assert requests <= (20 * 6 + 8 + 9 if kind != "all unknown" else 300 + 8)
    assert seconds <= 66


def test_what_waits_for_the_rate_is_not_under_way():
    """A request that holds a slot and waits for its turn was not sent yet."""
    seen = []

    async def watch(run):
        for _ in range(5):
            await asyncio.sleep(1.0)
            seen.append((run.state.under_way, run._limiter.in_flight))

    play(Server(fails(0, 0), latency=0.3), IDS[:8], rate=1.0, meanwhile=watch)
    assert {under_way for under_way, _ in seen} <= {0, 1}
    assert max(slots for _, slots in seen) > 1


@pytest.mark.parametrize("retries", [1, 2])
def test_an_outage_at_the_beginning_costs_few_courses(retries, monkeypatch):
    """Who used up his tries before anything was fetched is tried anew if rows end the outage."""
    monkeypatch.setattr(random, "random", random.Random(14).random)
    chance = random.Random(1)

    def trouble(now, *_):
        return ScriptedReply(status=503, delay=chance.uniform(1, 10)) if now < 30 else None

    outcomes, error, *_ = play(Server(trouble), IDS[:60], retries=retries, concurrency=32)
    assert error is None
    lost = sum(isinstance(outcome, Failed) for outcome in outcomes.values())
    assert lost <= (4 if retries == 1 else 0)  # those whose last try failed before any hold


def test_what_an_outage_was_blamed_for_is_not_counted_again():
    """Tries that begin anew are told as retries, and hold the run no second time."""
    refused = ScriptedReply(error=RunRefused("certificate", "a bad one"), delay=3.0)
    held = []

    def trouble(now, _, before):
        if not 0.3 <= now < 20.0:
            return None
        return ScriptedReply(status=503, delay=0.6) if now < 1.0 and not before else refused

    async def watch(run):
        while True:
            held.append(run._limiter.is_shut)
            await asyncio.sleep(0.05)

    server = Server(trouble, latency=0.1)
    changes = {"concurrency": 16, "retries": 1, "breaker": 40}
    outcomes, error, *_ = play(server, IDS[:80], meanwhile=watch, **changes)
    assert error is None
    assert not [outcome for outcome in outcomes.values() if isinstance(outcome, Failed)]
    assert sum(now and not before for before, now in itertools.pairwise(held)) == 1


def test_a_silent_network_is_shown():
    """Ten seconds after the last request was sent the wait for answers is told, and no sooner."""
    seen = {}

    async def watch(run):
        for second in range(12):
            await asyncio.sleep(1.0)
            seen[second + 1] = run.state.waiting

    play(Server(fails(0, 0), latency=11.5), IDS[:3], concurrency=4, meanwhile=watch)
    assert [second for second, waiting in seen.items() if waiting] == [10, 11]
    assert seen[11] == "for answers to 3 requests, 11 s so far"


def test_a_deleted_control_excuses_nobody():
    """A final fault of the control is an answer of the API: the courses fail on their own."""
    gone = scripted(fault("Unknown content item"), status=500)
    asked = Counter()

    def trouble(_, course, before):
        asked[course] += 1
        if course == "c0":
            return gone if before else None
        return BUSY

    outcomes, _, summary, *_ = play(Server(trouble), IDS[:3], retries=5, concurrency=4)
    assert {name for name, it in outcomes.items() if isinstance(it, Failed)} == {"c1", "c2"}
    assert max(asked["c1"], asked["c2"]) == 6
    assert summary.requests <= 30


def test_controls_that_fail_now_and_then_prolong_no_run_for_ever(monkeypatch):
    """Three rounds more of a course at most, whatever the controls say."""
    monkeypatch.setattr(random, "random", random.Random(14).random)
    chance = random.Random(3)
    bad = set(IDS[100:200])

    def trouble(_, course, __):
        return BUSY if course in bad or chance.random() < 0.5 else None

    outcomes, error, summary, *_ = play(Server(trouble), IDS[:200], retries=5, concurrency=4)
    assert error is None
    tries = sum(outcome.attempts - 1 for outcome in outcomes.values())
    assert sum(summary.retries.values()) == tries
    assert {name for name, it in outcomes.items() if isinstance(it, Failed)} >= bad
    assert max(outcome.attempts for outcome in outcomes.values()) <= 6 * 4
    assert summary.requests <= 200 * 6 * 4
