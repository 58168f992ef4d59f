"""The seven numbers of the first example, in three layouts: `python data/lighthouse/make.py`. Needs Polars."""

from __future__ import annotations

from pathlib import Path

import polars as pl

HERE = Path(__file__).resolve().parent
NUMBERS = [1, 6, 3, 7, 2, 5, 9]


def layouts(numbers: list[int]) -> dict[str, pl.DataFrame]:
    """The numbers down seven rows, across seven columns of one row, and as one list in one row."""
    return {
        "rows": pl.DataFrame({"x": numbers}, schema={"x": pl.Int64}),
        "columns": pl.DataFrame({f"s{i}": [x] for i, x in enumerate(numbers, start=1)}),
        "list": pl.DataFrame({"xs": [numbers]}, schema={"xs": pl.List(pl.Int64)}),
    }


if __name__ == "__main__":
    for name, frame in layouts(NUMBERS).items():
        file = HERE / name / f"{name}.parquet"
        file.parent.mkdir(exist_ok=True)
        frame.write_parquet(file, compression="zstd")
