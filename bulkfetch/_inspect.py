"""What an output holds, read without its lock: for `status`, `verify` and `report`.

Works while a run writes, for the good lines of a journal speak only of data already written.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import orjson

from bulkfetch._errors import OutputError
from bulkfetch._journal import BLOCK, FORMAT, Commit, Ledger, frames, replay, verified
from bulkfetch._layout import Layout, failures

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bulkfetch._journal import Frame

_NAMED = 5
"""Courses named in one message; the others are counted."""


def read_ledger(path: str | os.PathLike[str], *, every_state: bool = False) -> Ledger:
    """Add up the journal of the output `path`.

    Raises OutputError when there is none, or none that this version can read.
    """
    layout = Layout.of(path)
    ledger = replay(_blocks(layout), every_state=every_state)
    if ledger.header is None or ledger.header.format != FORMAT:
        raise OutputError(
            f"{layout.journal} does not begin like a journal of this version: "
            "it is damaged, or another version of bulkfetch wrote it"
        )
    return ledger


def read_frames(path: str | os.PathLike[str]) -> Iterator[Frame]:
    """Yield the good frames of the journal of the output `path`, in full.

    Raises OutputError when there is none.
    """
    return frames(_blocks(Layout.of(path)))


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Check every committed byte of the output `path`; return what is wrong, empty if nothing is.

    An unfinished output is checked as far as it goes. Raises OutputError when there is no journal
    or no data to check.
    """
    layout = Layout.of(path)
    ledger = read_ledger(path)
    digest = sha256()
    with _data(layout) as file, failures(f"read {file.name}"):
        answers = verified(
            ledger, lambda size, at: os.pread(file.fileno(), size, at), digest.update
        )
        bad = [index for index, good in enumerate(answers) if not good]
        return [
            *_journal_problems(layout, ledger),
            *_data_problems(layout, ledger, file, bad),
            *(_manifest_problems(layout, ledger, digest.hexdigest()) if ledger.done else ()),
        ]


def _blocks(layout: Layout) -> Iterator[bytes]:
    with failures(f"read {layout.journal}"), Path(layout.journal).open("rb") as file:
        while block := file.read(BLOCK):
            yield block


@contextmanager
def _data(layout: Layout) -> Iterator[BinaryIO]:
    # A run may rename the one to the other just now.
    for name in (layout.part, layout.output, layout.part):
        if Path(name).exists():
            with failures(f"open {name}"):
                file = Path(name).open("rb")  # noqa: SIM115 - closed below
            with file:
                yield file
            return
    raise OutputError(
        f"{layout.journal} is there, but neither {layout.part} nor {layout.output}: "
        "the data were moved away"
    )


def _journal_problems(layout: Layout, ledger: Ledger) -> Iterator[str]:
    if not _goes_on(layout, ledger):
        yield (
            f"{layout.journal} is damaged from byte {ledger.size} on: "
            "the same command fetches again what it no longer knows"
        )
    seen: set[str] = set()
    for commit in _commits(layout):
        ids = [course[0] for course in commit.courses]
        if repeated := [course_id for course_id in ids if course_id in seen]:
            yield f"committed twice: {_named(repeated)}"
        seen.update(ids)


def _goes_on(layout: Layout, ledger: Ledger) -> bool:
    """Whether what follows the good lines is only a line being written, or one written since."""
    with failures(f"read {layout.journal}"), Path(layout.journal).open("rb") as file:
        file.seek(ledger.size)
        line = file.readline()
    return not line.endswith(b"\n") or replay(_blocks(layout)).size > ledger.size


def _data_problems(
    layout: Layout, ledger: Ledger, file: BinaryIO, bad: Sequence[int]
) -> Iterator[str]:
    wrong = set(bad)
    for index, commit in enumerate(_commits(layout)):
        if index in wrong:
            courses = _named([course[0] for course in commit.courses])
            yield (
                f"{file.name} is not what was committed in bytes {commit.start} to {commit.end}: "
                f"{courses}"
            )
    size = os.fstat(file.fileno()).st_size
    if file.name == layout.output and size > ledger.end:
        yield f"{file.name} has {size - ledger.end} bytes more than its journal, from {ledger.end}"
    if ledger.done and file.name == layout.part:
        yield f"{file.name} is complete but not published: run the same command again"


def _manifest_problems(layout: Layout, ledger: Ledger, digest: str) -> Iterator[str]:
    try:
        found = orjson.loads(Path(layout.manifest).read_bytes())
        told = {name: found[name] for name in ("rows", "bytes", "courses", "sha256")}
    except (OSError, ValueError, TypeError, KeyError) as error:
        yield f"{layout.manifest} is missing or cannot be read: {type(error).__name__}"
        return
    known = ledger.manifest("", digest)
    for name, value in told.items():
        if value != getattr(known, name):
            yield f"{layout.manifest} says {name} {value}, but it is {getattr(known, name)}"


def _commits(layout: Layout) -> Iterator[Commit]:
    return (frame for frame in frames(_blocks(layout)) if isinstance(frame, Commit))


def _named(courses: Iterable[str]) -> str:
    ids = list(courses)
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"courses {', '.join(ids[:_NAMED])}{more}" if ids else "no course"
