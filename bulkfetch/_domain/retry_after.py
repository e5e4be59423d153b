"""How long a server asks to be left alone: the Retry-After header, read in one place.

The API and the token endpoint both send it, so it lives below both. Servers write fractions too,
though RFC 9110 (10.2.3) has whole seconds; nonsense is no pause, and the caller caps an absurd one.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["parse_retry_after"]

_SECONDS: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the pause in seconds, from seconds or an HTTP date; `now` is the Unix time.

    None for nonsense; never negative; the caller caps it.
    """
    if value is None:
        return None
    if seconds := _SECONDS.fullmatch(value.strip(" \t")):
        return float(seconds[1])
    try:
        date = parsedate_to_datetime(value)
        # The form without a zone (asctime's) means GMT too, never this machine's zone.
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
