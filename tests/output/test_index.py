"""What became of each course: as a dictionary would know it, in a fraction of the room."""

import os
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch._output.frames import Committed, FailedCourse, Header, encode
from bulkfetch._output.index import (
    FAILED,
    FETCHED,
    MOST_KINDS,
    REFUSED,
    Entry,
    Index,
    _Room,
    _Run,
    key_of,
)
from bulkfetch._output.ledger import replay

entries = st.builds(
    Entry,
    st.sampled_from([FAILED, REFUSED, FETCHED]),
    st.integers(0, MOST_KINDS - 1),
    st.integers(0, (1 << 32) - 1),
)
LOOKS = {
    "none": lambda _index: None,
    "get": lambda index: index.get("a"),
    "counts": lambda index: index.counts(),
    "frozen": lambda index: index.frozen(),
}
names = st.lists(st.text("abcdef", max_size=2), unique=True)
steps = st.lists(st.tuples(names, entries, st.sampled_from([*LOOKS])))


def last_word(old, new):
    """Rows outlast refusals, these failures; of two alike the later counts."""
    return max(old or new, new, key=lambda entry: (entry.outcome, entry.commit, entry.kind))


@given(steps, st.sampled_from([1, 2, 7, 100]))
def test_as_a_dictionary(steps, few):
    """Whatever is put in, the last words come out, however many lie in files, asked when ever."""
    index, expected = Index(few=few), {}
    for names, entry, look in steps:
        index.put(names, entry)
        expected |= {name: last_word(expected.get(name), entry) for name in names}
        LOOKS[look](index)
    assert {name: index.get(name) for name in expected} == expected
    assert index.get("not there") is None
    frozen = index.frozen()
    for name in [*expected, *reversed(expected)]:
        assert frozen.outcome(name) == index.outcome(name) == expected[name].outcome
    without = [entry for entry in expected.values() if entry.outcome != FETCHED]
    assert index.counts() == Counter((entry.outcome, entry.kind) for entry in without)
    assert {*index.commits()} == {entry.commit for entry in without}
    assert bool(index) == bool(frozen) == bool(expected)


def test_what_is_frozen_is_the_last_word_though_a_newer_one_was_said():
    """Rows that were counted outlast a failure that came after, and so does a refusal."""
    index = Index(few=4)
    index.put("abcd", Entry(FETCHED, 0, 0))
    index.put("efgh", Entry(REFUSED, 0, 0))
    index.counts()
    index.put("ae", Entry(FAILED, 0, 1))
    frozen = index.frozen()
    assert [frozen.outcome(name) for name in "ae"] == [FETCHED, REFUSED]


def test_asking_before_each_course_merges_each_few_times(monkeypatch):
    """A course's record is written again no more often than the logarithm of all of them."""
    written = []
    append = _Room.append
    monkeypatch.setattr(_Room, "append", lambda *a: (written.append(len(a[1])), append(*a))[1])
    index = Index(few=8)
    for number in range(8 << 9):
        assert index.get(f"c{number}") is None
        index.put([f"c{number}"], Entry(FETCHED, 0, number))
    assert sum(written) / 16 <= (8 << 9) * 9
    assert index.get("c7") == Entry(FETCHED, 0, 7)


@pytest.mark.parametrize("few", [16, 1_000])
def test_what_is_asked_in_the_order_of_coming_is_told_right(few):
    """Out of a file kept in memory the last word comes too, where a later file has another."""
    index = Index(few=few)
    names = [f"c{number}" for number in range(500)]
    index.put(names, Entry(FAILED, 0, 0))
    for number, name in enumerate(names[::7]):
        index.put([name], Entry((REFUSED, FETCHED)[number % 2], 0, number + 1))
    frozen = index.frozen()
    index.put(names, Entry(FETCHED, 0, 10_000))  # after that
    found = [frozen.outcome(name) for name in names]
    assert found[::7] == [(REFUSED, FETCHED)[number % 2] for number in range(len(names[::7]))]
    assert {one for at, one in enumerate(found) if at % 7} == {FAILED}


@pytest.mark.parametrize("twice", [False, True])
def test_courses_of_several_nights_are_looked_up_without_reading_all_again(twice, monkeypatch):
    """Asked in the order of coming: files are kept, not read anew at each change between them."""
    read = []
    words = _Run.words
    monkeypatch.setattr(_Run, "words", lambda run: (read.append(run), words(run))[1])
    index = Index(few=2_000)
    names = [f"c{number}" for number in range(20_000)]
    index.put(names[::10], Entry(FETCHED, 0, 0))
    for night in range(1, 3 if twice else 2):
        for start in range(0, len(names), 2_000):
            failed = [name for at, name in enumerate(names[start : start + 2_000]) if at % 10]
            index.put(failed, Entry(FAILED, 0, night * 100 + start // 2_000))
    frozen = index.frozen()
    found = [(frozen.outcome(name), frozen.outcome(name)) for name in names]  # as a run does
    assert found == ([(FETCHED, FETCHED)] + [(FAILED, FAILED)] * 9) * 2_000
    assert len(read) <= 12


def test_courses_that_were_fetched_twice_are_noted():
    """... within the newest records, in one file, or in two."""
    index = Index(few=10)
    index.put(["a", "b", "a"], Entry(FETCHED, 0, 0))
    index.put([f"c{number}" for number in range(10)], Entry(FETCHED, 0, 1))
    index.put(["b", "d", "e"], Entry(FETCHED, 0, 2))
    index.put(["d"], Entry(FAILED, 0, 3))
    assert index.twice() == {key_of("a"), key_of("b")}


def test_where_no_file_can_be_made_it_stays_in_memory(tmp_path):
    """A folder that is not there costs memory, nothing else."""
    index = Index(str(tmp_path / "nowhere"), few=10)
    index.put([f"c{number}" for number in range(99)], Entry(FAILED, 5, 0))
    assert index.counts() == {(FAILED, 5): 99}
    assert index.get("c98") == Entry(FAILED, 5, 0)


def test_a_disk_that_becomes_full_costs_memory(tmp_path, monkeypatch):
    """What was written is read back, and the rest kept."""
    left = [3]

    def pwrite(fd, data, at):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return real(fd, data[:100], at)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    index = Index(str(tmp_path), few=10)
    index.put([f"c{number}" for number in range(99)], Entry(FAILED, 5, 0))
    assert index.counts() == {(FAILED, 5): 99}
    assert index.get("c0") == Entry(FAILED, 5, 0)
    assert list(tmp_path.iterdir()) == []


def courses(count, *, refused):
    yield encode(Header("r", {}, 0.0, ""))
    for name in (f"course-{number:040}" for number in range(count)):
        failed = FailedCourse(name, "unknown-content-item", "Unknown", 1, settled=True)
        yield encode(Committed(0, 0, 0, *(([], [failed]) if refused else ([(name, 1)], [])), 0.0))


@pytest.mark.parametrize("refused", [True, False])
def test_f125_many_courses_take_little_room(refused):
    """20,000 courses, a commit each, are read, counted and listed in the room of 8,192."""
    number = 20_000 * refused
    tracemalloc.start()
    try:
        ledger = replay(courses(20_000, refused=refused))
        wanted = {"fetched": 20_000 - number, "refused": number, "failed": 0}
        assert ledger.outcomes() == wanted
        assert sum(1 for _ in ledger.failed(courses(20_000, refused=refused))) == number
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
