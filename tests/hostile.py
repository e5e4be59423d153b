"""What a hostile server costs: peak memory over idle, time to the refusal, and its words.

    python tests/hostile.py

Each answer comes from a raw server here; the engine runs in a process of its own, so that the
memory is its alone. Every limit is the default.
"""

import asyncio
import json
import sys
import time

from answers import HEAD, LIST_HEAD, LIST_TAIL, TAIL, record, run, scripted, statuses
from bombs import MEBIBYTE, bomb, endless_header, endless_headers
from fuzz_parser import forget_peak, peak

from bulkfetch.testing import RawServer, ScriptedTransport, http_answer

GIBIBYTE = 1 << 30
START, END = LIST_HEAD.encode(), LIST_TAIL.encode()


def gzipped(body):
    return http_answer(body, headers=["Content-Encoding: gzip"])


ROWS = record("u", "Passed", 1).encode() * 10_000


async def endless_records(exchange):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\n\r\n"
    await exchange.send(head + START)
    while True:
        await exchange.send(ROWS)


def laughs(count):
    entities = "".join(
        f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "lol"}">' for n in range(count)
    )
    doctype = f"<!DOCTYPE x [{entities}]>"
    text = statuses([("&l9;", "Passed", 1)]).decode().replace("?>", f"?>{doctype}", 1)
    return text.encode()


def answers():
    """Yield a name, the answer and its size on the wire (None: it never ends)."""
    spaces = bomb(START, b" " * MEBIBYTE, 1024, END)
    yield "gzip: 1 GiB of spaces", gzipped(spaces), len(spaces)
    rows = bomb(START, ROWS, GIBIBYTE // len(ROWS), END)
    yield "gzip: 1 GiB of valid rows", gzipped(rows), len(rows)
    depth = bomb(HEAD.encode(), b"<a>" * 1024, 1024, TAIL.encode())
    yield "gzip: depth of a million", gzipped(depth), len(depth)
    yield "endless records", endless_records, None
    yield "billion laughs", http_answer(laughs(10)), len(laughs(10))
    user = statuses([("u" * 10_000_000, "Passed", 1)])
    yield "a userId of 10 MB", http_answer(user), len(user)
    usual = http_answer(statuses([("u", "Passed", 1)]))
    headers = usual.replace(b"\r\n\r\n", b"\r\n" + b"X: 1\r\n" * 100_000 + b"\r\n", 1)
    yield "100,000 headers", headers, len(headers)
    yield "endless headers", endless_headers, None
    yield "one endless header", endless_header, None


async def one(url, changes):
    """Ask once, in this process; print what it cost."""
    usual = scripted(statuses([("u", "Passed", 1)]))
    await run(setup={"transport": ScriptedTransport([usual])})  # everything is imported now
    forget_peak()
    before, began = peak(), time.monotonic()
    result = await run(endpoint=url, retries=0, **changes)
    seconds = time.monotonic() - began
    (error,) = result.failed.values()
    print(json.dumps([peak() - before, seconds, error.message]))


async def cost(answer, **changes):
    """Return peak memory over idle in MiB, seconds to the refusal, and its words."""
    async with RawServer(answer) as server:
        words = [sys.executable, __file__, server.url, json.dumps(changes)]
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(said)


async def table():
    print(f"{'a server sends':<26}{'on the wire':>12}{'peak MiB':>10}{'seconds':>9}  the refusal")
    for name, answer, size in answers():
        # Eight gigabytes of records are many: their bound is set lower, as a user would.
        changes = {"max_rows": 1_000_000} if name == "endless records" else {}
        memory, seconds, words = await cost(answer, **changes)
        wire = f"{size / 1e6:.2f} MB" if size else "endless"
        print(f"{name:<26}{wire:>12}{memory:>10.1f}{seconds:>9.2f}  {words}", flush=True)


if __name__ == "__main__":
    asyncio.run(one(sys.argv[1], json.loads(sys.argv[2])) if sys.argv[1:] else table())
