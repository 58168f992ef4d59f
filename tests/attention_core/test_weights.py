"""The weights against independent computations, and at the edges of what a score can be."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from pydantic import ValidationError

from attention_core import weights
from attention_core.contract import Rows, conclude
from attention_core.errors import DataError
from attention_core.kinds import Weight, catalogue
from attention_core.weights import simplex

WEIGHTS = catalogue(weights.FAMILIES, Weight)
AWKWARD = [0.0, -0.0, 5e-324, -5e-324, 1e-300, 1.0, -1.0, 1.345, 4.685, 30.0, -800.0, 800.0, 1e308, -1e308]
AWKWARD += [math.inf, -math.inf]


def tensor(xs):
    return torch.tensor(xs, dtype=torch.float64)


def run(word, xs, ok=None, **parameters):
    kind = WEIGHTS[word](**parameters)
    r = Rows(tensor(xs), None if ok is None else torch.tensor(ok))
    return kind(r, conclude(kind.fit(), lambda question: question.of(r))).numpy()


def normal(n=2000, scale=2.0):
    return np.random.default_rng(5).normal(size=n) * scale


# What follows the score itself


@pytest.mark.parametrize(("midpoint", "temperature"), [(0.0, 1.0), (-0.5, 0.01), (3.0, 40.0)])
def test_sigmoid_is_scipys(midpoint, temperature):
    x = np.concatenate([normal(), AWKWARD])
    with np.errstate(over="ignore"):
        want = scipy.special.expit((x - midpoint) / temperature)
    got = run("sigmoid", x, midpoint=midpoint, temperature=temperature)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-307)


def test_sigmoid_ends_at_0_and_1():
    got = run("sigmoid", [-math.inf, -1e308, -800, 0, 800, 1e308, math.inf])
    assert got.tolist() == [0, 0, 0, 0.5, 1, 1, 1]


def test_gaussian_is_scipys_normal_density_over_its_peak():
    x = normal()
    want = scipy.stats.norm.pdf(x, scale=0.7) / scipy.stats.norm.pdf(0, scale=0.7)
    np.testing.assert_allclose(run("gaussian", x, width=0.7), want, rtol=1e-13)


def test_huber_and_bisquare_are_their_formulas():
    x = normal(scale=4.0)
    np.testing.assert_allclose(run("huber", x), [1.0 if abs(s) <= 1.345 else 1.345 / abs(s) for s in x], rtol=1e-15)
    want = [(1 - (s / 4.685) ** 2) ** 2 if abs(s) < 4.685 else 0.0 for s in x]
    np.testing.assert_allclose(run("bisquare", x), want, rtol=1e-13, atol=1e-16)
    assert 0 in want


def test_the_even_weights_at_the_edges():
    assert run("gaussian", [0.0, -0.0, 5e-324, 1e308, math.inf, -math.inf]).tolist() == [1, 1, 1, 0, 0, 0]
    assert run("huber", [0.0, 1.345, -1.345, 2.69, -2.69, math.inf, -math.inf]).tolist() == [1, 1, 1, 0.5, 0.5, 0, 0]
    assert run("huber", [1e308], at=1e308).tolist() == [1]
    assert run("bisquare", [0.0, -0.0, 5e-324, 4.685, -4.685, 1e308, -math.inf]).tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert run("bisquare", [1.0, -1.0], at=2.0).tolist() == [0.5625] * 2


@pytest.mark.parametrize("word", ["sigmoid", "gaussian", "huber", "bisquare"])
@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e300])
def test_a_weight_is_a_number_from_0_to_1_at_any_scale(word, scale):
    name = "at" if word in ("huber", "bisquare") else "width" if word == "gaussian" else "temperature"
    got = run(word, AWKWARD, **{name: scale})
    assert bool(((got >= 0) & (got <= 1)).all())


@pytest.mark.parametrize("p", [-65, -3, -2.5, -2, -1, -0.5, -0.3, 0, 0.5, 1, 1.5, 2, 2.3, 3, 10, 64, 65, 100.0])
def test_power_is_numpys(p):
    x = np.concatenate([np.abs(normal()) + 1e-3, [5e-324, 1e-300, 1e-154, 1e154, 1e300, 1.7e308, math.inf]])
    if float(p).is_integer():
        x = np.concatenate([x, -x])
    with np.errstate(over="ignore"):
        want = np.power(x, float(p))
    np.testing.assert_allclose(run("power", x, exponent=p), want, rtol=3e-13, atol=1e-307)


def test_power_is_exact_where_it_can_be():
    assert run("power", [3.0, -2.0, 10.0, 0.0], exponent=3).tolist() == [27, -8, 1000, 0]
    assert run("power", [4.0, 9.0, 0.0, -0.0], exponent=0.5).tolist() == [2, 3, 0, 0]
    assert run("power", [4.0, 9.0], exponent=1.5).tolist() == [8, 27]
    assert run("power", [4.0, -0.5], exponent=-1).tolist() == [0.25, -2]
    assert run("power", [4.0, 0.0, -0.0, -7.0], exponent=0).tolist() == [1] * 4
    assert run("power", [1e308, -1e308], exponent=3).tolist() == [math.inf, -math.inf]


def test_power_refuses_what_is_no_real_number():
    for exponent, bad in [(0.5, -1.0), (2.3, -5e-324), (-1, 0.0), (-1, -0.0), (-0.3, 0.0), (0.3, -math.inf)]:
        with pytest.raises(DataError, match="has no power"):
            run("power", [1.0, bad], exponent=exponent)
        assert run("power", [1.0, bad], [True, False], exponent=exponent)[0] == 1  # who is masked is not looked at


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("power", {}),
        ("power", {"exponent": math.inf}),
        ("sigmoid", {"midpoint": math.inf}),
        ("entmax", {"alpha": 1.0}),
        ("entmax", {"alpha": math.inf}),
        *[(w, {f: v}) for w, f in [("sigmoid", "temperature"), ("gaussian", "width")] for v in (0, -1, math.inf)],
        *[(w, {"at": v}) for w in ("huber", "bisquare") for v in (0, -1, math.inf, math.nan)],
        *[(w, {"temperature": v}) for w in ("softmax", "entmax") for v in (0, -0.0, -1, math.inf, math.nan)],
        ("exponential", {}),
        *[("exponential", {"half_life": v}) for v in (0, -1, math.nan)],
        ("step", {"high": math.inf}),
        ("linear", {"high": math.inf}),
    ],
)
def test_impossible_parameters_are_refused(word, wrong):
    with pytest.raises(ValidationError):
        WEIGHTS[word](**wrong)


# Entmax


def sparsemax(z):
    """Martins and Astudillo 2016, algorithm 1."""
    ordered = np.sort(z)[::-1]
    sums = np.cumsum(ordered)
    k = np.arange(1, len(z) + 1)
    many = k[1 + k * ordered > sums].max()
    return np.maximum(z - (sums[many - 1] - 1) / many, 0)


def entmax15(z):
    """Peters et al. 2019, algorithm 2: the exact solution for alpha 1.5 by sorting."""
    z = (z - z.max()) / 2
    ordered = np.sort(z)[::-1]
    k = np.arange(1, len(z) + 1)
    mean = np.cumsum(ordered) / k
    spread = k * (np.cumsum(ordered**2) / k - mean**2)
    tau = mean - np.sqrt(np.maximum((1 - spread) / k, 0))
    return np.maximum(z - tau[(tau <= ordered).sum() - 1], 0) ** 2


def by_brent(z, alpha):
    """τ as the root that SciPy finds."""
    u = (alpha - 1) * (z - z.max())

    def shares(tau):
        return np.maximum(u - tau, 0) ** (1 / (alpha - 1))

    return shares(scipy.optimize.brentq(lambda tau: shares(tau).sum() - 1, -1, 0, xtol=1e-300, rtol=1e-15))


SAMPLES = {
    "normal": normal(500),
    "narrow": normal(500, 1e-3),
    "wide": normal(500, 100.0),
    "ties": np.round(normal(500)),
    "far": normal(500) + 1e6,
    "two": np.array([0.3, 0.1]),
    "a step": np.array([0.0] + [-0.4] * 300),
    "fading": -np.arange(200) * 0.01,
}
every_sample = pytest.mark.parametrize("z", SAMPLES.values(), ids=SAMPLES)


@every_sample
@pytest.mark.parametrize("temperature", [0.25, 1.0, 8.0])
def test_sparsemax_is_that_of_martins_and_astudillo(z, temperature):
    want = sparsemax((z - z.max()) / temperature)
    np.testing.assert_allclose(run("entmax", z, alpha=2, temperature=temperature), want, rtol=1e-12, atol=1e-13)


@every_sample
@pytest.mark.parametrize("temperature", [0.25, 1.0, 8.0])
def test_entmax_of_one_and_a_half_is_that_of_peters(z, temperature):
    want = entmax15((z - z.max()) / temperature)
    np.testing.assert_allclose(run("entmax", z, temperature=temperature), want, rtol=1e-12, atol=1e-12)


@every_sample
@pytest.mark.parametrize("alpha", [1.05, 1.25, 4 / 3, 1.5, 1.75, 2.0, 2.5, 3.0])
def test_entmax_is_what_a_root_finder_finds(z, alpha):
    np.testing.assert_allclose(run("entmax", z, alpha=alpha), by_brent(z, alpha), rtol=1e-12, atol=1e-12)


def test_published_values_of_sparsemax():
    """Martins and Astudillo 2016, section 2.3: two keys are (1 + t)/2, cut off; the simplex stays as it is."""
    for t in (-2.0, -0.5, 0.0, 0.75, 1.0, 3.0):
        np.testing.assert_allclose(run("entmax", [t, 0.0], alpha=2)[0], min(max((1 + t) / 2, 0), 1), rtol=1e-15)
    p = np.array([0.5, 0.3, 0.2, 0.0])
    np.testing.assert_allclose(run("entmax", p, alpha=2), p, atol=2e-16)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 20.0])
def test_entmax_becomes_softmax(temperature):
    z = normal()
    got = run("entmax", z, alpha=1 + 1e-12, temperature=temperature)
    np.testing.assert_allclose(got, scipy.special.softmax(z / temperature), rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("alpha", [1 + 2**-52, 1.01, 1.5, 1.7, 2, 3, 8, 50])
@pytest.mark.parametrize("scale", [0.0, 5e-324, 1e-300, 1e-9, 1.0, 1e9, 1e308])
def test_entmax_sums_to_1_at_any_scale(alpha, scale):
    z = np.random.default_rng(1).uniform(-1, 1, 999) * scale
    for temperature in (1.0, scale or 1.0):
        got = run("entmax", z, alpha=alpha, temperature=temperature)
        assert bool((got >= 0).all()) and math.fsum(got) == pytest.approx(1, abs=1e-14)
        assert bool((np.diff(got[np.argsort(z)]) >= 0).all())


@pytest.mark.parametrize("alpha", [1.0001, 1.5, 1.7, 2, 3, 20])
@pytest.mark.parametrize("n", [1, 2, 3, 49, 10_000])
def test_equal_keys_share_equally(alpha, n):
    assert run("entmax", [0.1] * n, alpha=alpha).tolist() == [1 / n] * n


@pytest.mark.parametrize("alpha", [1.2, 1.5, 2, 3])
def test_entmax_of_infinite_scores_and_of_none(alpha):
    assert run("entmax", [-math.inf, 7.0, 0.0 - 1e9], alpha=alpha).tolist() == [0, 1, 0]
    assert run("entmax", [-math.inf] * 3, alpha=alpha).tolist() == [0] * 3
    assert run("entmax", [], alpha=alpha).tolist() == []
    with pytest.raises(DataError, match=r"\+inf has no entmax"):
        run("entmax", [1.0, math.inf], alpha=alpha)
    got = run("entmax", [0.3, math.inf, 0.1, math.nan], [True, False, True, False], alpha=alpha)
    assert got[[0, 2]].tolist() == run("entmax", [0.3, 0.1], alpha=alpha).tolist()


def test_entmax_refuses_an_infinite_score_that_did_not_teach():
    kind = WEIGHTS["entmax"]()
    known = conclude(kind.fit(), lambda question: question.of(Rows(tensor([1.0, 2.0]))))
    with pytest.raises(DataError, match=r"\+inf has no entmax"):
        kind(Rows(tensor([math.inf])), known)


def groups():
    """Segments as unlike as can be, their rows in no order."""
    parts = [*SAMPLES.values(), np.full(7, 3.0), np.array([2.0]), np.array([-math.inf]), np.array([1e308, -1e308])]
    g = np.random.default_rng(3)
    parts += [g.normal(size=g.integers(1, 9)) for _ in range(200)]  # one in a hundred would show that others go on
    x, ids = np.concatenate(parts), np.repeat(np.arange(len(parts)) * 2, [len(p) for p in parts])  # every other: empty
    order = np.random.default_rng(2).permutation(len(x))
    return Rows(tensor(x[order]), None, torch.tensor(ids[order]), 2 * len(parts))


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2, 3])
def test_a_segment_of_entmax_does_not_know_its_neighbours(alpha, monkeypatch):
    kind, r = WEIGHTS["entmax"](alpha=alpha), groups()
    whole = kind(r, conclude(kind.fit(), lambda question: question.of(r)))
    for segment in range(r.size):
        own = Rows(r.x[r.ids == segment])
        assert torch.equal(kind(own, conclude(kind.fit(), lambda q, own=own: q.of(own))), whole[r.ids == segment])
    monkeypatch.setattr(simplex, "BLOCK", 5)
    many = Rows(r.x.repeat(3), None, torch.cat([r.ids + i * r.size for i in range(3)]), 3 * r.size)
    again = kind(many, conclude(kind.fit(), lambda question: question.of(many)))
    assert torch.equal(again, whole.repeat(3))


def passes(kind, r):
    asked = itertools.count()

    def ask(question):
        next(asked)
        return question.of(r)

    conclude(kind.fit(), ask)
    return next(asked)


def test_how_many_passes_entmax_takes():
    for alpha, most in [(1.0001, 10), (1.2, 12), (1.5, 12), (2, 13), (3, 25)]:
        for z in (normal(5_000), normal(5_000, 1e-3), np.concatenate([[0.0], np.full(5_000, -0.3)])):
            assert passes(WEIGHTS["entmax"](alpha=alpha), Rows(tensor(z))) <= most


@pytest.mark.parametrize("alpha", [1.0001, 1.5, 2, 3, 50])
def test_entmax_ends_whatever_the_numbers(alpha):
    """A fifth of the bracket is left after each pass at worst, and it has some 2^53·ln n places."""
    for seed in range(20):
        g = np.random.default_rng(seed)
        z = -np.exp(g.uniform(-80, 10, g.integers(1, 400)))
        assert passes(WEIGHTS["entmax"](alpha=alpha), Rows(tensor(z))) <= 2 + 53 * math.log(2) / math.log(5) + 4


def test_a_range_beyond_float64_is_refused():
    with pytest.raises(ValidationError, match="farther than a number goes"):
        WEIGHTS["linear"](low=-1e308, high=1e308)
