"""Laws over every kind that is found, and the kinds against independent computations."""

import math
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import scipy.special
import torch

from attention_core import scores, weights
from attention_core.adjust import Clip, Keep, Scale, Share
from attention_core.contract import Rows, conclude
from attention_core.errors import DataError
from attention_core.frozen import digest
from attention_core.kinds import Score, Weight, catalogue

FILES = tempfile.TemporaryDirectory()  # of what kinds name
TRAINED = Path(FILES.name, "trained.safetensors")
safetensors.torch.save_file(
    {"W_k": torch.arange(12.0).sin().reshape(4, 3), "W_q": torch.eye(4)[:, :2].clone(), "v": torch.ones(4)}, TRAINED
)
EXAMPLES = {
    "threshold": {"above": 0.3},
    "quantile": {"q": 0.3},
    "top_k": {"k": 40},
    "expression": {"sql": "a + 1"},
    "dot": {"query": [1.0, -0.3, 2.0]},
    "scaled_dot": {"query": "centroid"},
    "cosine": {"query": [1.0, -0.3, 2.0], "standardise": True},
    "euclidean": {"query": "centroid", "standardise": True},
    "additive": {"query": [0.5, -0.7], "parameters": str(TRAINED)},
    "exponential": {"half_life": 2.0},
    "power": {"exponent": 2.3},
}
SCORES = catalogue(scores.FAMILIES, Score)
WEIGHTS = catalogue(weights.FAMILIES, Weight)
KINDS = [k(**EXAMPLES.get(n, {})) for table in (SCORES, WEIGHTS) for n, k in table.items()]
KINDS += [Keep(top_k=40), Keep(top_p=0.6), Keep(min=0.5), Share()]
KINDS += [Clip(low=0.1, high=0.5), *(Scale(**{f: 2.0}) for f in ("mean", "sum", "min", "max", "sum_at_most"))]


def ids_of(kinds):
    return [f"{type(k).__module__.rsplit('.')[-1]}.{type(k).__name__}{sorted(k.model_fields_set)}" for k in kinds]


def ready(kind):
    """The kind with the files that it names, if it names some."""
    return kind.bound(pl.Array(pl.Float64, 3)) if getattr(kind, "vector", False) else kind


every_kind = pytest.mark.parametrize("kind", [ready(k) for k in KINDS], ids=ids_of(KINDS))


def tensor(xs):
    return torch.tensor(xs, dtype=torch.float64)


def rows(n=3000, size=7, seed=0):
    """Awkward but positive numbers, some of them missing."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, dtype=torch.float64, generator=g) + 0.01
    return Rows(x, torch.rand(n, generator=g) > 0.1, torch.randint(0, size, (n,), generator=g), size)


def seen(kind, r):
    """The rows as the kind takes them: numbers, vectors, or values of any type."""
    if getattr(kind, "vector", False):
        return replace(r, x=torch.stack([r.x, r.x.sin() - 0.3, 1 - r.x * r.x], 1))
    if getattr(kind, "counts", False):
        return replace(r, column=pl.Series((r.x * 30).long().tolist(), dtype=pl.Int64))
    return r


def take(r, i):
    ok, ids, column = (None if v is None else v[i] for v in (r.ok, r.ids, r.column))
    return Rows(r.x[i], ok, ids, r.size, r.start + (i.start or 0), column)


def fitted(kind, pieces):
    """What the kind knows after asking pieces of rows, merged in the order given."""

    def ask(question):
        states = [question.of(p) for p in pieces]
        whole = states[0]
        for s in states[1:]:
            whole = whole + s
        return whole

    return conclude(kind.fit(), ask)


@every_kind
def test_no_cut_and_no_order_shows(kind):
    r = seen(kind, rows())
    want = fitted(kind, [r])
    rnd = random.Random(1)
    for k in (2, 5, 17):
        cuts = [0, *sorted(rnd.sample(range(len(r.x)), k)), len(r.x)]
        pieces = [take(r, slice(a, b)) for a, b in zip(cuts, cuts[1:], strict=False)] + [take(r, slice(0, 0))]
        rnd.shuffle(pieces)
        assert digest(fitted(kind, pieces)) == digest(want)


@every_kind
@pytest.mark.parametrize("step", [1, 7, 997])
def test_a_row_is_the_same_wherever_it_stands(kind, step):
    r = seen(kind, rows(1000 if step == 1 else 3000))
    known = fitted(kind, [r])
    whole = kind(r, known)
    parts = torch.cat([kind(take(r, slice(i, i + step)), known) for i in range(0, len(r.x), step)])
    assert torch.equal(whole[r.ok], parts[r.ok])


@every_kind
def test_a_group_equals_a_table_of_its_own(kind):
    r = seen(kind, rows())
    whole = kind(r, fitted(kind, [r]))
    for g in range(r.size):
        here = r.ids == g
        own = Rows(r.x[here], r.ok[here], column=None if r.column is None else r.column.filter(here.numpy()))
        assert torch.equal(kind(own, fitted(kind, [own]))[own.ok], whole[here][own.ok])


@every_kind
def test_threads_do_not_show(kind):
    before = torch.get_num_threads()
    r = seen(kind, rows(200_000))
    try:
        found = []
        for n in (1, 2):
            torch.set_num_threads(n)
            known = fitted(kind, [r])
            found.append((digest(known), kind(r, known)[r.ok]))
    finally:
        torch.set_num_threads(before)
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("kind", KINDS, ids=ids_of(KINDS))
def test_its_config_survives_json_and_says_what_it_is(kind):
    assert type(kind).model_validate_json(kind.model_dump_json(exclude_unset=True)) == kind
    assert type(kind).__doc__


@every_kind
@pytest.mark.parametrize("n", [0, 1])
def test_empty_and_one_row(kind, n):
    r = seen(kind, Rows(torch.full((n,), 0.7, dtype=torch.float64)))
    out = kind(r, fitted(kind, [r]))
    assert out.shape == (n,) and bool(torch.isfinite(out).all())


def run(kind, xs):
    r = Rows(tensor(xs))
    return kind(r, fitted(kind, [r]))


def test_the_example_of_the_text():
    score = run(SCORES["threshold"](above=5), [1, 6, 3, 7, 2, 5, 9])
    weight = run(WEIGHTS["step"](high=2, low=1), score.tolist())
    assert weight.tolist() == [1, 2, 1, 2, 1, 1, 2]
    assert (weight * tensor([1, 6, 3, 7, 2, 5, 9])).tolist() == [1, 12, 3, 14, 2, 5, 18]


@pytest.mark.parametrize("scale", [1e-300, 1e-5, 1.0, 1e150, 1e300])
def test_zscore_at_any_scale(scale):
    x = np.random.default_rng(0).normal(3, 1, 1000)
    want = np.abs(x - x.mean()) / x.std()
    np.testing.assert_allclose(run(SCORES["zscore"](), (x * scale).tolist()).numpy(), want, rtol=1e-9)


def test_zscore_of_far_numbers_and_of_a_constant():
    x = np.random.default_rng(1).normal(1e9, 1, 1000)
    np.testing.assert_allclose(
        run(SCORES["zscore"](absolute=False), x.tolist()).numpy(), (x - x.mean()) / x.std(), atol=1e-6
    )
    assert run(SCORES["zscore"](), [0.1] * 7).tolist() == [0.0] * 7


@pytest.mark.parametrize("temperature", [0.01, 1.0, 50.0])
def test_softmax_is_torchs_and_scipys(temperature):
    x = torch.randn(5000, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 10
    got = run(WEIGHTS["softmax"](temperature=temperature), x.tolist())
    torch.testing.assert_close(got, torch.softmax(x / temperature, 0), rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(got.numpy(), scipy.special.softmax(x.numpy() / temperature), rtol=1e-11)


def test_softmax_of_infinite_scores():
    assert run(WEIGHTS["softmax"](), [-math.inf, 0.0]).tolist() == [0.0, 1.0]
    assert run(WEIGHTS["softmax"](), [-math.inf] * 2).tolist() == [0.0, 0.0]
    with pytest.raises(DataError, match=r"\+inf has no softmax"):
        run(WEIGHTS["softmax"](), [1.0, math.inf])


@pytest.mark.parametrize("kind", [SCORES["zscore"](), WEIGHTS["linear"](), WEIGHTS["proportional"](), Scale(mean=1.0)])
def test_an_infinite_key_is_an_error_for_a_sum_or_an_extent(kind):
    with pytest.raises(DataError, match="infinite"):
        run(kind, [1.0, math.inf])


def test_plain_weights():
    assert run(WEIGHTS["exponential"](half_life=30), [0.0, -30.0, -60.0]).tolist() == pytest.approx([1, 0.5, 0.25])
    assert run(WEIGHTS["linear"](low=1, high=3), [0.0, 5.0, 10.0]).tolist() == [1, 2, 3]
    assert run(WEIGHTS["linear"](low=1, high=3), [4.0, 4.0]).tolist() == [1, 1]
    assert run(WEIGHTS["proportional"](), [1.0, 3.0]).tolist() == [0.25, 0.75]
    assert run(WEIGHTS["proportional"](), [0.0] * 4).tolist() == [0.25] * 4
    assert sum(run(WEIGHTS["proportional"](), [1e308] * 4).tolist()) == 1.0
    with pytest.raises(DataError, match="negative"):
        run(WEIGHTS["proportional"](), [1.0, -1.0])


def test_recency_counts_from_the_latest_key():
    day = 8.64e10
    score = SCORES["recency"]().bound(__import__("polars").Datetime("us"))
    assert run(score, [0.0, day, 3 * day]).tolist() == [-3, -2, 0]


def test_scales():
    assert run(Scale(mean=1.0), [1.0, 3.0]).tolist() == [0.5, 1.5]
    assert run(Scale(sum=8.0), [1.0, 3.0]).tolist() == [2, 6]
    assert run(Scale(max=1.0), [1.0, 4.0]).tolist() == [0.25, 1]
    assert run(Scale(sum_at_most=2.0), [1.0, 3.0]).tolist() == [0.5, 1.5]
    assert run(Scale(sum_at_most=9.0), [1.0, 3.0]).tolist() == [1, 3]
    with pytest.raises(DataError, match="it is 0"):
        run(Scale(mean=1.0), [0.0, 0.0])


def test_laws_have_teeth():
    """A softmax normalised per chunk must not pass the law of chunks."""
    r = Rows(tensor([1.0, 2.0, 3.0, 4.0]))
    per_chunk = torch.cat([torch.softmax(r.x[:2], 0), torch.softmax(r.x[2:], 0)])
    assert not torch.equal(per_chunk, torch.softmax(r.x, 0))
