"""Are the outputs of two peers equal: `python -m tests.benchmarks.check SOURCE REFERENCE OUT [TABLE]`.

The input's columns must have come through as they were; the new ones must have the reference's names, types and nulls,
and its values within 1e-9 of their size. Of a job that is about a table, that alone is compared: numbers the same way,
and Float32, which some add up as it is, within 1e-6 of the column's largest. Says what differs and exits with 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

WITHIN = 1e-9  # relative: a weight that is one of ten million is itself near 1e-7
FLOAT32_WITHIN = 1e-6


def difference(source: pl.DataFrame, reference: pl.DataFrame, out: pl.DataFrame) -> str | None:
    if out.height != source.height:
        return f"{out.height} rows, not {source.height}"
    if dict(out.schema) != dict(reference.schema):  # as dicts: the order of columns is each peer's own
        return f"columns {dict(out.schema)}, not {dict(reference.schema)}"
    for name in source.columns:
        if not out[name].equals(source[name]):
            return f"{name} is not as it was"
    for name in set(reference.columns) - set(source.columns):
        left, right = pl.col("reference").cast(pl.Float64), pl.col("out").cast(pl.Float64)
        near = left.is_finite() & ((left - right).abs() <= WITHIN * left.abs())
        pair = pl.DataFrame({"reference": reference[name], "out": out[name]})
        wrong = pair.filter((left.is_null() != right.is_null()) | ~near)
        if wrong.height:
            return f"{name} differs in {wrong.height} rows, the first: {wrong.row(0)}"
    return None


def table_difference(reference: pl.DataFrame, out: pl.DataFrame) -> str | None:
    if sorted(out.columns) != sorted(reference.columns):
        return f"columns {out.columns}, not {reference.columns}"
    for name in reference.columns:
        left, right = flat(reference[name]), flat(out[name])
        if len(left) != len(right) or left.null_count() + right.null_count():
            return f"{name} has {len(right)} numbers, not {len(left)}, or nulls"
        single = left.dtype == pl.Float32 and right.dtype == pl.Float32
        pair = pl.DataFrame({"reference": left.cast(pl.Float64), "out": right.cast(pl.Float64)})
        size = pl.col("reference").abs()
        bound = FLOAT32_WITHIN * size.max() if single else WITHIN * size
        wrong = pair.filter(~((pl.col("reference") - pl.col("out")).abs() <= bound))
        if wrong.height:
            return f"{name} differs in {wrong.height} numbers, the first: {wrong.row(0)}"
    return None


def flat(column: pl.Series) -> pl.Series:
    """The numbers of vectors one after another: DuckDB writes its arrays as lists."""
    return column.explode() if column.dtype.is_nested() else column


def main() -> None:
    source, reference, out = (Path(argument) for argument in sys.argv[1:4])
    if sys.argv[4:]:
        name = f"{sys.argv[4]}.parquet"  # wherever a peer puts it
        tables = (pl.read_parquet(next(folder.rglob(name))) for folder in (reference, out))
        sys.exit(table_difference(*tables))
    names = sorted(path.name for path in source.iterdir())
    if (found := sorted(path.name for path in out.iterdir())) != names:
        sys.exit(f"files {found}, not {names}")
    for name in names:
        wrong = difference(*(pl.read_parquet(folder / name) for folder in (source, reference, out)))
        if wrong:
            sys.exit(f"{name}: {wrong}")


if __name__ == "__main__":
    main()
