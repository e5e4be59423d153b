"""What changed between two outputs, against plain dictionaries and by applying it."""

import hashlib
import json
import os
import random
from collections import Counter
from dataclasses import replace

import pytest
from commands import bulkfetch
from hypothesis import given
from hypothesis import strategies as st
from nights import (
    FIRST,
    SECOND,
    SECOND_NIGHT,
    SUFFIXES,
    first_night,
    row,
    second_night,
    write_output,
)

from bulkfetch import Added, Changed, ConfigurationError, OutputError, Removed, diff
from bulkfetch._load import partition, walk

KNOWN = ("contentItemId", "userId", "status", "progress")


def value(one):
    """A row as something to be counted."""
    extra = {name: one[name] for name in one if name not in KNOWN}
    return (*(one[name] for name in KNOWN), json.dumps(extra, sort_keys=True))


def told(status):
    extra = json.dumps(dict(status.extra or {}), sort_keys=True)
    return (status.course_id, status.user_id, status.status, status.progress, extra)


def applied(old, found):
    """The old rows with the changes made."""
    table = Counter(map(value, old))
    for change in found:
        if not isinstance(change, Added):
            gone = told(change.old if isinstance(change, Changed) else change.row)
            assert table[gone] > 0
            table[gone] -= 1
        if not isinstance(change, Removed):
            table[told(change.row)] += 1
    return +table


def expected(old, new, skipped):
    """What the table must be afterwards: NEW, and of OLD the courses that NEW did not fetch."""
    return Counter(map(value, new)) + Counter(
        value(one) for one in old if one["contentItemId"] in skipped
    )


@pytest.mark.parametrize(
    ("finished", "warned"), [((FIRST, SECOND), 0), ((FIRST, FIRST), 0), ((SECOND, FIRST), 1)]
)
@pytest.mark.parametrize("more", [[], ["--stat"]])
def test_an_old_one_that_is_newer_is_told(tmp_path, finished, warned, more):
    """The two may be swapped: a warning on stderr; the changes and the exit code are the same."""
    old = write_output(tmp_path / "old.ndjson", [row("a", "1")], finished=finished[0])
    new = write_output(tmp_path / "new.ndjson", [row("a", "2")], finished=finished[1])
    done = bulkfetch("diff", old, new, *more)
    assert done.returncode == 0
    assert done.stderr.count("OLD was finished after NEW: are they swapped?") == warned
    assert "swapped" not in done.stdout


@pytest.mark.parametrize(
    ("old_suffix", "new_suffix"), [*zip(SUFFIXES, SUFFIXES, strict=True), (".ndjson", ".ndjson.gz")]
)
@pytest.mark.parametrize("stamps", [(None, None), (None, ("2026-11-25T02:00:00Z", "r"))])
@pytest.mark.parametrize("large", [1, 2 << 20])
def test_two_nights(tmp_path, monkeypatch, old_suffix, new_suffix, stamps, large):
    """Plain, gzip, zstd, stamped or not, in memory or in parts: the same changes."""
    monkeypatch.setattr(partition, "LARGE", large)
    old = write_output(tmp_path / f"old{old_suffix}", first_night(), stamp=stamps[0])
    new = write_output(
        tmp_path / f"new{new_suffix}", second_night(), stamp=stamps[1], **SECOND_NIGHT
    )
    found = diff(old, new)
    changes = list(found)
    assert applied(first_night(), changes) == expected(
        first_night(), second_night(), {"c4", "c5", "c6", "7", "ü\"\\'"}
    )
    assert found.added + found.unchanged + found.changed == len(second_night())
    kinds = Counter(type(change) for change in changes)
    assert (kinds[Added], kinds[Changed], kinds[Removed]) == (
        found.added,
        found.changed,
        found.removed,
    )
    assert min(kinds.values()) > 20
    assert found.unchanged > 500
    assert (found.failed, found.unasked) == (2, 3)


ROWS = st.lists(
    st.builds(
        row,
        st.sampled_from(["a", "b", "c", "007"]),
        st.sampled_from(["1", "2", 'quo"te', "\\"]),
        st.sampled_from(["Passed", None]),
        st.sampled_from([0.0, 1.5, None, 1e22]),
    ),
    max_size=25,
).map(lambda rows: sorted(rows, key=lambda one: one["contentItemId"]))


@given(
    old=ROWS,
    new=ROWS,
    large=st.sampled_from([1, 1 << 20]),
    step=st.sampled_from([1, 150, 1 << 10]),
    data=st.data(),
)
def test_applying_the_changes_to_old_gives_new(tmp_path_factory, old, new, large, step, data):
    """Whatever the outputs; added, unchanged and changed rows are those of NEW."""
    folder = tmp_path_factory.mktemp("diff")
    lost = {one["contentItemId"] for one in old} - {one["contentItemId"] for one in new}
    empty = data.draw(st.sets(st.sampled_from(sorted(lost)))) if lost else set()
    before = write_output(folder / "old.ndjson", old)
    after = write_output(folder / "new.ndjson", new, empty=sorted(empty))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "LARGE", large)
        patch.setattr(walk, "_STEP", step)
        found = diff(before, after)
        changes = list(found)
    assert applied(old, changes) == expected(old, new, lost - empty)
    assert found.added + found.unchanged + found.changed == len(new)
    # As few changes as there can be: no row is both removed and added.
    gone = Counter(told(change.row) for change in changes if isinstance(change, Removed))
    came = Counter(told(change.row) for change in changes if isinstance(change, Added))
    assert not gone & came
    assert found.unchanged == (Counter(map(value, old)) & Counter(map(value, new))).total()
    assert all(change.old != change.row for change in changes if isinstance(change, Changed))


def rewrite(path, lines):
    """Give an output other bytes and a manifest that fits."""
    rows = [json.loads(line) for line in lines.splitlines()]
    write_output(path, rows)
    size = path.stat().st_size
    path.write_bytes(lines)
    manifest = path.parent / f"{path.name}.manifest.json"
    found = json.loads(manifest.read_text())
    assert found["bytes"] == size
    found |= {"bytes": len(lines), "sha256": hashlib.sha256(lines).hexdigest()}
    manifest.write_text(json.dumps(found))
    return path


LINE = b'{"contentItemId":"a","userId":"1","status":"Passed","progress":100.0}\n'


@pytest.mark.parametrize(
    "other",
    [
        LINE.replace(b"100.0", b"1e2"),
        LINE.replace(b"100.0", b"100"),
        LINE.replace(b'"Passed"', b'"\\u0050assed"'),
        LINE.replace(b"{", b"{ ").replace(b":", b": "),
        LINE.replace(b'"userId":"1","status":"Passed"', b'"status":"Passed","userId":"1"'),
        LINE.replace(b"}", b',"_fetched_at":"2026-11-24T02:00:00Z","_run_id":"r"}'),
    ],
)
def test_the_same_value_in_other_bytes_is_no_change(tmp_path, other):
    """Rows are compared by what they say."""
    old = rewrite(tmp_path / "old.ndjson", LINE)
    new = rewrite(tmp_path / "new.ndjson", other)
    assert list(diff(old, new)) == []
    assert list(diff(new, old)) == []


@pytest.mark.parametrize(
    "spelled",
    [
        [b'"Zo\\u00eb"', b'"\\u005a\\u006F\xc3\xab"', '"Zo\u00eb"'.encode()],
        [b'"a/b"', b'"a\\/b"', b'"\\u0061/b"'],
        [b'"\\ud83d\\ude00"', '"\U0001f600"'.encode(), b'"\\uD83D\\uDE00"'],
        [b'"a\\"b\\\\"', b'"a\\u0022b\\u005c"', b'"\\u0061\\"b\\\\"'],
    ],
)
@pytest.mark.parametrize("form", ["%b", "spaces", "last"])
def test_an_id_spelled_otherwise_is_the_same_learner_in_parts_too(
    tmp_path, monkeypatch, spelled, form
):
    """Escapes, spaces, the place in the row: a changed row stays one change, never two."""
    monkeypatch.setattr(partition, "LARGE", 1)
    shape = b'{"contentItemId":"a","userId":%b,"status":"%b","progress":1.0}\n'
    other = {
        "%b": shape,
        "spaces": b'{ "contentItemId": "a", "userId" : %b , "status": "%b", "progress": 1.0 }\n',
        "last": b'{"contentItemId":"a","extra":{"userId":"x"},"status":"%b","progress":1.0,'
        b'"userId":%b}\n',
    }[form]
    old = rewrite(tmp_path / "old.ndjson", shape % (spelled[0], b"Passed"))
    for one in spelled:
        words = (b"Failed", one) if form == "last" else (one, b"Failed")
        found = diff(old, rewrite(tmp_path / "new.ndjson", other % words))
        (change,) = found
        assert isinstance(change, Changed)
        assert change.row.user_id == change.old.user_id == json.loads(spelled[0])


def shuffled(rows):
    return random.Random(5).sample(rows, len(rows))


@pytest.mark.parametrize(
    ("rewritten", "added", "removed"),
    [
        (lambda rows: rows, 0, 0),
        (shuffled, 0, 0),
        (lambda rows: rows[::-1], 0, 0),
        (lambda rows: rows[3000:] + rows[:3000], 0, 0),
        (lambda rows: rows[::2], 0, 10_000),
        (lambda rows: rows[5000:], 0, 5000),
        (lambda rows: rows[:-1], 0, 1),
        (lambda rows: [row("a", "first"), *rows, row("a", "last")], 2, 0),
        (
            lambda rows: rows[:9000] + [row("a", f"new-{n}") for n in range(3000)] + rows[9000:],
            3000,
            0,
        ),
        (lambda rows: [one | {"userId": f"{one['userId']}x"} for one in rows], 20_000, 20_000),
    ],
)
@pytest.mark.parametrize("large", [1 << 14, 1 << 30])
def test_the_order_of_rows_says_nothing(tmp_path, monkeypatch, rewritten, added, removed, large):
    """Turned, shuffled, moved, with rows before, between and after: only those are changes."""
    monkeypatch.setattr(partition, "LARGE", large)
    rows = [row("a", f"user-{n}", progress=n / 7) for n in range(20_000)]
    old = write_output(tmp_path / "old.ndjson", rows)
    new = write_output(tmp_path / "new.ndjson", rewritten(rows))
    found = diff(old, new)
    changes = list(found)
    assert (found.added, found.changed, found.removed) == (added, 0, removed)
    assert applied(rows, changes) == Counter(map(value, rewritten(rows)))


def test_a_learner_listed_twice_counts_twice(tmp_path):
    """One of two equal rows goes: one removed; one of two changes: one changed."""
    twice = write_output(tmp_path / "twice.ndjson", [row("a", "1"), row("a", "1")])
    once = write_output(tmp_path / "once.ndjson", [row("a", "1")])
    mixed = write_output(tmp_path / "mixed.ndjson", [row("a", "1"), row("a", "1", "Failed")])
    (gone,) = diff(twice, once)
    (came,) = diff(once, twice)
    (changed,) = diff(twice, mixed)
    assert (type(gone), type(came), type(changed)) == (Removed, Added, Changed)
    assert changed == Changed(replace(came.row, status="Failed"), came.row)


@pytest.mark.parametrize("which", ["old", "new", "new alone"])
def test_a_course_in_two_pieces_is_no_output(tmp_path, which):
    """It is said with the course's id, code 6, wherever it is."""
    good = write_output(tmp_path / "good.ndjson", [row("a", "1"), row("b", "1")])
    pieces = [row("z", "1"), row("b", "1"), row("z", "2")]
    if which != "new alone":
        pieces = [row("a", "1"), row("b", "1"), row("a", "2")]
    bad = write_output(tmp_path / "bad.ndjson", pieces)
    pair = (bad, good) if which == "old" else (good, bad)
    with pytest.raises(OutputError, match="two pieces"):
        list(diff(*pair))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("which", ["old", "new"])
def test_a_damaged_file_is_noticed(tmp_path, suffix, which):
    """Cut or flipped, OLD or NEW: code 6."""
    for damage in ("cut", "flip"):
        pair = [write_output(tmp_path / f"{name}{suffix}", first_night()) for name in ("a", "b")]
        path = pair[which == "new"]
        data = path.read_bytes()
        at = len(data) // 2
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        path.write_bytes(data[:-9] if damage == "cut" else flipped)
        with pytest.raises(OutputError) as caught:
            list(diff(*pair))
        assert caught.value.exit_code == 6


@pytest.mark.parametrize("what", ["cut", "written to"])
def test_old_written_to_meanwhile_is_noticed(tmp_path, what):
    """OLD is hashed, then read anew where rows differ: code 6 if it is not what it was."""
    old = write_output(tmp_path / "old.ndjson", first_night())
    new = write_output(tmp_path / "new.ndjson", second_night(), finished=SECOND)
    os.utime(old, (0, 0))  # finished long ago
    changes = diff(old, new)
    next(changes)
    with old.open("r+b") as file:
        file.truncate(100) if what == "cut" else file.write(b"x")
    with pytest.raises(OutputError, match="while it was read") as caught:
        list(changes)
    assert caught.value.exit_code == 6


def test_outputs_of_two_accounts_are_not_compared_unless_forced(tmp_path):
    """Their courses have nothing in common."""
    old = write_output(tmp_path / "old.ndjson", [row("a", "1")])
    other = {"endpoint": "other.example"}
    new = write_output(tmp_path / "new.ndjson", [], finished=SECOND, fingerprint=other)
    with pytest.raises(ConfigurationError, match=r"acme\.example.*other\.example"):
        diff(old, new)
    assert list(diff(old, new, force=True)) == []


def test_many_courses(tmp_path):
    """The index grows; every course is found again, and each once."""
    rows = [row(f"course-{n}", "1", progress=float(n % 100)) for n in range(5000)]
    old = write_output(tmp_path / "old.ndjson", rows)
    new = write_output(tmp_path / "new.ndjson", [*rows[2500:], row("new", "1"), *rows[:2500]])
    (change,) = diff(old, new)
    assert change.row.course_id == "new"


def test_a_line_without_a_status_is_no_other_line():
    """It has no learner to be told by: it goes, and nothing is taken for its like."""
    line, other = b'{"contentItemId":"a"}\n', b'{"contentItemId":"b","userId":"1","status":"x"}\n'
    for new in (b"", other, b"x\n" + other):
        gone, came = [], []
        assert walk._by_line(line, new, 0, gone, came) == 0
        assert (gone, came) == ([line], [])
