"""Step 3: what the weights do to the values. Multiplied row by row, or pooled: one row for each segment."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, Self

import polars as pl
import torch
from pydantic import model_validator
from torch import Tensor

from attention_core.columns import Numbers, arrayed, booleans, components, numbers, series, vectors
from attention_core.contract import only
from attention_core.devices import CPU, ahead, cores
from attention_core.errors import DataError
from attention_core.frozen import Frozen
from attention_core.sums import Adding, Sums, block_of, placed, ranges

POOL_COLUMNS = ("rows", "weight_sum")  # of every table, beside its segments and its values
INFINITE = "an infinite value has no place in a pool; mask it or leave it out"


class AtLeast(Frozen):
    """The smallest weight that a row needs to stay."""

    min: float


class Apply(Frozen):
    """Step 3, what is done with the weights: multiply unless given, weights, none, pool, or a form of these.

    multiply gives each value times its weight, beside the weight; weights the weight alone; none nothing, for a rule
    that is there for the rules below it. Forms are exactly one of:

    filter: as multiply, and only the rows whose weight is at least `min`; null and NaN drop out.
    pool: a table of one row for each segment, beside the sink; sum, as bare `pool`, gives Σw·v, mean Σw·v/Σw. Missing
    values are left out of both sums.
    """

    filter: AtLeast | None = None
    pool: Literal["sum", "mean"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.filter is None) == (self.pool is None):
            raise ValueError("needs exactly one of filter, pool")
        return self


def multiplied(value: pl.Series, weight: Tensor, there: Tensor | None, name: str) -> pl.Series:
    """v·w for each row; of an Array, each component times its row's weight. A null stays null."""
    if isinstance(value.dtype, pl.Array):
        return _vectors_multiplied(value, weight, there, name)
    found = numbers(value)
    return product(found, weight, there, name, value.dtype)


def product(value: Numbers, weight: Tensor, there: Tensor | None, name: str, dtype: pl.DataType) -> pl.Series:
    """v·w (n,) as a column of the type that a weighted value of this type has."""
    found = value.x.to(weight.device) * weight
    single = column_type(dtype) == pl.Float32
    return series(name, found.float() if single else found, every(value.there, there), column_type(dtype))


def _vectors_multiplied(value: pl.Series, weight: Tensor, there: Tensor | None, name: str) -> pl.Series:
    dtype = column_type(value.dtype)
    assert isinstance(dtype, pl.Array)
    flat = components(value)
    flat = product(numbers(flat), weight.repeat_interleave(dtype.size), None, name, flat.dtype)
    return arrayed(flat, value.is_not_null() if there is None else value.is_not_null() & booleans(there), dtype)


def column_type(value: pl.DataType) -> pl.DataType:
    """The type of a weighted value."""
    if isinstance(value, pl.List):
        return pl.List(column_type(inner(value)))
    if isinstance(value, pl.Array):
        return pl.Array(column_type(component(value)), value.size)
    return pl.Float32() if value in (pl.Float32, pl.Float16) else pl.Float64()


def inner(dtype: pl.DataType) -> pl.DataType:
    """The type of a List's elements; of any other type, itself."""
    return component(dtype) if isinstance(dtype, pl.List) else dtype


def component(dtype: pl.DataType) -> pl.DataType:
    """The type of what an Array or a List holds; of any other type, itself."""
    if not isinstance(dtype, pl.Array | pl.List):
        return dtype
    found = dtype.inner
    return found() if isinstance(found, type) else found


def every(*masks: Tensor | None) -> Tensor | None:
    """(n,) bool: where all of these are true; None: everywhere."""
    given = [m for m in masks if m is not None]
    return reduce(lambda a, b: a & b.to(a.device), given) if given else None


class Pools:
    """Adds rows to the pools of (size,) segments: all rows, Σw of the keys that are not missing, Σw·v of each value.

    One for all parts: rows may come in any order, from several threads.
    """

    def __init__(self, size: int, dtypes: Sequence[pl.DataType]) -> None:
        self.lock = threading.Lock()
        self.rows = torch.zeros(size, dtype=torch.int64)
        self.weights = Adding((size,), CPU)
        self.there = [torch.zeros(size, dtype=torch.int64) for _ in dtypes]
        self.of = [Adding((size,), CPU) for _ in dtypes]
        shapes = [(size, t.size) if isinstance(t, pl.Array) else (size,) for t in dtypes]
        self.products = [Adding(shape, CPU) for shape in shapes]

    def add(self, columns: Sequence[pl.Series], weight: Tensor, ok: Tensor | None, ids: Tensor | None) -> None:
        """Rows with their weights (n,). ok: (n,) bool, the keys that are not missing; ids: (n,) int64, the segments."""
        at = torch.zeros(len(weight), dtype=torch.int64) if ids is None else ids.cpu()
        w, ok = weight.cpu(), None if ok is None else ok.cpu()
        with self.lock:
            self.rows += torch.bincount(at, minlength=len(self.rows))
        try:
            self.weights.add(only(w, ok), only(at, ok))
            for i, column in enumerate(columns):
                value = vectors(column, single=True) if isinstance(column.dtype, pl.Array) else numbers(column)
                here = every(ok, value.ok)
                self._add(i, only(value.x, here), only(w, here), only(at, here))
        except OverflowError:
            raise DataError(INFINITE) from None

    def _add(self, i: int, value: Tensor, weight: Tensor, at: Tensor) -> None:
        self.products[i].add(value, at, weight)
        self.of[i].add(weight, at)
        with self.lock:
            self.there[i] += torch.bincount(at, minlength=len(self.rows))

    def state(self) -> Pooled:
        """What was added so far, to be merged with what others have added."""
        of, products = (tuple(a.sums() for a in each) for each in (self.of, self.products))
        return Pooled(self.rows, self.weights.sums(), tuple(self.there), of, products)


@dataclass(frozen=True, eq=False)
class Pooled:
    """The pools of (size,) segments as a state, which those of other rows are added to.

    rows: (size,) int64; weights: Σw of the keys that are not missing; for each value, there: (size,) int64, in how many
    rows it is; of, products: Σw and Σw·v of these.
    """

    rows: Tensor
    weights: Sums
    there: tuple[Tensor, ...]
    of: tuple[Sums, ...]
    products: tuple[Sums, ...]

    def __add__(self, other: Self) -> Self:
        def both(mine: tuple[Any, ...], others: tuple[Any, ...]) -> Any:
            return tuple(a + b for a, b in zip(mine, others, strict=True))

        rows, weights = self.rows + other.rows, self.weights + other.weights
        every = (both(self.there, other.there), both(self.of, other.of), both(self.products, other.products))
        return type(self)(rows, weights, *every)

    def spread(self, ids: Tensor, size: int) -> Self:
        rows, *there = (placed(t, ids, size, 0) for t in (self.rows, *self.there))
        weights, *sums = (s.spread(ids, size) for s in (self.weights, *self.of, *self.products))
        n = len(there)
        return type(self)(rows, weights, tuple(there), tuple(sums[:n]), tuple(sums[n:]))


def pool_columns(
    pools: Pools | Pooled, how: str, names: Sequence[str], dtypes: Sequence[pl.DataType]
) -> list[pl.Series]:
    """A table's columns beside the segments' own: rows, weight_sum, and each value; null where none is there.

    dtypes: of the values.
    """
    weight_sum = _totals(pools.weights)
    found = [series("rows", pools.rows, None, pl.Int64()), series("weight_sum", weight_sum, None, pl.Float64())]
    for i, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
        weights, there, dtype = None, pools.there[i] > 0, column_type(dtype)
        if how == "mean":
            weights = _totals(pools.of[i])
            there = there & (weights != 0)
        x = _totals(pools.products[i], weights, single=component(dtype) == pl.Float32)
        if isinstance(dtype, pl.Array):
            flat = series(name, x.reshape(-1), None, component(dtype))
            found.append(arrayed(flat, booleans(there), dtype))
        else:
            found.append(series(name, x, there, dtype))
    return found


def _totals(sums: Sums | Adding, weights: Tensor | None = None, *, single: bool = False) -> Tensor:
    """The sums, over the weights (size,) where some are given: a few segments at a time, as their limbs take more."""
    found = torch.empty(sums.shape, dtype=torch.float32 if single else torch.float64)

    def fill(rows: slice) -> None:
        total = sums.part(rows).value()
        if weights is not None:
            total = total / weights[rows].reshape(-1, *[1] * (total.ndim - 1))
        found[rows] = total

    for _ in ahead(ranges(len(found), block_of(sums)), fill, cores()):
        pass
    return found
