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

from bulkfetch._domain.errors import OutputError

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
    def gone(self) -> str:
        """The journal's name while a part that is in the whole by now is removed."""
        return f"{self.output}.gone"

    @property
    def failed(self) -> str:
        """One line for each course without rows."""
        return f"{self.output}.failed.ndjson"

    @property
    def manifest(self) -> str:
        return f"{self.output}.manifest.json"

    @property
    def parts(self) -> str:
        """The folder of a run in shards."""
        return f"{self.output}.parts"

    @property
    def spooled_ids(self) -> str:
        """The ids of a run in shards that came through a pipe."""
        return str(Path(self.parts) / "ids")

    @property
    def sharing(self) -> str:
        """The file by which machines find out whether they see one folder, and its locks."""
        return str(Path(self.parts) / "sharing")

    def shard(self, number: int, of: int) -> Layout:
        """Return the names of one shard's output, whose suffix is that of the whole."""
        folder, name = Path(self.parts), Path(self.output).name
        return Layout(str(folder / f"{number}-of-{of}-{name}"))

    @property
    def data(self) -> tuple[str, ...]:
        """Where to look for the data, in turn: a run may give them their final name just now."""
        return (self.part, self.output, self.part)

    @property
    def own(self) -> tuple[str, ...]:
        """All files that a run writes, whatever else may want their names."""
        names = (self.output, self.part, self.journal, self.failed, self.manifest)
        return (*names, *(temporary(name) for name in names[2:]))

    @property
    def of_a_part(self) -> tuple[str, ...]:
        """All files that there may be of an output that is a part."""
        return (*self.own, self.gone)


def temporary(path: str) -> str:
    """Return the name of a file that is being written, until it is whole."""
    return f"{path}.tmp"


def locate(
    layout: Layout, *, part: bool, output: bool, started: bool, complete: bool, replaces: bool
) -> Place:
    """Say which file holds the data of a journal that has a header.

    `part` and `output` tell which files exist; `started`, that the journal has data; `complete`,
    that they were complete at some time, so that they may have been published; `replaces`, that
    another output may be replaced by them. An output that has no part beside it may be the data,
    its journal's last line torn: its bytes will tell. Raises OutputError for a state that no run
    and no kill leaves behind: nothing unexplained is touched.
    """
    if output and not replaces and (part or not (complete or started)):
        raise OutputError(
            f"{layout.output} exists, but {layout.journal} has not published it yet: "
            "move it away to go on, or replace everything with fetch --overwrite"
        )
    if part:
        return "part"
    if output and (complete or started):
        return "output"
    if started or complete:
        raise OutputError(
            f"{layout.journal} is there, but the data it speaks of are not ({layout.part} or "
            f"{layout.output}): bring them back, or fetch all again with fetch --overwrite"
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
