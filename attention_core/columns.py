"""Polars columns to tensors and back, exactly; and which segment each row is in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from attention_core.errors import DataError
from attention_core.frozen import WIDE

# the eight bits of each byte as eight bytes, which unpacks a bitmap five times faster than a cast
_BYTES = ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).to(torch.uint8).view(torch.int64).reshape(256)
_PER_MICROSECOND = {"ms": 1e3, "us": 1.0, "ns": 1e-3}


@dataclass(frozen=True, eq=False)
class Numbers:
    """A column as float64: x (n,); what stands where `there` is false means nothing.

    there: (n,) bool, not null; None: all. nan: (n,) bool, is NaN; None: none is.
    """

    x: Tensor
    there: Tensor | None = None
    nan: Tensor | None = None

    @property
    def ok(self) -> Tensor | None:
        """(n,) bool: neither null nor NaN; None: all of them."""
        if self.nan is None:
            return self.there
        return ~self.nan if self.there is None else self.there & ~self.nan


def vectors(column: pl.Series, *, single: bool = False) -> Numbers:
    """An Array or List column as float64: x (n, d). A vector with a null is null, one with a NaN is NaN.

    A number is a vector of one component. single: as of `numbers`.

    Raises:
        DataError: for lists that are not all as long. ValueError: for what is no number.
    """
    n = len(column)
    if not isinstance(column.dtype, pl.Array | pl.List):
        one = numbers(column, single=single)
        return Numbers(one.x.reshape(n, 1), one.there, one.nan)
    if isinstance(column.dtype, pl.List):
        lengths = sorted(column.drop_nulls().list.len().unique().to_list())
        if len(lengths) > 1:
            raise DataError(f"the vectors of {column.name!r} have {lengths[0]} to {lengths[-1]} components")
        column = column.list.to_array(lengths[0] if lengths else 0)
    assert isinstance(column.dtype, pl.Array)
    d, found = column.dtype.size, numbers(components(column), single=single)
    there, nan = mask(column), None
    if found.there is not None:
        whole = found.there.reshape(n, d).all(1)
        there = whole if there is None else there & whole
    if found.nan is not None:
        nan = found.nan.reshape(n, d).any(1) if there is None else found.nan.reshape(n, d).any(1) & there
    return Numbers(found.x.reshape(n, d), there, nan)


def components(column: pl.Series) -> pl.Series:
    """The components of an Array column one after another, what lies under a null among them."""
    assert isinstance(column.dtype, pl.Array)
    d, array = column.dtype.size, column.to_arrow()
    return pl.Series(array.values.slice(array.offset * d, len(column) * d), dtype=column.dtype.inner)


def arrayed(flat: pl.Series, there: pl.Series, dtype: pl.Array) -> pl.Series:
    """An Array column of these components, null where `there` is false."""
    null = None if there.all() else (~there).to_arrow()
    array = pa.FixedSizeListArray.from_arrays(flat.to_arrow(), dtype.size, mask=null)
    return pl.Series(flat.name, array, dtype=dtype)


def joined(columns: Sequence[pl.Series]) -> pl.Series:
    """Several numeric columns as the components of one vector."""
    found = [numbers(column) for column in columns]
    parts = [series(str(i), f.x, f.there, pl.Float64()) for i, f in enumerate(found)]
    return pl.DataFrame(parts).select(pl.concat_arr(pl.all()).alias(columns[0].name)).to_series()


def presence(column: pl.Series) -> tuple[Tensor | None, Tensor | None]:
    """(n,) bool twice: which keys are not null, and which are NaN; None: all, and none."""
    nan = true(column.is_nan()) if column.dtype.is_float() else None
    there = true(column.is_not_null()) if column.null_count() else None  # some types have no Arrow form to look into
    return there, nan if nan is not None and bool(nan.any()) else None


def tensor(column: pl.Series) -> Tensor:
    """The values of a numeric, boolean or temporal column in their own physical type, (n,).

    Shares the column's memory where that is one piece without nulls: never write into it. What lies under a null is
    some number.
    """
    if column.dtype == pl.Boolean:
        column = column.cast(pl.UInt8)
    if column.dtype.is_decimal():
        column = column.cast(pl.Float64)
    if column.dtype.is_temporal():
        column = column.to_physical()  # a query of its own, which costs more than all that follows
    array = column.to_arrow()
    if not len(array):
        return torch.empty(0, dtype=torch.float64)
    if array.null_count:
        array = pa.Array.from_buffers(array.type, len(array), [None, array.buffers()[1]], offset=array.offset)
    return torch.from_dlpack(array)  # type: ignore[attr-defined]


def numbers(column: pl.Series, *, single: bool = False) -> Numbers:
    """A column as float64; times are microseconds (since 1970, in UTC where they have a zone).

    single: Float32 stays float32.

    Raises:
        ValueError: for a type that is not a number or a time.
    """
    dtype = column.dtype
    if not (dtype.is_numeric() or dtype == pl.Boolean or dtype.is_temporal() or dtype == pl.Null):
        raise ValueError(f"{dtype} is not a number")
    if dtype in (pl.Null, *WIDE):  # none of which Arrow has with nulls
        column = column.cast(pl.Float64)
    x = tensor(column)
    x = x if single and dtype == pl.Float32 else x.to(torch.float64)
    if dtype == pl.Date:
        x = x * 8.64e10
    elif dtype == pl.Time:
        x = x * 1e-3
    elif isinstance(dtype, pl.Datetime | pl.Duration) and dtype.time_unit != "us":
        x = x * _PER_MICROSECOND[dtype.time_unit]
    there = mask(column)
    nan = None
    if dtype.is_float() and bool(x.sum().isnan()):  # five times faster than to look at each; true of inf − inf too
        nan = x.isnan() if there is None else x.isnan() & there
        nan = nan if bool(nan.any()) else None
    return Numbers(x, there, nan)


def mask(column: pl.Series) -> Tensor | None:
    """(n,) bool: which values are not null; None: all of them."""
    if not column.null_count():
        return None
    array = column.to_arrow()
    first, last = array.offset // 8, (array.offset + len(array) + 7) // 8
    bits = pa.Array.from_buffers(pa.uint8(), last - first, [None, array.buffers()[0]], offset=first)
    bytewise = _BYTES.index_select(0, torch.from_dlpack(bits).int()).view(torch.bool)  # type: ignore[attr-defined]
    start = array.offset % 8
    return bytewise[start : start + len(array)]


def true(column: pl.Series) -> Tensor:
    """(n,) bool: where a boolean column is true; null is not."""
    if not len(column):
        return torch.empty(0, dtype=torch.bool)
    return tensor(column.fill_null(False)).view(torch.bool)


def series(name: str, values: Tensor, there: Tensor | None, dtype: pl.DataType) -> pl.Series:
    """A column of these values (n,), null where `there` is false."""
    if not len(values):
        return pl.Series(name, [], dtype=dtype)
    array = _array(values)
    if there is not None:
        bits = booleans(there).to_arrow().buffers()[1]
        array = pa.Array.from_buffers(array.type, len(array), [bits, array.buffers()[1]])
    column = pl.from_arrow(array)
    assert isinstance(column, pl.Series)
    return column.cast(dtype).alias(name)


def booleans(mask: Tensor) -> pl.Series:
    """A column of a mask (n,) bool."""
    return series("", mask.view(torch.uint8), None, pl.Boolean())


def elements(lists: pl.Series) -> tuple[pl.Series, Tensor]:
    """The elements of a List column one after another, and how many each row has, (n,) int64; a null list has none."""
    lengths = tensor(lists.list.len().fill_null(0).cast(pl.Int64)).to(torch.int64)
    there = lists.drop_nulls()
    return there.filter(there.list.len() > 0).explode(), lengths


def listed(flat: pl.Series, like: pl.Series) -> pl.Series:
    """These elements as a List column with the lengths and the nulls of another."""
    lengths = like.list.len().fill_null(0).cast(pl.Int64)
    offsets = pl.concat([pl.Series([0], dtype=pl.Int64), lengths.cum_sum().rename("")])
    null = like.is_null().to_arrow() if like.null_count() else None
    return pl.Series(flat.name, pa.LargeListArray.from_arrays(offsets.to_arrow(), flat.to_arrow(), mask=null))


def _array(values: Tensor) -> pa.Array:
    values = values.detach().cpu()
    if values.stride(0) != 1:
        values = values.clone(memory_format=torch.contiguous_format)
    return pa.Array.from_dlpack(values)


@dataclass(frozen=True, eq=False)
class Segments:
    """Which segment each row is in.

    keys: the values that a segment stands for, one row each; None: there is one segment.
    ids: (n,) int32 or int64; None: all rows are in segment 0.
    """

    keys: pl.DataFrame | None
    ids: Tensor | None
    size: int

    def slice(self, start: int, rows: int) -> Segments:
        """The same segments for some of the rows."""
        if self.ids is None:
            return self
        return Segments(self.keys, self.ids[start : start + rows].to(torch.int64), self.size)

    def nbytes(self) -> int:
        """What they take of memory."""
        keys = 0 if self.keys is None else int(self.keys.estimated_size())
        return keys + (0 if self.ids is None else self.ids.nbytes)


ONE = Segments(None, None, 1)


def segments(groups: pl.DataFrame) -> Segments:
    """A segment for each combination of values that occurs; a null is a value of its own.

    Each column is hashed once, then pairs of codes: never a text twice.
    """
    codes, keys = None, pl.DataFrame()
    for column in plain(groups).iter_columns():
        encoded = column.to_arrow().dictionary_encode(null_encoding="encode")
        own, values = encoded.indices, pl.Series(encoded.dictionary, dtype=column.dtype)
        if codes is None:
            codes, keys = own, values.alias(column.name).to_frame()
            continue
        size = max(len(values), 1)
        pairs = pc.add(pc.multiply(codes.cast(pa.int64()), size), own).dictionary_encode()
        codes, pair = pairs.indices, pl.Series(pairs.dictionary, dtype=pl.Int64)
        keys = keys[pair // size].with_columns(values.gather(pair % size).alias(column.name))
    if not groups.height:
        return Segments(plain(groups), torch.empty(0, dtype=torch.int64), 0)
    return Segments(keys, torch.from_dlpack(codes).int(), keys.height)  # type: ignore[attr-defined]


def plain(groups: pl.DataFrame) -> pl.DataFrame:
    """Group values that compare as values: -0.0 is 0.0, all NaN are one, and a category is its text."""
    texts = pl.selectors.categorical() | pl.selectors.enum()
    floats = [
        pl.when(pl.col(c).is_nan()).then(math.nan).when(pl.col(c) == 0).then(0.0).otherwise(pl.col(c)).cast(t).alias(c)
        for c, t in groups.schema.items()
        if t.is_float()  # to add 0.0 would not do: the query's optimiser leaves that out
    ]
    return groups.with_columns(*floats, texts.cast(pl.String))


def union(keys: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All segments of several files, sorted by value, nulls first."""
    return pl.concat(keys).unique().sort(keys[0].columns, nulls_last=False)


def places(part: pl.DataFrame, whole: pl.DataFrame) -> Tensor:
    """Where each segment of a part stands in the whole, (size of the part,) int64; −1 where it does not."""
    left, right = _joinable(part), _joinable(whole).with_row_index("#place")
    found = left.join(right, on=left.columns, how="left", nulls_equal=True, maintain_order="left")["#place"]
    return tensor(found.cast(pl.Int64).fill_null(-1)).to(torch.int64)


def _joinable(keys: pl.DataFrame) -> pl.DataFrame:
    """The keys numbered, with NaN in columns of its own: a join of one NaN with one NaN finds nothing (Polars 2.1)."""
    columns = []
    for i, (name, dtype) in enumerate(keys.schema.items()):
        key = pl.col(name)
        if dtype.is_float():
            columns.append(key.is_nan().alias(f"{i} is NaN"))
            key = key.fill_nan(0.0)
        columns.append(key.alias(str(i)))
    return keys.select(columns)
