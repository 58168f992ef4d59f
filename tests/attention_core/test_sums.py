"""Laws of the reproducible sum: the same bits in any cut and any order, and near the exact sum."""

import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_core import sums
from attention_core.sums import Adding, Sums

finite = st.floats(allow_nan=False, allow_infinity=False)


def tensor(xs):
    return torch.tensor(xs, dtype=torch.float64)


def same(a, b):
    return torch.equal(a.top, b.top) and torch.equal(a.low, b.low) and torch.equal(a.high, b.high)


@settings(max_examples=200, deadline=None)
@given(st.lists(finite, max_size=50), st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_cut_and_any_order_give_the_same_state(xs, rnd, size):
    x, ids = tensor(xs), torch.arange(len(xs)) % size
    whole = Sums.of(x, ids, size)
    order = list(range(len(xs)))
    rnd.shuffle(order)
    parts = [Sums.of(x[:0], ids[:0], size)]
    while order:
        k = rnd.randint(1, len(order))
        parts.append(Sums.of(x[order[:k]], ids[order[:k]], size))
        order = order[k:]
    while len(parts) > 1:
        a = parts.pop(rnd.randrange(len(parts)))
        parts.append(a + parts.pop(rnd.randrange(len(parts))))
    assert same(parts[0], whole)


@settings(max_examples=200, deadline=None)
@given(st.lists(finite, min_size=1, max_size=50))
def test_near_the_exact_sum(xs):
    exact = sum(map(Fraction, xs))
    got = float(Sums.of(tensor(xs), None, 1).value())
    try:
        want = float(exact)
    except OverflowError:
        return
    bound = max(abs(Fraction(x)) for x in xs) * Fraction(len(xs), 2**58) + Fraction(math.ulp(want))
    assert math.isfinite(got) and abs(Fraction(got) - exact) <= bound


@pytest.mark.parametrize("n", [0, 1, 65_535, 65_537, 200_000])
def test_one_segment_and_many_agree_across_blocks(n):
    x = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) * 1e6
    assert same(Sums.of(x, None, 1), Sums.of(x, torch.zeros(n, dtype=torch.int64), 1))
    assert float(Sums.of(x, None, 1).value()) == pytest.approx(math.fsum(x.tolist()), rel=1e-14)


def test_what_is_cut_off_is_what_the_bound_says():
    assert float(Sums.of(tensor([1e25, 3.14159, -1e25]), None, 1).value()) == 3.0
    assert float(Sums.of(tensor([1e308] * 10), None, 1).mean(torch.tensor([10]))) == 1e308
    assert float(Sums.of(tensor([5e-324] * 7), None, 1).value()) == 7 * 5e-324


def test_a_float_sum_would_fail_these_laws():
    rnd = random.Random(0)
    xs = [rnd.gauss(0, 1) * 10.0 ** rnd.randint(-8, 8) for _ in range(1000)]
    shuffled = rnd.sample(xs, len(xs))
    assert sum(xs) != sum(shuffled)
    assert same(Sums.of(tensor(xs), None, 1), Sums.of(tensor(shuffled), None, 1))


def test_spread_puts_segments_at_their_places():
    s = Sums.of(tensor([1.0, 2.0]), torch.tensor([0, 1]), 2)
    assert s.spread(torch.tensor([3, 0]), 4).value().tolist() == [2.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("room", [sums.EXACT, 10_000])
@pytest.mark.parametrize("shape", [(5,), (5, 3), (200, 3)])
def test_several_threads_may_add_at_once(shape, room, monkeypatch):
    """Addends that grow raise the tops while others are being cut into pieces; what is full is closed."""
    monkeypatch.setattr(sums, "EXACT", room)
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    x = torch.randn(n, *shape[1:], dtype=torch.float64, generator=generator)
    x *= torch.exp2(torch.linspace(-200, 200, n, dtype=torch.float64)).reshape(n, *[1] * (x.ndim - 1))
    ids = torch.randint(0, shape[0], (n,), generator=generator)
    whole = Sums.of(x, ids, shape[0])
    adding = Adding(shape, torch.device("cpu"))
    parts = list(zip(torch.split(x, 3_000), torch.split(ids, 3_000), strict=True))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: adding.add(*part), parts))
    found = adding.sums()
    assert all(torch.equal(getattr(found, name), getattr(whole, name)) for name in ("top", "low", "high"))
    assert torch.equal(adding.sums().value(), whole.value())


@pytest.mark.parametrize("threads", [1, 8])
def test_no_more_is_open_than_adds_up_exactly(threads, monkeypatch):
    """Neither by one chunk of many rows, nor by several that come at the same moment."""
    monkeypatch.setattr(sums, "EXACT", 1 << 17)
    x = torch.linspace(0.5, 1, 800_000, dtype=torch.float64)
    adding, begun, here = Adding((1,), torch.device("cpu")), threading.Barrier(threads), threading.local()
    added, most = Adding._added, []

    def noted(self, rows, ids):
        if not hasattr(here, "began"):
            here.began = begun.wait()
        done = added(self, rows, ids)
        most.append(float(self.open.amax()))
        return done

    monkeypatch.setattr(Adding, "_added", noted)
    with ThreadPoolExecutor(threads) as pool:
        parts = torch.split(x, len(x) // threads)
        list(pool.map(lambda part: adding.add(part, torch.zeros(len(part), dtype=torch.int64)), parts))
    assert max(most) < sums.EXACT * 2.0**30
    assert same(adding.sums(), Sums.of(x, None, 1))
