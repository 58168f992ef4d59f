"""Columns to tensors and back: exactly, and without a copy where the layout allows."""

import datetime as dt

import polars as pl
import pytest
import torch

from attention_core.columns import numbers, places, segments, series, tensor, true, union


def test_no_copy_where_it_is_one_piece_without_nulls():
    column = pl.Series("a", [1.0, 2.0, 3.0])
    address = column.to_arrow().buffers()[1].address
    assert tensor(column).data_ptr() == address
    assert numbers(column).x.data_ptr() == address


def test_the_way_back_is_without_a_copy():
    values = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert series("a", values, None, pl.Float64()).to_arrow().buffers()[1].address == values.data_ptr()


def test_null_and_nan_stay_apart():
    n = numbers(pl.Series([1.0, None, float("nan")]))
    assert n.there.tolist() == [True, False, True]
    assert n.nan.tolist() == [False, False, True]
    assert n.ok.tolist() == [True, False, False]


def test_integers_with_nulls_stay_integers():
    column = pl.Series([2**53 + 1, None])
    assert tensor(column)[0].item() == 2**53 + 1
    assert column.to_list() == [2**53 + 1, None]


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Boolean])
def test_every_number_is_itself(dtype):
    values = [True, False, None] if dtype == pl.Boolean else [1, 100, None]
    n = numbers(pl.Series(values, dtype=dtype))
    assert n.x[:2].tolist() == [float(v) for v in values[:2]] and n.there.tolist() == [True, True, False]


def test_decimals_and_halves():
    assert numbers(pl.Series(["1.25"]).cast(pl.Decimal(10, 2))).x.tolist() == [1.25]
    assert numbers(pl.Series([1.5], dtype=pl.Float32)).x.tolist() == [1.5]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_are_microseconds_whatever_their_unit(unit):
    column = pl.Series([dt.datetime(1970, 1, 1, 0, 0, 1)]).cast(pl.Datetime(unit))
    assert numbers(column).x.tolist() == pytest.approx([1e6], rel=1e-15)
    assert numbers(pl.Series([dt.date(1970, 1, 2)])).x.tolist() == [8.64e10]


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="String is not a number"):
        numbers(pl.Series(["a"]))


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Int64, pl.Boolean])
def test_empty(dtype):
    assert len(numbers(pl.Series([], dtype=dtype)).x) == 0 and len(true(pl.Series([], dtype=pl.Boolean))) == 0


def test_pieces_and_slices():
    column = pl.concat([pl.Series([1, None, 3]), pl.Series([4, 5])], rechunk=False)
    assert numbers(column[2:]).x.tolist() == [3, 4, 5]
    assert numbers(column[1:]).there.tolist() == [False, True, True, True]


def test_a_strided_tensor_goes_back():
    assert series("a", torch.zeros(4, 3, dtype=torch.float64)[:, 1], None, pl.Float64()).to_list() == [0.0] * 4
    assert series("a", torch.zeros(1, 3, dtype=torch.float64)[:, 1], None, pl.Float64()).to_list() == [0.0]


def test_segments_are_values_and_null_is_one():
    s = segments(pl.DataFrame({"g": ["b", None, "a", "", None], "h": [0.0, -0.0, 0.0, 1.0, 0.0]}))
    whole = union([s.keys, s.keys[::-1]])
    assert whole.rows() == [(None, 0.0), ("", 1.0), ("a", 0.0), ("b", 0.0)]
    assert places(s.keys, whole)[s.ids].tolist() == [3, 0, 2, 1, 0]
    assert places(pl.DataFrame({"g": ["new"], "h": [0.0]}), whole).tolist() == [-1]
