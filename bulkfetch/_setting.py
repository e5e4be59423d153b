"""What a setting is: its help, how its text form is read, and a string that nobody may see.

The same words serve the command line, the environment, the TOML file and the README's table.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


_LEAST = 4


class Secret:
    """A string that no log, traceback, repr or pickle shows; `reveal()` is the one way in."""

    __slots__ = ("_value",)

    def __init__(self, value: str | Secret) -> None:
        self._value = value.reveal() if isinstance(value, Secret) else value

    def reveal(self) -> str:
        return self._value

    def hidden_in(self, text: str) -> str:
        """Return the text with `***` for this secret: a server may send back what it got.

        Fewer than four characters are no secret, and would turn up in any text.
        """
        return text.replace(self._value, "***") if len(self._value) >= _LEAST else text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a Secret is not pickled; hand over where it comes from instead")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a person needs to know about one field of `Options`."""

    help: str
    metavar: str
    parse: Callable[[str], Any]
    group: str
    flag: bool = True
    """Whether it may stand on a command line; a secret may not."""
    many: bool = False
    short: str | None = None

    @property
    def is_switch(self) -> bool:
        return self.parse is parse_switch


def parse_switch(text: str) -> bool:
    """Read a yes-or-no; raises ValueError."""
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError(f"{text!r} is neither yes nor no")


_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_rate(text: str) -> float:
    """Read requests per second from `20/s`, `600/m`, `20`; raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(s|m|min|h))?\s*", text)
    if not match or float(match[1]) == 0:
        raise ValueError(f"{text!r} is not a rate; write it like 20/s, 600/m or 0.5")
    return float(match[1]) / _UNITS[match[2] or "s"]


def parse_seconds(text: str) -> float:
    """Read a duration in seconds from `90`, `90s`, `15m`, `2h`; raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h)?\s*", text)
    if not match:
        raise ValueError(f"{text!r} is not a duration; write it like 90, 90s, 15m or 2h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def parse_bytes(text: str) -> int:
    """Read a size in bytes from `1048576`, `64K`, `4G`; raises ValueError."""
    match = re.fullmatch(r"\s*(\d+)\s*([KMG]?)i?B?\s*", text, re.IGNORECASE)
    if not match:
        raise ValueError(f"{text!r} is not a size; write it like 65536, 64K, 16M or 4G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()]


def parse_max_errors(text: str) -> str:
    """Check `50` or `5%`; raises ValueError."""
    if not re.fullmatch(r"\s*\d+(?:\.\d+)?%\s*|\s*\d+\s*", text):
        raise ValueError(f"{text!r} is neither a number nor a percentage; write it like 50 or 5%")
    return text.strip()


def setting(
    help: str,  # noqa: A002 - the word the field is called by everywhere else
    *,
    default: object = MISSING,
    metavar: str = "TEXT",
    parse: Callable[[str], Any] = str,
    group: str = "Connection",
    flag: bool = True,
    many: bool = False,
    short: str | None = None,
) -> Any:
    meta = Setting(help, metavar, parse, group, flag=flag, many=many, short=short)
    if default is MISSING:
        return field(metadata={"setting": meta})
    return field(default=default, metadata={"setting": meta})
