"""The journal's frames, to and from bytes.

A line is the CRC-32 of its JSON in eight hex digits, a space, the JSON and a line feed. Format 2
tells besides why a run stopped and what it paused for; its readers skip kinds and fields that they
do not know, so that later versions may tell more. Format 1 is read as well. Pure: callers bring the
bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from bulkfetch._domain.model import Failed

FORMAT = 2
READABLE = frozenset({1, FORMAT})
BLOCK = 1 << 20
"""Bytes read at once, and written at once of a large course."""

Course: TypeAlias = tuple[str, int, int, float]
"""Of a fetched course: its id, rows, attempts, seconds."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first frame: which run began the output and what its bytes depend on."""

    run: str
    fingerprint: Mapping[str, str]
    started: float
    version: str
    replaces: bool = False
    """Whether another file stood at the output's name and may be replaced when this one is done."""
    shard: str | None = None
    """Which part of the ids the output is for, as "0/4"; None is all of them."""
    older: int = 0
    """Bytes after this line that were written in format 1, before a later version took over."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class FailedCourse:
    """A course without rows as the journal remembers it; `settled`: not to be asked again."""

    course_id: str
    kind: str
    message: str
    attempts: int
    settled: bool

    @classmethod
    def of(cls, outcome: Failed) -> FailedCourse:
        error = outcome.error
        # A header's bytes may have come as surrogates, which JSON cannot hold.
        message = error.message.encode(errors="replace").decode()
        return cls(outcome.course_id, error.kind, message, outcome.attempts, error.settled)

    def line(self) -> bytes:
        """Return its line in the file of failed courses."""
        return orjson.dumps(
            {
                "contentItemId": self.course_id,
                "kind": self.kind,
                "message": self.message,
                "attempts": self.attempts,
                "retry": not self.settled,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


@dataclass(frozen=True, slots=True)
class Committed:
    """Whole courses whose rows are the data's bytes from `start` to `end`."""

    start: int
    end: int
    crc: int
    courses: Sequence[Course]
    failed: Sequence[FailedCourse]
    at: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of a run's progress, for people; recovery does not need it."""

    state: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Resume:
    """A later run goes on with the output; takes back a `Done` before it."""

    run: str
    at: float


@dataclass(frozen=True, slots=True)
class Done:
    """The output is complete: what follows is only its publication."""

    at: float
    totals: Mapping[str, object]
    options: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Stop:
    """A run ended before its list did: with which exit code, and why in words.

    `kind` is the stable word for it; `last_failure` is what was said of the course that failed
    last, if one did.
    """

    at: float
    exit_code: int
    kind: str
    message: str
    last_failure: str | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """A run began nothing for `seconds`, from `at` (Unix time) on; `cause` says why."""

    at: float
    seconds: float
    cause: str


@dataclass(frozen=True, slots=True)
class Adopted:
    """What is taken over from another output, with the next commits, was fetched by these runs."""

    runs: Sequence[str]


Frame: TypeAlias = Header | Committed | Snapshot | Resume | Done | Stop | Pause | Adopted
KINDS: dict[str, Any] = {
    "header": Header,
    "commit": Committed,
    "state": Snapshot,
    "resume": Resume,
    "done": Done,
    "stop": Stop,
    "pause": Pause,
    "adopted": Adopted,
}
_NAMES = {kind: name for name, kind in KINDS.items()}
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


def encode(frame: Frame) -> bytes:
    """Return the frame as a line."""
    body = {name: getattr(frame, name) for name in type(frame).__slots__}
    if isinstance(frame, Committed):
        body["failed"] = [tuple(asdict(course).values()) for course in frame.failed]
    text = orjson.dumps({_NAMES[type(frame)]: body})
    return b"%08x %b\n" % (crc32(text), text)


def decode(line: bytes) -> Frame | None:
    """Read one line without its line feed; None for a whole one of a kind that is not known.

    Raises ValueError when it is not a whole good frame.
    """
    try:
        text = line[9:]
        if line[:9] != b"%08x " % crc32(text):
            raise ValueError("CRC")
        ((kind, body),) = orjson.loads(text).items()
        return _frame(KINDS.get(kind), body)
    except _MALFORMED as error:
        raise ValueError(f"not a frame: {line[:40]!r}") from error


def walk(chunks: Iterable[bytes]) -> Iterator[tuple[int, Frame | None]]:
    """Yield size and frame of each line of the longest good prefix, whatever follows it.

    A line of an unknown kind has no frame; in format 1, which had none, it is no good line. Nothing
    is read behind a header of a format that is not known.
    """
    known = FORMAT
    for line in lines(chunks):
        try:
            frame = decode(line)
        except ValueError:
            return
        if isinstance(frame, Header):
            known = frame.format
        if frame is None and known < FORMAT:
            return
        yield len(line) + 1, frame
        if known not in READABLE:
            return


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield whole lines without their line feed; an unfinished last one is left out."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def _frame(kind: Any, body: dict[str, Any]) -> Frame | None:
    if kind is None:
        return None
    if kind is Header and int(body["format"]) not in READABLE:
        return _foreign(body)
    if kind is Committed:
        body["courses"] = [tuple(course) for course in body["courses"]]
        body["failed"] = [FailedCourse(*course) for course in body["failed"]]
    frame: Frame = kind(**{name: body[name] for name in kind.__slots__ if name in body})
    return frame


def _foreign(header: dict[str, Any]) -> Header:
    # Another format promises no more than these two.
    version = str(header.get("version", "unknown"))
    return Header("", {}, 0.0, version, format=int(header["format"]))
