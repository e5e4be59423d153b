"""The journal: frames survive the round trip, and any damage leaves a prefix of the commits."""

import hashlib
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch._errors import Refused, Transient
from bulkfetch._journal import (
    FORMAT,
    Commit,
    Done,
    FailedCourse,
    Header,
    Ledger,
    Resume,
    State,
    decode,
    encode,
    encode_manifest,
    frames,
    lines,
    replay,
    verified,
)
from bulkfetch._model import Failed

HEADER = Header("run-1", {"endpoint": "lms.example"}, 1_700_000_000.0, "1.0")
REFUSED = FailedCourse("r", "unknown-content-item", "Unknown content item", 1, settled=True)
PASSING = FailedCourse("p", "timeout", "no answer", 6, settled=False)
DONE = Done(1_700_000_100.0, {"rows": 3}, {"concurrency": 8})


def commit(start, end, *courses, failed=(), crc=0):
    rows = [(course_id, count, 1, 0.25) for course_id, count in courses]
    return Commit(start, end, crc, rows, list(failed), 1_700_000_050.0)


def journal(*rest):
    return b"".join(map(encode, (HEADER, *rest)))


def line_of(body):
    text = orjson.dumps(body)
    return b"%08x %b\n" % (zlib.crc32(text), text)


EXAMPLE = [
    commit(0, 10, ("a", 2), ("b", 0)),
    commit(10, 10, failed=[REFUSED, PASSING]),
    State({"done": 4}),
    commit(10, 25, ("c", 1)),
]


@pytest.mark.parametrize("frame", [HEADER, *EXAMPLE, Resume("run-2", 5.0), DONE])
def test_round_trip(frame):
    """A frame reads back as what was written."""
    assert decode(encode(frame)) == frame


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no crc",
        encode(DONE)[:-2],
        encode(DONE).upper(),
        b" " + encode(DONE),
        line_of([1]),
        line_of({"done": {}}),
        line_of({"done": {}, "state": {}}),
        line_of({"something": {}}),
        line_of({"commit": {"courses": 1}}),
    ],
)
def test_lines_that_are_no_frames(line):
    """A line that is not a whole good frame raises ValueError, and ends a replay."""
    with pytest.raises(ValueError, match="not a frame"):
        decode(line)
    whole = journal(*EXAMPLE)
    assert replay([whole, line + b"\n", encode(DONE)]).size == len(whole)


def test_what_a_journal_adds_up_to():
    """Replaying gives totals, settled and failed courses, commits and the last state."""
    data = journal(*EXAMPLE)
    ledger = replay([data])
    assert (ledger.header, ledger.runs, ledger.size, ledger.end) == (
        HEADER,
        ["run-1"],
        len(data),
        25,
    )
    assert (ledger.fetched, ledger.rows, ledger.empty) == (3, 3, ["b"])
    assert ledger.settled == {"a", "b", "c", "r"}
    assert ledger.failed == {"r": REFUSED, "p": PASSING}
    assert ledger.outcomes() == {"fetched": 3, "refused": 1, "failed": 1}
    assert list(ledger.commits()) == [(0, 10, 0), (10, 10, 0), (10, 25, 0)]
    assert [data[place:].split(b" ")[1][:9] for place in ledger.places] == [b'{"commit"'] * 3
    assert ledger.states == [{"done": 4}]
    assert ledger.updated == 1_700_000_050.0
    assert ledger.done is None


def test_states_on_request():
    """All snapshots are kept when they are asked for, else the last."""
    data = journal(State({"n": 1}), State({"n": 2}))
    assert replay([data]).states == [{"n": 2}]
    assert replay([data], every_state=True).states == [{"n": 1}, {"n": 2}]


def test_done_and_taken_back():
    """`Resume` takes a `Done` back, remembers that there was one, and names its run."""
    assert replay([journal(DONE)]).done == DONE
    ledger = replay([journal(DONE, Resume("run-2", 6.0), commit(0, 1, ("a", 1)))])
    assert ledger.done is None
    assert ledger.reopened
    assert ledger.runs == ["run-1", "run-2"]
    assert not replay([journal(Resume("run-2", 6.0))]).reopened


@pytest.mark.parametrize(
    ("then", "settled", "failed"),
    [
        (commit(0, 1, ("r", 1)), {"r"}, {"p": PASSING}),
        (commit(0, 1, ("p", 1)), {"r", "p"}, {"r": REFUSED}),
        (
            commit(0, 0, failed=[FailedCourse("p", "connect", "", 1, settled=False)]),
            {"r"},
            {"r": REFUSED, "p": FailedCourse("p", "connect", "", 1, settled=False)},
        ),
        (
            commit(0, 0, failed=[FailedCourse("p", "gone", "", 1, settled=True)]),
            {"r", "p"},
            {"r": REFUSED, "p": FailedCourse("p", "gone", "", 1, settled=True)},
        ),
    ],
)
def test_the_last_word_on_a_course(then, settled, failed):
    """A course that failed is settled by its last outcome."""
    ledger = replay([journal(commit(0, 0, failed=[REFUSED, PASSING]), then)])
    assert ledger.settled == settled
    assert ledger.failed == failed


def test_a_passing_failure_never_unsettles_a_refusal():
    """A refused course that is tried again in vain keeps the server's verdict; a new one counts."""
    passing = FailedCourse("r", "connect", "no answer", 6, settled=False)
    ledger = replay([journal(commit(0, 0, failed=[REFUSED]), commit(0, 0, failed=[passing]))])
    assert ledger.settled == {"r"}
    assert ledger.failed == {"r": REFUSED}
    assert ledger.outcomes() == {"fetched": 0, "refused": 1, "failed": 0}
    other = FailedCourse("r", "no-access", "denied", 1, settled=True)
    ledger.count([], [passing])
    assert ledger.failed == {"r": REFUSED}
    ledger.count([], [other])
    assert ledger.failed == {"r": other}


def test_a_failure_never_unsettles_rows():
    """A course that has its rows stays settled, whatever is said of it later."""
    failure = FailedCourse("a", "timeout", "", 1, settled=False)
    ledger = replay([journal(commit(0, 5, ("a", 1)), commit(5, 5, failed=[failure]))])
    assert ledger.settled == {"a"}
    assert not ledger.failed


@pytest.mark.parametrize(
    "data",
    [
        encode(commit(0, 1, ("a", 1))),
        encode(DONE),
        encode(State({})),
    ],
)
def test_nothing_before_the_header(data):
    """Without a header there is nothing."""
    assert replay([data, encode(HEADER)]) == Ledger()


@pytest.mark.parametrize(
    "wrong",
    [
        encode(HEADER),
        encode(commit(11, 12, ("x", 1))),
        encode(commit(10, 9, ("x", 1))),
        line_of({"commit": {"start": 10}}),
        encode(commit(10, 12, ("x", 1), crc=-1)),
        line_of({"commit": {"start": 10, "end": 11, "crc": 0, "courses": [1], "failed": []}}),
        encode(DONE) + encode(commit(10, 12, ("x", 1))),
    ],
)
def test_frames_out_of_order(wrong):
    """A second header, a gap, a step back, a commit after the end: the journal ends before it."""
    ledger = replay([journal(commit(0, 10, ("a", 1))), wrong, encode(commit(10, 12, ("y", 1)))])
    assert ledger.settled == {"a"}
    assert ledger.end == 10
    assert len(ledger.ends) == 1


def test_another_format():
    """Of a journal in another format only the header is read, and only its version and format."""
    header = line_of({"header": {"format": FORMAT + 1, "version": "9", "more": 1}})
    ledger = replay([header, encode(commit(0, 1, ("a", 1)))])
    assert ledger.header == Header("", {}, 0.0, "9", format=FORMAT + 1)
    assert not ledger.settled


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_lines_of_any_chunks(chunks):
    """Lines do not depend on how the bytes are cut into chunks; an unfinished one is left out."""
    assert list(lines(chunks)) == b"".join(chunks).split(b"\n")[:-1]


def batches():
    course = st.tuples(st.text(max_size=5), st.integers(0, 5))
    return st.lists(st.lists(course, max_size=4), max_size=6)


def many(sizes):
    at, rest = 0, []
    for courses in sizes:
        length = sum(count for _, count in courses)
        rest += [commit(at, at + length, *courses, crc=at), State({"at": at})]
        at += length
    return [*rest, DONE]


def is_prefix(ledger, whole):
    assert list(ledger.ends) == list(whole.ends[: len(ledger.ends)])
    assert list(ledger.crcs) == list(whole.crcs[: len(ledger.ends)])
    assert ledger.settled <= whole.settled
    assert ledger.size <= whole.size


@given(batches(), st.data())
def test_any_cut_gives_a_prefix(sizes, data):
    """A journal cut at any byte gives a prefix of its commits, up to the last whole line."""
    text = journal(*many(sizes))
    size = data.draw(st.integers(0, len(text)))
    ledger = replay([text[:size]])
    is_prefix(ledger, replay([text]))
    assert ledger.size == text[:size].rfind(b"\n") + 1
    assert len(list(frames([text[:size]]))) == text[:size].count(b"\n")


@given(batches(), st.data())
def test_any_flip_gives_a_prefix(sizes, data):
    """A journal with any bit flipped gives the commits before that line, and no others."""
    text = bytearray(journal(*many(sizes)))
    whole = replay([text])
    bit = data.draw(st.integers(0, 8 * len(text) - 1))
    text[bit // 8] ^= 1 << bit % 8
    ledger = replay([bytes(text)])
    is_prefix(ledger, whole)
    assert ledger.size == bytes(text[: bit // 8]).rfind(b"\n") + 1


@given(st.binary(max_size=300))
def test_any_bytes(data):
    """Whatever the bytes, nothing is raised."""
    assert replay([journal(), data]).header == HEADER
    assert replay([data]).size <= len(data)


def test_commits_against_their_data():
    """`verified` finds every commit whose bytes differ or are missing, and digests all it read."""
    pieces = [b"a" * 5, b"", b"b" * 7, b"c" * 3]
    at, rest = 0, []
    for piece in pieces:
        rest.append(commit(at, at + len(piece), crc=zlib.crc32(piece)))
        at += len(piece)
    ledger = replay([journal(*rest)])
    data = b"".join(pieces)

    def answers(data, most):
        digest = hashlib.sha256()
        reads = verified(ledger, lambda size, at: data[at : at + min(size, most)], digest.update)
        return list(reads), digest.hexdigest()

    for most in (1, 2, 6, 100):
        assert answers(data, most) == ([True] * 4, hashlib.sha256(data).hexdigest())
        assert answers(data.replace(b"bb", b"bx", 1), most)[0] == [True, True, False, True]
        assert answers(data[:-4], most)[0] == [True, True, False, False]


def test_failed_lines():
    """A failed course is listed with its class, and with whether a later run asks again."""
    error = Transient("timeout", "bad \udcff header")
    course = FailedCourse.of(Failed("x", error, attempts=3))
    assert orjson.loads(course.line()) == {
        "contentItemId": "x",
        "class": "timeout",
        "message": "bad ? header",
        "attempts": 3,
        "retry": True,
    }
    assert FailedCourse.of(Failed("x", Refused("no", "no"))).settled


def test_manifest():
    """The manifest tells rows, bytes, outcomes, empty courses, runs and times in UTC."""
    ledger = replay([journal(*EXAMPLE, Resume("run-2", 7.0), DONE)])
    manifest = ledger.manifest("out.ndjson", "ab" * 32)
    assert orjson.loads(encode_manifest(manifest)) == {
        "output": "out.ndjson",
        "rows": 3,
        "bytes": 25,
        "sha256": "ab" * 32,
        "courses": {"fetched": 3, "refused": 1, "failed": 1},
        "empty_courses": ["b"],
        "runs": ["run-1", "run-2"],
        "started": "2023-11-14T22:13:20+00:00",
        "finished": "2023-11-14T22:15:00+00:00",
        "version": "1.0",
        "format": FORMAT,
        "fingerprint": {"endpoint": "lms.example"},
        "totals": {"rows": 3},
        "options": {"concurrency": 8},
    }
