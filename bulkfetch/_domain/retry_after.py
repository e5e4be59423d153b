"""How long a server asks to be left alone: the Retry-After header, read in one place.

The API and the token endpoint both send it, so it lives below both. Servers write fractions too,
though RFC 9110 (10.2.3) has whole seconds; nonsense is no pause, and the caller caps an absurd one.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["asked_pause", "parse_retry_after"]

_DAY: Final = 86_400.0
_SECONDS: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


def asked_pause(headers: Mapping[str, str], now: float) -> float | None:
    """Return the pause in seconds that an answer's headers ask for, None if they ask for none.

    One until a date counts from the answer's own Date, so that it is right though this machine's
    clock is not; `now` is the Unix time, for an answer without one, or one that is days off.
    """
    sent = _unix_time(headers.get("Date", ""))
    if sent is None or abs(sent - now) > _DAY:
        sent = now
    return parse_retry_after(headers.get("Retry-After"), sent)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the pause in seconds, from seconds or an HTTP date; `now` is the Unix time.

    None for nonsense; never negative; the caller caps it.
    """
    if value is None:
        return None
    if seconds := _SECONDS.fullmatch(value.strip(" \t")):
        return float(seconds[1])
    until = _unix_time(value)
    return None if until is None else max(0.0, until - now)


def _unix_time(date: str) -> float | None:
    """Return an HTTP date's Unix time, None for nonsense."""
    try:
        parsed = parsedate_to_datetime(date)
        # The form without a zone (asctime's) means GMT too, never this machine's zone.
        return parsed.replace(tzinfo=parsed.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
