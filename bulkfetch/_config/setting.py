"""What a setting is: its help, its bounds, how its text form is read, and a text nobody may see.

The same words serve the command line, the environment, the TOML file, the README's table and the
docstring of `Options`.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST: Final = 4
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"}
_LONGEST: Final = 1 << 16
"""Characters of a text or a path; a header line with a token is allowed far fewer."""
_SHOWN: Final = 80
_Kept = TypeVar("_Kept")
_Given = TypeVar("_Given")


if TYPE_CHECKING:

    class Readable(Generic[_Kept, _Given]):
        """How a type checker sees a field that is given in one type and kept in another."""

        def __get__(self, instance: object, owner: Any) -> _Kept: ...

        def __set__(self, instance: object, value: _Given) -> None: ...


@lru_cache(maxsize=8)
def _spelled(secret: str) -> re.Pattern[str]:
    """Return what finds a secret: letters and digits as they are, all else in any spelling."""
    return re.compile("".join(one if one.isalnum() else _any_spelling(one) for one in secret))


def _any_spelling(sign: str) -> str:
    number = ord(sign)
    percent = "".join(f"%{byte:02x}" for byte in sign.encode(errors="replace"))
    numbered = rf"&#0*{number};|&#x0*{number:x};|\\u{number:04x}|{percent}"
    named = _ENTITIES.get(sign)
    return rf"(?:\\?{re.escape(sign)}|(?i:{numbered}){f'|{named}' if named else ''})"


class Secret:
    """A string that no log, traceback, repr or pickle shows; `reveal()` is the one way in.

    Copying gives the same object, so that `asdict` of an `Options` works and still shows nothing.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | Secret) -> None:
        self._value = value.reveal() if isinstance(value, Secret) else value

    def reveal(self) -> str:
        return self._value

    @property
    def is_one_word(self) -> bool:
        """Whether it is printable and without blanks, as a token has to be."""
        return self._value.isprintable() and " " not in self._value

    def hidden_in(self, text: str) -> str:
        """Return the text with `***` for this secret: a server may send back what it got.

        Also as XML, JSON or an address spell it. Fewer than four characters are no secret, and
        would turn up in any text.
        """
        return _spelled(self._value).sub("***", text) if len(self._value) >= _LEAST else text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a Secret is not pickled: hand over where it comes from instead (token_file, "
            "token_command, the environment)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a person needs to know about one field of `Options`."""

    help: str
    metavar: str
    parse: Callable[[str], Any]
    group: str
    default: object
    least: float
    most: float
    """Bounds of a number, or of the length of a text; both are allowed."""
    why: str
    """What is behind the bounds, where they do not speak for themselves."""
    choices: tuple[str, ...]
    daily: bool
    """Whether `--help` shows it, or only `--help-all`."""
    flag: bool
    """Whether it may stand on a command line; a secret may not."""
    many: bool
    short: str | None

    @property
    def is_switch(self) -> bool:
        return self.parse is parse_switch

    @property
    def is_text(self) -> bool:
        return self.parse in {str, Path, Secret}

    @property
    def bounds(self) -> str:
        """The values that are allowed, as a person would say it; empty if any text or switch is."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.is_switch or self.is_text or self.most == _LONGEST:
            return ""
        return f"{as_text(self.least)} to {as_text(self.most)}"


def as_text(value: object) -> str:
    """Return a setting's value as a person would write it; empty if there is none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "; ".join(map(str, value))
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def quoted(value: object) -> str:
    """Return a value as a message quotes it, cut short."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def parse_switch(text: str) -> bool:
    """Read a yes-or-no; raises ValueError."""
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError(f"{quoted(text)} is neither yes nor no")


_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_rate(text: str) -> float:
    """Read requests per second from `20/s`, `600/m`, `20`; raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(s|m|min|h))?\s*", text)
    if not match or float(match[1]) == 0:
        raise ValueError(f"{quoted(text)} is not a rate; write it like 20/s, 600/m or 0.5")
    return float(match[1]) / _UNITS[match[2] or "s"]


def parse_seconds(text: str) -> float:
    """Read a duration in seconds from `90`, `90s`, `15m`, `2h`; raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h)?\s*", text)
    if not match:
        raise ValueError(f"{quoted(text)} is not a duration; write it like 90, 90s, 15m or 2h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def parse_bytes(text: str) -> int:
    """Read a size in bytes from `1048576`, `64K`, `4G`; raises ValueError."""
    match = re.fullmatch(r"\s*(\d{1,400})\s*([KMG]?)i?B?\s*", text, re.IGNORECASE)
    if not match:
        raise ValueError(f"{quoted(text)} is not a size; write it like 65536, 64K, 16M or 4G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()]


def parse_count(text: str) -> int:
    """Read a whole number; raises ValueError."""
    if not re.fullmatch(r"\s*[+-]?\d{1,400}\s*", text, re.ASCII):
        raise ValueError(f"{quoted(text)} is not a whole number")
    return int(text)


def parse_number(text: str) -> float:
    """Read a number; raises ValueError."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{quoted(text)} is not a number") from None


def parse_max_errors(text: str) -> str:
    """Check `50` or `5%`; raises ValueError."""
    match = re.fullmatch(r"\s*(\d{1,9}|\d{1,9}(?:\.\d{1,9})?(%))\s*", text, re.ASCII)
    if not match or (match[2] and float(match[1][:-1]) > 100):
        raise ValueError(
            f"{quoted(text)} is neither a number below a billion nor a percentage; "
            "write it like 50 or 5%"
        )
    return match[1]


_MOST_SHARDS = 10_000


def parse_shard(value: object) -> tuple[int, int]:
    """Read which shard of how many from `0/8`, `7/8` or (7, 8); raises ValueError."""
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", str(value))
    if isinstance(value, tuple | list) and [type(one) for one in value] == [int, int]:
        index, count = value
    elif match:
        index, count = int(match[1]), int(match[2])
    else:
        raise ValueError(
            f"{quoted(value)} is not a shard; write its number from 0, a slash and how many there "
            "are: 0/8"
        )
    if not 1 <= count <= _MOST_SHARDS:
        raise ValueError(f"{index}/{count} is no shard: there can be 1 to {_MOST_SHARDS:,} of them")
    if not 0 <= index < count:
        last = f"{count - 1}/{count}"
        raise ValueError(f"{index}/{count} is no shard: they count from 0, so the last is {last}")
    return index, count


def setting(  # noqa: PLR0913 - all that can be said of a setting
    help: str,  # noqa: A002 - the word the field is called by everywhere else
    *,
    default: object = MISSING,
    metavar: str = "TEXT",
    parse: Callable[[str], Any] = str,
    group: str = "Connection",
    least: float = 1,
    most: float = _LONGEST,
    why: str = "",
    choices: tuple[str, ...] = (),
    daily: bool = False,
    flag: bool = True,
    many: bool = False,
    short: str | None = None,
) -> Any:
    """Define a field of `Options`; a number needs bounds, a text has a longest length."""
    meta = Setting(
        help=help,
        metavar="|".join(choices) or metavar,
        parse=parse,
        group=group,
        default=None if default is MISSING else default,
        least=least,
        most=most,
        why=why,
        choices=choices,
        daily=daily,
        flag=flag,
        many=many,
        short=short,
    )
    if default is MISSING:
        return field(metadata={"setting": meta})
    return field(default=default, metadata={"setting": meta})
