"""`diff`: the rows that changed from one output to the next, as NDJSON on stdout."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from bulkfetch.cli.commands.load import warn_of_unlisted
from bulkfetch.cli.files import writing
from bulkfetch.cli.flags import command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bulkfetch._domain.model import FinalStatus
    from bulkfetch._load.compare import Comparison
    from bulkfetch._load.differ import Change
    from bulkfetch.cli.voice import Voice


@command("diff")
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--stat", is_flag=True, help="Print the counts alone.")
@click.option("--force", is_flag=True, help="Compare although the accounts differ.")
def diff(voice: Voice, *, old: str, new: str, stat: bool, force: bool) -> int:
    """Print which rows of NEW were added, changed or removed since OLD, as NDJSON.

    Each row says which in `_op`; a changed one has the row as it was in `_old`. Only courses that
    NEW fetched are compared: one that failed has removed nothing.
    """
    from bulkfetch._load.compare import diff as compare

    with closing(compare(old, new, force=force)) as comparison:
        if comparison.swapped:
            voice.warn("OLD was finished after NEW: are they swapped?")
        if stat:
            for _ in comparison:
                pass
            click.echo("\n".join(_counts(comparison)))
        else:
            with writing("-", overwrite=False) as write:
                write(map(line_of, comparison))
    warn_of_unlisted(voice, new, comparison.unlisted)
    voice.say(*([] if stat else _counts(comparison)))
    voice.event("compared", dict(_numbers(comparison)))
    return 0


def line_of(change: Change) -> bytes:
    """Return a change as a line of NDJSON."""
    import orjson

    from bulkfetch._load.differ import Changed

    row = _row(change.row) | {"_op": type(change).__name__.lower()}
    if isinstance(change, Changed):
        row["_old"] = _row(change.old)
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _row(status: FinalStatus) -> dict[str, object]:
    return {
        "contentItemId": status.course_id,
        "userId": status.user_id,
        "status": status.status,
        "progress": status.progress,
        **(status.extra or {}),
    }


def _numbers(comparison: Comparison) -> Iterator[tuple[str, int]]:
    for name in ("added", "changed", "removed", "unchanged", "courses", "failed", "unasked"):
        yield name, getattr(comparison, name)


def _counts(comparison: Comparison) -> list[str]:
    from bulkfetch._domain.wording import counted, table

    left = [
        f"{counted(number, 'course')} {why}"
        for number, why in (
            (comparison.failed, "failed or refused"),
            (comparison.unasked, "not asked for"),
        )
        if number
    ]
    rows = ", ".join(
        f"{getattr(comparison, name):,} {name}"
        for name in ("added", "changed", "removed", "unchanged")
    )
    return table(
        [
            ("rows", rows),
            ("courses", f"{comparison.courses:,} compared"),
            ("left out", ", ".join(left)),
        ],
        indent="",
    )
