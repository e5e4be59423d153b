"""Requests straight through aiohttp's connector, which costs less CPU than a session does.

A session builds URL, headers, cookies, timers and a writing task anew for each request, which costs
more than all else that is done for a small course. Here a request's head is made once, head and
body are one write, a finished connection waits for the next request where it is, and one watch
looks after all deadlines. Connecting, TLS, names and HTTP parsing are aiohttp's as ever.

This leans on more of aiohttp than it documents, its connector and its response handler, so it is
done only with the exact versions that the tests have seen, for a session of ours and without a
proxy; all else goes through the session. One line of the log says which way it is, and why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp
from yarl import URL

from bulkfetch._http.gunzip import PIECE
from bulkfetch._http.listener import Handler, Listener, Whole
from bulkfetch._http.reply import HttpReply
from bulkfetch._http.session import (
    LOOK_EVERY,
    Alone,
    HttpTransport,
    end_if_broken,
    judged,
    known,
    open_session,
)
from bulkfetch._http.tls import LateAlerts, Trust
from bulkfetch._http.transport import Sealed
from bulkfetch._http.trouble import BEFORE_THE_HEAD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage

    from bulkfetch._config.options import Options
    from bulkfetch._http.transport import Transport

_log = logging.getLogger("bulkfetch")

_IDLE_SECONDS: Final = 15.0
"""How long a connection may wait for its next request, as in aiohttp."""


@asynccontextmanager
async def open_transport(
    options: Options, session: aiohttp.ClientSession | None = None
) -> AsyncIterator[Transport]:
    """Open the quickest transport that serves: through `session` if the caller brings one.

    Its attribute `way` says which it is: "direct", or "session" and why in brackets.
    """
    if session is not None:
        yield _told(HttpTransport(options, session, way="session (it was handed over)"))
        return
    async with open_session() as own:
        if why := _hindrance(options):
            yield _told(HttpTransport(options, own, own=True, way=f"session ({why})"))
            return
        direct = _told(DirectTransport(options, own))
        try:
            yield direct
        finally:
            direct.close()


def _told(transport: _Opened) -> _Opened:
    _log.info("requests go this way: %s", transport.way)
    return transport


def _hindrance(options: Options) -> str:
    """Say why requests cannot go past the session; nothing if they can."""
    if options.proxy is not None:
        return "there is a proxy"
    if not known():
        return f"aiohttp {aiohttp.__version__} is none of the versions that the tests have seen"
    return ""


@dataclass(frozen=True, slots=True)
class _Call:
    """What all requests with the same URL and headers share; `head` lacks the length."""

    key: aiohttp.ClientRequest
    head: bytes
    alone: bool
    """Whether its connections serve once."""
    idle: deque[_Line] = field(default_factory=deque)
    """Those that wait for a request; the last is used first."""


class _Line:
    """A connection, who listens on it, and since when it waits for a request."""

    __slots__ = ("connection", "handler", "listener", "since")

    def __init__(self, connection: Connection, room: memoryview) -> None:
        protocol, transport = connection.protocol, connection.transport
        assert isinstance(protocol, Handler)
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

    way = "direct"

    def __init__(self, options: Options, session: aiohttp.ClientSession) -> None:
        assert session.connector is not None
        self._connector = session.connector
        self._loop = asyncio.get_running_loop()
        self.trust = Trust(options)
        self._calls: dict[tuple[object, ...], _Call] = {}
        self._under_way: set[_DirectExchange] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._room = memoryview(bytearray(PIECE))
        self.now = time.monotonic
        self.total, self.silence = options.timeout, options.read_timeout
        self.options = options
        self.alone = Alone()
        self.alerts = LateAlerts(self.trust)
        self._connecting = aiohttp.ClientTimeout(
            total=None,
            connect=min(options.timeout, options.connect_timeout),  # name and all addresses
            sock_connect=options.connect_timeout,
        )

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> _DirectExchange:
        return _DirectExchange(self, url, body, headers)

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
            "POST", URL(url), headers=headers, loop=self._loop, ssl=self.trust.context()
        )
        del key.headers["Content-Length"]
        lines = [f"POST {key.url.raw_path_qs} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in key.headers.items()]
        alone = headers.get("Connection") == "close"
        return _Call(key, "\r\n".join([*lines, "Content-Length: "]).encode(), alone)

    def waiting(self, call: _Call, now: float) -> _Line | None:
        """Return a connection that waits for a request, if there is one."""
        while call.idle:
            line = call.idle.pop()
            fresh = now - line.since <= _IDLE_SECONDS
            if fresh and not line.connection.closed and not line.handler.should_close:
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

    def watch(self, exchange: _DirectExchange) -> None:
        """Look after the exchange's deadlines from now on."""
        self._under_way.add(exchange)
        if self._watch is None:
            self._arm()

    def done(self, exchange: _DirectExchange) -> None:
        self._under_way.discard(exchange)

    def _arm(self) -> None:
        pause = min(LOOK_EVERY, self.total / 10, self.silence / 10)
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


_Opened = TypeVar("_Opened", HttpTransport, DirectTransport)


class _DirectExchange:
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
        self._began = owner.now()
        try:
            headers = owner.alone.headers(self._headers, self._body)
            call = self._call = owner.call(self._url, headers)
            self._line = owner.waiting(call, self._began) or await owner.connect(call)
            self._sent = owner.now()
            owner.watch(self)
            message = await self._converse()
        except BEFORE_THE_HEAD as error:
            raise await judged(owner, self._url, self._body, error) from None
        owner.alerts.answered(self._url)
        assert self._content is not None
        return HttpReply(message.code, message.headers, self._content, owner.options.max_ratio)

    async def _converse(self) -> RawResponseMessage:
        try:
            return await self._send(self._line)
        except BaseException:
            self._owner.done(self)
            self._line.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        owner, line = self._owner, self._line
        owner.done(self)
        whole = self._content is not None and self._content.is_eof()
        if line.handler.should_close or self._call.alone or not whole:
            line.close()
        else:
            line.since = owner.now()
            self._call.idle.append(line)

    async def _send(self, line: _Line) -> RawResponseMessage:
        protocol, transport = line.handler, line.handler.transport
        if transport is None:  # it was lost at once
            raise aiohttp.ServerDisconnectedError
        protocol.ask()
        body = self._body
        transport.write(Sealed(b"%b%d\r\n\r\n%b" % (self._call.head, len(body), body)))
        while True:
            message, content = await protocol.read()
            if not 100 <= message.code < 200 or message.code == 101:
                break
            self._sent = self._owner.now()
        self._content = protocol.whole or content
        if not self._content.is_eof():
            # The head is watched by us; what follows, piece by piece, by aiohttp's own timer.
            protocol.read_timeout = self._owner.silence
            protocol.start_timeout()
        return message

    def check(self, now: float) -> None:
        """End the wait for the head or for more of the body when it has been too long."""
        owner = self._owner
        if self._content is not None:
            if now - self._began >= owner.total:
                self._content.set_exception(TimeoutError())
            elif isinstance(self._content, aiohttp.StreamReader):
                end_if_broken(self._content, self._line.handler)
        elif now - self._began >= owner.total:
            self._line.handler.set_exception(TimeoutError())
        elif now - self._sent >= owner.silence:
            self._line.handler.set_exception(aiohttp.SocketTimeoutError())
