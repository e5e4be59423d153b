"""One request over HTTP, and nothing more: no retry, no redirect, no cookies, no proxy unasked.

`Transport` is all the engine knows of HTTP, so that a scripted one can stand in for it in tests.
`HttpTransport` goes through an aiohttp session, the caller's or ours. aiohttp's exceptions become
ours here, made anew without their cause, since its own texts can hold addresses and headers.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from bulkfetch._errors import (
    ConfigurationError,
    CourseError,
    LocalFault,
    RunRefused,
    StaleConnection,
    Transient,
    Unreadable,
)
from bulkfetch._gunzip import PIECE, Gunzip
from bulkfetch._text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping
    from contextlib import AbstractAsyncContextManager

    from aiohttp.client_proto import ResponseHandler

    from bulkfetch._options import Options

LATEST: Final = 1.0
"""Seconds within which the end of a wait is seen that nothing but looking tells of."""
_LOCAL_ERRORS: Final = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EADDRNOTAVAIL,
}


class Sealed(bytes):
    """Bytes that hold a token: no log and no traceback with locals shows them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Sealed({len(self)} bytes)"

    __str__ = __repr__


class Reply(Protocol):
    """A response whose head has come."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    async def read(self) -> bytes:
        """Return the next decompressed bytes, up to 64 KiB; b"" at the end. Raises CourseError."""


class Transport(Protocol):
    """Sends one POST; entering raises CourseError, leaving early drops the connection."""

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Reply]: ...


class HttpTransport:
    """A Transport over one aiohttp session, its own or the caller's, which is never closed."""

    def __init__(self, options: Options, session: aiohttp.ClientSession) -> None:
        self._options = options
        self._session = session
        self._timeout = aiohttp.ClientTimeout(
            total=options.timeout,
            connect=None,
            sock_connect=options.connect_timeout,
            sock_read=options.read_timeout,
        )
        self._tls: ssl.SSLContext | bool = tls_context(options) or True

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> _Exchange:
        return _Exchange(
            self._session.post(
                url,
                data=body,
                headers=headers,
                allow_redirects=False,
                auto_decompress=False,
                timeout=self._timeout,
                proxy=self._options.proxy,
                ssl=self._tls,
            ),
            self._options.max_ratio,
        )


class _Exchange:
    """A request and its response; not a generator, which would cost a small request 4 %."""

    __slots__ = ("_max_ratio", "_request", "_response", "_watch")

    def __init__(self, request: Awaitable[aiohttp.ClientResponse], max_ratio: int) -> None:
        self._request = request
        self._max_ratio = max_ratio
        self._watch: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> HttpReply:
        try:
            response = self._response = await self._request
        except BEFORE_THE_HEAD as error:
            raise before_the_head(error) from None
        self._look()
        return HttpReply(response.status, response.headers, response.content, self._max_ratio)

    async def __aexit__(self, *_: object) -> None:
        response = self._response
        if self._watch:
            self._watch.cancel()
        if response.content.is_eof():  # all of it has come, whether it was read or not
            response.release()
        else:
            response.close()

    def _look(self) -> None:
        """While more of the body is to come, look now and then whether it broke."""
        content, connection = self._response.content, self._response.connection
        protocol = connection and connection.protocol  # which is false when its queue is empty
        if protocol is not None and not content.is_eof():
            end_if_broken(content, protocol)
            self._watch = asyncio.get_running_loop().call_later(LATEST, self._look)


def end_if_broken(content: aiohttp.StreamReader, protocol: ResponseHandler) -> None:
    """Let a body's reader know that it broke: of a bad chunk aiohttp tells the protocol alone."""
    error = protocol.exception()
    if isinstance(error, HttpProcessingError) and not content.is_eof():
        content.set_exception(error)


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session that keeps no cookies and asks the environment for nothing."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # the limiter decides how many at once
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    ) as session:
        yield session


def tls_context(options: Options) -> ssl.SSLContext | None:
    """Return the context for --cacert and --cert; None when the system's defaults do."""
    if not (options.cacert or options.cert):
        return None
    try:
        context = ssl.create_default_context(cafile=options.cacert)
        if options.cert:
            context.load_cert_chain(options.cert, options.key)
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(str(path) for path in (options.cacert, options.cert, options.key) if path)
        raise ConfigurationError(f"cannot use the certificates in {names}: {error}") from None
    return context


class Body(Protocol):
    """A response's body: aiohttp's stream, or what reads like it."""

    def read_nowait(self, most: int, /) -> bytes: ...
    async def read(self, most: int, /) -> bytes: ...
    def at_eof(self) -> bool: ...


class HttpReply:
    """A Reply over the stream of a body."""

    __slots__ = ("_content", "_gunzip", "_unasked", "headers", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str], content: Body, max_ratio: int
    ) -> None:
        self.status = status
        self.headers = headers
        self._content = content
        encoding = headers.get("Content-Encoding", "identity").strip().lower()
        self._gunzip = Gunzip(max_ratio) if encoding in {"gzip", "x-gzip"} else None
        self._unasked = None if self._gunzip or encoding in {"identity", ""} else encoding

    async def read(self) -> bytes:
        if self._unasked:
            raise Unreadable(
                "content-encoding",
                f"the response is encoded as '{printable(self._unasked, 40)}', not asked for",
            )
        while True:
            if self._gunzip and (piece := self._gunzip.take()):
                return piece
            try:
                data = self._content.read_nowait(PIECE)  # all that is there could be 768 KiB
                if not data and not self._content.at_eof():
                    data = await self._content.read(PIECE)
            except _INSIDE_THE_BODY as error:
                raise _inside_the_body(error) from None
            if not (self._gunzip and data):
                return data
            self._gunzip.put(data)


BEFORE_THE_HEAD: Final = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)
"""What may be raised until the response's head has come."""
_INSIDE_THE_BODY: Final = (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError)
"""What may be raised after it: RuntimeError when a bad chunk has ended the connection before."""


def before_the_head(  # noqa: C901, PLR0911 - one table
    error: Exception, *, kept: bool = True
) -> CourseError:
    """Say what an exception before the response's head means, by its type, never by its text.

    `kept` says whether the connection may have served before; a session does not tell.
    """
    lost = StaleConnection if kept else Transient
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            reason = printable(str(getattr(error, "strerror", None) or "TLS handshake failed"), 120)
            return RunRefused(
                "certificate",
                f"no trusted connection to {_host(error)}: {reason}; check the host's certificate, "
                "or name its authority with --cacert",
            )
        case aiohttp.ClientConnectorDNSError():
            return Transient("dns", f"the host {_host(error)} is not found")
        case aiohttp.ServerTimeoutError() | TimeoutError():
            return Transient("timeout", _timeout_words(error), overload=True)
        case aiohttp.ClientProxyConnectionError():
            return Transient("proxy", f"the proxy for {_host(error)} cannot be reached")
        case aiohttp.ClientConnectorError():
            return _no_connection(error)
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return lost("disconnected", "the server closed the connection unanswered")
        case OSError() if error.errno in {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}:
            return lost("disconnected", "the server reset the connection unanswered")
        case OSError() if error.errno in _LOCAL_ERRORS:
            return _local(error)
        case aiohttp.ClientHttpProxyError():
            return RunRefused("proxy", f"the proxy refuses with HTTP {error.status}")
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return Transient("bad-http", "the server's answer is not valid HTTP", most_retries=1)
        case ValueError() | aiohttp.InvalidURL():
            return RunRefused("bad-request", f"the request cannot be sent ({type(error).__name__})")
        case _:
            return Transient("network", f"the connection failed ({type(error).__name__})")


def _inside_the_body(error: Exception) -> CourseError:
    match error:
        case aiohttp.ServerTimeoutError() | TimeoutError():
            return Transient("timeout", _timeout_words(error), overload=True)
        case aiohttp.ClientPayloadError():
            return Transient("truncated", "the connection ended inside the response")
        case aiohttp.ClientResponseError() | HttpProcessingError() | RuntimeError():
            return Transient("bad-http", "the response's body is not valid HTTP", most_retries=1)
        case _:
            return Transient("disconnected", "the connection broke inside the response")


def _no_connection(error: aiohttp.ClientConnectorError) -> CourseError:
    if error.os_error.errno in _LOCAL_ERRORS:
        return _local(error.os_error)
    reason = errno.errorcode.get(error.os_error.errno or 0, type(error.os_error).__name__)
    return Transient("connect", f"no connection to {_host(error)} ({reason})")


def _local(error: OSError) -> LocalFault:
    name = errno.errorcode.get(error.errno or 0, "unknown")
    return LocalFault("local", f"this machine is short of sockets or files ({name})")


def _host(error: object) -> str:
    host, port = getattr(error, "host", None), getattr(error, "port", None)
    return printable(f"{host}:{port}") if host else "the server"


def _timeout_words(error: Exception) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection within the connect timeout"
    if isinstance(error, aiohttp.SocketTimeoutError):
        return "the server was silent for longer than the read timeout"
    return "the request took longer than the timeout"
