"""The report: every figure is what journal and rows say, whatever they are, and bounded in size."""

import json
import stat
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from itertools import pairwise

import jsonschema
import pytest
from commands import bulkfetch
from hypothesis import given
from hypothesis import strategies as st
from outputs import BEGAN, Writer, course, refused, timeout

from bulkfetch._domain.errors import OutputError
from bulkfetch._engine.tally import Tally
from bulkfetch._output.frames import (
    Adopted,
    Committed,
    Done,
    Header,
    Pause,
    Resume,
    Snapshot,
    Stop,
)
from bulkfetch._output.inspect import read_ledger
from bulkfetch._report import acts, story
from bulkfetch._report.charts import axis, ceiling, clock, number, round_ticks
from bulkfetch._report.latency import read_latencies
from bulkfetch._report.page import _trouble, page
from bulkfetch._report.story import SCHEMA, Report, _outcome, as_json, read_report
from bulkfetch._report.survey import _LARGEST, survey
from bulkfetch._report.timeline import Strip, timeline
from bulkfetch.testing import SimulatedServer, Simulation

VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
HOSTILE = "<script>alert('1')</script>\x1b[31m\u202e\"&amp;"


@pytest.fixture(params=["out.ndjson", "out.ndjson.gz", "out.ndjson.zst"])
def path(tmp_path, request):
    return tmp_path / request.param


def users(*results):
    return [(f"u{place}", *result) for place, result in enumerate(results)]


def full(path):
    """Two runs a day apart: one that ended early, one that finished with failures."""
    writer = Writer(path)
    with writer.run("r1", finish=False) as commit:
        commit([course("a", users(("Passed", 100.0), ("Failed", 3.5))), course("b", [])])
        commit([refused("x"), timeout("t"), course("slow", users(("Passed", 0)), seconds=1.8)])
    writer.now += 86_400
    with writer.run("r2") as commit:
        again = [("u0", "In progress", 45.22), ("u1", "Passed", 101), ("u0", None, None)]
        commit([course("d", again, attempts=3), refused("y"), refused("z", HOSTILE, "odd")])
        commit([timeout("t")], seconds=2.0, limit=3)
    return read_report(path, now=BEGAN + 100_000)


def checked(report):
    """The report as JSON, after it was held against its schema."""
    told = json.loads(as_json(report))
    VALIDATOR.validate(told)
    return told


def test_every_figure_of_two_runs(path):
    """Counts, causes, lists and times are those of all runs of the output."""
    report = full(path)
    told = checked(report)
    assert told["state"] == "finished"
    assert told["outcome"] == (
        "Finished, but 3 were refused and 1 failed: 4 of 8 courses were fetched."
    )
    assert told["courses"] == {"fetched": 4, "refused": 3, "failed": 1, "empty": 1}
    assert (told["rows"], told["requests"], told["seconds"]) == (6, 9, 5.0)
    assert told["retries"] == {"http-503": 3, "untold": 2}
    assert told["waits"] == {"slots": 2.0, "rate": 1.5}
    assert told["started"] == "2027-01-15T08:00:00+00:00"
    assert [(run["run"], run["finished"], run["courses"]) for run in told["runs"]] == [
        ("r1", False, 5),
        ("r2", True, 4),
    ]
    assert told["slowest"][0]["course"] == "slow"
    assert [(one["course"], one["rows"]) for one in told["largest"]][:2] == [("d", 3), ("a", 2)]
    assert told["settings"]["concurrency"] == 4
    assert told["latency"]["requests"] == 4


def test_failures_by_kind(path):
    """Failed courses are grouped by kind, with what was said and whether they come again."""
    first, *others = full(path).failures
    assert (first.kind, first.courses, first.again, first.ids) == (
        "unknown-content-item",
        2,
        0,
        ("x", "y"),
    )
    assert first.wordings[0].message == "Unknown content item"
    assert {(one.kind, one.again) for one in others} == {("odd", 0), ("timeout", 1)}


def test_what_the_rows_say(path):
    """Statuses, progress, repeated users and odd values are counted over every row."""
    found = full(path).survey
    assert found.statuses == {"Passed": 3, "Failed": 1, "In progress": 1}
    assert found.progress == (1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1)
    assert (found.without_status, found.without_progress, found.outside) == (1, 1, 1)
    assert [(one.course, one.rows) for one in found.repeated_most] == [("d", 1)]
    assert (found.repeated, found.repeated_courses, found.unchecked) == (1, 1, 0)
    assert found.damaged is None


def test_an_unfinished_output_is_told_as_far_as_it_goes(path):
    """Of a run cut short: what was committed, and no settings or latencies yet."""
    with Writer(path).run(finish=False) as commit:
        commit([course("a", users(("Passed", 100.0)))])
    report = read_report(path, now=BEGAN)
    told = checked(report)
    assert told["outcome"] == "Not finished: 1 course with 1 row so far."
    assert (told["settings"], told["latency"], told["survey"]["rows"]) == (None, None, 1)
    assert "goes on where it ended" in page(report)


def test_an_output_without_anything(path):
    """A run that had nothing to do has a report, too."""
    with Writer(path).run():
        pass
    report = read_report(path, now=BEGAN)
    assert checked(report)["outcome"] == "Finished: there was no course to fetch."
    assert report.timeline is None
    assert "No rows" in page(report)


def test_courses_without_any_row_are_told_where_there_is_no_row_at_all(path):
    """A loader removes their old rows, here all there are: that is said beside "No rows."."""
    with Writer(path).run() as commit:
        commit([course("a", []), course("b", [])])
    html = page(read_report(path, now=BEGAN))
    assert "No rows." in html
    assert "2 courses fetched without any row: a loader that replaces by course" in html
    assert "Nothing odd" not in html


def test_all_fetched_is_said_to_be_good(path):
    """Without a failure the page says so and asks for nothing."""
    with Writer(path).run() as commit:
        commit([course("a", users(("Passed", 100.0)))])
    report = read_report(path, now=BEGAN)
    assert report.outcome == "Finished: the one course was fetched, 1 row."
    assert '<header class="good">' in page(report)
    assert "retry-failed" not in page(report)


def stopped(path, exit_code, message, last_failure=None):
    """The report of a run that was stopped."""
    end = Stop(BEGAN + 9, exit_code, "ServerRefuses", message, last_failure)
    with Writer(path).run(finish=False, stop=end) as commit:
        commit([course("a", users(("Passed", 100.0))), timeout("t")])
    return read_report(path, now=BEGAN)


@pytest.mark.parametrize(
    ("exit_code", "level"), [(4, "bad"), (6, "bad"), (3, "bad"), (5, "warn"), (130, "open")]
)
def test_why_a_run_was_stopped_is_the_headline(tmp_path, exit_code, level):
    """The reason in the words of the screen, the exit code, the last failure, in a colour."""
    words = "the server refuses the token: make a new one"
    report = stopped(tmp_path / "out.ndjson", exit_code, words, f"HTTP 401 {HOSTILE}")
    assert checked(report)["stop"] == {
        "at": "2027-01-15T08:00:09+00:00",
        "exit_code": exit_code,
        "kind": "ServerRefuses",
        "message": words,
        "last_failure": f"HTTP 401 {HOSTILE}",
    }
    html = page(report)
    assert f'<header class="{level}">' in html
    assert f"<h1>{words}</h1>" in html
    assert f"Stopped with exit code {exit_code} (ServerRefuses). Not finished: 1 course" in html
    assert r"The last failure: HTTP 401 &lt;script&gt;" in html


def test_a_later_run_takes_the_reason_back():
    """What stopped an earlier run is no reason once another has begun or finished."""
    told = _story(
        Header("r1", {}, BEGAN, "1"),
        Stop(BEGAN, 5, "K", "m"),
    )
    assert told.stop.message == "m"
    told.add(Resume("r2", BEGAN + 1))
    assert told.stop is None


def _story(*frames):
    told = acts.Story()
    for one in frames:
        told.add(one)
    return told


def test_pauses_and_trouble_over_time():
    """Pauses that nearly touch are one band; bad requests are counted in their bins."""
    kinds = [{}, {"http-429": 3}, {"http-429": 3, "timeout": 2}]
    states = [
        {"at": BEGAN + at, "limit": 4, "under_way": 9, "retries": sum(k.values())}
        | {"failed_requests": 7 * bool(k), "throttled": k.get("http-429", 0)}
        | {"retries_by_kind": k, "seconds": at}
        for at, k in zip((10, 20, 30), kinds, strict=True)
    ]
    told = _story(
        Header("r1", {}, BEGAN, "1"),
        *map(Snapshot, states),
        Pause(BEGAN + 5, 2.0, "Retry-After"),
        Pause(BEGAN + 7.2, 1.3, "Retry-After"),
        Pause(BEGAN + 29, 99.0, "outage"),
    )
    drawn = timeline([act.strip for act in told.acts])
    assert [(band.begin, band.seconds, band.cause) for band in drawn.pauses] == [
        (5.0, 3.5, "Retry-After"),
        (29.0, 1.0, "outage"),
    ]
    assert (sum(drawn.retries), max(drawn.under_way)) == (5, 4)
    assert (sum(drawn.failed_requests), sum(drawn.throttled)) == (7, 3)
    assert drawn.began == ("2027-01-15T08:00:00+00:00",)
    assert told.retries() == {"http-429": 3, "timeout": 2}


@pytest.mark.parametrize(
    ("waiting", "cause"),
    [
        ("Retry-After 12 s", "Retry-After"),
        ("the server fails; probing again in 56 s", "the server fails"),
        ("the server fails; probing it now", "the server fails"),
        ("limit 20/s", None),
        ("the server takes about 3/s", None),
        ("the server strains: 2 of 8 at once", None),
        ("retry budget", None),
        ("for answers to 3 requests, 11 s so far", None),
        (None, None),
    ],
)
def test_older_journals_hint_at_pauses(waiting, cause):
    """Where no pause is told of, snapshots' words for a wait are the band; slowness is none."""
    strip = Strip(BEGAN)
    strip.snapshot({"at": BEGAN + 1, "limit": 4, "waiting": waiting})
    strip.seen(BEGAN + 5)
    assert [band.cause for band in timeline([strip]).pauses] == ([cause] if cause else [])


def test_a_limited_run_says_so(path):
    """A finished run that asked a part of its list names both numbers."""
    with Writer(path).run() as commit:
        commit([course("a", users(("Passed", 100.0)))])
    ledger = read_ledger(path)
    ledger.done = replace(ledger.done, options={"limit": 1})
    assert _outcome(ledger, 403) == "Finished: 1 of 403 courses were fetched (--limit 1), 1 row."
    assert _outcome(ledger, 1) == "Finished: the one course was fetched, 1 row."


def test_the_schema_knows_every_field():
    """Each field of each record is required and described by the schema, and no other."""
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    names = {
        "run": "RunPart",
        "timeline": "Timeline",
        "latency": "Latency",
        "failures": "FailureKind",
        "stop": "Ending",
        "pause": "Band",
        "course": "FetchedCourse",
        "survey": "Survey",
    }
    records = vars(story) | vars(acts)
    pairs = [(Report, schema)]
    pairs += [(_record(records, name), schema["$defs"][place]) for place, name in names.items()]
    for record, described in pairs:
        fields_of = {field.name for field in fields(record)}
        assert fields_of == set(described["required"]) == set(described["properties"])


def _record(records, name):
    record = records[name]
    assert is_dataclass(record)
    return record


# The page


class Reader(HTMLParser):
    """Collects the page's text, its tags and whatever could load something."""

    def __init__(self, html):
        super().__init__()
        self.words, self.tags, self.loads = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href", "action"}]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_stands_alone(path):
    """No script, no link, nothing to load; a policy forbids it besides."""
    html = page(full(path))
    read = Reader(html)
    assert not {"script", "link", "img", "iframe", "form", "object"} & set(read.tags)
    assert read.loads == []
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_strangers_text_is_harmless(path):
    """Markup is shown as text, control and direction characters are spelled out."""
    html = page(full(path))
    assert "&lt;script&gt;alert" in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert r"\x1b[31m\u202e" in "".join(Reader(html).words)


def test_hostile_ids_statuses_and_names(tmp_path):
    """Whatever can be named by others is escaped wherever it is shown."""
    path = tmp_path / "<b>&'\".ndjson"
    with Writer(path).run() as commit:
        commit([course(HOSTILE, [("u", HOSTILE, 1), ("u", HOSTILE, 2)]), timeout(f"{HOSTILE}2")])
    read = Reader(page(read_report(path, now=BEGAN)))
    assert not {"script", "b"} & set(read.tags)
    assert "".join(read.words).count("<script>") >= 4


def test_no_secret_is_in_it(path):
    """Neither page nor JSON holds the token."""
    report = full(path)
    assert "sentinel" not in page(report)
    assert b"sentinel" not in as_json(report)


def test_size_is_bounded(tmp_path, monkeypatch):
    """Thousands of kinds, wordings, ids, statuses and runs make no large page."""
    monkeypatch.setattr("bulkfetch._report.story._RUNS", 10)
    writer = Writer(tmp_path / "out.ndjson")
    for run in range(12):
        with writer.run(f"r{run}", finish=run % 2 == 0) as commit:
            ids = [f"{run}-{place}-{'i' * 200}" for place in range(400)]
            commit([timeout(name, f"{name} {'m' * 500}") for name in ids])
            commit([refused(f"{name}r", "?", f"kind-{name}") for name in ids])
            commit([course(f"{name}c", [(name, f"{name} status", 1)]) for name in ids])
    report = read_report(writer.path, now=BEGAN)
    assert len(page(report).encode()) < 300_000
    assert (len(report.runs), report.earlier_runs) == (10, 2)
    assert report.other_failures > 0
    assert report.failures[0].other_wordings > 0
    assert report.survey.other_statuses > 0
    listed = sum(one.courses for one in report.failures)
    assert listed + report.other_failures == 12 * 800
    checked(report)


def test_what_does_not_match_is_said(path):
    """A changed number of rows, unreadable rows and unchecked ones are each told on the page."""
    report = full(path)
    told = {
        "7 rows found, 6 in the journal": {"rows": 7},
        "cannot be read to their end (ValueError": {"damaged": "ValueError after 1 rows"},
        "5 rows of very large courses": {"unchecked": 5},
    }
    for words, change in told.items():
        assert words in page(replace(report, survey=replace(report.survey, **change)))


# The parts


def test_damaged_rows_do_not_stop_the_report(tmp_path):
    """Bytes that are no rows are reported with how far the reading came."""
    path = tmp_path / "out.ndjson"
    for data in (b'{"contentItemId":1', b"{}\n", b"[1]\n", b"\xff\xfe\n", b"{}"):
        path.write_bytes(data)
        assert "after 0 rows" in survey((path, len(data))).damaged
    for suffix in (".gz", ".zst"):
        broken = tmp_path / f"out.ndjson{suffix}"
        broken.write_bytes(b"no such thing")
        assert survey((broken, 100)).damaged


def test_missing_rows_are_an_error_in_words(tmp_path):
    """Without its data an output has no report."""
    path = tmp_path / "out.ndjson"
    with Writer(path).run() as commit:
        commit([course("a", [])])
    path.unlink()
    with pytest.raises(OutputError, match="the data were moved away"):
        read_report(path, now=BEGAN)


def test_only_committed_bytes_are_read(tmp_path):
    """What a run has written behind its last commit does not count yet."""
    path = tmp_path / "out.ndjson"
    with Writer(path).run(finish=False) as commit:
        commit([course("a", users(("Passed", 1)))])
    with (tmp_path / "out.ndjson.part").open("ab") as file:
        file.write(b'{"contentItemId":"b","use')
    found = read_report(path, now=BEGAN).survey
    assert (found.rows, found.damaged) == (1, None)


def test_a_course_too_large_for_memory_is_counted_not_searched(tmp_path, monkeypatch):
    """Beyond the bound rows are counted as unchecked; the next course is searched again."""
    assert _LARGEST > 100_000
    monkeypatch.setattr("bulkfetch._report.survey._LARGEST", 10)
    monkeypatch.setattr("bulkfetch._report.survey._BLOCK", 512)
    path = tmp_path / "out.ndjson"
    with Writer(path).run() as commit:
        commit([course("large", [(f"u{n}", "Passed", 1) for n in range(100)])])
        commit([course("small", [("u", "Passed", 1)] * 3)])
    found = read_report(path, now=BEGAN).survey
    assert found.rows == 103
    assert 50 < found.unchecked < 95
    assert [(one.course, one.rows) for one in found.repeated_most] == [("small", 2)]


rows = st.tuples(
    st.sampled_from(["u1", "u2", "u3", "ü4"]),
    st.none() | st.text(max_size=3),
    st.none() | st.floats(-50, 150),
)


@given(st.lists(st.lists(rows, max_size=8), max_size=5), st.integers(1, 300))
def test_any_rows_in_any_blocks(tmp_path_factory, courses, block):
    """The survey of any rows, read in blocks of any size, is that of a simple count."""
    path = tmp_path_factory.mktemp("survey") / "out.ndjson"
    with Writer(path).run() as commit:
        commit([course(f"c{place}", rows) for place, rows in enumerate(courses)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bulkfetch._report.survey._BLOCK", block)
        patch.setattr("bulkfetch._report.survey._DISTINCT", 2)
        found = read_report(path, now=BEGAN).survey
    flat = [row for rows in courses for row in rows]
    inside = [row[2] for row in flat if row[2] is not None and 0 <= row[2] <= 100]
    assert found.rows == len(flat)
    assert sum(found.statuses.values()) == sum(row[1] is not None for row in flat)
    assert sum(found.progress) == len(inside)
    assert found.progress[0] == sum(value == 0 for value in inside)
    assert found.progress[11] == sum(value == 100 for value in inside)
    assert found.without_progress == sum(row[2] is None for row in flat)
    assert found.outside == len(flat) - len(inside) - found.without_progress
    assert found.repeated == sum(len(rows) - len({row[0] for row in rows}) for rows in courses)


commits = st.lists(
    st.tuples(st.floats(-5, 50), st.lists(st.tuples(st.integers(0, 9), st.floats(0, 99)))),
    max_size=12,
)


@given(st.lists(commits, min_size=1, max_size=4))
def test_any_timeline_loses_nothing(runs):
    """Whatever the clock did, all courses and rows are in the bins, and none is negative."""
    strips = []
    for run in runs:
        strip = Strip(BEGAN)
        for pause, courses in run:
            at = strip.ended + pause
            strip.commit(at, [number for number, _ in courses], 1)
            strip.snapshot({"at": at, "limit": 3, "under_way": len(courses), "retries": 2})
        strips.append(strip)
    drawn = timeline(strips)
    if drawn is None:
        assert sum(strip.seconds for strip in strips) == 0
        return
    width = drawn.bin_seconds
    flat = [course for run in runs for _, courses in run for course in courses]
    ended = len(flat) + sum(map(len, runs))
    assert sum(drawn.courses) * width == pytest.approx(ended, abs=0.01 * width * len(drawn.courses))
    rows = sum(number for number, _ in flat)
    assert sum(drawn.rows) * width == pytest.approx(rows, abs=0.01 * width * len(drawn.rows))
    assert min(*drawn.courses, *drawn.rows, *drawn.under_way, 0) == 0
    assert max(drawn.under_way) <= 3
    assert sum(drawn.failures) == sum(map(len, runs))
    assert sum(drawn.retries) == 2 * sum(map(bool, runs))
    assert len(drawn.courses) <= 120


def test_a_timeline_by_hand():
    """Four seconds: two courses of ten rows a second, one request under way, then fifteen."""
    strip = Strip(10.0)
    strip.commit(12.0, [5, 15], 0)
    strip.snapshot({"at": 12.0, "limit": 8, "in_flight": ["a"]})
    later = Strip(100.0)
    later.commit(102.0, [30], 0)
    drawn = timeline([strip, later])
    assert (drawn.seconds, drawn.bin_seconds, drawn.runs) == (4.0, 0.25, (0.0, 2.0))
    assert drawn.courses == (1.0,) * 8 + (0.5,) * 8
    assert drawn.rows == (10.0,) * 8 + (15.0,) * 8
    assert drawn.under_way == (1.0,) * 16
    assert set(drawn.limit) == {8}


def test_what_snapshots_count_lies_where_it_happened():
    """Eight failed requests in two seconds are one in each bin of 0.25 s, not eight in one."""
    strip = Strip(10.0)
    strip.snapshot({"at": 10.5, "limit": 8, "failed_requests": 0, "retries": 0})
    strip.snapshot({"at": 12.5, "limit": 8, "failed_requests": 8, "retries": 3})
    drawn = timeline([strip])
    assert drawn.failed_requests == (0, 0, *(1,) * 8)
    assert (sum(drawn.retries), max(drawn.retries)) == (3, 1)
    assert [one.name for one in _trouble(drawn)] == ["Failed requests in 250 ms", "Retries"]


def test_a_course_counts_once_in_a_run(path):
    """By its last word there, in the runs, the chart and the totals; a later run counts anew."""
    writer = Writer(path)
    with writer.run("r1") as commit:
        commit([timeout("a"), timeout("b"), refused("c"), course("d", [])])
        commit([refused("a"), refused("a"), course("b", [])])
        commit([refused("a"), refused("c")])
    with writer.run("r2") as commit:
        commit([refused("a"), course("c", [])])
        commit([course("a", [])])
    report = read_report(path, now=BEGAN)
    assert [run.courses for run in report.runs] == [4, 2]
    assert sum(report.timeline.failures) == 2
    width = report.timeline.bin_seconds
    assert sum(report.timeline.courses) * width == pytest.approx(6, abs=0.01)


def test_what_was_joined_waited_for_nothing():
    """The time at work is the parts', whenever they were joined."""
    tale = acts.Story()
    for frame in (
        Header("r", {}, BEGAN, "0"),
        Adopted(["part"]),
        Committed(0, 0, 0, [("a", 0, 1, 0.1)], [], BEGAN + 10),
        Done(BEGAN + 86_400, {}, {}),
        Resume("r2", BEGAN + 86_400),
        Adopted([]),
        Committed(0, 0, 0, [("b", 0, 1, 0.1)], [], BEGAN + 20),
        Snapshot({"at": BEGAN + 20, "seconds": 20, "limit": 1}),
        Done(BEGAN + 90_000, {}, {}),
    ):
        tale.add(frame)
    assert [(act.strip.seconds, act.part().finished) for act in tale.acts] == [(10.0, True)] * 2


def test_latencies_of_several_runs_add_up():
    """Stored histograms are merged; bins hold every request, percentiles are in order."""
    first, second = Tally(), Tally()
    for number_of_it in range(1, 100):
        first.attempted(number_of_it / 1000)
    second.attempted(5.0)
    found = read_latencies([first.latencies(), second.latencies()])
    assert found.requests == sum(one.requests for one in found.bins) == 100
    assert found.percentiles["50"] == pytest.approx(0.05, rel=0.02)
    assert found.most == pytest.approx(5.0, rel=0.02)
    assert list(found.percentiles.values()) == sorted(found.percentiles.values())
    assert found.bins[0].least <= found.least <= found.bins[0].most
    assert read_latencies([]) is None
    assert read_latencies([Tally().latencies()]) is None


@pytest.mark.parametrize("seconds", [[0.12] * 50, [0.00001], [3000.0, 3001.0], [0.1, 0.11]])
def test_latencies_all_alike_still_make_a_histogram(seconds):
    """There are enough bins to see where the one column stands, and round ticks between."""
    tally = Tally()
    for one in seconds:
        tally.attempted(one)
    bins = read_latencies([tally.latencies()]).bins
    assert len(bins) >= 8
    assert sum(one.requests for one in bins) == len(seconds)
    assert all(a.most == b.least for a, b in pairwise(bins))
    assert 2 <= len(round_ticks(bins[0].least, bins[-1].most)) <= 7


@given(st.floats(1e-6, 1e3), st.floats(1.3, 1e9))
def test_ticks_are_few_and_inside(first, factor):
    """Any span has at most seven ticks, none outside of it."""
    ticks = round_ticks(first, first * factor)
    assert len(ticks) <= 7
    assert all(first * 0.99 <= tick <= first * factor * 1.01 for tick in ticks)


@pytest.mark.parametrize(
    ("call", "given", "words"),
    [
        (number, 0, "0"),
        (number, 0.256, "0.26"),
        (number, 12.34, "12.3"),
        (number, 12_345.6, "12,346"),
        (clock, 0.5, "0.5 s"),
        (clock, 40, "40 s"),
        (clock, 90, "1:30 min"),
        (clock, 300, "5 min"),
        (clock, 5400, "1:30 h"),
        (axis, 250, "250"),
        (axis, 9_500, "9.5k"),
        (axis, 40_000, "40k"),
        (axis, 1_500_000, "1.5M"),
        (ceiling, 0, 1.0),
        (ceiling, 0.21, 0.3),
        (ceiling, 97, 100.0),
        (ceiling, 1000, 1000.0),
    ],
)
def test_axes_in_words(call, given, words):
    """Axis labels are short and round."""
    assert call(given) == words


# The command


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small export by the command, with failures."""
    place = tmp_path_factory.mktemp("report")
    with SimulatedServer(Simulation(courses=20, unknown=2, rows=(1, 5))) as server:
        (place / "ids").write_text("\n".join(server.course_ids))
        arguments = ("--endpoint", server.endpoint, "-i", "ids", "-o", "out.ndjson")
        assert bulkfetch("fetch", *arguments, cwd=place).returncode == 1
    return place


def test_report_writes_a_private_page_and_prints_its_name(exported):
    """`report OUT` leaves OUT.report.html, mode 0600, and may be repeated."""
    for _ in range(2):
        done = bulkfetch("report", "out.ndjson", cwd=exported)
        assert (done.returncode, done.stdout, done.stderr) == (0, "out.ndjson.report.html\n", "")
    written = exported / "out.ndjson.report.html"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert "20 of 22 courses were fetched" in written.read_text()


def test_report_as_json_to_stdout_and_file(exported):
    """`--json` is valid by the schema that `--schema` prints, on stdout or in a file."""
    out = bulkfetch("report", "out.ndjson", "--json", cwd=exported)
    schema = json.loads(bulkfetch("report", "--schema").stdout)
    jsonschema.validate(json.loads(out.stdout), schema)
    both = bulkfetch("report", "out.ndjson", "--json", "r.json", "--html", "-", cwd=exported)
    assert both.stdout.startswith("<!doctype html>")
    assert json.loads((exported / "r.json").read_text())["rows"] == json.loads(out.stdout)["rows"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.ndjson"], "is no output of bulkfetch"),
        (["out.ndjson", "--html", "out.ndjson"], "a file of the output itself"),
        (["out.ndjson", "--json", "./out.ndjson.journal"], "a file of the output itself"),
    ],
)
def test_mistakes_are_said_and_touch_nothing(exported, arguments, words):
    """A wrong name is a sentence and code 2; the output is never overwritten by its report."""
    before = (exported / "out.ndjson").read_bytes()
    done = bulkfetch("report", *arguments, cwd=exported)
    assert done.returncode == 2
    assert words in done.stderr
    assert (exported / "out.ndjson").read_bytes() == before
