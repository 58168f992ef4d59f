"""Order statistics against NumPy and SciPy, and against sorts with the ties spelled out; and that no cut shows."""

import math
import random
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
import scipy.special
import scipy.stats
import torch

from attention_core import selection
from attention_core.adjust import Keep, Share
from attention_core.attention import attend
from attention_core.contract import Rows, conclude
from attention_core.errors import DataError, JobError
from attention_core.frozen import digest
from attention_core.scores.salience import RobustZScore
from attention_core.scores.selective import Quantile, TopK
from attention_core.selection import key_of, nucleus, number_of, quantile, top

INF = math.inf
RNG = np.random.default_rng(7)
DATA = {
    "normal": RNG.normal(0, 1, 5001),
    "far": RNG.normal(1e9, 1, 4000),
    "heavy": RNG.standard_cauchy(3000) * 1e100,
    "few values": RNG.integers(-3, 4, 6000).astype(float),
    "two values": np.repeat([0.0, 1.0], 2000),
    "constant": np.full(3000, 0.1),
    "one": np.array([-7.25]),
    "two": np.array([3.0, -1.0]),
    "zeros": np.tile([0.0, -0.0], 500),
    "tiny": RNG.integers(-5, 6, 999) * 5e-324,
    "huge": RNG.uniform(-8e307, 8e307, 1000),
    "infinite": np.concatenate([RNG.normal(0, 1, 3000), [INF] * 20, [-INF] * 30]),
    "wide": np.concatenate([10.0 ** RNG.uniform(-300, 300, 2000), [0.0, -1e-310]]),
}
POSITIVE = [n for n, x in DATA.items() if (x >= 0).all()] + ["made positive", "softmax"]
every_data = pytest.mark.parametrize("name", DATA)


@pytest.fixture(params=["gathered", "narrowed"])
def path(request, monkeypatch):
    """With room for all rows, and with so little that brackets must be narrowed many times."""
    if request.param == "narrowed":
        monkeypatch.setattr(selection, "GATHERED", 5)
        monkeypatch.setattr(selection, "MOST_BINS", 32)
    return request.param


def data(name):
    if name == "made positive":
        return np.abs(DATA["normal"])
    return scipy.special.softmax(DATA["normal"] * 5) if name == "softmax" else DATA[name]


def rows(x, ids=None, size=1, ok=None, start=0):
    return Rows(torch.tensor(x), ok, None if ids is None else torch.tensor(ids), size, start)


def pieces(r, cuts):
    bounds = [0, *cuts, len(r.x)]
    return [
        Rows(
            r.x[a:b],
            None if r.ok is None else r.ok[a:b],
            None if r.ids is None else r.ids[a:b],
            r.size,
            r.start + a,
        )
        for a, b in zip(bounds, bounds[1:], strict=False)
    ]


def answer(fit, parts, seen=None):
    def ask(question):
        if seen is not None:
            seen.append(type(question).__name__)
        first, *rest = [question.of(p) for p in parts]
        for state in rest:
            first = first + state
        return first

    return conclude(fit, ask)


def score(kind, r):
    return kind(r, answer(kind.fit(), [r]))


def order_by(x, largest=True):
    """The places of x by size; of equal ones the earlier first."""
    return np.lexsort((np.arange(len(x)), -x if largest else x))


def test_keys_are_in_order_and_come_back():
    x = torch.tensor([-INF, -1e308, -1.0, -5e-324, 0.0, 5e-324, 2.0**-1022, 1.0, 1e308, INF], dtype=torch.float64)
    keys = key_of(x)
    assert bool((keys[1:] > keys[:-1]).all()) and torch.equal(number_of(keys), x)
    assert key_of(torch.tensor([-0.0], dtype=torch.float64)).item() == 0
    y = torch.tensor(DATA["wide"])
    assert torch.equal(key_of(y).argsort(), y.argsort())


@every_data
@pytest.mark.parametrize("q", [0.0, 0.1, 0.25, 0.5, 0.731, 0.999, 1.0])
def test_quantile_is_numpys_to_the_bit(name, q, path):
    x = data(name)
    got = answer(quantile(q), [rows(x)]).item()
    with np.errstate(invalid="ignore", over="ignore"):
        want = np.quantile(x, q)
    if np.isfinite(want):
        assert got == want
    else:
        assert got == np.quantile(x, q, method="lower" if abs(np.quantile(x, q, method="lower")) == INF else "higher")


def test_a_quantile_beside_infinite_numbers():
    def of(xs, q):
        return answer(quantile(q), [rows(np.array(xs))]).item()

    most = np.finfo(float).max
    assert of([INF, INF, INF], 0.3) == INF and of([-INF, -INF, 1.0], 0.5) == -INF
    assert most / 2 < of([0.0, INF], 0.75) < most and of([-INF, INF], 0.5) == 0
    assert of([-1.7e308, 1.7e308], 0.5) == 0
    assert score(Quantile(q=0.85), rows(np.array([*range(9), INF, INF], dtype=float))).tolist() == [0] * 9 + [1, 1]
    assert score(Quantile(q=0.1, side="below"), rows(np.array([-INF, 1.0, 2.0]))).tolist() == [1, 0, 0]
    assert score(Quantile(q=1, side="below"), rows(np.array([1.0, INF]))).tolist() == [1, 0]


@every_data
def test_deviations_are_scipys(name, path):
    x = data(name)
    median, deviation = answer(selection.median_and_deviation("refused"), [rows(x)])
    assert median.item() == np.quantile(x, 0.5)
    assert median.item() == pytest.approx(np.median(x), rel=1e-15)
    assert deviation.item() == np.quantile(np.abs(x - median.item()), 0.5)
    assert deviation.item() == pytest.approx(scipy.stats.median_abs_deviation(x), rel=1e-12)
    assert answer(quantile(0.5, centre=median), [rows(x)]).item() == deviation.item()


@every_data
@pytest.mark.parametrize("k", [1, 2, 7, 500, 10_000])
@pytest.mark.parametrize("largest", [True, False])
def test_top_k_is_a_sort_with_ties_to_the_earlier(name, k, largest, path):
    x = data(name)
    got = score(TopK(k=k, largest=largest), rows(x, start=3 << 40))
    want = np.zeros(len(x))
    want[order_by(x, largest)[:k]] = 1
    np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize(
    ("fraction", "n", "k"), [(0.07, 100, 7), (0.1, 30, 3), (1 / 3, 10, 4), (1e-9, 5, 1), (1, 9, 9)]
)
def test_a_fraction_is_taken_as_it_is_written(fraction, n, k):
    assert score(TopK(fraction=fraction), rows(np.arange(n, dtype=float))).sum().item() == k
    assert score(TopK(fraction=fraction), rows(np.zeros(n))).sum().item() == k


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_fewest_that_reach_it(name, p, path):
    x = data(name)
    kind = Keep(top_p=p)
    kept = kind(rows(x), answer(kind.fit(), [rows(x)]))
    order = order_by(x)
    total, so_far, m = sum(map(Fraction, x)), Fraction(0), 0
    slack = total / 2**51
    while so_far < Fraction(p) * total - slack:
        so_far += Fraction(x[order[m]])
        m += 1
    want = np.zeros(len(x))
    want[order[:m]] = x[order[:m]]
    np.testing.assert_array_equal(kept.numpy(), want)


def test_top_p_means_its_decimals():
    def kept(p, xs):
        kind = Keep(top_p=p)
        r = rows(np.array(xs))
        return int((kind(r, answer(kind.fit(), [r])) > 0).sum())

    assert kept(0.9, [0.9, 0.1]) == 1
    assert kept(0.9, [0.1] * 10) == 9
    assert kept(0.9, [0.6, 0.3, 0.1]) == 2
    assert kept(0.3, [0.1] * 10) == 3
    assert kept(0.5, [1e308] * 10) == 5
    assert kept(0.5, [5e-324] * 10) == 5
    assert kept(1.0, [1.0, 1e-300, 0.0]) == 2
    assert kept(0.5, [0.0] * 10) == 0
    with pytest.raises(DataError, match="negative"):
        kept(0.5, [1.0, -1e-300])
    with pytest.raises(DataError, match="infinite"):
        kept(0.5, [1.0, INF])


FITS = {
    "quantile": lambda: quantile(0.37),
    "deviation": lambda: selection.median_and_deviation("refused"),
    "top": lambda: top(lambda n: torch.full_like(n, 40)),
    "bottom": lambda: top(lambda n: n // 3, largest=False),
    "nucleus": lambda: nucleus(0.6),
    "whole nucleus": lambda: nucleus(1.0),
}


@pytest.fixture(params=["ties", "no ties"])
def grouped(request):
    """Segments of all sizes, an empty and a constant one among them; some rows missing."""
    g = np.random.default_rng(3)
    n = 4000
    ids = np.minimum(g.geometric(0.12, n) * 2 - 1, 39)  # those of even number are empty
    x = g.integers(0, 9, n) / 8 if request.param == "ties" else g.exponential(1, n)
    x[ids == 5] = 0.25
    return rows(x, ids, 40, torch.tensor(g.random(n) > 0.1), start=2 << 40)


@pytest.mark.parametrize("fit", FITS)
def test_no_cut_no_order_and_no_path_shows(fit, grouped, monkeypatch):
    want = answer(FITS[fit](), [grouped])
    rnd = random.Random(2)
    for budget, bins in ((1 << 22, 1 << 16), (1000, 64), (50, 16), (0, 16)):
        monkeypatch.setattr(selection, "GATHERED", budget)
        monkeypatch.setattr(selection, "MOST_BINS", bins)
        for k in (0, 3, 30):
            parts = pieces(grouped, sorted(rnd.sample(range(len(grouped.x)), k)))
            parts.append(pieces(grouped, [0])[0])
            rnd.shuffle(parts)
            assert digest(answer(FITS[fit](), parts)) == digest(want)


@pytest.mark.parametrize("fit", FITS)
def test_a_segment_is_what_it_is_alone(fit, grouped, path):
    whole = answer(FITS[fit](), [grouped])
    for g in range(grouped.size):
        there = (grouped.ids == g) & grouped.ok
        alone = Rows(grouped.x, there, None, 1, grouped.start)
        here = tuple(t[[g]] for t in whole) if isinstance(whole, tuple) else picked(whole, g)
        assert digest(answer(FITS[fit](), [alone])) == digest(here)


def picked(known, g):
    return known[[g]] if isinstance(known, torch.Tensor) else known.picked(torch.tensor([g]))


@pytest.mark.parametrize("fit", FITS)
def test_segments_that_parts_do_not_share(fit, grouped, monkeypatch):
    """Each part knows its own segments, and asks about them alone."""
    monkeypatch.setattr(selection, "GATHERED", 100)
    want = answer(FITS[fit](), [grouped])
    parts = []
    for part in pieces(grouped, [700, 701, 2500]):
        own, ids = part.ids.unique(return_inverse=True)
        parts.append((own, Rows(part.x, part.ok, ids, len(own), part.start)))

    def ask(question):
        states = [question.picked(own).of(r).spread(own, grouped.size) for own, r in reversed(parts)]
        total = states[0]
        for state in states[1:]:
            total = total + state
        return total

    assert digest(conclude(FITS[fit](), ask)) == digest(want)


def test_states_are_a_monoid():
    r = rows(DATA["few values"])
    bracket = selection.Bracket(what=selection.Number(), low=torch.tensor([-(1 << 62)]), high=torch.tensor([1 << 62]))
    grain = selection.Grain(exponent=torch.tensor([3]))
    for question in (
        selection.Span(what=selection.Number()),
        selection.Histogram(bracket=bracket, bins=64, shift=bracket.shift(64), grain=None),
        selection.Histogram(bracket=bracket, bins=64, shift=bracket.shift(64), grain=grain),
        selection.Gather(bracket=bracket),
    ):
        a, b, c, nothing = (question.of(p) for p in [*pieces(r, [1000, 1001]), pieces(r, [0])[0]])
        assert plain((a + b) + c) == plain(a + (b + c)) == plain(c + (a + b)) == plain(question.of(r))
        assert plain(a + nothing) == plain(nothing + a) == plain(a)


def plain(state):
    if isinstance(state, selection.Gathered):
        return digest(state.sorted())
    return digest(tuple(vars(state).values()))


def test_passes(monkeypatch):
    def of(fit, x):
        seen = []
        answer(fit, [rows(x)], seen)
        return len(seen)

    normal, tied = DATA["normal"], DATA["few values"]
    assert of(quantile(0.5), normal) == 2 and of(quantile(0.5), DATA["constant"]) == 1
    assert of(selection.median_and_deviation(""), normal) == 3
    assert of(TopK(k=9).fit(), normal) == 2 and of(TopK(k=9).fit(), tied) == 3
    assert of(Keep(top_p=0.5).fit(), np.abs(normal)) == 2 and of(Keep(top_p=1).fit(), np.abs(normal)) == 1
    assert of(Keep(min=0.5).fit(), normal) == 0 and of(Share().fit(), normal) == 1
    monkeypatch.setattr(selection, "GATHERED", 1000)
    assert of(quantile(0.5), normal) == 3 and of(selection.median_and_deviation(""), normal) == 5
    assert of(TopK(k=9).fit(), normal) == 3 and of(TopK(k=999).fit(), tied) == 4
    monkeypatch.setattr(selection, "GATHERED", 100)
    assert of(TopK(k=999).fit(), tied) == 5 + 2


def test_a_million_equal_keys():
    x = np.zeros(1_500_000)
    x[::3] = 1
    got = score(TopK(k=600_000), rows(x)).numpy()
    assert got[::3].all() and got.sum() == 600_000
    others = np.flatnonzero(x == 0)
    assert got[others[:100_000]].all() and not got[others[100_000:]].any()


def test_robust_zscore():
    x = DATA["normal"]
    median = np.quantile(x, 0.5)
    want = 0.67449 * np.abs(x - median) / scipy.stats.median_abs_deviation(x)
    np.testing.assert_allclose(score(RobustZScore(), rows(x)).numpy(), want, rtol=1e-12)
    signed = score(RobustZScore(absolute=False), rows(x)).numpy()
    np.testing.assert_allclose(signed, want * np.sign(x - median), rtol=1e-12)
    assert score(RobustZScore(), rows(np.array([1.0, 1.0, 1.0, 9.0, INF]))).tolist() == [0.0] * 5
    assert score(RobustZScore(), rows(np.array([1.0, 2.0, 3.0, 4.0, INF]))).tolist()[-1] == INF
    with pytest.raises(DataError, match="mask them"):
        score(RobustZScore(), rows(np.array([-INF, -INF, 0.0, INF, INF])))


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1.0, 1e300])
def test_robust_zscore_at_any_scale(scale):
    x = np.arange(50) ** 2.0
    want = score(RobustZScore(), rows(x)).numpy()
    np.testing.assert_allclose(
        score(RobustZScore(), rows(x * scale)).numpy(), want, rtol=0.1 if scale < 1e-308 else 1e-12
    )


FRAME = pl.DataFrame(
    {
        "x": [0.5, 2.0, None, 2.0, 2.0, float("nan"), 1.0, 2.0, -3.0],
        "y": [2.0, 2.0, 5.0, 1.0, None, 2.0, 2.0, 3.0, 2.0],
        "g": ["a", "a", "a", "b", "b", "b", None, None, "a"],
    }
)


def weights(rule, frame=FRAME, chunk_rows=None, column="x_weight"):
    return attend(frame, [{"key": "x", "apply": "weights", **rule}], chunk_rows=chunk_rows)[column].to_list()


NAN = pytest.approx(math.nan, nan_ok=True)


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 100])
def test_ties_go_to_the_earlier_row_in_every_scope(chunk_rows, path):
    def of(rule, frame=FRAME, column="x_weight"):
        return weights(rule, frame, chunk_rows, column)

    two = {"kind": "top_k", "k": 2}
    assert of({"score": two}) == [0, 1, None, 1, 0, NAN, 0, 0, 0]
    assert of({"score": two, "over": "batch"}) == [0, 1, None, 1, 0, NAN, 0, 0, 0]
    assert of({"score": two | {"largest": False}}) == [1, 0, None, 0, 0, NAN, 0, 0, 1]
    one = {"kind": "top_k", "k": 1}
    assert of({"score": one, "over": {"group": ["g"]}}) == [0, 1, None, 1, 0, NAN, 0, 1, 0]
    across = {"key": ["x", "y"], "over": "row", "score": one}
    assert of(across) == [0, 1, None, 1, 1, NAN, 0, 0, 0]
    assert of(across, column="y_weight") == [1, 0, 1, 0, None, 1, 1, 1, 1]
    assert of({"score": {"kind": "quantile", "q": 0.5, "side": "below"}}) == [1, 0, None, 0, 0, NAN, 1, 0, 1]
    lists = pl.DataFrame({"x": [[3.0, 1.0, 3.0], [], None, [2.0, None]]})
    assert of({"score": one, "over": "row"}, lists) == [[1, 0, 0], [], None, [1, None]]


@pytest.mark.parametrize("rule", ["score", "keep"])
def test_attend_is_the_same_in_any_chunks(rule, path):
    x = RNG.integers(0, 50, 200) / 7
    frame = pl.DataFrame({"x": x, "g": RNG.integers(0, 5, 200)}).with_columns(
        x=pl.when(pl.col("g") + pl.col("x") > 1).then("x")
    )
    rules = {
        "score": [{"score": "robust_zscore"}, {"score": {"kind": "top_k", "fraction": 0.3}}],
        "keep": [
            {"weight": w, "keep": k} for w in ("softmax", "proportional") for k in ({"top_k": 15}, {"top_p": 0.7})
        ],
    }[rule]
    for one in rules:
        for over in ("dataset", {"group": ["g"]}):
            whole = weights(one | {"over": over}, frame)
            assert all(weights(one | {"over": over}, frame, n) == whole for n in (9, 80))


def test_keep():
    assert weights({"keep": {"top_k": 3}}) == [0, 2, None, 2, 2, NAN, 0, 0, 0]
    assert weights({"keep": {"min": 1}}) == [0, 2, None, 2, 2, NAN, 1, 2, 0]
    shared = weights({"weight": "softmax", "keep": {"top_k": 2}})
    assert shared == [0, 0.5, None, 0.5, 0, NAN, 0, 0, 0]
    assert weights({"weight": "softmax", "keep": {"min": 0.9}})[0] == 0
    by_group = weights({"weight": "softmax", "keep": {"top_p": 0.6}, "over": {"group": ["g"]}})
    assert by_group == [0, 1, None, 0.5, 0.5, NAN, 0, 1, 0]
    frame = pl.DataFrame({"x": [4.0, 1.0, 3.0, 2.0]})
    assert weights({"weight": "proportional", "keep": {"top_p": 0.7}}, frame) == pytest.approx([4 / 7, 0, 3 / 7, 0])
    assert weights({"keep": {"top_p": 0.7}}, frame) == [4, 0, 3, 0]
    chain = {"keep": {"top_k": 2}, "clip": [0.5, 3.5], "scale": {"sum": 15.0}}
    assert weights(chain, frame) == [7, 1, 6, 1]


def test_keep_and_fit_count_the_rows_that_taught():
    frame = pl.DataFrame({"x": [5.0, 1.0, 2.0, 3.0], "t": [False, True, True, True]})
    assert weights({"score": {"kind": "top_k", "k": 2}, "fit": "t"}, frame) == [1, 0, 1, 1]


def test_more_than_any_count_is_all():
    frame = pl.DataFrame({"x": [5.0, 1.0]})
    assert weights({"score": {"kind": "top_k", "k": 1 << 70}}, frame) == [1, 1]
    assert weights({"keep": {"top_k": 1 << 70}}, frame) == [5, 1]


@pytest.mark.parametrize("keep", [{}, {"top_k": 1, "min": 2}, {"top_k": None}])
def test_keep_is_one_thing(keep):
    with pytest.raises(JobError, match="needs exactly one of top_k, top_p, min"):
        weights({"keep": keep})


@pytest.mark.parametrize("score", [{"k": 0}, {"fraction": 0}, {"fraction": 1.5}, {}, {"k": 1, "fraction": 0.5}])
def test_a_wrong_top_k_is_refused(score):
    with pytest.raises(JobError):
        weights({"score": {"kind": "top_k", **score}})


def test_a_row_that_did_not_teach_is_in_only_above_the_cut():
    f = pl.DataFrame({"x": [3.0, 3.0, 5.0, 3.0, 1.0], "t": [False, True, False, True, True]})
    rule = {"key": "x", "score": {"kind": "top_k", "k": 2}, "fit": "t", "apply": "weights"}
    assert attend(f, [rule])["x_weight"].to_list() == [0.0, 1.0, 1.0, 1.0, 0.0]
