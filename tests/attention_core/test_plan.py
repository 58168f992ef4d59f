"""A plan: what it says of each batch, what it takes, and that it neither reads rows nor writes."""

import os

import polars as pl
import pytest
from test_run import SOFTMAX, Folder, frame

from attention_core.batches import Batch
from attention_core.plan import IN_FLIGHT
from attention_core.run import opened


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def plan(folder, *overrides):
    return opened(folder.path / "job.yaml", overrides).plan()


def test_it_reads_no_rows_and_writes_nothing(folder, monkeypatch):
    folder.job(SOFTMAX).put("a.parquet", frame(10))
    folder.run()
    folder.put("b.parquet", frame(10))
    before = {f: f.stat().st_mtime_ns for f in folder.path.rglob("*")}
    monkeypatch.setattr(Batch, "read", None)
    monkeypatch.setattr("attention_core.ledger.Fingerprint.hashed", None)
    assert plan(folder).counts() == {"depends on the fit": 1, "new": 1}
    assert {f: f.stat().st_mtime_ns for f in folder.path.rglob("*")} == before


def test_a_batch_that_was_renamed_is_one_gone_and_one_new_and_it_says_so(folder):
    folder.job().put("a.parquet", [1, 6])
    folder.put("b.parquet", [1, 2, 3])
    folder.run()
    os.rename(folder.path / "in/a.parquet", folder.path / "in/c.parquet")
    found = plan(folder)
    assert found.gone == ("a.parquet",)
    assert [(e.name, e.status, e.why) for e in found.entries] == [
        ("b.parquet", "done", ""), ("c.parquet", "new", "perhaps a.parquet, renamed")]  # fmt: skip


def test_the_estimate(folder):
    folder.job(SOFTMAX, workers=1)
    paths = [folder.put(f"{i}.parquet", frame(1000, i)) for i in range(3)]
    found = plan(folder).estimate
    size = sum(path.stat().st_size for path in paths)
    assert found.rows == 3000 and found.seconds is None and found.memory > 100 << 20
    assert found.staged == size + 3000 * 8  # one weight column
    outcome = folder.run()
    held = sum(f.stat().st_size for f in (folder.path / "out").rglob("*.parquet"))
    assert held / 2 < found.staged < held * 2
    assert plan(folder).estimate is not None and plan(folder).estimate.rows == 0
    folder.put("3.parquet", frame(500, 3))
    found = plan(folder).estimate  # all, since the mean moves
    assert found.rows == 3500 and found.seconds == pytest.approx(3500 / (3000 / outcome.seconds))
    keys = size + (folder.path / "in/3.parquet").stat().st_size
    assert keys < found.read < 3 * keys  # two columns of five, in four passes


def test_what_reads_nothing_and_writes_no_rows_is_estimated_too(folder):
    folder.job({"key": "x", "apply": "weights"}, sink={"columns": "added"}).put("a.parquet", [1, 6])
    path = folder.path / "in/a.parquet"
    found = plan(folder).estimate
    assert (found.rows, found.read) == (2, path.stat().st_size)
    folder.put("a.parquet", pl.DataFrame({"x": pl.Series([], dtype=pl.Float64)}))
    assert plan(folder).estimate.rows == 0


def test_columns_that_are_copied_take_no_memory_to_speak_of(folder):
    frame = pl.DataFrame({f"c{i}": range(1000) for i in range(50)})
    folder.job({"key": "c0", "score": "zscore"}).put("a.parquet", frame)
    copied = plan(folder, "workers=1").estimate.memory
    decoded = plan(folder, "workers=1", "sink.compression=gzip").estimate.memory
    assert decoded - copied == pytest.approx(IN_FLIGHT * 49 * 8000, rel=0.3)
