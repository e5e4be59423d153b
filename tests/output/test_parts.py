"""The folder of a run in parts: what is removed from it, when, and what stays."""

import contextlib
import dataclasses
from pathlib import Path

import pytest
from outputs import commit_to, course

from bulkfetch import OutputLocked, State
from bulkfetch._output.inspect import read_ledger
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._output.layout import Layout
from bulkfetch._output.parts import any_part, find_parts, joined, remove_part, remove_rests

MARKS = {"endpoint": "acme.example"}


def opened(stack, path, marks=MARKS, *, overwrite=False):
    sink = JournaledFile(path, fingerprint=marks, run_id="r", overwrite=overwrite)
    stack.enter_context(contextlib.closing(sink))
    sink.open()
    return sink


def make_parts(out):
    """The output with a course, and two parts of which one is finished."""
    Path(f"{out}.parts").mkdir()
    for number, path in enumerate([out, *(Layout.of(out).shard(n, 2).output for n in (0, 1))]):
        with contextlib.ExitStack() as stack:
            sink = opened(stack, path, MARKS | {"shard": f"{number - 1}/2"} if number else MARKS)
            commit_to(sink, [course(f"c{number}", [("u", "Passed", 1.0)])])
            if number == 1:
                sink.finish({})


def files(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leave(out, what):
    """Put what a kill or a hand may leave into the parts' folder."""
    first, second = (Layout.of(out).shard(number, 2) for number in (0, 1))
    match what:
        case "parts":
            return
        case "data without journal":
            Path(first.journal).unlink()
        case "a list of failures alone":
            Path(first.journal).unlink()
            Path(first.output).rename(first.failed)
        case "an empty journal":
            Path(second.journal).write_bytes(b"")
        case "half removed":
            Path(second.journal).rename(second.gone)
        case "what the run shares":
            Path(Layout.of(out).sharing).write_text("x")
            Path(Layout.of(out).spooled_ids).write_text("x")


@pytest.mark.parametrize(
    "what",
    [
        *("parts", "data without journal", "a list of failures alone", "an empty journal"),
        *("half removed", "what the run shares"),
    ],
)
def test_an_output_begun_anew_has_no_parts(what, tmp_path):
    """Whatever lies where parts lie is replaced too: no row of it comes back."""
    out = tmp_path / "out.ndjson"
    make_parts(out)
    leave(out, what)
    with contextlib.ExitStack() as stack:
        opened(stack, out, overwrite=True)
        assert not Path(f"{out}.parts").exists()
    assert read_ledger(out).fetched == 0


def test_a_strangers_file_stays(tmp_path):
    """Of the parts' folder only what a run makes is removed."""
    out = tmp_path / "out.ndjson"
    make_parts(out)
    mine = ["0-of-2-out.ndjson.bak", "00-of-2-out.ndjson", "0-of-2-other.ndjson", "notes"]
    for name in mine:
        (tmp_path / "out.ndjson.parts" / name).write_text(name)
    with contextlib.ExitStack() as stack:
        opened(stack, out, overwrite=True)
    assert sorted(path.name for path in Path(f"{out}.parts").iterdir()) == sorted(mine)


@pytest.mark.parametrize("held", ["whole", "part"])
def test_nothing_is_replaced_while_a_run_is_at_work(held, tmp_path):
    """Who is refused to begin anew leaves the output and all its parts as they were."""
    out = tmp_path / "out.ndjson"
    make_parts(out)
    part = Layout.of(out).shard(1, 2).output
    with contextlib.ExitStack() as stack:
        if held == "whole":
            opened(stack, out)
        else:
            opened(stack, part, MARKS | {"shard": "1/2"})
        before = files(tmp_path)
        with pytest.raises(OutputLocked):
            opened(stack, out, overwrite=True)
        assert files(tmp_path) == before


def test_a_part_begun_again_keeps_its_data(tmp_path):
    """An old journal that waits for removal says nothing of a part that is there anew."""
    out = tmp_path / "out.ndjson"
    make_parts(out)
    first = Layout.of(out).shard(0, 2)
    Path(first.gone).write_bytes(Path(first.journal).read_bytes())
    before = files(tmp_path)
    remove_rests(Layout.of(out))
    del before[first.gone]
    assert files(tmp_path) == before


def test_what_is_left_of_a_part_is_none(tmp_path, monkeypatch):
    """Once a part's removal has begun nobody takes the rest of it for a part."""
    out = tmp_path / "out.ndjson"
    make_parts(out)

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed)
    for number in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            remove_part(Layout.of(out).shard(number, 2))
    assert (find_parts(out), any_part(out)) == ([], True)


def test_what_runs_side_by_side_count_is_added_up():
    """Each number of a state is told for the whole run too, none lost on the way."""
    names = [field.name for field in dataclasses.fields(State)]
    words = {"in_flight": ("a",), "waiting": None, "waited": {"x": 2}, "retries_by_kind": {"x": 2}}
    state = dict.fromkeys(names, 2) | words
    whole = joined([state, state])
    assert whole.keys() == {*names}
    greatest = {"at", "seconds", "latency_p50", "latency_p90", "latency_p99"}
    for name in {*names} - words.keys():
        assert whole[name] == (2 if name in greatest else 4), name
    assert whole["waited"] == whole["retries_by_kind"] == {"x": 4}


def test_the_worst_wait_of_all_parts_is_told():
    """Slow answers of one hide no pause that the server asked another for."""
    slow = {"waiting": "for answers to 3 requests, 12 s so far"}
    assert joined([{}, slow])["waiting"] == slow["waiting"]
    assert joined([slow, {"waiting": None}, {"waiting": "Retry-After"}])["waiting"] == "Retry-After"
