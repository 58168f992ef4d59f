"""Devices: which one, halving where memory runs out, and the same results on a GPU."""

import time

import polars as pl
import pytest
import torch

from attention_core.attention import FramePart, Look, fit, resolved
from attention_core.devices import CPU, ahead, chosen, halving, moved, rows_at_once
from attention_core.errors import DataError, JobError
from attention_core.job import Rule
from attention_core.questions import Count, Extent, both
from tests.attention_core.test_attention import RULES, bits, frame

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def attended(device, f, stop_above=None):
    rules = [Rule.model_validate(rule) for rule in (RULES[0], RULES[1], RULES[6] | {"score": {
        "kind": "expression", "sql": "zg_weight * a"}})]  # fmt: skip
    heads = resolved(rules, f.schema)
    look, part = Look(heads, device=device), FramePart(f)
    known = fit(look, lambda work: [work(part)])
    return pl.concat([chunk for _, chunk in look.attended(part, heads, known)])


def test_auto_takes_what_there_is():
    assert chosen("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(JobError, match="cuda:99 is not there"):
        chosen("cuda:99")
    assert rows_at_once(CPU, 1000) == 1000


def test_out_of_memory_halves_the_chunk_and_keeps_the_bits(monkeypatch):
    f = frame()
    whole = bits(attended(CPU, f))
    sizes = []

    def scarce(kind):
        plain = kind.__call__

        def call(self, rows, known):
            sizes.append(len(rows.x))
            if len(rows.x) > 300:
                raise torch.OutOfMemoryError
            return plain(self, rows, known)

        return call

    from attention_core.weights.simplex import Softmax

    monkeypatch.setattr(Softmax, "__call__", scarce(Softmax))
    assert bits(attended(CPU, f)) == whole
    assert max(sizes) == f.height and sizes.count(250) == 16  # a pass for the scale, and the rows


def test_a_row_too_large_is_an_error():
    def work(rows, start):
        raise torch.OutOfMemoryError

    with pytest.raises(DataError, match="no memory left for a single row"):
        halving(work, lambda a, b: a, frame(4))


def test_halves_know_where_they_begin():
    seen = []

    def work(rows, start):
        if rows.height > 2:
            raise torch.OutOfMemoryError
        seen.append((start, rows.height))
        return rows

    f = frame(7)
    assert halving(work, lambda a, b: pl.concat([a, b]), f, 10).equals(f, null_equal=True)
    assert seen == [(10, 1), (11, 2), (13, 2), (15, 2)]


def test_moving_keeps_what_is_known():
    state = both(Count(), Extent())
    assert moved(state, CPU) is state


@pytest.mark.gpu
@gpu
def test_a_gpu_agrees_to_1e_12():
    f = frame()
    here, there = attended(CPU, f), attended(torch.device("cuda"), f)
    for column in set(here.columns) - set(f.columns):
        close = ((here[column] - there[column]).abs() <= 1e-12 * here[column].abs()).fill_null(True)
        assert (close | here[column].is_nan()).all() and (here[column].is_null() == there[column].is_null()).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_what_is_worked_on_ahead_comes_in_order(threads):
    taken = []

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    def work(i):
        time.sleep(0.002 * (i % 3))
        return i * i

    found = ahead(items(), work, threads)
    assert [next(found) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 3 + threads + 1  # no more is read than is worked on
    assert list(found) == [i * i for i in range(3, 20)]


def test_an_error_ahead_comes_in_its_turn():
    def work(i):
        if i == 2:
            raise ValueError("two")
        return i

    found = ahead(iter(range(9)), work, 3)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(found)
    closed = ahead(iter(range(9)), work, 3)
    next(closed)
    closed.close()
