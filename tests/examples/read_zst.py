"""An export read straight by DuckDB, polars and pandas: with types, since guessing spoils ids.

Left to guess, DuckDB takes ids for UUIDs and pandas makes 7 of "007".
Run it: python read_zst.py statuses.ndjson.zst
"""

import json
import sys

import duckdb
import pandas as pd
import polars as pl

COLUMNS = ["contentItemId", "userId", "status", "progress"]


def with_duckdb(path):
    types = "{contentItemId: 'VARCHAR', userId: 'VARCHAR', status: 'VARCHAR', progress: 'DOUBLE'}"
    return duckdb.execute(f"select * from read_json(?, columns={types})", [path]).fetchall()


def with_polars(path):
    text = dict.fromkeys(COLUMNS[:3], pl.String)
    return pl.read_ndjson(path, schema=text | {"progress": pl.Float64}).rows()


def with_pandas(path):
    types = dict.fromkeys(COLUMNS[:3], "string") | {"progress": "float64"}
    frame = pd.read_json(path, lines=True, dtype=types, convert_dates=False)[COLUMNS]
    return frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None)


if __name__ == "__main__":
    for read in (with_duckdb, with_polars, with_pandas):
        print(json.dumps(sorted(read(sys.argv[1]), key=repr)))
