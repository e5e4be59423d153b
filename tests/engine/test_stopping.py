"""Many answers added up: the rules as a table, then as promises for any sequence of answers."""

from dataclasses import dataclass

import pytest
from answers import options
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch import (
    Refused,
    ServerRefuses,
    TemporarilyUnavailable,
    Transient,
)
from bulkfetch._domain.errors import (
    Diverted,
    LocalFault,
    NamespaceRefused,
    RunRefused,
    Unauthorized,
    UnknownFault,
    Unreadable,
)
from bulkfetch._engine.stopping import GiveUp, RenewToken, Stopping, Suspend
from bulkfetch._engine.streaks import Key
from bulkfetch._engine.ways import most_retries

CUT = Transient("truncated", "the response ends too soon")
NOBODY = Transient("connect", "nobody listens")
OVERLOAD = Transient("http-503", "HTTP 503", overload=True)
LOCAL = LocalFault("local", "no sockets left")
PAGE = Diverted("html-page", "an HTML page")
TOKEN = Unauthorized("authorization-failed", "the token is not accepted")
EXPIRED = RunRefused("run-refused", "the subscription has expired")
SPELLED = NamespaceRefused("envelope", "another version")
FOREIGN = Unreadable("foreign", "another shape")
CLIENT = UnknownFault("SOAP-ENV:Client", "No such thing")
SERVER = UnknownFault("SOAP-ENV:Server", "SQLSTATE[HY000]")
DENIED = Refused("permission-denied", "Permission denied")
UNKNOWN = Refused("unknown-content-item", "Unknown content item")
EVERY = [CUT, NOBODY, LOCAL, PAGE, TOKEN, EXPIRED, FOREIGN, CLIENT, SERVER, DENIED, UNKNOWN]
LONG = 600.0
SEEN = {"proven": True, "controls": ["kept"]}


def rules(*, total=None, renewable=False, proven=False, controls=(), **changes):
    return Stopping(
        options(**changes), proven=proven, controls=controls, total=total, renewable=renewable
    )


def fail(stopping, error, courses, now=0.0):
    """That many courses fail at this time."""
    for number in range(courses):
        stopping.failed(now, f"c{number}", error)


def ends(stopping, now, *, after_probe=False):
    """The exit code with which to give up now, "hold", or None."""
    match stopping.advice(now, after_probe=after_probe):
        case GiveUp(error):
            return error.exit_code
        case Suspend():
            return "hold"
        case advice:
            return advice


@pytest.mark.parametrize(
    ("error", "courses", "setup", "at_once", "patience", "code"),
    [
        # Passing failures, something fetched.
        (CUT, 19, SEEN, None, LONG, 5),
        (CUT, 20, SEEN, "hold", LONG, 5),
        (CUT, 2, SEEN, None, LONG, 5),
        (CUT, 1, SEEN, None, None, None),
        (CUT, 3, {**SEEN, "breaker": 3, "patience": 7}, "hold", 7, 5),
        (CUT, 99, {**SEEN, "breaker": 0}, None, None, None),
        # ... nothing good ever: a minute, or five seconds where nobody was reached.
        (CUT, 1, {}, None, 60, 5),
        (CUT, 20, {}, "hold", 60, 5),
        (CUT, 20, {"patience": 9}, "hold", 9, 5),
        (NOBODY, 1, {}, None, 5, 5),
        (NOBODY, 20, {}, "hold", 5, 5),
        # Not the API, or a dead token.
        (PAGE, 4, {}, None, None, None),
        (PAGE, 5, {}, "hold", 5, 4),
        (PAGE, 5, SEEN, "hold", LONG, 4),
        (PAGE, 3, {"total": 3}, "hold", 5, 4),
        (PAGE, 3, {"total": 3, **SEEN}, None, None, None),
        (TOKEN, 4, SEEN, None, None, None),
        (TOKEN, 5, {}, "hold", 5, 4),
        (TOKEN, 5, SEEN, "hold", LONG, 4),
        (TOKEN, 2, {"refusals": 2}, "hold", 5, 4),
        (EXPIRED, 5, {}, 4, 0, 4),
        (SPELLED, 5, {}, 4, 0, 4),
        (EXPIRED, 5, SEEN, "hold", 0, 4),
        # One and the same answer for all.
        (FOREIGN, 19, {}, None, None, None),
        (FOREIGN, 20, {}, 4, 0, 4),
        (FOREIGN, 20, {"total": 400}, None, None, None),
        (FOREIGN, 40, {"total": 400}, 4, 0, 4),
        (CLIENT, 20, {}, 4, 0, 4),
        (DENIED, 20, {}, 4, 0, 4),
        (UNKNOWN, 20, {}, 4, 0, 4),
        (UNKNOWN, 199, {"total": 2_000}, None, None, None),
        (SERVER, 20, {}, "hold", 60, 4),
        (SERVER, 20, {"total": 806}, "hold", 60, 4),
        (SERVER, 19, {}, None, 60, 5),
        (FOREIGN, 20, SEEN, "hold", LONG, 4),
        (CLIENT, 20, SEEN, "hold", LONG, 4),
        (SERVER, 20, SEEN, "hold", LONG, 4),
        (UNKNOWN, 20, {**SEEN, "total": 9_999}, "hold", LONG, 4),
        (UNKNOWN, 19, SEEN, None, None, None),
        # This machine's own trouble.
        (LOCAL, 500, {}, None, None, None),
    ],
)
def test_the_table(error, courses, setup, at_once, patience, code):
    """What is seen since the last good answer, what happens at once, and when which stop."""
    stopping = rules(**setup)
    fail(stopping, error, courses)
    assert ends(stopping, 0.0) == at_once
    if patience is None:
        assert ends(stopping, 1e9, after_probe=True) is None
        return
    if patience:
        assert ends(stopping, patience - 0.1, after_probe=True) != code
    assert stopping.wake(0.0) == patience or courses == 2
    assert ends(stopping, patience, after_probe=True) == code
    assert ends(stopping, patience) == ("hold" if "controls" in setup else code)


@pytest.mark.parametrize("error", EVERY)
def test_rows_clear_everything(error):
    """Whatever was seen before, rows of one course show that the service works."""
    stopping = rules(**SEEN)
    fail(stopping, error, 500)
    stopping.fetched("good", 3)
    assert ends(stopping, 1e9, after_probe=True) is None
    assert not stopping.in_streak
    assert not stopping.doubts("c0")


@pytest.mark.parametrize(
    ("error", "left"),
    [(CUT, None), (NOBODY, None), (PAGE, None), (TOKEN, "hold"), (EXPIRED, "hold")],
)
def test_a_final_fault_is_good_for_what_it_shows(error, left):
    """It shows that the API answers; not that it does so for this account."""
    stopping = rules(**SEEN)
    fail(stopping, error, 20)
    stopping.failed(0.0, "mine", UNKNOWN)
    assert ends(stopping, 0.0) == left


@pytest.mark.parametrize(
    ("error", "probe", "later", "absolved"),
    [
        (CUT, None, None, True),
        (FOREIGN, None, None, True),
        (PAGE, None, CUT, True),
        (CUT, CUT, None, False),
        (OVERLOAD, None, None, False),
        (CUT, None, OVERLOAD, False),
    ],
)
def test_a_control_absolves_the_server(error, probe, later, absolved):
    """Of failures that are the courses' own, not of those with which it says that it is busy."""
    stopping = rules(**SEEN)
    fail(stopping, error, 20)
    assert not stopping.absolved
    if error is OVERLOAD:
        fail(stopping, CUT, 1)  # what it said last is not all that it said
    stopping.probed(0.0, probe)
    if later:
        fail(stopping, later, 1)
    assert stopping.absolved is absolved


@pytest.mark.parametrize("error", EVERY)
def test_one_course_is_one(error):
    """Courses count, not requests."""
    stopping = rules(**SEEN)
    for _ in range(500):
        stopping.failed(0.0, "c1", error)
    assert ends(stopping, 1e9) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Error 4711 in 'a'", "Error 12 in 'bc'", True),
        (
            "id 6f1e2d3c-aaaa-bbbb-cccc-000000000001",
            "id 00000000-1111-2222-3333-444444444444",
            True,
        ),
        ("course c1 is broken", "course c2 is broken", True),
        ('"x" is odd', '"y" is odd', True),
        ("HTTP 501", "HTTP 502", True),
        ("no such table", "no such view", False),
    ],
)
def test_the_key_of_a_failure(one, other, same):
    """Values, ids, hex and digits make no difference, words do."""
    keys = [
        Key.of(course, UnknownFault("Server", text))
        for course, text in (("c1", one), ("c2", other))
    ]
    assert (keys[0] == keys[1]) is same


@pytest.mark.parametrize("course", ["1", "20", "a", "*", "(", "HTTP", "é", "00000000-0000"])
def test_any_id_leaves_the_key_as_it_is(course):
    """An id that is part of other words does not tear them."""
    text = "status 501: cannot read 20 bytes of {}"
    keys = {Key.of(one, CUT.__class__("k", text.format(one))) for one in (course, "zz-y")}
    assert len(keys) == 1 or course == "HTTP"


def test_a_token_is_renewed_once_a_streak():
    """The same unknown fault from five courses after good answers."""
    stopping = rules(**SEEN, renewable=True, concurrency=8)
    fail(stopping, SERVER, 4)
    assert ends(stopping, 0.0) is None
    fail(stopping, SERVER, 5)
    assert ends(stopping, 0.0) == RenewToken()
    assert ends(stopping, 0.0) is None
    stopping.fetched("good", 1)
    fail(stopping, CLIENT, 5)
    assert ends(stopping, 0.0) == RenewToken()


@pytest.mark.parametrize("setup", [{"renewable": True}, SEEN])
def test_no_token_is_renewed_in_vain(setup):
    """Not before anything was fetched, not where it cannot be."""
    stopping = rules(**setup)
    fail(stopping, SERVER, 5)
    assert ends(stopping, 0.0) is None


def test_a_few_workers_renew_a_token_too():
    """With one request at a time two courses must do: none may use up its tries meanwhile."""
    stopping = rules(**SEEN, renewable=True, concurrency=1)
    fail(stopping, SERVER, 1)
    assert ends(stopping, 0.0) is None
    fail(stopping, SERVER, 2)
    assert ends(stopping, 0.0) == RenewToken()


def test_probes_come_at_once_then_slower_and_once_at_the_end_of_the_patience():
    """Pauses double from 1 s to 30 s; the last probe is not late."""
    stopping = rules(**SEEN, patience=100)
    fail(stopping, CUT, 20)
    now, times, advice = 0.0, [], stopping.advice(0.0)
    while isinstance(advice, Suspend):
        now += stopping.pause(now)
        times.append(now)
        advice = stopping.probed(now, CUT)
    assert times == [0, 1, 3, 7, 15, 31, 61, 91, 100]


def test_a_month_of_probes_is_no_overflow():
    """The pauses stay at half a minute, however many there were."""
    stopping = rules(**SEEN, patience=30 * 86_400)
    fail(stopping, CUT, 20)
    assert [stopping.probed(1.0, CUT) and stopping.pause(1.0) for _ in range(3_000)][-1] == 30


def test_controls_are_the_smallest_courses_with_rows_in_turn():
    """Three of them, so that one that was deleted is not all there is."""
    stopping = rules()
    for course, number in [("big", 90), ("none", 0), ("b", 2), ("c", 3), ("a", 1), ("d", 4)]:
        stopping.fetched(course, number)
    assert {stopping.control() for _ in range(3)} == {"a", "b", "c"}
    assert [stopping.control() for _ in range(3)] == [stopping.control() for _ in range(3)]


@pytest.mark.parametrize("error", [CUT, PAGE, TOKEN, EXPIRED, FOREIGN, UNKNOWN])
def test_before_anything_was_fetched_a_failed_course_is_asked_again(error):
    """There is no other; and where nothing failed there is none."""
    stopping = rules()
    assert stopping.control() is None
    stopping.failed(0.0, "c7", error)
    assert stopping.control() == "c7"


@pytest.mark.parametrize(
    ("error", "now", "may"),
    [(CUT, 29, False), (CUT, 30, True), (NOBODY, 2.5, True), (PAGE, 2, False), (PAGE, 2.5, True)],
)
def test_a_resting_course_keeps_its_place_at_first(error, now, may):
    """Until half of the patience is over or anything good came."""
    stopping = rules()
    assert not stopping.may_substitute(0.0)
    stopping.failed(0.0, "c1", error)
    assert stopping.may_substitute(now) is may
    stopping.failed(0.0, "c2", UNKNOWN)
    assert stopping.may_substitute(now)


@pytest.mark.parametrize(
    ("lost", "code"),
    [
        ([], None),
        ([CUT], 5),
        ([SERVER], 5),
        ([PAGE], 4),
        ([TOKEN, PAGE], 4),
        ([FOREIGN, CLIENT], 4),
        ([CUT, TOKEN], 5),
        ([TOKEN, CUT, PAGE], 5),
    ],
)
def test_the_end_of_a_run_that_fetched_nothing(lost, code):
    """5 if any failed for a passing reason, else 4; all refused is an end like any other."""
    stopping = rules()
    for error in lost:
        stopping.lost(error)
    ended = stopping.end_unproven()
    assert (ended and ended.exit_code) == code
    stopping.fetched("good", 1)
    assert stopping.end_unproven() is None


def test_rows_that_were_thrown_away_are_no_output():
    """A probe's rows prove the account; an output without a course is not published for them."""
    stopping = rules()
    stopping.failed(0.0, "c1", CUT)
    stopping.probed(1.0, None)
    assert stopping.proven
    stopping.lost(CUT)
    assert isinstance(stopping.end_unproven(), TemporarilyUnavailable)


@pytest.mark.parametrize(
    ("error", "kind"), [(CUT, TemporarilyUnavailable), (DENIED, ServerRefuses)]
)
def test_the_end_of_a_list_whose_control_fails(error, kind):
    """The control's own answer says whether to come back later."""
    stopping = rules(**SEEN)
    stopping.failed(0.0, "c1", FOREIGN)
    assert not stopping.may_end_without_control
    ended = stopping.end_unanswered(error)
    assert type(ended) is kind
    assert error.message in str(ended)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RunRefused("certificate", "the certificate of lms is not trusted: say --cacert"),
            (
                "no course can be fetched (20 courses), the last with: "
                "the certificate of lms is not trusted: say --cacert"
            ),
        ),
        (
            RunRefused("run-refused", "the server refuses the account: Account expired"),
            (
                "the server refuses the account (20 courses), the last with: Account expired; "
                "mend the account, then run the same command again"
            ),
        ),
        (
            UNKNOWN,
            (
                "the same answer for every course in a row (20 courses), the last with: "
                "Unknown content item; check that the ids are of this account, and that the token "
                "may read them"
            ),
        ),
        (
            CUT,
            (
                "the server fails: 20 courses without a good answer between them, the last with: "
                "the response ends too soon; run the same command again later to go on"
            ),
        ),
    ],
)
def test_a_stop_says_each_thing_once_and_what_to_do_next(error, words):
    """Cause, number, last answer, advice; a course that rests before its retry has not "failed"."""
    stopping = rules()
    fail(stopping, error, 20)
    found = stopping.advice(LONG)
    assert isinstance(found, GiveUp)
    assert str(found.error) == words


def test_a_refusal_counts_as_one_only_once_rows_came_after_it():
    """Until then the account may be the one that is refused, and the course is asked again."""
    stopping = rules()
    fail(stopping, UNKNOWN, 3)
    assert stopping.doubted == 3
    stopping.fetched("good", 1)
    assert stopping.doubted == 0


@pytest.mark.parametrize(
    ("error", "unproven", "proven"),
    [(CUT, 5, 5), (PAGE, 5, 5), (SERVER, 2, 2), (CLIENT, 0, 2), (FOREIGN, 0, 2), (DENIED, 0, 0)],
)
def test_how_often_a_course_is_tried_again(error, unproven, proven):
    """What would come again the same is worth little; before anything was fetched, nothing."""
    assert most_retries(error, 5, proven=False) == unproven
    assert most_retries(error, 5, proven=True) == proven
    assert most_retries(error, 0, proven=True) == 0
    passing = 5 if error is SERVER else unproven
    assert most_retries(error, 5, proven=False, suspect=True) == passing


@pytest.mark.parametrize(
    ("courses", "setup", "suspect"),
    [(4, {}, False), (5, {}, True), (2, {"concurrency": 2}, True), (19, SEEN, False)],
)
def test_the_service_is_suspect_before_anything_was_fetched(courses, setup, suspect):
    """Several courses fail alike, and nothing shows that it is not the service."""
    stopping = rules(**setup)
    fail(stopping, SERVER, courses)
    assert stopping.suspect is suspect
    stopping.fetched("good", 1)
    assert not stopping.suspect


# For any sequence of answers


@dataclass
class Play:
    """A run in simulated time: answers are told, advice is followed, probes are answered."""

    stopping: Stopping
    probe: object
    """A function of the time that returns how a probe fails (None: rows) and its seconds."""
    now: float = 0.0
    probes: int = 0
    error: object = None

    def answer(self, seconds, course, error):
        self.now += seconds
        if error is None:
            self.stopping.fetched(course, 2)
        else:
            self.stopping.failed(self.now, course, error)
        self.look()

    def look(self):
        advice = self.stopping.advice(self.now)
        while isinstance(advice, Suspend):
            self.now += self.stopping.pause(self.now)
            error, seconds = self.probe(self.now)
            self.now += seconds
            self.probes += 1
            advice = self.stopping.probed(self.now, error)
        if isinstance(advice, GiveUp):
            self.error = advice.error


answers = st.lists(
    st.tuples(
        st.floats(0, 100),
        st.integers(0, 300).map("c{}".format),
        st.sampled_from([None, *EVERY]),
    ),
    max_size=150,
)
errors = st.sampled_from([error for error in EVERY if error is not LOCAL])
settings = st.fixed_dictionaries(
    {
        "breaker": st.integers(1, 40),
        "refusals": st.integers(1, 10),
        "patience": st.floats(0, 1_000),
        "retries": st.integers(0, 6),
        "concurrency": st.integers(1, 30),
    }
)


@given(told=answers)
def test_a_final_fault_is_in_doubt_until_rows_follow(told):
    """A course is settled by rows, or by a final fault that rows, a control or the end confirm."""
    play = Play(rules(breaker=0, refusals=1_000), lambda _: (CUT, 1.0))
    doubted = set()
    for seconds, course, error in told:
        play.answer(seconds, course, error)
        if play.error:
            break
        doubted = set() if error is None else doubted | ({course} if error in REFUSALS else set())
    assert {course for course in map("c{}".format, range(301)) if play.stopping.doubts(course)} == (
        doubted
    )
    play.stopping.confirm()
    assert not any(play.stopping.doubts(course) for course in doubted)


REFUSALS = [DENIED, UNKNOWN]


@given(told=answers, changes=settings, wave=st.lists(errors, max_size=4))
def test_no_number_of_failing_courses_stops_a_run_whose_control_is_answered(told, changes, wave):
    """Whatever fails, in whatever order and for however long."""
    play = Play(rules(**SEEN, **changes), lambda _: (None, 0.1))
    for seconds, course, error in told:
        play.answer(seconds, course, error)
    for number in range(400):
        for error in wave:
            play.answer(3.0, f"w{number}", error)
    assert play.error is None


@given(
    error=st.sampled_from([CUT, NOBODY, PAGE, TOKEN, SERVER]),
    gaps=st.lists(st.floats(0.001, 20), min_size=1, max_size=10),
    seconds=st.floats(0, 30),
    proven=st.booleans(),
    changes=settings,
)
def test_a_server_that_stops_answering_stops_the_run_in_time(error, gaps, seconds, proven, changes):
    """Within patience, one request and one probe, and as many probes as the docstring says."""
    play = Play(rules(**(SEEN if proven else {}), **changes), lambda _: (error, seconds))
    patience = changes["patience"]
    number = 0
    while play.error is None:
        # One more course fails; as in a run, the rules look again when their time has come.
        due = play.stopping.wake(play.now)
        play.answer(min(gaps[number % len(gaps)], max(0.0, due - play.now)), f"c{number}", error)
        number += 1
    longest = max(gaps)
    most = max(changes["breaker"], changes["refusals"], 2)
    assert play.now <= max(patience, most * longest) + longest + seconds + 0.001
    assert play.now >= (patience if proven else min(patience, 5.0))
    assert play.probes <= 7 + patience / 30
    assert number <= most or play.now <= patience + longest
    alike = error is SERVER and number >= 20
    assert play.error.exit_code == (4 if alike or error in (PAGE, TOKEN) else 5)
