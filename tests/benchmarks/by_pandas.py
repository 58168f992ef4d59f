"""pandas with torch: read a file, weigh its columns as tensors, write it."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pandas as pd
import torch

# A frame's arrays are read-only, which torch warns of; nothing is written into them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def one_file(path: Path, out: Path) -> None:
    frame = pd.read_parquet(path)
    for name in ("a", "b", "c", "f"):
        key = torch.from_numpy(frame[name].to_numpy())
        weight = torch.where(key > 0.5, 2.0, 1.0).double()
        weight = torch.where(key.isnan(), torch.nan, weight)  # pandas reads null as NaN, and writes NaN as null
        frame[f"{name}_weight"] = weight.numpy()
        frame[f"{name}_weighted"] = (key * weight).to(key.dtype).numpy()
    frame.to_parquet(out / path.name, compression="zstd", compression_level=1, index=False)


def elementwise(at_once: int | None, source: Path, out: Path) -> None:
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda path: one_file(path, out), sorted(source.iterdir())))


PEERS = {
    "elementwise/pandas-torch": partial(elementwise, 1),
    "elementwise/pandas-torch-threads": partial(elementwise, os.cpu_count()),
}
