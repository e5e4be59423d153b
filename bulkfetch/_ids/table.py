"""CSV and TSV: the records of a table, read line by line, and the column that holds the ids.

Python's csv reader splits the records; all that is added is knowing when a record goes on in the
next line, so that each line is looked at once and an open quote is named by the line it is in.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

COLUMNS: Final = ("contentItemId", "content_item_id", "course_id", "courseId", "id")
"""Where the ids of a list are looked for when no column is named, in any case and spelling."""
_LONGEST: Final = 1 << 20
_MOST_LINES: Final = 1_000
"""Lines and characters after which an open quote is one that was forgotten."""


class Records:
    """Joins lines into records and splits these into cells. Raises ValueError with what is wrong.

    `line` is the number of the record's first line.
    """

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter
        self._lines: list[str] = []
        self._length = 0
        self.line = 0
        # A quote opens a cell only where the cell begins, and closes it where none follows it.
        self._cell = re.compile(rf'(?:^|{re.escape(delimiter)})"(?:[^"]|"")*+("|$)')

    @property
    def open(self) -> bool:
        """Whether a quoted cell goes on in the next line."""
        return bool(self._lines)

    def add(self, line: str, number: int) -> list[str] | None:
        """Return the cells of the record that ends with the line, None while it goes on."""
        if not self._lines:
            self.line = number
            if '"' not in line and "\r" not in line:
                return line.split(self.delimiter)  # as csv would, six times faster
        goes_on = self._opens(f'"{line}' if self._lines else line)
        self._lines.append(line)
        self._length += len(line)
        if goes_on:
            if len(self._lines) > _MOST_LINES or self._length > _LONGEST:
                raise ValueError("a quotation mark is never closed")
            return None
        lines, self._lines, self._length = self._lines, [], 0
        return self._split(lines)

    def _opens(self, line: str) -> bool:
        """Whether the line's last quoted cell is not closed in it."""
        closings = [match[1] for match in self._cell.finditer(line)]
        return bool(closings) and not closings[-1]

    def _split(self, lines: list[str]) -> list[str]:
        whole = [f"{line}\n" for line in lines]
        try:
            (cells,) = csv.reader(whole, delimiter=self.delimiter, strict=True)
        except csv.Error as error:
            raise ValueError(f"not a line of CSV ({error})") from None
        return cells


def delimiter_of(header: str, kind: str) -> str:
    return "\t" if kind == ".tsv" else max(",;\t|", key=header.count)


def is_header(line: str) -> bool:
    """Whether a line names a column of ids, alone or beside others."""
    names = [name.strip(" \"'") for name in line.split(delimiter_of(line, ""))]
    return bool(places(names))


def places(names: Iterable[str], wanted: str | None = None) -> list[int]:
    """Return where the ids may be, the likeliest place first."""
    names = list(names)
    if wanted is not None and wanted in names:
        return [place for place, name in enumerate(names) if name == wanted]
    plain = [_plain(name) for name in names]
    known = dict.fromkeys(map(_plain, COLUMNS if wanted is None else (wanted,)))
    return [place for one in known for place, name in enumerate(plain) if name == one]


def no_column(names: Iterable[str], wanted: str | None) -> str:
    """Say that the column is missing, and which there are."""
    there = printable(", ".join(map(repr, names)), 200)
    return f"there is no column {wanted or ' or '.join(COLUMNS)}; its columns are {there}"


def _plain(name: str) -> str:
    return re.sub(r"[ _-]+", "", name).casefold()
