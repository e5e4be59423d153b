"""Finished outputs made by hand, two nights of them, and what a table must hold after each.

What a table must hold is computed here in plain Python, course by course, without any of the code
under test.
"""

import gzip
import hashlib
import json
import random
from pathlib import Path

import orjson
import zstandard

FIRST = "2026-11-24T02:10:00+00:00"
SECOND = "2026-11-25T02:10:00+00:00"
SUFFIXES = (".ndjson", ".ndjson.gz", ".ndjson.zst")


def row(course, user, status="Passed", progress=100.0, **extra):
    return {
        "contentItemId": course,
        "userId": user,
        "status": status,
        "progress": progress,
        **extra,
    }


def write_output(path, rows, /, *, empty=(), failed=(), finished=FIRST, stamp=None, **changes):
    """Write an output as a run leaves it; `failed` are (id, kind), `stamp` (time, run id)."""
    path = Path(path)
    tail = {"_fetched_at": stamp[0], "_run_id": stamp[1]} if stamp else {}
    lines = b"".join(orjson.dumps(one | tail) + b"\n" for one in rows)
    if path.suffix == ".gz":
        half = len(lines) // 2  # members, as commits make them
        lines = gzip.compress(lines[:half]) + gzip.compress(lines[half:])
    elif path.suffix == ".zst":
        half = len(lines) // 2
        compress = zstandard.ZstdCompressor().compress
        lines = compress(lines[:half]) + compress(lines[half:])
    path.write_bytes(lines)
    courses = dict.fromkeys(one["contentItemId"] for one in rows)
    refused = sum(kind == "unknown-content-item" for _, kind in failed)
    manifest = {
        "output": path.name,
        "rows": len(rows),
        "bytes": len(lines),
        "sha256": hashlib.sha256(lines).hexdigest(),
        "courses": {
            "fetched": len(courses) + len(empty),
            "refused": refused,
            "failed": len(failed) - refused,
        },
        "empty_courses": list(empty),
        "runs": ["r1"],
        "finished": finished,
        "fingerprint": {"endpoint": "acme.example", "stamp": str(bool(stamp)).lower()},
    }
    Path(f"{path}.manifest.json").write_text(json.dumps(manifest | changes))
    told = [
        json.dumps({"contentItemId": name, "kind": kind, "retry": kind != "unknown-content-item"})
        for name, kind in failed
    ]
    if told:
        Path(f"{path}.failed.ndjson").write_text("\n".join(told) + "\n")
    return path


def random_rows(course, seed, count):
    rng = random.Random(f"{course}-{seed}")
    users = [f"u{rng.randrange(10 * count + 1)}" for _ in range(count)]
    return [
        row(
            course,
            user,
            rng.choice(["Passed", "Failed", "In progress", None]),
            rng.choice([None, 0.0, 100.0, round(rng.uniform(0, 100), 2)]),
            **({"attempts": "3", "tag": {"a": ["1", None]}} if rng.random() < 0.05 else {}),
        )
        for user in users
    ]


def first_night():
    """Courses c0 to c39, ids that look like numbers, a learner twice, extra children."""
    rows = [one for n in range(40) for one in random_rows(f"c{n}", 1, n % 17 * 9)]
    rows += [row("007", "007"), row("007", "007"), row("7", "7", None, None)]
    rows += [row("ü\"\\'", "Zoë \u2028 x", 'It\'s, "so"\t', 33.33, note="a\nb")]
    return rows


def second_night():
    """Its rows; c3 lost all learners, c4 failed, c5 was never asked for, c6 is unknown now."""
    rows = [
        one
        for n in range(50)
        if n not in {3, 4, 5, 6}
        for one in random_rows(f"c{n}", 1 if n % 3 else 2, n % 19 * 9)
    ]
    return [*rows, row("007", "007", "Failed", 1.5), row("007", "008"), row("007", "008")]


SECOND_NIGHT = {
    "empty": ["c3", "c0", "c19", "c38", "never-had-rows"],
    "failed": [("c4", "timeout"), ("c6", "unknown-content-item"), ("c99", "unknown-content-item")],
    "finished": SECOND,
}


def replaced(table, rows, gone):
    """The rows of a table after courses were replaced: what a load must come to."""
    courses = {one["contentItemId"] for one in rows} | set(gone)
    return [one for one in table if one["contentItemId"] not in courses] + rows


def as_table(rows):
    """Rows as sorted tuples, the extra children as sorted JSON."""
    known = ("contentItemId", "userId", "status", "progress")
    found = []
    for one in rows:
        extra = {key: value for key, value in one.items() if key not in known}
        text = json.dumps(extra, sort_keys=True) if extra else None
        found.append((*(one[key] for key in known), text))
    return sorted(found, key=repr)


def normal(table):
    """What a database gave, in the same shape."""
    lines = (
        (*line[:4], json.dumps(_read(line[4]), sort_keys=True) if line[4] else None)
        for line in table
    )
    return sorted(lines, key=repr)


def _read(value):
    return json.loads(value) if isinstance(value, str) else value
