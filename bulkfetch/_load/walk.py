"""The rows of one course walked side by side, before and after, so that equal ones cost nothing.

Pure. An equal row met in the same order cancels its equal, many at a time; whatever is left of
either side is yielded as lines, for `changes` to sort out. So the order of the rows decides how
fast a comparison is, never what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_STEP: Final = 1 << 10
"""Bytes of rows that are compared at once."""
_AHEAD: Final = 1 << 15
"""Bytes through which a row is looked for that is not where it is expected."""


def leftovers(
    old: Iterator[bytes], new: Iterable[bytes]
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Yield the lines of OLD and of NEW that did not cancel; both come in pieces of whole lines."""
    rest = b""
    for piece in new:
        while len(rest) < len(piece) + _AHEAD and (more := next(old, b"")):
            rest += more
        used, gone, came = _walked(rest, piece)
        rest = rest[used:]
        yield gone, came
    for piece in (rest, *old):
        yield _lines(piece), []


def _walked(old: bytes, new: bytes) -> tuple[int, list[bytes], list[bytes]]:
    """Walk to the end of either; return how much of `old` is used up, and what did not cancel."""
    if old.startswith(new):
        return len(new), [], []
    gone: list[bytes] = []
    came: list[bytes] = []
    at = there = 0
    while at < len(old) and there < len(new):
        end = (old.find(b"\n", at + _STEP) + 1) or len(old)
        if new.startswith(old[at:end], there):
            there += end - at
        elif len(gone) > 8 + at // 256:  # another order: walking on would only cost time
            gone += _lines(old[at:])
            end = len(old)
        else:
            there = _by_line(old[at:end], new, there, gone, came)
        at = end
    if at == len(old):
        came += _lines(new[there:])
    return at, gone, came


def _by_line(lines: bytes, new: bytes, at: int, gone: list[bytes], came: list[bytes]) -> int:
    """Walk a few lines one by one; return how far that comes in `new`."""
    for line in _lines(lines):
        if new.startswith(line, at):
            at += len(line)
        elif (cut := line.find(b',"status":')) > 0 and new.startswith(line[:cut], at):
            # The same learner.
            end = new.find(b"\n", at) + 1
            gone.append(line)
            came += _lines(new[at:end])
            at = end
        elif (end := new.find(b"\n" + line, at, at + _AHEAD) + 1) > 0:  # others came before it
            came += _lines(new[at:end])
            at = end + len(line)
        else:
            gone.append(line)
    return at


def _lines(rows: bytes) -> list[bytes]:
    return rows.splitlines(keepends=True)
