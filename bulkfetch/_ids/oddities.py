"""Which lines are no id, whatever format they come from, and which ids look wrong.

A list in another format is refused with the command that makes one id a line of it. An id that a
spreadsheet or a copied web page has spoilt is asked all the same, since only the server knows, but
never without a word. Pure: a line comes in, words go out.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INVISIBLE: Final = (
    "\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180e"
    + "".join(map(chr, [*range(0x2000, 0x2010), *range(0x2028, 0x2030), *range(0x205F, 0x2070)]))
    + "\u3000\u3164\ufeff\uffa0"
    + "".join(map(chr, [*range(0xFE00, 0xFE10), *range(0xFFF9, 0xFFFC)]))
)
"""Characters that show nothing, or nothing but white: no id begins or ends with one."""

PLAIN: Final = re.compile(r"[0-9A-Za-z][-0-9A-Za-z_.]*")
"""An id about which there is nothing to say."""

_QUOTES: Final = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_ROUNDED: Final = re.compile(r"\d+(?:[.,]\d+)?[eE]\+\d+")
_WITHIN: Final = re.compile(f"[{INVISIBLE}]")

_SQL: Final = r"(?i:\(|in\s*\(|values\b|insert\s|select\s|where\b.*\()"
_OTHER_FORMATS: Final = tuple(
    (re.compile(pattern), what, how)
    for pattern, what, how in (
        (r"\[\s*\{", "this is a JSON array of objects", "jq -r '.[].contentItemId'{file}"),
        (r"\[", "this is a JSON array", "jq -r '.[]'{file}"),
        (r"\{[-0-9A-Fa-f]{32,36}\}$", "the id stands in braces", "tr -d '{{}}'{input}"),
        (r"\{", "this is JSON over several lines", "jq -c .{file}"),
        (
            rf"{_SQL}.*'|'.*'\s*\)*\s*[,;)]$|'.*'\s*,",
            "this is SQL",
            "grep -oE \"'[^']+'\"{file} | tr -d \"'\"",
        ),
        (_SQL, "this is SQL", "grep -oE '[0-9]+'{file}"),
        (
            r"\".*\"\s*[],;]+$|\".*\"\s*,",
            "this is a piece of JSON or CSV",
            "grep -oE '\"[^\"]+\"'{file} | tr -d '\"'",
        ),
        (r"<", "this is XML or HTML", "grep -oE '[-0-9a-f]{{36}}'{file}"),
        (r"[-=+|]{3,}|\|.*\|$", "this is a table that a program drew", "psql -At or mysql -NB"),
        (r".*[,;]$", "the line ends with a comma or semicolon", "tr -d ',; '{input}"),
    )
)
"""What a line begins with, what that is, and the command that makes one id a line of it."""


def other_format(line: str, name: str) -> tuple[str, str] | None:
    """Return what the line is instead of an id, and what helps; None if it may be one."""
    for pattern, what, how in _OTHER_FORMATS:
        if pattern.match(line):
            file = "" if name == "stdin" else f" {shlex.quote(name)}"
            command = how.format(file=file, input=file and f" <{file}")
            return what, f"give one id a line, as by: {command}"
    return None


def first_column(delimiter: str, name: str) -> str:
    """Return the command that makes a list of a table's first column."""
    cut = "cut -f1" if delimiter == "\t" else f"cut -d {shlex.quote(delimiter)} -f1"
    file = "" if name == "stdin" else f" {shlex.quote(name)}"
    return f"{cut}{file}"


def unquoted(line: str) -> str | None:
    """Return what stands in the quotes around the whole line, None if there are none."""
    if len(line) > 1 and _QUOTES.get(line[0]) == line[-1]:
        return line[1:-1]
    return None


def remarks(course_id: str) -> Iterator[tuple[str, str]]:
    """Yield what is odd about an id: the kind, for counting, and the words."""
    shown = ascii(course_id[:80])
    if _WITHIN.search(course_id):
        yield (
            "ids with invisible characters",
            f"{shown} holds characters that nobody sees: write it anew",
        )
    if _ROUNDED.fullmatch(course_id):
        yield (
            "ids in scientific notation",
            f"{shown} is a number that a spreadsheet rounded: format the column as text there",
        )
    elif course_id.startswith("'"):
        yield (
            "ids with an apostrophe",
            f"{shown} begins with an apostrophe, by which spreadsheets mark text: remove it",
        )
    elif re.search(r"[ ,;\t]", course_id):
        yield (
            "ids with blanks, commas or semicolons",
            f"{shown} is asked as one id; for a table, name its column with --id-column",
        )


class Remarks:
    """Warnings about a list: the first of each kind at once, how many there were at the end."""

    def __init__(self, name: str, warn: Callable[[str], object]) -> None:
        self._name = name
        self._warn = warn
        self._first: dict[str, int] = {}
        self._count: dict[str, int] = {}

    def add(self, line: int, kind: str, words: str) -> None:
        self._count[kind] = self._count.get(kind, 0) + 1
        if kind not in self._first:
            self._first[kind] = line
            self._warn(f"{self._name}, line {line}: {words}")

    def close(self) -> None:
        for kind, line in self._first.items():
            if (count := self._count[kind]) > 1:
                self._warn(f"{self._name}: {count:,} {kind}, the first in line {line}")
