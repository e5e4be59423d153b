"""What a finished output holds, as the last file to be written says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from bulkfetch._domain.wording import iso

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bulkfetch._output.frames import Done
    from bulkfetch._output.ledger import Ledger


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
    limited: Mapping[str, int] | None
    """Where `--limit` cut the list of ids: how many were `asked`, `of` how many."""
    partial: Mapping[str, int] | None
    """What `merge --partial` joined: how many `parts`, `of` how many, how many `unfinished`."""
    totals: Mapping[str, object]
    options: Mapping[str, object]


def make_manifest(ledger: Ledger, output: str, sha256: str) -> Manifest:
    """Describe the output `output` as its last finish told of it; there must be one."""
    header, done = ledger.header, ledger.last_done
    assert header
    assert done
    return Manifest(
        output=output,
        rows=ledger.rows,
        bytes=ledger.end,
        sha256=sha256,
        courses=ledger.outcomes(),
        empty_courses=tuple(ledger.empty),
        runs=tuple(ledger.runs[: ledger.runs_told]),
        started=iso(header.started),
        finished=iso(done.at),
        version=header.version,
        format=header.format,
        fingerprint=header.fingerprint,
        limited=limit_of(done),
        partial=partial_of(done),
        totals=done.totals,
        options=done.options,
    )


def limit_of(done: Done) -> Mapping[str, int] | None:
    """Return the totals' `limited`, what `--limit` left of the ids, where it cut them."""
    return _numbers(done, "limited", ("asked", "of"))


def partial_of(done: Done) -> Mapping[str, int] | None:
    """Return the totals' `partial`, what was joined of a run's parts, where some lacked."""
    return _numbers(done, "partial", ("parts", "of", "unfinished"))


def lacking_of(done: Done | None) -> Mapping[str, object]:
    """Return the totals that say what an output lacks of its list or parts; none if it does not."""
    totals = done.totals if done else {}
    return {name: totals[name] for name in ("limited", "partial") if totals.get(name)}


def lacking_words(limited: Mapping[str, int] | None, partial: Mapping[str, int] | None) -> str:
    """Write what an output lacks of its list or parts: `5 of 43 ids asked`; "" if nothing."""
    words = [limited_words(limited)] if limited else []
    return ", ".join([*words, partial_words(partial)] if partial else words)


def limited_words(limited: Mapping[str, int]) -> str:
    """Write what `--limit` left of the ids: `5 of 43 ids asked`."""
    return f"{limited['asked']:,} of {limited['of']:,} ids asked"


def partial_words(partial: Mapping[str, int]) -> str:
    """Write what was joined: `1 of 2 parts`, `2 of 2 parts, 1 of them unfinished`."""
    unfinished = partial["unfinished"]
    more = f", {unfinished:,} of them unfinished" if unfinished else ""
    return f"{partial['parts']:,} of {partial['of']:,} parts{more}"


def _numbers(done: Done, name: str, keys: tuple[str, ...]) -> Mapping[str, int] | None:
    found = done.totals.get(name)
    if not isinstance(found, dict) or not found.keys() >= {*keys}:
        return None
    return {key: int(found[key]) for key in keys}


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON."""
    return orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
