"""The health of weights: against SciPy, and the same bits however it is cut."""

import math

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import entropy
from test_run import Folder

from attention_core.health import Health, _terms
from attention_core.sums import Sums


def health(w):
    return Health.of(pl.Series(w, dtype=pl.Float64))


def test_against_the_definitions():
    w = np.random.default_rng(0).lognormal(size=10_000)
    w[:100] = 0
    s = health(w).summary()
    assert s["rows"] == 10_000 and s["nulls"] == s["nans"] == 0
    assert s["sum"] == math.fsum(w) and s["mean"] == math.fsum(w) / 10_000
    assert (s["min"], s["max"], s["zero_share"]) == (0, w.max(), 0.01)
    assert s["entropy"] == pytest.approx(entropy(w), rel=1e-12)
    assert s["effective_sample_size"] == pytest.approx(w.sum() ** 2 / (w * w).sum(), rel=1e-12)
    assert s["largest_share"] == pytest.approx(w.max() / w.sum(), rel=1e-12)


def test_null_and_nan_are_counted_apart():
    s = Health.of(pl.Series([1.0, None, math.nan, 3.0, None])).summary()
    assert (s["rows"], s["nulls"], s["nans"], s["sum"], s["mean"]) == (5, 2, 1, 4.0, 2.0)
    assert (s["null_fraction"], s["nan_fraction"]) == (0.4, 0.2)


@pytest.mark.parametrize("w", [[], [0.0], [0.0, 0.0], [-1.0, 2.0], [1e300, 1e300], [5e-324], [7.0]])
def test_awkward_weights(w):
    s = health(w).summary()
    assert s["rows"] == len(w)
    assert s["sum"] == (math.fsum(w) if w and max(map(abs, w)) < 1e150 else s["sum"])
    for measure in s.values():
        assert measure is None or math.isfinite(measure)


@pytest.mark.parametrize(("low", "high"), [(1.0, 2.0), (0.0, 1e-9), (-3.7, 1e300), (0.1, 0.1), (0.0, 0.0), (1e-320, 5)])
def test_two_weights_are_summed_to_the_same_bits_as_one_by_one(low, high):
    w = pl.Series(np.where(np.random.default_rng(0).random(150_000) > 0.3, low, high))
    whole, one_by_one = Health.of(w), _terms(torch.tensor(w.to_numpy()), max(-low, high))
    a, b = whole.settled().sums, one_by_one
    assert torch.equal(a.top, b.top) and torch.equal(a.low, b.low) and torch.equal(a.high, b.high)
    assert (Health.of(w[:70_001]) + Health.of(w[70_001:])).plain() == whole.plain()


def test_no_cut_and_no_order_shows():
    w = pl.Series(np.random.default_rng(1).lognormal(0, 9, 5_000))
    whole = Health.of(w).plain()
    shuffled = w.shuffle(seed=0)
    pieces = [Health.of(shuffled[i : i + 777]) for i in range(0, 5_000, 777)]
    total = pieces[3]
    for piece in pieces[:3] + pieces[4:]:
        total = piece + total
    assert total.plain() == whole and Health.from_plain(whole).plain() == whole


def test_a_repeated_sum_ignores_what_is_not_there():
    x, counts = torch.tensor([[1e300, 0.1]]).double(), torch.tensor([0, 3])
    assert Sums.repeated(x, counts).value() == Sums.of(torch.tensor([0.1] * 3).double(), None, 1).value()


@pytest.mark.parametrize(
    "w", [[0.0, -0.0], [1.0, 1.2, 1.25, 2.0, 2.0], [-math.inf, -3.0, -1.0, 0.0, 5e-324, 1e300, math.inf]]
)
def test_a_histogram_holds_every_weight_once(w):
    bins = health(w).histogram()
    assert sum(n for _, _, n in bins) == len(w)
    for low, high, n in bins:
        assert low <= high and n == sum(low <= x < high or x == low for x in w)
    assert health([1.0, 1.2, 1.25]).histogram() == [(1.0, 1.25, 2), (1.25, 1.5, 1)]
    assert health([1.0, 1.0, 3.0]).histogram() == [(1.0, 1.25, 2), (3.0, 3.5, 1)]


def test_keys_of_the_future_are_counted(tmp_path):
    folder = Folder(tmp_path).job(
        {
            "name": "r",
            "key": "x",
            "score": {"kind": "recency", "now": 5},
            "weight": {"kind": "exponential", "half_life": 1},
        },
        {"name": "both", "key": ["x", "y"], "over": "row", "score": {"kind": "recency", "now": 5}, "apply": "weights"},
    )
    folder.put("a.parquet", pl.DataFrame({"x": [4, 5, 6, 7, None], "y": [9.0, 1.0, None, 1.0, math.nan]}))
    health = folder.run().health
    assert [h.later for h in health.values()] == [2, 2, 1] and [h.unseen for h in health.values()] == [0, 0, 0]
    assert folder.rows()["r_weight"].to_list() == [pytest.approx(0.5), 1, 1, 1, None]
