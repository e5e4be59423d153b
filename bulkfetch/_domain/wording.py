"""Numbers, times and lists as a person reads them, in one place for every screen and page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TO_MEND: Final = (2, 4, 6)
"""Exit codes after which running again does not help by itself."""


def duration(seconds: float) -> str:
    """Write a duration for a person: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def iso(at: float) -> str:
    """Write a Unix time as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def counted(number: int, noun: str) -> str:
    """Write `1 course`, `1,000 courses`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def how_to_go_on(exit_code: int | None) -> str:
    """Say what goes on after a run that ended early; `exit_code` is None where it is unknown."""
    same = "the same command goes on"
    return f"once the cause is mended {same}" if exit_code in _TO_MEND else same


def by_count(counts: Mapping[str, float]) -> str:
    """Write `timeout 3, http-503 2`, the largest first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{printable(name, 60)} {number:,}" for name, number in ranked)


def table(rows: Iterable[tuple[str, str]], indent: str = "  ") -> list[str]:
    """Align names and words in two columns; rows without words are left out."""
    said = [(name, words) for name, words in rows if words]
    width = max((len(name) for name, _ in said), default=0)
    return [f"{indent}{name:<{width}}  {words}".rstrip() for name, words in said]
