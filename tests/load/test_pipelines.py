"""The pipelines that people have, run as they stand, each tool in an environment of its own.

`sh tests/examples/environments.sh FOLDER` makes the environments, half a gigabyte of strangers'
packages; then: EXAMPLE_ENVIRONMENTS=FOLDER pytest -m extra
"""

import asyncio
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from commands import environment
from nights import FIRST, SECOND, as_table, row, write_output

from bulkfetch import load
from bulkfetch.testing import SimulatedServer, Simulation

EXAMPLES = Path(__file__).parent.parent / "examples"
FIRST_NIGHT = [
    *(row(f"c{c}", f"u{u}", "Passed", float(u)) for c in range(8) for u in range(9)),
    row("007", "007", None, None),
]
SECOND_NIGHT = [one | {"status": "Failed"} for one in FIRST_NIGHT if one["contentItemId"] > "c3"]
SECOND_NIGHT = [one for one in SECOND_NIGHT if one["userId"] != "u4"]
EMPTY = ["c1", "c2"]
"""c0 and 007 were not asked for, c3 failed, c1 and c2 lost all their learners."""


def tool(name, program):
    folder = os.environ.get("EXAMPLE_ENVIRONMENTS")
    path = Path(folder or "nowhere") / name / "bin" / program
    if not path.exists():
        pytest.skip(f"no environment {name}: sh tests/examples/environments.sh FOLDER makes it")
    return str(path)


def run(*command, cwd, code=0, **more):
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd, capture_output=True, text=True, check=False, timeout=240, **more,
    )  # fmt: skip
    assert done.returncode == code, done.stderr[-3000:]
    return done


def nights(folder):
    one = write_output(folder / "one.ndjson", FIRST_NIGHT, finished=FIRST)
    failed = [("c3", "timeout")]
    two = write_output(
        folder / "two.ndjson", SECOND_NIGHT, empty=EMPTY, failed=failed, finished=SECOND
    )
    return one, two


def ours(one, two, folder):
    """The table that `bulkfetch load` makes of two nights, without the extra children."""
    for out in (one, two):
        load(out, to=f"duckdb:{folder / 'ours.duckdb'}")
    return table(folder / "ours.duckdb", "statuses")


def table(path, name):
    with duckdb.connect(path, read_only=True) as database:
        columns = "content_item_id, user_id, status, progress"
        return sorted(database.execute(f"select {columns} from {name}").fetchall(), key=repr)


@pytest.mark.extra
def test_dlt_with_tombstones_makes_our_table(tmp_path):
    """Without them the rows of courses that lost all their learners stay: the ghosts."""
    python = tool("dlt", "python")
    one, two = nights(tmp_path)
    wanted = ours(one, two, tmp_path)
    found = {}
    for more in ((), ("--no-tombstones",)):
        folder = tmp_path / f"dlt{len(more)}"
        folder.mkdir()
        home = environment() | {"DLT_DATA_DIR": str(folder), "RUNTIME__DLTHUB_TELEMETRY": "false"}
        for out in (one, two):
            run(python, EXAMPLES / "dlt_pipeline.py", out, folder / "w.duckdb", *more,
                cwd=folder, env=home)  # fmt: skip
        found[more] = table(folder / "w.duckdb", "lms.statuses")
    assert found[()] == wanted
    ghosts = [one for one in found[("--no-tombstones",)] if one not in wanted]
    assert {one[0] for one in ghosts} == set(EMPTY)
    print(f"without tombstones {len(ghosts)} ghost rows stay beside {len(wanted)}")


def tapped(one, two, folder):
    """What the tap says from nothing to the first night, and from there to the second."""
    none = write_output(folder / "none.ndjson", [], finished="2026-01-01T00:00:00+00:00")
    tap = (sys.executable, EXAMPLES / "singer_tap.py")
    return [run(*tap, *pair, cwd=folder).stdout for pair in ((none, one), (one, two))]


@pytest.mark.extra
@pytest.mark.parametrize("hard", [True, False])
def test_singer_into_duckdb_makes_our_table(tmp_path, hard):
    """With `hard_delete`; without it what was removed stays, only marked."""
    target = tool("target-duckdb", "target-duckdb")
    one, two = nights(tmp_path)
    wanted = ours(one, two, tmp_path)
    config = {
        "filepath": str(tmp_path / "w.duckdb"),
        "default_target_schema": "lms",
        "hard_delete": hard,
        "add_metadata_columns": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for messages in tapped(one, two, tmp_path):
        run(target, "--config", "config.json", cwd=tmp_path, input=messages)
    found = table(tmp_path / "w.duckdb", "lms.statuses")
    if hard:
        assert found == wanted
    else:
        assert len(found) > len(wanted)


@pytest.mark.extra
def test_singer_into_csv_makes_our_table(tmp_path):
    """Another stranger reads the same messages; its lines, the last of each key, are our rows."""
    target = tool("target-csv", "target-csv")
    one, two = nights(tmp_path)
    # Without the second setting this target drops every column named _sdc_.
    config = {"output_path": str(tmp_path / "csv"), "add_record_metadata": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = {}
    for messages in tapped(one, two, tmp_path):
        (tmp_path / "csv").mkdir(exist_ok=True)
        run(target, "--config", "config.json", cwd=tmp_path, input=messages)
        for path in sorted((tmp_path / "csv").glob("*.csv")):
            with path.open(newline="") as file:
                for line in csv.DictReader(file):
                    found[line["content_item_id"], line["user_id"]] = line
            path.unlink()
    kept = [line for line in found.values() if not line.get("_sdc_deleted_at")]
    rows = [
        (line["content_item_id"], line["user_id"], line["status"] or None,
         float(line["progress"]) if line["progress"] else None)
        for line in kept
    ]  # fmt: skip
    assert sorted(rows, key=repr) == ours(one, two, tmp_path)


@pytest.mark.extra
def test_readers_of_zst_agree(tmp_path):
    """DuckDB, polars and pandas give the same rows: "007" stays what it is, null stays null."""
    python = tool("readers", "python")
    out = write_output(tmp_path / "out.ndjson.zst", FIRST_NIGHT)
    done = run(python, EXAMPLES / "read_zst.py", out, cwd=tmp_path)
    wanted = [list(line[:4]) for line in as_table(FIRST_NIGHT)]
    assert [json.loads(line) for line in done.stdout.splitlines()] == [wanted] * 3


async def test_the_nightly_job_by_exit_codes(tmp_path):
    """Fetch, verify, load: 1 when a course is unknown, 0 when none is, 75 when to come again."""
    (tmp_path / "bulkfetch").write_text(f'#!/bin/sh\nexec {sys.executable} -m bulkfetch "$@"\n')
    (tmp_path / "bulkfetch").chmod(0o755)
    async with SimulatedServer(Simulation(courses=30, unknown=1, rows=(0, 9), seed=3)) as server:
        known = [name for name in server.course_ids if name in server.expected()]
        variables = environment(
            server.token,
            BULKFETCH_ENDPOINT=server.endpoint,
            PATH=f"{tmp_path}:{os.environ['PATH']}",
            NIGHT="one",
        )

        async def night(ids, target, **more):
            (tmp_path / "ids.txt").write_text("\n".join(ids))
            words = ("sh", EXAMPLES / "nightly.sh", tmp_path / "ids.txt", tmp_path, target)
            process = await asyncio.create_subprocess_exec(
                *map(str, words), env=variables | more, stderr=asyncio.subprocess.PIPE
            )
            _, said = await process.communicate()
            return process.returncode, said.decode()

        target = f"duckdb:{tmp_path / 'w.duckdb'}"
        code, said = await night(server.course_ids, target)
        assert code == 1, said
        rows = [one for course in server.expected().values() for one in course]
        assert table(tmp_path / "w.duckdb", "statuses") == [one[:4] for one in as_table(rows)]
        code, said = await night(known[:9], target, NIGHT="two")
        assert code == 0, said
        code, said = await night(known[:9], "postgresql://x@127.0.0.1:1/x", NIGHT="two")
        assert code == 75, said
        code, said = await night(known[:9], "sqlite:x", NIGHT="two")
        assert code == 2, said
