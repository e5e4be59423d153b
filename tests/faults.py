"""Which test shows which fault: runs them and prints the table.

    python tests/faults.py            the faults of the normal run; slow tests are named
    python tests/faults.py --slow     those too; some minutes
    python tests/faults.py --list     without running anything

A test shows the faults whose numbers stand in its name, as in
`test_f59_f78_killed_at_calls_on_the_output`, or, where they differ, in its parameters. Exits with 1
when a fault has no test, or one failed.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

FAULTS = {
    1: "nobody listens: connection refused",
    2: "the host name is not found",
    3: "the connection is never accepted",
    4: "the certificate is not trusted",
    5: "TLS is spoken to a plain port",
    6: "reset before the head of the answer",
    7: "reset inside the body",
    8: "a kept-alive connection closed as it is used again",
    9: "a kept-alive connection reset as it is used again",
    10: "the body is shorter than its Content-Length",
    11: "cut between two chunks",
    12: "cut inside a chunk",
    13: "a body that ends with the connection is cut",
    14: "gzip cut in half",
    15: "gzip without its trailer around a whole document",
    16: "gzip with a wrong checksum",
    17: "declared as gzip, but it is not",
    18: "an encoding that was not asked for",
    19: "the body stops coming",
    20: "one byte at a time",
    21: "the head comes too slowly",
    22: "no valid HTTP: countless headers, garbage, two lengths",
    23: "extra bytes after an answer",
    24: "no file descriptors left on this machine",
    25: "redirected to another host",
    26: "redirected from http to https",
    27: "401 or 403 for everybody",
    28: "Retry-After in every form, sensible or not",
    29: "a storm of 503, whole and partial",
    30: "500 with a fault that is final",
    31: "200 with a fault",
    32: "permission denied for one course",
    33: "a login page instead of rows",
    34: "a broken HTML page",
    35: "200 without a body",
    36: "204",
    37: "the token expires in mid-run",
    38: "the answer of another method",
    39: "a course without rows",
    40: "the same learner twice in a course",
    41: "billion laughs",
    42: "quadratic blow-up of an entity",
    43: "an external entity names a local file",
    44: "an external DTD",
    45: "a bare DOCTYPE",
    46: "gzip that becomes a gigabyte of spaces",
    47: "gzip that becomes a gigabyte of rows",
    48: "records without end",
    49: "a userId of 10 MB",
    50: "elements nested 300 deep",
    51: "bytes that XML does not allow",
    52: "UTF-16, a byte order mark, windows-1251",
    53: "a wrong charset in the header",
    54: "comment, instruction or CDATA inside a userId",
    55: "progress that is no number, or out of range",
    56: "children missing, doubled, unknown, in another order",
    57: "something after the end of the document",
    58: "the record and its field have the same name",
    59: "killed at a system call on the output",
    60: "killed while it recovers, twice",
    61: "killed at random moments",
    62: "the power goes",
    63: "the disk is full",
    64: "the file may not grow",
    65: "the disk reports an error",
    66: "a write takes only a part",
    67: "the last line of the journal is torn",
    68: "a bit of the journal flips",
    69: "the data are shorter than the journal says, or changed",
    70: "data without a journal",
    71: "a journal of another endpoint or format",
    72: "two runs at once",
    73: "the run that holds the lock is killed",
    74: "the output is a folder, a link, on a read-only disk",
    75: "Ctrl-C, once and twice",
    76: "SIGTERM",
    77: "the reader of the pipe goes",
    78: "killed around the rename",
    79: "the next run has other ids",
    80: "gzip and zstd are gone on with",
    81: "the clock jumps",
    82: "the disk is slow",
    83: "the caller leaves, or is cancelled",
    84: "the caller's own code raises",
    85: "one huge course among many",
    86: "the token where it does not belong",
    87: "files that others could read",
    88: "text that a terminal would obey",
    89: "ids with markup or line breaks",
    90: "cells that a spreadsheet would run",
    91: "proxies and netrc of the environment",
    92: "a worker killed in the middle of a shard",
    93: "the shared limiter dies",
    94: "two workers finish the same shard",
    95: "an unknown fault of the server",
    96: "an unknown fault that blames the request",
    97: "a dead session in unknown words",
    98: "some courses always fail among good ones",
    99: "a limiter without burst",
    100: "a moment of something else in mid-run",
    101: "foreign shapes",
    102: "rows or a fault under a wrong Content-Type or 2xx",
    103: "bytes after the body, long header lines",
    104: "a Content-Encoding that is none",
    105: "one defect in every answer",
    106: "fewer courses than any threshold",
    107: "all ids unknown",
    108: "Retry-After with a fraction, of the token endpoint too",
    109: "failures at random",
    110: "this machine is short for longer than the breaker",
    111: "the loop is held while a rate is set",
    112: "why a run stopped is kept",
    113: "the id list changes while it is read",
    114: "data or journal changed in mid-run",
    115: "a standard stream is closed",
    116: "stderr that nobody reads, pipe or terminal",
    117: "bytes that are no UTF-8 in names",
    118: "quotes in CSV and TSV",
    119: "read-only / and /tmp",
    120: "signals: as process 1, ignored, Ctrl-Z",
    121: "lists in quotes, JSON, SQL, spoilt ids",
    122: "a limit that cuts the list",
    123: "a journal torn after publishing",
    124: "options that would overwrite something",
    125: "many refused or failed courses",
    126: "pickle, copy, asdict of public values",
    127: "verify of unfinished outputs, and of new ones",
    128: "a monitor stopped from a thread, by any exception",
    129: "modes of everything written",
    130: "absurd numbers in settings",
    131: "a token command that waits, fails, prints rubbish",
    132: "this machine has no thread to spare",
    133: "a clock that steps",
    134: "two commands with one metrics file",
}
OF_SHARDING = {92, 93, 94}
WIDTH = 55


def numbers(node_id):
    """Return the faults that a test names, in its parameters or else in its function's name."""
    name, _, parameters = node_id.split("::", 1)[1].replace("_", " ").partition("[")
    pattern = r"\bf(\d{2,3})\b"
    return {int(digits) for digits in re.findall(pattern, parameters) or re.findall(pattern, name)}


class Recorder:
    """Hears from pytest which tests there are and how they end."""

    def __init__(self, *, slow):
        self.results = {}
        self.figures = []
        self._slow = slow

    def pytest_collection_modifyitems(self, config, items):
        chosen = [item for item in items if numbers(item.nodeid)]
        for item in chosen:
            self.results[item.nodeid] = "not run"
        if not self._slow:
            slow = {item for item in chosen if item.get_closest_marker("slow")}
            self.results |= {item.nodeid: "slow, not run" for item in slow}
            chosen = [item for item in chosen if item not in slow]
        items[:] = chosen

    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.passed:
            return
        if hasattr(report, "wasxfail"):
            self.results[report.nodeid] = "known to fail"
        elif report.skipped:
            self.results[report.nodeid] = f"skipped: {report.longrepr[2].removeprefix('Skipped: ')}"
        elif self.results[report.nodeid] != "failed":
            self.results[report.nodeid] = report.outcome
        self.figures += [line for line in report.capstdout.splitlines() if "0 lost" in line]
        self.figures += [f"{name}: {figure}" for name, figure in report.user_properties]


def result(outcomes):
    """Say how the tests of a fault ended, the bad first."""
    counts = Counter(outcomes)
    order = sorted(counts, key=lambda word: (word != "failed", word == "passed", word))
    return ", ".join(f"{counts[word]} {word}" for word in order)


def rows(results):
    """Yield a line for each fault and file, and whether all is well with the fault."""
    by_fault = defaultdict(lambda: defaultdict(list))
    for node_id, outcome in results.items():
        file, _, name = node_id.partition("::")
        for number in numbers(node_id):
            by_fault[number][f"{Path(file).stem}::{name.partition('[')[0]}"].append(outcome)
    for number, what in FAULTS.items():
        tests = by_fault[number]
        if number in OF_SHARDING and not tests:
            yield f"F{number:02}  {what:<{WIDTH}}  with sharding, which is not built yet", True
        elif not tests:
            yield f"F{number:02}  {what:<{WIDTH}}  NO TEST", False
        for first, (test, outcomes) in enumerate(sorted(tests.items())):
            start = f"     {'':<{WIDTH}}" if first else f"F{number:02}  {what:<{WIDTH}}"
            yield f"{start}  {test}: {result(outcomes)}", "failed" not in outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slow", action="store_true", help="run the slow tests, too")
    parser.add_argument("--list", action="store_true", help="run nothing")
    given = parser.parse_args()
    recorder = Recorder(slow=given.slow)
    here = Path(__file__).parent
    words = ["-q", "-m", "", "-p", "no:cacheprovider", "--no-header", "--tb=short", str(here)]
    code = pytest.main([*words, *(["--collect-only", "-qq"] if given.list else [])], [recorder])
    print()
    good = code in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    for line, fine in rows(recorder.results):
        print(line)
        good = good and fine
    for figure in recorder.figures:
        print(figure)
    counts = Counter(recorder.results.values())
    print(f"\n{len(FAULTS)} faults, {len(recorder.results)} tests: {result(counts.elements())}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
