"""The benchmarks' rows: `python -m tests.benchmarks.make_data [--rows N] [--files F] [--kind vectors] [--folder DIR]`.

The same rows whenever they are made, and not made again where they are there already. Prints the folder they are in.
"""

from __future__ import annotations

import argparse
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from tests.benchmarks import BENCH, DIMENSIONS, ROW_GROUP, ROWS

USERS = 50_000
VECTOR_USERS = 20_000
WORDS = 4_000
VERSION = 1  # part of the folder's name: one up where the rows below change, or old ones would pass for new


@cache
def users() -> np.ndarray:
    """Spread over the integers: dense numbers from 0 would let an engine use them as places in an array."""
    return np.random.default_rng([VERSION, 1]).choice(2**40, USERS, replace=False)


@cache
def words() -> pl.Series:
    """Distinct short strings, 4 to 8 letters."""
    rng = np.random.default_rng([VERSION, 2])
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    found: dict[str, None] = {}  # a set that keeps its order
    while len(found) < WORDS:
        found["".join(rng.choice(letters, rng.integers(4, 9)))] = None
    return pl.Series(list(found))


def part(index: int, start: int, rows: int) -> pl.DataFrame:
    """One file's rows, seeded with the file's number: the same whichever files are made before it."""
    rng = np.random.default_rng([VERSION, 3, index])
    ids = np.arange(start, start + rows)
    seconds = 1_700_000_000 + ids // 10  # ten rows a second, in order but for the microseconds
    return pl.DataFrame(
        {
            "id": ids,
            "user": users()[rng.integers(0, USERS, rows)],
            "ts": pl.Series(seconds * 1_000_000 + rng.integers(0, 1_000_000, rows)).cast(pl.Datetime("us")),
            "s": words().gather(rng.integers(0, WORDS, rows)),
            "a": rng.standard_normal(rows),
            "b": pl.Series(rng.standard_normal(rows)).set(pl.Series(rng.random(rows) < 0.1), None),
            "c": rng.standard_normal(rows),
            "f": rng.standard_normal(rows, dtype=np.float32),
        }
    )


def vectors(index: int, start: int, rows: int) -> pl.DataFrame:
    """One file of embeddings: some fifty to a user where there are a million."""
    rng = np.random.default_rng([VERSION, 4, index])
    return pl.DataFrame(
        {
            "id": np.arange(start, start + rows),
            "user": users()[rng.integers(0, VECTOR_USERS, rows)],
            "a": rng.standard_normal(rows),
            "v": pl.Series(
                rng.standard_normal((rows, DIMENSIONS), dtype=np.float32), dtype=pl.Array(pl.Float32, DIMENSIONS)
            ),
        }
    )


# What makes a file, and the rows of a file and of a row group: 1.5 kB a vector, so a tenth of them.
KINDS = {"rows": (part, 1_250_000, ROW_GROUP), "vectors": (vectors, 125_000, ROW_GROUP // 10)}


def make(rows: int = ROWS, files: int | None = None, bench: Path = BENCH, kind: str = "rows") -> Path:
    """The folder that holds the rows, made where it is not there yet.

    As many files as keep them equally large, unless said: 8 for 10 M rows, 32 for 40 M.
    """
    made, in_a_file, in_a_group = KINDS[kind]
    files = files or max(1, round(rows / in_a_file))
    folder = bench / f"{kind}-{rows}-in-{files}-v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    (bench / ".gitignore").write_text("*\n")
    edges = [rows * index // files for index in range(files + 1)]
    parts = [(folder / f"part-{index:03d}.parquet", *edge) for index, edge in enumerate(pairwise(edges))]
    if all(path.exists() for path, _, _ in parts):
        return folder
    for index, (path, start, end) in enumerate(parts):
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")  # under its own name a file is whole, or not there
            rows_of_part = made(index, start, end - start)
            rows_of_part.write_parquet(unfinished, compression="zstd", compression_level=1, row_group_size=in_a_group)
            unfinished.rename(path)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the benchmarks' rows, where they are not there yet.")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--files", type=int, help="as many as give 1.25 M rows a file, unless said")
    parser.add_argument("--kind", choices=KINDS, default="rows")
    parser.add_argument("--folder", type=Path, default=BENCH)
    given = parser.parse_args()
    print(make(given.rows, given.files, given.folder, given.kind))


if __name__ == "__main__":
    main()
