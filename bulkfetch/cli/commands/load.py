"""`load`: a finished output into a table, again and again, without doubling and without ghosts."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

import click

from bulkfetch.cli.flags import command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bulkfetch._load.load import Loaded
    from bulkfetch.cli.voice import Voice

_NAMED: Final = 5
"""Courses named in the closing line; the others are counted."""


@command("load")
@click.argument("output", metavar="OUT")
@click.option(
    "--to",
    metavar="TARGET",
    required=True,
    help="duckdb:FILE, parquet:FILE or postgresql://USER@HOST/DATABASE.",
)
@click.option("--table", metavar="NAME", help="The table, as NAME or SCHEMA.NAME.  [statuses]")
@click.option("--force", is_flag=True, help="Load OUT though it is older, or the same once more.")
@click.option(
    "--drop-unknown",
    is_flag=True,
    help="Delete the rows of courses that the server no longer knows.",
)
def load(
    voice: Voice, *, output: str, to: str, table: str | None, force: bool, drop_unknown: bool
) -> int:
    """Put a finished OUT into a table: every course that it fetched is replaced as a whole.

    One transaction; courses that failed keep their rows. The table NAME_loads tells what was loaded
    when. PostgreSQL's password comes from PGPASSWORD, PGPASSFILE or a service file.
    """
    from bulkfetch._load.load import load as load_output

    logging.getLogger("psycopg").addHandler(logging.NullHandler())  # its errors are told in ours
    if _has_password(to):
        voice.warn(
            "a password in --to can be seen in the list of processes: "
            "give it in PGPASSWORD, PGPASSFILE or a service file"
        )
    with _percent(shown=voice.on_terminal and not (voice.json or voice.quiet)) as progress:
        loaded = load_output(
            output, to=to, table=table, force=force, drop_unknown=drop_unknown, progress=progress
        )
    warn_of_unlisted(voice, output, loaded.unlisted)
    voice.say(closing_line(output, loaded))
    voice.event("loaded", asdict(loaded))
    return 0


def closing_line(output: str, loaded: Loaded) -> str:
    """Say in one line what a load did and what it left alone."""
    from bulkfetch._domain.wording import counted

    lacks = f" ({loaded.lacks})" if loaded.lacks else ""
    if not loaded.new:
        there = f"{output} is there already{lacks}"
        return f"{loaded.target}: {there}: nothing to do (--force loads it again)"
    brought = f"{counted(loaded.rows, 'row')} of {counted(loaded.courses, 'course')} loaded{lacks}"
    words = [f"{loaded.target}: {brought}, {counted(loaded.deleted, 'old row')} replaced"]
    if loaded.left_alone:
        words.append(f"{counted(loaded.left_alone, 'failed or refused course')} left alone")
    if loaded.unknown:
        more = len(loaded.unknown) - _NAMED
        named = ", ".join(loaded.unknown[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
        does, of = "dropped", ""
        if not loaded.dropped:
            does, of = "left alone (--drop-unknown deletes their rows)", " of them"
        words.append(f"{len(loaded.unknown):,}{of} unknown to the server {does}: {named}")
    return "; ".join(words)


def warn_of_unlisted(voice: Voice, output: str, unlisted: int) -> None:
    """Say that the list of courses that failed is gone or cut short."""
    from bulkfetch._domain.wording import counted
    from bulkfetch._output.layout import Layout

    if unlisted:
        voice.warn(
            f"{Layout.of(output).failed} is gone or cut short: it does not name "
            f"{counted(unlisted, 'course')} that failed or were refused"
        )


def _has_password(to: str) -> bool:
    from bulkfetch._load.postgres import SECRETS

    try:
        parts = urlsplit(to)
        return parts.password is not None or any(
            name in SECRETS for name, _ in parse_qsl(parts.query, keep_blank_values=True)
        )
    except ValueError:
        return False


@contextmanager
def _percent(*, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Give what draws how much of the file is read, in place on a terminal; gone at the end."""
    if not shown:
        yield None
        return
    last = -1

    def draw(done: int, size: int) -> None:
        nonlocal last
        percent = 100 * done // (size or 1)
        if percent != last:
            last = percent
            _draw(f"reading {percent}%")

    try:
        yield draw
    finally:
        _draw("")


def _draw(words: str) -> None:
    with suppress(OSError, ValueError):  # a terminal that went away is no reason to stop
        sys.stderr.write(f"\r\x1b[K{words}")
        sys.stderr.flush()
