"""Polars' own plans: of each job the fastest found, under its plain name, and some of those it was chosen from.

Where several were as fast within a few per cent, the one that holds the least memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path

import polars as pl

from tests.benchmarks import DIMENSIONS, ROW_GROUP
from tests.benchmarks.job_files import TABLES

Plan = Callable[[pl.LazyFrame], pl.LazyFrame]
A = pl.col("a")


def sink(frame: pl.LazyFrame, to: Path | pl.PartitionBy) -> pl.LazyFrame:
    # Row groups as large as the input's were found some 3 % faster than the sink's own.
    return frame.sink_parquet(to, compression="zstd", compression_level=1, row_group_size=ROW_GROUP, lazy=True)


# How one file becomes one file


def in_threads(plan: Plan, source: Path, out: Path) -> None:
    """As many files at once as there are cores."""

    def one(path: Path) -> None:
        sink(plan(pl.scan_parquet(path)), out / path.name).collect(engine="streaming")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, sorted(source.iterdir())))


def one_by_one(plan: Plan, source: Path, out: Path) -> None:
    for path in sorted(source.iterdir()):
        sink(plan(pl.scan_parquet(path)), out / path.name).collect(engine="streaming")


def collect_all(plan: Plan, source: Path, out: Path) -> None:
    """All files as one lazy graph."""
    files = sorted(source.iterdir())
    pl.collect_all([sink(plan(pl.scan_parquet(path)), out / path.name) for path in files], engine="streaming")


def eager(plan: Plan, source: Path, out: Path) -> None:
    """Whole files in memory, as many at once as there are cores."""

    def one(path: Path) -> None:
        frame = plan(pl.scan_parquet(path)).collect()
        frame.write_parquet(out / path.name, compression="zstd", compression_level=1, row_group_size=ROW_GROUP)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, sorted(source.iterdir())))


def dataset(plan: Plan, source: Path, out: Path) -> None:
    """The whole dataset as one frame, cut into its files again by the path that each row came from."""
    paths = pl.PartitionBy(
        out, key="path", include_key=False, file_path_provider=lambda part: Path(part.partition_keys[0, 0]).name
    )
    sink(plan(pl.scan_parquet(sorted(source.iterdir()), include_file_paths="path")), paths).collect(engine="streaming")


# What is done to the rows


def threshold(*columns: str) -> Plan:
    def plan(frame: pl.LazyFrame) -> pl.LazyFrame:
        keys = {name: pl.col(name) for name in columns}
        weights = {
            f"{name}_weight": pl.when(key > 0.5).then(2.0).when(key.is_not_null()).then(1.0)
            for name, key in keys.items()
        }
        weighted = {
            f"{name}_weighted": (key * pl.col(f"{name}_weight")).cast(pl.Float32 if name == "f" else pl.Float64)
            for name, key in keys.items()
        }
        return frame.with_columns(**weights).with_columns(**weighted)

    return plan


def zscore_softmax(source: Path, out: Path) -> None:
    """Three reads of the key: its moments and extent, the softmax's sum, and the rows. The largest score needs none."""
    rows = pl.scan_parquet(sorted(source.iterdir()))
    moments = rows.select(mean=A.mean(), deviation=A.std(ddof=0), low=A.min(), high=A.max()).collect(engine="streaming")
    mean, deviation, low, high = moments.row(0)
    largest = max(high - mean, mean - low) / deviation
    term = ((A - mean).abs() / deviation - largest).exp()
    total = rows.select(term.sum()).collect(engine="streaming").item()

    def plan(frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.with_columns((term / total).alias("a_weight")).with_columns(
            (A * pl.col("a_weight")).alias("a_weighted")
        )

    in_threads(plan, source, out)


def group_softmax(source: Path, out: Path) -> None:
    """Windows over the whole dataset, as one writes them: all rows are held at once."""

    def plan(frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.with_columns((A - A.max().over("user")).exp().alias("a_weight")).with_columns(
            pl.col("a_weight") / pl.col("a_weight").sum().over("user")
        )

    dataset(plan, source, out)


def group_softmax_by_joins(source: Path, out: Path) -> None:
    """Group by and join, twice: the fastest of those that hold a table of the groups only, not the rows."""
    rows = pl.scan_parquet(sorted(source.iterdir())).select("user", "a")
    largest = rows.group_by("user").agg(A.max().alias("largest")).collect(engine="streaming").lazy()
    term = (A - pl.col("largest")).exp()
    joined = rows.join(largest, on="user", nulls_equal=True)
    sums = joined.group_by("user").agg(pl.col("largest").first(), term.sum().alias("sum"))
    groups = sums.collect(engine="streaming").lazy()

    def plan(frame: pl.LazyFrame) -> pl.LazyFrame:
        known = frame.join(groups, on="user", how="left", maintain_order="left", nulls_equal=True)
        return known.with_columns((term / pl.col("sum")).alias("a_weight")).drop("largest", "sum")

    in_threads(plan, source, out)


def group_softmax_narrow(source: Path, out: Path) -> None:
    """Windows over the two columns that they need, then the weights laid beside each file: the fastest found."""
    files = sorted(source.iterdir())
    term = pl.scan_parquet(files).select("user", term=(A - A.max().over("user")).exp())
    weight = (pl.col("term") / pl.col("term").sum().over("user")).alias("a_weight")
    weights = term.select(weight).collect(engine="streaming")
    heights = [pl.scan_parquet(path).select(pl.len()).collect().item() for path in files]

    def one(path: Path, start: int, height: int) -> None:
        rows = [pl.scan_parquet(path), weights.slice(start, height).lazy()]
        sink(pl.concat(rows, how="horizontal"), out / path.name).collect(engine="streaming")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, files, accumulate(heights, initial=0), heights))


def pool(by_struct: bool, source: Path, out: Path) -> None:
    """The groups' sums by joins as above, then one aggregation with a sum for each component."""
    rows = pl.scan_parquet(sorted(source.iterdir()))
    keys = rows.select("user", "a")
    largest = keys.group_by("user").agg(A.max().alias("largest")).collect(engine="streaming").lazy()
    term = (A - pl.col("largest")).exp()
    sums = keys.join(largest, on="user").group_by("user").agg(pl.col("largest").first(), term.sum().alias("sum"))
    weighed = rows.join(sums.collect(engine="streaming").lazy(), on="user").with_columns(w=term / pl.col("sum"))
    names = [f"v{i}" for i in range(DIMENSIONS)]
    if by_struct:
        weighed = weighed.with_columns(pl.col("v").arr.to_struct(fields=names)).unnest("v")
        components = [pl.col(name) for name in names]
    else:
        components = [pl.col("v").arr.get(i).alias(name) for i, name in enumerate(names)]
    w = pl.col("w")
    pooled = weighed.group_by("user").agg(
        pl.len().alias("rows"), w.sum().alias("weight_sum"), *((c * w.cast(pl.Float32)).sum() for c in components)
    )
    table = pooled.select("user", "rows", "weight_sum", pl.concat_arr(names).alias("v_pooled")).sort("user")
    sink(table, out / f"{TABLES['pool']}.parquet").collect(engine="streaming")


def median(source: Path, out: Path) -> None:
    a = pl.scan_parquet(sorted(source.iterdir())).select("a").collect()["a"]
    middle = a.median()
    found = pl.DataFrame({"median": middle, "mad": (a - middle).abs().median()})
    found.write_parquet(out / f"{TABLES['median']}.parquet")


FOUR = threshold("a", "b", "c", "f")
PEERS = {
    "elementwise/polars": partial(in_threads, FOUR),
    "elementwise/polars-one-by-one": partial(one_by_one, FOUR),
    "elementwise/polars-collect-all": partial(collect_all, FOUR),
    "elementwise/polars-eager": partial(eager, FOUR),
    "elementwise/polars-dataset": partial(dataset, FOUR),
    "one-column/polars": partial(in_threads, threshold("a")),
    "zscore-softmax/polars": zscore_softmax,
    "group-softmax/polars": group_softmax,
    "group-softmax/polars-joins": group_softmax_by_joins,
    "group-softmax/polars-narrow": group_softmax_narrow,
    "pool/polars": partial(pool, False),
    "pool/polars-struct": partial(pool, True),
    "median/polars": median,
}
