"""The real command as a process of its own, and what it is run against."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

COMMAND = (sys.executable, "-m", "bulkfetch")
ENOUGH = 300.0
"""Seconds after which a test is given up; none of them is about time."""


def environment(token="simulated-token", **variables):
    """The variables of a command: nothing of this process's own settings, and the token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BULKFETCH_")}
    return kept | {"BULKFETCH_TOKEN": token} | variables


def bulkfetch(*arguments, token="simulated-token", variables=None, **options):
    """Run a command to its end."""
    settings = {"capture_output": True, "text": True, "timeout": ENOUGH}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False,
        env=environment(token, **(variables or {})),
        **(settings | options),
    )


def until(condition):
    """Wait until something is so."""
    end = time.monotonic() + ENOUGH
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


@contextmanager
def started(*arguments, token="simulated-token", **options):
    """Start a command; it is killed and waited for at the end, if it still runs."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], env=environment(token), **(pipes | options)
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def fetch(server, output, ids_file, *more):
    """The arguments of a fetch from a simulated LMS."""
    ids_file.write_text("".join(f"{name}\n" for name in server.course_ids))
    return ("fetch", "--endpoint", server.endpoint, "-i", ids_file, "-o", output, *more)
