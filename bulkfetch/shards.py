"""A job past one process: cut into shards, run by whatever runs functions, joined to one output.

    from bulkfetch import Options, shards

    jobs = shards.plan("courses.txt", "statuses.ndjson", Options(endpoint=...), 8)
    with ProcessPoolExecutor() as pool:                # or Ray, Spark, Celery, a queue of your own
        list(pool.map(shards.run_shard, jobs))
    shards.merge([job.output for job in jobs], "statuses.ndjson")

All three are plain functions of plain values that can be pickled. No token is among them: where a
shard runs, `BULKFETCH_TOKEN`, `BULKFETCH_TOKEN_COMMAND` or the options' `token_file` bring it.
"""

from __future__ import annotations

from bulkfetch._scale.merge import merge
from bulkfetch._scale.shards import Shard, plan, run_shard

__all__ = ["Shard", "merge", "plan", "run_shard"]
