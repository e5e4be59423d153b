"""Parts joined to one output: every row once, whatever the parts are and wherever it is killed."""

import contextlib
import gzip
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import pytest
import zstandard
from commands import bulkfetch
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import commit_to, course, refused, timeout

from bulkfetch import ConfigurationError, OutputError, OutputLocked
from bulkfetch._output.file import POSIX
from bulkfetch._output.inspect import read_ledger, verify
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._output.layout import Layout
from bulkfetch._output.parts import Seen, replace_parts
from bulkfetch._scale.merge import merge, open_whole, read_piece, take_over
from bulkfetch._scale.shards import absorb

MARKS = {"endpoint": "acme.example", "method": "GetFinalStatuses", "stamp": "false"}


def rows_of(name):
    return [(f"{name}-u{n}", "Passed", n * 2.5) for n in range(crc32(name.encode()) % 5)]


def outcome_of(name):
    made = {"r": refused, "f": timeout}.get(name[0])
    return made(name) if made else course(name, rows_of(name))


def make_part(path, shard, batches, *, finish=True, marks=MARKS):
    marks = marks | {"shard": shard}
    sink = JournaledFile(path, fingerprint=marks, run_id=shard, durability="none")
    with contextlib.closing(sink):
        sink.open()
        for names in batches:
            commit_to(sink, [outcome_of(name) for name in names])
        if finish:
            sink.finish({"courses": sum(map(len, batches)), "requests": 7, "retries": {"x": 1}})
    return path


def unpacked(path):
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return reader.read()
    return data


def rows_in(path):
    rows = map(json.loads, unpacked(path).splitlines())
    return Counter((r["contentItemId"], r["userId"], r["status"], r["progress"]) for r in rows)


def expected(names):
    return Counter((name, *row) for name in names if name[0] == "c" for row in rows_of(name))


def data_of(path):
    part = path.with_name(path.name + ".part")
    return (part if part.exists() else path).read_bytes()


def two_parts(folder, *, finish=True, suffix=""):
    """Two parts, whose last commit is of failures alone."""
    return [
        make_part(folder / f"p0.ndjson{suffix}", "0/2", [["c1", "c2"], ["c3", "r1"]]),
        make_part(folder / f"p1.ndjson{suffix}", "1/2", [["c4"], ["f1"]], finish=finish),
    ]


SUFFIXES = pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])


@settings(max_examples=25)
@given(
    names=st.sets(st.tuples(st.sampled_from("cccrf"), st.integers(0, 99)), max_size=30),
    count=st.integers(1, 4),
    size=st.integers(1, 5),
    suffix=st.sampled_from(["", ".gz", ".zst"]),
)
def test_any_parts_make_the_whole(names, count, size, suffix):
    """Whatever the cut, commits and compression: each row once, the bytes the parts' own."""
    names = sorted(f"{kind}{number}" for kind, number in names)
    with TemporaryDirectory() as folder:
        parts = []
        for number in range(count):
            mine = [name for name in names if crc32(name.encode()) % count == number]
            batches = [mine[at : at + size] for at in range(0, len(mine), size)]
            path = Path(folder) / f"{number}.ndjson{suffix}"
            parts.append(make_part(path, f"{number}/{count}", batches))
        out = Path(folder) / f"out.ndjson{suffix}"
        manifest = merge(reversed(parts), out)
        assert rows_in(out) == expected(names)
        assert manifest.courses == {
            "fetched": sum(name[0] == "c" for name in names),
            "refused": sum(name[0] == "r" for name in names),
            "failed": sum(name[0] == "f" for name in names),
        }
        assert manifest.totals["requests"] == 7 * count
        assert verify(out).sound
        if manifest.rows:
            assert out.read_bytes() == b"".join(map(data_of, parts))


class Killed(BaseException):
    """Stands for SIGKILL: nothing is done any more."""


def kill_at(monkeypatch, moment):
    """Let the process die at its n-th call that changes a file; gives the count of them so far."""
    calls = [0]

    def dying(real):
        def call(*args):
            calls[0] += 1
            if calls[0] >= moment:
                raise Killed
            return real(*args)

        return call

    for name in ("writev", "fsync", "fdatasync", "ftruncate", "replace", "unlink"):
        monkeypatch.setattr(POSIX, name, dying(getattr(POSIX, name)), raising=False)
    return calls


def parts_of_a_cut(folder, suffix=""):
    """Two parts as a run makes them: each course in the shard that it falls into."""
    parts = []
    for number in range(2):
        names = [f"{k}{n}" for n in range(9) for k in "ccrf"[n % 4]]
        mine = [name for name in names if crc32(name.encode()) % 2 == number]
        batches = [mine[:1], mine[1:3], mine[3:]]
        parts.append(make_part(folder / f"p{number}.ndjson{suffix}", f"{number}/2", batches))
    return parts


@SUFFIXES
@pytest.mark.parametrize("make", [two_parts, parts_of_a_cut])
@pytest.mark.parametrize("together", [2, 64])
def test_killed_at_any_moment(make, together, suffix, tmp_path, monkeypatch):
    """After a kill at any change of a file the same merge makes what it would have made."""
    monkeypatch.setattr("bulkfetch._output.journaled._MANY", together)
    parts = make(tmp_path, suffix=suffix)
    whole = b"".join(map(data_of, parts))
    moment, done = 0, False
    while not done:
        moment += 3 if suffix else 1
        folder = tmp_path / f"at-{moment}"
        folder.mkdir()
        out = folder / f"out.ndjson{suffix}"
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                merge(parts, out)
                done = True
            except Killed:
                pass
        merge(parts, out)
        assert out.read_bytes() == whole
        assert verify(out).sound
    assert moment > (30 if make is two_parts else 20)


def own_parts(out):
    """Two parts where a run in shards keeps them, which are removed once they are joined."""
    Path(f"{out}.parts").mkdir()
    batches = [[["c1", "c2"], ["c3", "r1"]], [["c4"], ["f1"]]]
    shards = [Path(Layout.of(out).shard(number, 2).output) for number in (0, 1)]
    return [make_part(shards[n], f"{n}/2", batches[n]) for n in (0, 1)]


def die_removing(monkeypatch, moment):
    """Let the process die at the n-th change to the parts' folder; gives the count so far."""
    calls = [0]

    def dying(real):
        def call(path, *args, **kwargs):
            if ".parts" in str(path):
                calls[0] += 1
                if calls[0] >= moment:
                    raise Killed
            return real(path, *args, **kwargs)

        return call

    for name in ("unlink", "rename", "rmdir"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
    return calls


def absorb_again(out, keep):
    """What a run in shards, or one process, does with the parts before it begins."""
    with contextlib.closing(open_whole(out, MARKS, durability="none")) as sink:
        sink.open()
        absorb(sink, Layout.of(out), keep, MARKS)


@pytest.mark.parametrize("then", ["merge", "same cut", "another cut", "anew"])
def test_killed_while_parts_are_removed(then, tmp_path, monkeypatch):
    """After a kill at any step of the removal whatever comes next goes on, and no row is lost."""
    moment, done = 0, False
    while not done:
        moment += 1
        out = tmp_path / f"at-{moment}.ndjson"
        parts = own_parts(out)
        whole = b"".join(map(data_of, parts))
        with monkeypatch.context() as patch:
            die_removing(patch, moment)
            try:
                merge(parts, out, durability="none")
                done = True
            except Killed:
                pass
        if then == "merge":
            assert merge(parts, out, durability="none").rows == whole.count(b"\n")
        elif then == "anew":
            replace_parts(Layout.of(out))
        else:
            absorb_again(out, 2 if then == "same cut" else 3)
            parts[0].parent.mkdir(exist_ok=True)
            make_part(parts[0], "0/2", [["c9"]])
            merge(parts[:1], out, partial=True, durability="none")
            assert rows_in(out) == expected(["c1", "c2", "c3", "c4", "c9"])
        assert then == "same cut" or not Path(f"{out}.parts").exists()
        assert out.read_bytes()[: len(whole)] == whole
        assert verify(out).sound
    assert moment > 20


def test_the_whole_is_read_once(tmp_path, monkeypatch):
    """However many parts of another cut there are: its journal grows with each of them."""
    out, read = tmp_path / "out.ndjson", []
    Path(f"{out}.parts").mkdir()
    for number in range(5):
        path = Path(Layout.of(out).shard(number, 5).output)
        make_part(path, f"{number}/5", [[f"c{number}"], [f"c{number}0"]])

    def reading(path, *more):
        read.append(path)
        return read_ledger(path, *more)

    monkeypatch.setattr("bulkfetch._output.parts.read_ledger", reading)
    absorb_again(out, 2)
    assert read == [str(out)]
    assert read_ledger(out).fetched == 10


@pytest.mark.parametrize("partial", [False, True])
def test_merged_and_removed_again(partial, tmp_path):
    """Parts that were joined and removed are joined: the same call says the same once more."""
    out = tmp_path / "out.ndjson"
    parts = own_parts(out)
    first = merge(parts, out, partial=partial)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert merge(parts, out, partial=partial) == first
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    done = bulkfetch("merge", *parts, "-o", out, *(["--partial"] if partial else []))
    assert (done.returncode, "4 courses" in done.stderr) == (1, True)


def never_joined(out, what):
    """Parts without a journal, beside a whole that does not hold them all; what to give."""
    parts = own_parts(out)
    match what:
        case "no whole":
            Path(f"{parts[0]}.journal").unlink()
        case "of part of them":
            Path(f"{parts[0]}.journal").rename(out.with_name("kept"))
            merge(parts[1:], out, partial=True)
        case "elsewhere":
            merge(parts, out)
            return [out.with_name("p0.ndjson"), parts[1]]
        case "newer rows":
            merge(parts, out)
            Path(f"{out}.parts").mkdir()
            make_part(parts[1], "1/2", [["c8"]])
        case "fetched alone":
            with contextlib.closing(open_whole(out, MARKS, durability="none")) as sink:
                sink.open()
                sink.finish({})
            for part in parts:
                Path(f"{part}.journal").unlink()
        case "unfinished":
            merge(parts, out)
            with contextlib.closing(open_whole(out, MARKS, durability="none")) as sink:
                sink.open()
                commit_to(sink, [outcome_of("c7")])
    return parts


@pytest.mark.parametrize(
    "what",
    ["no whole", "of part of them", "elsewhere", "newer rows", "fetched alone", "unfinished"],
)
def test_lost_is_not_joined(what, tmp_path):
    """A part without a journal that nothing shows to be in the whole is refused by name."""
    out = tmp_path / "out.ndjson"
    parts = never_joined(out, what)
    with pytest.raises(ConfigurationError, match=r"is no part: there is no .*\.journal"):
        merge(parts, out)


def test_partial_then_whole(tmp_path):
    """What an unfinished part holds is joined when asked for; the rest later, nothing twice."""
    parts = two_parts(tmp_path, finish=False)
    out = tmp_path / "out.ndjson"
    merge(parts[:1], out, partial=True)
    assert rows_in(out) == expected(["c1", "c2", "c3"])
    merge(parts, out, partial=True)
    make_part(parts[1], "1/2", [["c5"]])
    merge(parts, out)
    assert rows_in(out) == expected(["c1", "c2", "c3", "c4", "c5"])
    assert verify(out).sound


def test_the_whole_names_the_runs_that_fetched_its_rows(tmp_path):
    """Rows bear the stamp of their part's run: the manifest names each once, merged again too."""
    parts = two_parts(tmp_path, finish=False)
    out = tmp_path / "out.ndjson"
    first = merge(parts, out, partial=True).runs
    assert {"0/2", "1/2"} <= {*first}
    assert len({*first}) == len(first)
    assert merge(parts, out, partial=True).runs == first


def test_merging_again_changes_nothing(tmp_path):
    """A merge that is done, done again, leaves the same bytes."""
    parts, out = two_parts(tmp_path), tmp_path / "out.ndjson"
    merge(parts, out)
    before = out.read_bytes()
    merge(parts, out)
    assert out.read_bytes() == before


def spoiled(folder, what):
    """Parts that make no whole, and where they should go."""
    parts, out = two_parts(folder), folder / "out.ndjson"
    third = folder / "third.ndjson"
    made = {
        "unfinished": ("1/2", MARKS, False),
        "twice": ("1/2", MARKS, True),
        "another cut": ("2/3", MARKS, True),
        "another endpoint": ("1/2", MARKS | {"endpoint": "other.example"}, True),
        "stamped": ("1/2", MARKS | {"stamp": "true"}, True),
    }
    if what in made:
        shard, marks, finish = made[what]
        make_part(third, shard, [["c9"]], marks=marks, finish=finish)
        return ([*parts, third] if what in {"twice", "another cut"} else [parts[0], third]), out
    if what == "whole":
        sink = JournaledFile(third, fingerprint=MARKS, run_id="r")
        with contextlib.closing(sink):
            sink.open()
    return {
        "missing": (parts[1:], out),
        "packed": (parts, folder / "out.ndjson.gz"),
        "itself": (parts, parts[0]),
        "whole": ([*parts, third], out),
        "no output": ([*parts, third], out),
        "nothing": ([], out),
    }[what]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", r"1 part missing \(0/2\).*--partial"),
        ("unfinished", "third.ndjson is not finished"),
        ("twice", "are both shard 1/2"),
        ("another cut", "third.ndjson is 2 of 3: merge the parts of one run"),
        ("another endpoint", "endpoint 'acme.example', .*third.ndjson with 'other.example'"),
        ("stamped", "stamp 'false', .*third.ndjson with 'true'"),
        ("packed", "are not compressed alike"),
        ("itself", "is a part itself"),
        ("whole", "third.ndjson is no part: it was fetched without --shard"),
        ("nothing", "there is no part to merge"),
        ("no output", "third.ndjson is no part: there is no .*third.ndjson.journal"),
    ],
)
def test_refused_in_words(what, words, tmp_path):
    """Parts that do not go together are refused before anything is written."""
    parts, out = spoiled(tmp_path, what)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigurationError, match=words):
        merge(parts, out)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def whole_as(out, what):
    """An output that stands already where parts elsewhere, or its own, are to be joined."""
    with contextlib.closing(open_whole(out, MARKS, durability="none")) as sink:
        sink.open()
        commit_to(sink, [outcome_of("r9" if what == "refused" else "c9")])
        if what != "unfinished":
            sink.finish({})


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("what", ["finished", "unfinished", "refused"])
def test_an_output_that_was_fetched_by_itself_is_left_alone(what, partial, tmp_path):
    """Parts of another run do not become rows of it, and no file of either changes."""
    parts, out = two_parts(tmp_path), tmp_path / "out.ndjson"
    whole_as(out, what)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigurationError, match=r"out.ndjson is no earlier merge.* a new output"):
        merge(parts, out, partial=partial)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert merge(parts, tmp_path / "new.ndjson", partial=partial).courses["fetched"] == 4


def test_parts_of_its_own_go_to_an_output_that_was_fetched_by_itself(tmp_path):
    """A run that went from one process to shards is joined with all that either fetched."""
    out = tmp_path / "out.ndjson"
    whole_as(out, "finished")
    merge(own_parts(out), out)
    assert rows_in(out) == expected(["c9", "c1", "c2", "c3", "c4"])
    later = [
        make_part(tmp_path / "late0.ndjson", "0/2", [["c7"]]),
        make_part(tmp_path / "late1.ndjson", "1/2", []),
    ]
    assert merge(later, out).courses["fetched"] == 6


def test_a_course_in_two_parts(tmp_path):
    """A course that two parts hold is refused by name, and stands in the whole once."""
    parts = [
        make_part(tmp_path / "p0.ndjson", "0/2", [["c1"], ["c2"]]),
        make_part(tmp_path / "p1.ndjson", "1/2", [["c4"], ["c2"]]),
    ]
    with pytest.raises(OutputError, match=r"course 'c2' has its rows in .* already"):
        merge(parts, tmp_path / "out.ndjson")


def test_a_course_twice_in_a_part(tmp_path):
    """... and one that its part has twice, which no run does, likewise."""
    parts = [
        make_part(tmp_path / "p0.ndjson", "0/2", [["c4"], ["c4"]]),
        make_part(tmp_path / "p1.ndjson", "1/2", []),
    ]
    with pytest.raises(OutputError, match=r"course 'c4' has its rows in .* already"):
        merge(parts, tmp_path / "out.ndjson")


def test_a_course_that_the_whole_has(tmp_path):
    """... and one of an earlier merge, though the parts of this one have none in common."""
    out = tmp_path / "out.ndjson"
    merge([make_part(tmp_path / "old.ndjson", "0/2", [["c4"], ["c5"]])], out, partial=True)
    parts = [
        make_part(tmp_path / "p0.ndjson", "0/2", [["c4"]]),
        make_part(tmp_path / "p1.ndjson", "1/2", [["c1"]]),
    ]
    with pytest.raises(OutputError, match=r"course 'c4' has its rows in .* already"):
        merge(parts, out)


def test_a_part_begun_anew_while_it_is_merged(tmp_path, monkeypatch):
    """Its journal is not the one that was looked at: nothing of it is left out unseen."""
    parts, out = parts_of_a_cut(tmp_path), tmp_path / "out.ndjson"

    seen_of = Seen.of

    def begun_anew(path):
        seen = seen_of(path)
        for name in ("", ".journal", ".manifest.json", ".failed.ndjson"):
            Path(f"{parts[1]}{name}").unlink(missing_ok=True)
        make_part(parts[1], "1/2", [["c1"]])
        return seen

    with monkeypatch.context() as patch:
        patch.setattr("bulkfetch._scale.merge.Seen.of", begun_anew)
        with pytest.raises(OutputError):
            merge(parts, out)


def test_a_copy_of_a_part_under_another_number(tmp_path):
    """It is no part of its own, whatever leads to it."""
    twins = [read_piece(make_part(tmp_path / f"{n}.ndjson", "0/2", [["c4"]])) for n in "ab"]
    with contextlib.closing(open_whole(tmp_path / "out.ndjson", MARKS)) as sink:
        sink.open()
        with pytest.raises(OutputError, match="course 'c4'"):
            take_over(sink, [replace(twins[0], number=0), twins[1]], Seen())


def test_a_flipped_byte(tmp_path):
    """A part that is not what its journal says is refused, and mended it is merged."""
    parts, out = two_parts(tmp_path), tmp_path / "out.ndjson"
    good = parts[1].read_bytes()
    parts[1].write_bytes(b"X" + good[1:])
    with pytest.raises(OutputError, match="not what their journal says"):
        merge(parts, out)
    parts[1].write_bytes(good)
    merge(parts, out)
    assert rows_in(out) == expected(["c1", "c2", "c3", "c4"])


@pytest.mark.parametrize("finish", [False, True])
def test_a_part_at_work(tmp_path, finish):
    """A part that a run holds is left alone, finished or not: that run is to end, nothing else."""
    parts = two_parts(tmp_path, finish=finish)
    sink = JournaledFile(parts[1], fingerprint=MARKS | {"shard": "1/2"}, run_id="r")
    with contextlib.closing(sink):
        sink.open()
        with pytest.raises(OutputLocked, match=r"another run holds .*p1"):
            merge(parts, tmp_path / "out.ndjson")


def test_the_command(tmp_path):
    """The command joins, says what it came to, and leaves an output that every other takes."""
    parts, out = two_parts(tmp_path), tmp_path / "out.ndjson"
    done = bulkfetch("merge", *parts, "-o", out)
    rows = expected(["c1", "c2", "c3", "c4"]).total()
    assert (done.returncode, done.stderr) == (
        1,
        f"{out}: 4 courses, {rows} rows, 2 courses without rows, from 2 parts\n",
    )
    assert bulkfetch("verify", out).returncode == 0
    assert bulkfetch("report", out).returncode == 0
    assert "4 fetched" in bulkfetch("status", out).stdout
    shutil.rmtree(tmp_path / "nowhere", ignore_errors=True)
    assert bulkfetch("merge", parts[0], "-o", tmp_path / "x.ndjson").returncode == 2


@pytest.mark.parametrize("pattern", ["p*.ndjson", "p*"])
def test_a_pattern_that_finds_more_than_the_parts(pattern, tmp_path):
    """What lies beside a part is no part: its list of failed courses ends in .ndjson, too."""
    parts, out = two_parts(tmp_path), tmp_path / "out.ndjson"
    found = sorted(tmp_path.glob(pattern))
    assert len(found) > len(parts)
    done = bulkfetch("merge", *found, "-o", out)
    assert (done.returncode, done.stderr.rpartition(", ")[2]) == (1, "from 2 parts\n")
    alone = bulkfetch("merge", f"{parts[0]}.failed.ndjson", "-o", tmp_path / "x.ndjson")
    assert (alone.returncode, "is no part" in alone.stderr) == (2, True)


def test_what_a_partial_merge_lacks_is_told_wherever_it_is_looked_at(tmp_path):
    """Never "all courses" while a part lacks or is not finished; no word of it once none does."""
    parts, out = two_parts(tmp_path, finish=False), tmp_path / "out.ndjson"

    def told():
        status, verified = (bulkfetch(command, out).stdout for command in ("status", "verify"))
        report = json.loads(bulkfetch("report", out, "--json", "-").stdout)
        manifest = json.loads((tmp_path / "out.ndjson.manifest.json").read_text())
        assert manifest["partial"] == report["partial"]
        words = [line for line in status.splitlines() if line.startswith("  partial ")]
        return words, verified.partition(";")[0].partition(": ")[2], report["outcome"]

    bulkfetch("merge", parts[0], "-o", out, "--partial")
    rows = expected(["c1", "c2", "c3"]).total()
    assert told() == (
        ["  partial  1 of 2 parts"],
        "finished, 1 of 2 parts",
        f"Finished with 1 of 2 parts, but 1 was refused: 3 courses fetched, {rows} rows.",
    )
    bulkfetch("merge", *parts, "-o", out, "--partial")
    assert told()[1] == "finished, 2 of 2 parts, 1 of them unfinished"
    make_part(parts[1], "1/2", [])
    bulkfetch("merge", *parts, "-o", out)
    words, verified, outcome = told()
    assert (words, verified, "parts" in outcome) == ([], "finished", False)


def test_a_strangers_file_at_the_wholes_name_is_left_alone(tmp_path):
    """The advice names the command that can replace it: a merge has no such flag."""
    (tmp_path / "out.ndjson").write_text("dear diary\n")
    parts = two_parts(tmp_path)
    with pytest.raises(OutputError, match="move it away, or replace it with fetch --overwrite"):
        merge(parts, tmp_path / "out.ndjson")
    assert (tmp_path / "out.ndjson").read_text() == "dear diary\n"
    (tmp_path / "out.ndjson").rename(tmp_path / "diary")
    assert merge(parts, tmp_path / "out.ndjson").rows
