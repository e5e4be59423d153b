"""A transport without a network: every request is answered from a script, and remembered.

Stands in for HTTP through the `transport=` of `stream`, `export`, `check` and `discover`, so that a
test needs neither socket nor clock: `delay` is waited for with the `sleep` that the test hands in.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from xml.sax.saxutils import unescape

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable


def _xml() -> dict[str, str]:
    return {"Content-Type": "text/xml; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class ScriptedRequest:
    """One request as the engine made it."""

    url: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def course_id(self) -> str:
        """The id asked for, "" in requests without one."""
        found = re.search(rb"<contentItemId>([^<]*)</", self.body)
        return unescape(found[1].decode()) if found else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedReply:
    """One answer: after `delay` seconds its head, then `pieces`, then `error`.

    An error without pieces comes instead of the head. Names of headers are as in RFC 9110.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=_xml)
    pieces: Sequence[bytes] = ()
    error: Exception | None = None
    delay: float = 0.0


Script: TypeAlias = (
    Callable[[ScriptedRequest], ScriptedReply]
    | Mapping[str, Sequence[ScriptedReply]]
    | Sequence[ScriptedReply]
)
"""A function of the request, or replies in turn (the last again and again), for each course or all.
"""


class ScriptedTransport:
    """A `Transport` that plays a script; `requests` holds what was asked."""

    def __init__(
        self, script: Script, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.requests: list[ScriptedRequest] = []
        self.in_flight = self.max_in_flight = 0
        self._script = script
        self._sleep = sleep
        self._turns: Counter[str] = Counter()

    @asynccontextmanager
    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[_Reading]:
        request = ScriptedRequest(url, body, headers)
        self.requests.append(request)
        reply = self._reply(request)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            await self._sleep(reply.delay)
            if reply.error is not None and not reply.pieces:
                raise reply.error
            yield _Reading(reply)
        finally:
            self.in_flight -= 1

    def _reply(self, request: ScriptedRequest) -> ScriptedReply:
        script, key = self._script, ""
        if callable(script):
            return script(request)
        if isinstance(script, Mapping):
            key = request.course_id
            script = script[key]
        self._turns[key] += 1
        return script[min(self._turns[key], len(script)) - 1]


class _Reading:
    """A reply being read."""

    def __init__(self, reply: ScriptedReply) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self._pieces = iter(reply.pieces)
        self._error = reply.error

    async def read(self) -> bytes:
        piece = next(self._pieces, b"")
        if not piece and self._error is not None:
            raise self._error
        return piece
