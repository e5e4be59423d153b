"""The journal's frames, to and from bytes, and what they add up to.

A line is the CRC-32 of its JSON in eight hex digits, a space, the JSON and a line feed. `replay`
keeps the longest prefix of lines whose CRC, JSON and order hold, whatever the bytes are: a torn or
flipped journal gives fewer commits, never an exception. Pure: callers bring the bytes.
"""

from __future__ import annotations

from array import array
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from bulkfetch._model import Failed

FORMAT = 1
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
                "class": self.kind,
                "message": self.message,
                "attempts": self.attempts,
                "retry": not self.settled,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


@dataclass(frozen=True, slots=True)
class Commit:
    """Whole courses whose rows are the data's bytes from `start` to `end`."""

    start: int
    end: int
    crc: int
    courses: Sequence[Course]
    failed: Sequence[FailedCourse]
    at: float


@dataclass(frozen=True, slots=True)
class State:
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


Frame: TypeAlias = Header | Commit | State | Resume | Done
_KINDS: dict[str, Any] = {
    "header": Header,
    "commit": Commit,
    "state": State,
    "resume": Resume,
    "done": Done,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


@dataclass(slots=True)
class Ledger:
    """What a journal's good lines add up to.

    `count` keeps the totals up to date; `settled` and the list of commits grow by `replay` alone.
    """

    header: Header | None = None
    runs: list[str] = field(default_factory=list)
    size: int = 0
    """Bytes of good lines."""
    end: int = 0
    """Bytes of data committed."""
    fetched: int = 0
    rows: int = 0
    empty: list[str] = field(default_factory=list)
    """Courses that were fetched and have no rows."""
    failed: dict[str, FailedCourse] = field(default_factory=dict)
    """The last failure of each course not fetched since; a refusal outlasts passing ones."""
    settled: set[str] = field(default_factory=set)
    """Courses fetched or refused: nothing is left to ask."""
    states: list[Mapping[str, object]] = field(default_factory=list)
    """The last snapshot of progress, or all of them when they were asked for."""
    done: Done | None = None
    reopened: bool = False
    """Whether the output was once complete, so that it may stand under its final name."""
    updated: float = 0.0
    """Unix time of the last frame that tells one."""
    ends: array[int] = field(default_factory=lambda: array("Q"))
    crcs: array[int] = field(default_factory=lambda: array("I"))
    places: array[int] = field(default_factory=lambda: array("Q"))
    """Of each commit: where its data ends, their CRC, where its line begins in the journal."""

    def commits(self) -> Iterator[tuple[int, int, int]]:
        """Yield start, end and CRC of each commit's data."""
        start = 0
        for end, crc in zip(self.ends, self.crcs, strict=True):
            yield start, end, crc
            start = end

    def count(self, courses: Sequence[Course], failed: Iterable[FailedCourse]) -> None:
        """Add whole courses to the totals."""
        rows = [course[1] for course in courses]
        self.rows += sum(rows)
        self.fetched += len(rows)
        if 0 in rows:
            self.empty += [course[0] for course in courses if not course[1]]
        if self.failed:
            for course in courses:
                self.failed.pop(course[0], None)
        for failure in failed:
            known = self.failed.get(failure.course_id)
            if failure.settled or known is None or not known.settled:
                self.failed[failure.course_id] = failure

    def outcomes(self) -> dict[str, int]:
        """Count the courses by outcome; `failed` are those that the next run asks for again."""
        refused = sum(course.settled for course in self.failed.values())
        return {
            "fetched": self.fetched,
            "refused": refused,
            "failed": len(self.failed) - refused,
        }

    def manifest(self, output: str, sha256: str) -> Manifest:
        """Describe the finished output `output`; call it when `done` is set."""
        header, done = self.header, self.done
        assert header
        assert done
        return Manifest(
            output=output,
            rows=self.rows,
            bytes=self.end,
            sha256=sha256,
            courses=self.outcomes(),
            empty_courses=tuple(self.empty),
            runs=tuple(self.runs),
            started=_iso(header.started),
            finished=_iso(done.at),
            version=header.version,
            format=header.format,
            fingerprint=header.fingerprint,
            totals=done.totals,
            options=done.options,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a finished output holds; the last file to be written.

    `sha256` is of the published file's bytes. `courses` counts them by outcome: fetched, refused,
    failed. Times are ISO 8601 in UTC.
    """

    output: str
    rows: int
    bytes: int
    sha256: str
    courses: Mapping[str, int]
    empty_courses: Sequence[str]
    """Fetched and without any row: a loader that replaces by course removes their old rows."""
    runs: Sequence[str]
    started: str
    finished: str
    version: str
    format: int
    fingerprint: Mapping[str, str]
    totals: Mapping[str, object]
    options: Mapping[str, object]


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON."""
    return orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def encode(frame: Frame) -> bytes:
    """Return the frame as a line."""
    body = {name: getattr(frame, name) for name in type(frame).__slots__}
    if isinstance(frame, Commit):
        body["failed"] = [tuple(asdict(course).values()) for course in frame.failed]
    text = orjson.dumps({_NAMES[type(frame)]: body})
    return b"%08x %b\n" % (crc32(text), text)


def decode(line: bytes) -> Frame:
    """Read one line; raises ValueError when it is not a whole good frame."""
    try:
        kind, body = _read(line.removesuffix(b"\n"))
        if kind == "commit":
            body["courses"] = [tuple(course) for course in body["courses"]]
            body["failed"] = [FailedCourse(*course) for course in body["failed"]]
        frame: Frame = _KINDS[kind](**body)
    except _MALFORMED as error:
        raise ValueError(f"not a frame: {line[:40]!r}") from error
    return frame


def frames(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """Yield the frames of the longest good prefix, one by one, in full."""
    for line in lines(chunks):
        try:
            yield decode(line)
        except ValueError:
            return


def replay(chunks: Iterable[bytes], *, every_state: bool = False) -> Ledger:
    """Add up the longest good prefix of a journal; never raises for what the bytes are.

    A million courses in commits of 32 take about a second.
    """
    ledger = Ledger()
    for line in lines(chunks):
        try:
            kind, body = _read(line)
            if kind == "commit":
                _replay_commit(ledger, body)
            else:
                _replay_other(ledger, _KINDS[kind](**body), every_state=every_state)
        except _MALFORMED:
            break
        ledger.size += len(line) + 1
        if ledger.header is None or ledger.header.format != FORMAT:
            break
    return ledger


def verified(
    ledger: Ledger, read: Callable[[int, int], bytes], update: Callable[[memoryview], object]
) -> Iterator[bool]:
    """Yield for each commit whether its data are what was committed.

    `read(length, offset)` is asked for large blocks in rising order; `update` gets every byte that
    was read for a commit, once, for a running digest.
    """
    block, base = memoryview(b""), 0
    for start, end, crc in ledger.commits():
        at, seen = start, 0
        while at < end:
            if not base <= at < base + len(block):
                block, base = memoryview(read(BLOCK, at)), at
                if not block:
                    break
            piece = block[at - base : end - base]
            seen = crc32(piece, seen)
            update(piece)
            at += len(piece)
        yield at == end and seen == crc


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield whole lines without their line feed; an unfinished last one is left out."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def _read(line: bytes) -> tuple[str, dict[str, Any]]:
    text = line[9:]
    if line[:9] != b"%08x " % crc32(text):
        raise ValueError("CRC")
    frame = orjson.loads(text)
    ((kind, body),) = frame.items()
    if kind == "header" and body["format"] != FORMAT:
        body = _foreign(body)
    return kind, body


def _foreign(header: dict[str, Any]) -> dict[str, Any]:
    # Another format promises no more than these two.
    version = str(header.get("version", "unknown"))
    number = int(header["format"])
    return {"run": "", "fingerprint": {}, "started": 0.0, "version": version, "format": number}


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _replay_commit(ledger: Ledger, body: dict[str, Any]) -> None:
    start, end, crc, at = body["start"], body["end"], body["crc"], body["at"]
    in_order = ledger.header and not ledger.done and start == ledger.end <= end
    if not in_order or not 0 <= crc < 1 << 32:
        raise ValueError("out of order")
    ids = [course[0] for course in body["courses"]]
    failed = [FailedCourse(*course) for course in body["failed"]]
    # A course that has its rows stays settled, whatever is said of it later.
    failed = [
        f for f in failed if f.course_id not in ledger.settled or f.course_id in ledger.failed
    ]
    ledger.count(body["courses"], failed)
    ledger.settled.update(ids)
    ledger.settled.update(course.course_id for course in failed if course.settled)
    ledger.ends.append(end)
    ledger.crcs.append(crc)
    ledger.places.append(ledger.size)
    ledger.end, ledger.updated = end, at


def _replay_other(
    ledger: Ledger, frame: Header | State | Resume | Done, *, every_state: bool
) -> None:
    if (ledger.header is None) is not isinstance(frame, Header):
        raise ValueError("out of order")
    match frame:
        case Header():
            ledger.header, ledger.updated = frame, frame.started
            ledger.runs.append(frame.run)
        case Resume():
            ledger.reopened = ledger.reopened or ledger.done is not None
            ledger.done, ledger.updated = None, frame.at
            ledger.runs.append(frame.run)
        case Done():
            ledger.done, ledger.updated = frame, frame.at
        case _:
            if not every_state:
                ledger.states.clear()
            ledger.states.append(frame.state)
