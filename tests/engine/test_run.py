"""What the machine promises whatever the server does, against a scripted transport.

Order, bounds, stops and verdicts; no socket, and time only where a test waits for nothing else.
"""

import asyncio
import json
from collections import Counter

import pytest
from answers import GOOD, TOKEN, fault, options, run, scripted, statuses, users
from virtual import limiter, passed

from bulkfetch import (
    ConfigurationError,
    Failed,
    Fetched,
    Hooks,
    Interrupted,
    Limiter,
    Refused,
    ServerRefuses,
    StoppedEarly,
    TemporarilyUnavailable,
    Transient,
    export,
    stream,
)
from bulkfetch._engine.run import running
from bulkfetch._engine.setup import Setup
from bulkfetch.testing import ScriptedReply, ScriptedTransport, SimulatedServer, Simulation

OK = scripted(statuses(GOOD))
BUSY = ScriptedReply(status=503)
PAGE = scripted(b"<!doctype html><title>Log in</title>")
UNKNOWN = scripted(fault("Unknown content item"), status=500)
DENIED = scripted(fault("Permission denied"), status=500)
MANY = [f"c{number}" for number in range(100)]


def played(script, **changes):
    """Run against a script; return the transport and a coroutine of the result."""
    transport = ScriptedTransport(script)
    return transport, run(setup={"transport": transport}, **changes)


def by_course(**replies):
    """Named courses have their own replies in turn, all others rows."""
    turns = Counter()

    def answer(request):
        mine = replies.get(request.course_id, [OK])
        turns[request.course_id] += 1
        return mine[min(turns[request.course_id], len(mine)) - 1]

    return answer


class Gate:
    """A `sleep` for a transport: every request waits until it is opened."""

    def __init__(self):
        self.opened = asyncio.Event()
        self.asked = asyncio.Semaphore(0)

    async def __call__(self, seconds):
        self.asked.release()
        await self.opened.wait()

    async def wait_for(self, requests):
        for _ in range(requests):
            await self.asked.acquire()


async def collect(outcomes, into):
    async for outcome in outcomes:
        into.append(outcome)


async def settle():
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


# What comes out


async def test_every_course_comes_out_once():
    """Each id one outcome, with its own rows."""
    rows = {course: users(course, number % 7) for number, course in enumerate(MANY)}
    script = lambda request: scripted(statuses(rows[request.course_id]))  # noqa: E731 - short
    transport, result = played(script, ids=MANY)
    result = await result
    assert result.rows == rows
    assert len(result.outcomes) == len(transport.requests) == 100
    summary = result.summary
    assert (summary.courses, summary.fetched, summary.requests) == (100, 100, 100)
    assert (summary.rows, summary.empty) == (sum(map(len, rows.values())), 15)


async def test_end_to_end_by_value():
    """Rows, refusals and retries against the simulated LMS, under every fault it knows."""
    simulation = Simulation(
        courses=120,
        unknown=5,
        denied=4,
        rows=(0, 40),
        share_503=0.05,
        share_429=0.03,
        retry_after=None,
        share_reset=0.1,
        share_cut=0.1,
        gzip=True,
        chunk_size=700,
    )
    async with SimulatedServer(simulation) as server:
        result = await run(server.course_ids, server.endpoint, token=server.token, retries=20)
        assert result.error is None
        assert set(result.failed) == {*server.unknown_ids, *server.denied_ids}
        assert result.rows == {
            course: [(row["userId"], row["status"], row["progress"]) for row in rows]
            for course, rows in server.expected().items()
        }
        assert server.counters.injected.total() > 20


async def test_outcomes_carry_attempts():
    """An outcome says how many tries it took."""
    _, result = played(by_course(c1=[BUSY, BUSY, OK]), ids=["c1", "c2"])
    attempts = {outcome.course_id: outcome.attempts for outcome in (await result).outcomes}
    assert attempts == {"c1": 3, "c2": 1}


async def test_a_failed_course_is_a_value():
    """It has its reason and its tries, and no frames that would keep the response alive."""
    _, result = played(by_course(c1=[BUSY], c2=[UNKNOWN]), ids=["c1", "c2", "c3"], retries=2)
    result = await result
    failures = {
        one.course_id: (type(one.error), one.error.kind, one.attempts)
        for one in result.outcomes
        if isinstance(one, Failed)
    }
    assert failures == {
        "c1": (Transient, "http-503", 3),
        "c2": (Refused, "unknown-content-item", 1),
    }
    assert [one.error.__traceback__ for one in result.outcomes if isinstance(one, Failed)] == [
        None,
        None,
    ]
    assert result.rows == {"c3": GOOD}


async def test_the_rows_of_a_failed_try_are_forgotten():
    """Pieces of rows before an error inside the body belong to nobody."""
    torn = ScriptedReply(
        pieces=[statuses(users("torn", 3_000))[:-40]],
        error=Transient("disconnected", "the connection broke"),
    )
    _, result = played([torn, torn, OK])
    assert (await result).rows == {"c1": GOOD}


@pytest.mark.parametrize("concurrency", [1, 3, 16])
async def test_ordered_is_the_order_of_the_ids(concurrency):
    """With `ordered` outcomes come as the ids do, however long each takes."""
    delays = {course: (number * 7 % 5) / 1000 for number, course in enumerate(MANY)}
    script = lambda request: scripted(  # noqa: E731 - one line
        statuses(GOOD), delay=delays[request.course_id]
    )
    _, result = played(script, ids=MANY, ordered=True, concurrency=concurrency)
    assert [outcome.course_id for outcome in (await result).outcomes] == MANY


async def test_ordered_with_failures_and_retries():
    """Failed, retried, repeated and skipped ids leave no gap in the order."""
    _, result = played(
        by_course(c1=[BUSY, OK], c3=[UNKNOWN], c5=[BUSY]),
        ids=["c0", "c1", "c0", "c2", "c3", "c4", "c5", "c6"],
        ordered=True,
        retries=1,
        concurrency=2,
    )
    courses = [outcome.course_id for outcome in (await result).outcomes]
    assert courses == ["c0", "c1", "c2", "c3", "c4", "c5", "c6"]


async def test_ordered_with_one_slow_course():
    """The others wait for it within the outbox's bound, and it finds its way past them."""
    opened = asyncio.Event()

    async def sleep(seconds):
        await (opened.wait() if seconds else asyncio.sleep(0))

    slow = scripted(statuses(GOOD), delay=1)
    transport = ScriptedTransport(by_course(c0=[slow]), sleep=sleep)
    ids = [f"c{number}" for number in range(600)]
    settings = options(ordered=True, concurrency=3)
    async with stream(ids, settings, transport=transport) as outcomes:
        for _ in range(40):
            await settle()
        assert 256 <= len(transport.requests) <= 256 + 3
        opened.set()
        assert [outcome.course_id async for outcome in outcomes] == ids


async def test_no_ids_at_all():
    """Nothing to do is no error."""
    transport, result = played([OK], ids=[])
    result = await result
    assert (result.outcomes, result.error, transport.requests) == ([], None, [])


# Ids


async def numbered(ids):
    for course_id in ids:
        await asyncio.sleep(0)
        yield course_id


@pytest.mark.parametrize("make", [list, tuple, iter, numbered, dict.fromkeys])
async def test_any_iterable_of_ids(make):
    """Lists, iterators and async generators all do."""
    _, result = played([OK], ids=make(MANY))
    result = await result
    assert set(result.rows) == set(MANY)


async def test_ids_are_pulled_as_they_are_needed():
    """No more ids are taken than there are workers and outcomes waiting."""
    taken = []

    def endless():
        while True:
            taken.append(f"c{len(taken)}")
            yield taken[-1]

    transport = ScriptedTransport([OK])
    async with stream(endless(), options(concurrency=4), transport=transport) as outcomes:
        for _ in range(10):
            await anext(outcomes)
        await settle()
    assert len(taken) <= 10 + 256 + 2 * 4


async def test_repeated_ids_are_fetched_once():
    """They are dropped and counted."""
    transport, result = played([OK], ids=["c1", "c2", "c1", "c1", "c2"])
    result = await result
    assert len(transport.requests) == 2
    assert result.summary.duplicates == 3


async def test_settled_ids_are_skipped():
    """What an earlier run settled is not asked for, and is counted."""
    transport = ScriptedTransport([OK])
    setup = Setup(ids=MANY, options=options(), transport=transport, settled=frozenset(MANY[10:]))
    async with running(setup) as outcomes:
        seen = [outcome.course_id async for outcome in outcomes]
        assert outcomes.summary.settled == outcomes.state.settled == 90
    assert sorted(seen) == sorted(MANY[:10])
    assert len(transport.requests) == 10


@pytest.mark.parametrize("limit", [0, 1, 7, 100, 1000])
async def test_limit(limit):
    """At most so many courses are fetched; repeated ones do not count."""
    transport, result = played([OK], ids=[*MANY[:5], *MANY], limit=limit)
    result = await result
    assert len(result.rows) == len(transport.requests) == min(limit, 100)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "empty"),
        ("a\nb", "control character"),
        ("x" * 300, "300 characters"),
        (7, "an id is 7"),
        (None, "an id is None"),
        (b"c1", "ids are text"),
    ],
)
async def test_an_impossible_id_stops_the_run(bad, words):
    """It is a mistake in the list, and no id after it is lost in silence."""
    _, result = played([OK], ids=["c1", bad, "c2"], concurrency=1)
    result = await result
    assert type(result.error) is ConfigurationError
    assert words in str(result.error)


async def test_one_string_is_not_a_list_of_ids():
    """A string would be read letter by letter; it is refused at once."""
    with pytest.raises(ConfigurationError, match="one string, 'abc'"):
        await run("abc", setup={"transport": ScriptedTransport([OK])})


# Bounds


@pytest.mark.parametrize("concurrency", [1, 2, 7])
async def test_concurrency_is_never_exceeded(concurrency):
    """Not even when many courses are tried again at once."""
    turns = Counter()

    def answer(request):
        turns[request.course_id] += 1
        status = 500 if turns[request.course_id] < 2 else 200
        return scripted(statuses(GOOD), status=status, delay=0.0005)

    transport, result = played(answer, ids=MANY, concurrency=concurrency, backoff=0.002, breaker=0)
    result = await result
    assert len(result.rows) == 100
    assert transport.max_in_flight == concurrency


async def test_concurrency_on_the_wire():
    """What the server sees is never above it, and all of it is used."""
    async with SimulatedServer(Simulation(courses=60, latency=0.005)) as server:
        await run(server.course_ids, server.endpoint, token=server.token, concurrency=5)
        assert server.counters.max_in_flight == 5


async def test_back_pressure_by_number():
    """A consumer that does not read stops the workers after 256 outcomes and theirs."""
    transport = ScriptedTransport([OK])
    ids = (f"c{number}" for number in range(10_000))
    async with stream(ids, options(concurrency=4), transport=transport) as outcomes:
        for _ in range(40):
            await settle()
        asked = len(transport.requests)
        assert 256 <= asked <= 256 + 4
        for _ in range(20):
            await anext(outcomes)
        await settle()
        assert asked < len(transport.requests) <= asked + 20


async def test_back_pressure_by_bytes():
    """Large courses stop the workers after 2 MiB of rows and theirs."""
    large = scripted(statuses(users("large", 8_000)))
    transport = ScriptedTransport([large])
    async with stream(MANY, options(concurrency=2), transport=transport) as outcomes:
        for _ in range(20):
            await settle()
        size = (await anext(outcomes)).rows.nbytes
    assert len(transport.requests) <= 2 * 2**20 // size + 1 + 2 + 1


def test_other_courses_use_the_place_of_those_that_rest():
    """While courses wait before a retry, others are fetched in their places."""
    resting = MANY[1:3]
    script = by_course(**{course: [BUSY, OK] for course in resting})
    waits = []
    transport = ScriptedTransport(script)
    settings = options(concurrency=1, backoff=0.8, max_backoff=0.8, breaker=0)

    async def main():
        async with stream(
            MANY,
            settings,
            transport=transport,
            limiter=limiter(settings),
            hooks=Hooks(wait=waits.append),
        ) as outcomes:
            return [outcome.course_id async for outcome in outcomes]

    seen, _ = passed(main())
    assert {wait.course_id for wait in waits} == set(resting)
    assert set(seen) == set(MANY)
    assert set(seen[-2:]) == set(resting)
    assert transport.max_in_flight == 1


async def test_before_the_first_good_answer_a_resting_course_keeps_its_place():
    """A limiter without burst sees at most `concurrency` courses until something was fetched."""
    transport, result = played(
        by_course(**{course: [BUSY, BUSY, OK] for course in MANY}), ids=MANY[:6], concurrency=2
    )
    assert len((await result).rows) == 6
    first = [request.course_id for request in transport.requests[:6]]
    assert set(first) == set(MANY[:2])


async def test_resting_courses_are_bounded():
    """However many fail, at most four times `concurrency` wait; then nothing new begins."""
    transport = ScriptedTransport(by_course(**{course: [BUSY] for course in MANY[1:]}))
    waits = []
    settings = options(concurrency=2, backoff=60, max_backoff=60, breaker=0)
    async with stream(
        MANY, settings, transport=transport, hooks=Hooks(wait=waits.append)
    ) as outcomes:
        for _ in range(20):
            await settle()
        assert len(waits) == len(transport.requests) - 1 == 2 * 4 + 2
        assert outcomes.state.in_flight == ()


async def test_spare_workers_leave():
    """Once the retries are over there are as many workers as `concurrency` again."""
    transport = ScriptedTransport(by_course(**{course: [BUSY, OK] for course in MANY[1:41]}))
    ids = (f"c{number}" for number in range(100_000))
    settings = options(concurrency=2, backoff=0.01, max_backoff=0.01)
    retried = set(MANY[1:41])
    most = 0
    async with stream(ids, settings, transport=transport) as outcomes:
        while retried:
            retried.discard((await anext(outcomes)).course_id)
            most = max(most, len(outcomes._workers))
        await settle()
        assert len(outcomes._workers) == 2 < most


def test_spare_workers_leave_one_by_one():
    """However many find themselves spare in the same moment, no id is left unfetched."""
    transport = ScriptedTransport(by_course(**{course: [BUSY, OK] for course in MANY[2:10]}))
    ids = [f"c{number}" for number in range(500)]
    settings = options(concurrency=2, backoff=3, max_backoff=3)  # far longer than 256 courses take

    async def main():
        async with stream(
            ids, settings, transport=transport, limiter=limiter(settings)
        ) as outcomes:
            while len(outcomes._workers) < 10 or outcomes._resting:  # noqa: ASYNC110 - white-box
                await asyncio.sleep(0.01)  # until all ten wait for room
            await settle()
            seen = [(await anext(outcomes)).course_id for _ in range(100)]
            await settle()
            assert len(outcomes._workers) >= 2
            return seen + [outcome.course_id async for outcome in outcomes]

    seen, _ = passed(main())
    assert sorted(seen) == sorted(ids)


async def test_a_shared_limiter_counts_for_both():
    """Two streams with one limiter stay within it together."""
    transport = ScriptedTransport([scripted(statuses(GOOD), delay=0.001)])
    setup = {"transport": transport, "limiter": Limiter(3, adaptive=False)}
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(run(MANY[:40], setup=setup)) for _ in range(2)]
    assert transport.max_in_flight == 3
    assert all(len(one.result().rows) == 40 for one in runs)


# Stops


async def test_fail_fast():
    """The first failure ends the run with exit 3; its outcome comes out before."""
    transport, result = played(by_course(c5=[UNKNOWN]), ids=MANY, fail_fast=True, concurrency=2)
    result = await result
    assert type(result.error) is StoppedEarly
    assert result.error.exit_code == 3
    assert set(result.failed) == {"c5"}
    assert len(transport.requests) <= 6 + 2


@pytest.mark.parametrize(
    ("max_errors", "failing", "stops"),
    [
        ("0", 1, True),
        ("3", 3, False),
        ("3", 4, True),
        ("10%", 10, False),
        ("10%", 50, True),
        ("0%", 1, True),
        ("100%", 50, False),
    ],
)
async def test_max_errors(max_errors, failing, stops):
    """More failures than allowed, as a number or a share of those done, end the run."""
    step = 100 // failing
    bad = {course: [UNKNOWN] for course in MANY[step - 1 :: step][:failing]}
    transport, result = played(by_course(**bad), ids=MANY, max_errors=max_errors, concurrency=2)
    result = await result
    assert (type(result.error) is StoppedEarly) is stops
    if stops:
        assert f"max_errors {max_errors}" in str(result.error)
    else:
        controls = len(transport.requests) - 100  # of a list whose last course failed
        assert controls == (1 if result.failed and MANY[-1] in result.failed else 0)


async def test_a_share_of_errors_is_not_judged_too_soon():
    """The first course failed is not 100 % of the run."""
    _, result = played(by_course(c0=[UNKNOWN]), ids=MANY[:19], max_errors="5%", concurrency=1)
    assert (await result).error is None


async def test_max_duration():
    """Time is up: what is in flight is finished, nothing more is begun, exit 5."""
    gate = Gate()
    transport = ScriptedTransport([OK], sleep=gate)
    settings = options(concurrency=3, max_duration=0.05)
    seen = []
    async with stream(MANY, settings, transport=transport) as outcomes:
        await gate.wait_for(3)
        await asyncio.sleep(0.1)
        gate.opened.set()
        with pytest.raises(TemporarilyUnavailable, match="max_duration") as caught:
            await collect(outcomes, seen)
    assert caught.value.exit_code == 5
    assert len(seen) == len(transport.requests) == 3


async def test_stop_finishes_what_is_in_flight():
    """After stop() nothing begins; the outcomes in flight come out, then the error."""
    gate = Gate()
    transport = ScriptedTransport([OK], sleep=gate)
    error = Interrupted("enough")
    seen = []
    async with stream(MANY, options(concurrency=3, grace=30), transport=transport) as outcomes:
        await gate.wait_for(3)
        outcomes.stop(error)
        outcomes.stop(Interrupted("the first stop counts"))
        gate.opened.set()
        with pytest.raises(Interrupted) as caught:
            await collect(outcomes, seen)
    assert caught.value is error
    assert len(seen) == len(transport.requests) == 3


async def test_stop_loses_no_outcome_that_is_there():
    """Workers that wait for room hand over what they have, since it was paid for."""
    transport = ScriptedTransport([OK])
    ids = (f"c{number}" for number in range(1_000))
    seen = []
    async with stream(ids, options(concurrency=4, grace=30), transport=transport) as outcomes:
        for _ in range(40):
            await settle()
        outcomes.stop(Interrupted("enough"))
        with pytest.raises(Interrupted):
            await collect(outcomes, seen)
    assert len(seen) == len(transport.requests) == 256 + 4


async def test_stop_grants_no_more_than_the_grace():
    """What is still in flight then is given up."""
    gate = Gate()
    transport = ScriptedTransport([OK], sleep=gate)
    async with stream(MANY, options(concurrency=3, grace=0.05), transport=transport) as outcomes:
        await gate.wait_for(3)
        outcomes.stop(Interrupted("enough"))
        with pytest.raises(Interrupted):
            await anext(outcomes)
    assert len(transport.requests) == 3


async def test_stop_waits_for_no_retry():
    """A course that rests, or fails after the stop, is left to the next run at once."""
    gate = Gate()
    transport = ScriptedTransport(by_course(c0=[BUSY], c1=[BUSY]), sleep=gate)
    settings = options(concurrency=2, backoff=600, max_backoff=600, grace=600)
    async with stream(["c0", "c1"], settings, transport=transport) as outcomes:
        await gate.wait_for(2)
        outcomes.stop(Interrupted("enough"))
        gate.opened.set()
        with pytest.raises(Interrupted):
            await anext(outcomes)
    assert len(transport.requests) == 2


async def test_stop_ends_those_who_rest_already():
    """Nobody waits out a backoff of minutes."""
    waits = asyncio.Event()
    transport = ScriptedTransport([BUSY])
    settings = options(backoff=600, max_backoff=600, grace=600)
    hooks = Hooks(wait=lambda _: waits.set())
    async with stream(["c0"], settings, transport=transport, hooks=hooks) as outcomes:
        await waits.wait()
        await settle()
        outcomes.stop(Interrupted("enough"))
        with pytest.raises(Interrupted):
            await anext(outcomes)


async def test_stop_ends_those_who_wait_for_ids():
    """An async iterable that gives nothing does not hold the end up."""

    async def silent():
        yield "c0"
        await asyncio.Event().wait()

    transport = ScriptedTransport([OK])
    async with stream(silent(), options(grace=600), transport=transport) as outcomes:
        assert (await anext(outcomes)).course_id == "c0"
        outcomes.stop(Interrupted("enough"))
        with pytest.raises(Interrupted):
            await anext(outcomes)


async def test_the_breaker_needs_failures_in_a_row():
    """A success, or a refusal, in between keeps the run going."""
    script = by_course(**{course: [BUSY] for course in MANY if int(course[1:]) % 3})
    _, result = played(script, ids=MANY, retries=0, breaker=5, concurrency=1)
    result = await result
    assert result.error is None
    assert len(result.failed) == 66


async def test_a_refusal_of_a_course_closes_the_breaker():
    """A server that refuses a course in proper words is there."""
    script = by_course(**{name: [BUSY if int(name[1:]) % 5 else UNKNOWN] for name in MANY[1:]})
    _, result = played(script, ids=MANY, retries=0, breaker=5, concurrency=1)
    result = await result
    assert result.error is None
    assert len(result.failed) == 99


async def test_the_breaker_may_be_switched_off():
    """With breaker 0 every course is tried to its end; that nothing was fetched is said then."""
    transport, result = played([BUSY], ids=MANY, retries=1, breaker=0)
    result = await result
    assert type(result.error) is TemporarilyUnavailable
    assert len(result.failed) == 100
    assert len(transport.requests) == 200


async def test_a_server_that_worked_gets_patience():
    """Once something was fetched the breaker pauses before it stops; then all goes on."""
    replies = [OK] * 10 + [BUSY] * 10 + [OK]
    _, result = played(
        replies, ids=MANY, breaker=5, patience=60, concurrency=8, backoff=0.01, max_backoff=0.01
    )
    result = await result
    assert result.error is None
    assert len(result.rows) == 100
    assert "the server fails" in result.summary.waited


async def test_without_patience_it_stops():
    """With patience 0 a server that fails again is given up."""
    _, result = played([*[OK] * 10, BUSY], ids=MANY, breaker=5, patience=0)
    result = await result
    assert type(result.error) is TemporarilyUnavailable
    assert len(result.rows) == 10


# Verdicts on the run


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (ScriptedReply(status=401), "token"),
        (ScriptedReply(status=404), "HTTP 404"),
        (scripted(fault("Authorization failed"), status=500), "does not accept the token"),
        (scripted(fault("Account subscription expired")), "subscription expired"),
        (PAGE, "HTML page"),
        (scripted(fault("Wrong Version", "SOAP-ENV:VersionMismatch"), status=500), "Wrong Version"),
        (scripted(fault("Procedure 'X' not present"), status=500), "not present"),
    ],
)
async def test_refusals_that_all_share_stop_the_run(reply, words):
    """After `refusals` courses in a row, with exit 4 and the reason; not after a hundred."""
    transport, result = played([reply], ids=MANY, refusals=3, concurrency=4, patience=0, retries=0)
    result = await result
    assert type(result.error) is ServerRefuses
    assert result.error.exit_code == 4
    assert words in str(result.error)
    assert len(transport.requests) <= 4 + 4 + 4
    assert not any(error.settled for error in result.failed.values())


async def test_refusals_must_be_in_a_row():
    """One course in between that works, or is refused for itself, shows that the account does."""
    replies = [OK, PAGE, PAGE, UNKNOWN, PAGE, PAGE]
    script = by_course(**{course: [replies[int(course[1:]) % 6]] for course in MANY})
    _, result = played(script, ids=MANY, refusals=3, concurrency=1, retries=0)
    result = await result
    assert result.error is None
    assert len(result.rows) == 17


async def test_permission_denied_from_the_start_is_the_account():
    """All denied and none fetched: exit 4, and no course is settled by it."""
    transport, result = played([DENIED], ids=MANY, refusals=2, concurrency=2)
    result = await result
    assert type(result.error) is ServerRefuses
    assert "the same answer for every course in a row (20 courses)" in str(result.error)
    assert 20 <= len(transport.requests) <= 20 + 2


async def test_permission_denied_later_is_the_course():
    """Once something was fetched a denied course is settled, however many there are."""
    script = by_course(**{course: [DENIED] for course in MANY[1:]})
    _, result = played(script, ids=MANY, refusals=2, concurrency=1)
    result = await result
    assert result.error is None
    assert len(result.failed) == 99
    assert all(error.settled for error in result.failed.values())


@pytest.mark.parametrize(
    ("spelled", "namespaces"), [("https", "auto"), ("http", "auto"), ("https", "https")]
)
async def test_the_spelling_of_the_namespaces_is_found_out(spelled, namespaces, caplog):
    """A server that wants https gets it after one turn for each part, for the whole run."""
    async with SimulatedServer(Simulation(courses=50, namespaces=spelled)) as server:
        result = await run(
            server.course_ids, server.endpoint, token=server.token, namespaces=namespaces
        )
        assert len(result.rows) == 50
        wasted = server.counters.requests - 50
    assert wasted <= (16 if (spelled, namespaces) == ("https", "auto") else 0)
    warnings = [record for record in caplog.records if "namespace" in record.getMessage()]
    assert len(warnings) == (2 if wasted else 0)


@pytest.mark.parametrize(("spelled", "namespaces"), [("https", "http"), ("http", "https")])
async def test_a_wrong_spelling_that_was_asked_for_stops_the_run(spelled, namespaces):
    """With an explicit spelling nothing is tried: exit 4."""
    async with SimulatedServer(Simulation(courses=50, namespaces=spelled)) as server:
        result = await run(
            server.course_ids, server.endpoint, token=server.token, namespaces=namespaces
        )
        assert type(result.error) is ServerRefuses
        assert server.counters.requests <= 5 + 8


async def test_a_spelling_is_not_turned_once_one_worked():
    """A version fault in mid-run is that course's, and the others go on."""
    mismatch = scripted(fault("Wrong Version", "SOAP-ENV:VersionMismatch"), status=500)
    transport, result = played(by_course(c7=[mismatch]), ids=MANY, concurrency=1)
    result = await result
    assert {name: error.kind for name, error in result.failed.items()} == {"c7": "namespace"}
    assert all(b'SOAP-ENV="http://' in request.body for request in transport.requests)


async def test_both_spellings_refused_is_a_refusal():
    """Each part is turned once; then the server's word counts."""
    mismatch = scripted(fault("Wrong Version", "SOAP-ENV:VersionMismatch"), status=500)
    transport, result = played([mismatch], ids=["c1"])
    result = await result
    assert result.failed["c1"].kind == "namespace"
    assert len(transport.requests) == 2


# Hooks and state


async def test_hooks_are_told_of_everything():
    """Attempts, waits and outcomes, each as a record."""
    seen = {"outcome": [], "attempt": [], "wait": []}
    hooks = Hooks(**{name: events.append for name, events in seen.items()})
    transport = ScriptedTransport(by_course(c1=[BUSY, OK], c2=[UNKNOWN]))
    async with stream(["c1", "c2"], options(), transport=transport, hooks=hooks) as outcomes:
        got = [outcome async for outcome in outcomes]
    assert seen["outcome"] == got
    attempts = sorted(
        (one.course_id, one.number, one.error and one.error.kind) for one in seen["attempt"]
    )
    assert attempts == [
        ("c1", 1, "http-503"),
        ("c1", 2, None),
        ("c2", 1, "unknown-content-item"),
    ]
    assert [(one.course_id, one.cause) for one in seen["wait"]] == [("c1", "http-503")]


async def test_the_state_of_a_run():
    """It can be looked at any time: what is done, what is in flight, what is left."""
    gate = Gate()
    transport = ScriptedTransport([OK], sleep=gate)
    async with stream(MANY, options(concurrency=3), transport=transport) as outcomes:
        await gate.wait_for(3)
        before = outcomes.state
        gate.opened.set()
        courses = [outcome async for outcome in outcomes]
        after = outcomes.state
    assert (before.total, before.courses, before.requests) == (100, 0, 0)
    assert set(before.in_flight) == {"c0", "c1", "c2"}
    assert (after.courses, after.fetched, after.failed) == (100, 100, 0)
    assert (after.rows, after.requests, after.in_flight) == (500, 100, ())
    assert all(isinstance(course, Fetched) for course in courses)


async def test_the_total_is_unknown_for_iterators():
    """Only what has a length is counted beforehand."""
    _, result = played([OK], ids=iter(MANY[:3]))
    assert (await result).state.total is None


async def test_the_summary_counts():
    """Courses by outcome, retries by cause, requests, and rows."""
    _, result = played(
        by_course(c1=[BUSY, BUSY, OK], c2=[UNKNOWN], c3=[scripted(statuses([]))]),
        ids=["c0", "c1", "c2", "c3"],
    )
    summary = (await result).summary
    assert (summary.courses, summary.fetched, summary.failed) == (4, 3, 1)
    assert (summary.rows, summary.empty) == (10, 1)
    assert summary.failures == {"unknown-content-item": 1}
    assert summary.retries == {"http-503": 2}
    assert summary.requests == 6
    assert 0 < summary.latency_p50 <= summary.latency_p99


async def test_every_request_is_the_documented_one():
    """URL, headers and body of what is sent."""
    transport, result = played([OK], ids=["a&b"], endpoint="https://lms.example/soap")
    await result
    [request] = transport.requests
    assert request.url == "https://lms.example/soap"
    assert request.headers["SOAPAction"] == '"GetContentItemFinalStatuses"'
    assert request.course_id == "a&b"
    assert f"<token>{TOKEN}</token>".encode() in request.body


async def test_a_cancellation_from_outside_never_looks_like_the_end(tmp_path):
    """A transport that raises CancelledError stops the run with an error, not as finished."""

    def script(request):
        error = asyncio.CancelledError() if request.course_id == "i3" else None
        return ScriptedReply(pieces=[statuses(GOOD)], error=error)

    out = tmp_path / "out.ndjson"
    settings = options(concurrency=1)
    ids = [f"i{number}" for number in range(10)]
    with pytest.raises(TemporarilyUnavailable, match="cancelled from outside"):
        await export(ids, out, settings, transport=ScriptedTransport(script))
    assert not out.exists()
    await export(
        ids, out, settings, transport=ScriptedTransport([ScriptedReply(pieces=[statuses(GOOD)])])
    )
    assert {json.loads(line)["contentItemId"] for line in out.read_text().splitlines()} == set(ids)


async def test_an_ordered_run_that_is_stopped_does_not_wait_for_a_gap():
    """What waits for a course that will not come ends at once; the run's error comes out."""

    def script(request):
        return ScriptedReply(
            status=503 if request.course_id == "i0" else 200, pieces=[statuses(GOOD)]
        )

    settings = options(
        concurrency=4,
        ordered=True,
        backoff=60,
        max_backoff=60,
        grace=3600,
    )
    ids = [f"i{number}" for number in range(600)]
    transport = ScriptedTransport(script)
    async with asyncio.timeout(300), stream(ids, settings, transport=transport) as run:
        while len(transport.requests) < 256:  # noqa: ASYNC110 - the transport has no event
            await asyncio.sleep(0.01)
        run.stop(StoppedEarly("enough"))
        with pytest.raises(StoppedEarly, match="enough"):
            await anext(run)
