"""Where a command may write beside an output: never over what a run reads or keeps, nor a stranger.

One guard for every file that an option names: rows of `parse`, reports, lists of ids, metrics.
Whatever is written here is private from its first byte and gets its name when it is whole.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulkfetch._domain.errors import ConfigurationError
from bulkfetch._output.compress import codec
from bulkfetch._output.layout import Layout, failures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_HEAD: Final = 16 << 10
_COMPANIONS: Final = (".part", ".journal", ".failed.ndjson", ".manifest.json")


def guard(
    path: str, *, used: Mapping[str, str], mine: Callable[[bytes], bool] = lambda _head: True
) -> None:
    """Refuse a path at which something must not be replaced.

    `used` says of each file that the command itself works with what it is ("the list of ids");
    `mine` tells from a file's first 16 KiB whether it may be replaced. Raises ConfigurationError,
    OutputError when the path cannot be looked at.
    """
    for other, what in used.items():
        if are_one(path, other):
            raise ConfigurationError(f"{path} is {what}: name another file")
    if owner := _output_of(path):
        raise ConfigurationError(f"{path} belongs to the output {owner}: name another file")
    with failures(f"look at {path}"):
        try:
            info = Path(path).lstat()
        except FileNotFoundError:
            return
        _check(path, info)
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
    if head and not mine(head):
        raise ConfigurationError(
            f"{path} exists and was not made by this command: name another file, or move it away"
        )


@contextmanager
def new_file(path: str) -> Iterator[Callable[[Iterable[bytes]], object]]:
    """Make a private file, compressed by its name; gives the function that writes blocks to it.

    It takes its name, and the place of what was there, when it is complete; it is gone when it
    never will be. Raises OutputError.
    """
    compressed = codec(path)
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with failures(f"write {path}"):
        fd = os.open(temporary, flags, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                yield lambda blocks: file.writelines(compressed(blocks) if compressed else blocks)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _check(path: str, info: os.stat_result) -> None:
    if stat.S_ISLNK(info.st_mode):
        raise ConfigurationError(f"{path} is a symbolic link: name the file that it points to")
    if not stat.S_ISREG(info.st_mode):
        what = "a folder" if stat.S_ISDIR(info.st_mode) else "no regular file"
        raise ConfigurationError(f"{path} is {what}: name a file")
    if os.geteuid() not in {0, info.st_uid}:
        raise ConfigurationError(
            f"{path} belongs to another user (uid {info.st_uid}): name another file"
        )


def are_one(path: str, other: str) -> bool:
    """Whether two paths are one file, through whatever links; also if it is not there yet."""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return Path(path).samefile(other)
    except OSError:
        return False


def _output_of(path: str) -> str | None:
    """Return the output that a path is, or is a companion of, if that has a journal."""
    names = [path, *(path.removesuffix(end) for end in _COMPANIONS if path.endswith(end))]
    return next((name for name in names if name and Path(Layout.of(name).journal).exists()), None)
