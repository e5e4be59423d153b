"""Course ids from files and pipes: text, CSV or NDJSON, plain or compressed, read as needed.

Whatever is wrong is said with the file, the line and a remedy. A file of moderate size is read
through before anything else happens, so that a mistake in its last line costs no request and the
number of ids is known. What may keep its reader waiting (a pipe, a terminal) is read without
blocking the event loop.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import os
import re
import stat
import zlib
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final

import orjson
import zstandard

from bulkfetch._errors import ConfigurationError
from bulkfetch._protocol import check_id
from bulkfetch._text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
    from typing import BinaryIO

COLUMNS: Final = ("contentItemId", "content_item_id", "course_id", "courseId", "id")
"""Where the ids of a CSV list are looked for when no column is named, in any case."""
_BLOCK: Final = 64 << 10
_LONGEST_LINE: Final = 1 << 20
_COUNTED: Final = 16 << 20
"""Files up to this size are read through beforehand: 440,000 UUIDs, 0.6 s."""
_BLANKS: Final = " \t\r\ufeff\u00a0"
_COMMENT: Final = re.compile(r"(?:^|[ \t])#.*")
_DAMAGED: Final = (EOFError, OSError, zlib.error, zstandard.ZstdError)


class IdReader:
    """Turns the bytes of a list of ids into ids, block by block; without any input of its own.

    The format follows from the file's name (.csv, .tsv), else from the first line that is no
    comment: a JSON object makes it NDJSON, several names of columns with one of `COLUMNS` among
    them, or a `column`, make it CSV, anything else text. Raises ConfigurationError.
    """

    def __init__(self, name: str, column: str | None = None) -> None:
        self._name = name
        self._column = column
        self._line = 0
        self._rest = b""
        self._found = False
        self._parse: Callable[[str], str | None] = self._first_line
        self._record = ""
        self._delimiter = ","
        self._place = -1

    def feed(self, data: bytes) -> list[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        ids = self._read(lines)
        if len(self._rest) > _LONGEST_LINE:
            self._line += 1
            raise self._wrong("the line is longer than 1 MiB", "write one id a line")
        return ids

    def close(self) -> list[str]:
        """Return what the last line holds; raise if there was no id at all."""
        ids = self._read([self._rest])
        if self._record:
            raise self._wrong("a quotation mark is never closed", "close it")
        if not self._found:
            raise ConfigurationError(f"{self._name} holds no ids: write one course id a line")
        return ids

    def _read(self, lines: list[bytes]) -> list[str]:
        ids: list[str] = []
        for line in lines:
            self._line += 1
            course_id = self._parse(self._decode(line))
            if course_id is not None:
                ids.append(self._check(course_id))
        self._found = self._found or bool(ids)
        return ids

    def _decode(self, line: bytes) -> str:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise self._wrong(
                "the line is not UTF-8", "give a text file, saved as UTF-8 (.gz and .zst by name)"
            ) from None
        if "\0" in text:
            raise self._wrong("there is a NUL byte: this is no text file", "give a list of ids")
        return text.strip(_BLANKS)

    def _check(self, course_id: str) -> str:
        try:
            return check_id(course_id)
        except ValueError as error:
            raise self._wrong(str(error), "correct the line") from None

    def _wrong(self, what: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"{self._name}, line {self._line}: {what}; {remedy}")

    # The formats: each takes a line and returns its id, if it has one

    def _first_line(self, line: str) -> str | None:
        if not line:
            return None
        kind = PurePath(self._name.removesuffix(".gz").removesuffix(".zst")).suffix.lower()
        if kind not in {".csv", ".tsv"} and re.match(r'\{\s*"', line):
            self._parse = self._json
            return self._json(line)
        if kind in {".csv", ".tsv"} or self._column is not None:
            self._parse = self._header
            return self._header(line)
        if line.startswith("#"):
            return None
        if _is_header(line):  # a pipe has no name to tell a table by
            self._parse = self._header
            return self._header(line)
        self._parse = self._text
        return self._text(line)

    def _text(self, line: str) -> str | None:
        if "#" in line:
            line = _COMMENT.sub("", line).rstrip(_BLANKS)
        return line or None

    def _json(self, line: str) -> str | None:
        if not line:
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
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise self._wrong(f"{name} is {value!r}", "an id is text or a whole number")
        return str(value)

    def _header(self, line: str) -> str | None:
        self._delimiter = _delimiter(line)
        if (fields := self._fields(line)) is None:
            return None
        names = [field.strip(_BLANKS) for field in fields]
        if self._column is None:
            wanted, places = " or ".join(COLUMNS), _places(names)
        else:
            wanted = self._column
            places = [names.index(wanted)] if wanted in names else []
        if not places:
            raise ConfigurationError(
                f"{self._name} has no column {wanted}; its first line is "
                f"'{printable(line, 100)}': name the column with --id-column, "
                "or save a list without a header as .txt"
            )
        self._place = places[0]
        self._parse = self._cell
        return None

    def _cell(self, line: str) -> str | None:
        if not line and not self._record:
            return None
        if (fields := self._fields(line)) is None:
            return None
        if len(fields) <= self._place:
            raise self._wrong(
                f"the line has only {len(fields)} of the columns", "complete or remove it"
            )
        return fields[self._place].strip(_BLANKS) or None

    def _fields(self, line: str) -> list[str] | None:
        """Return the fields of a record, None while a quoted one goes on in the next line."""
        self._record += line
        if self._record.count('"') % 2:
            self._record += "\n"
            if len(self._record) > _LONGEST_LINE:
                raise self._wrong("a quotation mark is never closed", "close it")
            return None
        record, self._record = self._record, ""
        try:
            return next(csv.reader([record], delimiter=self._delimiter), [])
        except csv.Error as error:
            raise self._wrong(f"not a line of CSV ({error})", "correct the line") from None


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _is_header(line: str) -> bool:
    names = [name.strip(_BLANKS + '"') for name in line.split(_delimiter(line))]
    return len(names) > 1 and bool(_places(names))


def _places(names: Iterable[str]) -> list[int]:
    """Return where the ids may be, the likeliest place first."""
    lower = [name.lower() for name in names]
    return [lower.index(name.lower()) for name in COLUMNS if name.lower() in lower]


def open_ids(path: str, column: str | None = None) -> Iterable[str] | AsyncIterable[str]:
    """Return the ids in the file `path`, or on stdin for "-"; with a length where it is known.

    `column` names the CSV column or NDJSON field. Raises ConfigurationError for a list that is
    missing, empty, a folder or no text, at once where it can be seen, else while it is read.
    """
    if path == "-":
        return _open_stdin(column)
    with _openable(path):
        info = Path(path).stat()
        if stat.S_ISREG(info.st_mode):
            return _open_file(path, column, info.st_size)
        if stat.S_ISDIR(info.st_mode):
            raise ConfigurationError(f"{path} is a folder: name a file with one course id a line")
        return _from_descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path, column)


class IdFile:
    """The ids of a file that can be read any number of times."""

    def __init__(self, path: str, column: str | None) -> None:
        self._path = path
        self._column = column

    def __iter__(self) -> Iterator[str]:
        return _ids(self._blocks(), IdReader(self._path, self._column))

    def _blocks(self) -> Iterator[bytes]:
        with _openable(self._path), _decompressed(self._path) as file:
            while block := file.read(_BLOCK):
                yield block


class CountedIds(IdFile):
    """The ids of a file that was read through: all of them are good, and their number is known."""

    def __init__(self, path: str, column: str | None) -> None:
        super().__init__(path, column)
        self._count = sum(1 for _ in self)

    def __len__(self) -> int:
        return self._count


class PipedIds:
    """The ids that come through a pipe or from a terminal; they can be read once."""

    def __init__(self, fd: int, reader: IdReader) -> None:
        self._fd = fd
        self._reader = reader

    async def __aiter__(self) -> AsyncIterator[str]:
        stream = asyncio.StreamReader()
        pipe = os.fdopen(os.dup(self._fd), "rb", buffering=0)  # the event loop closes it
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), pipe
        )
        try:
            while block := await stream.read(_BLOCK):
                for course_id in self._reader.feed(block):
                    yield course_id
            for course_id in self._reader.close():
                yield course_id
        finally:
            transport.close()
            # Others that read from the same pipe expect to find it as it was.
            os.set_blocking(self._fd, True)
            os.close(self._fd)


def _open_file(path: str, column: str | None, size: int) -> IdFile:
    if size <= _COUNTED and not path.endswith((".gz", ".zst")):
        return CountedIds(path, column)
    ids = IdFile(path, column)
    next(iter(ids))  # what can be wrong with all of it shows at its beginning
    return ids


def _open_stdin(column: str | None) -> Iterable[str] | AsyncIterable[str]:
    try:
        # A terminal is shared with stdout and stderr, which must not become non-blocking.
        if os.isatty(0):
            fd = os.open(os.ttyname(0), os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        else:
            fd = os.dup(0)
    except OSError as error:
        raise ConfigurationError(f"stdin cannot be read ({error.strerror}): use -i FILE") from None
    return _from_descriptor(fd, "stdin", column)


def _from_descriptor(fd: int, name: str, column: str | None) -> Iterable[str] | AsyncIterable[str]:
    reader = IdReader(name, column)
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd):
        return PipedIds(fd, reader)
    return _ids(_descriptor_blocks(fd), reader)


def _descriptor_blocks(fd: int) -> Iterator[bytes]:
    try:
        while block := os.read(fd, _BLOCK):
            yield block
    finally:
        os.close(fd)


def _ids(blocks: Iterable[bytes], reader: IdReader) -> Iterator[str]:
    for block in blocks:
        yield from reader.feed(block)
    yield from reader.close()


@contextmanager
def _decompressed(path: str) -> Iterator[BinaryIO]:
    with Path(path).open("rb") as file:
        if path.endswith(".gz"):
            with _undamaged(path), gzip.open(file) as plain:
                yield plain  # type: ignore[misc] # it reads like one
        elif path.endswith(".zst"):
            decompressor = zstandard.ZstdDecompressor()
            with _undamaged(path), decompressor.stream_reader(file, read_across_frames=True) as out:
                yield out
        else:
            yield file


@contextmanager
def _undamaged(path: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise ConfigurationError(
            f"{path} cannot be decompressed ({error}): is it whole, and what its name says?"
        ) from None


@contextmanager
def _openable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"the list of ids {path} cannot be read: {error.strerror or error}; check its name"
        ) from None
