"""How far a run is: counted, as a share of the whole, and in a line at intervals."""

import time

import polars as pl
import pytest

from attention_core.batches import Batch
from flows import progress
from flows.progress import Pace, every, lines


def test_the_share_grows_from_nothing_to_all(tmp_path):
    pl.DataFrame({"x": range(100)}).write_parquet(tmp_path / "a.parquet")
    pace = Pace([Batch(tmp_path / "a.parquet", "a.parquet")], passes=1)
    shares = [pace.share()]
    for what in ("hash", "fit, pass 1", "apply", "pool, step 1"):
        pace.begin(what, 1)
        shares.append(pace.share())
        for _ in range(4):  # a single batch moves by its rows
            pace.rows(25)
            shares.append(pace.share())
        pace.batch("a.parquet")
        shares.append(pace.share())
    assert shares[0] == 0 and shares[-1] == 1
    assert all(0 <= share <= 1 for share in shares)
    before_the_pool = shares[:-6]
    assert before_the_pool == sorted(before_the_pool) and len(set(before_the_pool)) > 12


def test_steps_over_nothing_are_done():
    pace = Pace()
    for what in ("hash", "apply"):
        pace.begin(what, 0)
    assert pace.share() == 1


def test_the_line():
    pace = Pace()
    pace.begin("fit, pass 1", 12)
    assert pace.line() == "fit, pass 1: 0 of 12 batches"
    pace.rows(1_000_000)
    pace.batch("a")
    pace.began = time.monotonic() - 2
    said, speed = pace.line().split(", ", 2)[1:]
    assert said == "pass 1: 1 of 12 batches" and speed.endswith(" rows/s")
    assert 450_000 < int(speed.split()[0].replace(",", "")) <= 500_000


def test_lines_are_said_at_intervals_while_it_moves(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_A_LINE", 0.1)
    with lines() as watch:
        time.sleep(0.25)
        watch.begin("apply", 2)
        watch.rows(10)
        time.sleep(0.5)
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("apply: 0 of 2 batches, ") and said.err.count("\n") == 1


def test_telling_ends_with_the_block_also_where_it_fails():
    told = []
    with pytest.raises(ZeroDivisionError), every(0.05, lambda: told.append(1)):
        time.sleep(0.3)
        raise ZeroDivisionError
    after = len(told)
    assert after
    time.sleep(0.2)
    assert len(told) == after
