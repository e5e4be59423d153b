"""The endpoint: files, served to POSTs by nginx where it is installed, pinned to a core of its own.

`/30.xml` is a body of 30 rows, `/30.xml.gz` the same as gzip; the id in the request makes no
difference, as the id in a row is the client's to put there. A private configuration in a temporary
folder, on loopback. nginx cannot wait, so 50 ms come from the small server next door, which also
stands in where nginx is missing. What the endpoint can do at most is measured and printed.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import generator
from benchmarks.machine import MIB, find_nginx, measure, pin
from bulkfetch._config.setting import Secret
from bulkfetch._domain.model import GET_FINAL_STATUSES
from bulkfetch._soap.protocol import Spelling, encode_request
from bulkfetch.cli.measure import started

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_GZIPPED = 32 * MIB
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask: `url(30)`, `url(30, gzip=True)`, `url(30, latency=0.05)`; `servers` by latency.

    A server is its name and its port.
    """

    servers: dict[float, tuple[str, int]]

    def kind(self, latency: float) -> str:
        return self.servers[latency][0]

    def __str__(self) -> str:
        return "; ".join(
            f"after {latency * 1000:g} ms {name}" if latency else name
            for latency, (name, _port) in self.servers.items()
        )

    def url(self, rows: int, *, gzip: bool = False, latency: float = 0) -> str:
        return f"http://127.0.0.1:{self.servers[latency][1]}/{rows}.xml{'.gz' if gzip else ''}"


@contextmanager
def serving(
    folder: Path,
    sizes: tuple[int, ...],
    *,
    latencies: tuple[float, ...],
    core: int | None,
    stamped: bool = False,
) -> Iterator[Endpoint]:
    """Write the bodies below `folder` and serve them until the context is left.

    `stamped`: nginx writes into `folder/starts.log` when each request ended and how long it took.
    """
    bodies = folder / "bodies"
    bodies.mkdir()
    for rows in sizes:
        _write_body(bodies, rows)
    nginx = find_nginx()
    small = "a small asyncio server" + ("" if nginx else " (nginx is not installed)")
    with ExitStack() as stack:
        servers = {}
        for latency in latencies:
            late = latency or not nginx
            start = (
                _small(bodies, latency, core)
                if late
                else _nginx(nginx, folder, core, stamped=stamped)
            )
            servers[latency] = (small if late else "nginx", stack.enter_context(start))
        yield Endpoint(servers)


def _write_body(bodies: Path, rows: int) -> None:
    path = bodies / f"{rows}.xml"
    with path.open("wb") as file:
        file.writelines(generator.pieces(rows))
    if path.stat().st_size <= _MOST_GZIPPED:
        packed = gzip.compress(path.read_bytes(), 6)
        (bodies / f"{rows}.xml.gz").write_bytes(packed)


_CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log error;
events {{ worker_connections 2048; }}
http {{
  {log}
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  scgi_temp_path {folder}/nginx-scgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  tcp_nodelay on;
  sendfile on;
  open_file_cache max=100 inactive=1h;
  open_file_cache_valid 1h;
  etag off;
  default_type "text/xml; charset=utf-8";
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    root {folder}/bodies;
    error_page 405 =200 $uri;  # static files take no POST
    location ~ \\.gz$ {{ add_header Content-Encoding gzip; error_page 405 =200 $uri; }}
  }}
}}
"""
_STAMPS = """log_format stamps "$msec $request_time";
  access_log {folder}/starts.log stamps;"""


@contextmanager
def _nginx(nginx: str, folder: Path, core: int | None, *, stamped: bool) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A worker started by root changes its user, who may not enter a private folder.
    user = "user root;" if os.geteuid() == 0 else ""
    log = _STAMPS.format(folder=folder) if stamped else "access_log off;"
    text = _CONFIGURATION.format(folder=folder, port=port, user=user, log=log)
    (folder / "nginx.conf").write_text(text)
    command = [nginx, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/nginx.log"]
    with _process(command, core) as process:
        _await_port(port, process)
        yield port


@contextmanager
def _small(bodies: Path, latency: float, core: int | None) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.server", str(bodies), str(latency)]
    with _process(command, core, stdout=subprocess.PIPE) as process:
        yield int(process.stdout.readline())


def _process(command: list[str], core: int | None, **others):
    return started(command, cwd=_ROOT, preexec_fn=lambda: pin(core), **others)


def _await_port(port: int, process: subprocess.Popen, patience: float = 5.0) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nginx does not listen on port {port}: exit code {process.poll()}")


def request(course_id: str) -> bytes:
    return encode_request(GET_FINAL_STATUSES, Secret("benchmark"), course_id, spelling=Spelling())


# What the endpoint itself can do


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Requests a second that a server answers; with the tool `raw` at least so many."""

    server: str
    tool: str
    requests: float


def ceiling(url: str, folder: Path, *, server: str, core: int | None, seconds: float) -> Ceiling:
    """Ask as fast as possible without looking at the answers: wrk, or a raw client."""
    if wrk := shutil.which("wrk"):
        return Ceiling(server, "wrk", _wrk(wrk, url, folder, core=core, seconds=seconds))
    done = measure("benchmarks.endpoint:raw_client", {"url": url, "seconds": seconds}, core=core)
    return Ceiling(server, "raw", done.answer / done.seconds)


def _wrk(wrk: str, url: str, folder: Path, *, core: int | None, seconds: float) -> float:
    script = folder / "post.lua"
    text = request(generator.course_id(1)).decode().replace("]]", "] ]")
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "text/xml; charset=utf-8"\n'
        f"wrk.body = [[{text}]]\n"
    )
    command = [wrk, "-t1", "-c32", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
    with _process(command, core, stdout=subprocess.PIPE) as process:
        said = process.stdout.read().decode()
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if not found or "Non-2xx" in said:
        raise RuntimeError(f"wrk says: {said}")
    return float(found[1])


def raw_client(job, begin) -> int:
    """Count answers over 32 connections, reading no more of each than its length."""
    import asyncio
    from urllib.parse import urlsplit

    parts = urlsplit(job["url"])
    sent = request(generator.course_id(1))
    message = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(sent)}\r\n\r\n"
    ).encode() + sent

    async def one(deadline: float) -> int:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        count = 0
        while time.perf_counter() < deadline:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length[1]))
            count += 1
        writer.close()
        return count

    async def run() -> int:
        deadline = time.perf_counter() + job["seconds"]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(deadline)) for _ in range(32)]
        return sum(task.result() for task in tasks)

    begin()
    return asyncio.run(run())
