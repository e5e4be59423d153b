"""What an output holds, read without its lock: for `status`, `verify` and `report`.

Works while a run writes, for the good lines of a journal speak only of data already written; and
while it publishes, for what is seen between two renames is looked at once more.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson

from bulkfetch._domain.errors import OutputError
from bulkfetch._domain.text import printable
from bulkfetch._domain.wording import iso
from bulkfetch._output.file import is_held, locked
from bulkfetch._output.frames import BLOCK, READABLE, Done
from bulkfetch._output.layout import Layout, failures
from bulkfetch._output.ledger import Ledger, chosen, replay, verified
from bulkfetch._output.manifest import encode_manifest, make_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from bulkfetch._output.frames import Committed, FailedCourse, Frame

_NAMED: Final = 5
"""Courses named in one message; the others are counted."""
_BAD: Final = 20
"""Damaged commits that are told one by one; the others are counted."""
_SHOWN: Final = 100
"""Characters of a value of the manifest in one message."""
_SINCE_2: Final = frozenset({"limited", "partial"})
"""What the manifests of format 1 do not say."""
_LOOKS: Final = 5
_MOMENT: Final = 0.2
"""Seconds between two looks at an output that changes under them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What `verify` found: what is wrong, and why the output is not finished yet, if it is not."""

    ledger: Ledger
    problems: Sequence[str]
    unfinished: str | None

    @property
    def sound(self) -> bool:
        """Whether the published bytes are what the journal says, all of them."""
        return not self.problems and self.unfinished is None


def read_ledger(
    path: str | os.PathLike[str], watch: Callable[[Frame], object] = lambda _frame: None
) -> Ledger:
    """Add up the journal of the output `path`; `watch` sees each of its good frames.

    Raises OutputError when there is none, or none that this version can read.
    """
    layout = Layout.of(path)
    ledger = replay(_blocks(layout), watch)
    if ledger.header is None or ledger.header.format not in READABLE:
        raise OutputError(
            f"{layout.journal} does not begin like a journal of this version: "
            "it is damaged, or another version of bulkfetch wrote it"
        )
    return ledger


def read_failed(path: str | os.PathLike[str], ledger: Ledger) -> Iterator[FailedCourse]:
    """Return the courses without rows of the output `path`, whose ledger this is, one by one.

    The journal is opened at once: a run that begins later does not disturb them.
    """
    if not ledger.failures():
        return iter(())
    layout = Layout.of(path)
    with failures(f"open {layout.journal}"):
        file = Path(layout.journal).open("rb")  # noqa: SIM115 - closed by _to_the_end
    return _to_the_end(file, ledger.failed(_read(file, layout.journal)))


def _to_the_end(file: BinaryIO, found: Iterator[FailedCourse]) -> Iterator[FailedCourse]:
    with file:  # where no course failed, nothing is read of it
        yield from found


def read_commits(
    path: str | os.PathLike[str], ledger: Ledger
) -> Iterator[tuple[Committed, Iterator[bytes]]]:
    """Yield each commit of the output `path` with its bytes, for another output to adopt.

    `ledger` is what was read of it. The bytes are unchecked, and come until the next commit
    is asked for. Raises OutputError if the journal is another one by now.
    """
    layout, found = Layout.of(path), 0
    with open_data(layout) as file:
        for number, frame in chosen(ledger, _blocks(layout), lambda _number: True):
            failed = ledger.judged(frame, ledger.places[number])
            yield replace(frame, failed=failed), _slice(file, frame.start, frame.end)
            found += 1
    if found < len(ledger.ends):
        raise OutputError(f"{layout.journal} was changed while it was read: run this again")


def _slice(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    first = start
    while start < end:
        with failures(f"read {file.name}"):
            block = os.pread(file.fileno(), min(BLOCK, end - start), start)
        if not block:
            return
        yield block
        start += len(block)
    if start > first and hasattr(os, "posix_fadvise"):
        # Read once: the memory is better used for the copy, as it is where a container has little.
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, end, os.POSIX_FADV_DONTNEED)


def is_running(path: str | os.PathLike[str]) -> bool:
    """Whether a run works at the output `path` now."""
    require_file(Layout.of(path).journal)
    return is_held(Layout.of(path).journal)


def require_file(name: str) -> None:
    """Raise OutputError for what is there and no file: reading a FIFO would wait for ever."""
    if Path(name).exists() and not Path(name).is_file():
        what = "a folder" if Path(name).is_dir() else "no regular file"
        raise OutputError(f"{name} is {what}: move it away")


def require_idle(path: str | os.PathLike[str]) -> None:
    """Raise OutputLocked while a run works at the output `path`."""
    if is_running(path):
        raise locked(path)


@contextmanager
def open_data(layout: Layout) -> Iterator[BinaryIO]:
    """Open the file that holds the data; raises OutputError when there is none."""
    for name in layout.data:
        require_file(name)
        try:
            file = Path(name).open("rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            continue
        except OSError as error:
            with failures(f"open {name}"):
                raise error from None
        with file:
            yield file
        return
    raise OutputError(
        f"{layout.journal} is there, but neither {layout.part} nor {layout.output}: "
        "the data were moved away"
    )


def verify(path: str | os.PathLike[str]) -> Finding:
    """Check every committed byte of the output `path` against its journal and its manifest.

    An unfinished output is checked as far as it goes. Raises OutputError when there is no journal
    or no data to check.
    """
    layout = Layout.of(path)
    for left in reversed(range(_LOOKS)):
        before = _stamp(layout)
        try:
            found = _look(layout)
        except OutputError:
            if not left or _stamp(layout) == before:
                raise
        else:
            under_way = not found.problems and Path(layout.part).exists()
            if found.sound or under_way or not left or _stamp(layout) == before:
                return found
        time.sleep(_MOMENT)
    raise AssertionError("the last look returns or raises")


def _look(layout: Layout) -> Finding:
    finishes: list[Done] = []
    ledger = read_ledger(
        layout.output, lambda frame: finishes.append(frame) if isinstance(frame, Done) else None
    )
    require_file(layout.manifest)
    digest = sha256()
    with open_data(layout) as file, failures(f"read {file.name}"):
        answers = verified(
            ledger, lambda size, at: os.pread(file.fileno(), size, at), digest.update
        )
        bad = bytearray(not good for good in answers)
        why = _unfinished(layout, ledger, file, finishes)
        problems = [
            *_journal_problems(layout, ledger),
            *_data_problems(layout, ledger, file, bad),
        ]
        if not why:
            # What the data were is for their own problems to say, and no manifest mends them.
            mend = "" if any(bad) else ": move it away, and the same command writes it anew"
            told = _manifest_problems(layout, ledger, digest.hexdigest())
            problems += [problem + mend for problem in told]
    return Finding(ledger, problems, why)


def _unfinished(
    layout: Layout, ledger: Ledger, file: BinaryIO, finishes: Sequence[Done]
) -> str | None:
    """Say why an output is not finished; None when it is."""
    running = is_held(layout.journal)
    then = "a run is at work" if running else "run the same command again"
    if not ledger.last_done:
        return f"not finished yet: {then}"
    if file.name == layout.part:
        return f"{'complete but not published' if ledger.done else 'not finished yet'}: {then}"
    if not Path(layout.manifest).exists():
        return f"published, but {layout.manifest} is missing: {then}"
    if _is_told_of(layout, finishes[:-1]) and not _is_told_of(layout, finishes[-1:]):
        return f"published, but {layout.manifest} is of an earlier run: {then}"
    return None


def _is_told_of(layout: Layout, finishes: Iterable[Done]) -> bool:
    """Whether the manifest was written at one of these finishes, a kill before the next."""
    with suppress(OSError, ValueError, AttributeError):
        found = orjson.loads(Path(layout.manifest).read_bytes())
        told = [found.get(name) for name in ("finished", "totals", "options")]
        return any(told == [iso(done.at), done.totals, done.options] for done in finishes)
    return False


def _stamp(layout: Layout) -> Sequence[object]:
    """Return what changes whenever a run writes or renames."""
    return [_identity(name) for name in (layout.journal, layout.part, layout.output)]


def _identity(name: str) -> object:
    try:
        info = Path(name).stat()
    except OSError:
        return None
    return info.st_ino, info.st_size


def _blocks(layout: Layout) -> Iterator[bytes]:
    require_file(layout.journal)
    with failures(f"open {layout.journal}"):
        file = Path(layout.journal).open("rb")  # noqa: SIM115 - closed by _read
    yield from _read(file, layout.journal)


def _read(file: BinaryIO, name: str) -> Iterator[bytes]:
    with file, failures(f"read {name}"):
        while block := file.read(BLOCK):
            yield block


def _journal_problems(layout: Layout, ledger: Ledger) -> Iterator[str]:
    if not _goes_on(layout, ledger):
        yield (
            f"{layout.journal} is damaged from byte {ledger.size} on: "
            "the same command fetches again what it no longer knows"
        )
    if twice := ledger.twice(_blocks(layout)):
        yield f"committed twice: {_named(twice)}"


def _goes_on(layout: Layout, ledger: Ledger) -> bool:
    """Whether what follows the good lines is only a line being written, or one written since."""
    with failures(f"read {layout.journal}"), Path(layout.journal).open("rb") as file:
        file.seek(ledger.size)
        line = file.readline()
    return not line.endswith(b"\n") or replay(_blocks(layout)).size > ledger.size


def _data_problems(layout: Layout, ledger: Ledger, file: BinaryIO, bad: bytearray) -> Iterator[str]:
    if any(bad):
        commits = chosen(ledger, _blocks(layout), bad.__getitem__)
        for _, commit in islice(commits, _BAD):
            yield (
                f"{file.name} is not what was committed in bytes {commit.start} to {commit.end}: "
                f"{_named([course[0] for course in commit.courses])}"
            )
    if (more := sum(bad) - _BAD) > 0:
        yield f"{file.name} is not what was committed in {more} more places"
    size = os.fstat(file.fileno()).st_size
    if file.name == layout.output and size > ledger.end:
        yield f"{file.name} has {size - ledger.end} bytes more than its journal, from {ledger.end}"


def _manifest_problems(layout: Layout, ledger: Ledger, digest: str) -> Iterator[str]:
    try:
        found: dict[str, object] = dict(orjson.loads(Path(layout.manifest).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        yield f"{layout.manifest} cannot be read ({type(error).__name__})"
        return
    known = _known_manifest(ledger, digest, found)
    if lacking := [name for name in known if name not in found]:
        yield f"{layout.manifest} lacks {', '.join(lacking)}"
    for name, value in known.items():
        if name in found and found[name] != value:
            place, told, journal = _difference(name, found[name], value)
            yield (
                f"{layout.manifest} says {place} {printable(str(told), _SHOWN)}, "
                f"but it is {printable(str(journal), _SHOWN)}"
            )


def _known_manifest(ledger: Ledger, digest: str, found: Mapping[str, object]) -> dict[str, Any]:
    """Return what the manifest `found` must say, but for the name, which a copy may change."""
    known: dict[str, Any] = orjson.loads(encode_manifest(make_manifest(ledger, "", digest)))
    del known["output"]
    told = found.get("courses")
    if not _counts_are_of_today(ledger) and isinstance(told, dict):
        known["courses"] |= {name: told.get(name) for name in ("refused", "failed")}
    assert ledger.header
    if found.get("format") == 1 and (ledger.header.format == 1 or ledger.header.older):
        known["format"] = 1  # a later version took the journal over, and has not finished it yet
        for name in _SINCE_2 - found.keys():
            del known[name]
    return known


def _difference(name: str, told: object, known: object) -> tuple[str, object, object]:
    """Say where two values of a manifest begin to differ."""
    if isinstance(told, dict) and isinstance(known, dict):
        both = [(key, told.get(key), known.get(key)) for key in sorted({*told, *known})]
        return next((f"{name}.{key}", one, other) for key, one, other in both if one != other)
    if isinstance(told, list) and isinstance(known, list):
        pairs = enumerate(zip_longest(told, known, fillvalue="nothing"))
        return next((f"{name}[{at}]", *pair) for at, pair in pairs if pair[0] != pair[1])
    return name, told, known


def _counts_are_of_today(ledger: Ledger) -> bool:
    """Whether the manifest must count failures as the journal does.

    Those of later runs in vain are newer than it, and those of format 1 count anew.
    """
    header = ledger.header
    return ledger.done is not None and header is not None and header.format > 1 > header.older


def _named(courses: Iterable[str]) -> str:
    ids = list(courses)
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"courses {', '.join(ids[:_NAMED])}{more}" if ids else "no course"
