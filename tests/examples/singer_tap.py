"""A Singer tap fed by `bulkfetch diff`: what changed since the last export, deletions included.

Singer's targets only insert and update; what a diff removed goes out with `_sdc_deleted_at`, which
a target deletes when told to (`hard_delete`). A learner listed twice in a course has one key, so a
target keeps the last of such rows: where that matters use `bulkfetch load`.
Run it: python singer_tap.py OLD.ndjson NEW.ndjson | target-duckdb --config config.json
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import bulkfetch

STREAM = "statuses"
TEXT = {"type": ["null", "string"]}
SCHEMA = {
    "type": "object",
    "properties": {
        "content_item_id": {"type": "string"},
        "user_id": {"type": "string"},
        "status": TEXT,
        "progress": {"type": ["null", "number"]},
        "_sdc_deleted_at": TEXT | {"format": "date-time"},
    },
}
KEYS = ["content_item_id", "user_id"]


def say(kind, **message):
    print(json.dumps({"type": kind, **message}))


def record(change):
    row, removed = change.row, isinstance(change, bulkfetch.Removed)
    return {
        "content_item_id": row.course_id,
        "user_id": row.user_id,
        "status": row.status,
        "progress": row.progress,
        "_sdc_deleted_at": datetime.now(UTC).isoformat() if removed else None,
    }


def main(old, new):
    say("SCHEMA", stream=STREAM, schema=SCHEMA, key_properties=KEYS)
    for change in bulkfetch.diff(old, new):
        say("RECORD", stream=STREAM, record=record(change))
    # Only now: a target keeps the state when all records before it are safe.
    finished = json.loads(Path(f"{new}.manifest.json").read_text())["finished"]
    say("STATE", value={"bookmarks": {STREAM: {"finished": finished}}})


if __name__ == "__main__":
    main(*sys.argv[1:])
