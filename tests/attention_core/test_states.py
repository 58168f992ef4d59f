"""What batches answered is kept: a night costs its own batches, and no kept state ever shows in the rows."""

from contextlib import contextmanager

import polars as pl
import pytest
import torch
from test_run import EVERY, GROUPS, SOFTMAX, Folder, bits, frame
from test_statistics import rules_of, with_weight

from attention_core import run as runs
from attention_core.batches import Batch
from attention_core.job import SCORES, WEIGHTS
from attention_core.outputs import Outputs
from attention_core.questions import Count, Counts, Pair, Sum, both
from attention_core.run import opened
from attention_core.states import States
from attention_core.sums import Sums

IN_GROUP = {**GROUPS, "apply": "weights"}


@contextmanager
def reads():
    """The batches whose key columns are read, as often as they are asked; rows are written with all columns here."""
    seen, read, passing, kept = [], Batch.read, Outputs.passing, runs.KEPT

    def counted(self, columns, rows, threads=1):
        if columns is not None:
            seen.append(self.name)
        return read(self, columns, rows, threads)

    Batch.read, Outputs.passing, runs.KEPT = counted, lambda self: [], 0
    try:
        yield seen
    finally:
        Batch.read, Outputs.passing, runs.KEPT = read, passing, kept


def in_group(g, seed=0, n=30):
    return frame(n, seed).with_columns(g=pl.lit(g, dtype=pl.String))


def fresh(folder, sink="fresh"):
    """The bits of a run that knows nothing of those before it."""
    folder.run(f"sink.path={folder.path / sink}")
    return bits(folder.path / sink)


def test_a_first_question_costs_the_new_batches_only(tmp_path):
    def far(seed):
        return frame(30, seed).with_columns(pl.col("x") + 100)  # two passes

    folder = Folder(tmp_path).job({"key": "x", "score": "zscore", "apply": "weights"})
    for i in range(3):
        folder.put(f"{i}.parquet", far(i))
    with reads() as seen:
        folder.run()
    assert sorted(seen) == sorted(["0.parquet", "1.parquet", "2.parquet"] * 2)
    folder.put("3.parquet", far(3))
    with reads() as seen:
        folder.run()
    # the mean moved, so that squares about it are asked of all
    assert sorted(seen) == ["0.parquet", "1.parquet", "2.parquet", "3.parquet", "3.parquet"]
    assert bits(tmp_path / "out") == fresh(folder)
    (tmp_path / "out/3.parquet").unlink()
    with reads() as seen:
        assert folder.run().written == 1
    assert seen == []


def test_one_pass_of_zscore_costs_the_new_batches_only_though_the_mean_moved(tmp_path):
    folder = Folder(tmp_path).job({"key": "x", "score": "zscore", "apply": "weights"})
    folder.put("0.parquet", frame(30, 0))
    folder.run()
    folder.put("1.parquet", frame(30, 1))
    with reads() as seen:
        assert folder.run().written == 2
    assert seen == ["1.parquet"] and bits(tmp_path / "out") == fresh(folder)


def test_a_group_that_is_in_no_new_batch_costs_nothing(tmp_path):
    folder = Folder(tmp_path).job(IN_GROUP)
    folder.put("1.parquet", in_group("a", 1))
    folder.put("2.parquet", in_group("b", 2))
    folder.run()
    before = folder.held()
    folder.put("0.parquet", in_group("c", 3))  # before the others: their places in the order move
    folder.put("3.parquet", in_group("b", 4))
    with reads() as seen:
        assert folder.run().written == 3
    assert "1.parquet" not in seen and folder.written(before) == ["0.parquet", "2.parquet", "3.parquet"]
    assert bits(tmp_path / "out") == fresh(folder)


def test_the_first_of_many_may_go_each_night(tmp_path):
    tied = {"key": "h", "over": {"group": ["g"]}, "score": {"kind": "top_k", "k": 5}, "apply": "weights"}
    folder = Folder(tmp_path).job(tied, sink={"gone": "remove"})
    for i, g in enumerate("abb"):
        folder.put(f"{i}.parquet", in_group(g, i))
    folder.run()
    before = folder.held()
    (tmp_path / "in/0.parquet").unlink()
    folder.run()
    assert folder.written(before) == [] and bits(tmp_path / "out") == fresh(folder)


def apart(rules, name):
    return [{**rule, "name": f"{name} {rule['name']}"} for rule in rules]


@pytest.mark.parametrize(
    "rules",
    [EVERY, sum((apart(rules_of(s), s) for s in SCORES), []), sum((apart(with_weight(w), w) for w in WEIGHTS), [])],
    ids=["on each other", "scores", "weights"],
)
def test_no_kept_state_shows(tmp_path, rules):
    folder = Folder(tmp_path).job(*rules, sink={"gone": "remove"})
    for i in range(4):
        folder.put(f"{i}.parquet", frame(40, i))
    folder.run()
    folder.put("00.parquet", frame(25, 7))
    folder.put("2.parquet", frame(30, 8))
    (tmp_path / "in/1.parquet").unlink()
    folder.run()
    assert bits(tmp_path / "out") == fresh(folder)


def test_a_state_that_is_not_whole_is_none(tmp_path):
    folder = Folder(tmp_path).job(SOFTMAX, IN_GROUP)
    for i in range(2):
        folder.put(f"{i}.parquet", frame(30, i))
    folder.run()
    whole = bits(tmp_path / "out")
    kept = sorted((tmp_path / "out.farol/states").iterdir())
    assert len(kept) > 8
    for i, file in enumerate(kept):
        read = file.read_bytes()
        file.write_bytes(
            [b"", read[:-1], read[:40], bytes(len(read)), read[:20] + bytes([read[20] ^ 1]) + read[21:]][i % 5]
        )
    for name in ("0.parquet", "1.parquet"):
        (tmp_path / "out" / name).unlink()
    assert folder.run().written == 2 and bits(tmp_path / "out") == whole
    assert sorted((tmp_path / "out.farol/states").iterdir()) == kept


def test_what_is_not_used_is_forgotten(tmp_path):
    folder = Folder(tmp_path).job(SOFTMAX)
    folder.put("a.parquet", frame(30, 1))
    folder.run()
    kept = {p.name for p in (tmp_path / "out.farol/states").iterdir()}
    folder.job({**SOFTMAX, "weight": {"kind": "softmax", "temperature": 9}})
    folder.run()
    now = {p.name for p in (tmp_path / "out.farol/states").iterdir()}
    assert kept and now and not kept & now


def test_other_columns_and_other_places_are_other_answers(tmp_path):
    """The same bytes in another folder are another batch: its folders are columns."""
    rule = {"name": "m", "key": "day", "over": {"group": ["g"]}, "weight": "linear", "apply": "weights"}
    folder = Folder(tmp_path).job(rule, sink={"gone": "remove"})
    folder.put("day=1/a.parquet", in_group("a"))
    folder.put("day=2/a.parquet", in_group("a"))
    folder.run()
    (tmp_path / "in/day=2").rename(tmp_path / "in/day=3")
    folder.run()
    assert bits(tmp_path / "out") == fresh(folder)


def test_a_large_state_is_not_kept(tmp_path):
    states = States(tmp_path)
    many = Counts(torch.zeros(1 << 16, dtype=torch.int64))
    states.put("large", many, 1 << 21)
    states.put("small", many, 1 << 23)
    assert states.get("large", Count()) is None and torch.equal(states.get("small", Count()).n, many.n)


def test_a_state_is_read_as_it_was(tmp_path):
    states, sums = States(tmp_path), Sums.of(torch.randn(50, dtype=torch.float64), None, 1)
    states.put("s", Pair(Counts(torch.tensor([50])), sums), 0)
    again = states.get("s", both(Count(), Sum())).second
    assert all(torch.equal(getattr(sums, n), getattr(again, n)) for n in ("top", "low", "high"))
    keys = pl.DataFrame({"g": ["a", None], "f": [float("nan"), -0.0]})
    states.put("k", keys, 0)
    assert states.get("k").equals(keys) and states.get("none") is None
    states.forget({"k", "none"})
    assert [f.name for f in tmp_path.iterdir()] == ["k"]


def test_a_state_under_another_name_is_none(tmp_path):
    states = States(tmp_path)
    states.put("a", Counts(torch.tensor([1])), 0)
    (tmp_path / "a").rename(tmp_path / "b")
    assert states.get("b", Count()) is None


def test_nothing_is_kept_of_a_frame():
    assert States().get("a") is None and States().put("a", Counts(torch.zeros(1)), 0) is None


def test_a_plan_reads_no_state(tmp_path):
    folder = Folder(tmp_path).job(SOFTMAX)
    folder.put("a.parquet", frame(30, 1))
    opened(tmp_path / "job.yaml").plan()
    assert not (tmp_path / "out.farol").exists()
