"""Rarity against Counter and scikit-learn's formula, over every type that can be counted."""

import datetime as dt
import math
from collections import Counter
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
import torch

from attention_core.attention import attend, passes, resolved
from attention_core.columns import plain
from attention_core.contract import Rows, conclude
from attention_core.errors import JobError
from attention_core.frozen import digest
from attention_core.job import Rule
from attention_core.scores.rarity import Rarity, Tally

FORMS = ["information", "inverse", "effective"]


def weights(frame, chunk_rows=None, form="information", key="k", **rule):
    score = {"kind": "rarity", "form": form}
    out = attend(frame, [{"name": "r", "key": key, "score": score, "apply": "weights", **rule}], chunk_rows=chunk_rows)
    return out["r_weight"].to_list() if "r_weight" in out else out


def wanted(values, form="information", beta=0.999):
    """By a Counter; None and NaN are missing."""
    there = [v for v in values if v is not None and v == v]
    counts, n = Counter(there), len(there)
    by_form = {
        "information": lambda c: -math.log(c / n),
        "inverse": lambda c: n / (len(counts) * c),
        "effective": lambda c: (1 - beta) / (1 - beta**c),
    }
    return [None if v is None else math.nan if v != v else by_form[form](counts[v]) for v in values]


def close(got, want, rel=1e-12):
    assert [v is None for v in got] == [v is None for v in want]
    assert [v for v in got if v is not None] == pytest.approx([v for v in want if v is not None], rel=rel, nan_ok=True)


@pytest.mark.parametrize("form", FORMS)
def test_against_a_counter(form):
    k = np.random.default_rng(0).zipf(1.5, 3000).clip(max=200).tolist()
    frame = pl.DataFrame({"k": [None if i % 17 == 0 else v for i, v in enumerate(k)]})
    close(weights(frame, form=form), wanted(frame["k"].to_list(), form), 1e-11)


def test_inverse_is_scikit_learns_balanced():
    """compute_class_weight("balanced"): n_samples / (n_classes * np.bincount(y))."""
    y = np.random.default_rng(1).integers(0, 7, 500)
    balanced = len(y) / (len(np.unique(y)) * np.bincount(y))
    assert weights(pl.DataFrame({"k": y}), form="inverse") == pytest.approx(balanced[y].tolist(), rel=1e-15)


HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2020, 1, 1, 12)
VALUES = {
    "text": (["a", "", "é", None, "a"], pl.String),
    "category": (["a", "b", "é", None, "a"], pl.Categorical),
    "enum": (["a", "b", "a", None, "a"], pl.Enum(["b", "a"])),
    "large integers": ([2**53, 2**53 + 1, 2**53, None, -(2**62)], pl.Int64),
    "unsigned": ([2**64 - 1, 2**64 - 2, 2**64 - 1, None, 0], pl.UInt64),
    "int128": ([2**100, 2**100 + 1, 2**100, None, 0], pl.Int128),
    "int8": ([1, 2, 1, None, -1], pl.Int8),
    "floats": ([-0.0, 0.0, 1.5, None, math.inf], pl.Float64),
    "float32": ([-0.0, 0.0, 0.1, None, 0.1], pl.Float32),
    "booleans": ([True, False, True, None, True], pl.Boolean),
    "dates": ([NOON.date(), dt.date(1, 1, 1), NOON.date(), None, NOON.date()], pl.Date),
    "times": ([dt.time(1), dt.time(2), dt.time(1), None, dt.time(1)], pl.Time),
    "durations": ([HOUR, -HOUR, HOUR, None, HOUR], pl.Duration("ns")),
    "datetimes": ([NOON, NOON + HOUR, NOON, None, NOON], pl.Datetime("us", "Europe/Lisbon")),
    "decimals": ([Decimal("1.10"), Decimal("1.11"), Decimal("1.10"), None, Decimal(0)], pl.Decimal(30, 2)),
    "bytes": ([b"a", b"", b"\xff", None, b"a"], pl.Binary),
    "nulls": ([None] * 5, pl.Null),
}


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize("over", ["dataset", "batch", "group", "row"])
def test_any_type(what, over):
    values, dtype = VALUES[what]
    k = pl.Series("k", values, dtype=dtype)
    if over == "row":
        frame = pl.DataFrame({"k": pl.Series([k, k[:2], None], dtype=pl.List(dtype))})
        got = weights(frame, over="row")
        close(got[0], wanted(values))
        close(got[1], wanted(values[:2]))
        assert got[2] is None
        return
    frame = pl.DataFrame({"k": pl.concat([k, k[:2]]), "g": [1] * 5 + [2] * 2})
    got = weights(frame, 2, over={"group": ["g"]} if over == "group" else over)
    close(got, [*wanted(values), *wanted(values[:2])] if over == "group" else wanted(values + values[:2]))


def test_nan_keys_are_missing_and_stay_apart_from_null():
    frame = pl.DataFrame({"k": [1.0, math.nan, None, 1.0, 2.0, math.nan]}, strict=False)
    close(weights(frame), wanted(frame["k"].to_list()))
    got = weights(frame, missing=0.0)
    assert got[1] == got[2] == got[5] == 0.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("over", ["dataset", {"group": ["g"]}])
def test_chunks_do_not_show(form, over):
    r = np.random.default_rng(2)
    frame = pl.DataFrame({"k": r.integers(0, 300, 2000), "g": r.integers(0, 9, 2000)})
    whole = weights(frame, form=form, over=over, weight="softmax")
    for rows in (7, 501):
        assert weights(frame, rows, form=form, over=over, weight="softmax") == whole


def test_the_order_of_rows_does_not_show():
    frame = pl.DataFrame({"k": np.random.default_rng(3).integers(0, 300, 2000)}).with_row_index("i")
    shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
    back = shuffled.with_columns(w=pl.Series(weights(shuffled))).sort("i")["w"].to_list()
    assert back == weights(frame)


@pytest.mark.parametrize("weight", ["identity", "step", "softmax"])
def test_a_value_that_nobody_taught_makes_the_key_missing(weight):
    frame = pl.DataFrame({"k": ["a", "b", "a", "new", None], "t": [1, 1, 1, 0, 0], "g": [1, 1, 1, 1, 1]})
    for over in ("dataset", {"group": ["g"]}):
        got = weights(frame, fit="t = 1", weight=weight, over=over)
        assert [v is None for v in got] == [False] * 3 + [True] * 2
        assert weights(frame, fit="t = 1", weight=weight, over=over, missing=9.0)[3:] == [9.0, 9.0]


def test_a_group_that_nobody_taught_makes_the_key_missing():
    frame = pl.DataFrame({"k": ["a", "b", "a"], "g": [1, 1, 2]})
    assert weights(frame, fit="g = 1", over={"group": ["g"]}) == [math.log(2), math.log(2), None]


def test_masked_keys_are_not_counted():
    frame = pl.DataFrame({"k": ["a", "b", "a", "a"]})
    assert weights(frame.with_row_index("i"), mask="i < 2") == [math.log(2), math.log(2), None, None]


def test_columns_of_a_row():
    frame = pl.DataFrame({"a": ["x", "x", None], "b": ["x", "y", "y"], "c": ["z", "x", "y"]})
    out = weights(frame, key=["a", "b", "c"], over="row")
    got = [[row[f"r_{c}_weight"] for c in "abc"] for row in out.to_dicts()]
    for one, row in zip(got, frame.rows(), strict=True):
        close(one, wanted(list(row)))
    with pytest.raises(JobError, match="different sorts"):
        weights(frame.with_columns(c=pl.lit(1)), key=["a", "b", "c"], over="row")


def test_small_frames():
    empty = pl.DataFrame({"k": []}, schema={"k": pl.String})
    assert weights(empty) == []
    assert weights(pl.DataFrame({"k": ["a"]})) == [0.0]
    assert math.copysign(1.0, weights(pl.DataFrame({"k": ["a"]}))[0]) == 1.0
    assert weights(pl.DataFrame({"k": ["a", "a"]}), form="inverse") == [1.0, 1.0]


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999, 1 - 1e-12])
def test_effective_numbers(beta):
    score = {"kind": "rarity", "form": "effective", "beta": beta}
    frame = pl.DataFrame({"k": ["a"] + ["b"] * 3})
    got = attend(frame, [{"key": "k", "score": score, "apply": "weights"}])["k_weight"].to_list()
    series = [sum(beta**i for i in range(c)) for c in (1, 3)]  # (1 - β^c)/(1 - β)
    assert got == pytest.approx([1 / series[0]] + [1 / series[1]] * 3, rel=1e-14)


def test_a_nearly_constant_key_keeps_its_digits():
    """−ln(1 − 1/n) is 1/n + 1/(2n²) + …: the quotient c/n alone would lose half of its digits."""
    frame = pl.DataFrame({"k": [0] * 999_999 + [1]})
    assert weights(frame)[0] == pytest.approx(-math.log1p(-1e-6), rel=1e-15)


def test_what_it_refuses():
    for beta in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError):
            Rarity(form="effective", beta=beta)
    with pytest.raises(JobError, match="say over: row"):
        weights(pl.DataFrame({"k": [["a"]]}))
    with pytest.raises(JobError, match="one of its parts"):
        weights(pl.DataFrame({"k": [{"a": 1}]}))


def test_one_pass():
    schema = {"k": pl.String()}
    heads = resolved([Rule(key="k", score={"kind": "rarity"}, apply="weights")], schema)
    assert passes(heads, schema) == 1


def rows(values, ids=None, size=1):
    column = plain(pl.Series("k", values, dtype=pl.String).to_frame()).to_series()
    ids = None if ids is None else torch.tensor(ids)
    return Rows(torch.zeros(len(values), dtype=torch.float64), None, ids, size, column=column)


def test_what_is_known_of_some_segments():
    known = conclude(Rarity().fit(), lambda q: q.of(rows(list("aabbbc"), [0, 0, 1, 1, 2, 2], 4)))
    assert known.n.tolist() == [2, 2, 2, 0] and known.distinct.tolist() == [1, 1, 2, 0]
    picked = known.picked(torch.tensor([2, 0, 2]))
    assert picked.n.tolist() == [2, 2, 2]
    assert picked.table.rows() == [(0, "b", 1), (0, "c", 1), (1, "a", 2), (2, "b", 1), (2, "c", 1)]
    assert digest(known.picked(torch.arange(4))) == digest(known)


def test_states_merge_in_any_order():
    parts = [Tally().of(rows([f"v{(i * j) % 11}" for i in range(j)], [i % 3 for i in range(j)], 3)) for j in range(9)]
    forward, backward = parts[0], parts[-1]
    for part in parts[1:]:
        forward = forward + part
    for part in parts[-2::-1]:
        backward = part + backward
    assert digest(forward.table()) == digest(backward.table())
    moved = forward.spread(torch.tensor([4, 0, 2]), 5)
    assert moved.size == 5 and set(moved.table()["segment"]) == {0, 2, 4}
