"""DuckDB: SQL, and a COPY for each file. Of each job the fastest found, under its plain name."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import duckdb

from tests.benchmarks import DIMENSIONS, ROW_GROUP
from tests.benchmarks.job_files import TABLES

COLUMNS = ("a", "b", "c", "f")
WEIGHTS = ", ".join(
    f"CASE WHEN {name} > 0.5 THEN 2.0::DOUBLE WHEN {name} IS NOT NULL THEN 1.0::DOUBLE END AS {name}_weight"
    for name in COLUMNS
)
WEIGHTED = ", ".join(
    f"({name} * {name}_weight)::{'FLOAT' if name == 'f' else 'DOUBLE'} AS {name}_weighted" for name in COLUMNS
)


def write(connection: duckdb.DuckDBPyConnection, query: str, out: Path) -> None:
    connection.execute(
        f"COPY ({query}) TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP})"
    )


def copy(connection: duckdb.DuckDBPyConnection, path: Path, out: Path) -> None:
    write(connection, f"SELECT *, {WEIGHTED} FROM (SELECT *, {WEIGHTS} FROM read_parquet('{path}'))", out / path.name)


def elementwise(at_once: int | None, source: Path, out: Path) -> None:
    with duckdb.connect() as connection, ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda path: copy(connection.cursor(), path, out), sorted(source.iterdir())))


def group_softmax(at_once: int | None, source: Path, out: Path) -> None:
    """Windows over the columns that they need, then joined to each file, whose order they lose, and sorted again."""
    term = "exp(a - max(a) OVER (PARTITION BY user)) AS term"
    weight = "term / sum(term) OVER (PARTITION BY user) AS a_weight"

    def one(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        query = f"SELECT rows.*, a_weight FROM read_parquet('{path}') AS rows JOIN weights USING (id) ORDER BY id"
        write(connection, query, out / path.name)

    with duckdb.connect() as connection, ThreadPoolExecutor(at_once) as pool:
        rows = f"SELECT id, user, {term} FROM read_parquet('{source}/*.parquet')"
        connection.execute(f"CREATE TABLE weights AS SELECT id, {weight} FROM ({rows})")
        list(pool.map(lambda path: one(connection.cursor(), path), sorted(source.iterdir())))


def pool(weighed: str, source: Path, out: Path) -> None:
    """A sum for each component; unnesting the vectors was found three times slower."""
    sums = ", ".join(f"sum(v[{i}] * w)::FLOAT" for i in range(1, DIMENSIONS + 1))
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW rows AS SELECT * FROM read_parquet('{source}/*.parquet')")
        query = (
            f"SELECT user, count(*) AS rows, sum(w) AS weight_sum, [{sums}]::FLOAT[{DIMENSIONS}] AS v_pooled "
            f"FROM ({weighed}) GROUP BY user ORDER BY user"
        )
        write(connection, query, out / f"{TABLES['pool']}.parquet")


BY_JOINS = """
    WITH largest AS (SELECT user, max(a) AS largest FROM rows GROUP BY user),
    sums AS (
        SELECT user, first(largest) AS largest, sum(exp(a - largest)) AS total
        FROM rows JOIN largest USING (user) GROUP BY user
    )
    SELECT user, v, exp(a - largest) / total AS w FROM rows JOIN sums USING (user)
"""
BY_WINDOWS = """
    SELECT user, v, term / sum(term) OVER (PARTITION BY user) AS w
    FROM (SELECT user, v, exp(a - max(a) OVER (PARTITION BY user)) AS term FROM rows)
"""
# A file has three row groups, and a row group is one thread's work: several files at once keep the cores busy.
PEERS = {
    "elementwise/duckdb": partial(elementwise, os.cpu_count()),
    "elementwise/duckdb-one-by-one": partial(elementwise, 1),
    "group-softmax/duckdb": partial(group_softmax, os.cpu_count()),
    "group-softmax/duckdb-one-by-one": partial(group_softmax, 1),
    "pool/duckdb": partial(pool, BY_JOINS),
    "pool/duckdb-windows": partial(pool, BY_WINDOWS),
}
