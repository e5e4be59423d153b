"""The machine and the processes on it: which cores, what versions, and one measured child.

Every client runs in a process of its own. CPU time is the process's own between the marks; memory
is the high-water mark of the address space (VmHWM, reset at the start of the measurement), since
ru_maxrss also remembers the parent of a fork. Whatever ends this process, short of a SIGKILL, ends
those that it started.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

PACKAGES = (
    "bulkfetch", "aiohttp", "lxml", "orjson", "zeep", "Scrapy", "httpx", "requests",
)  # fmt: skip
MIB = 1 << 20
PATIENCE = 300.0
"""Seconds after which a measured process is given up; Scrapy takes 90 for 8 large courses."""
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


def find_nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def tools() -> dict[str, str | None]:
    """Name the revision that is measured, and the tools that are no packages."""
    return {
        "revision": first_line("git", "describe", "--always", "--dirty"),
        "nginx": first_line(find_nginx(), "-v"),  # nginx version: nginx/1.22.1
        "wrk": first_line(shutil.which("wrk"), "-v"),  # wrk 4.1.0 [epoll] Copyright ...
    }


def first_line(program: str | None, *arguments: str) -> str | None:
    """Return what a program says first, wherever it says it: wrk -v fails, nginx -v complains."""
    if program is None or shutil.which(program) is None:
        return None
    said = subprocess.run(
        [program, *arguments], cwd=_ROOT, capture_output=True, text=True, check=False, timeout=10
    )
    line = next(iter((said.stdout + said.stderr).splitlines()), "")
    if line.startswith("fatal: "):  # git, outside a checkout
        return None
    return line.removeprefix("nginx version: ").partition(" [")[0]


def describe(found: Cores) -> dict[str, object]:
    """Name the machine, for the head of a table and for the raw results."""
    model = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ", 1)[1] for line in lines if "model name" in line), model)
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": model,
        "cores": os.cpu_count(),
        "pinned": asdict(found),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        **tools(),
    }


class Marks:
    """What a child calls where its measurement begins; `main` marks the end."""

    def __init__(self) -> None:
        self.idle: int | None = None
        self.cpu = self.began = 0.0

    def begin(self) -> None:
        self.idle = peak() if _forget_peak() else None
        self.cpu, self.began = time.process_time(), time.perf_counter()


def peak(process: int | str = "self") -> int:
    """Return the most memory this process has held since the last `begin`, in bytes."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _forget_peak() -> bool:
    """Return whether it worked: the peak of the imports would hide that of the work."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds and bytes between the marks of one child; `idle` is None where it is not known."""

    seconds: float
    cpu: float
    idle: int | None
    peak: int
    answer: object

    @property
    def over(self) -> float | None:
        """MiB that came on top of the idle process."""
        return None if self.idle is None else (self.peak - self.idle) / MIB


class ChildError(Exception):
    """A measured process ended badly."""


def measure(
    function: str,
    job: dict[str, object],
    *,
    core: int | None,
    stdin=None,
    patience: float | None = None,
) -> Measured:
    """Run `module:function(job, begin)` in a process of its own, on `core`."""
    command = [sys.executable, "-m", "benchmarks.machine", function, json.dumps(job), str(core)]
    with (
        tempfile.TemporaryFile() as complaint,
        subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=complaint, cwd=_ROOT
        ) as child,
    ):
        try:
            said, _ = child.communicate(timeout=patience or PATIENCE)
        except subprocess.TimeoutExpired:
            raise ChildError(f"{function}: not done after {patience or PATIENCE:g} s") from None
        finally:
            child.kill()  # does nothing to one that has ended
        if child.returncode or not said.strip():
            complaint.seek(0)
            last = complaint.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ChildError(f"{function}: exit code {child.returncode}, {last}")
    return Measured(**json.loads(said.splitlines()[-1]))


def end_with_signals() -> None:
    """Make SIGTERM and SIGHUP unwind this process, so that no child stays behind."""

    def leave(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


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
