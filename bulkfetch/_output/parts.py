"""A run in parts: the outputs of its shards in `OUT.parts/`, found, and read as the one they make.

What the whole holds already and what its parts hold add up to one ledger, as a merge would leave
it. A commit that was merged just before a kill, and is still in its part, counts once. A part that
is removed loses its journal's name first: no kill leaves one that is there by half.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bulkfetch._output.frames import Committed, Pause, Resume, Snapshot
from bulkfetch._output.inspect import read_failed, read_ledger, require_idle
from bulkfetch._output.layout import Layout, failures
from bulkfetch._output.ledger import Ledger, add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from bulkfetch._output.frames import FailedCourse, Frame

_ADDED: Final = (
    *("settled", "courses", "fetched", "failed", "refused", "rows", "requests", "retries"),
    *("failed_requests", "throttled", "limit", "under_way"),
)
"""Numbers of a state that add up over the parts of a run."""
_GREATEST: Final = ("at", "seconds", "latency_p50", "latency_p90", "latency_p99")
"""Of latencies the slowest part's, which is what a run waits for."""


@dataclass(frozen=True, slots=True)
class Part:
    """A shard's output."""

    number: int
    of: int
    output: str


def find_parts(path: str | os.PathLike[str]) -> list[Part]:
    """Return the parts of the output `path` that were begun, by number."""
    found = [part for part in _named(path, ".journal") if _begun(f"{part.output}.journal")]
    return sorted(found, key=lambda part: (part.of, part.number))


def any_part(path: str | os.PathLike[str]) -> bool:
    """Whether the output `path` has parts, or there is left what a kill kept from removal."""
    return bool(find_parts(path) or _named(path, ".gone"))


def _named(path: str | os.PathLike[str], suffix: str | None = None) -> set[Part]:
    """Return the parts of which there is any file, or the one with this suffix."""
    layout = Layout.of(path)
    start = re.compile(rf"(\d{{1,5}})-of-(\d{{1,5}})-{re.escape(Path(layout.output).name)}")
    found: set[Part] = set()
    with failures(f"look into {layout.parts}"):
        try:
            names = [str(name) for name in Path(layout.parts).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return found
    for name in names:
        if match := start.match(Path(name).name):
            shard = layout.shard(number := int(match[1]), of := int(match[2]))
            if name in ([shard.output + suffix] if suffix else shard.of_a_part):
                found.add(Part(number, of, shard.output))
    return found


def _begun(journal: str) -> bool:
    """Whether there is something in a journal; an empty one is just about to begin."""
    try:
        return Path(journal).stat().st_size > 0
    except FileNotFoundError:
        return False


def remove_part(layout: Layout) -> None:
    """Remove a part; killed on the way, `remove_rests` goes on."""
    with failures(f"remove {layout.output}"):
        with suppress(FileNotFoundError):
            Path(layout.journal).rename(layout.gone)
        _remove(*layout.of_a_part)


def remove_rests(layout: Layout) -> None:
    """Remove what a kill left of parts that were being removed."""
    for part in _named(layout.output, ".gone"):
        rest = Layout.of(part.output)
        if Path(rest.journal).exists():  # begun anew since: only the old journal is left over
            _remove(rest.gone)
        else:
            remove_part(rest)


def remove_parts(layout: Layout) -> None:
    """Remove all parts that were begun, and what else belongs to a run in parts."""
    remove_rests(layout)
    for part in find_parts(layout.output):
        remove_part(Layout.of(part.output))
    _remove(layout.spooled_ids, layout.sharing)
    folder = Path(layout.parts)
    with failures(f"remove {folder}"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def replace_parts(layout: Layout) -> None:
    """Remove all parts for an output that is begun anew, explained by a journal or not.

    Raises OutputLocked, with nothing removed, while a run is at work on one of them.
    """
    parts = _named(layout.output)
    for part in parts:
        if Path(Layout.of(part.output).journal).exists():
            require_idle(part.output)
    for part in parts:
        remove_part(Layout.of(part.output))
    remove_parts(layout)


def _remove(*names: str) -> None:
    for name in names:
        Path(name).unlink(missing_ok=True)


def read_whole(
    path: str | os.PathLike[str], watch: Callable[[Frame], object] = lambda _frame: None
) -> Ledger:
    """Add up the journals of the output `path` and of its parts, as `read_ledger` does for one."""
    parts = find_parts(path)
    states: list[Mapping[str, Any]] = []
    seen = Seen()

    def look(frame: Frame) -> None:
        seen.add(frame)
        watch(frame)

    ledger = read_ledger(path, look if parts else watch)
    if parts and ledger.done and ledger.header:
        _take(ledger, Resume(ledger.header.run, ledger.updated), watch)
    for part in parts:
        held = _add_part(ledger, part, seen, watch)
        states += [held.state] if held.state else []
        ledger.stop = held.stop or ledger.stop
    if states:
        _take(ledger, Snapshot(joined(states)), watch)
    return ledger


def failed_of_whole(path: str | os.PathLike[str], ledger: Ledger) -> Iterator[FailedCourse]:
    """Return the courses without rows of an output and its parts, whose common ledger this is."""
    parts = find_parts(path)
    return _failed(path, parts, ledger) if parts else read_failed(path, ledger)


def data_of_whole(
    path: str | os.PathLike[str], ledger: Ledger
) -> list[tuple[str | os.PathLike[str], int]]:
    """Return where the rows of an output and its parts are: each file and how many good bytes."""
    if not (parts := find_parts(path)):
        return [(path, ledger.end)]
    outputs = [path, *(part.output for part in parts)]
    return [(output, end) for output in outputs if (end := read_ledger(output).end)]


def _failed(
    path: str | os.PathLike[str], parts: Iterable[Part], ledger: Ledger
) -> Iterator[FailedCourse]:
    told: set[str] = set()
    for output in (*(part.output for part in parts), os.fspath(path)):
        for course in read_failed(output, read_ledger(output)):
            if not ledger.holds(course.course_id) and course.course_id not in told:
                told.add(course.course_id)
                yield course


def _waits_for_answers(waiting: str) -> bool:
    return waiting.startswith("for answers ")


def joined(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the last snapshots of runs that worked side by side as that of one."""
    states = list(states)
    whole: dict[str, Any] = {name: sum(one.get(name, 0) for one in states) for name in _ADDED}
    whole |= {name: max(one.get(name, 0) for one in states) for name in _GREATEST}
    totals = [one.get("total") for one in states]
    whole["total"] = sum(totals) if None not in totals else None
    whole["in_flight"] = tuple(name for one in states for name in one.get("in_flight", ()))
    # Only slow answers are the least that a shard may wait for.
    words = sorted((w for one in states if (w := one.get("waiting"))), key=_waits_for_answers)
    whole["waiting"] = words[0] if words else None
    for name in ("waited", "retries_by_kind"):
        counts: Counter[str] = Counter()
        for one in states:
            counts.update(one.get(name, {}))
        whole[name] = dict(counts)
    return whole


class Seen:
    """The commits of an output, to tell whether another's was taken over already."""

    def __init__(self) -> None:
        self._keys: set[int] = set()

    def add(self, frame: Frame) -> None:
        if isinstance(frame, Committed):
            self._keys.add(_key(frame))

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Seen:
        """Return those of the output `path`."""
        seen = cls()
        read_ledger(path, seen.add)
        return seen

    def __contains__(self, frame: Committed) -> bool:
        return _key(frame) in self._keys


def _key(frame: Committed) -> int:
    """Return what a commit keeps when it is taken over: all but its place."""
    failed = tuple((one.course_id, one.kind, one.attempts) for one in frame.failed)
    return hash((frame.end - frame.start, frame.crc, frame.at, tuple(frame.courses), failed))


def _add_part(ledger: Ledger, part: Part, seen: Seen, watch: Callable[[Frame], object]) -> Ledger:
    def take(frame: Frame) -> None:
        if isinstance(frame, Committed) and frame not in seen:
            moved = ledger.end + frame.end - frame.start
            _take(ledger, replace(frame, start=ledger.end, end=moved), watch)
        elif isinstance(frame, Pause):
            _take(ledger, frame, watch)

    return read_ledger(part.output, take)


def _take(ledger: Ledger, frame: Frame, watch: Callable[[Frame], object]) -> None:
    add(ledger, frame, 0)
    watch(frame)
