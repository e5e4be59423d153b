"""A job as shards: planned once, each run anywhere as an export of its own, joined at the end.

Whatever runs functions runs these: all that goes in and out can be pickled, and holds no secret;
who runs a shard brings its own token. What an earlier run left in parts of another cut is joined to
the whole first, so that nothing is fetched twice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from bulkfetch._config.checks import TOKEN_SOURCES
from bulkfetch._config.options import Options
from bulkfetch._config.sources import choose
from bulkfetch._domain.errors import ConfigurationError
from bulkfetch._domain.hooks import Hooks
from bulkfetch._engine.export import export, fingerprint
from bulkfetch._ids.reader import open_ids
from bulkfetch._ids.source import shard_of
from bulkfetch._output.guard import new_file
from bulkfetch._output.inspect import read_ledger, require_idle
from bulkfetch._output.layout import Layout
from bulkfetch._output.ledger import Ledger
from bulkfetch._output.parts import Seen, find_parts, remove_part, remove_rests
from bulkfetch._scale.merge import Piece, open_whole, read_piece, take_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterator, Mapping, Sequence

    from bulkfetch._engine.export import Monitor
    from bulkfetch._engine.tally import Summary
    from bulkfetch._output.journaled import JournaledFile
    from bulkfetch._pace.limiter import Limiter

MOST: Final = 10_000
SECRETS: Final = ("token", "token_command", "client_secret", "proxy_password")
"""Settings that stay where they are; a shard takes them where it runs."""
COLUMN: Final = "contentItemId"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One of the shards of a job: plain values, to be sent to whoever runs it."""

    number: int
    of: int
    ids: str
    """The list of all ids, a file that whoever runs the shard can read."""
    id_column: str | None
    whole: str
    """The output that all shards make together."""
    output: str
    """The shard's own: a part of it."""
    settings: Mapping[str, Any]
    controls: tuple[str, ...] = ()
    """Courses that other shards fetched: proof that the service works, for a shard of bad ones."""


def plan(
    ids: str | os.PathLike[str] | Iterable[str],
    output: str | os.PathLike[str],
    options: Options,
    shards: int,
    *,
    id_column: str | None = None,
) -> list[Shard]:
    """Cut a job into `shards` shards, to be run in any order, at any time, and merged to `output`.

    `ids` is a list's file, or the ids, which are written to `OUTPUT.parts/ids`. All paths must be
    the same wherever a shard runs. `options` are those of each shard: its `rate` and `concurrency`
    are a shard's own. What finished shards of another cut hold is joined to `output` first.

    Raises ConfigurationError for what cannot be cut, OutputLocked while a run works at `output`.
    """
    check_cut(output, options, shards)
    layout = Layout.of(Path(output).absolute())
    with closing(open_whole(layout.output, fingerprint(options))) as sink:
        sink.open()
        absorb(sink, layout, shards, fingerprint(options))
    if not isinstance(ids, str | os.PathLike):
        ids, id_column = spool(ids, layout), COLUMN
    return cut(os.fspath(ids), layout, options, shards, id_column=id_column)


def run_shard(
    shard: Shard,
    *,
    hooks: Hooks = Hooks(),  # noqa: B008 - frozen
    monitor: Monitor | None = None,
) -> Summary:
    """Fetch a shard's courses into its part; what an earlier try committed is kept.

    Blocks until it is done. The token is taken from the environment, the file or the command of
    this process. Raises RunError when the shard ends early, as `export` does; called again, here
    or elsewhere, it goes on. OutputLocked says that somebody else runs the same shard just now.
    """
    return asyncio.run(export_shard(shard, hooks=hooks, monitor=monitor))


async def export_shard(
    shard: Shard,
    *,
    limiter: Limiter | None = None,
    hooks: Hooks = Hooks(),  # noqa: B008 - frozen
    monitor: Monitor | None = None,
) -> Summary:
    """Do what `run_shard` does, in a running event loop."""
    options = options_of(shard)
    # In threads: a long journal or list must not keep a worker from saying that it is there.
    ledger = await asyncio.to_thread(_held_by, shard.whole)
    ids = await asyncio.to_thread(_ids_of, shard)
    Path(shard.output).parent.mkdir(mode=0o700, exist_ok=True)
    return await export(
        ids,
        shard.output,
        options,
        settled=ledger.settled,
        controls=shard.controls or ledger.controls,
        limiter=limiter,
        hooks=hooks,
        monitor=monitor,
    )


def check_cut(output: str | os.PathLike[str], options: Options, shards: int) -> None:
    """Raise ConfigurationError for a job that cannot be cut into so many shards."""
    if not 1 <= shards <= MOST:
        raise ConfigurationError(f"shards is {shards}: there can be 1 to {MOST:,} of them")
    if os.fspath(output) == "-":
        raise ConfigurationError("shards write files that are joined: name an output, -o OUT")
    if options.ordered:
        raise ConfigurationError(
            "ordered does not go with shards: their parts are joined commit by commit as they "
            "are, and a commit holds courses from all over the list; leave one of them out"
        )
    for name in ("limit", "shard"):
        if getattr(options, name) is not None:
            raise ConfigurationError(f"{name} does not go with shards: leave one of them out")


def cut(
    ids: str,
    layout: Layout,
    options: Options,
    shards: int,
    *,
    id_column: str | None,
) -> list[Shard]:
    """Return the shards of a job; touches nothing."""
    settings = {
        item.name: str(value) if isinstance(value, Path) else value
        for item in fields(options)
        if item.name not in SECRETS and (value := getattr(options, item.name)) is not None
    }
    return [
        Shard(
            number=number,
            of=shards,
            ids=str(Path(ids).absolute()),
            id_column=id_column,
            whole=layout.output,
            output=layout.shard(number, shards).output,
            settings=settings | {"shard": (number, shards)},
        )
        for number in range(shards)
    ]


def with_ids(jobs: Sequence[Shard]) -> list[Shard]:
    """Return the shards that some id falls into; the first one, if there is no id."""
    wanted, count = set(range(len(jobs))), len(jobs)
    for course_id in _ids_of(jobs[0]):
        wanted.discard(shard_of(course_id, count))
        if not wanted:
            break
    return [job for job in jobs if job.number not in wanted] or [jobs[0]]


def _ids_of(shard: Shard) -> Iterable[str]:
    ids = open_ids(shard.ids, shard.id_column)
    if not isinstance(ids, Iterable):
        raise ConfigurationError(f"{shard.ids} can be read only once: name a file")
    return ids


def options_of(shard: Shard) -> Options:
    """Return a shard's options, with the secrets of this process; raises ConfigurationError."""
    return with_secrets(shard.settings)


def with_secrets(settings: Mapping[str, Any]) -> Options:
    """Complete settings by what is secret here: in the environment, or in a file that it names."""
    chosen = choose({}, environment=os.environ)
    names = {"client_secret", "proxy_password"}
    if not {"token_file", "token_url"} & settings.keys():  # else who planned has said where from
        names |= {*TOKEN_SOURCES, "client_id"}
    mine = {name: chosen[name].value for name in names if name in chosen}
    values: dict[str, Any] = {name: value for name, value in mine.items() if value is not None}
    return Options(**{**settings, **values})


def _held_by(whole: str) -> Ledger:
    """Return what is known of the whole already, made to be asked for each id."""
    ledger = read_ledger(whole) if Path(Layout.of(whole).journal).exists() else Ledger()
    ledger.go_live()
    return ledger


def absorb(sink: JournaledFile, layout: Layout, keep: int | None, marks: Mapping[str, str]) -> None:
    """Join what parts of another cut than into `keep` hold to the open whole, and remove them.

    Raises ConfigurationError for any part of another run than one with these marks, OutputLocked
    while a run is at work on one that would be joined. Nothing was joined then.
    """
    remove_rests(layout)
    pieces = [read_piece(part.output) for part in find_parts(layout.output)]
    _check_marks(pieces, marks)
    others = [piece for piece in pieces if piece.of != keep]
    for piece in others:
        require_idle(piece.path)
    seen = Seen.of(layout.output) if others else Seen()
    for piece in others:
        if piece.held:
            take_over(sink, [piece], seen)
        remove_part(Layout.of(piece.path))


def _check_marks(pieces: Iterable[Piece], marks: Mapping[str, str]) -> None:
    for piece in pieces:
        for name, value in piece.marks.items():
            if piece.held and value != marks.get(name):
                raise ConfigurationError(
                    f"{piece.path} was begun with {name} {value!r}, this run has "
                    f"{marks.get(name)!r}: choose another output, or replace this one with "
                    "--overwrite"
                )


def spool(ids: Iterable[str], layout: Layout) -> str:
    """Write ids where every shard can read them; returns the file's name."""
    Path(layout.parts).mkdir(mode=0o700, exist_ok=True)
    with new_file(layout.spooled_ids) as write:
        write(_lines(ids))
    return layout.spooled_ids


async def spool_piped(ids: AsyncIterable[str], layout: Layout) -> str:
    """Write ids that come bit by bit where every shard can read them; the folder is there."""
    with new_file(layout.spooled_ids) as write:
        async for course_id in ids:
            write(_lines([course_id]))
    return layout.spooled_ids


def _lines(ids: Iterable[str]) -> Iterator[bytes]:
    for course_id in ids:
        yield orjson.dumps({COLUMN: course_id}, option=orjson.OPT_APPEND_NEWLINE)
