"""A Transport without a network: every POST is answered with the same body from memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from bulkfetch._http.gunzip import PIECE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class MemoryTransport:
    """Answers at once, after one turn of the event loop; `asked` is called for each request."""

    def __init__(self, body: bytes, asked: Callable[[], None] | None = None) -> None:
        self.pieces = [body[start : start + PIECE] for start in range(0, len(body), PIECE)]
        self.asked = asked

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> MemoryReply:  # noqa: ARG002
        if self.asked:
            self.asked()
        return MemoryReply(self.pieces)


class MemoryReply:
    """A Reply, and the context that gives it."""

    __slots__ = ("_pieces",)
    status = 200
    headers: Mapping[str, str] = {"Content-Type": "text/xml; charset=utf-8"}

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read(self) -> bytes:
        return next(self._pieces, b"")
