"""The identity of tables: the same for the same values however they lie in memory, another for any other value."""

import datetime as dt
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_core.frozen import digest

INSTANT = dt.datetime(2013, 1, 1, 5, tzinfo=dt.UTC)
VALUES = {
    pl.Int64(): [0, 1, -1, 2**53 + 1, None],
    pl.UInt64(): [0, 1, 2**64 - 1, None],
    pl.Int8(): [0, 1, -128, None],
    pl.Int128(): [0, 2**100, None],
    pl.Float64(): [0.0, 1.0, 5e-324, float("inf"), float("nan"), None],
    pl.Float32(): [0.0, 1.5, None],
    pl.Boolean(): [True, False, None],
    pl.String(): ["", "a", "aa", "ab", "é", "\0", "🗼", None],
    pl.Binary(): [b"", b"\0", b"\xff", None],
    pl.Datetime("ns", "UTC"): [INSTANT, None],
    pl.Date(): [INSTANT.date(), None],
    pl.Decimal(10, 2): [Decimal("1.25"), Decimal("0"), None],
    pl.Null(): [None],
}


@given(st.data())
@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_two_tables_have_one_digest_where_they_are_equal_and_there_alone(dtype, data):
    rows = st.lists(st.tuples(*[st.sampled_from(VALUES[dtype])] * 2), max_size=4)
    a, b = (pl.DataFrame(data.draw(rows), {"g": dtype, "h": dtype}, orient="row") for _ in range(2))
    assert (digest(a) == digest(b)) == a.equals(b)


@pytest.mark.parametrize(
    ("a", "b", "dtype"),
    [
        ({"g": [None, 5]}, {"g": [1, 0, 0, 5]}, pl.UInt8),
        ({"g": [None, *range(2, 9)]}, {"g": [1, 0, *range(2, 9)]}, pl.Int64),
        ({"g": [None, 1], "h": [7, 0]}, {"g": [1, 0], "h": [7, None]}, pl.UInt8),
        ({"g": ["a", "b"]}, {"g": ["c", "d"]}, pl.Enum(["a", "b", "c", "d"])),
        ({"g": ["a", "b"]}, {"g": ["c", "d"]}, pl.Categorical),
    ],
)
def test_what_lies_side_by_side_is_told_apart(a, b, dtype):
    assert len({digest(pl.DataFrame(t, dict.fromkeys(t, dtype))) for t in (a, b)}) == 2


@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_how_a_table_lies_in_memory_does_not_matter(dtype):
    whole = pl.Series("g", VALUES[dtype] * 3, dtype=dtype).to_frame()
    pieces = pl.concat([whole[:2], whole[2:]], rechunk=False)
    inside = pl.concat([whole[-1:], whole, whole[:1]])[1:-1]
    assert digest(pieces) == digest(inside) == digest(whole)


def test_names_types_and_nanoseconds_count():
    ns = pl.Series("g", [1, 2], dtype=pl.Datetime("ns"))
    found = [ns, ns.rename("h"), ns.cast(pl.Int64), ns + pl.duration(nanoseconds=1), ns.cast(pl.Datetime("us"))]
    frames = [pl.select(s) if isinstance(s, pl.Expr) else s.to_frame() for s in found]
    assert len({digest(f) for f in frames}) == len(frames)
