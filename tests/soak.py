"""The long run: 100,000 courses by the real command, 1 % of every passing fault, little memory.

    python tests/soak.py                    100,000 courses; some minutes
    python tests/soak.py --courses 3000
    python tests/soak.py --courses 500000 --memory 200

The command runs with at most `--memory` MiB of its own (RLIMIT_DATA: heap, stacks, anonymous maps)
against a raw server that answers every hundredth request with each fault of `FAULTS`. At the end
every row is compared by value with what the server would give, and the command's memory and open
descriptors with those at a tenth of the run.
"""

import argparse
import asyncio
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar
from zlib import crc32

from bulkfetch.testing import answer, fault, row

MOST_GROWN = 8.0
END = b"</contentItemId>"
SLOW = 0.3
LATER = frozenset({"reset", "reset inside", "cut", "chunk cut", "503", "503 Retry-After", "429"})
"""Faults that are retried as often as allowed: a course may meet them more than once."""
FAULTS = (
    *sorted(LATER),
    *("500", "html", "malformed", "slow", "wrong length", "gzip damage", "empty 200"),
    *("unknown fault", "401"),
)


def rows_of(course):
    """The rows of a course: none to five, made of its id alone."""
    seed = crc32(course.encode())
    return [
        (f"user-{(seed + number) % 100_000}", ("Passed", "Failed")[seed >> number & 1], number * 20)
        for number in range(seed % 6)
    ]


def fault_of(course, tries):
    """Which fault the server commits, if any; after the first only one that may come again."""
    at = crc32(f"{course}/{tries}".encode()) % 100
    found = FAULTS[at] if at < len(FAULTS) else None
    return found if not tries or found in LATER else None


def http(body, status="200 OK", *headers, length=None):
    names = ("Content-Type: text/xml; charset=utf-8", *headers)
    length = len(body) if length is None else length
    head = "\r\n".join([f"HTTP/1.1 {status}", *names, f"Content-Length: {length}", "", ""])
    return head.encode() + body


def reply(course, kind):
    """Return the bytes of an answer, and whether the connection ends with them."""
    body = answer(row(*one) for one in rows_of(course))
    whole, packed = http(body), gzip.compress(body, mtime=0)
    damaged = packed[:-8] + bytes(byte ^ 255 for byte in packed[-8:])
    chunk = f"{len(body):x}\r\n".encode() + body
    chunked = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n"
    return {
        None: (whole, False),
        "slow": (whole, False),
        "reset": (b"", True),
        "reset inside": (whole[:-20], True),
        "cut": (whole[:-40], True),
        "chunk cut": (chunked + chunk[:-10], True),
        "503": (http(b"", "503 Service Unavailable"), False),
        "503 Retry-After": (http(b"", "503 Service Unavailable", "Retry-After: 0"), False),
        "429": (http(b"", "429 Too Many Requests"), False),
        "500": (http(b"", "500 Internal Server Error"), False),
        "html": (http(b"<!DOCTYPE html><html><body>Sign in</body></html>"), False),
        "malformed": (http(body.replace(b"</ns1:statuses>", b"")), False),
        "wrong length": (http(body, length=len(body) - 15), True),
        "gzip damage": (http(damaged, "200 OK", "Content-Encoding: gzip"), False),
        "empty 200": (http(b""), False),
        "unknown fault": (http(fault("SQLSTATE[HY000] [2002]"), "500 Internal"), False),
        "401": (http(b"", "401 Unauthorized"), False),
    }[kind]


class Server(asyncio.Protocol):
    """One connection; what all of them met is in `met`."""

    tries: ClassVar = Counter()
    met: ClassVar = Counter()

    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data
        end = self.data.find(END)
        if end < 0 or self.data.find(b"Envelope>", end) < 0:
            return
        course = self.data[self.data.rindex(b">", 0, end) + 1 : end].decode()
        self.data = b""
        kind = fault_of(course, self.tries[course])
        self.met[kind] += 1
        if kind in {None, "slow"}:
            self.tries.pop(course, None)
        else:
            self.tries[course] += 1
        later = SLOW if kind == "slow" else 0
        asyncio.get_running_loop().call_later(later, self.send, *reply(course, kind), kind)

    def send(self, data, last, kind):
        self.transport.write(data)
        if kind == "reset inside":
            self.transport.abort()
        elif last:
            self.transport.close()


async def serve(courses):
    """Tell the port, then each tenth of the courses, then what was met."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    tenth = 0
    while tenth < 10:
        await asyncio.sleep(0.05)
        good = Server.met[None] + Server.met["slow"]
        while tenth < 10 and good >= (tenth + 1) * courses // 10:
            tenth += 1
            print(tenth, flush=True)
    print(json.dumps({kind or "good": number for kind, number in Server.met.items()}), flush=True)
    await asyncio.sleep(3600)  # probes may come; the parent ends it


def look(pid):
    """Return the resident MiB of a process and its open descriptors."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    size = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    return size, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def command(folder, port, given):
    words = ["fetch", "-q", "--endpoint", f"http://127.0.0.1:{port}/soap", "-c", "16"]
    words += ["-i", str(folder / "ids"), "-o", str(folder / "out"), "--retries", "30"]
    words += ["--backoff", "0.02", "--max-backoff", "0.2", "--token-command", "date +%s%N"]
    words += [] if given.adaptive else ["--no-adaptive"]
    most = given.memory << 20
    return subprocess.Popen(
        [sys.executable, "-m", "bulkfetch", *words],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (most, most)),  # noqa: PLW1509
    )


def run(folder, given):
    """Run the command; return its exit code, what was seen at each tenth, what the server met."""
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", "--courses", str(given.courses)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        process = command(folder, server.stdout.readline().strip(), given)
        seen = []
        for _ in range(10):
            server.stdout.readline()
            seen.append(look(process.pid))
        met = json.loads(server.stdout.readline())
        return process.wait(), seen, met
    finally:
        server.kill()
        server.wait()


def wrong_rows(ids, output):
    """Compare the output by value; returns how many rows are lost, how many doubled or foreign."""
    found = {}
    with output.open("rb") as lines:
        for line in lines:
            one = json.loads(line)
            key = one["userId"], one["status"], one["progress"]
            found.setdefault(one["contentItemId"], Counter())[key] += 1
    lost = extra = 0
    for course in ids:
        expected, seen = Counter(rows_of(course)), found.pop(course, Counter())
        lost += (expected - seen).total()
        extra += (seen - expected).total()
    return lost, extra + sum(seen.total() for seen in found.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--courses", type=int, default=100_000)
    parser.add_argument("--memory", type=int, default=200, help="MiB that the command may have")
    parser.add_argument("--adaptive", action="store_true", help="with the adaptive limiter")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.courses))
        return 0
    ids = [f"course-{number:07}" for number in range(given.courses)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ids").write_text("\n".join(ids) + "\n")
        began = time.monotonic()
        code, seen, met = run(folder, given)
        seconds = time.monotonic() - began
        lost, extra = wrong_rows(ids, folder / "out") if code == 0 else (-1, -1)
    sizes, descriptors = zip(*seen, strict=True)
    grown = sizes[-1] - sizes[0]
    good = (code, lost, extra) == (0, 0, 0) and grown <= MOST_GROWN
    good = good and descriptors[-1] <= descriptors[0] + 8  # connections come and go
    print(f"exit code      {code} after {seconds:.0f} s, with at most {given.memory} MiB")
    print("answers        " + ", ".join(f"{met[kind]:,} {kind}" for kind in sorted(met)))
    print(f"rows           {lost} lost, {extra} doubled or foreign")
    print("resident, MiB  " + " ".join(f"{size:.1f}" for size in sizes))
    print(f"from 10 %      {grown:+.1f} MiB at the end; at most {MOST_GROWN:+.1f}")
    print("descriptors    " + " ".join(map(str, descriptors)))
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
