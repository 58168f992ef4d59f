"""Files whose columns differ: refused by name, all of them, or read as the job says."""

import datetime as dt
from itertools import permutations

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_run import Folder, bits

from attention_core.batches import Batch
from attention_core.errors import DataError, JobError
from attention_core.run import opened
from attention_core.source import wider, widest

RULE = {"key": "x", "score": {"kind": "threshold", "above": 1}, "weight": "step", "apply": "weights"}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def put(folder, **columns):
    for name, frame in columns.items():
        folder.put(f"{name}.parquet", pl.DataFrame(frame))


def test_every_difference_is_said_before_anything_is_read(folder, monkeypatch):
    folder.job(RULE)
    put(folder, a={"x": [1], "t": [dt.datetime(2024, 1, 1)]}, b={"x": [1.5], "t": [dt.datetime(2024, 1, 1)]})
    put(folder, c={"x": [1], "y": [2]})
    zoned = pl.DataFrame({"x": [1], "t": [dt.datetime(2024, 1, 1)]}).with_columns(
        pl.col("t").dt.replace_time_zone("UTC")
    )
    folder.put("d.parquet", zoned)
    monkeypatch.setattr(Batch, "read", None)
    with pytest.raises(JobError) as refused:
        folder.run()
    said = str(refused.value)
    assert "b.parquet has 'x' as Float64, not Int64" in said
    assert "c.parquet lacks 't', has 'y' besides" in said
    assert "d.parquet has 't' as Datetime(time_unit='us', time_zone='UTC'), not Datetime(time_unit='us'" in said
    assert "would take them" not in said and not (folder.path / "out").exists()
    with pytest.raises(JobError, match="d.parquet has 't'"):
        folder.run("source.drift=fill")


def test_the_error_names_the_drift_that_would_do(folder):
    folder.job(RULE)
    put(folder, a={"x": [1]}, b={"x": [1.5]})
    with pytest.raises(JobError, match="source.drift: widen would take them as they are"):
        folder.run()
    put(folder, c={"x": [1.5], "y": [1]})
    with pytest.raises(JobError, match="c.parquet has 'y' besides; source.drift: fill would take"):
        folder.run("source.drift=widen")


def test_columns_in_any_order_are_no_drift(folder):
    folder.job(RULE)
    put(folder, a={"x": [1], "y": [2]}, b={"y": [3], "x": [4]})
    folder.run()
    assert folder.rows("b.parquet").to_dicts() == [{"x": 4, "y": 3, "x_weight": 2.0}]


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (pl.Int8, pl.Int32, pl.Int32),
        (pl.UInt8, pl.Int8, pl.Int16),
        (pl.Int64, pl.Float64, pl.Float64),
        (pl.Float32, pl.Float64, pl.Float64),
        (pl.Null, pl.String, pl.String),
        (pl.Int64, pl.String, None),
        (pl.Boolean, pl.Int64, None),
        (pl.Date, pl.Datetime, None),
        (pl.UInt64, pl.Int64, None),
    ],
)
def test_the_type_that_holds_both(a, b, both):
    assert wider(a(), b()) == wider(b(), a()) == both


def test_the_widest_does_not_depend_on_the_order():
    every = [pl.Int8(), pl.UInt8(), pl.UInt16(), pl.Float32(), pl.Null()]
    assert {str(widest(order)) for order in permutations(every)} == {"Float64"}
    assert widest([pl.Int8(), pl.String()]) is None


def test_numbers_are_widened_and_written_so(folder):
    folder.job(RULE, source={"drift": "widen"})
    folder.put(
        "a.parquet", pl.DataFrame({"x": [1, 2, None], "n": [None, None, None]}, schema={"x": pl.Int32, "n": pl.Null})
    )
    folder.put("b.parquet", pl.DataFrame({"x": [0.5, float("nan"), None], "n": ["a", None, "c"]}))
    folder.run()
    a, b = folder.rows(), folder.rows("b.parquet")
    assert a.schema == b.schema == {"x": pl.Float64, "n": pl.String, "x_weight": pl.Float64}
    assert a["x"].to_list() == [1.0, 2.0, None] and a["x_weight"].to_list() == [1, 2, None]
    assert pl.scan_parquet(folder.path / "out").collect().height == 6
    assert folder.run().plan.nothing


def test_a_number_that_the_common_type_does_not_hold_is_refused(folder):
    folder.job(RULE, source={"drift": "widen"})
    put(folder, a={"x": [1, 2**53 + 1]}, b={"x": [0.5]})
    with pytest.raises(
        DataError, match=r"a.parquet.*column 'x' has 9007199254740993, which Float64 does not hold exactly"
    ):
        folder.run()
    put(folder, a={"x": [1, 2**53]})
    assert folder.run().written == 2


def test_what_a_file_lacks_is_null_there(folder):
    rule = {**RULE, "missing": 0.5}
    folder.job(rule, {"name": "y", "key": "y", "weight": "proportional", "apply": "weights"}, source={"drift": "fill"})
    put(folder, a={"id": [1, 2], "y": [1.0, 3.0]}, b={"id": [3], "x": [2.0], "y": [4.0]})
    folder.run()
    assert folder.rows().to_dict(as_series=False) == {
        "id": [1, 2], "y": [1.0, 3.0], "x": [None, None], "x_weight": [0.5, 0.5], "y_weight": [0.125, 0.375],
    }  # fmt: skip
    assert folder.rows("b.parquet").columns == ["id", "y", "x", "x_weight", "y_weight"]
    assert pl.scan_parquet(folder.path / "out").collect().height == 3


def test_a_wider_file_that_comes_later_rewrites_what_is_there(folder):
    folder.job(RULE, source={"drift": "widen"})
    put(folder, a={"x": [1, 2]})
    folder.run()
    put(folder, b={"x": [0.5]})
    assert opened(folder.path / "job.yaml").plan().counts() == {"changed": 1, "new": 1}
    folder.run()
    assert folder.rows().schema["x"] == pl.Float64
    whole = bits(folder.path / "out")
    folder.run("sink.path=" + str(folder.path / "fresh"))
    assert bits(folder.path / "fresh") == whole


def test_other_columns_keep_their_arrow_types(folder):
    folder.job(RULE, source={"drift": "widen"})
    schema = pa.schema([pa.field("s", pa.string(), False, {"k": "v"}), pa.field("x", pa.int32(), False)], {"file": "a"})
    path = folder.put("a.parquet", [0])
    pq.write_table(pa.table({"s": ["a"], "x": [1]}, schema=schema), path)
    folder.put("b.parquet", pl.DataFrame({"s": ["b"], "x": [0.5]}))
    folder.run()
    out = pq.read_schema(folder.path / "out/a.parquet")
    assert out.field("s").equals(schema.field("s"), check_metadata=True) and out.field("x").type == pa.float64()
    assert out.metadata[b"file"] == b"a"


def test_a_folders_own_column_may_drift_too(folder):
    folder.job({**RULE, "key": "y"}, source={"drift": "fill"})
    folder.put("d=1/a.parquet", pl.DataFrame({"y": [1], "d": [7]}))
    folder.put("d=2/a.parquet", pl.DataFrame({"y": [1.5], "d": [7.5]}))
    folder.put("d=3/a.parquet", pl.DataFrame({"y": [1.5]}))
    folder.run()
    assert folder.rows("d=1/a.parquet").to_dicts() == [{"y": 1.0, "d": 7.0, "y_weight": 1.0}]
    assert folder.rows("d=3/a.parquet").to_dicts() == [{"y": 1.5, "d": None, "y_weight": 2.0}]


def test_every_file_that_does_not_open_is_named(folder):
    folder.job(RULE)
    put(folder, a={"x": [1]}, c={"x": [1]})
    for name in ("b", "d"):
        (folder.path / f"in/{name}.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError) as refused:
        folder.run()
    assert [line.split(": ")[0][-9:] for line in str(refused.value).splitlines()] == ["b.parquet", "d.parquet"]
