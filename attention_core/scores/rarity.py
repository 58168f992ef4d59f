"""Rarity: what occurs seldom in its scope deserves more attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import polars as pl
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from attention_core.contract import Fit, Question, Rows
from attention_core.frozen import Frozen
from attention_core.kinds import Score

AT = ["segment", "value"]


@dataclass(frozen=True, eq=False)
class Tallies:
    """How often each value occurs in each of `size` segments.

    tables: segment Int64, value, count Int64; one under another, a value of a segment may stand in several of them.
    """

    tables: tuple[pl.DataFrame, ...]
    size: int

    def __add__(self, other: Tallies) -> Tallies:
        tables = (*self.tables, *other.tables)
        # to merge costs as much as what is there: only once as much again has come
        merge = sum(table.height for table in tables[1:]) >= tables[0].height
        return Tallies((_merged(tables),) if merge else tables, self.size)

    def spread(self, ids: Tensor, size: int) -> Tallies:
        places = _series(ids)
        moved = tuple(t.with_columns(places.gather(t["segment"]).alias("segment")) for t in self.tables)
        return Tallies(moved, size)

    def table(self) -> pl.DataFrame:
        """One row for each value of each segment, sorted by both."""
        return _merged(self.tables).sort(AT)


class Tally(Question[Tallies]):
    """How often each value occurs."""

    def of(self, rows: Rows) -> Tallies:
        there = rows.present()
        keys = _keys(there).group_by(AT).agg(pl.len().cast(pl.Int64).alias("count"))
        return Tallies((keys,), rows.size)


class Frequencies(Frozen):
    """What is known: the tally, sorted; n, how many keys there are, and distinct, how many values: (size,) int64."""

    table: pl.DataFrame
    n: Tensor
    distinct: Tensor

    def picked(self, ids: Tensor) -> Frequencies:
        """The same for the segments `ids` (m,) alone: rows of the table, as often as their segment is picked."""
        wanted = pl.DataFrame({"segment": _series(ids)}).with_row_index("new")
        table = wanted.join(self.table, on="segment", maintain_order="left_right")
        table = table.select(pl.col("new").cast(pl.Int64).alias("segment"), "value", "count")
        return Frequencies(table=table, n=self.n[ids], distinct=self.distinct[ids])


class Rarity(Score[Frequencies]):
    """How seldom the key occurs in its scope: the rarer, the larger. One pass.

    Keys are of any type that can be compared: text, categories, whole numbers of any size, times, decimals, bytes. -0.0
    is 0.0. With c the count of x, n that of all keys that are not missing, and C the number of distinct values:

    form: information is −ln(c/n), in nats; inverse is n/(C·c), which gives every value the same total; effective is
        (1 − β)/(1 − β^c), the inverse of the effective number of samples.
    beta: β of effective, from 0 (all alike) to below 1 (towards 1/c).

    A value that those who taught have not seen makes the key missing.
    Source: Shannon 1948; scikit-learn's "balanced" weights, after King and Zeng 2001; Cui et al. 2019.
    """

    kind: Literal["rarity"] = "rarity"
    counts = True
    form: Literal["information", "inverse", "effective"] = "information"
    beta: float = Field(default=0.999, ge=0, lt=1)

    def bound(self, dtype: pl.DataType | None) -> Rarity:
        if dtype is not None and (dtype.is_nested() or dtype == pl.Object):
            advice = "count one of its parts"
            if isinstance(dtype, pl.List):
                advice = "say over: row to count the elements of each List among themselves"
            raise ValueError(f"rarity counts equal values, and this column is {dtype}; {advice}")
        return self

    def fit(self) -> Fit[Frequencies]:
        tallies = yield Tally()
        table, size = tallies.table(), tallies.size
        each = table.group_by("segment").agg(pl.col("count").sum(), pl.len().cast(pl.Int64).alias("distinct"))
        at = _tensor(each["segment"])
        n, distinct = (
            torch.zeros(size, dtype=torch.int64).index_copy_(0, at, _tensor(each[name]))
            for name in ("count", "distinct")
        )
        return Frequencies(table=table, n=n, distinct=distinct)

    def __call__(self, rows: Rows, known: Frequencies) -> Tensor:
        """Where nobody taught the value, NaN."""
        found = _keys(rows).join(known.table, on=AT, how="left", maintain_order="left")["count"]
        c = _tensor(found.cast(pl.Float64).fill_null(math.nan)).to(rows.x.device)
        n, distinct = (rows.at(t.to(rows.x.device)) for t in (known.n, known.distinct))
        match self.form:
            case "information":
                return torch.log1p((n - c) / c)  # ln(n/c), also to the last digits where c is near n
            case "inverse":
                return n / (distinct * c)
        rate = math.log(self.beta) if self.beta else -math.inf
        return (1 - self.beta) / -torch.expm1(c * rate)  # 1 − β^c without a difference of near numbers


def _merged(tables: tuple[pl.DataFrame, ...]) -> pl.DataFrame:
    return pl.concat(tables).group_by(AT).agg(pl.col("count").sum())


def _keys(rows: Rows) -> pl.DataFrame:
    """The segment and the value of each row."""
    ids = torch.zeros(len(rows.x), dtype=torch.int64) if rows.ids is None else rows.ids
    return pl.DataFrame({"segment": _series(ids), "value": rows.keys()})


def _series(ids: Tensor) -> pl.Series:
    if not len(ids):
        return pl.Series(dtype=pl.Int64)
    column = pl.from_arrow(pa.Array.from_dlpack(ids.cpu().contiguous()))
    assert isinstance(column, pl.Series)
    return column


def _tensor(column: pl.Series) -> Tensor:
    """A column without nulls."""
    if not len(column):
        return torch.empty(0, dtype=torch.float64 if column.dtype.is_float() else torch.int64)
    return torch.from_dlpack(column.to_arrow())  # type: ignore[attr-defined]
