"""The files of one output: their names, and which of them holds the data.

All extra names begin with the whole name of the output. Also the words for what a disk can say no
to: every such error names the file, the reason and what to do. Pure: nothing here touches a disk.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from bulkfetch._errors import OutputError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

Place: TypeAlias = Literal["part", "output", "new"]

_AGAIN = "then run the same command again to go on"
_REASONS = {
    errno.ENOSPC: ("the disk is full", f"free some space, {_AGAIN}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some space, {_AGAIN}"),
    errno.EFBIG: ("the file may not grow any further", f"raise its limit (ulimit -f), {_AGAIN}"),
    errno.EIO: ("the disk reports an error", f"look after the disk, {_AGAIN}"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.EACCES: ("permission denied", "make it writable or choose another folder"),
    errno.EPERM: ("permission denied", "make it writable or choose another folder"),
    errno.ENOENT: ("there is no such file or folder", "create the folder first"),
    errno.ENOTDIR: ("a part of the path is not a folder", "choose another folder"),
    errno.ELOOP: ("it is a symbolic link", "name the file that it points to"),
    errno.ENAMETOOLONG: ("the name is too long", "choose one of at most 200 characters"),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """The names that belong to the output `output`."""

    output: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Layout:
        return cls(str(Path(path)))

    @property
    def directory(self) -> str:
        return str(Path(self.output).parent)

    @property
    def part(self) -> str:
        """The data until they are complete."""
        return f"{self.output}.part"

    @property
    def journal(self) -> str:
        return f"{self.output}.journal"

    @property
    def failed(self) -> str:
        """One line for each course without rows."""
        return f"{self.output}.failed.ndjson"

    @property
    def manifest(self) -> str:
        return f"{self.output}.manifest.json"


def locate(
    layout: Layout, *, part: bool, output: bool, started: bool, complete: bool, replaces: bool
) -> Place:
    """Say which file holds the data of a journal that has a header.

    `part` and `output` tell which files exist; `started`, that the journal has data; `complete`,
    that they were complete at some time, so that they may have been published; `replaces`, that
    another output may be replaced by them. Raises OutputError for a state that no run and no kill
    leaves behind: nothing unexplained is touched.
    """
    if output and not replaces and (part or not complete):
        raise OutputError(
            f"{layout.output} exists, but {layout.journal} has not published it yet: "
            "move it away to go on, or replace everything with --overwrite"
        )
    if part:
        return "part"
    if output and complete:
        return "output"
    if started or complete:
        raise OutputError(
            f"{layout.journal} is there, but the data it speaks of are not ({layout.part} or "
            f"{layout.output}): bring them back, or fetch all again with --overwrite"
        )
    return "new"


def failure(error: OSError, doing: str) -> OutputError:
    """Put an operating system's error into words: what failed, why, what to do."""
    what, remedy = _REASONS.get(
        error.errno or 0, (error.strerror or str(error), f"set it right, {_AGAIN}")
    )
    return OutputError(f"cannot {doing}: {what}: {remedy}")


@contextmanager
def failures(doing: str) -> Iterator[None]:
    """Turn an OSError inside into an OutputError."""
    try:
        yield
    except OSError as error:
        raise failure(error, doing) from error
