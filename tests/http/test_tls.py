"""Each trouble with certificates and TLS has its kind, its sentence and the advice that fits.

The servers are real ones on loopback, their certificates made by trustme; both ways to the server.
"""

import asyncio
import contextlib
import datetime as dt
import os
import socket
import ssl
import struct
import threading

import aiohttp
import pytest
import trustme
from answers import GOOD, options, run, statuses

from bulkfetch import ConfigurationError, RunRefused, ServerRefuses, Transient
from bulkfetch._domain.errors import NEVER_CONNECTED
from bulkfetch._http.tls import tls_context
from bulkfetch.testing import RawServer, http_answer

OK = http_answer(statuses(GOOD))
PAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture
def files(authority, tmp_path):
    """Paths of PEM files: the authority, a client's certificate, its key, and both in one."""

    def written(name, *blobs):
        path = tmp_path / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return path

    client = authority.issue_cert("client@example.org")
    stranger = trustme.CA().issue_cert("stranger@example.org")
    chain = client.cert_chain_pems
    return {
        "cacert": written("ca.pem", authority.cert_pem),
        "cert": written("cert.pem", *chain),
        "key": written("key.pem", client.private_key_pem),
        "both": written("both.pem", client.private_key_pem, *chain),
        "stranger": written("stranger.pem", stranger.private_key_pem, *stranger.cert_chain_pems),
    }


@contextlib.contextmanager
def serving(certificate, *, clients=None, versions=None, later=False):
    """A TLS server; `clients` is the authority of its clients' certificates, asked for `later`.

    It has a thread: asyncio's own drops the alert that tells why a handshake failed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.post_handshake_auth = later
        clients.configure_trust(context)
    if versions:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version, context.maximum_version = versions

    def serve(listener):
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                with connection, contextlib.suppress(OSError):
                    converse(connection)

    def converse(connection):
        connection.settimeout(20)
        with socket.socket(fileno=os.dup(connection.fileno())) as raw:
            try:
                with context.wrap_socket(connection, server_side=True) as tls:
                    while b"</SOAP-ENV:Envelope>" in tls.recv(100_000):
                        if later:
                            tls.verify_client_post_handshake()
                            tls.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
                        tls.sendall(OK)
            except ssl.SSLError:  # the alert is out: let it be read before the end
                raw.settimeout(20)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(100_000):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


async def refusal(url, **changes):
    """One course meets a refusal that all would share: one request, never again."""
    result = await run(endpoint=url, **changes)
    assert result.rows == {}
    assert len(result.kinds) == 1
    error = result.failed["c1"]
    assert type(error) is RunRefused
    assert url.split("/")[2] in error.message
    return error.kind, error.message


async def test_f04_an_authority_that_nobody_knows(authority, way):
    """The only trouble that --cacert mends."""
    with serving(authority.issue_cert("127.0.0.1")) as url:
        kind, message = await refusal(url)
    assert kind == "certificate"
    assert "--cacert" in message


@pytest.mark.parametrize(
    ("names", "changes", "kind", "words"),
    [
        (["127.0.0.1"], {"not_after": PAST}, "certificate-expired", "has expired"),
        (["10.0.0.1"], {}, "certificate-name", "is not for this IP address"),
        (["other.example"], {}, "certificate-name", "check|IP address"),
    ],
)
async def test_f04_a_certificate_that_does_not_fit(
    names, changes, kind, words, authority, files, way
):
    """It has expired or is for another host: no authority would mend that."""
    with serving(authority.issue_cert(*names, **changes)) as url:
        got, message = await refusal(url, cacert=files["cacert"])
    assert got == kind
    assert any(word in message for word in words.split("|"))
    assert "--cacert" not in message


@pytest.mark.parametrize("version", [V12, V13])
async def test_f04_a_client_certificate_is_missing(version, authority, files, way):
    """Under TLS 1.3 the first read tells; --cert is named either way, and the run ends."""
    server = serving(
        authority.issue_cert("127.0.0.1"), clients=authority, versions=(version, version)
    )
    with server as url:
        kind, message = await refusal(url, cacert=files["cacert"])
        ids = [f"c{number}" for number in range(30)]
        result = await run(ids, url, cacert=files["cacert"], concurrency=1)
    assert kind == "client-certificate"
    assert "--cert" in message
    assert type(result.error) is ServerRefuses
    assert "--cert" in str(result.error)


@pytest.mark.parametrize("version", [V12, V13])
async def test_f04_a_client_certificate_that_is_not_accepted(version, authority, files, way):
    """One is there, but its authority is not the server's: no advice to name one."""
    server = serving(
        authority.issue_cert("127.0.0.1"), clients=authority, versions=(version, version)
    )
    with server as url:
        kind, message = await refusal(url, cacert=files["cacert"], cert=files["stranger"])
    assert kind == "client-certificate"
    assert "does not accept the client certificate" in message


@contextlib.contextmanager
def resetting(certificate, then=None):
    """Resets its first connection at the request; sends the next one on to the port `then`.

    Without `then` it resets each, and ends those on which nobody asks. Gives URL and connections.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    met = []

    def reset(connection):
        met.append(connection)
        connection.settimeout(0.5)
        tls = context.wrap_socket(connection, server_side=True)
        with contextlib.suppress(TimeoutError):
            tls.recv(1)
        tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        tls.close()

    def serve(listener):
        with contextlib.suppress(OSError):
            reset(listener.accept()[0])
            while then is None:
                reset(listener.accept()[0])
            with listener.accept()[0] as near, socket.create_connection(("127.0.0.1", then)) as far:
                back = threading.Thread(target=pass_on, args=[far, near])
                back.start()
                pass_on(near, far)
                back.join(20)

    def pass_on(source, target):
        source.settimeout(20)
        with contextlib.suppress(OSError):
            while data := source.recv(100_000):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/", met
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(20)


@pytest.mark.parametrize("cert", [None, "stranger"])
async def test_f04_an_alert_that_a_reset_overtook(cert, authority, files, way):
    """Under TLS 1.3 it is listened for on a connection on which nothing is written."""
    certificate = authority.issue_cert("127.0.0.1")
    cert = cert and files[cert]
    with (
        serving(certificate, clients=authority, versions=(V13, V13)) as url,
        resetting(certificate, int(url.split(":")[2][:-1])) as (first, _),
    ):
        kind, message = await refusal(first, cacert=files["cacert"], cert=cert)
    assert kind == "client-certificate"
    assert ("does not accept" if cert else "asks for a client certificate") in message


async def test_a_server_that_resets_is_listened_to_once(authority, files, way):
    """However many requests it resets; what it does otherwise then is no verdict."""
    with resetting(authority.issue_cert("127.0.0.1")) as (url, met):
        ids = [f"c{number}" for number in range(4)]
        result = await run(ids, url, cacert=files["cacert"], retries=1, patience=0, concurrency=1)
    assert set(result.kinds) == {"disconnected"}
    assert len(met) == len(result.kinds) + 1


async def test_a_callers_session_is_not_gone_past(authority):
    """It may connect in ways of its own, here with an authority of its own."""
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with resetting(authority.issue_cert("127.0.0.1")) as (url, _):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:
            setup = {"session": session}
            result = await run(endpoint=url, retries=1, patience=0, setup=setup)
    assert set(result.kinds) == {"disconnected"}


@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("split", [False, True])
async def test_f04_a_client_certificate(version, split, authority, files, way):
    """With its key in the same file or in one of its own."""
    names = {"cert": files["cert"], "key": files["key"]} if split else {"cert": files["both"]}
    server = serving(
        authority.issue_cert("127.0.0.1"), clients=authority, versions=(version, version)
    )
    with server as url:
        result = await run(endpoint=url, cacert=files["cacert"], **names)
    assert result.rows == {"c1": GOOD}


async def test_f04_a_client_certificate_that_is_asked_for_later(authority, files, way):
    """As Apache does for a path that needs one, in the middle of the request."""
    server = serving(
        authority.issue_cert("127.0.0.1"), clients=authority, versions=(V13, V13), later=True
    )
    with server as url:
        result = await run(endpoint=url, cacert=files["cacert"], cert=files["both"])
    assert result.rows == {"c1": GOOD}


async def test_f04_only_old_versions_of_tls(authority, files, way):
    """A server that offers 1.1 at most."""
    old = ssl.TLSVersion.TLSv1_1
    server = serving(authority.issue_cert("127.0.0.1"), versions=(old, old))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"), server as url:
        kind, message = await refusal(url, cacert=files["cacert"])
    assert kind == "tls-version"
    assert "1.2 or 1.3" in message


async def test_f05_http_to_a_tls_port(way):
    """It answers with a TLS alert, which is no HTTP: the address needs https."""
    async with RawServer(b"\x15\x03\x01\x00\x02\x02\x46") as server:
        kind, message = await refusal(server.url)
    assert kind == "tls-port"
    assert "https://" in message


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
async def test_f05_tls_to_a_plain_port(said, way):
    """It says nothing of certificates."""

    async def plain(reader, writer):
        await reader.read(100)
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        kind, message = await refusal(url)
    assert kind == "no-tls"
    assert "does not speak TLS" in message


async def test_f05_a_handshake_that_breaks_off_passes(way):
    """A front end that restarts does this: another try may succeed."""

    async def gone(reader, writer):
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(gone, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        result = await run(endpoint=url, retries=1)
    assert result.kinds == ["tls", "tls"]
    assert type(result.failed["c1"]) is Transient
    assert set(result.kinds) <= NEVER_CONNECTED


# Settings that do not serve


def test_a_certificate_without_its_key(files):
    """It is said which file holds none, and what to name."""
    with pytest.raises(ConfigurationError, match=r"cert\.pem holds no private key: .*--key"):
        tls_context(options(cert=files["cert"]))


def test_a_key_of_another_certificate(files):
    """The two files are named."""
    with pytest.raises(ConfigurationError, match=r"stranger\.pem does not belong to it"):
        tls_context(options(cert=files["cert"], key=files["stranger"]))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(files, tmp_path):
    """OpenSSL would wait at the terminal for its password."""
    path = tmp_path / "encrypted.pem"
    path.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----"
    )
    with pytest.raises(ConfigurationError, match=r"encrypted\.pem is encrypted"):
        tls_context(options(cert=files["cert"], key=path))


def test_certificates_may_be_asked_for_after_the_handshake(files):
    """As Apache does for a path that needs one; TLS 1.3 has clients allow it."""
    assert tls_context(options(cert=files["both"])).post_handshake_auth
