"""Filters and pools: against Polars' own group_by, the same bits in any cut, and what a run publishes of them."""

import math
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from attention_core.attention import attend, pooled
from attention_core.errors import DataError, JobError
from attention_core.preview import sample
from attention_core.run import opened, run
from attention_core.sums import Sums

BY_G = {"group": ["g"]}


def frame(n=3000, seed=0):
    r = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "g": [["x", "y", None][i] for i in r.integers(0, 3, n)],
            "x": [None if u < 0.1 else v for u, v in zip(r.random(n), r.normal(size=n), strict=True)],
            "v": [None if u < 0.2 else v for u, v in zip(r.random(n), r.normal(size=n), strict=True)],
            "f": pl.Series(r.normal(size=n).astype("f4")),
            "e": pl.Series(r.normal(size=(n, 3)).astype("f4"), dtype=pl.Array(pl.Float32, 3)),
        }
    )


def rule(how="sum", value="v", **more):
    return {"name": "p", "key": "x", "value": value, "weight": "softmax", "over": BY_G, "apply": {"pool": how}, **more}


@pytest.mark.parametrize("over", ["dataset", "batch", BY_G])
def test_a_pool_is_the_weighted_sum_of_each_segment(over):
    f = frame()
    weights = attend(f, [rule(over=over)])
    table = pooled(f, [rule(over=over)])["p"]
    by = {"dataset": [], "batch": [pl.lit("frame").alias("batch")]}.get(over if isinstance(over, str) else "", ["g"])
    want = (
        weights.group_by(by or [pl.lit(0).alias("#")])
        .agg(
            rows=pl.len().cast(pl.Int64),
            weight_sum=pl.col("p_weight").sum(),
            v_pooled=(pl.col("v") * pl.col("p_weight")).sum(),
        )
        .drop("#", strict=False)
        .sort(pl.all())
    )
    assert_frame_equal(table, want, rel_tol=1e-12)


def test_the_mean_divides_by_the_weights_of_the_values_that_are_there():
    f = frame()
    w = attend(f, [rule()]).filter(pl.col("v").is_not_null() & pl.col("p_weight").is_not_null())
    want = w.group_by("g").agg((pl.col("v") * pl.col("p_weight")).sum() / pl.col("p_weight").sum()).sort("g")
    got = pooled(f, [rule("mean")])["p"]
    assert got["v_pooled"].to_list() == pytest.approx(want["v"].to_list(), rel=1e-12)
    assert pooled(f, [rule(apply="pool")])["p"].equals(pooled(f, [rule("sum")])["p"])


def test_vectors_are_pooled_component_by_component():
    f = frame()
    table = pooled(f, [rule(value=["e"])])["p"]
    assert table.schema["e_pooled"] == pl.Array(pl.Float32, 3)
    parts = f.with_columns(pl.col("e").arr.get(i).alias(f"e{i}") for i in range(3))
    each = pooled(parts, [rule(value=["e0", "e1", "e2"])])["p"]
    for i in range(3):
        assert table["e_pooled"].arr.get(i).to_list() == each[f"e{i}_pooled"].to_list()
    assert each.schema["e0_pooled"] == pl.Float32


@pytest.mark.parametrize("chunk_rows", [1, 7, 500])
@pytest.mark.parametrize("how", ["sum", "mean"])
def test_no_chunk_shows_in_a_pool(chunk_rows, how):
    f = frame(300)
    whole, cut = (pooled(f, [rule(how, ["v", "e", "f"])], chunk_rows=c)["p"] for c in (None, chunk_rows))
    assert whole.equals(cut)


def test_what_is_missing_is_left_out():
    f = pl.DataFrame({"g": ["a", "a", "b", "c"], "x": [1.0, math.nan, None, 2.0], "v": [3.0, 5.0, 7.0, None]})
    table = pooled(f, [{"name": "p", "key": "x", "value": "v", "over": BY_G, "missing": 9.0, "apply": "pool"}])["p"]
    assert table.rows() == [("a", 2, 1.0, 3.0), ("b", 1, 0.0, None), ("c", 1, 2.0, None)]
    zero = pooled(f, [{"name": "p", "key": "x", "value": "v", "clip": [0, 0], "apply": {"pool": "mean"}}])["p"]
    assert zero["v_pooled"].to_list() == [None]


def test_an_infinite_value_is_refused():
    f = pl.DataFrame({"x": [1.0, 2.0], "v": [1.0, math.inf]})
    with pytest.raises(DataError, match="infinite value"):
        pooled(f, [{"name": "p", "key": "x", "value": "v", "apply": "pool"}])


def test_the_largest_numbers_are_not_infinite():
    f = pl.DataFrame({"x": [1.0, 1.0], "v": [1e308, 1e308]})
    rule = {"name": "p", "key": "x", "value": "v", "apply": {"pool": "mean"}, "weight": "softmax"}
    assert pooled(f, [rule])["p"]["v_pooled"].to_list() == [1e308]


def test_over_a_row_a_list_is_pooled_in_place():
    f = pl.DataFrame({"k": [[1.0, 2.0], [], None, [3.0, None]], "v": [[10.0, 20.0], [], None, [5.0, 6.0]]})
    got = attend(f, [{"key": "k", "value": "v", "over": "row", "weight": "proportional", "apply": "pool"}])
    assert got["v_pooled"].to_list() == [pytest.approx(10 / 3 + 40 / 3), None, None, 5.0]
    assert pooled(f, [{"key": "k", "value": "v", "over": "row", "apply": "pool"}]) == {}


def test_an_array_is_multiplied_component_by_component():
    f = pl.DataFrame({"x": [2.0, None, 3.0], "e": pl.Series([[1, 2], [3, 4], None], dtype=pl.Array(pl.Int8, 2))})
    got = attend(f, [{"key": "x", "value": "e"}])
    assert got.schema["e_weighted"] == pl.Array(pl.Float64, 2)
    assert got["e_weighted"].to_list() == [[2.0, 4.0], None, None]
    assert got[1:].equals(attend(f[1:], [{"key": "x", "value": "e"}]))


def test_a_filter_drops_rows_after_all_rules():
    f = pl.DataFrame({"x": [1.0, 3.0, None, math.nan, 5.0]})
    rules = [
        {"key": "x", "apply": {"filter": {"min": 3}}},
        {"name": "n", "key": "x", "weight": {"kind": "linear"}, "apply": "weights"},
    ]
    got = attend(f, rules)
    assert got["x"].to_list() == [3.0, 5.0] and got["x_weighted"].to_list() == [9.0, 25.0]
    assert got["n_weight"].to_list() == [0.5, 1.0]  # among all rows, not only those that stay


def test_a_preview_drops_what_a_run_drops(tmp_path):
    path = job(tmp_path, [0, 200])
    path.write_text(JOB.split("attention:")[0] + "attention: [{key: f, apply: {filter: {min: 1}}}]")
    run(path)
    found = sample(opened(path), 3)
    written = pl.read_parquet(tmp_path / "out" / "0.parquet")
    assert found.whole and found.rows.equals(written[found.rows.columns][:3]) and found.rows.height == 3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"key": ["a", "b"], "apply": {"filter": {"min": 1}}}, "one weight a row"),
        ({"key": ["a", "b"], "apply": "pool"}, "one weight a row"),
        ({"key": "l", "over": "row", "apply": {"filter": {"min": 1}}}, "as many as elements"),
        ({"name": "r", "key": ["a", "b"], "over": "row", "apply": "pool"}, "no pool"),
        ({"key": "l", "value": "ll", "over": "row"}, "cannot be multiplied"),
        ({"key": "a", "apply": {"pool": "median"}}, "sum or mean"),
        ({"key": "a", "apply": {"filter": {}}}, "missing"),
        ({"key": "a", "value": ["b", "b"], "apply": "pool"}, "table would be called 'b_pooled'"),
        ({"key": "a", "apply": "pool", "rename": {"weighted": "rows"}}, "table would be called 'rows'"),
        ({"key": "a", "apply": "pool", "over": {"group": ["rows"]}}, "a column 'rows' of its own"),
        ({"key": "a", "value": "none", "apply": "pool"}, "no components"),
        ({"key": "a", "value": "none"}, "no components"),
    ],
)
def test_what_has_no_meaning_is_refused(wrong, says):
    none = pl.Series([[]], dtype=pl.Array(pl.Float64, 0))
    f = pl.DataFrame({"a": [1.0], "b": [2.0], "l": [[1.0]], "ll": [[[1.0]]], "rows": [1], "none": none})
    with pytest.raises(JobError, match=says):
        attend(f, [wrong])


@pytest.mark.parametrize("name", ["a/b", "../b", "/b", "..", ".b", "a\\b", "a\nb", "b" * 250])
def test_a_table_is_named_as_a_file_can_be(name):
    f = pl.DataFrame({"a": [1.0], "a/b": [2.0]})
    with pytest.raises(JobError, match="name of a file"):
        pooled(f, [{"name": name, "key": "a", "apply": "pool"}])
    with pytest.raises(JobError, match="give the rule a name"):
        pooled(f, [{"key": "a/b", "apply": "pool"}])
    assert f"{name}_weight" in attend(f, [{"name": name, "key": "a"}]).columns


def test_two_tables_of_one_name_are_refused():
    rules = [{"key": ["a"], "apply": "pool"}, {"key": ["a"], "apply": "pool", "rename": {"weight": "w"}}]
    with pytest.raises(JobError, match="a rule above that pools is called 'a' too"):
        pooled(pl.DataFrame({"a": [1.0]}), rules)


JOB = """
name: t
source: {path: in}
sink: {path: out}
attention:
  - {name: routes, key: x, value: [v, e], over: {group: [g]}, weight: softmax, apply: {pool: mean}}
"""


def job(folder, cuts):
    whole = frame(200)
    (folder / "in").mkdir(parents=True)
    for i, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False)):
        whole[a:b].write_parquet(folder / "in" / f"{i}.parquet")
    (folder / "job.yaml").write_text(JOB)
    return folder / "job.yaml"


def test_a_run_publishes_a_table_that_no_cut_into_files_shows(tmp_path):
    one, many = job(tmp_path / "one", [0, 200]), job(tmp_path / "many", [0, 3, 90, 200])
    for path in (one, many):
        run(path)
    tables = [pl.read_parquet(path.parent / "out.pooled" / "routes.parquet") for path in (one, many)]
    assert tables[0].equals(tables[1]) and tables[0].equals(pooled(frame(200), rules_of_the_job())["routes"])
    assert not list((tmp_path / "many" / "out.farol").glob("staging*"))


def rules_of_the_job():
    return [{"name": "routes", "key": "x", "value": ["v", "e"], "over": BY_G, "weight": "softmax",
             "apply": {"pool": "mean"}}]  # fmt: skip


def test_a_table_is_made_again_when_a_batch_changed_or_it_is_gone(tmp_path):
    path = job(tmp_path, [0, 100, 200])
    table = tmp_path / "out.pooled" / "routes.parquet"
    run(path)
    before = pl.read_parquet(table)
    assert run(path).plan.nothing
    table.unlink()
    again = run(path)
    assert again.plan.tables == ("routes",) and again.written == 0 and pl.read_parquet(table).equals(before)
    frame(100, seed=5).write_parquet(tmp_path / "in" / "0.parquet")
    run(path)
    whole = pl.concat([frame(100, seed=5), frame(200)[100:]])
    assert pl.read_parquet(table).equals(pooled(whole, rules_of_the_job())["routes"])


def test_a_job_may_write_tables_and_no_rows(tmp_path):
    path, rows = job(tmp_path / "none", [0, 100, 200]), job(tmp_path / "rows", [0, 100, 200])
    text = JOB.replace("path: out", "path: out, columns: none")
    assert text != JOB
    path.write_text(text + "expect: {source: {rows: {min: 200}}, routes: {null_fraction: {max: 0.2}}}\n")
    outcome, other = run(path), run(rows)
    out = path.parent / "out"
    assert not out.exists() and outcome.rows == 200 and outcome.written == 2
    assert outcome.health["routes_weight"].plain() == other.health["routes_weight"].plain()
    table = pl.read_parquet(path.parent / "out.pooled" / "routes.parquet")
    assert table.equals(pl.read_parquet(rows.parent / "out.pooled" / "routes.parquet"))
    assert (
        run(path).plan.nothing and run(path).health["routes_weight"].plain() == outcome.health["routes_weight"].plain()
    )
    frame(100, seed=5).write_parquet(path.parent / "in" / "0.parquet")
    assert run(path).plan.counts() == {"changed": 1, "depends on the fit": 1}
    whole = pl.concat([frame(100, seed=5), frame(200)[100:]])
    again = pl.read_parquet(path.parent / "out.pooled" / "routes.parquet")
    assert again.equals(pooled(whole, rules_of_the_job())["routes"]) and not out.exists()
    shutil.rmtree(path.parent / "out.farol")  # which costs time, and nothing else
    assert run(path).written == 2 and run(path).plan.nothing

    rows.write_text(text)  # the rows of before have no place in a sink without rows
    with pytest.raises(JobError, match="2 outputs have no input any more"):
        run(rows)
    run(rows, ["sink.gone=remove"])
    assert not list((rows.parent / "out").rglob("*.parquet")) and run(rows).plan.nothing
    rows.write_text(text.replace("{pool: mean}", "weights").replace("value: [v, e], ", ""))
    with pytest.raises(JobError, match="none writes pooled tables alone, and no rule pools"):
        run(rows)


def test_a_table_stands_without_the_work_folder(tmp_path):
    path = job(tmp_path, [0, 100, 200])
    path.write_text(JOB.replace("softmax", "sigmoid"))  # which asks nothing
    run(path)
    shutil.rmtree(tmp_path / "out.farol")
    assert run(path).plan.nothing
    (tmp_path / "out.pooled" / "routes.parquet").unlink()
    assert run(path).plan.tables == ("routes",)


def test_a_table_replaces_nothing_that_is_not_farols(tmp_path):
    path = job(tmp_path, [0, 200])
    table = tmp_path / "out.pooled" / "routes.parquet"
    table.parent.mkdir()
    frame(3).write_parquet(table)
    with pytest.raises(JobError, match="not written by Farol"):
        run(path)
    for entry in ("source.path", "sink.work"):
        with pytest.raises(JobError, match="the tables go to"):
            run(path, [f"{entry}={table.parent}"])
    assert pl.read_parquet(table).equals(frame(3))
    table.rename(tmp_path / "elsewhere")
    table.parent.rmdir()
    table.parent.write_text("a file")
    with pytest.raises(JobError, match="is a file, where the tables go"):
        run(path)


def test_the_sum_of_vectors_is_that_of_its_components():
    g = torch.Generator().manual_seed(0)
    x, ids = torch.randn(1000, 3, dtype=torch.float64, generator=g) * 1e9, torch.randint(0, 7, (1000,), generator=g)
    whole = Sums.of(x, ids, 7)
    spread = whole.spread(torch.tensor([3, 1, 2, 0, 9, 8, 7]), 10)
    for i in range(3):
        part = Sums.of(x[:, i].contiguous(), ids, 7)
        assert torch.equal(whole.value()[:, i], part.value()) and torch.equal(whole.low[:, :, i], part.low)
        assert torch.equal(spread.value()[:, i], part.spread(torch.tensor([3, 1, 2, 0, 9, 8, 7]), 10).value())
    cut = Sums.of(x[:10], ids[:10], 7) + Sums.of(x[10:], ids[10:], 7)
    assert torch.equal(cut.low, whole.low) and torch.equal(cut.high, whole.high)
