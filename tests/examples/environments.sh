#!/bin/sh
# The environments of the examples, each tool in its own: sh environments.sh FOLDER
# (target-duckdb and target-csv pin libraries that would not get along with anything else.)
set -eu
make() {
  python3 -m venv "$folder/$1"
  name=$1
  shift
  "$folder/$name/bin/pip" install -q "$@"
}
folder=$1
make readers duckdb polars pandas zstandard
make dlt 'dlt[duckdb]' pyarrow
make target-duckdb target-duckdb
make target-csv meltanolabs-target-csv
