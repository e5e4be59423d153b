"""A process to be killed, and whoever kills it.

Run as a program it is the victim: everything is imported once, then each line of stdin has it fork
a child that exports scripted courses, so that an attempt costs a tenth of a second and not a start
of Python. `Victims` is the other side: it attaches strace to a child before its first call on the
output, injects a signal or an error into the Nth call of a name, and reports how the child ended.
"""

import asyncio
import gzip
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import zstandard
from answers import fault, statuses

from bulkfetch._config.options import Options
from bulkfetch._domain.errors import RunError
from bulkfetch._output.inspect import verify
from bulkfetch.testing import ScriptedReply, ScriptedTransport

REFUSED = "c7"
SUFFIXES = ("", ".part", ".journal", ".failed.ndjson", ".manifest.json")
CALLS = {
    "write": "writev",
    "fdatasync": "fdatasync",
    "fsync": "fsync",
    "open": "openat",
    "truncate": "ftruncate",
    "rename": "?rename,?renameat,?renameat2",
    "unlink": "?unlink,?unlinkat",
    "lock": "flock",
}
"""Every call that changes an output; its names differ between machines."""
ERRORS = ("ENOSPC", "EIO")
KILL = "signal=KILL"


def ids(count, first=0):
    return [f"c{number}" for number in range(first, first + count)]


def rows_of(course_id):
    """The rows of a course as tuples: none to eleven."""
    if course_id == REFUSED:
        return []
    users = range(int(course_id[1:]) * 7 % 12)
    return [(f"{course_id}-u{n}", "Passed" if n % 2 else "Failed", n * 9.5) for n in users]


# The victim


def main():
    """Fork a child for each line of stdin; say its pid, let it go at the next line, say its end."""
    for line in sys.stdin:
        ears, mouth = os.pipe()
        gate, key = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(key)
            os.read(gate, 1)
            code, said = _attempt(json.loads(line))
            os.write(mouth, said.encode())
            os._exit(code)
        os.close(mouth)
        _say(child)
        moment = json.loads(sys.stdin.readline())
        os.close(key)
        with os.fdopen(ears) as pipe:
            if moment is not None and not select.select([pipe], [], [], moment)[0]:
                os.kill(child, signal.SIGKILL)  # not waited for yet: the id is still its own
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        os.close(gate)
        _say([os.waitstatus_to_exitcode(status), said])


def _say(what):
    print(json.dumps(what), flush=True)


def _attempt(order):
    """Run an export as ordered; returns its exit code and what it says."""
    from bulkfetch._engine import desk
    from bulkfetch._engine.export import export

    # 30 small courses would be one commit; so they are about ten.
    desk._COMMIT_BYTES = order.get("batch", 600)
    desk._WRITE_BYTES = order.get("batch", 600) // 3  # a few writes a commit
    if limit := order.get("fsize"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    delay = order.get("delay", 0.0)
    transport = ScriptedTransport(lambda request: _reply(request.course_id, delay))
    options = Options(
        endpoint="http://127.0.0.1:9/",
        token="scripted",
        adaptive=False,
        concurrency=4,
        durability=order.get("durability", "batch"),
    )
    try:
        summary = asyncio.run(export(order["ids"], order["output"], options, transport=transport))
    except RunError as error:
        return error.exit_code, str(error)
    return 0, json.dumps({"asked": [r.course_id for r in transport.requests], "rows": summary.rows})


def _reply(course_id, delay):
    if course_id == REFUSED:
        return ScriptedReply(status=500, pieces=(fault("Unknown content item"),), delay=delay)
    return ScriptedReply(pieces=(_body(course_id),), delay=delay)


@cache
def _body(course_id):
    return statuses(rows_of(course_id))


# Whoever kills it


@dataclass(frozen=True)
class End:
    """How a child ended: exit code or minus the signal, and what it said."""

    code: int
    said: str

    @property
    def was_killed(self):
        return self.code == -signal.SIGKILL

    @property
    def asked(self):
        return json.loads(self.said)["asked"]


class Victims:
    """Children that export to a file; a context manager."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def run(self, output, *, count=30, inject=None, kill_after=None, **order):
        """Run one export to its end, whatever that is.

        `inject` is what strace takes, as in "writev:signal=KILL:when=3", counted over calls on the
        output alone; `kill_after` kills after so many seconds.
        """
        child = self._ask({"output": str(output), "ids": ids(count)} | order)
        tracer = _attach(child, output, inject) if inject else None
        self._tell(json.dumps(kill_after))
        end = End(*json.loads(self._process.stdout.readline()))
        if tracer is not None:
            tracer.stderr.close()
            tracer.wait(10)
        return end

    def _ask(self, order):
        self._tell(json.dumps(order))
        return json.loads(self._process.stdout.readline())

    def _tell(self, line):
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


def _attach(child, output, inject):
    paths = [output.parent, *(f"{output}{s}{t}" for s in SUFFIXES for t in ("", ".tmp"))]
    command = ["strace", "-f", "-o", os.devnull, "-p", str(child), "-e", f"inject={inject}"]
    tracer = subprocess.Popen(
        [*command, *(word for path in paths for word in ("-P", str(path)))],
        stderr=subprocess.PIPE,
        text=True,
    )
    said = tracer.stderr.readline()
    if "attached" not in said:
        tracer.stderr.close()
        tracer.wait(10)
        raise RuntimeError(f"strace: {said}")
    return tracer


@cache
def why_no_strace():
    """Say why strace cannot be used here; None when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(
        ["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False
    )
    return f"strace may not trace here: {done.stderr.strip()}" if done.returncode else None


def differences(output, course_ids):
    """Compare an output with what it must hold, by value: rows lost, rows doubled or foreign."""
    found = Counter(map(_as_tuple, unpacked(output).splitlines()))
    expected = Counter((name, *row) for name in course_ids for row in rows_of(name))
    return (expected - found).total(), (found - expected).total()


def unpacked(output):
    data = output.read_bytes()
    if output.suffix == ".gz":
        return gzip.decompress(data)
    if output.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return reader.read()
    return data


def _as_tuple(line):
    row = json.loads(line)
    return row["contentItemId"], row["userId"], row["status"], row["progress"]


def check(output, course_ids):
    """Each row once, the companions say the same, and nothing else lies around."""
    assert differences(output, course_ids) == (0, 0)
    assert verify(output).sound
    failed = [json.loads(line) for line in Path(f"{output}.failed.ndjson").read_text().splitlines()]
    assert [one["contentItemId"] for one in failed] == [REFUSED]
    names = {output.name + suffix for suffix in SUFFIXES if suffix != ".part"}
    assert {path.name for path in output.parent.iterdir()} == names


if __name__ == "__main__":
    main()
