"""Jobs at random, whose source and rules change from run to run."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

FAR = {"name": "far", "key": "x", "score": "zscore", "weight": "softmax", "scale": {"mean": 1.0}}
IN_GROUP = {
    "name": "in_group",
    "key": "x",
    "value": "y",
    "over": {"group": ["g"]},
    "score": "zscore",
    "weight": "softmax",
}
BOTH = {"name": "both", "score": {"kind": "expression", "sql": "far_weight * in_group_weight"}, "apply": "weights"}
DOUBLE = {
    "name": "double",
    "key": "y",
    "score": {"kind": "threshold", "above": 0.5},
    "weight": "step",
    "rename": {"weighted": "{value}_doubled"},
}
HIGH = {
    "name": "high",
    "key": "y",
    "weight": "sigmoid",
    "apply": {"filter": {"min": 0.4}},
    "rename": {"weighted": "{value}_high"},
}
MORE: tuple[dict[str, Any], ...] = (
    DOUBLE,
    {"name": "recent", "key": "id", "score": "recency", "weight": {"kind": "exponential", "half_life": 9}},
    {"name": "robust", "key": "y", "score": "robust_zscore", "weight": "huber", "apply": "weights"},
    {"name": "top", "key": "y", "score": {"kind": "top_k", "fraction": 0.3}, "weight": "step", "apply": "weights"},
    {"name": "rare", "key": "g", "score": "rarity", "weight": "proportional", "apply": "weights"},
    {"name": "in_batch", "key": "x", "over": "batch", "weight": {"kind": "entmax", "alpha": 2}, "apply": "weights"},
    {"name": "taught", "key": "x", "weight": "softmax", "fit": "h < 2", "over": {"group": ["h"]}, "apply": "weights"},
    {"name": "by_two", "key": "y", "over": {"group": ["g", "h"]}, "weight": "linear", "apply": "weights"},
    {"name": "pooled", "key": "y", "value": "x", "over": {"group": ["g"]}, "weight": "softmax", "apply": "pool"},
    {"name": "mean", "key": "x", "value": ["x", "y"], "weight": "sigmoid", "apply": {"pool": "mean"}},
    HIGH,
)


@dataclass
class Source:
    """The batches of a folder: what is in each, and how it changes."""

    folder: Path
    dice: random.Random
    held: dict[str, tuple[int, int]] = field(default_factory=dict)  # rows and seed, by name

    def fill(self, batches: int) -> None:
        for _ in range(batches):
            self.add()

    def add(self) -> None:
        i = next(i for i in range(10_000) if self._name(i) not in self.held)
        self.put(self._name(i))

    def put(self, name: str) -> None:
        self.held[name] = (self.dice.choice([0, 1, 30, 200, 1000]), self.dice.randrange(1 << 30))
        self._write(name)

    def change(self) -> str:
        """Something that happens to a source between two runs; says what."""
        names = sorted(self.held)
        what = self.dice.choice(["add", "add", "replace", "replace", "remove", "touch", "swap", "nothing"])
        name = self.dice.choice(names)
        if what == "add" and len(names) < 8:
            self.add()
        elif what == "replace":
            self.put(name)
        elif what == "remove" and len(names) > 2:
            del self.held[name]
            (self.folder / name).unlink()
        elif what == "touch":
            os.utime(self.folder / name, (self.dice.randrange(1 << 30),) * 2)
        elif what == "swap":
            other = self.dice.choice(names)
            self.held[name], self.held[other] = self.held[other], self.held[name]
            self._write(name)
            self._write(other)
        return what

    def back_to(self, held: dict[str, tuple[int, int]]) -> None:
        """Makes the source what it was."""
        for name in self.held.keys() - held.keys():
            (self.folder / name).unlink()
        changed = [name for name in held if self.held.get(name) != held[name]]
        self.held = dict(held)
        for name in changed:
            self._write(name)

    @staticmethod
    def _name(i: int) -> str:
        return f"p={i % 3}/{i}.parquet"

    def _write(self, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame(*self.held[name]).write_parquet(path)


def frame(rows: int, seed: int) -> pl.DataFrame:
    """Rows with nulls, NaN and groups."""
    dice = np.random.default_rng(seed)
    x = dice.normal(size=rows)
    x[dice.random(rows) < 0.05] = np.nan
    return pl.DataFrame(
        {
            "id": np.arange(rows),
            "x": pl.Series(x, dtype=pl.Float64),
            "y": dice.normal(size=rows).astype("f4"),
            "g": pl.Series([["a", "b", None][i] for i in dice.integers(0, 3, rows)], dtype=pl.String),
            "h": dice.integers(0, 4, rows),
        }
    ).with_columns(pl.when(pl.col("h") == 3).then(None).otherwise("x").alias("x"))


def job(dice: random.Random) -> dict[str, Any]:
    """A job file: several rules, one on rules, and any way to write."""
    more = dice.sample(MORE, dice.randrange(1, 5))
    rules = [DOUBLE] if dice.random() < 0.15 else [FAR, IN_GROUP, BOTH, *more]
    pools = any("pool" in str(rule.get("apply")) for rule in rules)
    columns = dice.choice(["all", "all", "added", {"except": ["g"]}, *(["none"] if pools else [])])
    return {
        "name": "stress",
        "source": {"path": "in"},
        "sink": {
            "path": "out",
            "gone": "remove",
            "columns": columns,
            "compression": dice.choice(["zstd", "zstd", "lz4", "uncompressed"]),
        },
        "attention": rules,
        "chunk_rows": dice.choice(["auto", 97, 1000]),
        "workers": dice.choice([1, 2]),
        "device": "cpu",
    }


def write(job: dict[str, Any], folder: Path) -> Path:
    path = folder / "job.yaml"
    path.write_text(json.dumps(job, indent=1))
    return path
