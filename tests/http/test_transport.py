"""The border to aiohttp: its answers become replies, its exceptions ours, by type alone.

Small answers and errors come from aioresponses; what tears, stalls or floods is in the tests of
faults, from a raw server.
"""

import errno
import gzip
import os
import ssl
import zlib
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp.http_exceptions import HttpProcessingError
from answers import options
from hypothesis import given
from hypothesis import strategies as st
from mock_http import mocked
from yarl import URL

from bulkfetch import ConfigurationError, RunRefused, Transient, Unreadable
from bulkfetch._domain.errors import LocalFault, StaleConnection
from bulkfetch._http.gunzip import PIECE, Gunzip
from bulkfetch._http.session import HttpTransport, open_session
from bulkfetch._http.tls import tls_context
from bulkfetch._http.transport import Sealed

URL_ = "https://lms.example/soap"
CERTIFICATE = Path(__file__).parent.parent / "data" / "self_signed.pem"
KEY = SimpleNamespace(host="lms.example", port=443, is_ssl=True, ssl=True)
REQUEST = aiohttp.RequestInfo(URL(URL_), "POST", {}, URL(URL_))


async def post(body=b"hello", headers=None, **changes):
    """Send one request; return status, headers and the pieces of the body."""
    pieces = []
    async with open_session() as session:
        transport = HttpTransport(options(URL_, **changes), session)
        async with transport.post(URL_, body, headers or {}) as reply:
            while piece := await reply.read():
                pieces.append(piece)
            assert await reply.read() == b""
            return reply.status, reply.headers, pieces


# Answers


@pytest.mark.parametrize("status", [200, 204, 302, 401, 429, 500, 503])
async def test_an_answer_is_handed_over_as_it_is(status):
    """Status, headers and bytes, whatever the status; no error is raised for it."""
    with mocked(URL_) as server:
        server.answer(b"<x/>", status=status, content_type="text/xml", Retry_After="7")
        got, headers, pieces = await post()
    assert (got, b"".join(pieces)) == (status, b"<x/>")
    assert headers["Retry-After"] == headers["retry-after"] == "7"


async def test_what_is_sent():
    """The body as it is, no redirects, no decompression by aiohttp, our timeouts, verified TLS."""
    with mocked(URL_) as server:
        server.answer(b"<x/>")
        await post(Sealed(b"body"), {"SOAPAction": '"X"'}, proxy="http://proxy.example:3128")
        [call] = server.calls
    assert (call["data"], call["headers"]) == (b"body", {"SOAPAction": '"X"'})
    assert (call["allow_redirects"], call["auto_decompress"]) == (False, False)
    assert (call["proxy"], call["ssl"]) == ("http://proxy.example:3128", True)
    timeout = call["timeout"]
    assert (timeout.total, timeout.sock_connect, timeout.sock_read) == (20.0, 5.0, 10.0)


async def test_the_session_keeps_to_itself():
    """No cookies are kept, the environment is not read, the limiter alone counts connections."""
    async with open_session() as session:
        assert session.trust_env is False
        assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
        assert session.connector.limit == 0
    assert session.closed


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", " GZIP "])
async def test_gzip_is_unpacked(encoding):
    """In any spelling of its name, and in pieces of bounded size."""
    text = os.urandom(1000) * 500
    with mocked(URL_) as server:
        server.answer(gzip.compress(text), Content_Encoding=encoding)
        _, _, pieces = await post()
    assert b"".join(pieces) == text
    assert max(map(len, pieces)) <= PIECE


@pytest.mark.parametrize("encoding", ["identity", "", " Identity"])
async def test_no_encoding(encoding):
    """Identity is no encoding."""
    with mocked(URL_) as server:
        server.answer(b"<x/>", Content_Encoding=encoding)
        assert (await post())[2] == [b"<x/>"]


async def test_an_unasked_encoding_is_shown_cleaned():
    """A header may hold anything: what is shown of it is short and harmless."""
    with mocked(URL_) as server:
        server.answer(b"x", Content_Encoding="br\x1b[31m" + "x" * 500)
        with pytest.raises(Unreadable) as caught:
            await post()
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 150


# Errors


def os_error(number, kind=OSError):
    return kind(number, os.strerror(number))


def connector(number):
    return aiohttp.ClientConnectorError(KEY, os_error(number))


BEFORE_THE_HEAD = [
    (aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError()), RunRefused, "cert"),
    (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "bad")), RunRefused, "tls-handshake"),
    (aiohttp.ClientConnectorDNSError(KEY, os_error(errno.ENOENT)), Transient, "dns"),
    (aiohttp.ConnectionTimeoutError("secret"), Transient, "connect-timeout"),
    (aiohttp.SocketTimeoutError("secret"), Transient, "timeout"),
    (TimeoutError("secret"), Transient, "timeout"),
    (aiohttp.ClientProxyConnectionError(KEY, os_error(errno.ECONNREFUSED)), Transient, "connect"),
    (connector(errno.ECONNREFUSED), Transient, "connect"),
    (connector(errno.EHOSTUNREACH), Transient, "route"),
    (connector(errno.ENETUNREACH), Transient, "route"),
    (connector(errno.ETIMEDOUT), Transient, "connect-timeout"),
    (connector(errno.ECONNRESET), Transient, "tls"),
    (connector(errno.EMFILE), LocalFault, "local"),
    (connector(errno.EADDRNOTAVAIL), LocalFault, "local"),
    (aiohttp.ServerDisconnectedError("secret"), StaleConnection, "disconnected"),
    (aiohttp.ClientOSError(errno.ECONNRESET, "secret"), StaleConnection, "disconnected"),
    (aiohttp.ClientOSError(errno.EPIPE, "secret"), StaleConnection, "disconnected"),
    (ConnectionResetError("secret"), StaleConnection, "disconnected"),
    (os_error(errno.EMFILE), LocalFault, "local"),
    (os_error(errno.ENOBUFS), LocalFault, "local"),
    (
        aiohttp.ClientHttpProxyError(REQUEST, (), status=407, message="secret"),
        RunRefused,
        "proxy",
    ),
    (
        aiohttp.ClientResponseError(REQUEST, (), status=400, message="secret"),
        Transient,
        "bad-http",
    ),
    (HttpProcessingError(message="secret"), Transient, "bad-http"),
    (aiohttp.InvalidURL("http://secret"), RunRefused, "bad-request"),
    (ValueError("secret"), RunRefused, "bad-request"),
    (aiohttp.ClientConnectionError("secret"), Transient, "network"),
    (os_error(errno.ENETDOWN), Transient, "network"),
]


@pytest.mark.parametrize(
    ("error", "verdict", "kind"),
    BEFORE_THE_HEAD,
    ids=[f"{type(error).__name__}-{kind}" for error, _, kind in BEFORE_THE_HEAD],
)
async def test_an_error_before_the_head(error, verdict, kind):
    """aiohttp's exceptions become ours by type, with our own words and no context to print."""
    with mocked(URL_) as server:
        server.error(error)
        with pytest.raises(verdict) as caught:
            await post()
    ours = caught.value
    assert type(ours) is verdict
    assert ours.kind.startswith(kind)
    assert "secret" not in ours.message
    assert ours.__suppress_context__
    assert ours.__cause__ is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (aiohttp.ConnectionTimeoutError(), "connect timeout"),
        (aiohttp.SocketTimeoutError(), "silent for longer than the read timeout"),
        (TimeoutError(), "longer than the timeout"),
        (connector(errno.ECONNREFUSED), "no connection to lms.example:443 (ECONNREFUSED)"),
        (connector(errno.EMFILE), "short of sockets or files (EMFILE)"),
        (aiohttp.ClientConnectorDNSError(KEY, os_error(errno.ENOENT)), "lms.example:443 is not"),
    ],
)
async def test_an_error_names_what_matters(error, words):
    """The host, the reason, the setting."""
    with mocked(URL_) as server:
        server.error(error)
        with pytest.raises(Transient) as caught:
            await post()
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("error", "overload", "most"),
    [
        (TimeoutError(), True, None),
        (connector(errno.ECONNREFUSED), False, None),
        (aiohttp.ClientResponseError(REQUEST, ()), False, 1),
        (aiohttp.ServerDisconnectedError(), False, None),
    ],
)
async def test_an_error_says_what_to_do(error, overload, most):
    """Timeouts are a sign of overload; bad HTTP is worth one retry only."""
    with mocked(URL_) as server:
        server.error(error)
        with pytest.raises(Transient) as caught:
            await post()
    assert (caught.value.overload, caught.value.most_retries) == (overload, most)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aiohttp.SocketTimeoutError("secret"), "timeout"),
        (TimeoutError("secret"), "timeout"),
        (aiohttp.ClientPayloadError("secret"), "truncated"),
        (aiohttp.ClientResponseError(REQUEST, (), message="secret"), "bad-http"),
        (HttpProcessingError(message="secret"), "bad-http"),
        (RuntimeError("Connection closed."), "bad-http"),
        (aiohttp.ClientConnectionError("secret"), "disconnected"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "secret"), "disconnected"),
        (ConnectionResetError("secret"), "disconnected"),
    ],
)
async def test_an_error_inside_the_body(error, kind, monkeypatch):
    """It is always passing, whatever came before."""

    def broken(self, n=-1):
        raise error

    with mocked(URL_) as server:
        server.answer(b"<x>")
        monkeypatch.setattr(aiohttp.StreamReader, "read_nowait", broken)
        with pytest.raises(Transient) as caught:
            await post()
    assert caught.value.kind == kind
    assert "secret" not in caught.value.message
    assert caught.value.__suppress_context__


async def test_any_other_exception_is_not_swallowed():
    """A mistake in the program is not a failure of the network."""
    with mocked(URL_) as server:
        server.error(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await post()


# Gunzip


def unpacked(data, sizes, **changes):
    """Unpack `data` handed over in slices of these sizes, repeated."""
    gunzip = Gunzip(**({"max_ratio": 200} | changes))
    pieces, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        gunzip.put(data[at : at + size])
        at, turn = at + size, turn + 1
        while piece := gunzip.take():
            pieces.append(piece)
    return pieces


@given(
    texts=st.lists(st.binary(max_size=300).map(lambda part: part * 70), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 5_000), min_size=1, max_size=5),
)
def test_gunzip_any_members_in_any_slices(texts, sizes):
    """One member or several, in slices of any size: the same bytes, in bounded pieces."""
    data = b"".join(map(gzip.compress, texts))
    pieces = unpacked(data, sizes)
    assert b"".join(pieces) == b"".join(texts)
    assert all(len(piece) <= PIECE for piece in pieces)


def test_gunzip_of_a_large_text_at_once():
    """A slice that grows a lot comes out in many pieces, none of them larger than 64 KiB."""
    text = bytes(range(256)) * 20_000
    pieces = unpacked(gzip.compress(text), [1 << 20])
    assert b"".join(pieces) == text
    assert {len(piece) for piece in pieces[:-1]} <= set(range(1, PIECE + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"<x/>",
        gzip.compress(b"x" * 1000, mtime=0)[:-8] + b"12345678",
        zlib.compress(b"x" * 1000),
    ],
)
def test_gunzip_of_what_is_no_gzip(data):
    """Wrong magic, wrong checksum: a passing failure."""
    with pytest.raises(Transient) as caught:
        unpacked(data, [7])
    assert caught.value.kind == "bad-gzip"


def test_gunzip_within_its_ratio():
    """The first 16 MiB are free; beyond them the ratio counts, and the message names it."""
    inside = gzip.compress(bytes(16 << 20), 9)
    assert sum(map(len, unpacked(inside, [4096], max_ratio=1))) == 16 << 20
    with pytest.raises(Unreadable, match="raise max_ratio") as caught:
        unpacked(gzip.compress(bytes((16 << 20) + PIECE), 9), [4096], max_ratio=1)
    assert caught.value.kind == "too-large"


# TLS


def test_the_systems_tls_does_by_default():
    """Without own certificates no context is made: aiohttp's verifies."""
    assert tls_context(options()) is None


def test_own_certificates_are_used_and_all_is_verified():
    """An authority and a client certificate, with host names checked as ever."""
    context = tls_context(options(cacert=CERTIFICATE, cert=CERTIFICATE, key=CERTIFICATE))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize("name", ["cacert", "cert"])
@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_used(name, content, tmp_path):
    """The message names the file, before any request."""
    path = tmp_path / "bad.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"cannot use the certificates in .*bad\.pem"):
        tls_context(options(**{name: path}))


def test_sealed_bytes_show_nothing():
    """They are sent as they are, and printed as their length alone."""
    sealed = Sealed(b"token")
    assert (sealed, len(sealed)) == (b"token", 5)
    assert repr(sealed) == str(sealed) == f"{sealed}" == "Sealed(5 bytes)"
