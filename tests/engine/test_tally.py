"""Counts and latencies: what a summary says is what was added."""

from collections import Counter

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch import Failed, Fetched, Transient
from bulkfetch._engine.tally import Tally
from bulkfetch._output.spool import Spool


def fetched(rows):
    spool = Spool()
    if rows:
        spool.append(b"{}\n" * rows, rows)
    return Fetched("c", spool)


outcomes = st.lists(
    st.integers(0, 5).map(fetched)
    | st.sampled_from(["timeout", "fault"]).map(lambda kind: Failed("c", Transient(kind, "-")))
)


@given(outcomes, st.lists(st.sampled_from(["timeout", "http-503"])))
def test_counts(given, retries):
    """Every outcome and retry is counted once, under its kind."""
    tally = Tally()
    for outcome in given:
        tally.add(outcome)
    for kind in retries:
        tally.retried(kind)
    summary = tally.summary(seconds=1.5, waited={"rate": 2.0}, settled=3, duplicates=4)
    rows = [len(outcome.rows) for outcome in given if isinstance(outcome, Fetched)]
    kinds = Counter(outcome.error.kind for outcome in given if isinstance(outcome, Failed))
    assert (summary.courses, summary.fetched, summary.failed) == (
        len(given),
        len(rows),
        kinds.total(),
    )
    assert (summary.rows, summary.empty) == (sum(rows), rows.count(0))
    assert (summary.output_courses, summary.output_rows) == (len(rows), sum(rows))
    assert summary.failures == kinds
    assert summary.retries == Counter(retries)
    assert (summary.seconds, summary.settled, summary.duplicates) == (1.5, 3, 4)
    assert summary.waited == {"rate": 2.0}


@given(st.lists(st.floats(1e-6, 3_600), min_size=1))
def test_latencies_to_two_digits(seconds):
    """Quantiles are one of the latencies, within a hundredth, and in order."""
    tally = Tally()
    for one in seconds:
        tally.attempted(one)
    summary = tally.summary(seconds=0, waited={})
    assert summary.requests == len(seconds)
    quantiles = [summary.latency_p50, summary.latency_p90, summary.latency_p99]
    assert quantiles == sorted(quantiles)
    for quantile in quantiles:
        assert min(abs(quantile - one) - one / 50 for one in seconds) < 2e-6


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-9, 3_600.0, 1e12])
def test_latencies_beyond_the_scale(seconds):
    """A clock that stood still or jumped breaks nothing."""
    tally = Tally()
    tally.attempted(seconds)
    assert 1e-6 <= tally.quantile(50) <= 3_650
    assert tally.requests == 1


def test_before_the_first_request():
    """Nothing was measured, so nothing is shown."""
    assert Tally().quantile(99) == 0
    assert Tally().summary(seconds=0, waited={}).latency_p50 == 0


def test_latencies_can_be_stored_and_read_back():
    """The text form holds every count."""
    tally = Tally()
    for number in range(1, 1000):
        tally.attempted(number / 1000)
    stored = HdrHistogram.decode(tally.latencies())
    assert stored.get_total_count() == 999
    assert stored.get_value_at_percentile(50) / 1e6 == pytest.approx(0.5, rel=0.01)


def test_a_summary_is_frozen_in_time():
    """What is counted later does not change it."""
    tally = Tally()
    tally.add(Failed("c", Transient("timeout", "-")))
    summary = tally.summary(seconds=0, waited={})
    tally.add(Failed("c", Transient("timeout", "-")))
    assert (summary.courses, summary.failures) == (1, {"timeout": 1})
