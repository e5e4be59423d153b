"""What each command's `--help` ends with: lines to copy, and what its exit code tells a script."""

from __future__ import annotations

from typing import Final

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "demo": ("bulkfetch demo", "bulkfetch demo --courses 20000"),
    "fetch": (
        "bulkfetch fetch -i courses.txt -o statuses.ndjson",
        "bulkfetch fetch -i courses.csv --id-column course -o statuses.ndjson.gz",
        "bulkfetch fetch --all-courses --rate 5/s --max-errors 5% -o statuses.ndjson",
        "bulkfetch fetch -i courses.txt -o statuses.ndjson --dry-run",
        "bulkfetch discover --ids | grep -v draft | bulkfetch fetch -i - -o statuses.ndjson",
    ),
    "discover": ("bulkfetch discover > courses.ndjson", "bulkfetch discover --ids --type course"),
    "check": ("bulkfetch check", "bulkfetch check 0100ee7c-6c8e-11eb-9439-0242ac130002"),
    "status": ("bulkfetch status statuses.ndjson", "bulkfetch status statuses.ndjson --json"),
    "verify": ("bulkfetch verify out.ndjson && bulkfetch load out.ndjson --to duckdb:lms.duckdb",),
    "load": (
        "bulkfetch load statuses.ndjson --to duckdb:warehouse.duckdb",
        "bulkfetch load statuses.ndjson --to parquet:statuses.parquet --drop-unknown",
        "bulkfetch load statuses.ndjson --to postgresql://etl@db/lms --table lms.statuses",
    ),
    "diff": (
        "bulkfetch diff yesterday.ndjson today.ndjson --stat",
        "bulkfetch diff yesterday.ndjson today.ndjson | jq -c 'select(._op == \"removed\")'",
    ),
    "retry-failed": (
        "bulkfetch retry-failed statuses.ndjson",
        "bulkfetch retry-failed statuses.ndjson --kind unknown-content-item",
    ),
    "merge": ("bulkfetch merge part-*.ndjson -o statuses.ndjson",),
    "report": (
        "bulkfetch report statuses.ndjson",
        "bulkfetch report statuses.ndjson --json | jq .outcome",
    ),
    "parse": ("bulkfetch parse 0100ee7c.xml", "bulkfetch parse saved/*.xml -o rows.ndjson"),
    "simulate": (
        "bulkfetch simulate --courses 1000 --latency 0.05 --share-503 0.01 --write-ids ids.txt",
    ),
    "bench": ("bulkfetch bench", "bulkfetch bench -i courses.txt --requests 100 -c 4"),
    "config": ("bulkfetch config", "bulkfetch config init > bulkfetch.toml"),
    "help": ("bulkfetch help fetch",),
}

_RUN: Final = {
    "0": "every course was fetched",
    "1": "finished, some failed or were refused: see OUT.failed.ndjson",
    "3": "stopped at --max-errors or --fail-fast",
    "4": "the server refuses: token, permission, wrong endpoint",
    "5": "server down, time is up, another run: run it again later",
    "6": "disk: full, read-only, failing",
}
_CALL: Final = {
    "0": "it works",
    "4": "the server refuses: token, permission, wrong endpoint",
    "5": "the server fails for now",
}
CODES: Final[dict[str, dict[str, str]]] = {
    "fetch": _RUN,
    "retry-failed": {**_RUN, "0": "no course is left that failed"},
    "demo": {key: _RUN[key] for key in ("0", "1", "6")},
    "discover": {**_CALL, "0": "listed"},
    "check": _CALL,
    "verify": {
        "0": "finished and sound",
        "6": "damaged, or the disk fails",
        "7": "sound as far as it goes, but not finished",
    },
    "parse": {
        "0": "every file was read",
        "1": "some file holds no good response",
        "6": _RUN["6"],
    },
    "merge": {
        "0": "every course of the parts was fetched",
        "1": "merged, some failed or were refused: see OUT.failed.ndjson",
        "5": "a run is at work on OUT: run it again later",
        "6": "a part is damaged or holds another's course; disk: full, failing",
    },
    "bench": {**_CALL, "0": "measured"},
    "load": {
        "0": "loaded, or there already",
        "5": "the target is in use or cannot be reached: run it again later",
        "6": "OUT is not what its manifest says, or the target is damaged; disk: full, failing",
    },
    "diff": {"0": "compared", "6": "an output is not what its manifest says; disk: full, failing"},
    "report": {"0": "told", "6": "OUT is damaged; disk: full, failing"},
    "status": {"0": "told", "6": "OUT is damaged, or the disk fails"},
}
SHARED_CODES: Final = {
    "2": "wrong usage or settings",
    "130, 143, 129": "ended by Ctrl-C, SIGTERM, SIGHUP",
}
