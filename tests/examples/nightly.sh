#!/bin/sh
# A nightly job for Airflow, Dagster or cron: fetch, verify, load, by exit codes alone.
#
#     ENDPOINT and token as for any command;  sh nightly.sh IDS FOLDER TARGET
#
# Ends with 0 when all is loaded, 1 when some courses failed (the others are loaded), 75 when the
# scheduler should run it again later (Airflow: retries; it goes on where it was), else with what
# the step said: a person has to look.
set -u
ids=$1 folder=$2 target=$3
out=$folder/statuses-${NIGHT:-$(date +%F)}.ndjson.zst

step() {
  bulkfetch "$@"
  code=$?
  case $code in
    0 | 1) ;;
    5) exit 75 ;; # temporary: server, target or disk are busy; nothing is lost
    *) exit $code ;;
  esac
}

step fetch -i "$ids" -o "$out" -q
fetched=$code
step verify "$out" -q
step load "$out" --to "$target"
exit $fetched
