"""One course, all its tries: what is retried, how often, after which pause, and what is mended.

The fetcher alone, on a scripted transport, with a sleep that only notes how long it was to be.
"""

from dataclasses import dataclass, field

import pytest
from answers import GOOD, TORN, fault, options, scripted, statuses, users

from bulkfetch import Failed, Fetched, Limiter, Refused, RunRefused, Secret, Transient, Unauthorized
from bulkfetch._domain.errors import Diverted, LocalFault, StaleConnection, UnknownFault
from bulkfetch._domain.hooks import Attempt
from bulkfetch._domain.model import GET_FINAL_STATUSES
from bulkfetch._engine.course import Fetcher
from bulkfetch._http.token import FixedToken, RenewedToken
from bulkfetch.testing import ScriptedReply, ScriptedTransport

OK = scripted(statuses(GOOD))
BUSY = ScriptedReply(status=503)
STALE = ScriptedReply(error=StaleConnection("disconnected", "closed"))
LOCAL = ScriptedReply(error=LocalFault("local", "no files"))
REFUSED = scripted(fault("Authorization failed"), status=500)
MISMATCH = scripted(fault("Wrong Version", "SOAP-ENV:VersionMismatch"), status=500)
ABSENT = scripted(fault("Procedure 'X' not present"), status=500)


class Counting(Limiter):
    """A limiter that notes what it is told, and never waits."""

    def __init__(self):
        super().__init__(1, adaptive=False)
        self.told = []

    def hold(self, seconds, cause="Retry-After"):
        self.told.append((cause, seconds))

    def strained(self, seconds=0.0):
        self.told.append("strained")

    def succeeded(self, seconds):
        self.told.append("succeeded")

    async def allow_retry(self):
        self.told.append("retry")


@dataclass
class Fetching:
    """One fetch and all that was seen of it."""

    outcome: object = None
    requests: list = field(default_factory=list)
    attempts: list = field(default_factory=list)
    pauses: list = field(default_factory=list)
    waits: list = field(default_factory=list)
    told: list = field(default_factory=list)

    @property
    def rows(self):
        return [(row.user_id, row.status, row.progress) for row in self.outcome.rows]


async def fetch(*replies, tokens=None, course_id="c1", **changes):
    seen, limiter, transport = Fetching(), Counting(), ScriptedTransport(replies)

    async def sleep(seconds):
        seen.pauses.append(seconds)

    fetcher = Fetcher(
        GET_FINAL_STATUSES,
        options(**changes),
        transport=transport,
        tokens=tokens or FixedToken(Secret("t")),
        limiter=limiter,
        attempted=lambda *told: seen.attempts.append(Attempt(*told)),
        waits=lambda wait, _: seen.waits.append(wait),
        run_id="run-7",
        sleep=sleep,
    )
    seen.outcome = await fetcher.fetch(course_id)
    assert fetcher.in_flight == {}
    seen.requests, seen.told = transport.requests, limiter.told
    return seen


def renewing():
    """A provider of tokens t1, t2, ..."""
    count = iter(range(1, 100))

    async def bring():
        return Secret(f"t{next(count)}"), float("inf")

    return RenewedToken(bring)


# Once


async def test_a_course_at_the_first_try():
    """Its rows, one attempt, no pause."""
    seen = await fetch(OK)
    assert isinstance(seen.outcome, Fetched)
    assert (seen.rows, seen.outcome.attempts) == (GOOD, 1)
    assert (seen.pauses, seen.waits, seen.told) == ([], [], ["succeeded"])
    assert seen.outcome.seconds >= seen.attempts[0].seconds > 0


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
async def test_a_body_in_any_pieces(size):
    """However the body is cut on its way, the rows are the same."""
    rows = users("u", 1_500)
    body = statuses(rows)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert (await fetch(ScriptedReply(pieces=pieces))).rows == rows


@pytest.mark.parametrize(
    ("reply", "verdict", "kind"),
    [
        (scripted(fault("Unknown content item"), status=500), Refused, "unknown-content-item"),
        (scripted(fault("Account subscription expired")), RunRefused, "run-refused"),
        (REFUSED, Unauthorized, "authorization-failed"),
    ],
)
async def test_final_words(reply, verdict, kind):
    """What will not change is asked once."""
    seen = await fetch(reply, tokens=FixedToken(Secret("t")))
    assert isinstance(seen.outcome, Failed)
    assert (type(seen.outcome.error), seen.outcome.error.kind) == (verdict, kind)
    assert len(seen.requests) == seen.outcome.attempts == 1
    assert seen.pauses == []


@pytest.mark.parametrize(
    ("reply", "verdict", "kind", "tries"),
    [
        (scripted(fault("SQLSTATE[HY000]")), UnknownFault, "fault", 3),
        (scripted(fault("Too many requests")), Transient, "fault", 6),
        (ScriptedReply(status=404), Diverted, "http-404", 6),
        (ScriptedReply(status=302, headers={"Location": "http://x/"}), Diverted, "redirect", 6),
        (scripted(b"<html><br>"), Diverted, "html-page", 6),
        (scripted(statuses(GOOD).partition(b"</ns1:statuses>")[0]), Transient, "truncated", 6),
    ],
)
async def test_passing_words(reply, verdict, kind, tries):
    """What may pass is asked again, and succeeds if it does."""
    seen = await fetch(reply, OK)
    assert seen.rows == GOOD
    seen = await fetch(reply)
    assert (type(seen.outcome.error), seen.outcome.error.kind) == (verdict, kind)
    assert not seen.outcome.error.settled
    assert len(seen.requests) == tries


@pytest.mark.parametrize("status", [200, 201, 202, 206])
@pytest.mark.parametrize("kind", ["text/html", "application/json", "", "text/xml"])
async def test_f102_a_good_body_is_rows_with_any_2xx_and_any_type(status, kind):
    """Headers prove nothing about a body that is there to be read."""
    seen = await fetch(scripted(statuses(GOOD), status=status, headers={"Content-Type": kind}))
    assert seen.rows == GOOD


@pytest.mark.parametrize("size", [3, 2_000])
async def test_f101_a_fault_after_rows_is_no_rows(size):
    """Small or large, nothing of such an answer is kept."""
    body = statuses(users("torn", size)).replace(
        b"</SOAP-ENV:Body>",
        fault("Unknown content item").partition(b"Body>")[2].removesuffix(b"</SOAP-ENV:Envelope>"),
    )
    seen = await fetch(scripted(body))
    assert (type(seen.outcome), seen.outcome.error.kind) == (Failed, "unknown-content-item")


async def test_rows_of_another_course_are_told(caplog):
    """They are kept under the id asked for, with their own beside it, and one warning a course."""
    body = statuses(GOOD).replace(
        b"</ns1:progress>", b"</ns1:progress><contentItemId>x</contentItemId>"
    )
    seen = await fetch(scripted(body))
    assert [row.extra["_contentItemId"] for row in seen.outcome.rows] == ["x"] * len(GOOD)
    [told] = [one.getMessage() for one in caplog.records]
    assert told.startswith("course c1: 5 of its rows name another course, kept as _contentItemId")
    caplog.clear()
    await fetch(scripted(body.replace(b">x<", b">c1<")))
    assert caplog.records == []


async def test_the_stamp():
    """With `stamp` every row says when it was fetched, and by which run."""
    seen = await fetch(OK, stamp=True)
    [row] = {(row.extra["_run_id"], row.extra["_fetched_at"][-1]) for row in seen.outcome.rows}
    assert row == ("run-7", "Z")


# Again


@pytest.mark.parametrize("retries", [0, 1, 5])
async def test_as_many_retries_as_are_set(retries):
    """`retries` extra tries, then the last failure is the outcome."""
    seen = await fetch(BUSY, retries=retries)
    assert len(seen.requests) == seen.outcome.attempts == retries + 1
    assert seen.outcome.error.kind == "http-503"
    assert len(seen.pauses) == len(seen.waits) == retries
    assert seen.told.count("retry") == retries
    assert [attempt.number for attempt in seen.attempts] == list(range(1, retries + 2))


async def test_success_after_failures():
    """Each failed try is told; the rows are those of the last alone."""
    torn = ScriptedReply(pieces=[TORN[2_000].partition(b"</ns1:statuses>")[0]])
    seen = await fetch(BUSY, torn, torn, OK)
    assert (seen.rows, seen.outcome.attempts) == (GOOD, 4)
    assert [one.error and one.error.kind for one in seen.attempts] == [
        "http-503",
        "truncated",
        "truncated",
        None,
    ]
    assert [wait.cause for wait in seen.waits] == ["http-503", "truncated", "truncated"]


async def test_pauses_grow_up_to_their_bound():
    """Full jitter: each below backoff doubled with each try, never above max_backoff."""
    cut = ScriptedReply(error=Transient("disconnected", "-"))
    pauses = [(await fetch(cut, retries=8, backoff=1, max_backoff=20)).pauses for _ in range(30)]
    for number, bound in enumerate([1, 2, 4, 8, 16, 20, 20, 20]):
        column = [row[number] for row in pauses]
        assert 0 <= min(column) < max(column) <= bound
        assert max(column) > bound / 2


async def test_a_busy_server_is_given_at_least_half():
    """After 503 no pause is shorter than half its bound."""
    for _ in range(30):
        [pause] = (await fetch(BUSY, retries=1, backoff=1)).pauses
        assert 0.5 <= pause <= 1


@pytest.mark.parametrize(("asked", "pause"), [("7", 7), ("1000", 20), ("0", 0)])
async def test_retry_after_is_heeded(asked, pause):
    """The server's pause, up to max_retry_after; it holds the whole host."""
    busy = ScriptedReply(status=429, headers={"Retry-After": asked})
    seen = await fetch(busy, OK, max_retry_after=20)
    assert seen.pauses == [pause]
    assert seen.rows == GOOD
    held = [("Retry-After", pause)] if pause else []
    assert seen.told == ["strained", *held, "retry", "succeeded"]


async def test_most_retries_of_an_error():
    """An error that is not worth many tries gets fewer."""
    bad = ScriptedReply(error=Transient("bad-http", "-", most_retries=1))
    assert len((await fetch(bad, retries=5)).requests) == 2
    assert len((await fetch(bad, retries=0)).requests) == 1


async def test_a_fault_to_be_retried():
    """Fault texts that mean "later" are a setting."""
    later = scripted(fault("Too many calls"), status=500)
    seen = await fetch(later, OK, retry_faults=("too many",))
    assert seen.rows == GOOD
    assert (await fetch(later, retry_faults=())).outcome.error.most_retries == 2


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_the_fault_counts_before_the_status(status):
    """A final word in the body of a 50x is final; without one the status is passing."""
    final = scripted(fault("Unknown content item"), status=status)
    assert len((await fetch(final)).requests) == 1
    for body in (
        b"",
        b"<x",
        b"<x/>",
        statuses([]),
        statuses(GOOD[:1]),
        statuses(GOOD),
        TORN[2_000],
    ):
        seen = await fetch(scripted(body, status=status), OK)
        assert seen.rows == GOOD
        assert seen.attempts[0].error.kind == f"http-{status}"


# Mended


async def test_a_stale_connection_costs_no_try():
    """It is repeated at once; a second one in a row counts as a failure."""
    seen = await fetch(STALE, OK, retries=0)
    assert (seen.rows, seen.outcome.attempts, seen.pauses) == (GOOD, 1, [])
    seen = await fetch(STALE, STALE, OK, retries=1)
    assert (seen.rows, seen.outcome.attempts, len(seen.pauses)) == (GOOD, 2, 1)
    seen = await fetch(STALE, STALE, STALE, OK, retries=1)
    assert (seen.rows, seen.outcome.attempts) == (GOOD, 2)


async def test_a_shortage_here_costs_no_try():
    """It holds the host for a second and is tried again, as often as it takes."""
    seen = await fetch(LOCAL, LOCAL, OK, retries=0, max_retry_after=20)
    assert (seen.rows, seen.outcome.attempts, seen.pauses) == (GOOD, 1, [])
    hold = ("this machine is short of sockets or files", 1.0)
    assert seen.told == ["strained", hold, "strained", hold, "succeeded"]
    seen = await fetch(*[LOCAL] * 200, OK, retries=0, max_retry_after=20)
    assert (seen.rows, seen.outcome.attempts) == (GOOD, 1)


async def test_a_shortage_here_lets_others_have_a_turn(monkeypatch):
    """Also where no hold is allowed: else the loop would stand still until a socket is free."""
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr("bulkfetch._engine.course.asyncio.sleep", sleep)
    seen = await fetch(LOCAL, LOCAL, OK, retries=0, max_retry_after=0)
    assert (seen.rows, slept) == (GOOD, [1.0, 1.0])


async def test_a_refused_token_is_renewed_once():
    """The same try goes on with the new token; refused again, that is the outcome."""
    seen = await fetch(REFUSED, OK, tokens=renewing(), retries=0)
    assert (seen.rows, seen.outcome.attempts) == (GOOD, 1)
    assert [b"<token>t1<" in seen.requests[0].body, b"<token>t2<" in seen.requests[1].body] == [
        True,
        True,
    ]
    seen = await fetch(REFUSED, tokens=renewing())
    assert type(seen.outcome.error) is Unauthorized
    assert len(seen.requests) == 2


async def test_every_try_has_the_token_of_its_time():
    """The body is made anew for each try."""
    count = iter(range(1, 100))

    async def bring():
        return Secret(f"t{next(count)}"), 0.0  # expires at once

    seen = await fetch(BUSY, BUSY, OK, tokens=RenewedToken(bring))
    assert [request.body.partition(b"<token>")[2][:2] for request in seen.requests] == [
        b"t1",
        b"t2",
        b"t3",
    ]


@pytest.mark.parametrize(
    ("replies", "spelled"),
    [
        ((OK,), [("http", "http")]),
        ((MISMATCH, OK), [("http", "http"), ("https", "http")]),
        ((ABSENT, OK), [("http", "http"), ("http", "https")]),
        ((MISMATCH, ABSENT, OK), [("http", "http"), ("https", "http"), ("https", "https")]),
        ((ABSENT, MISMATCH, OK), [("http", "http"), ("http", "https"), ("https", "https")]),
    ],
)
async def test_the_namespaces_are_respelled(replies, spelled):
    """Each part is turned at most once, within the same try."""
    seen = await fetch(*replies, retries=0)
    assert (seen.rows, seen.outcome.attempts) == (GOOD, 1)
    assert [
        (
            "https" if b'SOAP-ENV="https://' in request.body else "http",
            "https" if b'xmlns="https://' in request.body else "http",
        )
        for request in seen.requests
    ] == spelled


@pytest.mark.parametrize("namespaces", ["http", "https"])
async def test_a_fixed_spelling_is_not_turned(namespaces):
    """What was asked for is sent, once."""
    seen = await fetch(MISMATCH, OK, namespaces=namespaces)
    assert seen.outcome.error.kind == "namespace"
    assert len(seen.requests) == 1


async def test_everything_at_once():
    """Mending and retrying do not get in each other's way."""
    seen = await fetch(
        STALE, MISMATCH, REFUSED, BUSY, STALE, LOCAL, BUSY, OK, tokens=renewing(), retries=2
    )
    assert (seen.rows, seen.outcome.attempts) == (GOOD, 3)
    assert len(seen.pauses) == 2


# Exceptions that are none of the course's


@pytest.mark.parametrize("error", [ZeroDivisionError(), MemoryError(), KeyboardInterrupt()])
async def test_other_exceptions_come_out(error):
    """They are not failures of the course, and are not retried."""
    with pytest.raises(type(error)):
        await fetch(ScriptedReply(error=error), OK)


async def test_a_failed_course_keeps_nothing():
    """Its error has no frames and no context: outcomes may be kept by the thousand."""
    seen = await fetch(ScriptedReply(pieces=[TORN[2_000][:-30]]), retries=1)
    error = seen.outcome.error
    assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None)


@pytest.mark.parametrize("before", [0, 165, 190, 199])
async def test_f86_a_token_that_straddles_the_cut_of_a_fault_text_is_hidden(before):
    """The token is taken out of the server's words before these are cut to 200 characters."""
    secret = "Zt4-sentinel-0f1e2d3c4b5a"
    text = fault("x" * before + secret + " and more" * 40)
    tokens = FixedToken(Secret(secret))
    seen = await fetch(ScriptedReply(status=500, pieces=[text]), tokens=tokens)
    message = seen.outcome.error.message
    assert not any(secret[:length] in message for length in range(8, len(secret)))
