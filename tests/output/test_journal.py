"""The journal: frames survive the round trip, and any damage leaves a prefix of the commits."""

import hashlib
import zlib
from collections import Counter
from dataclasses import asdict, replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch._domain.errors import Refused, Transient
from bulkfetch._domain.model import Failed
from bulkfetch._output.frames import (
    FORMAT,
    Committed,
    Done,
    FailedCourse,
    Header,
    Pause,
    Resume,
    Snapshot,
    Stop,
    decode,
    encode,
    lines,
    walk,
)
from bulkfetch._output.ledger import add, replay, verified
from bulkfetch._output.manifest import encode_manifest, make_manifest

HEADER = Header("run-1", {"endpoint": "lms.example"}, 1_700_000_000.0, "1.0")
REFUSED = FailedCourse("r", "unknown-content-item", "Unknown content item", 1, settled=True)
PASSING = FailedCourse("p", "timeout", "no answer", 6, settled=False)
DONE = Done(1_700_000_100.0, {"rows": 3}, {"concurrency": 8})
STOP = Stop(1_700_000_090.0, 5, "breaker", "20 courses failed in a row", "connection refused")
PAUSE = Pause(1_700_000_080.0, 12.5, "Retry-After")


def commit(start, end, *courses, failed=(), crc=0):
    rows = [(course_id, count, 1, 0.25) for course_id, count in courses]
    return Committed(start, end, crc, rows, list(failed), 1_700_000_050.0)


def journal(*rest):
    return b"".join(map(encode, (HEADER, *rest)))


def line_of(body):
    text = orjson.dumps(body)
    return b"%08x %b\n" % (zlib.crc32(text), text)


NAMES = ("a", "b", "c", "x", "y", "r", "p", "f")


def settled(ledger):
    return {name for name in NAMES if name in ledger.settled}


def failed(data):
    ledger = replay([data])
    return {course.course_id: course for course in ledger.failed([data])}


EXAMPLE = [
    commit(0, 10, ("a", 2), ("b", 0)),
    commit(10, 10, failed=[REFUSED, PASSING]),
    Snapshot({"done": 4}),
    commit(10, 25, ("c", 1)),
]


@pytest.mark.parametrize("frame", [HEADER, *EXAMPLE, Resume("run-2", 5.0), DONE, STOP, PAUSE])
def test_round_trip(frame):
    """A frame reads back as what was written."""
    assert decode(encode(frame)[:-1]) == frame


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no crc",
        encode(DONE)[:-2],
        encode(DONE)[:-1].upper(),
        b" " + encode(DONE)[:-1],
        line_of([1])[:-1],
        line_of({"done": {}})[:-1],
        line_of({"done": {}, "state": {}})[:-1],
        line_of({"commit": {"courses": 1}})[:-1],
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
    assert settled(ledger) == {"a", "b", "c", "r"}
    assert "p" in ledger.unsettled
    assert "x" not in ledger.unsettled
    assert failed(data) == {"r": REFUSED, "p": PASSING}
    assert ledger.failures() == {REFUSED.kind: 1, PASSING.kind: 1}
    assert ledger.outcomes() == {"fetched": 3, "refused": 1, "failed": 1}
    assert list(ledger.commits()) == [(0, 10, 0), (10, 10, 0), (10, 25, 0)]
    assert [data[place:].split(b" ")[1][:9] for place in ledger.places] == [b'{"commit"'] * 3
    assert ledger.state == {"done": 4}
    assert ledger.updated == 1_700_000_050.0
    assert ledger.done is None


def test_whoever_watches_sees_each_frame():
    """A replay shows each frame that it added, in order, and no other."""
    seen = []
    told = [*EXAMPLE, PAUSE, STOP, Resume("run-2", 6.0), DONE]
    replay([journal(*told), encode(commit(25, 26, ("d", 1)))], seen.append)
    assert seen == [HEADER, *told]


@pytest.mark.parametrize(
    ("then", "stop"),
    [
        ((STOP,), STOP),
        ((STOP, replace(STOP, at=9.0)), replace(STOP, at=9.0)),
        ((STOP, Resume("run-2", 6.0)), None),
        ((STOP, Resume("run-2", 6.0), commit(25, 26, ("d", 1)), STOP), STOP),
        ((STOP, DONE), None),
        ((DONE, STOP), STOP),
    ],
)
def test_why_the_last_run_stopped(then, stop):
    """Why a run ended early is known until a later one resumes or finishes."""
    ledger = replay([journal(*EXAMPLE, *then)])
    assert ledger.stop == stop
    assert (ledger.done == DONE) is (DONE in then)


@pytest.mark.parametrize(
    ("commits", "controls"),
    [
        ([], ()),
        ([[("a", 0)]], ("a",)),
        ([[("a", 5), ("b", 0), ("c", 2)]], ("c", "a", "b")),
        ([[("a", 0), ("b", 0), ("c", 0)], [("d", 9)]], ("d", "a", "b")),
        ([[("a", 3), ("b", 3), ("c", 3)], [("d", 3), ("e", 0)], [("f", 1)]], ("f", "a", "b")),
    ],
)
def test_controls(commits, controls):
    """The smallest three fetched courses are at hand, those with rows before those without."""
    frames = [commit(at, at + 1, *courses) for at, courses in enumerate(commits)]
    assert replay([journal(*frames)]).controls == controls


def test_done_and_taken_back():
    """`Resume` takes a `Done` back, remembers that there was one, and names its run."""
    assert replay([journal(DONE)]).done == DONE
    ledger = replay([journal(DONE, Resume("run-2", 6.0), commit(0, 1, ("a", 1)))])
    assert ledger.done is None
    assert ledger.last_done == DONE
    assert ledger.runs == ["run-1", "run-2"]
    assert not replay([journal(Resume("run-2", 6.0))]).last_done


@pytest.mark.parametrize(
    ("then", "expected", "without"),
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
def test_the_last_word_on_a_course(then, expected, without):
    """A course that failed is settled by its last outcome."""
    data = journal(commit(0, 0, failed=[REFUSED, PASSING]), then)
    assert settled(replay([data])) == expected
    assert failed(data) == without


def test_a_failure_may_be_settled_later():
    """A course journaled as failed and refused later counts as refused, in one commit too."""
    later = replace(PASSING, settled=True)
    for frames in (
        [commit(0, 0, failed=[PASSING, later])],
        [commit(0, 0, failed=[PASSING]), commit(0, 0, failed=[later])],
        [commit(0, 0, failed=[later]), commit(0, 0, failed=[PASSING])],
    ):
        assert failed(journal(*frames)) == {"p": later}
        assert replay([journal(*frames)]).outcomes() == {"fetched": 0, "refused": 1, "failed": 0}


def test_what_a_run_settles_is_not_settled_before_it():
    """In a live ledger only what was there when the run began is settled or unsettled."""
    ledger = replay([journal(commit(0, 5, ("a", 1), failed=[REFUSED, PASSING]))])
    ledger.go_live()
    frame = commit(5, 6, ("p", 1), failed=[replace(PASSING, course_id="x")])
    add(ledger, frame, len(encode(frame)))
    assert settled(ledger) == {"a", "r"}
    assert "x" not in ledger.unsettled
    assert ledger.outcomes() == {"fetched": 2, "refused": 1, "failed": 1}
    assert ledger.failures() == {REFUSED.kind: 1, PASSING.kind: 1}


def test_asked_again():
    """Refused courses can be left out of what is settled; those with rows cannot."""
    ledger = replay([journal(commit(0, 5, ("a", 1), failed=[REFUSED, PASSING]))])
    again = ledger.settled_except({"a", "r", "p"})
    assert {name for name in NAMES if name in again} == {"a"}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["rows", "no", "later"]))))
def test_counts_are_those_of_the_last_words(words):
    """Whatever the order of outcomes, counts, kinds and the listed failures tell the same."""
    frames, last = [], {}
    for at, (name, word) in enumerate(words):
        old = last.get(name)
        if word == "rows":
            frames.append(commit(at, at + 1, (name, 1)))
            last[name] = "rows"
            continue
        one = FailedCourse(name, word, str(at), 1, settled=word == "no")
        frames.append(commit(at, at + 1, failed=[one]))
        if old != "rows" and not (old and old != "rows" and old.settled and word == "later"):
            last[name] = one
    data = journal(*frames)
    ledger = replay([data])
    without = {name: one for name, one in last.items() if one != "rows"}
    assert failed(data) == without
    assert ledger.outcomes()["refused"] == sum(one.settled for one in without.values())
    assert ledger.outcomes()["failed"] == sum(not one.settled for one in without.values())
    assert ledger.failures() == dict(Counter(one.kind for one in without.values()))
    assert settled(ledger) == {n for n, one in last.items() if one == "rows" or one.settled}


def test_a_passing_failure_never_unsettles_a_refusal():
    """A refused course that is tried again in vain keeps the server's verdict; a new one counts."""
    passing = FailedCourse("r", "connect", "no answer", 6, settled=False)
    data = journal(commit(0, 0, failed=[REFUSED]), commit(0, 0, failed=[passing]))
    ledger = replay([data])
    assert settled(ledger) == {"r"}
    assert failed(data) == {"r": REFUSED}
    assert ledger.outcomes() == {"fetched": 0, "refused": 1, "failed": 0}
    other = FailedCourse("r", "no-access", "denied", 1, settled=True)
    assert failed(data + encode(commit(0, 0, failed=[other]))) == {"r": other}


def test_a_failure_never_unsettles_rows():
    """A course that has its rows stays settled, whatever is said of it later."""
    failure = FailedCourse("a", "timeout", "", 1, settled=False)
    data = journal(commit(0, 5, ("a", 1)), commit(5, 5, failed=[failure]))
    assert settled(replay([data])) == {"a"}
    assert not failed(data)


@pytest.mark.parametrize(
    "data",
    [
        encode(commit(0, 1, ("a", 1))),
        encode(DONE),
        encode(Snapshot({})),
    ],
)
def test_nothing_before_the_header(data):
    """Without a header there is nothing."""
    ledger = replay([data, encode(HEADER)])
    assert (ledger.header, ledger.size, ledger.fetched) == (None, 0, 0)


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
    assert settled(ledger) == {"a"}
    assert ledger.end == 10
    assert len(ledger.ends) == 1


UNKNOWN = line_of({"weather": {"sun": True}})


def test_what_a_later_version_adds_is_skipped():
    """In format 2 a whole line of an unknown kind, or with unknown fields, stops no reader."""
    more = line_of({"stop": {"mood": "bad", **asdict(STOP)}})
    data = journal(EXAMPLE[0]) + UNKNOWN + more + journal(*EXAMPLE[1:])[len(encode(HEADER)) :]
    ledger = replay([data])
    assert (ledger.size, ledger.fetched, ledger.stop) == (len(data), 3, STOP)
    assert replay([data.replace(b"sun", b"sum")]).fetched == 2


OLD_FAULT = FailedCourse("f", "fault", "Unexpected error", 1, settled=True)


def header_of_1():
    body = asdict(HEADER) | {"format": 1}
    return line_of({"header": {name: body[name] for name in body if name not in ADDED}})


ADDED = {"shard", "older"}


def test_format_1():
    """Format 1 is read; it had no unknown kinds, and its unknown faults are asked again."""
    rest = journal(commit(0, 9, ("a", 1), failed=[OLD_FAULT, REFUSED]))[len(encode(HEADER)) :]
    ledger = replay([header_of_1(), rest, UNKNOWN, rest])
    assert ledger.header == replace(HEADER, format=1)
    assert ledger.size == len(header_of_1() + rest)
    assert settled(ledger) == {"a", "r"}
    assert ledger.outcomes() == {"fetched": 1, "refused": 1, "failed": 1}


def test_format_1_taken_over():
    """Once taken over, what format 1 wrote is still read as such, and what follows as format 2."""
    rest = journal(commit(0, 9, failed=[OLD_FAULT]))[len(encode(HEADER)) :]
    header = encode(replace(HEADER, older=len(rest)))
    assert not settled(replay([header, rest]))
    assert settled(replay([header, rest, encode(commit(9, 9, failed=[OLD_FAULT]))])) == {"f"}


def test_another_format():
    """Of a journal in another format only the header is read, and only its version and format."""
    header = line_of({"header": {"format": FORMAT + 1, "version": "9", "more": 1}})
    ledger = replay([header, encode(commit(0, 1, ("a", 1)))])
    assert ledger.header == Header("", {}, 0.0, "9", format=FORMAT + 1)
    assert not settled(ledger)


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
        rest += [commit(at, at + length, *courses, crc=at), Snapshot({"at": at})]
        at += length
    return [*rest, DONE]


def is_prefix(ledger, whole):
    assert list(ledger.ends) == list(whole.ends[: len(ledger.ends)])
    assert list(ledger.crcs) == list(whole.crcs[: len(ledger.ends)])
    assert ledger.fetched <= whole.fetched
    assert ledger.size <= whole.size


@given(batches(), st.data())
def test_any_cut_gives_a_prefix(sizes, data):
    """A journal cut at any byte gives a prefix of its commits, up to the last whole line."""
    text = journal(*many(sizes))
    size = data.draw(st.integers(0, len(text)))
    ledger = replay([text[:size]])
    is_prefix(ledger, replay([text]))
    assert ledger.size == text[:size].rfind(b"\n") + 1
    assert len(list(walk([text[:size]]))) == text[:size].count(b"\n")


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
    """A failed course is listed with its kind, and with whether a later run asks again."""
    error = Transient("timeout", "bad \udcff header")
    course = FailedCourse.of(Failed("x", error, attempts=3))
    assert orjson.loads(course.line()) == {
        "contentItemId": "x",
        "kind": "timeout",
        "message": "bad ? header",
        "attempts": 3,
        "retry": True,
    }
    assert FailedCourse.of(Failed("x", Refused("no", "no"))).settled


@pytest.mark.parametrize(
    ("limited", "told"),
    [({"asked": 10, "of": 403}, {"asked": 10, "of": 403}), (None, None), ({"asked": 1}, None)],
)
def test_manifest_tells_of_a_limit(limited, told):
    """Where `--limit` cut the list of ids the manifest says how many of how many were asked."""
    ledger = replay([journal(replace(DONE, totals={"limited": limited}))])
    assert make_manifest(ledger, "out.ndjson", "").limited == told


def test_manifest():
    """The manifest tells rows, bytes, outcomes, empty courses, runs and times in UTC."""
    ledger = replay([journal(*EXAMPLE, Resume("run-2", 7.0), DONE)])
    manifest = make_manifest(ledger, "out.ndjson", "ab" * 32)
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
        "limited": None,
        "partial": None,
        "totals": {"rows": 3},
        "options": {"concurrency": 8},
    }
