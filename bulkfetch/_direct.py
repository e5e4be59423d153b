"""Requests straight through aiohttp's connector: half the price of a session's.

A session builds URL, headers, cookies, timers and a writing task anew for each request, which costs
more than all else that is done for a small course. Here a request's head is made once, head and
body are one write, a finished connection waits for the next request where it is, and one watch
looks after all deadlines. Connecting, TLS and names are aiohttp's as ever, and so is HTTP parsing
but for the plainest of all responses: a 200 of known length that arrives in one piece.

This leans on more of aiohttp than it documents, its connector and its response handler, so it is
done only with the minor version that the tests have seen, for a session of ours and without a
proxy; all else goes through the session. A debug message says which way it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from bulkfetch._gunzip import PIECE
from bulkfetch._plain import Listener, Whole
from bulkfetch._transport import (
    BEFORE_THE_HEAD,
    LATEST,
    HttpReply,
    HttpTransport,
    Sealed,
    before_the_head,
    end_if_broken,
    open_session,
    tls_context,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiohttp.connector import Connection

    from bulkfetch._options import Options
    from bulkfetch._transport import Transport

_log = logging.getLogger("bulkfetch")

_SEEN: Final = ("3.14.",)
"""The aiohttp that the tests have seen; later patches of it are trusted to keep its ways."""
_IDLE_SECONDS: Final = 15.0
"""How long a connection may wait for its next request, as in aiohttp."""


@asynccontextmanager
async def open_transport(
    options: Options, session: aiohttp.ClientSession | None = None
) -> AsyncIterator[Transport]:
    """Open the quickest transport that serves: through `session` if the caller brings one."""
    if session is not None:
        _log.debug("requests go through the session that was handed over")
        yield HttpTransport(options, session)
        return
    async with open_session() as own:
        if why := _hindrance(options):
            _log.debug("requests go through an aiohttp session: %s", why)
            yield HttpTransport(options, own)
            return
        _log.debug("requests go straight through aiohttp's connector")
        direct = DirectTransport(options, own)
        try:
            yield direct
        finally:
            direct.close()


def _hindrance(options: Options) -> str:
    """Say why requests cannot go past the session; nothing if they can."""
    if options.proxy is not None:
        return "there is a proxy"
    if not aiohttp.__version__.startswith(_SEEN):
        return f"aiohttp {aiohttp.__version__} is not known well enough"
    return ""


@dataclass(frozen=True, slots=True)
class _Call:
    """What all requests with the same URL and headers share; `head` lacks the length."""

    key: aiohttp.ClientRequest
    head: bytes
    idle: deque[_Line] = field(default_factory=deque)
    """Those that wait for a request; the last is used first."""


class _Line:
    """A connection, who listens on it, and since when it waits for a request."""

    __slots__ = ("connection", "handler", "listener", "since")

    def __init__(self, connection: Connection, room: memoryview) -> None:
        protocol, transport = connection.protocol, connection.transport
        assert protocol is not None
        assert transport is not None
        self.connection = connection
        self.handler = protocol
        self.listener = Listener(protocol, room)
        self.since = 0.0
        transport.set_protocol(self.listener)

    def close(self) -> None:
        self.connection.close()


class DirectTransport:
    """A Transport over the connector of a session that is ours alone."""

    def __init__(self, options: Options, session: aiohttp.ClientSession) -> None:
        assert session.connector is not None
        self._connector = session.connector
        self._loop = asyncio.get_running_loop()
        self._tls = tls_context(options) or True
        self._calls: dict[tuple[object, ...], _Call] = {}
        self._under_way: set[_Exchange] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._room = memoryview(bytearray(PIECE))
        self.now = time.monotonic
        self.total, self.silence = options.timeout, options.read_timeout
        self.max_ratio = options.max_ratio
        self._connecting = aiohttp.ClientTimeout(
            total=None, connect=options.timeout, sock_connect=options.connect_timeout
        )

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> _Exchange:
        return _Exchange(self, url, body, headers)

    def close(self) -> None:
        """Hand what waits back to the connector: leaving the session closes it and awaits that."""
        if self._watch:
            self._watch.cancel()
        for call in self._calls.values():
            while call.idle:
                call.idle.pop().connection.release()

    def call(self, url: str, headers: Mapping[str, str]) -> _Call:
        """Return the call, made when it is first asked for: a run has one or two of them."""
        name = (url, *headers.items())
        if (call := self._calls.get(name)) is None:
            call = self._calls[name] = self._make_call(url, headers)
        return call

    def _make_call(self, url: str, headers: Mapping[str, str]) -> _Call:
        key = aiohttp.ClientRequest(
            "POST", URL(url), headers=headers, loop=self._loop, ssl=self._tls
        )
        del key.headers["Content-Length"]
        lines = [f"POST {key.url.raw_path_qs} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in key.headers.items()]
        return _Call(key, "\r\n".join([*lines, "Content-Length: "]).encode())

    def waiting(self, call: _Call, now: float) -> _Line | None:
        """Return a connection that waits for a request, if there is one."""
        while call.idle:
            line = call.idle.pop()
            fresh = now - line.since <= _IDLE_SECONDS
            if fresh and not line.connection.closed and not line.listener.should_close:
                return line  # and nothing came that nobody asked for
            line.close()
        return None

    async def connect(self, call: _Call) -> _Line:
        """Open another connection."""
        try:
            connection = await self._connector.connect(call.key, [], self._connecting)
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError from None
        return _Line(connection, self._room)

    def watch(self, exchange: _Exchange) -> None:
        """Look after the exchange's deadlines from now on."""
        self._under_way.add(exchange)
        if self._watch is None:
            self._arm()

    def done(self, exchange: _Exchange) -> None:
        self._under_way.discard(exchange)

    def _arm(self) -> None:
        pause = min(LATEST, self.total / 10, self.silence / 10)
        self._watch = self._loop.call_later(pause, self._look)

    def _look(self) -> None:
        self._watch = None
        now = self.now()
        for exchange in self._under_way:
            exchange.check(now)
        for call in self._calls.values():
            while call.idle and now - call.idle[0].since > _IDLE_SECONDS:
                call.idle.popleft().close()  # fewer at once than before: spare the server
        if self._under_way or any(call.idle for call in self._calls.values()):
            self._arm()


class _Exchange:
    """A request and its response: `_began` with connecting, `_sent` when silence began to count."""

    __slots__ = (
        "_began", "_body", "_call", "_content", "_headers", "_line", "_owner", "_sent", "_url",
    )  # fmt: skip

    def __init__(
        self, owner: DirectTransport, url: str, body: bytes, headers: Mapping[str, str]
    ) -> None:
        self._owner = owner
        self._url = url
        self._headers = headers
        self._body = body
        self._content: aiohttp.StreamReader | Whole | None = None

    async def __aenter__(self) -> HttpReply:
        owner = self._owner
        kept: _Line | None = None
        self._began = owner.now()
        try:
            self._call = owner.call(self._url, self._headers)
            kept = owner.waiting(self._call, self._began)
            self._line = kept or await owner.connect(self._call)
            self._sent = owner.now()
            owner.watch(self)
            try:
                status, headers, self._content = await self._send(self._line)
            except BaseException:
                owner.done(self)
                self._line.close()
                raise
        except BEFORE_THE_HEAD as error:
            raise before_the_head(error, kept=kept is not None) from None
        return HttpReply(status, headers, self._content, owner.max_ratio)

    async def __aexit__(self, *_: object) -> None:
        owner, line = self._owner, self._line
        owner.done(self)
        if line.listener.should_close or self._content is None or not self._content.is_eof():
            line.close()
        else:
            line.since = owner.now()
            self._call.idle.append(line)

    async def _send(
        self, line: _Line
    ) -> tuple[int, Mapping[str, str], aiohttp.StreamReader | Whole]:
        protocol, transport = line.handler, line.handler.transport
        assert transport is not None
        answer = line.listener.ask()
        body = self._body
        transport.write(Sealed(b"%b%d\r\n\r\n%b" % (self._call.head, len(body), body)))
        if (plain := await answer) is not None:
            return 200, plain.headers, plain
        while True:
            message, content = await protocol.read()
            if not 100 <= message.code < 200 or message.code == 101:
                break
            self._sent = self._owner.now()
        if not content.is_eof():
            # The head is watched by us; what follows, piece by piece, by aiohttp's own timer.
            protocol.read_timeout = self._owner.silence
            protocol.start_timeout()
        return message.code, message.headers, content

    def check(self, now: float) -> None:
        """End the wait for the head or for more of the body when it has been too long."""
        owner = self._owner
        if self._content is not None:
            if now - self._began >= owner.total:
                self._content.set_exception(TimeoutError())
            elif isinstance(self._content, aiohttp.StreamReader):
                end_if_broken(self._content, self._line.handler)
        elif now - self._began >= owner.total:
            self._line.listener.give_up(TimeoutError())
        elif now - self._sent >= owner.silence:
            self._line.listener.give_up(aiohttp.SocketTimeoutError())
