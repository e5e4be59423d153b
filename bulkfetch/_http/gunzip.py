"""Compressed bodies undone piece by piece: a small one cannot become a large one unseen.

Several members in a row are one body. What follows a whole member and is no other one is dropped,
as gzip itself and every common client do.
"""

from __future__ import annotations

import zlib
from typing import Final

from bulkfetch._domain.errors import Transient, Unreadable

PIECE: Final = 64 << 10
"""Most bytes of a body that are handed on at once."""
_MAGIC: Final = b"\x1f\x8b"
_FREE_RATIO_BYTES: Final = 16 << 20


class Gunzip:
    """Decompresses gzip members in pieces of at most 64 KiB, within a ratio past 16 MiB."""

    def __init__(self, max_ratio: int) -> None:
        self._max_ratio = max_ratio
        self._inflater = zlib.decompressobj(wbits=31)
        self._input = b""
        self._taken = 0
        self._given = 0
        self._between = False
        self.done = False
        """Whether bytes came that belong to no member: the rest does not count."""

    def put(self, data: bytes) -> None:
        self._input += data
        self._taken += len(data)

    def take(self) -> bytes:
        """Return the next piece, b"" when more input is needed. Raises CourseError."""
        while not self.done and (self._input or self._inflater.unconsumed_tail):
            if self._between and not self._next_member():
                break
            data = self._inflater.unconsumed_tail + self._input
            self._input = b""
            try:
                piece = self._inflater.decompress(data, PIECE)
            except zlib.error as error:
                raise Transient("bad-gzip", f"the response is not valid gzip: {error}") from None
            if self._inflater.eof:
                self._input = self._inflater.unused_data
                self._inflater = zlib.decompressobj(wbits=31)
                self._between = True
            if piece:
                self._given += len(piece)
                self._check_ratio()
                return piece
        return b""

    def _next_member(self) -> bool:
        """Whether another member begins here; False also while a single byte cannot tell."""
        self.done = not _MAGIC.startswith(self._input[:2])
        self._between = len(self._input) < len(_MAGIC)
        return not self.done and not self._between

    def _check_ratio(self) -> None:
        if self._given > max(_FREE_RATIO_BYTES, self._taken * self._max_ratio):
            raise Unreadable(
                "too-large",
                f"the response grows more than {self._max_ratio} times when decompressed: "
                "raise max_ratio if that is expected",
            )
