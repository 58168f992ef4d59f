"""DuckDB: a COPY for each file."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import duckdb

from tests.benchmarks import ROW_GROUP

COLUMNS = ("a", "b", "c", "f")
WEIGHTS = ", ".join(
    f"CASE WHEN {name} > 0.5 THEN 2.0::DOUBLE WHEN {name} IS NOT NULL THEN 1.0::DOUBLE END AS {name}_weight"
    for name in COLUMNS
)
WEIGHTED = ", ".join(
    f"({name} * {name}_weight)::{'FLOAT' if name == 'f' else 'DOUBLE'} AS {name}_weighted" for name in COLUMNS
)


def copy(connection: duckdb.DuckDBPyConnection, path: Path, out: Path) -> None:
    connection.execute(
        f"COPY (SELECT *, {WEIGHTED} FROM (SELECT *, {WEIGHTS} FROM read_parquet('{path}'))) TO '{out / path.name}' "
        f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP})"
    )


def elementwise(at_once: int | None, source: Path, out: Path) -> None:
    with duckdb.connect() as connection, ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda path: copy(connection.cursor(), path, out), sorted(source.iterdir())))


# A file has three row groups, and a row group is one thread's work: several files at once keep the cores busy.
PEERS = {
    "elementwise/duckdb": partial(elementwise, os.cpu_count()),
    "elementwise/duckdb-one-by-one": partial(elementwise, 1),
}
