"""Proxies: asked with name and password, named where they are to blame, and waited for.

A raw server plays the proxy; squid plays itself where it is installed.
"""

import asyncio
import shutil
import socket
from base64 import b64encode
from pathlib import Path
from tempfile import mkdtemp

import pytest
from answers import GOOD, options, run, statuses

from bulkfetch import RunRefused, Transient
from bulkfetch._domain.errors import NEVER_CONNECTED, LocalFault
from bulkfetch._http.direct import open_transport
from bulkfetch.testing import RawServer, http_answer

OK = http_answer(statuses(GOOD))
SQUID = shutil.which("squid") or "/usr/sbin/squid"
PLAIN, TLS = "http://127.0.0.1:9/soap", "https://lms.example/soap"


def through(proxy, user=""):
    return f"http://{user}127.0.0.1:{proxy.port}"


@pytest.mark.parametrize("endpoint", [PLAIN, TLS])
async def test_name_and_password_are_sent(endpoint):
    """In the header that is for the proxy, and nowhere else."""
    async with RawServer([http_answer(b"", status="403 Forbidden"), OK]) as proxy:
        await run(endpoint=endpoint, proxy=through(proxy, "me%40x:p%3Ass@"), retries=0, patience=0)
        [request] = proxy.requests
    assert request.header("Proxy-Authorization") == f"Basic {b64encode(b'me@x:p:ss').decode()}"
    assert request.header("Authorization") is None
    assert b"p:ss" not in request.head
    assert (b"CONNECT lms.example:443" in request.head) is (endpoint == TLS)


async def test_a_password_from_its_own_setting():
    """With the name in the URL."""
    async with RawServer(OK) as proxy:
        result = await run(endpoint=PLAIN, proxy=through(proxy, "me@"), proxy_password="p\xe4ss")
        [request] = proxy.requests
    assert result.rows == {"c1": GOOD}
    credentials = b64encode("me:p\xe4ss".encode()).decode()
    assert request.header("Proxy-Authorization") == f"Basic {credentials}"


@pytest.mark.parametrize("endpoint", [PLAIN, TLS])
async def test_a_proxy_that_wants_a_password(endpoint):
    """Exit 4, the proxy named, and where the password goes; no password is shown."""
    async with RawServer(http_answer(b"", status="407 Authenticate")) as proxy:
        result = await run(endpoint=endpoint, proxy=through(proxy, "me:hunter2@"))
        requests = len(proxy.requests)
    error = result.failed["c1"]
    assert (type(error), error.kind, requests) == (RunRefused, "proxy", 1)
    assert f"the proxy 127.0.0.1:{proxy.port}" in error.message
    assert "BULKFETCH_PROXY_PASSWORD" in error.message
    assert "hunter2" not in error.message


@pytest.mark.parametrize(
    ("status", "verdict", "overload", "requests"),
    [
        ("503 Busy", Transient, True, 3),
        ("502 Bad Gateway", Transient, False, 3),
        ("504 Timeout", Transient, False, 3),
        ("403 Forbidden", RunRefused, None, 1),
        ("405 Not Allowed", RunRefused, None, 1),
    ],
)
async def test_a_proxy_that_does_not_connect(status, verdict, overload, requests):
    """What CONNECT is answered with is the proxy's: 5xx passes, a prohibition does not."""
    async with RawServer(http_answer(b"", status=status)) as proxy:
        result = await run(endpoint=TLS, proxy=through(proxy), retries=2)
        assert len(proxy.requests) == requests
    error = result.failed["c1"]
    assert (type(error), error.kind) == (verdict, "proxy")
    assert getattr(error, "overload", None) is overload
    assert f"the proxy 127.0.0.1:{proxy.port}" in error.message
    assert "lms.example:443" in error.message


async def test_a_proxys_retry_after_is_obeyed():
    """The pause is the one that it asks for."""
    busy = http_answer(b"", status="503 Busy", headers=["Retry-After: 2.5"])
    async with (
        RawServer(busy) as proxy,
        open_transport(options(TLS, proxy=through(proxy))) as transport,
    ):
        with pytest.raises(Transient) as caught:
            await transport.post(TLS, b"", {}).__aenter__()
    assert caught.value.retry_after == 2.5


async def test_a_proxy_that_is_not_there():
    """It is named, not the endpoint, and no connection ever was."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    result = await run(endpoint=TLS, proxy=f"http://127.0.0.1:{port}", retries=0)
    error = result.failed["c1"]
    assert error.kind == "connect"
    assert error.kind in NEVER_CONNECTED
    assert error.message == f"no connection to the proxy 127.0.0.1:{port} (ECONNREFUSED)"


async def test_a_proxy_that_speaks_no_tls():
    """Said of the proxy, since it is the proxy that was spoken to."""
    async with RawServer(b"") as proxy:
        address = f"https://127.0.0.1:{proxy.port}"

        async def plain(reader, writer):
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            address = f"https://127.0.0.1:{port}"
            result = await run(endpoint=PLAIN, proxy=address, retries=0)
    error = result.failed["c1"]
    assert error.kind == "no-tls"
    assert f"the proxy 127.0.0.1:{port}" in error.message


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (socket.EAI_NONAME, "check the spelling"),
        (socket.EAI_AGAIN, "check the spelling, and the network"),
    ],
)
async def test_f02_names_that_are_not_found(number, words, monkeypatch):
    """Passing, since name servers fail too; but the spelling is mentioned at once."""

    async def nowhere(*args, **kwargs):
        raise socket.gaierror(number, "secret")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", nowhere)
    result = await run(endpoint=TLS, retries=1)
    error = result.failed["c1"]
    assert result.kinds == ["dns", "dns"]
    assert type(error) is Transient
    assert words in error.message
    assert "lms.example:443" in error.message
    proxied = await run(endpoint=TLS, proxy="http://proxy.example:3128", retries=0)
    assert "the proxy proxy.example:3128" in proxied.failed["c1"].message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        OSError(24, "Too many open files"),
        socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"),
    ],
)
async def test_f24_f132_too_short_to_look_a_name_up(error, monkeypatch):
    """No thread, no file, no memory for it: this machine's fault, not the server's."""

    async def short(*args, **kwargs):
        raise error

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", short)
    async with open_transport(options(TLS)) as transport:
        with pytest.raises(LocalFault, match="this machine is short of"):
            await transport.post(TLS, b"", {}).__aenter__()


async def test_any_other_runtime_error_is_a_mistake(monkeypatch):
    """It comes out as it is."""

    async def broken(*args, **kwargs):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", broken)
    async with open_transport(options(TLS)) as transport:
        with pytest.raises(RuntimeError, match="a mistake"):
            await transport.post(TLS, b"", {}).__aenter__()


@pytest.mark.skipif(not Path(SQUID).exists(), reason="needs squid")
async def test_a_real_squid():
    """It lets through who has the password, asks others for it, and cannot reach a closed port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folder = Path(mkdtemp())  # squid gives up being root: tmp_path would be closed to it
    folder.chmod(0o755)  # noqa: ASYNC240 - a moment
    helper = folder / "auth"
    known = 'case "$said" in "me p@ss"|"me p%40ss") echo OK;; *) echo ERR;; esac'
    helper.write_text(f"#!/bin/sh\nwhile read -r said; do {known}; done\n")
    helper.chmod(0o755)
    config = folder / "squid.conf"
    config.write_text(
        f"http_port 127.0.0.1:{port}\nauth_param basic program {helper}\n"
        "auth_param basic children 1\nacl known proxy_auth REQUIRED\nhttp_access allow known\n"
        "http_access deny all\ncache deny all\naccess_log none\ncache_log /dev/null\n"
        f"pid_filename none\nshutdown_lifetime 0 seconds\ncoredump_dir {folder}\n"
    )
    silent = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    process = await asyncio.create_subprocess_exec(SQUID, "-N", "-f", str(config), **silent)
    try:
        for _ in range(200):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await asyncio.sleep(0.05)
        async with RawServer(OK) as server:
            proxy = f"http://me:p%40ss@127.0.0.1:{port}"
            good = await run(endpoint=server.url, proxy=proxy)
            denied = await run(endpoint=server.url, proxy=f"http://127.0.0.1:{port}")
            wrong = await run(endpoint=TLS, proxy=f"http://me:no@127.0.0.1:{port}")
            closed = await run(endpoint="https://127.0.0.1:1/", proxy=proxy, retries=1)
    finally:
        process.kill()
        await process.wait()
        shutil.rmtree(folder)
    assert good.rows == {"c1": GOOD}
    for refused in (denied, wrong):
        assert refused.failed["c1"].kind == "proxy"
        assert "BULKFETCH_PROXY_PASSWORD" in refused.failed["c1"].message
    assert closed.kinds == ["proxy", "proxy"]
    assert type(closed.failed["c1"]) is Transient
