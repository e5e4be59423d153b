"""A run in words: lines, tables, the bar."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from bulkfetch import State, Summary
from bulkfetch._domain.wording import by_count, counted, duration, table
from bulkfetch._watch.progress import Bar, Speed, _drawing, figures, state_line, state_words

STATE = State(
    at=0.0,
    seconds=10.0,
    total=1000,
    settled=100,
    courses=300,
    fetched=290,
    failed=7,
    refused=3,
    rows=12_345,
    requests=320,
    retries=20,
    in_flight=("a", "b"),
    limit=8,
    waiting=None,
    waited={},
    latency_p50=0.1,
    latency_p90=0.2,
    latency_p99=0.3,
)
SUMMARY = Summary(
    courses=300,
    fetched=290,
    rows=12_345,
    empty=1,
    failures={"timeout": 7, "unknown-content-item": 3},
    refused=3,
    requests=320,
    retries={"http-503": 20},
    seconds=10.0,
    latency_p50=0.1,
    latency_p90=0.2,
    latency_p99=12.34,
    waited={"slots": 0.01, "Retry-After": 75.0},
    settled=100,
    output_courses=390,
    output_rows=20_000,
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_written_for_people(seconds, words):
    """Short ones with a decimal, long ones in two units."""
    assert duration(seconds) == words


def test_numbers_are_written_for_people():
    """One is singular, thousands are separated, the largest count comes first."""
    assert [counted(1, "row"), counted(1000, "row")] == ["1 row", "1,000 rows"]
    assert by_count({"a": 1, "b\x1b": 2000}) == r"b\x1b 2,000, a 1"


def test_the_line_says_how_far_how_fast_and_how_long_still():
    """Done counts what earlier runs did; the time left follows the speed."""
    speed = Speed()
    speed.add(STATE)
    assert state_line(STATE, speed) == (
        "400/1,000 courses (100 before), 12,345 rows now, 7 failed, 3 refused, 32.0 req/s, "
        "10 s so far, 20 s left"
    )


def test_the_last_line_of_a_run_that_ended_early_leaves_no_time():
    """How far it came and after how long; nothing goes on that could have time left."""
    speed = Speed()
    speed.add(STATE)
    assert ", ".join(state_words(STATE, speed, ended=True)).endswith(
        "3 refused, 32.0 req/s, ended after 10 s"
    )


def test_the_line_does_without_a_total():
    """A pipe has no length: no time left is made up."""
    state = replace(STATE, total=None, settled=0, failed=0, refused=0)
    assert state_line(state, Speed()) == "300 courses, 12,345 rows, 0.0 req/s, 10 s so far"


def test_f88_the_line_says_why_it_waits_in_harmless_characters():
    """The reason stands at the end, and no escape sequence gets through."""
    line = state_line(replace(STATE, waiting="Retry-After\x1b[2J 12 s"), Speed())
    assert line.endswith(r"; waits: Retry-After\x1b[2J 12 s")


def test_the_speed_is_that_of_the_last_moments():
    """What happened long ago does not count."""
    speed = Speed()
    for second in range(1, 101):
        speed.add(replace(STATE, seconds=float(second), requests=min(second, 50), courses=0))
    assert speed.requests == 0
    assert speed.courses == 0


def test_the_summary_tells_everything_that_happened():
    """Courses, failures by kind, retries, latencies, waits, and what the output holds now."""
    assert table(figures(SUMMARY)) == [
        "  courses   290 fetched in this run, 390 in the output",
        "  skipped   settled before 100",
        "  failed    7, will be tried again",
        "  refused   3, the server's final word",
        "  kinds     timeout 7, unknown-content-item 3",
        "  rows      12,345 at 1,234/s in this run, 20,000 in the output; 1 course without rows",
        "  requests  320 at 32.0/s",
        "  retries   20: http-503 20",
        "  latency   p50 100 ms  p90 200 ms  p99 12.3 s",
        "  waited    Retry-After 1 min 15 s (added up over all requests)",
    ]


def test_the_summary_of_nothing_is_short():
    """A run without a request has no latencies, and divides by no zero."""
    nothing = Summary(failures={}, retries={}, waited={})
    lines = table(figures(nothing))
    assert [line.split()[0] for line in lines] == ["courses", "rows", "requests"]


def drawn(state, width, *, color=False):
    """The lines of the bar on a terminal this wide."""
    system = "standard" if color else None
    console = Console(file=io.StringIO(), width=width, force_terminal=color, color_system=system)
    console.print(_drawing(state, Speed(), width))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_where_there_is_little_room_the_wait_comes_first():
    """On 40 columns why it waits stands under the bar, and the words are folded, not cut."""
    state = replace(STATE, waiting="the service fails; probing again in 56 s")
    narrow, wide = drawn(state, 40), drawn(state, 120)
    assert narrow[1] == "waits: the service fails; probing again"
    assert "10 s so far" in " ".join(narrow[3:])
    assert max(map(len, narrow)) <= 40
    assert wide[2] == "waits: the service fails; probing again in 56 s"


def test_color_is_for_trouble_only():
    """A good run is drawn without color; failed and refused courses are red, a wait is yellow."""
    good = replace(STATE, failed=0, refused=0)
    assert not re.search(r"\x1b\[[0-9;]*3[1-6]", "".join(drawn(good, 100, color=True)))
    bad = "".join(drawn(replace(STATE, waiting="Retry-After 12 s"), 100, color=True))
    for words in ("\x1b[31m7 failed", "\x1b[31m3 refused", "\x1b[33mwaits: "):
        assert words in bad


def test_the_bar_draws_what_the_line_says_and_leaves_no_trace(monkeypatch):
    """Progress, speed and the reason for waiting are visible; afterwards the lines are cleared."""
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    screen.isatty = lambda: True
    with Bar(screen, color=False) as bar:
        bar.draw(replace(STATE, waiting="limit 20/s"), Speed())
        drawn = screen.getvalue()
        bar.draw(replace(STATE, total=None), Speed())
    assert "40%" in drawn
    assert "400/1,000 courses (100 before), 12,345 rows now" in drawn
    assert "waits: limit 20/s" in drawn
    assert screen.getvalue().endswith("\x1b[2K")
