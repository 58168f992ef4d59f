"""Parquet files that are broken at random."""

from __future__ import annotations

import datetime as dt
import io
import json
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from attention_core.run import run
from flows import cli

JOBS: tuple[list[dict[str, Any]], ...] = (
    [{"key": "x", "score": {"kind": "threshold", "above": 0}, "weight": "step"}],
    [
        {"name": "all", "key": "x", "score": "zscore", "weight": "softmax"},
        {"name": "group", "key": "y", "value": "y", "over": {"group": ["g"]}, "weight": "softmax"},
    ],
    [{"name": "pooled", "key": "x", "value": "y", "over": {"group": ["g"]}, "weight": "sigmoid", "apply": "pool"}],
    [
        {
            "name": "late",
            "key": "t",
            "score": {"kind": "recency", "unit": "days"},
            "weight": "sigmoid",
            "apply": "weights",
        }
    ],
)


def prepare(folder: Path) -> None:
    """The whole files that job files are planned over."""
    for p in range(2):
        path = folder / "in" / f"p={p}" / "a.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows(40, p).write_parquet(path)


def rows(n: int, seed: int) -> pl.DataFrame:
    dice = np.random.default_rng(seed)
    when = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=int(h)) for h in dice.integers(0, 9999, n)]
    return pl.DataFrame(
        {
            "x": dice.normal(size=n),
            "y": dice.normal(size=n).astype("f4"),
            "g": [["a", "bc", None][i] for i in dice.integers(0, 3, n)],
            "h": dice.integers(0, 4, n),
            "t": when,
            "l": [list(range(k)) for k in dice.integers(0, 4, n)],
        }
    )


@cache
def whole() -> tuple[bytes, ...]:
    """Files as several writers write them."""
    frame, found = rows(300, 7), list[bytes]()
    for how in (
        {"compression": "uncompressed"},
        {"compression": "zstd", "row_group_size": 70},
        {"compression": "snappy"},
    ):
        into = io.BytesIO()
        frame.write_parquet(into, **how)  # type: ignore[arg-type]
        found.append(into.getvalue())
    for more in (
        {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
        {"compression": "none", "data_page_size": 200, "write_page_index": True},
        {"compression": "gzip", "write_page_checksum": True, "row_group_size": 100},
        {
            "compression": "none",
            "use_dictionary": False,
            "column_encoding": {"x": "BYTE_STREAM_SPLIT", "g": "DELTA_BYTE_ARRAY"},
        },
    ):
        into = io.BytesIO()
        pq.write_table(frame.to_arrow(), into, **more)
        found.append(into.getvalue())
    return tuple(found)


def made(dice: random.Random, folder: Path) -> tuple[Callable[[], Any], bool]:
    """Writes a source of a whole and a broken file; gives what is to be done, and whether it may write to the sink."""
    for name in ("out", "out.farol", "out.pooled", "files"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "files").mkdir()
    rows(30, 1).write_parquet(folder / "files" / "a.parquet")
    job = {
        "name": "files",
        "source": {"path": "files", "drift": dice.choice(["strict", "strict", "widen", "fill"])},
        "sink": {"path": "out", "columns": dice.choice(["all", "all", "added"])},
        "attention": dice.choice(JOBS),
        "device": "cpu",
        "workers": 1,
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    broken = dice.choice(WAYS)(dice, dice.choice(whole()))
    if dice.random() < 0.1:  # an output that is not as it was written
        run(path)
        output = folder / "out" / "a.parquet"
        output.write_bytes(broken if dice.random() < 0.5 else dice.choice(WAYS)(dice, output.read_bytes()))
        return lambda: cli.app(["plan", str(path)], exit_on_error=False, print_error=False), False
    (folder / "files" / "b.parquet").write_bytes(broken)
    command = dice.choice(["plan", "preview", "run", "run", "run"])
    if command == "run":
        return lambda: run(path), True
    return lambda: cli.app([command, str(path)], exit_on_error=False, print_error=False), False


def _footer(raw: bytes) -> int:
    """Where the footer begins."""
    return max(4, len(raw) - 8 - int.from_bytes(raw[-8:-4], "little"))


def flips(dice: random.Random, raw: bytes, a: int, b: int) -> bytes:
    changed = bytearray(raw)
    for _ in range(dice.choice([1, 1, 2, 5, 30])):
        i = dice.randrange(a, b)
        match dice.randrange(4):
            case 0:
                changed[i] = dice.choice([0, 0xFF, 0x7F, 0x80])
            case 1:
                changed[i] = dice.randrange(256)
            case _:
                changed[i] ^= 1 << dice.randrange(8)
    return bytes(changed)


def in_footer(dice: random.Random, raw: bytes) -> bytes:
    return flips(dice, raw, _footer(raw), len(raw) - 8)


def in_pages(dice: random.Random, raw: bytes) -> bytes:
    return flips(dice, raw, 4, _footer(raw))


def anywhere(dice: random.Random, raw: bytes) -> bytes:
    return flips(dice, raw, 0, len(raw))


def in_length(dice: random.Random, raw: bytes) -> bytes:
    """The length of the footer."""
    length = dice.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(raw), len(raw) - 8, len(raw) - 12, dice.randrange(1 << 32)])
    return raw[:-8] + length.to_bytes(4, "little") + raw[-4:]


def cut(dice: random.Random, raw: bytes) -> bytes:
    keep = dice.choice([0, 1, 4, 7, 8, 11, 12, len(raw) - 1, len(raw) - 4, dice.randrange(len(raw))])
    return raw[:keep] if dice.random() < 0.7 else raw[len(raw) - keep :]


def magic(dice: random.Random, raw: bytes) -> bytes:
    other = dice.choice([b"PARE", b"par1", b"ARRO", b"\0\0\0\0", b"PK\3\4"])
    return dice.choice([other + raw[4:], raw[:-4] + other, other + raw[4:-4] + other])


def moved(dice: random.Random, raw: bytes) -> bytes:
    """A part put in, taken out, zeroed or repeated, with the footer where it was or not."""
    i, n = dice.randrange(4, len(raw) - 8), dice.choice([1, 8, 100, 1000])
    return dice.choice(
        [raw[:i] + raw[i + n :], raw[:i] + b"\0" * n + raw[i + n :], raw[:i] + raw[i : i + n] + raw[i:],
        raw[:i] + b"\xff" * n + raw[i:],
         raw[:i] + dice.choice(whole())[i:]]
    )  # fmt: skip


def metadata(dice: random.Random, raw: bytes) -> bytes:
    """A file whose footer says odd things of itself, or whose columns have odd names."""
    table = pq.read_table(io.BytesIO(raw))
    odd = dice.choice(
        [b"", b"{", b"null", b"[]", b'{"name": 1}', b"\xff\xfe", b"\x1b[31m", b"9" * 400, b'{"input": []}']
    )
    key = dice.choice([b"farol", b"ARROW:schema", b"pandas", b"huggingface", b"\x1b[2J", b""])
    names = [
        dice.choice([n, n, n, "\x1b[31m" + n, n + "\n", "", "../" + n, "\u202e", "*", n * 999])
        for n in table.column_names
    ]
    table = table.rename_columns(names) if dice.random() < 0.5 else table
    fields = [f.with_metadata({"PARQUET:field_id": odd, "x": odd}) if dice.random() < 0.2 else f for f in table.schema]
    into = io.BytesIO()
    try:
        pq.write_table(table.cast(pa.schema(fields, {key: odd})), into, store_schema=dice.random() < 0.5)
    except (pa.ArrowException, ValueError):
        return raw[:-1]
    return into.getvalue() if dice.random() < 0.7 else in_footer(dice, into.getvalue())


WAYS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    in_footer, in_footer, in_footer, in_pages, in_pages, anywhere, in_length, cut, magic, moved, metadata,
)  # fmt: skip
