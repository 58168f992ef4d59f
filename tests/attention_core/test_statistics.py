"""Statistics as a product: published, read without Farol, applied to what comes later, to the bit."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from test_run import Folder, frame, table_bits

from attention_core import statistics
from attention_core.attention import attend, pooled
from attention_core.errors import DataError, ExpectationMissed, JobError
from attention_core.job import SCORES, WEIGHTS
from attention_core.preview import sample
from attention_core.run import opened

BY_G = {"group": ["g"]}
W = {"apply": "weights"}
SOFT = {"name": "soft", "key": "x", "score": "zscore", "weight": "softmax", **W}
IN_GROUP = {"name": "in_group", "key": "x", "over": BY_G, "score": "zscore", "weight": "softmax", **W}
SAME = ("threshold", "quantile", "top_k", "rarity", "dot", "scaled_dot", "cosine")  # give equal scores
TIED = (*SAME, "step", "huber", "entmax")  # of equals, only a run knows the place


def rules_of(score):
    """A rule with this score, over the dataset and over groups."""
    extra = {"quantile": {"q": 0.4}, "top_k": {"k": 7}, "threshold": {"above": 0}, "expression": {"sql": "y * 2"}}
    how = {"kind": score, **extra.get(score, {})}
    key = {} if score == "expression" else {"key": "h" if score == "rarity" else "x"}
    if SCORES[score].vector:
        key, how = {"key": ["id", "y"]}, {"kind": score, "query": "centroid", "standardise": True}
    if score == "additive":
        how, key = {"kind": "identity"}, {"key": "x"}  # asks what the others ask
    keep = {"min": 0.01} if score in TIED else {"top_p": 0.9}
    return [
        {"name": "all", **key, "score": how, "weight": {"kind": "softmax", "temperature": 3}, **W},
        {"name": "each", **key, "score": how, "over": BY_G, "keep": keep, "weight": "softmax", **W},
    ]


def with_weight(weight):
    need = {"exponential": {"half_life": 2.0}, "power": {"exponent": 2.0}}
    score = "recency" if weight == "exponential" else "zscore"
    rule = {"key": "x", "score": score, "weight": {"kind": weight, **need.get(weight, {})}, "scale": {"mean": 1.0}, **W}
    keep = {"min": 0.01} if weight in TIED else {"top_k": 9}
    return [{"name": "all", **rule}, {"name": "each", "over": BY_G, **rule, "keep": keep}]


@pytest.mark.parametrize(
    "rules", [*map(rules_of, SCORES), *map(with_weight, WEIGHTS)], ids=[*SCORES, *(f"to {w}" for w in WEIGHTS)]
)
def test_attend_gives_the_very_bits_that_the_batch_job_gave(tmp_path, rules):
    folder = Folder(tmp_path).job(*rules)
    for i in range(3):
        folder.put(f"{i}.parquet", frame(60, i))
    folder.run()
    for i in range(3):
        served = attend(frame(60, i), rules, statistics=tmp_path / "out")
        assert table_bits(served.to_arrow())[1] == table_bits(folder.rows(f"{i}.parquet").to_arrow())[1]
    assert attend(frame(5), rules, tmp_path / "out.farol").equals(attend(frame(5), rules, str(tmp_path / "out")))


def test_frozen_touches_new_batches_only_and_counts_what_nobody_has_seen(tmp_path):
    rules = [SOFT, IN_GROUP, {"name": "seldom", "key": "h", "score": "rarity", **W}]
    folder = Folder(tmp_path).job(*rules)
    folder.put("1.parquet", frame(50, 1))
    folder.put("2.parquet", frame(50, 2))
    folder.run()
    before, fitted = folder.held(), [p.name for p in (tmp_path / "out.farol/statistics").iterdir()]

    folder.job(*rules, statistics="frozen")
    assert folder.run().plan.nothing
    new = frame(40, 3).with_columns(g=pl.when(pl.col("id") < 10).then(pl.lit("new")).otherwise("g"), h=pl.col("h") + 2)
    folder.put("3.parquet", new)
    plan = opened(tmp_path / "job.yaml").plan()
    assert [e.status for e in plan.entries] == ["done", "done", "new"] and plan.passes == 0
    outcome = folder.run()
    assert folder.written(before) == ["3.parquet"] and outcome.written == 1
    assert [p.name for p in (tmp_path / "out.farol/statistics").iterdir()] == fitted
    rows = folder.rows("3.parquet")
    there = rows["x"].is_not_null() & rows["x"].is_not_nan()
    assert rows.filter(there)["in_group_weight"].is_null().to_list() == (
        rows.filter(there)["g"].eq_missing("new").to_list()
    )
    assert rows["seldom_weight"].is_null().to_list() == (rows["h"] > 3).to_list()
    seen = {column: outcome.health[column].summary() for column in ("soft_weight", "in_group_weight", "seldom_weight")}
    assert seen["soft_weight"]["unseen"] == 0
    assert seen["in_group_weight"]["unseen"] == rows.filter(there & rows["g"].eq_missing("new")).height > 0
    assert seen["seldom_weight"]["unseen"] == int((rows["h"] > 3).sum()) > 0
    assert seen["seldom_weight"]["unseen_fraction"] == seen["seldom_weight"]["unseen"] / 140
    assert folder.run().plan.nothing
    folder.job(*rules, statistics="frozen", expect={"in_group": {"unseen_fraction": {"max": 0.01}}})
    with pytest.raises(ExpectationMissed, match="in_group_weight: unseen_fraction is 0.05"):
        folder.run()

    folder.job(*rules)
    assert folder.run().plan.counts() == {"depends on the fit": 3}
    assert not folder.rows("3.parquet")["in_group_weight"].drop_nulls().is_empty()
    assert [p.name for p in (tmp_path / "out.farol/statistics").iterdir()] != fitted


def test_the_statistics_of_another_sink(tmp_path):
    Folder(tmp_path).job(SOFT, IN_GROUP).put("1.parquet", frame(50, 1))
    Folder(tmp_path).run()
    other = Folder(tmp_path / "other").job(IN_GROUP, statistics={"from": "../out"})
    other.put("a.parquet", frame(30, 7))
    assert other.run().written == 1
    assert other.rows().equals(attend(frame(30, 7), [IN_GROUP], tmp_path / "out"))
    other.job(IN_GROUP, statistics="frozen")
    assert other.run().plan.nothing  # they are its own now
    shutil.rmtree(tmp_path / "out.farol")
    assert other.run().plan.nothing


def test_other_statistics_are_other_rows(tmp_path):
    a, b = (Folder(tmp_path / name).job(SOFT) for name in "ab")
    a.put("1.parquet", frame(50, 1))
    b.put("1.parquet", frame(50, 2))
    a.run(), b.run()
    c = Folder(tmp_path / "c").job(SOFT, statistics={"from": "../a/out"})
    c.put("a.parquet", frame(30, 7))
    c.run()
    c.job(SOFT, statistics={"from": "../b/out.farol"})
    assert opened(tmp_path / "c/job.yaml").plan().counts() == {"depends on the fit": 1}
    assert c.run().written == 1 and c.rows().equals(attend(frame(30, 7), [SOFT], tmp_path / "b/out"))
    assert c.run().plan.nothing


def test_what_is_not_published_or_of_other_rules_is_refused(tmp_path):
    folder = Folder(tmp_path).job(SOFT, statistics="frozen")
    folder.put("a.parquet", frame(20))
    with pytest.raises(JobError, match=r"out.farol: nothing is published there; a run with statistics: fresh"):
        folder.run()
    folder.job(SOFT).run()
    other = {**SOFT, "weight": {"kind": "softmax", "temperature": 2}}
    folder.job(other, statistics="frozen")
    with pytest.raises(JobError, match="of other rules, and know nothing of rule 'soft', key 'x'"):
        folder.run()
    with pytest.raises(JobError, match="of other rules"):
        attend(frame(3), [other], tmp_path / "out")
    with pytest.raises(JobError, match="nothing is published there"):
        attend(frame(3), [SOFT], tmp_path / "nowhere")
    folder.job(SOFT, statistics={"of": "x"})
    with pytest.raises(JobError, match="statistics"):
        folder.run()
    published = json.loads((tmp_path / "out.farol/published.json").read_text())["fitted"]
    form = tmp_path / f"out.farol/statistics/{published}/statistics.json"
    form.write_text("{}")
    with pytest.raises(JobError, match="cannot be read"):
        attend(frame(3), [SOFT], tmp_path / "out")
    form.unlink()
    with pytest.raises(JobError, match="no statistics are there"):
        attend(frame(3), [SOFT], tmp_path / "out")


def test_groups_of_another_type_are_refused(tmp_path):
    folder = Folder(tmp_path).job(IN_GROUP)
    folder.put("a.parquet", frame(20))
    folder.run()
    with pytest.raises(DataError, match="of other types than those that the statistics are about: g String"):
        attend(frame(20).with_columns(g=pl.col("h")), [IN_GROUP], tmp_path / "out")


def test_equal_keys_keep_their_place_and_newcomers_have_none(tmp_path):
    rule = {"key": "x", "score": {"kind": "top_k", "k": 3}, **W}
    folder = Folder(tmp_path).job(rule)
    folder.put("b.parquet", [5, 1, 5, 5])
    folder.put("c.parquet", [5, 9])
    folder.run()
    weights = [folder.rows(f"{n}.parquet")["x_weight"].to_list() for n in "bc"]
    assert weights == [[1, 0, 1, 0], [0, 1]]
    folder.job(rule, statistics="frozen")
    folder.put("a.parquet", [5, 7])
    folder.put("c.parquet", [9, 5, 5])  # is not as it was: its rows have no place
    assert folder.run().written == 2
    weights = [folder.rows(f"{n}.parquet")["x_weight"].to_list() for n in "abc"]
    assert weights == [[0, 1], [1, 0, 1, 0], [1, 0, 0]]
    (tmp_path / "out/b.parquet").unlink()
    assert folder.run().written == 1 and folder.rows("b.parquet")["x_weight"].to_list() == [1, 0, 1, 0]
    assert attend(pl.DataFrame({"x": [5, 7]}), [rule], tmp_path / "out")["x_weight"].to_list() == [0, 1]


def test_a_batch_is_fitted_where_it_stands(tmp_path):
    rules = [{**SOFT, "over": "batch"}, {**SOFT, "name": "whole", "key": "soft_weight"}]
    folder = Folder(tmp_path).job(*rules)
    folder.put("a.parquet", frame(20, 1))
    folder.run()
    folder.job(*rules, statistics="frozen")
    folder.put("b.parquet", frame(20, 2))
    assert folder.run().written == 1
    own = attend(frame(20, 2), rules[:1])["soft_weight"]
    assert folder.rows("b.parquet")["soft_weight"].equals(own)
    assert attend(frame(20, 2), rules, tmp_path / "out").equals(folder.rows("b.parquet"))


def test_preview_takes_what_is_published(tmp_path):
    folder = Folder(tmp_path).job(SOFT)
    folder.put("a.parquet", frame(20, 1))
    folder.put("b.parquet", frame(20, 2))
    assert not sample(opened(tmp_path / "job.yaml"), 5).whole
    folder.run()
    found = sample(opened(tmp_path / "job.yaml"), 5)
    assert found.whole and found.rows["soft_weight"].equals(folder.rows()["soft_weight"][:5])


def test_the_published_form_is_read_without_farol(tmp_path):
    rules = [IN_GROUP, {"name": "seldom", "key": "h", "over": BY_G, "score": "rarity", **W}]
    folder = Folder(tmp_path).job(*rules)
    folder.put("a.parquet", frame(200, 1))
    folder.run()
    work = tmp_path / "out.farol"
    at = work / "statistics" / json.loads((work / "published.json").read_text())["fitted"]
    said = json.loads((at / "statistics.json").read_text())
    assert list(said["rules"]) == ["in_group_weight", "seldom_weight"] and list(said["taught"]) == ["a.parquet"]
    table = pl.read_parquet(at / said["rules"]["in_group_weight"]["file"])
    assert table.columns == ["group.g", "keys", "zscore.middle", "zscore.width", "softmax.centre", "softmax.total"]
    rows = frame(200, 1).with_columns(pl.col("x").fill_nan(None)).drop_nulls("x")
    for g, n, mean in table.select("group.g", "keys", "zscore.middle").iter_rows():
        x = rows.filter(pl.col("g").eq_missing(g))["x"].to_numpy()
        assert (n, mean) == (len(x), pytest.approx(np.mean(x)))
    values = pl.read_parquet(at / said["rules"]["seldom_weight"]["file"])
    counted = values.explode("rarity.table").unnest("rarity.table").select("group.g", "value", "count")
    expected = frame(200, 1).group_by("g", "h").len("count").sort("g", "h").cast({"count": pl.Int64})
    assert counted.rename({"group.g": "g", "value": "h"}).equals(expected)


@pytest.mark.parametrize("far", [0, 100])
def test_softmax_says_what_it_subtracts(tmp_path, far):
    """So that no reader has to know which scores are near, and those of another meaning are refused."""
    rule = {"name": "soft", "key": "x", "weight": "softmax", **W}
    folder, rows = Folder(tmp_path).job(rule), frame(20).with_columns(pl.col("x") + far)
    folder.put("a.parquet", rows)
    folder.run()
    work = tmp_path / "out.farol"
    at = work / "statistics" / json.loads((work / "published.json").read_text())["fitted"]
    said = json.loads((at / "statistics.json").read_text())
    known = pl.read_parquet(at / said["rules"]["soft_weight"]["file"]).row(0, named=True)
    assert bool(known["softmax.centre"]) == bool(far)
    weights = (rows["x"] - known["softmax.centre"]).exp() / known["softmax.total"]
    np.testing.assert_allclose(folder.rows()["soft_weight"].to_numpy(), weights.to_numpy(), rtol=1e-13)
    (at / "statistics.json").write_text(json.dumps(said).replace('"centre"', '"largest"'))
    with pytest.raises(JobError, match="cannot be read"):
        attend(rows, [rule], tmp_path / "out")


def test_pooled_by_published_statistics(tmp_path):
    rules = [{"name": "p", "key": "x", "value": "y", "over": BY_G, "weight": "softmax", "apply": "pool"}]
    folder = Folder(tmp_path).job(*rules)
    folder.put("a.parquet", frame(50, 1))
    folder.run()
    assert pooled(frame(50, 1), rules, tmp_path / "out")["p"].equals(pl.read_parquet(tmp_path / "out.pooled/p.parquet"))


def test_an_id_is_of_every_byte(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    one = statistics._id(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    assert statistics._id(tmp_path) != one
