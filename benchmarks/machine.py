"""The machine and the processes on it: which cores, what versions, and one measured child.

Every client runs in a process of its own. CPU time is the process's own between the marks, and
once more as a whole from wait4; memory is the high-water mark of the address space (VmHWM, reset
at the start of the measurement), since ru_maxrss also remembers the parent of a fork.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "bulkfetch", "aiohttp", "lxml", "orjson", "uvloop", "zeep", "Scrapy", "httpx", "requests",
)  # fmt: skip
MIB = 1 << 20
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Cores:
    server: int | None
    client: int | None


def cores() -> Cores:
    """One core for the server and another for the client, where there are two to choose from."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(None, None)
    found = sorted(os.sched_getaffinity(0))
    return Cores(found[0], found[-1]) if len(found) > 1 else Cores(None, None)


def pin(core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        found[name] = None
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def describe() -> dict[str, object]:
    """Name the machine, for the head of a table and for the raw results."""
    model = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ", 1)[1] for line in lines if "model name" in line), model)
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": model,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
    }


class Marks:
    """What a child calls where its measurement begins; `main` marks the end."""

    def __init__(self) -> None:
        self.idle = self.cpu = self.began = 0.0

    def begin(self) -> None:
        _forget_peak()
        self.idle = peak()
        self.cpu, self.began = time.process_time(), time.perf_counter()


def peak() -> int:
    """Return the most memory this process has held since the last `begin`, in bytes."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds and bytes between the marks of one child; `whole_cpu` from its birth to its end."""

    seconds: float
    cpu: float
    idle: int
    peak: int
    whole_cpu: float
    answer: object


class ChildError(Exception):
    """A measured process ended badly."""


def measure(function: str, job: dict[str, object], *, core: int | None, stdin=None) -> Measured:
    """Run `module:function(job, begin)` in a process of its own, on `core`."""
    command = [sys.executable, "-m", "benchmarks.machine", function, json.dumps(job), str(core)]
    with tempfile.TemporaryFile() as complaint:
        child = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=complaint, cwd=_ROOT
        )
        assert child.stdout is not None
        with child.stdout:
            said = child.stdout.read()
        _pid, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            complaint.seek(0)
            last = complaint.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ChildError(f"{function}: exit code {child.returncode}, {last}")
    figures = json.loads(said.splitlines()[-1])
    return Measured(whole_cpu=usage.ru_utime + usage.ru_stime, **figures)


def main(function: str, job: dict[str, object], core: str) -> None:
    """Be the child: pin, run, print the figures as the last line."""
    pin(None if core == "None" else int(core))
    module, _colon, name = function.partition(":")
    marks = Marks()
    answer = getattr(importlib.import_module(module), name)(job, marks.begin)
    figures = {
        "seconds": time.perf_counter() - marks.began,
        "cpu": time.process_time() - marks.cpu,
        "idle": marks.idle,
        "peak": peak(),
        "answer": answer,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3])
