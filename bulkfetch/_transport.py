"""One request over HTTP, and nothing more: no retry, no redirect, no cookies, no proxy unasked.

`Transport` is all the engine knows of HTTP, so that a scripted one can stand in for it in tests.
`HttpTransport` is the real one, over aiohttp: its exceptions become ours here, made anew without
their cause, since aiohttp's own texts can hold addresses and headers. Bodies are decompressed
here, piece by piece and within bounds, so that a small answer cannot become a large one unseen.
"""

from __future__ import annotations

import errno
import ssl
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp

from bulkfetch._errors import (
    ConfigurationError,
    CourseError,
    LocalFault,
    RunRefused,
    StaleConnection,
    Transient,
    Unreadable,
)
from bulkfetch._text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping
    from contextlib import AbstractAsyncContextManager

    from bulkfetch._options import Options

PIECE: Final = 64 << 10
"""Most bytes that one `read` returns."""
_FREE_RATIO_BYTES: Final = 16 << 20
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
        """Return the next decompressed bytes, b"" at the end. Raises CourseError."""


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

    __slots__ = ("_max_ratio", "_request", "_response")

    def __init__(self, request: Awaitable[aiohttp.ClientResponse], max_ratio: int) -> None:
        self._request = request
        self._max_ratio = max_ratio

    async def __aenter__(self) -> HttpReply:
        try:
            self._response = await self._request
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _before_the_head(error) from None
        return HttpReply(self._response, self._max_ratio)

    async def __aexit__(self, *_: object) -> None:
        response = self._response
        if response.content.at_eof():
            response.release()
        else:
            response.close()


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


class HttpReply:
    """A Reply over aiohttp's response."""

    def __init__(self, response: aiohttp.ClientResponse, max_ratio: int) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._content = response.content
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
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
                data = await self._content.read(PIECE)  # all that is there could be 768 KiB
            except (aiohttp.ClientError, OSError, zlib.error) as error:
                raise _inside_the_body(error) from None
            if not (self._gunzip and data):
                return data
            self._gunzip.put(data)


class Gunzip:
    """Decompresses gzip members in pieces of at most 64 KiB, within a ratio past 16 MiB."""

    def __init__(self, max_ratio: int) -> None:
        self._max_ratio = max_ratio
        self._inflater = zlib.decompressobj(wbits=31)
        self._input = b""
        self._taken = 0
        self._given = 0

    def put(self, data: bytes) -> None:
        self._input += data
        self._taken += len(data)

    def take(self) -> bytes:
        """Return the next piece, b"" when more input is needed. Raises CourseError."""
        while self._input or self._inflater.unconsumed_tail:
            data = self._inflater.unconsumed_tail + self._input
            self._input = b""
            try:
                piece = self._inflater.decompress(data, PIECE)
            except zlib.error as error:
                raise Transient("bad-gzip", f"the response is not valid gzip: {error}") from None
            if self._inflater.eof and self._inflater.unused_data:
                self._input = self._inflater.unused_data
                self._inflater = zlib.decompressobj(wbits=31)
            if piece:
                self._given += len(piece)
                self._check_ratio()
                return piece
        return b""

    def _check_ratio(self) -> None:
        if self._given > max(_FREE_RATIO_BYTES, self._taken * self._max_ratio):
            raise Unreadable(
                "too-large",
                f"the response grows more than {self._max_ratio} times when decompressed: "
                "raise max_ratio if that is expected",
            )


def _before_the_head(error: Exception) -> CourseError:  # noqa: C901, PLR0911 - one table
    """Say what an exception before the response's head means, by its type, never by its text."""
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
            return StaleConnection("disconnected", "the server closed the connection unanswered")
        case OSError() if error.errno in {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}:
            return StaleConnection("disconnected", "the server reset the connection unanswered")
        case OSError() if error.errno in _LOCAL_ERRORS:
            return _local(error)
        case aiohttp.ClientHttpProxyError():
            return RunRefused("proxy", f"the proxy refuses with HTTP {error.status}")
        case aiohttp.ClientResponseError():
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
        case aiohttp.ClientResponseError():
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
