"""What exceptions of sockets, HTTP and TLS mean: each becomes one of our errors, in words.

They are told apart by type and number. The words name who is meant, the server or the proxy in
front of it, and never repeat another library's text, which can hold addresses and headers.
"""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError, TransferEncodingError

from bulkfetch._domain.errors import (
    CourseError,
    RunRefused,
    StaleConnection,
    Transient,
)
from bulkfetch._domain.retry_after import asked_pause
from bulkfetch._domain.text import printable
from bulkfetch._http.shortage import local_fault
from bulkfetch._http.tls import tls_reason, tls_trouble

if TYPE_CHECKING:
    from bulkfetch._config.options import Options

BEFORE_THE_HEAD: Final = (
    *(aiohttp.ClientError, HttpProcessingError, OSError, ValueError),
    RuntimeError,  # no thread for a name's look-up
)
"""What may be raised until the response's head has come."""
INSIDE_THE_BODY: Final = (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError)
"""What may be raised after it: RuntimeError when a bad chunk has ended the connection before."""

_NO_ROUTE: Final = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}
_RESET: Final = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED}
_PERHAPS_TLS: Final = ": if it speaks TLS, write https:// in its address"
_TLS_ALERT: Final = ("\\x15\\x03", "\x15\x03")  # as the two parsers of aiohttp quote it


class ServedBefore(aiohttp.ServerDisconnectedError):
    """A connection that had served before ended as it was used again."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where a request goes, for the words of its errors; the proxy as host and port."""

    url: str
    proxy: str = ""
    certified: bool = False
    """Whether there is a client certificate."""

    @classmethod
    def of(cls, url: str, options: Options) -> Way:
        return cls(url, host_and_port(options.proxy or ""), certified=options.cert is not None)

    def server(self) -> str:
        through = f" through the proxy {self.proxy}" if self.proxy else ""
        return f"{host_and_port(self.url) or 'the server'}{through}"

    def named(self, error: object) -> str:
        """Name whom a connection was for: the proxy itself, or the server behind it."""
        host, port = getattr(error, "host", None), getattr(error, "port", None)
        if not host:
            return self.server()
        name = printable(f"{host}:{port}")
        if name == self.proxy:
            return f"the proxy {name}"
        return f"{name} through the proxy {self.proxy}" if self.proxy else name


def host_and_port(url: str) -> str:
    """Return a URL's host and port, the default one too; nothing if it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return ""
    return printable(f"{parts.hostname}:{port}") if parts.hostname else ""


def before_the_head(error: Exception, way: Way, *, kept: bool = False) -> CourseError:
    """Say what an exception before the response's head means; raises it if it means nothing here.

    `kept` says that the connection may have served before: a caller's session does not tell.
    """
    if short := local_fault(error):
        return short
    if reason := tls_reason(error):
        return tls_trouble(reason, way.named(error), certified=way.certified)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _no_connection(error, way)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        pause = asked_pause(error.headers or {}, time.time())
        return proxy_refusal(error.status, way, pause=pause)
    return _unanswered(error, way, kept=kept)


def _no_connection(error: aiohttp.ClientConnectorError, way: Way) -> Transient:
    name, number = way.named(error), error.os_error.errno
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _no_address(name, number)
    if number in _NO_ROUTE:
        return Transient("route", f"there is no route to {name} ({_symbol(error.os_error)})")
    if number == errno.ETIMEDOUT:
        return Transient("connect-timeout", f"{name} does not answer (ETIMEDOUT)", overload=True)
    if number != errno.ECONNREFUSED and isinstance(error.os_error, ConnectionError):
        return Transient("tls", f"{name} broke the TLS handshake off ({_symbol(error.os_error)})")
    return Transient("connect", f"no connection to {name} ({_symbol(error.os_error)})")


def _no_address(name: str, number: int | None) -> Transient:
    if number == socket.EAI_AGAIN:
        return Transient(
            "dns",
            f"the name of {name} cannot be resolved now, no name server knows it or none answers: "
            "check the spelling, and the network",
        )
    return Transient("dns", f"the host {name} is not found: check the spelling of its name")


def _symbol(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def proxy_refusal(status: int, way: Way, *, pause: float | None = None) -> CourseError:
    """Say what a proxy's own answer means."""
    proxy = f"the proxy {way.proxy}"
    if status == 407:
        return RunRefused(
            "proxy",
            f"{proxy} asks for a name and a password, or does not accept them (HTTP 407): write "
            "--proxy http://NAME@HOST:PORT and set BULKFETCH_PROXY_PASSWORD",
        )
    if status in {408, 429} or status >= 500:
        return Transient(
            "proxy",
            f"{proxy} cannot connect to {host_and_port(way.url)} now (HTTP {status})",
            retry_after=pause,
            overload=status in {408, 429, 503},
        )
    return RunRefused(
        "proxy",
        f"{proxy} does not connect to {host_and_port(way.url)} (HTTP {status}): "
        "check --proxy, or ask who runs it to allow this host",
    )


def _unanswered(error: Exception, way: Way, *, kept: bool) -> CourseError:
    """Say what an exception on a connection means that came about."""
    lost = StaleConnection if kept or isinstance(error, ServedBefore) else Transient
    plain = lost is Transient and way.url.startswith("http:") and not way.proxy
    unanswered = "unanswered" + (_PERHAPS_TLS if plain else "")
    match error:
        case aiohttp.ConnectionTimeoutError():
            words = f"no connection to {way.server()} within the connect timeout"
            return Transient("connect-timeout", words, overload=True)
        case TimeoutError():
            return Transient("timeout", _timeout_words(error), overload=True)
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return lost("disconnected", f"{_whoever(way)} closed the connection {unanswered}")
        case OSError() if error.errno in _RESET:
            return lost("disconnected", f"{_whoever(way)} reset the connection {unanswered}")
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return _no_http(error.message, way)
        case ValueError():
            words = f"no request can be sent to {way.server()} ({type(error).__name__})"
            return RunRefused("bad-request", f"{words}: check the address")
        case RuntimeError():
            raise error  # a mistake in the program
        case _:
            return Transient("network", f"the connection failed ({type(error).__name__})")


def _no_http(message: str, way: Way) -> CourseError:
    if any(alert in message for alert in _TLS_ALERT):
        return RunRefused(
            "tls-port",
            f"{way.server()} answers in TLS to plain http: write https:// in its address",
        )
    return Transient("bad-http", f"the answer of {_whoever(way)} is not valid HTTP", most_retries=1)


def _whoever(way: Way) -> str:
    """Name who is at the other end of the connection, as far as that can be known."""
    if not way.proxy:
        return "the server"
    return f"the server or the proxy {way.proxy}"


def inside_the_body(error: Exception) -> CourseError:
    """Say what an exception after the response's head means: it is always passing."""
    if short := local_fault(error):
        return short
    match error:
        case TimeoutError():
            return Transient("timeout", _timeout_words(error), overload=True)
        case aiohttp.ClientPayloadError() if not _broken_chunk(error):
            return Transient("truncated", "the connection ended inside the response")
        case (
            aiohttp.ClientPayloadError()
            | aiohttp.ClientResponseError()
            | HttpProcessingError()
            | RuntimeError()
        ):
            return Transient("bad-http", "the response's body is not valid HTTP", most_retries=1)
        case _:
            return Transient("disconnected", "the connection broke inside the response")


def _broken_chunk(error: Exception) -> bool:
    """Whether a body broke in itself: aiohttp's parser in Python calls this and a cut the same."""
    cut = str(error).startswith("Response payload is not completed")
    return isinstance(error.__cause__, TransferEncodingError) and not cut


def _timeout_words(error: Exception) -> str:
    if isinstance(error, aiohttp.SocketTimeoutError):
        return "the server was silent for longer than the read timeout"
    return "the request took longer than the timeout"
