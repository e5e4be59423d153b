"""A server's wish to be left alone, in every form that a header can take."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkfetch._domain.retry_after import asked_pause, parse_retry_after

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("1000000000", 1e9),  # absurd, and capped by whoever waits
        ("9" * 13, 9999999999999.0),
        ("0\x1f", None),
        ("Sun, 06 Nov 1994 08:51:37 GMT", 120.0),
        ("Sunday, 06-Nov-94 08:51:37 GMT", 120.0),
        ("Sun Nov  6 08:51:37 1994", 120.0),
        ("Sun, 06 Nov 1994 08:51:37 -0000", 120.0),
        ("Sun, 06 Nov 1994 10:51:37 +0200", 120.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("-5", None),
        ("2.5", 2.5),
        ("0.01", 0.01),
        (".5", 0.5),
        ("3.", 3.0),
        (" 2.5\t", 2.5),
        ("2,5", None),
        ("1.2.3", None),
        ("1e9", None),
        ("+3", None),
        (".", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("١٢", None),
        ("Sun, 99 Nov 1994 08:51:37 GMT", None),
        ("Sun, 06 Nov 10000 08:51:37 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 252618189022.0),
    ],
)
def test_f28_f108_retry_after_in_all_its_forms(value, pause, monkeypatch):
    """Seconds, whole or not, and three forms of a date are read; nonsense is no pause."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # dates are GMT, wherever this runs
    time.tzset()
    try:
        assert parse_retry_after(value, NOW) == pause
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2100, 1, 1)))  # noqa: DTZ001
def test_f28_any_http_date_is_a_pause_from_now(moment):
    """A date is as far away as it is, and never in the past."""
    date = moment.replace(tzinfo=UTC, microsecond=0)
    pause = parse_retry_after(format_datetime(date, usegmt=True), NOW)
    assert pause == max(0.0, date.timestamp() - NOW)


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ \S*"))
def test_f28_no_retry_after_breaks_the_verdict(value):
    """Any text is a pause that is not negative, or none."""
    pause = parse_retry_after(value, NOW)
    assert pause is None or pause >= 0


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 3600.0])
def test_a_pause_until_a_date_counts_from_the_servers_clock(ahead):
    """Whatever this machine's clock says; without a Date, or with nonsense, it counts from that."""
    sent = datetime.fromtimestamp(NOW, UTC)
    until = format_datetime(sent + timedelta(seconds=7), usegmt=True)
    headers = {"Retry-After": until, "Date": format_datetime(sent, usegmt=True)}
    assert asked_pause(headers, NOW + ahead) == 7
    assert asked_pause({"Retry-After": until, "Date": "now"}, NOW + ahead) == max(0, 7 - ahead)
    assert asked_pause({"Retry-After": "5", "Date": headers["Date"]}, NOW + ahead) == 5
    assert asked_pause({"Date": until}, NOW) is None
    far = headers | {"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}
    assert asked_pause(far, NOW) == 7
