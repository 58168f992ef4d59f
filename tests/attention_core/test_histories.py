"""A night after another: what an incremental run ends with is what a fresh one would, whatever changed in between."""

import json

import polars as pl
import pytest
from test_run import DOUBLE, SOFTMAX, Folder, bits, farol, frame
from test_states import fresh

from attention_core.attention import attend
from attention_core.batches import Batch
from attention_core.errors import JobError
from attention_core.run import execute, opened

W = {"apply": "weights"}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def same_as_fresh(folder):
    folder.run()
    assert bits(folder.path / "out") == fresh(folder)


@pytest.mark.parametrize("over", ["dataset", {"group": ["g"]}])
def test_a_window_that_rolls_under_a_top_k_of_equals(folder, over):
    cut = {"name": "a", "key": "x", "over": over, "score": {"kind": "top_k", "k": 16}, **W}
    on = {"name": "b", "score": {"kind": "expression", "sql": "a_weight * y"}, "weight": "proportional", **W}
    grouped = {"name": "c", "key": "y", "over": {"group": ["a_weight"]}, "weight": "proportional", **W}
    folder.job(cut, on, grouped, sink={"gone": "remove"})

    def put(i):
        folder.put(
            f"{i}.parquet", pl.DataFrame({"x": [1.0] * 10, "y": [10.0 * i + j for j in range(10)], "g": ["a"] * 10})
        )

    for i in range(4):
        put(i)
    folder.run()
    (folder.path / "in/0.parquet").unlink()
    put(4)
    same_as_fresh(folder)


@pytest.mark.parametrize(
    ("was", "now", "above"),
    [
        ({"key": "x", "value": "y"}, {"key": "x", "value": "z"}, {"rename": {"weighted": "v"}}),
        (
            {"apply": {"pool": "sum"}},
            {"apply": {"pool": "mean"}},
            {"key": "l", "over": "row", "rename": {"weighted": "v"}},
        ),
    ],
)
def test_another_value_of_a_rule_above_is_another_answer(folder, was, now, above):
    on = {"name": "b", "key": "v", "score": "zscore", **W}
    folder.put("a.parquet", pl.DataFrame({"x": [1.0, 2.0], "y": [3.0, 9.0], "z": [5.0, 1.0], "l": [[1.0, 2.0], [5.0]]}))
    folder.job({"name": "a", **above, **was}, on).run()
    folder.job({"name": "a", **above, **now}, on)
    same_as_fresh(folder)
    folder.job({"name": "a", **above, **was}, on, statistics="frozen")
    with pytest.raises(JobError, match="of other rules"):
        folder.run()


def test_whether_folders_are_columns_is_part_of_what_is_done(folder):
    folder.job({"key": "p", "score": "zscore", **W}, {"name": "raw", "key": "p", **W})
    for i in range(2):
        folder.put(f"p={i}/{i}.parquet", pl.DataFrame({"p": [7 + i, 9 + i]}))
    folder.run()
    folder.job({"key": "p", "score": "zscore", **W}, {"name": "raw", "key": "p", **W}, source={"hive": False})
    same_as_fresh(folder)


def test_a_folder_that_makes_texts_of_numbers_changes_all(folder):
    rule = {
        "name": "b",
        "score": {"kind": "expression", "sql": "CASE WHEN CAST(p AS VARCHAR) = '01' THEN 5 ELSE 1 END"},
        **W,
    }
    folder.job(rule)
    for p in ("01", "2"):
        folder.put(f"p={p}/0.parquet", [1.0])
    folder.run()
    folder.put("p=x/0.parquet", [1.0])
    same_as_fresh(folder)
    assert folder.rows("p=01/0.parquet")["b_weight"].to_list() == [5]


@pytest.mark.parametrize("dtype", [pl.Datetime("ns"), pl.Duration("ns"), pl.Time])
def test_a_nanosecond_makes_another_value(folder, dtype):
    folder.job({"name": "b", "key": "t", "score": "rarity", **W})

    def put(name, *times):
        folder.put(f"{name}.parquet", pl.DataFrame({"t": pl.Series(times, dtype=pl.Int64).cast(dtype)}))

    put("a", 1001)
    put("b", 1000, 1000)
    folder.run()
    put("b", 1001, 1002)
    same_as_fresh(folder)


def test_all_outputs_have_their_columns_in_one_order(folder):
    folder.job(DOUBLE)
    for i in (1, 2):
        folder.put(f"{i}.parquet", pl.DataFrame({"x": [1.0], "y": [2.0]}))
    folder.run()
    folder.put("0.parquet", pl.DataFrame({"y": [2.0], "x": [1.0]}))
    same_as_fresh(folder)


def test_what_another_run_published_since_this_was_opened_is_seen(folder):
    folder.job(SOFTMAX, sink={"gone": "remove"})
    for i in range(2):
        folder.put(f"{i}.parquet", frame(20, i))
    folder.run()
    folder.put("1.parquet", frame(20, 7))
    late = opened(folder.path / "job.yaml")
    plan = late.plan()
    folder.put("2.parquet", frame(20, 2))
    folder.run()
    execute(late, plan=plan)
    assert sorted(folder.held()) == ["0.parquet", "1.parquet", "2.parquet"]
    same_as_fresh(folder)


@pytest.mark.parametrize("gone", [True, False])
def test_what_somebody_puts_into_the_sink_meanwhile_is_not_lost(folder, monkeypatch, gone):
    folder.job(sink={"gone": "remove"}).put("a.parquet", [1, 6])
    folder.run()
    folder.put("b.parquet", [2])
    mine = folder.path / "out" / ("mine.parquet" if gone else "b.parquet")
    read = Batch.read

    def puts(self, columns, rows, threads=1):
        frame(3).write_parquet(mine)
        return read(self, columns, rows, threads)

    monkeypatch.setattr(Batch, "read", puts)
    if gone:
        folder.run()  # it was not there when this was planned
    else:
        with pytest.raises(JobError, match="b.parquet was not written by Farol, and would be lost"):
            folder.run()
    assert pl.read_parquet(mine).equals(frame(3))


def test_frozen_after_a_publish_that_was_cut_short(folder, monkeypatch):
    folder.job(SOFTMAX)
    for i in range(2):
        folder.put(f"{i}.parquet", frame(20, i))
    folder.run()
    folder.put("0.parquet", frame(20, 9))
    moved = []

    def cut(*pair):
        if moved:
            raise KeyboardInterrupt
        moved.append(pair)
        pair[0].rename(pair[1])

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("attention_core.publish._moved", cut)
        folder.run()
    assert (folder.path / "out.farol/journal.json").exists()
    folder.job(SOFTMAX, statistics="frozen")
    folder.put("2.parquet", frame(20, 2))
    folder.run()
    assert folder.rows("2.parquet").equals(attend(frame(20, 2), [SOFTMAX], folder.path / "out"))
    said = json.loads((folder.path / "out.farol/published.json").read_text())
    assert farol(folder.path / "out/0.parquet")["statistics"] == said["statistics"]["0.parquet"]


@pytest.mark.parametrize("how", [{}, {"fit": "n > 9"}, {"over": {"group": ["n"]}}])
def test_vectors_of_which_nobody_knows_the_length(folder, how):
    rule = {"key": "v", "score": {"kind": "cosine", "query": "centroid", "standardise": True}, **how, **W}
    folder.job(rule)
    rows = pl.DataFrame({"n": [1, 2], "v": [None, None]}, schema={"n": pl.Int64, "v": pl.List(pl.Float64)})
    folder.put("a.parquet", rows)
    folder.run()
    assert folder.rows()["v_weight"].to_list() == [None, None]
    assert attend(rows, [rule], folder.path / "out")["v_weight"].to_list() == [None, None]
