"""Answers come together as they come: in any order, over any number of parts, and few of them wait."""

import math
import random

import polars as pl
import pytest
import torch
from test_run import GROUPS, SOFTMAX, Folder, bits, frame

from attention_core import answers
from attention_core.answers import Answer, Gathered
from attention_core.attention import Look
from attention_core.contract import Rows
from attention_core.questions import Count, Sum, both

GROUP = [None, math.nan, -math.inf, 0.0, *(float(i) for i in range(1, 40))]


def part(i):
    """A few of the groups, in an order of their own, with the sum of a number for each."""
    rnd = random.Random(i)
    some = rnd.sample(GROUP, 9)
    x = torch.tensor([rnd.gauss(0, 1e9) for _ in some], dtype=torch.float64)
    state = both(Count(), Sum()).of(Rows(x, ids=torch.arange(len(some)), size=len(some)))
    return Answer(pl.DataFrame({"g": some}, schema={"g": pl.Float64}), (state,))


def table(answer):
    (state,) = answer.states
    return answer.keys.with_columns(n=state.first.n.numpy(), total=state.second.value().numpy())


@pytest.mark.parametrize("parts", [1, 7, 8, 9, 100])
def test_the_order_of_answers_does_not_show(parts):
    found = []
    for seed in range(3):
        gathered = Gathered({})
        for i in random.Random(seed).sample(range(parts), parts):
            gathered.add({"g": part(i)})
            assert len(gathered.waiting["g"]) < answers.WAITING
        found.append(table(gathered.whole("g")))
    assert found[0].equals(found[1]) and found[0].equals(found[2])
    assert found[0]["g"].to_list()[0] is None or parts == 1
    whole = pl.concat([table(part(i)) for i in range(parts)])
    want = whole.group_by("g").agg(pl.col("n", "total").sum()).sort("g", nulls_last=False)
    assert found[0].select("g", "n").equals(want.select("g", "n"))
    assert (found[0]["total"] - want["total"]).abs().max() <= 1e-4


def test_segments_that_are_known_keep_their_places():
    known = Gathered({})
    for i in range(12):
        known.add({"g": part(i)})
    keys = known.whole("g").keys
    gathered = Gathered({"g": keys})
    for i in range(3):
        gathered.add({"g": part(i)})
    assert gathered.whole("g").keys is keys


def test_what_there_is_no_room_for_is_found_again(tmp_path, monkeypatch):
    folder = Folder(tmp_path).job(GROUPS, {**SOFTMAX, "over": {"group": ["g"]}, "name": "other"})
    for i in range(5):
        folder.put(f"{i}.parquet", frame(40, i).with_columns(g=pl.Series([f"g{j % (i + 3)}" for j in range(40)])))
    folder.run()
    monkeypatch.setattr(Look, "_fits", lambda self, size: False)
    folder.run(f"sink.path={tmp_path / 'again'}")
    assert bits(tmp_path / "out") == bits(tmp_path / "again")
