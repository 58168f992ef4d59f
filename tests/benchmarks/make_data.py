"""The benchmarks' rows: `python -m tests.benchmarks.make_data [--rows N] [--files F] [--folder DIR]`.

The same rows whenever they are made, and not made again where they are there already. Prints the folder they are in.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from tests.benchmarks import BENCH, ROW_GROUP, ROWS

ROWS_PER_FILE = 1_250_000
USERS = 50_000
WORDS = 4_000
VERSION = 1  # part of the folder's name: one up where the rows below change, or old ones would pass for new


def files_for(rows: int) -> int:
    """As many files as keep them equally large: 8 for 10 M rows, 32 for 40 M."""
    return max(1, round(rows / ROWS_PER_FILE))


def users() -> np.ndarray:
    """Spread over the integers: dense numbers from 0 would let an engine use them as places in an array."""
    return np.random.default_rng([VERSION, 1]).choice(2**40, USERS, replace=False)


def words() -> pl.Series:
    """Distinct short strings, 4 to 8 letters."""
    rng = np.random.default_rng([VERSION, 2])
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    found: dict[str, None] = {}  # a set that keeps its order
    while len(found) < WORDS:
        found["".join(rng.choice(letters, rng.integers(4, 9)))] = None
    return pl.Series(list(found))


def part(index: int, start: int, rows: int, users: np.ndarray, words: pl.Series) -> pl.DataFrame:
    """One file's rows, seeded with the file's number: the same whichever files are made before it."""
    rng = np.random.default_rng([VERSION, 3, index])
    ids = np.arange(start, start + rows)
    seconds = 1_700_000_000 + ids // 10  # ten rows a second, in order but for the microseconds
    return pl.DataFrame(
        {
            "id": ids,
            "user": users[rng.integers(0, USERS, rows)],
            "ts": pl.Series(seconds * 1_000_000 + rng.integers(0, 1_000_000, rows)).cast(pl.Datetime("us")),
            "s": words.gather(rng.integers(0, WORDS, rows)),
            "a": rng.standard_normal(rows),
            "b": pl.Series(rng.standard_normal(rows)).set(pl.Series(rng.random(rows) < 0.1), None),
            "c": rng.standard_normal(rows),
            "f": rng.standard_normal(rows, dtype=np.float32),
        }
    )


def make(rows: int = ROWS, files: int | None = None, bench: Path = BENCH) -> Path:
    """The folder that holds the rows, made where it is not there yet."""
    files = files or files_for(rows)
    folder = bench / f"rows-{rows}-in-{files}-v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    (bench / ".gitignore").write_text("*\n")
    edges = [rows * index // files for index in range(files + 1)]
    parts = [(folder / f"part-{index:03d}.parquet", *edge) for index, edge in enumerate(pairwise(edges))]
    if all(path.exists() for path, _, _ in parts):
        return folder
    everyone, vocabulary = users(), words()
    for index, (path, start, end) in enumerate(parts):
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")  # under its own name a file is whole, or not there
            rows_of_part = part(index, start, end - start, everyone, vocabulary)
            rows_of_part.write_parquet(unfinished, compression="zstd", compression_level=1, row_group_size=ROW_GROUP)
            unfinished.rename(path)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the benchmarks' rows, where they are not there yet.")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--files", type=int, help="as many as give 1.25 M rows a file, unless said")
    parser.add_argument("--folder", type=Path, default=BENCH)
    given = parser.parse_args()
    print(make(given.rows, given.files, given.folder))


if __name__ == "__main__":
    main()
