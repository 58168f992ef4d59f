"""Are the outputs of two peers equal: `python -m tests.benchmarks.check SOURCE REFERENCE OUT`.

The input's columns must have come through as they were; the new ones must have the reference's names, types and nulls,
and its values within 1e-9 of their size. Says what differs and exits with 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

WITHIN = 1e-9  # relative: a weight that is one of ten million is itself near 1e-7


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


def main() -> None:
    source, reference, out = (Path(argument) for argument in sys.argv[1:4])
    names = sorted(path.name for path in source.iterdir())
    if (found := sorted(path.name for path in out.iterdir())) != names:
        sys.exit(f"files {found}, not {names}")
    for name in names:
        wrong = difference(*(pl.read_parquet(folder / name) for folder in (source, reference, out)))
        if wrong:
            sys.exit(f"{name}: {wrong}")


if __name__ == "__main__":
    main()
