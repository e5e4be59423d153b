"""Loads and diffs of millions of rows, beside the plain way a person would write each, in one run.

    python -m benchmarks.warehouse [--rows 5000000] [--large 2000000] [--skip NAME ...]

Each way runs in a process of its own: seconds, and the peak of its resident memory, imports and all
(VmHWM). Both nights are made first; tables are compared by a hash over all rows. PostgreSQL runs in
a folder of its own and its memory is not counted, since it is the same for every way.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import MIB, cores, describe, peak

ROOT = Path(__file__).resolve().parent.parent
STATUSES = ("Passed", "Failed", "In progress", "Not started")
TYPES = (
    "columns={contentItemId: 'VARCHAR', userId: 'VARCHAR', status: 'VARCHAR', progress: 'DOUBLE'}"
)
PATIENCE = 3600


# What is loaded


def write_night(path, *, seed, courses, finished, changed=0.0):
    """Write an output of (id, rows) courses; `changed` of the rows differ from those of `seed`."""
    rng, other = random.Random(seed), random.Random(seed + 1)
    users = [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(60_000)]
    digest, rows = hashlib.sha256(), 0
    with path.open("wb") as file:
        for course, number in courses:
            rng.seed(f"{seed}{course}")
            lines = []
            for n in range(number):
                user = users[n] if n < len(users) else f"{users[n % 60_000]}-{n}"
                value = rng.random()
                if changed and other.random() < changed:
                    value = other.random()
                lines.append(
                    f'{{"contentItemId":"{course}","userId":"{user}",'
                    f'"status":"{STATUSES[int(value * 4)]}","progress":{round(value * 100, 2)}}}\n'
                )
            data = "".join(lines).encode()
            file.write(data)
            digest.update(data)
            rows += number
    manifest = {
        "rows": rows, "bytes": path.stat().st_size, "sha256": digest.hexdigest(),
        "courses": {"fetched": len(courses), "refused": 0, "failed": 0}, "empty_courses": [],
        "runs": ["r"], "finished": finished, "fingerprint": {"endpoint": "acme.example"},
    }  # fmt: skip
    Path(f"{path}.manifest.json").write_text(json.dumps(manifest))


def courses_of(rows, *, large=0, seed=5):
    """Course sizes as in a large account, 286 rows on average, and perhaps one very large one."""
    rng = random.Random(seed)
    found, left = [], rows - large
    if large:
        found.append((str(uuid.UUID(int=rng.getrandbits(128))), large))
    while left:
        number = min(left, 1 + int(rng.expovariate(1 / 285)))
        found.append((str(uuid.UUID(int=rng.getrandbits(128))), number))
        left -= number
    return found


# The ways: ours, and what a person would write


def ours_load(job):
    import bulkfetch

    return bulkfetch.load(job["output"], to=job["to"], table="ours" if job["table"] else None).rows


def ours_diff(job):
    import bulkfetch

    comparison = bulkfetch.diff(job["old"], job["new"])
    for _ in comparison:
        pass
    return [comparison.added, comparison.changed, comparison.removed]


def plain_duckdb(job):
    """Delete and insert with read_json, reading the file twice; the memory is DuckDB's choice."""
    import duckdb

    with duckdb.connect(job["to"].removeprefix("duckdb:")) as database:
        database.execute(
            "create table if not exists plain (content_item_id text, user_id text, status text, "
            "progress double)"
        )
        database.execute("begin")
        source = f"read_json('{job['output']}', {TYPES}, format='newline_delimited')"
        database.execute(
            f"delete from plain where content_item_id in (select contentItemId from {source})"
        )
        (rows,) = database.execute(f"insert into plain select * from {source}").fetchone()
        database.execute("commit")
        return rows


def plain_postgres(job):
    """Delete and psycopg's executemany, row by row as dictionaries come out of json."""
    import psycopg

    def rows():
        with Path(job["output"]).open("rb") as file:
            yield from map(json.loads, file)

    with psycopg.connect(job["to"]) as connection, connection.cursor() as cursor:
        cursor.execute(
            "create table if not exists plain (content_item_id text, user_id text, status text, "
            "progress double precision)"
        )
        cursor.execute("create index if not exists plain_index on plain (content_item_id)")
        ids = {row["contentItemId"] for row in rows()}
        cursor.execute("delete from plain where content_item_id = any(%s)", [list(ids)])
        cursor.executemany(
            "insert into plain values (%(contentItemId)s, %(userId)s, %(status)s, %(progress)s)",
            rows(),
        )
        return cursor.rowcount


def plain_diff(job):
    """Both files as dictionaries by (course, user)."""

    def read(path):
        with Path(path).open("rb") as file:
            rows = map(json.loads, file)
            return {(row["contentItemId"], row["userId"]): row for row in rows}

    old, new = read(job["old"]), read(job["new"])
    added = sum(key not in old for key in new)
    changed = sum(key in old and old[key] != row for key, row in new.items())
    return [added, changed, sum(key not in new for key in old)]


def child(name, job):
    began, cpu = time.perf_counter(), time.process_time()
    answer = globals()[name](job)
    figures = {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu": round(time.process_time() - cpu, 2),
        "mib": round(peak() / MIB, 1),
        "answer": answer,
    }
    print(json.dumps(figures))


# The run


def measure(name, job):
    command = [sys.executable, "-m", "benchmarks.warehouse", "--child", name, json.dumps(job)]
    load = os.getloadavg()[0]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:], "load": load}
    return json.loads(done.stdout.splitlines()[-1]) | {"load": round(load, 1)}


def loads(folder, server):
    """Yield what to measure: (label, function, job)."""
    duck, parquet = f"duckdb:{folder}/w.duckdb", f"parquet:{folder}/w.parquet"
    plain = f"duckdb:{folder}/plain.duckdb"
    for night in ("one", "two"):
        output = f"{folder}/{night}.ndjson"
        for label, function, to in (
            ("DuckDB", "ours_load", duck),
            ("DuckDB, read_json + insert", "plain_duckdb", plain),
            ("Parquet", "ours_load", parquet),
            ("PostgreSQL", "ours_load", server and server.url),
        ):
            if to:
                job = {"output": output, "to": to, "table": to != parquet}
                yield f"{label}, night {night}", function, job
    for kind in ("", "large-"):
        job = {"old": f"{folder}/{kind}one.ndjson", "new": f"{folder}/{kind}two.ndjson"}
        words = "diff, one very large course" if kind else "diff"
        yield words, "ours_diff", job
        yield f"{words}, dictionaries", "plain_diff", job
    if server:  # last and once, for it takes minutes
        job = {"output": f"{folder}/one.ndjson", "to": server.url}
        yield "PostgreSQL, executemany, night one", "plain_postgres", job


def write_nights(folder, rows, large):
    for kind, size in (("", 0), ("large-", large)):
        first = courses_of(rows, large=size)
        second = [*first[: -len(first) // 50], *courses_of(rows // 50, seed=6)]
        for night, courses, changed in (("one", first, 0.0), ("two", second, 0.02)):
            day = 24 if night == "one" else 25
            finished = f"2026-11-{day}T02:00:00+00:00"
            path = folder / f"{kind}{night}.ndjson"
            write_night(path, seed=5, courses=courses, finished=finished, changed=changed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--large", type=int, default=2_000_000)
    parser.add_argument("--skip", action="append", default=[], help="leave out a function")
    parser.add_argument("--folder", default=None, help="where the files are made")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bulkfetch-warehouse-", dir=given.folder))
    results = {"machine": describe(cores()), "rows": given.rows, "large": given.large, "ways": {}}
    results["machine"]["versions"] |= packages()
    path = ROOT / "benchmarks" / "results" / f"{datetime.now(UTC):%Y-%m-%dT%H%M}-warehouse.json"
    sys.path.insert(0, str(ROOT / "tests" / "load"))
    import server as postgres

    try:
        write_nights(folder, given.rows, given.large)
        with postgres.running() if postgres.why_no_server() is None else NoServer() as server:
            os.environ["PGPASSWORD"] = postgres.PASSWORD
            for label, function, job in loads(folder, server):
                if function not in given.skip:
                    results["ways"][label] = figures = measure(function, job)
                    save(results, path)
                    print(f"{label:48} {figures}", flush=True)
    finally:
        shutil.rmtree(folder)


def save(results, path):
    """Keep what is measured so far: a run takes minutes."""
    path.write_text(json.dumps(results, indent=1) + "\n")


class NoServer:
    """Stands where no PostgreSQL is installed."""

    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None


def packages():
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("duckdb", "psycopg", "orjson", "zstandard"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], json.loads(sys.argv[3]))
    else:
        main()
