"""The bytes of a list turned into ids: text, CSV or NDJSON, block by block, without any input.

The format follows from the file's name and the first line. What is clear is read: header lines,
quotes around every id, blanks. What is not is refused with the line and what helps, and what looks
spoilt is warned of, because an id asked in a wrong spelling is one the server refuses for ever.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

import orjson

from bulkfetch._domain.errors import ConfigurationError
from bulkfetch._domain.text import printable
from bulkfetch._ids.check import check_id
from bulkfetch._ids.oddities import (
    INVISIBLE,
    PLAIN,
    Remarks,
    first_column,
    other_format,
    remarks,
    unquoted,
)
from bulkfetch._ids.table import COLUMNS, Records, delimiter_of, is_header, no_column, places

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_LINE: Final = 1 << 20
_BLANKS: Final = " \t\r"
_COMMENT: Final = re.compile(r"(?:^|[ \t])#.*")
_PLAIN_LINES: Final = re.compile(rb"[0-9A-Za-z][-\w.]{0,255}+(?:\n[0-9A-Za-z][-\w.]{0,255}+)*+")
_LINE_FEEDS: Final = "end lines with a line feed: tr '\\r' '\\n'"
_ANY_TO_UTF8: Final = "save the list as text in UTF-8"
_MAGIC: Final = {
    b"\xff\xfe": ("the file is UTF-16", "iconv -f UTF-16 -t UTF-8 makes UTF-8 of it"),
    b"\xfe\xff": ("the file is UTF-16", "iconv -f UTF-16 -t UTF-8 makes UTF-8 of it"),
    b"PK\x03\x04": ("the file is a workbook or a zip archive", "export the list as CSV (UTF-8)"),
    b"\xd0\xcf\x11\xe0": ("the file is a workbook", "export the list as CSV (UTF-8)"),
    b"\x1f\x8b": ("the file is compressed by gzip", "give it a name that ends in .gz"),
    b"\x28\xb5\x2f\xfd": ("the file is compressed by zstd", "give it a name that ends in .zst"),
    b"\xfd7zXZ": ("the file is compressed by xz", "unpack it: xz -d"),
    b"BZh": ("the file is compressed by bzip2", "unpack it: bzip2 -d"),
    b"%PDF": ("the file is a PDF", _ANY_TO_UTF8),
}


class IdReader:
    """Turns the blocks of one list into ids. Raises ConfigurationError, with the line.

    `name` is the list's, for messages and for its suffix; `column` the CSV column or NDJSON field.
    A name ending in .csv or .tsv makes it CSV, else the first line that is no comment: a JSON
    object makes it NDJSON, several names of columns with one of `COLUMNS` among them, or a
    `column`, make it CSV, anything else text. `warn` is told of what looks wrong.
    """

    def __init__(
        self,
        name: str,
        column: str | None = None,
        *,
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._file = name
        self._name = printable(name, 1000)
        self._column = column
        self._warn = warn
        self._remarks = Remarks(self._name, warn)
        self._line = 0
        self._rest = b""
        self._found = self._headed = False
        self._quoted: bool | None = None
        """Whether the ids of a text stand in quotes; the first says it for all."""
        self._parse: Callable[[str], str | None] = self._first_line
        self._records = Records(",")
        self._place = self._width = 0

    def feed(self, data: bytes) -> list[str]:
        whole, end, self._rest = (self._rest + data).rpartition(b"\n")
        if self._quoted is False and _PLAIN_LINES.fullmatch(whole):
            ids = whole.decode().split("\n")  # nearly all there is, and many times faster
            self._line += len(ids)
            return ids
        ids = self._read(whole.split(b"\n")) if end else []
        if len(self._rest) > _LONGEST_LINE:
            self._line += 1
            self._check_magic(self._rest)
            raise self._wrong("the line is longer than 1 MiB", "write one id a line")
        return ids

    def close(self) -> list[str]:
        """Return what the last line holds; raise if there was no id at all."""
        ids = self._read([self._rest])
        if self._records.open:
            self._line = self._records.line
            raise self._wrong("a quotation mark is never closed", "close it")
        self._remarks.close()
        if not self._found:
            but = " but a header" if self._headed else ""
            raise ConfigurationError(f"{self._name} holds no ids{but}: write one course id a line")
        return ids

    def _read(self, lines: list[bytes]) -> list[str]:
        ids: list[str] = []
        for line in lines:
            self._line += 1
            course_id = self._parse(self._decode(line))
            if course_id is not None:
                ids.append(course_id)
        self._found = self._found or bool(ids)
        return ids

    def _decode(self, line: bytes) -> str:
        if self._line == 1:
            self._check_magic(line)
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            remedy = "save the list as UTF-8, or convert it: iconv -f WINDOWS-1252 -t UTF-8"
            raise self._wrong("the line is not UTF-8", remedy) from None
        if "\0" in text:
            what = "there is a NUL byte: this is UTF-16 or no text at all"
            raise self._wrong(what, _ANY_TO_UTF8)
        return text.removesuffix("\r")

    def _check_magic(self, line: bytes) -> None:
        for magic, (what, remedy) in _MAGIC.items():
            if self._line == 1 and line.startswith(magic):
                raise ConfigurationError(f"{self._name}: {what}: {remedy}")

    def _wrong(self, what: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"{self._name}, line {self._line}: {what}; {remedy}")

    def _id(self, text: str) -> str | None:
        """Strip and check an id; None if there is none. Warns of what looks wrong."""
        if PLAIN.fullmatch(text):
            return self._check(text)
        course_id = text.strip(_BLANKS).strip(INVISIBLE + _BLANKS)
        if course_id != text.strip(_BLANKS):
            words = f"invisible characters around {course_id[:80]!a} are left out"
            self._remarks.add(self._line, "ids with invisible characters around them", words)
        if not course_id:
            return None
        for kind, words in remarks(self._check(course_id)):
            self._remarks.add(self._line, kind, words)
        return course_id

    def _check(self, course_id: str) -> str:
        try:
            return check_id(course_id)
        except ValueError as error:
            remedy = "correct the line"
            if "\r" in course_id:
                remedy = _LINE_FEEDS
            elif "," in course_id:
                remedy = "write one id a line: tr ',' '\\n'"
            raise self._wrong(str(error), remedy) from None

    def _empty(self, where: str) -> None:
        self._remarks.add(self._line, "records without an id", f"{where} is empty: left out")

    # The formats: each takes a line and returns its id, if it has one

    def _first_line(self, line: str) -> str | None:
        plain = line.strip(_BLANKS + INVISIBLE)
        if not plain:
            return None
        kind = PurePath(re.sub(r"(?i)\.(gz|zst)$", "", self._file)).suffix.lower()
        table = kind in {".csv", ".tsv"}
        if not table and re.match(r'\{\s*"', plain):
            self._parse = self._json
        elif table or self._column is not None:
            self._records = Records(delimiter_of(line, kind))
            self._parse = self._header
        elif plain.startswith("#"):
            return None
        elif not is_header(plain):
            self._parse = self._text
        elif (delimiter := delimiter_of(plain, kind)) in plain:
            # A pipe has no name to tell a table by.
            self._records = Records(delimiter)
            self._parse = self._header
        else:
            self._headed = True
            self._parse = self._text
            return None
        return self._parse(line)

    def _text(self, line: str) -> str | None:
        if self._quoted is False and PLAIN.fullmatch(line):
            return self._check(line)
        line = _COMMENT.sub("", line).strip(_BLANKS)
        bare = line.strip(INVISIBLE)
        if bare and (refusal := other_format(bare, self._file)):
            raise self._wrong(*refusal)
        inner = unquoted(bare)
        if bare and self._quoted is not (inner is not None):
            if self._quoted is not None:
                raise self._wrong(
                    f"{printable(bare, 80)!r} and the ids above are not all in quotes",
                    "write all ids with them, or none",
                )
            self._quoted = inner is not None
        return self._id(line if inner is None else inner)

    def _json(self, line: str) -> str | None:
        if not line.strip(_BLANKS):
            return None
        name = self._column or COLUMNS[0]
        try:
            value = orjson.loads(line)[name]
        except (ValueError, TypeError):
            raise self._wrong("not a JSON object", "write one object a line") from None
        except KeyError:
            raise self._wrong(
                f"the object has no {name!r}", "name the field with --id-column"
            ) from None
        if value is None:
            value = ""
        if not isinstance(value, str | int) or isinstance(value, bool):
            shown = printable(repr(value), 80)
            raise self._wrong(f"{name} is {shown}", "an id is text or a whole number")
        course_id = self._id(str(value))
        if course_id is None:
            self._empty(name)
        return course_id

    def _header(self, line: str) -> str | None:
        if (cells := self._cells(line)) is None:
            return None
        names = [cell.strip(_BLANKS + INVISIBLE) for cell in cells]
        found = places(names, self._column)
        if not found:
            raise ConfigurationError(
                f"{self._name}: {no_column(names, self._column)}: name the column with "
                "--id-column, or make of a list without a header one id a line, as by: "
                f"{first_column(self._records.delimiter, self._file)}"
            )
        self._place, self._width = found[0], len(names)
        if len(found) > 1:
            others = ", ".join(repr(names[place]) for place in found[1:])
            chosen = f"column {self._place + 1}, {names[self._place]!r}"
            self._warn(
                f"{self._name}: the ids are taken from {printable(chosen)}, not from "
                f"{printable(others)}; --id-column names another"
            )
        self._headed = True
        self._parse = self._cell
        return None

    def _cell(self, line: str) -> str | None:
        if not self._records.open and not line.strip(_BLANKS):
            return None
        if (cells := self._cells(line)) is None:
            return None
        if len(cells) <= self._place:
            raise self._wrong(
                f"the line has only {len(cells)} of the columns", "complete or remove it"
            )
        if self._place and any(cells[self._width :]):
            raise self._wrong(
                f"the line has {len(cells)} cells, the header {self._width}",
                "put cells that hold the delimiter in quotes",
            )
        course_id = self._id(cells[self._place])
        if course_id is None:
            self._empty(f"column {self._place + 1}")
        return course_id

    def _cells(self, line: str) -> list[str] | None:
        """Return the cells of a record, None while a quoted one goes on in the next line."""
        try:
            return self._records.add(line, self._line)
        except ValueError as error:
            self._line = self._records.line
            remedy = _LINE_FEEDS if "\r" in line else "correct the line"
            raise self._wrong(str(error), remedy) from None
