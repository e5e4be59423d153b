"""A finished output as whoever loads it sees it: what its manifest says, and its rows.

The rows are hashed as they are read, and at their end the hash must be the manifest's: the bytes
that went into a table are the bytes that were published. (Who reads them a second time sees to it
that they are the same: `rows`.) An output that is unfinished, in parts or not what its manifest
says is refused in words.
"""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson
import zstandard

from bulkfetch._domain.compression import compression
from bulkfetch._domain.errors import ConfigurationError, OutputError
from bulkfetch._domain.text import printable
from bulkfetch._output.inspect import require_file
from bulkfetch._output.layout import Layout, failures
from bulkfetch._output.manifest import lacking_words

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

_BLOCK: Final = 1 << 17
_UNREADABLE: Final = (EOFError, OSError, zlib.error, zstandard.ZstdError)
_LOOK: Final = "look with `bulkfetch verify`, which says how to mend it"
_FIELDS: Final = {
    **dict.fromkeys(("rows", "bytes"), int),
    **dict.fromkeys(("sha256", "finished"), str),
    **dict.fromkeys(("courses", "fingerprint"), dict),
    **dict.fromkeys(("empty_courses", "runs"), list),
}
"""Of what type the fields of a manifest are that a loader reads."""
_NUMBERS: Final = {
    "courses": ("fetched", "refused", "failed"),
    "limited": ("asked", "of"),
    "partial": ("parts", "of", "unfinished"),
}
"""Numbers within such fields, where these are there."""
UNKNOWN: Final = "unknown-content-item"
"""The kind of a course that the server no longer knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedOutput:
    """What the manifest of an output says, as far as a loader needs it."""

    path: str
    rows: int
    nbytes: int
    sha256: str
    courses: int
    """Fetched ones, those without rows included."""
    missing: int
    """Courses asked for that have no rows here: failed or refused."""
    empty_courses: tuple[str, ...]
    runs: tuple[str, ...]
    finished: datetime
    endpoint: str | None
    stamped: bool
    lacks: str
    """In words what it lacks of the ids it was given, or of its parts; empty if nothing."""


@dataclass(frozen=True, slots=True)
class MissingCourses:
    """The courses of the failed file: those that the server does not know, and all others."""

    unknown: tuple[str, ...]
    others: tuple[str, ...]
    unlisted: int
    """Courses that the manifest counts and the list, gone or cut short, does not name."""


def read_finished(path: str | os.PathLike[str]) -> FinishedOutput:
    """Read the manifest of the output `path`.

    Raises ConfigurationError for an output that is not finished, is in parts, or is none;
    OutputError for a manifest that cannot be read or a file of another size.
    """
    layout = Layout.of(path)
    _require_finished(layout)
    for name in (layout.manifest, layout.output, layout.failed):
        require_file(name)
    with failures(f"read {layout.manifest}"):
        text = Path(layout.manifest).read_bytes()
    told = _parsed(text)
    if flaw := _flaw(told):
        raise OutputError(
            f"{layout.manifest} is damaged: {flaw}; move it away, and the same fetch command "
            "writes it anew"
        )
    found = _of_manifest(layout.output, told)
    with failures(f"read {layout.output}"):
        size = Path(layout.output).stat().st_size
    if size != found.nbytes:
        raise not_as_published(found, f"it has {size:,} bytes instead of {found.nbytes:,}")
    return found


def read_missing(output: FinishedOutput) -> MissingCourses:
    """Read which courses failed or were refused; raises OutputError if the list is damaged.

    A list that is gone names none of them: what that means is for the reader to say.
    """
    layout = Layout.of(output.path)
    name = layout.failed
    unknown: list[str] = []
    others: list[str] = []
    if output.missing and Path(name).exists():
        try:
            with failures(f"read {name}"), Path(name).open("rb") as file:
                for course in map(orjson.loads, file):
                    (unknown if course["kind"] == UNKNOWN else others).append(
                        str(course["contentItemId"])
                    )
        except (ValueError, TypeError, KeyError) as error:
            lacks = f"lacks {error.args[0]}" if type(error) is KeyError else "is no failed course"
            line = len(unknown) + len(others) + 1
            raise OutputError(
                f"{name} is damaged: line {line} {lacks}; move it and {layout.manifest} away, "
                "and the same fetch command writes both anew"
            ) from None
    unlisted = max(0, output.missing - len(unknown) - len(others))
    return MissingCourses(tuple(unknown), tuple(others), unlisted)


def blocks_of(
    output: FinishedOutput, progress: Callable[[int, int], object] | None = None
) -> Iterator[bytes]:
    """Yield the uncompressed rows in blocks of whole lines, about 128 KiB each.

    Raises OutputError, at the latest when all is read, if they are not what the manifest says.
    `progress` is told how many of how many bytes of the file are read.
    """
    with opened(output) as file:
        yield from proven(output, file, progress)


def opened(output: FinishedOutput) -> BinaryIO:
    with failures(f"read {output.path}"):
        return Path(output.path).open("rb", buffering=0)


def proven(
    output: FinishedOutput, file: BinaryIO, progress: Callable[[int, int], object] | None
) -> Iterator[bytes]:
    """Yield the rows of the open `file` as `blocks_of` does."""
    hashed = _Hashed(file, output.nbytes, progress)
    rest = b""
    for block in _uncompressed(output, hashed):
        data = rest + block
        cut = data.rfind(b"\n") + 1
        if cut:
            yield data[:cut]
        rest = data[cut:]
    if hashed.digest() != output.sha256:
        raise not_as_published(output, "its checksum differs")
    if rest:
        raise OutputError(f"{output.path} ends in the middle of a row")


class _Hashed:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: Any, size: int, progress: Callable[[int, int], object] | None) -> None:
        self._file = file
        self._size = size
        self._progress = progress
        self._hash = sha256()
        self._read = 0

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        self._hash.update(data)
        self._read += len(data)
        if self._progress:
            self._progress(self._read, self._size)
        return data

    def digest(self) -> str:
        while self.read(_BLOCK):
            pass  # what lies behind the end of the compressed rows counts too
        return self._hash.hexdigest()


def _uncompressed(output: FinishedOutput, hashed: _Hashed) -> Iterator[bytes]:
    source: Any = hashed
    form = compression(output.path)
    if form == "gzip":
        source = gzip.GzipFile(fileobj=hashed)  # type: ignore[call-overload]
    elif form == "zstd":
        reading: Any = hashed
        source = zstandard.ZstdDecompressor().stream_reader(
            reading, read_across_frames=True, read_size=_BLOCK
        )
    try:
        while block := source.read(_BLOCK):
            yield block
    except _UNREADABLE as error:
        raise not_as_published(output, f"it cannot be read to its end: {error}") from None


def _require_finished(layout: Layout) -> None:
    there = {name: Path(name).exists() for name in (layout.output, layout.part, layout.manifest)}
    if there[layout.manifest] and there[layout.output]:
        return
    if Path(f"{layout.output}.parts").is_dir():
        raise ConfigurationError(
            f"{layout.output} is still in parts ({layout.output}.parts): "
            "run the same fetch again until it is put together, or merge the parts"
        )
    if there[layout.part] or Path(layout.journal).exists():
        raise ConfigurationError(
            f"{layout.output} is not finished: run the same fetch again until it is"
        )
    lacking = layout.manifest if there[layout.output] else layout.output
    raise ConfigurationError(
        f"{layout.output} is no finished output of bulkfetch: there is no {lacking}; "
        "name the file that was given to fetch -o"
    )


def _parsed(text: bytes) -> Any:
    """Return what a manifest says; None for what is no JSON."""
    with suppress(ValueError):
        return orjson.loads(text)
    return None


def _flaw(found: Any) -> str | None:
    """Say what a loader cannot read of a manifest; None if there is nothing."""
    if not isinstance(found, dict):
        return "it is no JSON object"
    fields: dict[str, Any] = {name: found.get(name) for name in _FIELDS}
    kinds = dict(_FIELDS)
    for name, keys in _NUMBERS.items():
        if (part := found.get(name)) is not None and name not in _FIELDS:
            kinds[name], fields[name] = dict, part
        if isinstance(part, dict):
            fields |= {f"{name}.{key}": part.get(key) for key in keys}
            kinds |= dict.fromkeys((f"{name}.{key}" for key in keys), int)
    for name, kind in kinds.items():
        if type(fields[name]) is not kind:
            lacks = fields[name] is None and name not in found
            return f"it lacks {name}" if lacks else f"{name} is {_shown(fields[name])}"
    if _moment(found["finished"]) is None:
        return f"finished is {_shown(found['finished'])}, no time with a zone"
    return None


def _shown(value: object) -> str:
    return printable(str(value), 60)


def _moment(text: str) -> datetime | None:
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else None
    return None


def _of_manifest(path: str, found: dict[str, Any]) -> FinishedOutput:
    finished = datetime.fromisoformat(found["finished"])
    courses, fingerprint = found["courses"], found["fingerprint"]
    return FinishedOutput(
        path=path,
        rows=int(found["rows"]),
        nbytes=int(found["bytes"]),
        sha256=str(found["sha256"]),
        courses=int(courses["fetched"]),
        missing=int(courses.get("failed", 0)) + int(courses.get("refused", 0)),
        empty_courses=tuple(map(str, found["empty_courses"])),
        runs=tuple(map(str, found["runs"])),
        finished=finished,
        endpoint=fingerprint.get("endpoint"),
        stamped=fingerprint.get("stamp") == "true",
        lacks=lacking_words(found.get("limited"), found.get("partial")),
    )


def not_as_published(output: FinishedOutput, why: str) -> OutputError:
    """Say that a file is not what its manifest says."""
    return OutputError(
        f"{output.path} is not what its manifest says: {why}; bring the file back, "
        "or if a run was killed at its end, run the same fetch again"
    )


def not_as_manifest(output: FinishedOutput, why: str) -> OutputError:
    """Say that a manifest, whose checksum fits, does not fit the rows."""
    return OutputError(f"{Layout.of(output.path).manifest} does not fit the rows: {why}; {_LOOK}")


def counted_rows(output: FinishedOutput, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield blocks of rows, and raise OutputError at their end unless they are all of them."""
    rows = 0
    for lines in blocks:
        rows += lines.count(b"\n")
        yield lines
    check_count(output, rows)


def check_count(output: FinishedOutput, rows: int) -> None:
    """Raise OutputError unless there are as many rows as the manifest names."""
    if rows != output.rows:
        raise OutputError(
            f"{output.path} holds {rows:,} rows, but its manifest says {output.rows:,}; {_LOOK}"
        )


def unlinked(directory: str) -> BinaryIO:
    """Open a file without a name, private and gone with the process."""
    from tempfile import TemporaryFile  # noqa: PLC0415 - a diff of equal files needs none

    with failures(f"keep rows in a file in {directory}"):
        return TemporaryFile(dir=directory, buffering=0)
