"""The three targets as a test sees them: an address, the rows, the ledger."""

import json

import duckdb
from nights import normal

COLUMNS = "content_item_id, user_id, status, progress, extra"
LEDGER = "sha256, run_ids, courses, deleted, inserted"


class Duck:
    kind = "duckdb"

    def __init__(self, folder):
        self.path = folder / "warehouse.duckdb"
        self.to = f"duckdb:{self.path}"

    def _query(self, query):
        if not self.path.exists():
            return []
        with duckdb.connect(self.path, read_only=True) as database:
            try:
                return database.execute(query).fetchall()
            except duckdb.CatalogException:
                return []

    def rows(self):
        return normal(self._query(f"select {COLUMNS} from statuses"))

    def ledger(self):
        lines = self._query(f'select {LEDGER} from statuses_loads order by "at"')
        return [(one[0], json.loads(one[1]), *one[2:]) for one in lines]


class Parquet:
    kind = "parquet"

    def __init__(self, folder):
        self.path = folder / "warehouse.parquet"
        self.to = f"parquet:{self.path}"

    def rows(self):
        if not self.path.exists():
            return []
        return normal(duckdb.sql(f"select {COLUMNS} from '{self.path}'").fetchall())

    def ledger(self):
        if not self.path.exists():
            return []
        query = f"select value from parquet_kv_metadata('{self.path}') where decode(key) = ?"
        ((text,),) = duckdb.execute(query, ["bulkfetch_loads"]).fetchall()
        return [
            tuple(line[name] for name in ("sha256", "run_ids", "courses", "deleted", "inserted"))
            for line in json.loads(text)
        ]


class Postgres:
    kind = "postgresql"

    def __init__(self, server):
        self.server = server
        self.to = server.url

    def _query(self, table, query):
        ((there,),) = self.server.rows("select to_regclass(%s) is not null", table)
        return self.server.rows(query) if there else []

    def rows(self):
        return normal(self._query("statuses", f"select {COLUMNS} from statuses"))

    def ledger(self):
        return self._query("statuses_loads", f'select {LEDGER} from statuses_loads order by "at"')


PLACES = {"duckdb": Duck, "parquet": Parquet, "postgresql": Postgres}
