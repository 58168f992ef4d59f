"""Whole rules against what the field's own libraries give for the same; published values where one is too large."""

import datetime as dt
import math

import entmax
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.special
import scipy.stats
import torch
from sklearn.metrics.pairwise import cosine_similarity, rbf_kernel
from sklearn.preprocessing import MinMaxScaler, StandardScaler, normalize
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch.nn.functional import scaled_dot_product_attention

from attention_core.attention import attend, pooled

N, D = 200, 4
SEED = np.random.default_rng(7)
X = SEED.normal(size=N) * 3
G = SEED.integers(0, 5, N)
K, V = SEED.normal(size=(2, N, D))
QUERY = [0.5, -1.0, 2.0, 0.3]


def frame(**more):
    arrays = {name: pl.Series(a.tolist(), dtype=pl.Array(pl.Float64, D)) for name, a in (("k", K), ("v", V))}
    return pl.DataFrame({"x": X, "g": G, **arrays, **more})


def weights(f, key="x", **rule):
    return attend(f, [{"name": "r", "key": key, "apply": "weights", **rule}])["r_weight"].to_numpy()


def pool(f, key="k", value="v", **rule):
    table = pooled(f, [{"name": "r", "key": key, "value": value, "apply": "pool", **rule}])["r"]
    return table[f"{value}_pooled"].to_numpy()


def by_group(of, xs):
    """What a function makes of each group by itself, where its rows stand."""
    out = np.empty(N)
    for g in np.unique(G):
        out[g == G] = of(xs[g == G])
    return out


def near(got, want, rtol=1e-11):
    np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-13)


IN_GROUPS = {"group": ["g"]}
OVER = [("dataset", lambda of, xs: of(xs)), (IN_GROUPS, by_group)]
every_scope = pytest.mark.parametrize(("over", "each"), OVER, ids=["dataset", "group"])


# torch


@every_scope
@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
def test_softmax_is_torchs_and_scipys(over, each, temperature):
    got = weights(frame(), over=over, weight={"kind": "softmax", "temperature": temperature})
    near(got, each(lambda xs: torch.softmax(torch.tensor(xs) / temperature, 0).numpy(), X))
    near(got, each(lambda xs: scipy.special.softmax(xs / temperature), X))


def attention(keys, values, query=QUERY, scale=None, mask=None):
    """torch's own, of one query."""
    q, k, v = (torch.tensor(np.asarray(a), dtype=torch.float64) for a in ([query], keys, values))
    mask = None if mask is None else torch.tensor(mask)[None]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)[0].numpy()


def test_attention_shows_its_weights_where_the_values_are_the_identity():
    eye, scaled = np.eye(N), {"kind": "scaled_dot", "query": QUERY}
    near(weights(frame(), "k", score=scaled, weight="softmax"), attention(K, eye))
    cold = {"kind": "softmax", "temperature": 0.25}  # a scale of 4/√d
    near(weights(frame(), "k", score=scaled, weight=cold), attention(K, eye, scale=4 / math.sqrt(D)))
    plain = {"kind": "dot", "query": QUERY}
    near(weights(frame(), "k", score=plain, weight="softmax"), attention(K, eye, scale=1.0))


def test_a_mask_is_that_of_torchs_attention():
    got = attend(
        frame(),
        [{"name": "r", "key": "k", "score": {"kind": "scaled_dot", "query": QUERY}, "weight": "softmax",
          "mask": "g <> 2", "missing": 0.0, "apply": "weights"}],
    )["r_weight"].to_numpy()  # fmt: skip
    want = attention(K, np.eye(N), mask=G != 2)
    assert (got == 0).sum() == (G == 2).sum()
    near(got, want)


def test_a_pooled_sum_is_torchs_attention():
    rule = {"score": {"kind": "scaled_dot", "query": QUERY}, "weight": "softmax"}
    near(pool(frame(), **rule), [attention(K, V)])
    near(pool(frame(), **rule, over=IN_GROUPS), [attention(K[g == G], V[g == G]) for g in range(5)])


def test_attention_over_a_sequence_in_each_row():
    cut = [slice(0, 7), slice(7, 8), slice(8, 60)]
    lists = pl.List(pl.Array(pl.Float64, D))
    f = pl.DataFrame({c: pl.Series([a[s].tolist() for s in cut], dtype=lists) for c, a in (("k", K), ("v", V))})
    score = {"kind": "scaled_dot", "query": QUERY}
    rule = {"name": "r", "key": "k", "value": "v", "over": "row", "score": score, "weight": "softmax", "apply": "pool"}
    got = attend(f, [rule])["v_pooled"].to_list()
    for one, s in zip(got, cut, strict=True):
        near(one, attention(K[s], V[s]))


@pytest.mark.parametrize("largest", [True, False])
def test_top_k_is_torchs(largest):
    want = np.zeros(N)
    want[torch.topk(torch.tensor(X), 17, largest=largest).indices.numpy()] = 1
    assert weights(frame(), score={"kind": "top_k", "k": 17, "largest": largest}).tolist() == want.tolist()


def test_softmax_over_groups_is_torch_geometrics():
    """torch_geometric.utils.softmax(x, g), version 2.8.1, on these numbers."""
    x = [0.5, -1.0, 2.0, 2.0, 700.0, 3.25, -0.125, 1.5, 699.0, -3.0]
    g = [0, 1, 0, 3, 2, 3, 1, 0, 2, 3]
    want = [
        0.12195165230972885, 0.29421497216298875, 0.5465493872661796, 0.22236646865926726, 0.7310585786300049,
        0.7761352378605327, 0.7057850278370112, 0.3314989604240915, 0.2689414213699951, 0.0014982934801999425,
    ]  # fmt: skip
    near(weights(pl.DataFrame({"x": x, "g": g}), over=IN_GROUPS, weight="softmax"), want)


# entmax


@every_scope
@pytest.mark.parametrize("temperature", [0.3, 1.0, 9.0])
def test_sparsemax_and_entmax_are_those_of_the_entmax_package(over, each, temperature):
    for alpha, of in ((2.0, entmax.sparsemax), (1.5, entmax.entmax15)):
        weight = {"kind": "entmax", "alpha": alpha, "temperature": temperature}
        want = each(lambda xs, of=of: of(torch.tensor(xs) / temperature, 0).numpy(), X)
        got = weights(frame(), over=over, weight=weight)
        near(got, want)
        assert ((got == 0) == (want == 0)).all() and (got == 0).any()


@every_scope
@pytest.mark.parametrize("alpha", [1.1, 1.25, 1.7, 2.5, 4.0])
def test_entmax_of_any_alpha_is_the_bisection_of_the_entmax_package(over, each, alpha):
    want = each(lambda xs: entmax.entmax_bisect(torch.tensor(xs), alpha, 0, n_iter=80).numpy(), X)
    near(weights(frame(), over=over, weight={"kind": "entmax", "alpha": alpha}), want, rtol=1e-10)


# scikit-learn


@every_scope
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.0, 5.5)])
def test_linear_is_a_min_max_scaler(over, each, low, high):
    scaler = MinMaxScaler((low, high))
    want = each(lambda xs: scaler.fit_transform(xs[:, None])[:, 0], X)
    near(weights(frame(), over=over, weight={"kind": "linear", "low": low, "high": high}), want)


def test_linear_of_a_constant_is_a_min_max_scalers():
    want = MinMaxScaler((2.0, 3.0)).fit_transform([[7.0]] * 3)[:, 0].tolist()
    weight = {"kind": "linear", "low": 2.0, "high": 3.0}
    assert weights(pl.DataFrame({"x": [7.0] * 3}), weight=weight).tolist() == want == [2.0] * 3


@every_scope
def test_inverse_rarity_is_balanced_weights(over, each):
    y = np.random.default_rng(1).zipf(1.6, N).clip(max=9)
    got = weights(frame(y=y), "y", over=over, score={"kind": "rarity", "form": "inverse"})
    near(got, each(lambda ys: compute_sample_weight("balanced", ys), y))
    if over == "dataset":
        classes = np.unique(y)
        of_class = dict(zip(classes, compute_class_weight("balanced", classes=classes, y=y), strict=True))
        near(got, [of_class[one] for one in y])


@every_scope
def test_zscore_is_a_standard_scaler(over, each):
    want = each(lambda xs: StandardScaler().fit_transform(xs[:, None])[:, 0], X)
    near(weights(frame(), over=over, score={"kind": "zscore", "absolute": False}), want)
    constant = StandardScaler().fit_transform([[7.0]] * 7)[:, 0]
    assert weights(pl.DataFrame({"x": [7.0] * 7}), score="zscore").tolist() == constant.tolist() == [0.0] * 7


def test_proportional_and_a_largest_of_one_are_normalised():
    f = frame(y=np.abs(X))
    near(weights(f, "y", weight="proportional"), normalize([np.abs(X)], norm="l1")[0])
    near(weights(f, "y", scale={"max": 1.0}), normalize([np.abs(X)], norm="max")[0])


def test_cosine_is_scikit_learns():
    score = {"kind": "cosine", "query": QUERY}
    near(weights(frame(), "k", score=score), cosine_similarity(K, [QUERY])[:, 0])


def test_a_softmax_of_distances_is_a_kernel_regression():
    """Nadaraya and Watson: Σ K(q, k) v / Σ K(q, k)."""
    kernel = rbf_kernel(K, [QUERY], gamma=1 / (2 * 0.7))[:, 0]
    rule = {"score": {"kind": "euclidean", "query": QUERY}, "weight": {"kind": "softmax", "temperature": 0.7}}
    near(weights(frame(), "k", **rule), kernel / kernel.sum())
    near(pool(frame(), **rule), [np.average(V, axis=0, weights=kernel)])


# SciPy and NumPy


@every_scope
def test_deviations_are_scipys(over, each):
    near(weights(frame(), over=over, score="zscore"), each(lambda xs: np.abs(scipy.stats.zscore(xs)), X))
    got = weights(frame(), over=over, score={"kind": "robust_zscore", "absolute": False})
    mad = each(lambda xs: (xs - np.median(xs)) / scipy.stats.median_abs_deviation(xs), X)
    near(got, 0.67449 * mad)
    assert scipy.stats.norm.ppf(0.75) == pytest.approx(0.67449, abs=5e-6)


def test_information_has_the_mean_of_scipys_entropy():
    y = np.random.default_rng(2).zipf(1.6, N).clip(max=9)
    want = scipy.stats.entropy(np.unique(y, return_counts=True)[1])
    assert weights(frame(y=y), "y", score="rarity").mean() == pytest.approx(want, rel=1e-13)


@every_scope
@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.937, 1.0])
def test_quantile_is_numpys(over, each, q):
    for side, test in (("above", np.greater), ("below", np.less)):
        want = each(lambda xs, test=test: test(xs, np.quantile(xs, q)), X)
        assert (weights(frame(), over=over, score={"kind": "quantile", "q": q, "side": side}) == want).all()


def test_clip_is_numpys():
    assert weights(frame(), clip=[-1.0, 2.0]).tolist() == np.clip(X, -1, 2).tolist()


# pandas


MOMENTS = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=float(h)) for h in np.cumsum(SEED.exponential(9, N)).round(3)]


def averaged(f):
    """pandas' average with exponential weights by age, as it stands at the last row."""
    f = f.to_pandas()
    return f["x"].ewm(halflife=pd.Timedelta(days=2), times=f["t"]).mean().iloc[-1]


def test_recency_with_a_half_life_is_pandas_ewm():
    f = frame(t=MOMENTS)
    rule = {"key": "t", "value": "x", "score": "recency", "weight": {"kind": "exponential", "half_life": 2.0}}
    rule["apply"] = {"pool": "mean"}
    for n in (1, 2, 17, N):
        near(pool(f[:n], **rule), [averaged(f[:n])])
    near(pool(f, **rule, over=IN_GROUPS), [averaged(f.filter(g=g)) for g in range(5)])
    shared = {**rule, "weight": {"kind": "softmax", "temperature": 2 / math.log(2)}, "apply": "pool"}
    near(pool(f, **shared), [averaged(f)])  # shares of the same weights


# statsmodels 0.15.0: HuberT(t).weights(s) and TukeyBiweight(c).weights(s), in statsmodels.robust.norms


S = [-30.0, -4.685, -4.0, -1.345, -0.5, 0.0, 1.0, 2.0, 3.0, 4.5, 100.0]
ROBUST = [
    ({"kind": "huber"}, [
        0.04483333333333333, 0.2870864461045891, 0.33625, 1.0, 1.0, 1.0, 1.0, 0.6725, 0.4483333333333333,
        0.29888888888888887, 0.01345]),
    ({"kind": "huber", "at": 2.5}, [
        0.08333333333333333, 0.5336179295624334, 0.625, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8333333333333334,
        0.5555555555555556, 0.025]),
    ({"kind": "bisquare"}, [
        0.0, 0.0, 0.07346532558577344, 0.8419555750911504, 0.9773498827839027, 1.0, 0.9109562955029199,
        0.6687334118886328, 0.34805603878799596, 0.005993263843264403, 0.0]),
    ({"kind": "bisquare", "at": 3.0}, [
        0.0, 0.0, 0.0, 0.6383965611188273, 0.945216049382716, 1.0, 0.7901234567901234, 0.308641975308642, 0.0, 0.0,
        0.0]),
]  # fmt: skip


@pytest.mark.parametrize(("weight", "want"), ROBUST, ids=[str(w) for w, _ in ROBUST])
def test_robust_weights_are_those_of_statsmodels(weight, want):
    near(weights(pl.DataFrame({"x": S}), weight=weight), want, rtol=1e-14)
