"""Parts of one run joined to one output, without asking any server again.

A part's commits become commits of the whole, with their bytes as they are: gzip and zstd members
are joined, not made anew, and every checksum is looked at on the way. A merge that was killed goes
on with the same command: what was taken over is known by what its commit says.
"""

from __future__ import annotations

import os
import uuid
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulkfetch._config.setting import parse_shard
from bulkfetch._domain.compression import compression
from bulkfetch._domain.errors import ConfigurationError, OutputError
from bulkfetch._domain.wording import counted
from bulkfetch._engine.tally import joined_latencies, joined_totals
from bulkfetch._ids.source import shard_of
from bulkfetch._output.frames import Adopted, Committed, Header
from bulkfetch._output.guard import are_one
from bulkfetch._output.inspect import read_commits, read_ledger, require_idle
from bulkfetch._output.journaled import JournaledFile
from bulkfetch._output.layout import Layout
from bulkfetch._output.manifest import partial_of
from bulkfetch._output.parts import Seen, find_parts, joined, remove_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from bulkfetch._config.options import Durability
    from bulkfetch._output.frames import Frame
    from bulkfetch._output.ledger import Ledger
    from bulkfetch._output.manifest import Manifest

    Paths: TypeAlias = "Iterable[str | os.PathLike[str]]"

_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Piece:
    """A part as its journal tells it."""

    path: str
    number: int
    of: int
    ledger: Ledger
    pure: bool
    """Whether each course with rows is in it once, and falls into this shard."""

    @property
    def marks(self) -> dict[str, str]:
        """What its bytes depend on, and those of the other parts likewise."""
        assert self.ledger.header
        return {k: v for k, v in self.ledger.header.fingerprint.items() if k != "shard"}

    @property
    def held(self) -> bool:
        """Whether it settled anything; what only failed is asked for again in any case."""
        counts = self.ledger.outcomes()
        return bool(counts["fetched"] or counts["refused"])


def merge(
    parts: Paths,
    output: str | os.PathLike[str],
    *,
    partial: bool = False,
    durability: Durability = "batch",
) -> Manifest:
    """Join the parts of one run to `output`, an ordinary output in every respect.

    The parts are outputs of `fetch --shard i/n`; they stay as they are, but for those in
    `OUTPUT.parts/`, which are removed once they are joined. `partial` joins what there is: parts
    that are not finished, or not all of them. Courses keep the order in which they were fetched,
    part by part. Killed, or done, the same call goes on. Raises ConfigurationError for parts that
    do not go together and for an `output` that was fetched by itself, OutputError for damaged ones
    and for a course that is in two, OutputLocked while a run works at one of them or at `output`.
    """
    paths = [str(Path(path)) for path in parts]
    if ledger := _joined_before(paths, output, partial=partial):
        assert ledger.header
        pieces, marks = [], ledger.header.fingerprint
    else:
        pieces = sorted(map(read_piece, paths), key=lambda piece: piece.number)
        _check(pieces, os.fspath(output), partial=partial)
        marks = pieces[0].marks
    with closing(open_whole(output, marks, pieces, durability=durability)) as sink:
        whole = sink.open()
        take_over(sink, pieces, Seen.of(output))
        lacking = _partial(pieces) if partial and pieces else {}
        if pieces and whole.done and partial_of(whole.done) != lacking.get("partial"):
            sink.take_up()
        manifest = finish(sink, pieces, {"parts": len(pieces), "partial": partial}, lacking)
        joined_ones = set(map(os.path.realpath, paths))
        if joined_ones >= {os.path.realpath(part.output) for part in find_parts(output)}:
            remove_parts(Layout.of(output))
        return manifest


def _joined_before(
    paths: Sequence[str], output: str | os.PathLike[str], *, partial: bool
) -> Ledger | None:
    """Return the whole's ledger if an earlier call joined all these parts and removed some.

    Only parts in the output's own folder are removed. A whole that was finished by a merge, of all
    parts or as `partial` ones, and that lacks no commit of those which are left, held the others.
    """
    gone = {path for path in paths if not Path(Layout.of(path).journal).exists()}
    folders = {os.path.realpath(Path(path).parent) for path in gone}
    layout = Layout.of(output)
    if folders != {os.path.realpath(layout.parts)} or not Path(layout.journal).exists():
        return None
    seen = Seen()
    ledger = read_ledger(output, seen.add)
    options = ledger.done.options if ledger.done else {}
    whole = "shards" in options or options.get("partial") in (False, partial)
    return ledger if whole and all(_is_in(seen, path) for path in {*paths} - gone) else None


def _is_in(seen: Seen, path: str) -> bool:
    """Whether each commit of a part is among those seen."""
    missing: list[Frame] = []

    def look(frame: Frame) -> None:
        if isinstance(frame, Committed) and frame not in seen:
            missing.append(frame)

    read_ledger(path, look)
    return not missing


def open_whole(
    output: str | os.PathLike[str],
    marks: Mapping[str, str],
    pieces: Sequence[Piece] = (),
    *,
    durability: Durability = "batch",
    overwrite: bool = False,
) -> JournaledFile:
    """Return the output that parts are joined to, not opened yet."""
    begun = [piece.ledger.header.started for piece in pieces if piece.ledger.header]
    return JournaledFile(
        output,
        fingerprint=marks,
        run_id=uuid.uuid4().hex,
        durability=durability,
        overwrite=overwrite,
        version=version("bulkfetch"),
        started=min(begun, default=None),
    )


def take_over(sink: JournaledFile, pieces: Sequence[Piece], seen: Seen) -> None:
    """Take over each commit that the open `sink` does not hold, as those `seen`, which grow."""
    # Parts of one cut have no course in common, so those of a new output need no looking up.
    cuts, numbers = {piece.of for piece in pieces}, {piece.number for piece in pieces}
    one_cut = len(cuts) == 1 and len(numbers) == len(pieces)
    apart = sink.new and one_cut and all(piece.pure for piece in pieces)
    for piece in pieces:
        if not piece.ledger.ends:
            continue  # which may have no data either
        for frame, blocks in read_commits(piece.path, piece.ledger):
            if frame not in seen:
                sink.adopt(frame, blocks, piece.ledger.runs, apart=apart)
                seen.add(frame)
    sink.commit()


def finish(
    sink: JournaledFile,
    pieces: Sequence[Piece],
    options: Mapping[str, object],
    lacking: Mapping[str, object] | None = None,
) -> Manifest:
    """Publish the whole; what its parts' runs counted is added up, `lacking` told beside it."""
    states = [piece.ledger.state for piece in pieces if piece.ledger.state]
    latencies = joined_latencies(str(one["latencies"]) for one in states if "latencies" in one)
    if states:
        sink.note(joined(states) | latencies)
    done = [piece.ledger.done for piece in pieces if piece.ledger.done]
    totals = joined_totals([one.totals for one in done], seconds=_seconds(pieces))
    quantiles = {name: value for name, value in latencies.items() if name in totals}
    settings = {**(done[0].options if done else {}), **options, "shard": None}
    return sink.finish({**totals, **quantiles, **(lacking or {})}, settings)


def _partial(pieces: Sequence[Piece]) -> dict[str, object]:
    """Return what a total says of parts that lack, or are not finished; nothing if none."""
    unfinished = sum(piece.ledger.done is None for piece in pieces)
    found = {"parts": len(pieces), "of": pieces[0].of, "unfinished": unfinished}
    return {"partial": found} if unfinished or found["parts"] < found["of"] else {}


def _seconds(pieces: Iterable[Piece]) -> float:
    """Return how long the parts took, from the first one's beginning to the last one's end."""
    ledgers = [piece.ledger for piece in pieces]
    begun = [ledger.header.started for ledger in ledgers if ledger.header]
    return max(ledger.updated for ledger in ledgers) - min(begun) if ledgers else 0.0


def read_piece(path: str | os.PathLike[str]) -> Piece:
    """Look at a part; raises ConfigurationError when it is none."""
    path = str(Path(path))
    journal = Layout.of(path).journal
    if not Path(journal).exists():
        raise ConfigurationError(
            f"{path} is no part: there is no {journal}; name what was given to fetch -o"
        )
    shard: tuple[int, int] | None = None
    pure = True

    def look(frame: Frame) -> None:
        nonlocal shard, pure
        if isinstance(frame, Header):
            said = frame.shard or frame.fingerprint.get("shard")
            shard = parse_shard(said) if said else None
        elif isinstance(frame, Committed) and shard:
            number, of = shard
            pure = pure and all(shard_of(course[0], of) == number for course in frame.courses)

    ledger = read_ledger(path, look)
    if shard is None:
        raise ConfigurationError(
            f"{path} is no part: it was fetched without --shard i/n, and is whole by itself"
        )
    return Piece(path, *shard, ledger, pure and not ledger.doubled)


def _check(pieces: Sequence[Piece], output: str, *, partial: bool) -> None:
    """Raise ConfigurationError for parts that do not make one output, OutputLocked at work."""
    if not pieces:
        raise ConfigurationError("there is no part to merge: name the outputs of the shards")
    for piece in pieces:
        require_idle(piece.path)
    first = pieces[0]
    for problem in (
        *_strangers(first, pieces, output),
        *_twice(pieces),
        *(() if partial else _lacking(first, pieces)),
        *_fetched_apart(pieces, output),
    ):
        raise ConfigurationError(problem)


def _strangers(first: Piece, pieces: Sequence[Piece], output: str) -> Iterator[str]:
    for piece in pieces:
        if are_one(piece.path, output):
            yield f"{output} is a part itself: name another output"
        if compression(piece.path) != compression(output):
            yield (
                f"{piece.path} and {output} are not compressed alike: parts are joined as they "
                "are, so give the output the parts' suffix"
            )
        if piece.of != first.of:
            yield (
                f"{first.path} is shard {first.number} of {first.of}, {piece.path} is "
                f"{piece.number} of {piece.of}: merge the parts of one run"
            )
        for name, value in first.marks.items():
            if piece.marks.get(name) != value:
                yield (
                    f"{first.path} was fetched with {name} {value!r}, {piece.path} with "
                    f"{piece.marks.get(name)!r}: merge the parts of one run"
                )


def _fetched_apart(pieces: Sequence[Piece], output: str) -> Iterator[str]:
    """Say that a run by itself fetched the output: it has nothing to do with parts elsewhere.

    Those in its own folder are of a run that went on in shards, whatever was there before.
    """
    layout = Layout.of(output)
    own = os.path.realpath(layout.parts)
    if all(os.path.realpath(Path(piece.path).parent) == own for piece in pieces):
        return
    frames: set[type[Frame]] = set()
    try:
        ledger = read_ledger(output, lambda frame: frames.add(type(frame)))
    except OutputError:
        return  # there is none, or one of which whoever opens it says what is wrong
    options = ledger.last_done.options if ledger.last_done else {}
    if ledger.asked and Adopted not in frames and not options.keys() & {"parts", "shards"}:
        yield (
            f"{output} is no earlier merge: it was fetched by itself and holds "
            f"{counted(ledger.fetched, 'course')}; give the parts a new output with -o"
        )


def _twice(pieces: Sequence[Piece]) -> Iterator[str]:
    known: dict[int, str] = {}
    for piece in pieces:
        if other := known.get(piece.number):
            yield (
                f"{other} and {piece.path} are both shard {piece.number}/{piece.of}: "
                "leave one of them out"
            )
        known[piece.number] = piece.path


def _lacking(first: Piece, pieces: Sequence[Piece]) -> Iterator[str]:
    missing = sorted({*range(first.of)} - {piece.number for piece in pieces})
    if missing:
        named = ", ".join(f"{number}/{first.of}" for number in missing[:_NAMED])
        more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
        yield (
            f"{counted(len(missing), 'part')} missing ({named}{more}): "
            "name them, too, or join what there is with --partial"
        )
    for piece in pieces:
        if piece.ledger.done is None:
            yield (
                f"{piece.path} is not finished: run its command again, or join what there is "
                "with --partial"
            )
