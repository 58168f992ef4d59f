"""Batches in and out: which files there are, in which order, what folders say, and columns that stay as they were."""

import datetime as dt
import decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attention_core import batches
from attention_core.batches import Batch
from attention_core.errors import DataError, JobError
from attention_core.search import find, natural


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(*paths, hive="auto"):
    return [b.name for b in find([str(p) for p in paths], hive)]


def copied(path, target, **how):
    """Reads a file and writes it as a run does, with one more column."""
    batch = Batch(path, path.name)
    schema = {**batch.own(), "w": pl.Float64()}
    frames = (chunk.with_columns(w=pl.lit(1.0)) for _, chunk in batch.read(None, how.pop("rows", 2)))
    compression, added = how.pop("compression", "zstd"), batches.breadth({"w": pl.Float64()})
    batches.write(frames, schema, target, batch, compression, lambda: {"farol": "{}"}, added=added)
    return pq.read_table(target)


# Which files


def test_numbers_in_names_are_compared_as_numbers(tmp_path):
    wanted = ["1.parquet", "2.parquet", "10.parquet", "a/2b.parquet", "a/10a.parquet", "b1²3.parquet",
              "month=01/x.parquet", "month=2/x.parquet", "month=10/x.parquet"]  # fmt: skip
    touch(tmp_path, *reversed(wanted))
    assert names(tmp_path) == wanted
    assert natural("a02") != natural("a2") and sorted(["a2", "a02"], key=natural) == ["a02", "a2"]


def test_a_folder_is_searched_but_for_farols_own(tmp_path):
    touch(tmp_path, "a.parquet", "d/b.parquet", "out.farol/staging/c.parquet", "d/x.farol/e.parquet", "note.txt",
          "f.farol.parquet", "g.parquet/part.parquet")  # fmt: skip
    assert names(tmp_path) == ["a.parquet", "d/b.parquet", "f.farol.parquet", "g.parquet/part.parquet"]
    assert "out.farol" not in " ".join(names(f"{tmp_path}/**/*.parquet"))
    assert names(tmp_path / "out.farol") == ["staging/c.parquet"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("in/*.parquet", ["1.parquet", "2.parquet"]),
        ("in/?.pq", ["3.pq"]),
        ("in/**/*.parquet", ["1.parquet", "2.parquet", "deep/4.parquet"]),
        ("in/[2-9].*", ["2.parquet", "3.pq"]),
        ("i*/deep/*", ["in/deep/4.parquet"]),
        ("in/d*/4.parquet", ["deep/4.parquet"]),
    ],
)
def test_globs_are_named_from_their_first_wildcard(tmp_path, pattern, found):
    touch(tmp_path, "in/1.parquet", "in/2.parquet", "in/3.pq", "in/deep/4.parquet")
    assert names(tmp_path / pattern) == found


def test_a_name_that_looks_like_a_glob_is_the_file_itself(tmp_path):
    touch(tmp_path, "a[1].parquet", "a1.parquet", "b*/c.parquet")
    assert names(tmp_path / "a[1].parquet") == ["a[1].parquet"]
    assert names(tmp_path / "b*") == ["c.parquet"]


def test_two_batches_of_one_name_are_refused(tmp_path):
    touch(tmp_path, "a/x.parquet", "b/x.parquet", "b/y.parquet")
    assert names(tmp_path / "a/x.parquet", tmp_path / "b/y.parquet") == ["x.parquet", "y.parquet"]
    with pytest.raises(JobError, match="would both be written to x.parquet"):
        names(tmp_path / "a", tmp_path / "b")


# What folders say


@pytest.mark.parametrize(
    ("folders", "dtype", "values"),
    [
        (["01", "2", "-3"], pl.Int64, [-3, 1, 2]),
        (["2024-01-31", "2023-12-01"], pl.Date, [dt.date(2023, 12, 1), dt.date(2024, 1, 31)]),
        (["2024-01-31", "20240131"], pl.String, ["2024-01-31", "20240131"]),
        (["20240131", "2024-W05-3"], pl.String, ["2024-W05-3", "20240131"]),
        (["1", "a"], pl.String, ["1", "a"]),
        (["1_0", "10"], pl.String, ["10", "1_0"]),
        (["１", "2"], pl.String, ["2", "１"]),
        (["9223372036854775807"], pl.Int64, [2**63 - 1]),
        (["9223372036854775808"], pl.String, ["9223372036854775808"]),
        (["a%2Fb%20c", "%C3%A9", "x=y"], pl.String, ["a/b c", "x=y", "é"]),
        (["1", "__HIVE_DEFAULT_PARTITION__"], pl.Int64, [1, None]),
        (["a", "__HIVE_DEFAULT_PARTITION__"], pl.String, ["a", None]),
    ],
)
def test_partition_columns(tmp_path, folders, dtype, values):
    for folder in folders:
        path = tmp_path / f"p={folder}/a.parquet"
        path.parent.mkdir()
        pl.DataFrame({"x": [1, 2]}).write_parquet(path)
    found = find([str(tmp_path)])
    read = pl.concat([chunk for b in found for _, chunk in b.read(None, 10)])
    assert read.schema == {"x": pl.Int64, "p": dtype} and read.height == 2 * len(folders)
    assert sorted(set(read["p"]), key=lambda v: (v is None, v)) == values
    assert [(c.height, c["p"][0] in values) for _, c in found[0].read(["p"], 10)] == [(2, True)]


def test_folders_say_nothing_where_they_are_not_asked(tmp_path):
    touch(tmp_path, "p=1/a.parquet", "p/b.parquet", "=1/c.parquet", "d=1.parquet")
    assert [dict(b.partitions) for b in find([str(tmp_path)], hive=False)] == [{}] * 4
    assert {b.name: dict(b.partitions) for b in find([str(tmp_path)])} == {
        "p=1/a.parquet": {"p": 1},
        "p/b.parquet": {},
        "=1/c.parquet": {},
        "d=1.parquet": {},
    }


def test_a_files_own_copy_is_read_beside_what_its_folder_says(tmp_path):
    (tmp_path / "p=7").mkdir()
    pl.DataFrame({"p": ["own"], "x": [1]}).write_parquet(tmp_path / "p=7/a.parquet")
    (batch,) = find([str(tmp_path)])
    ((_, every),) = batch.read(None, 10)
    assert every["p"].to_list() == [7] and every[batches.in_file("p")].to_list() == ["own"]
    ((_, some),) = batch.read(["p", "x"], 10)
    assert some.rows() == [(1, 7)]


# In chunks


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_chunks_are_no_larger_than_asked_and_say_where_they_start(tmp_path, rows):
    pl.DataFrame({"x": range(20)}).write_parquet(tmp_path / "a.parquet", row_group_size=6)
    chunks = list(Batch(tmp_path / "a.parquet", "a").read(None, rows))
    assert [v for _, c in chunks for v in c["x"]] == list(range(20))
    assert all(0 < c.height <= rows and c["x"][0] == start for start, c in chunks)


def test_rows_are_counted_by_row_groups(tmp_path):
    pl.DataFrame({"x": range(20)}).write_parquet(tmp_path / "a.parquet", row_group_size=6)
    assert Batch(tmp_path / "a.parquet", "a").rows() == 20


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_what_is_no_parquet_is_named(tmp_path, content):
    batch = Batch(tmp_path / "a.parquet", "a")
    batch.path.write_bytes(content)
    for look in (batch.own, batch.rows, batch.arrow_schema, batch.row_group_rows, lambda: list(batch.read(None, 5))):
        with pytest.raises(DataError, match="a.parquet: cannot be read: ") as error:
            look()
        assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    batch = Batch(tmp_path / "a.parquet", "a")
    for look in (batch.own, batch.rows, batch.arrow_schema, batch.row_group_rows):
        with pytest.raises(DataError, match="a.parquet: cannot be read: "):
            look()


# Files that stay as they were

D, T = decimal.Decimal, dt.datetime(2020, 1, 2, 3, 4, 5)
TIMES = [(pa.timestamp(u, zone), [T, None, T]) for u in ("ms", "us", "ns") for zone in (None, "UTC", "Europe/Lisbon")]
TYPES = [
    (pa.string(), ["a", None, ""]),
    (pa.large_string(), ["a", None, ""]),
    (pa.string_view(), ["a", None, ""]),
    (pa.binary(), [b"a", None, b"\xff"]),
    (pa.binary(3), [b"abc", None, b"def"]),
    (pa.bool_(), [True, None, False]),
    (pa.int8(), [1, None, -128]),
    (pa.uint64(), [1, None, 2**64 - 1]),
    (pa.float16(), [1.5, None, -0.0]),
    (pa.float32(), [0.1, None, float("inf")]),
    (pa.null(), [None, None, None]),
    (pa.date32(), [dt.date(2020, 1, 1), None, dt.date(1, 1, 1)]),
    (pa.date64(), [dt.date(2020, 1, 1), None, dt.date(1969, 12, 31)]),
    (pa.time64("us"), [dt.time(1, 2, 3, 4), None, dt.time(0)]),
    (pa.time64("ns"), [dt.time(1, 2, 3, 4), None, dt.time(0)]),
    *TIMES,
    (pa.timestamp("us", "+02:00"), [T, None, T]),
    (pa.duration("ms"), [dt.timedelta(1), None, dt.timedelta(0)]),
    (pa.duration("ns"), [dt.timedelta(1), None, dt.timedelta(0)]),
    (pa.decimal128(10, 2), [D("1.20"), None, D("-3.00")]),
    (pa.decimal128(38, 9), [D("1e20"), None, D("-3")]),
    (pa.decimal32(5, 1), [D("1.2"), None, D("-3")]),
    (pa.decimal64(12, 1), [D("1.2"), None, D("-3")]),
    (pa.list_(pa.int32()), [[1, None], None, []]),
    (pa.list_(pa.field("element", pa.string(), nullable=False)), [["a"], None, []]),
    (pa.large_list(pa.string()), [["a"], None, []]),
    (pa.list_(pa.float32(), 2), [[1, 2], None, [3, None]]),
    (pa.list_(pa.string(), 2), [["a", "b"], None, ["c", None]]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", None, "a"]),
    (pa.dictionary(pa.int32(), pa.string()), ["a", None, "a"]),
    (pa.dictionary(pa.int32(), pa.binary()), [b"a", None, b"b"]),
    (pa.dictionary(pa.int32(), pa.large_string()), ["a", None, "b"]),
    (pa.dictionary(pa.int16(), pa.string(), ordered=True), ["a", None, "b"]),
    (pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))]), [{"a": 1, "b": ["x"]}, None, {"a": None}]),
    (pa.struct([pa.field("d", pa.dictionary(pa.int32(), pa.string()))]), [{"d": "x"}, None, {"d": None}]),
    (pa.list_(pa.dictionary(pa.int32(), pa.string())), [["x", "y"], None, []]),
    (pa.list_(pa.struct([("a", pa.int32()), ("t", pa.timestamp("ms", "UTC"))])), [[{"a": 1, "t": T}], None, []]),
    (pa.map_(pa.string(), pa.int32()), [[("a", 1)], None, []]),
    (pa.json_(), ["{}", None, "1"]),
    (pa.uuid(), [b"a" * 16, None, b"b" * 16]),
]  # fmt: skip


def column(values, dtype):
    if pa.types.is_dictionary(dtype):
        plain = pa.array(values, dtype.value_type).dictionary_encode()
        return pa.DictionaryArray.from_arrays(
            plain.indices.cast(dtype.index_type), plain.dictionary, ordered=dtype.ordered
        )
    return pa.array(values, dtype)


@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize(("dtype", "values"), TYPES, ids=[str(t) for t, _ in TYPES])
def test_types_nullability_metadata_and_values_are_kept(tmp_path, dtype, values, nullable):
    if not nullable:
        values = [v for v in values if v is not None] or pytest.skip("nothing but nulls")
    fields = [
        pa.field("x", pa.int64(), nullable=False, metadata={"unit": "mm"}),
        pa.field("c", dtype, nullable, metadata={"été": "ü"}),
    ]
    schema = pa.schema(fields, metadata={"owner": "me", "pandas": "{}"})
    table = pa.Table.from_arrays([pa.array(range(len(values))), column(values, dtype)], schema=schema)
    pq.write_table(table, tmp_path / "a.parquet")
    out = copied(tmp_path / "a.parquet", tmp_path / "out.parquet")
    kept = pq.read_table(tmp_path / "a.parquet")
    for name in ("x", "c"):
        assert out.schema.field(name).equals(kept.schema.field(name), check_metadata=True)
        assert out[name].to_pylist() == kept[name].to_pylist()
        assert out[name].equals(kept[name]) or pa.types.is_dictionary(dtype)
    assert {k: v for k, v in out.schema.metadata.items() if k != b"farol"} == kept.schema.metadata
    assert out.schema.field("w").type == pa.float64() and pq.read_metadata(tmp_path / "out.parquet").metadata[b"farol"]


def test_types_of_polars_are_kept(tmp_path):
    frame = pl.DataFrame(
        {"e": ["b", None, "a"], "c": ["x", "y", None], "t": [dt.time(1), None, dt.time(2)], "a": [[1.0, 2.0]] * 3},
        schema={"e": pl.Enum(["a", "b"]), "c": pl.Categorical, "t": pl.Time, "a": pl.Array(pl.Float32, 2)},
    ).with_columns(nested=pl.struct("e", "c"), several=pl.concat_list("e"))
    frame.write_parquet(tmp_path / "a.parquet")
    copied(tmp_path / "a.parquet", tmp_path / "out.parquet")
    back = pl.read_parquet(tmp_path / "out.parquet").drop("w")
    assert back.schema == frame.schema and back.equals(frame)


@pytest.mark.parametrize("dtype", [pa.duration("s"), pa.list_(pa.duration("s")), pa.time32("s"), pa.time32("ms")])
def test_seconds_that_would_come_back_as_something_else_are_refused(tmp_path, dtype):
    """Polars makes milliseconds of seconds and nanoseconds of times; a reader could take one for the other."""
    pq.write_table(pa.table({"c": pa.array([None], dtype), "d": pa.array([None], dtype)}), tmp_path / "a.parquet")
    said = r"a.parquet: cannot be written as it is: column 'c' \(.*\), column 'd' \(.*\); "
    with pytest.raises(
        DataError,
        match=said + r'sink.columns: \{except: \["c", "d"\]\} leaves them out; .* copies them as they lie there$',
    ):
        copied(tmp_path / "a.parquet", tmp_path / "out.parquet")


def test_a_field_that_is_never_null_inside_what_may_be(tmp_path):
    """Polars sees a null in it where there is one around it, and cannot write it as never null then."""
    dtype = pa.struct([pa.field("a", pa.int8(), nullable=False)])
    pq.write_table(pa.table({"s": pa.array([{"a": 1}, {"a": 2}], dtype)}), tmp_path / "a.parquet")
    out = copied(tmp_path / "a.parquet", tmp_path / "out.parquet")
    assert out["s"].to_pylist() == [{"a": 1}, {"a": 2}] and out.schema.field("s").type == dtype
    pq.write_table(pa.table({"s": pa.array([{"a": 1}, None], dtype)}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"cannot be written as it is: column 's' \(struct<a: int8 not null>\); "):
        copied(tmp_path / "a.parquet", tmp_path / "out.parquet")


def test_files_without_an_arrow_schema(tmp_path):
    table = pa.table({"s": ["a", None], "l": [[1], None], "t": pa.array([T, None], pa.timestamp("us", "UTC"))})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=False)
    out = copied(tmp_path / "a.parquet", tmp_path / "out.parquet").drop_columns(["w"])
    assert out.equals(pq.read_table(tmp_path / "a.parquet")) and out.schema.metadata in (None, {b"farol": b"{}"})


def test_field_ids_are_kept(tmp_path):
    schema = pa.schema([pa.field("x", pa.int64(), metadata={"PARQUET:field_id": "7"})])
    pq.write_table(pa.table({"x": [1]}, schema=schema), tmp_path / "a.parquet")
    assert (
        copied(tmp_path / "a.parquet", tmp_path / "out.parquet").schema.field("x").metadata[b"PARQUET:field_id"] == b"7"
    )


def test_what_an_earlier_run_said_of_itself_is_not_carried_on(tmp_path):
    table = pa.table({"x": [1]}).replace_schema_metadata({"mine": "stays", "farol": "of an earlier run"})
    pq.write_table(table, tmp_path / "a.parquet")
    out = copied(tmp_path / "a.parquet", tmp_path / "out.parquet")
    assert out.schema.metadata.get(b"farol", b"{}") == b"{}" and out.schema.metadata[b"mine"] == b"stays"
    metadata = pq.read_metadata(tmp_path / "out.parquet").metadata
    assert metadata[b"farol"] == b"{}" and metadata[b"mine"] == b"stays"


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_row_groups_are_no_larger_than_the_inputs(tmp_path, rows):
    pl.DataFrame({"x": range(200)}).write_parquet(tmp_path / "a.parquet", row_group_size=64)
    copied(tmp_path / "a.parquet", tmp_path / "out.parquet", rows=rows)
    groups = pq.read_metadata(tmp_path / "out.parquet")
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sum(sizes) == 200 and max(sizes) <= 64 and len(sizes) <= 8


def test_row_groups_of_many_bytes_are_cut(tmp_path, monkeypatch):
    pl.DataFrame({"x": range(2000)}).write_parquet(tmp_path / "a.parquet", compression="uncompressed", statistics=False)
    batch = Batch(tmp_path / "a.parquet", "a")
    assert batch.row_group_rows() == 2000
    monkeypatch.setattr(batches, "ROW_GROUP_BYTES", 4000)
    assert 1 <= batch.row_group_rows() <= 1000
    assert 1 <= batch.row_group_rows(added=8) <= 250
    copied(batch.path, tmp_path / "out.parquet")
    groups = pq.read_metadata(tmp_path / "out.parquet")
    assert all(groups.row_group(i).total_byte_size <= 4500 for i in range(groups.num_row_groups))  # with pages' headers


def test_no_rows(tmp_path):
    pl.DataFrame({"x": [1], "s": ["a"]}).clear().write_parquet(tmp_path / "a.parquet")
    assert Batch(tmp_path / "a.parquet", "a").row_group_rows() is None
    out = copied(tmp_path / "a.parquet", tmp_path / "out.parquet")
    assert out.num_rows == 0 and out.schema.names == ["x", "s", "w"]


def test_an_error_while_writing_is_itself_and_a_place_that_cannot_be_written_is_named(tmp_path):
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "a.parquet")
    batch = Batch(tmp_path / "a.parquet", "a")

    def failing():
        yield pl.DataFrame({"x": [1]})
        raise DataError("of the rows")

    with pytest.raises(DataError, match="^of the rows$"):
        batches.write(failing(), {"x": pl.Int64()}, tmp_path / "o", batch, "zstd", dict)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder: cannot be written: "):
        batches.write(iter([]), {"x": pl.Int64()}, Path(tmp_path / "folder"), batch, "zstd", dict)
