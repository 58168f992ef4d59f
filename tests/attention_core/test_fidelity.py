"""Columns that no rule names pass through as they were, whoever wrote the file; what cannot is refused by its name.

FAROL_PARQUET_TESTING may name a checkout of github.com/apache/parquet-testing; its files are then tried too.
"""

import datetime as dt
import decimal
import io
import json
import os
import re
import uuid
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from attention_core.batches import Batch
from attention_core.carry import CODECS as CODEC_NUMBERS
from attention_core.carry import Pieces
from attention_core.carry import _span as span
from attention_core.errors import DataError, FarolError
from attention_core.run import run

D, T = decimal.Decimal, dt.datetime(2020, 1, 2, 3, 4, 5, 678901)
WEIGHT = {"name": "one", "score": {"kind": "expression", "sql": "1.0"}, "apply": "weights"}


def through(path, columns="all", compression=None, **job):
    """The file that a job makes of this one; its rule names no column.

    compression: as the file's own, so that columns are carried; else another, so that they are decoded and encoded.
    """
    sink = path.parent / "out" / (compression or ("all" if columns == "all" else "some"))
    source = {"path": str(path), "hive": False}
    job = {
        "name": "job",
        "source": source,
        "sink": {
            "path": str(sink),
            "columns": columns,
            "compression": compression or ("lz4" if codec(path) == "zstd" else "zstd"),
        },
        "attention": [WEIGHT],
        **job,
    }
    (path.parent / "job.yaml").write_text(json.dumps(job))
    run(path.parent / "job.yaml")
    return sink / path.name


def codec(path):
    """How a file's chunks are compressed, where all are so and a sink's can be; else None."""
    with open(path, "rb") as file:
        found = {c.at(3).at(4) for group in Pieces.of(file).groups for c in group.at(1)}
    return next((name for name, number in CODEC_NUMBERS.items() if {number} == found), None)


def bits(array):
    """Arrays that are equal where the values are the same to the last bit."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    t = array.type
    if isinstance(array, pa.ExtensionArray):
        return bits(array.storage)
    if pa.types.is_dictionary(t):
        return bits(array.dictionary_decode())
    if pa.types.is_floating(t):
        return [array.view({16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}[t.bit_width])]
    if pa.types.is_struct(t):
        return [array.is_valid(), *map(bits, array.flatten())]
    if pa.types.is_map(t):
        lengths, there = [None if v is None else len(v) for v in array.to_pylist()], array.drop_null()
        return [lengths, bits(there.keys), bits(there.items)]
    if pa.types.is_nested(t):
        return [array.is_valid(), pc.list_value_length(array), bits(array.flatten())]
    return [array]


def beside(path):
    metadata = pq.read_metadata(path).metadata or {}
    return {k: v for k, v in metadata.items() if k not in (b"farol", b"ARROW:schema")}


def differences(path, out, without=()):
    """What is not the same in the output, but for the weight."""
    names = [c for c in pq.read_schema(path).names if c not in without]
    a, b = pq.ParquetFile(path).read(names), pq.ParquetFile(out).read()
    if b.column_names != [*names, "one_weight"]:
        return b.column_names
    wrong = [] if beside(path) == beside(out) else [beside(out)]
    for name in b.column_names[:-1]:
        one, other = a.schema.field(name), b.schema.field(name)
        if not one.equals(other) or (one.metadata or {}) != (other.metadata or {}):
            wrong.append(f"{one!s} {one.metadata} -> {other!s} {other.metadata}")
        elif bits(a[name]) != bits(b[name]):
            wrong.append(f"{one!s}: {a[name]} -> {b[name]}")
    return wrong


def same(path):
    wrong = differences(path, through(path))
    assert not wrong, "\n".join(map(str, wrong))
    carried_whole(path)


def carried_whole(path):
    """As the file lies there, if a sink can be compressed so: what is not decoded cannot be changed, nor be refused."""
    own = codec(path)
    if own is not None:
        out = through(path, compression=own)
        wrong = differences(path, out)
        assert not wrong, "\n".join(map(str, wrong))
        pages = [chunks(file, pq.read_schema(path).names) for file in (path, out)]
        assert pages[0] == pages[1] or 0 in rows_of_groups(path)


def rows_of_groups(path):
    metadata = pq.read_metadata(path)
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def chunks(path, names):
    """The bytes of each of these columns in a file."""
    raw = path.read_bytes()
    pieces = Pieces.of(io.BytesIO(raw))
    metas = {name: [group.at(1)[i].at(3) for group in pieces.groups for i in pieces.columns[name][1]] for name in names}
    return {name: [raw[start : start + size] for start, size in map(span, found)] for name, found in metas.items()}


def where_arrow_reads(path, out, without=()):
    """The same, but that a file which Arrow does not read itself is no reference for more than its rows."""
    try:
        pq.ParquetFile(path).read([c for c in pq.read_schema(path).names if c not in without])
    except (OSError, pa.ArrowException):
        return pq.read_metadata(out).num_rows != pq.read_metadata(path).num_rows
    return differences(path, out, without)


def refused(path, differences=differences):
    """What is said of a file that is not carried; where a way out is offered, it works."""
    without, first, columns = [], None, "all"
    while True:
        try:
            out = through(path, columns)
        except DataError as error:
            said = str(error)
            assert said.startswith(f"{path}: ") and "\n" not in said
            assert not list(path.parent.glob("out/*/*.parquet"))
            first = first or said
            offered = re.search(r"; sink\.columns: \{except: (\[.*?\])\} leaves (it|them) out", said)
            if not offered:
                return first
            new = json.loads(offered[1])
            assert new and not set(new) & set(without)
            without += new
            columns = {"except": without}
        else:
            assert without and not differences(path, out, without)
            return first


# Every type


def column(values, dtype):
    if not pa.types.is_dictionary(dtype):
        return pa.array(values, dtype)
    plain = pa.array(values, dtype.value_type).dictionary_encode()
    return pa.DictionaryArray.from_arrays(plain.indices.cast(dtype.index_type), plain.dictionary, ordered=dtype.ordered)


NANS = np.array([0x7FF8000000000001, 0xFFF8000000000123, 0x8000000000000000], dtype="u8").view("f8")
INT8 = pa.int8()
INTEGERS = [getattr(pa, f"{sign}int{width}")() for sign in ("", "u") for width in (8, 16, 32, 64)]
NESTED = {"a": 1, "b": {"c": "x", "d": [1, None]}}
TYPES = [
    *((t, [1, None, 2 ** (t.bit_width - (not pa.types.is_unsigned_integer(t))) - 1]) for t in INTEGERS),
    (pa.bool_(), [True, None, False]),
    (pa.null(), [None] * 3),
    (pa.float16(), [np.float16(1.5), None, np.float16("nan")]),
    (pa.float32(), [0.1, None, float("-inf")]),
    (pa.float64(), NANS),
    *((t, ["abc", None, "ü"]) for t in (pa.string(), pa.large_string(), pa.string_view())),
    *((t, [b"abc", None, b"\xff"]) for t in (pa.binary(), pa.large_binary(), pa.binary_view())),
    (pa.binary(3), [b"abc", None, b"\xff\0\xff"]),
    (pa.date32(), [2**31 - 1, None, -(2**31)]),
    (pa.date64(), [86_400_000, None, -86_400_000]),
    (pa.time64("us"), [1, None, 86_399_999_999]),
    (pa.time64("ns"), [1, None, 86_399_999_999_999]),
    *((pa.timestamp(u, z), [1, None, -(2**40)]) for u in ("s", "ms", "us", "ns") for z in (None, "UTC", "Asia/Tokyo")),
    (pa.timestamp("ns"), [2**63 - 1, None, -(2**63) + 1]),
    (pa.timestamp("us", "+02:00"), [1, None, 2]),
    *((pa.duration(u), [1, None, -(2**62)]) for u in ("ms", "us", "ns")),
    (pa.decimal32(5, 1), [D("1.5"), None, D("-9999.9")]),
    (pa.decimal64(18, 0), [D(1), None, D("9" * 18)]),
    (pa.decimal128(38, 38), [D("0." + "9" * 38), None, D(0)]),
    (pa.decimal128(38, 0), [D("9" * 38), None, D("-" + "9" * 38)]),
    (pa.decimal256(20, 2), [D("1.5"), None, D("-1.5")]),
    (pa.list_(INT8), [[1, None], None, []]),
    (pa.large_list(pa.large_string()), [["a", None], None, []]),
    (pa.list_(pa.list_(pa.float16())), [[[1.5], None, []], None, []]),
    (pa.list_(pa.field("element", pa.string(), nullable=False, metadata={"deep": "er"})), [["a"], None, []]),
    (pa.list_(pa.float32(), 2), [[1, 2], None, [3, None]]),
    (pa.list_(pa.list_(INT8, 1), 2), [[[1], [2]], None, [[3], None]]),
    (pa.list_(pa.date64()), [[86_400_000], None, []]),
    (pa.list_(pa.decimal128(5, 1)), [[D("1.5")], None, []]),
    (pa.list_(pa.timestamp("ms", "Asia/Tokyo")), [[1], None, []]),
    (pa.list_(pa.time64("us")), [[1], None, []]),
    (pa.struct([("a", INT8), ("b", pa.struct([("c", pa.string()), ("d", pa.list_(INT8))]))]), [NESTED, None, {}]),
    (pa.struct([("d", pa.date64())]), [{"d": 0}, None, {}]),
    (pa.list_(pa.struct([("a", INT8), ("t", pa.timestamp("ms", "UTC"))])), [[{"a": 1, "t": 1}, None], None, []]),
    (pa.map_(pa.string(), INT8), [[("a", 1), ("b", None)], None, []]),
    (pa.map_(pa.string(), pa.map_(INT8, pa.struct([("q", INT8)]))), [[("a", [(1, {"q": 1})])], None, []]),
    (pa.map_(pa.string(), INT8, keys_sorted=True), [[("a", 1)], None, []]),
    (pa.struct([("m", pa.map_(pa.string(), pa.list_(INT8)))]), [{"m": [("a", [1])]}, None, {}]),
    *((pa.dictionary(t, pa.string()), ["a", None, "b"]) for t in INTEGERS),
    *((pa.dictionary(pa.int32(), t), [b"a", None, b"\xff"]) for t in (pa.binary(), pa.large_binary())),
    (pa.dictionary(INT8, pa.string(), ordered=True), ["b", None, "a"]),
    (pa.dictionary(INT8, pa.large_string()), ["b", None, "a"]),
    (pa.dictionary(INT8, pa.int32()), [1, None, 2]),
    (pa.dictionary(INT8, pa.decimal128(5, 1)), [D("1.5"), None, D("2.5")]),
    (pa.json_(), ["{}", None, "1"]),
    (pa.uuid(), [b"a" * 16, None, b"b" * 16]),
    (pa.bool8(), [1, None, 0]),
    (pa.opaque(pa.binary(), "a", "b"), [b"a", None, b"b"]),
]  # fmt: skip


def table(rows=3, nullable=True, types=TYPES):
    """A column of each type, with metadata at all places that have any."""
    columns, fields = [pa.array(range(rows))], [pa.field("id", pa.int64(), False, {"PARQUET:field_id": "7"})]
    for i, (dtype, values) in enumerate(types):
        values = [v for v in values if v is not None] if not nullable else values
        if len(values):
            columns.append(column([values[j % len(values)] for j in range(rows)], dtype))
            fields.append(pa.field(f"{i} {dtype}", dtype, nullable, {"unit": "mm", "été": "ü"}))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata={"owner": "me", "pandas": "{}", "é": "ü"}))


CODECS = ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]
LAYOUTS = {
    "plain": {},
    "no Arrow schema": {"store_schema": False},
    "version 1": {"version": "1.0", "coerce_timestamps": "us", "allow_truncated_timestamps": True},
    "index and checksums": {"write_page_index": True, "write_page_checksum": True},
    "no dictionaries": {"use_dictionary": False, "write_statistics": False},
    "integers for decimals": {"store_decimal_as_integer": True},
    "item, not element": {"use_compliant_nested_type": False},
    "small groups": {"row_group_size": 3},
    "small pages": {"data_page_size": 1, "write_batch_size": 2, "max_rows_per_page": 2},
} | {f"{c}, pages v2": {"compression": c, "data_page_version": "2.0", "row_group_size": 5} for c in CODECS}


@pytest.mark.parametrize("how", LAYOUTS.values(), ids=LAYOUTS)
def test_every_type_in_every_layout_of_pyarrow(tmp_path, how):
    pq.write_table(table(10), tmp_path / "a.parquet", **how)
    same(tmp_path / "a.parquet")


def test_columns_that_are_never_null(tmp_path):
    pq.write_table(table(7, nullable=False), tmp_path / "a.parquet")
    same(tmp_path / "a.parquet")
    assert not pq.read_schema(tmp_path / "out/all/a.parquet").field(3).nullable


def test_nulls_inside_of_others(tmp_path):
    types = [(pa.struct([("n", pa.null())]), [{}, None]), (pa.list_(pa.null()), [[None], None])]
    pq.write_table(table(4, types=types), tmp_path / "a.parquet")
    same(tmp_path / "a.parquet")


def test_dictionaries_inside_of_others(tmp_path):
    names = column(["b", None, "a"], pa.dictionary(INT8, pa.string()))
    nested = {
        "struct": pa.StructArray.from_arrays([names], ["d"]),
        "list": pa.ListArray.from_arrays([0, 1, 1, 3], names),
        "map": pa.MapArray.from_arrays([0, 1, 1, 3], pa.array(["x", "y", "z"]), names),
    }
    pq.write_table(pa.table(nested), tmp_path / "a.parquet")
    same(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [
        ("DELTA_BINARY_PACKED", pa.int64()),
        ("BYTE_STREAM_SPLIT", pa.int32()),
        ("BYTE_STREAM_SPLIT", pa.float64()),
        ("BYTE_STREAM_SPLIT", pa.float16()),
        ("DELTA_LENGTH_BYTE_ARRAY", pa.string()),
        ("DELTA_BYTE_ARRAY", pa.string()),
        ("RLE", pa.bool_()),
    ],
)
def test_encodings(tmp_path, encoding, dtype):
    values = pa.array([i % 7 if dtype != pa.bool_() else i % 3 == 0 for i in range(300)]).cast(dtype)
    how = {"use_dictionary": False, "column_encoding": {"x": encoding}, "data_page_version": "2.0"}
    pq.write_table(pa.table({"x": values}), tmp_path / "a.parquet", **how)
    same(tmp_path / "a.parquet")


@pytest.mark.parametrize("parts", [(), (0,), (0, 4, 0, 3, 0)])
def test_row_groups_without_rows(tmp_path, parts):
    rows = table(4)
    with pq.ParquetWriter(tmp_path / "a.parquet", rows.schema) as writer:
        for n in parts:
            writer.write_table(rows.slice(0, n))
    same(tmp_path / "a.parquet")
    assert pq.read_metadata(tmp_path / "out/all/a.parquet").num_rows == sum(parts)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_chunks_of_any_size(tmp_path, rows):
    pq.write_table(table(50), tmp_path / "a.parquet", row_group_size=20)
    assert not differences(tmp_path / "a.parquet", through(tmp_path / "a.parquet", chunk_rows=rows))


# Every writer


@pytest.mark.parametrize("codec", ["uncompressed", "snappy", "gzip", "zstd", "lz4", "lz4_raw", "brotli"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_codecs_of_duckdb(tmp_path, codec, version):
    rows = "select i, i::varchar s, [i, null] l, i / 3 d from range(3000) t(i)"
    duckdb.sql(f"copy ({rows}) to '{tmp_path}/a.parquet' (format parquet, codec {codec}, parquet_version {version})")
    same(tmp_path / "a.parquet")


def test_every_type_of_duckdb(tmp_path):
    """But for INTERVAL and VARIANT, which Polars does not open, and UUID inside of others."""
    types = (
        "bool tinyint smallint int bigint hugeint uhugeint utinyint usmallint uinteger ubigint float double "
        "decimal(4,1) decimal(9,1) decimal(18,1) decimal(38,1)"
    )
    values = [f"1::{t}" for t in types.split()] + [
        "'a'", "'\\xFF'::blob", "date '2020-01-01'", "time '01:02:03.000004'", "'01:02:03+02'::timetz", "uuid()",
        "'2020-01-01'::timestamp", "'2020-01-01'::timestamp_s", "'2020-01-01'::timestamp_ms", "'{}'::json",
        "'2020-01-01'::timestamp_ns", "'2020-01-01'::timestamptz", "'infinity'::timestamp", "'101'::bit",
        "'a'::enum('a', 'b')", "null", "[1, null]", "[[1], null, []]", "{'a': 1, 'b': 'x'}", "map {'a': 1}",
        "[{'a': 1, 'b': [date '2020-01-01']}]", "{'a': '2020-01-01'::timestamptz}", "['a'::enum('a')]",
        "[1.5::decimal(18,3)]", "[time '01:02:03']", "map {'a': {'q': 1}}", "[1::utinyint]",
    ]  # fmt: skip
    named = ", ".join(f"{value} c{i}" for i, value in enumerate(values))
    nulls = ", ".join("null" for _ in values)
    how = "format parquet, kv_metadata {k: 'v', u: 'é'}, field_ids {c0: 7}"
    duckdb.sql(f"copy (select {named} union all select {nulls}) to '{tmp_path}/a.parquet' ({how})")
    same(tmp_path / "a.parquet")


MOMENT = pd.Timestamp("2020-01-01 12:00", tz="Europe/Lisbon")
PANDAS = {
    "i": [1, 2],
    "I": pd.array([1, None], dtype="Int8"),
    "U": pd.array([1, None], dtype="UInt32"),
    "b": pd.array([True, None], dtype="boolean"),
    "F": pd.array([1.5, None], dtype="Float32"),
    "s": ["a", None],
    "S": pd.array(["a", None], dtype="string"),
    "cat": pd.Categorical(["a", None]),
    "ordered": pd.Categorical(["b", "a"], categories=["b", "a"], ordered=True),
    "numbers": pd.Categorical([3, 1]),
    "t": pd.to_datetime(["2020-01-01", None]),
    "zone": [MOMENT, MOMENT],
    "seconds": pd.array(["2020-01-01"] * 2, dtype="datetime64[s]"),
    "span": pd.array([1, None], dtype="timedelta64[us]"),
    "o": [b"x", None],
}
OBJECTS = {
    "period": pd.period_range("2020-01", periods=2, freq="M"),
    "interval": pd.interval_range(0, 2),
    "day": [dt.date(2020, 1, 1), None],
    "time": [dt.time(1), None],
    "decimal": [D("1.5"), None],
    "list": [[1], None],
    "struct": [{"a": 1}, None],
    "half": np.array([1, 2], dtype="f2"),
    "uuid": [uuid.UUID(int=1)] * 2,
}


@pytest.mark.parametrize("index", [None, "i", ["i", "s"]])
def test_every_type_of_pandas(tmp_path, index):
    frame = pd.DataFrame(PANDAS | OBJECTS)
    frame.attrs["source"] = "me"
    (frame if index is None else frame.set_index(index)).to_parquet(tmp_path / "a.parquet")
    same(tmp_path / "a.parquet")
    read = [pd.read_parquet(f) for f in (tmp_path / "a.parquet", tmp_path / "out/all/a.parquet")]
    pd.testing.assert_frame_equal(read[0], read[1].drop(columns="one_weight"))


@pytest.mark.parametrize("how", [{}, {"has_nulls": False}, {"compression": "BROTLI"}, {"row_group_offsets": 1}])
def test_every_type_of_fastparquet(tmp_path, how):
    fastparquet = pytest.importorskip("fastparquet")
    kept = PANDAS | {c: OBJECTS[c] for c in ("list", "struct", "half")}
    if how.get("has_nulls") is False:
        kept = {c: kept[c] for c in ("i", "ordered", "zone", "half")}
    fastparquet.write(str(tmp_path / "a.parquet"), pd.DataFrame(kept), **how)
    same(tmp_path / "a.parquet")


@pytest.mark.parametrize("codec", ["UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "LZ4", "LZ4_RAW"])
def test_codecs_of_fastparquet(tmp_path, codec):
    fastparquet = pytest.importorskip("fastparquet")
    frame = pd.DataFrame({"i": range(3000), "s": [str(i) for i in range(3000)]})
    fastparquet.write(str(tmp_path / "a.parquet"), frame, compression=codec, row_group_offsets=1000)
    same(tmp_path / "a.parquet")


@pytest.mark.parametrize("how", [{}, {"use_pyarrow": True}, {"compression": "lz4", "row_group_size": 2}])
def test_every_type_of_polars(tmp_path, how):
    frame = pl.DataFrame(
        {
            "enum": pl.Series(["b", None, "a"], dtype=pl.Enum(["a", "b"])),
            "categorical": pl.Series(["b", None, "a"], dtype=pl.Categorical),
            "time": [dt.time(1), None, dt.time(2)],
            "array": pl.Series([[1.0, 2.0], None, [3.0, None]], dtype=pl.Array(pl.Float32, 2)),
            "table": pl.Series([[[1, 2]]] * 3, dtype=pl.Array(pl.Int8, (1, 2))),
            "decimal": pl.Series([D("1.5"), None, D(3)], dtype=pl.Decimal(38, 2)),
            "half": pl.Series([1, None, 2], dtype=pl.Float16),
            "null": [None] * 3,
            "span": [dt.timedelta(1), None, dt.timedelta(2)],
            "zone": pl.Series([T] * 3, dtype=pl.Datetime("ns", "Asia/Tokyo")),
            "struct": [{"a": dt.date(2020, 1, 1), "t": dt.time(1)}] * 3,
            "bytes": [b"\xff", None, b""],
            "lists": pl.Series([[[1]], None, []], dtype=pl.List(pl.List(pl.UInt8))),
            "arrays": pl.Series([[[1, 2]], None, []], dtype=pl.List(pl.Array(pl.Int8, 2))),
            "enums": pl.Series([["a"], None, []], dtype=pl.List(pl.Enum(["a", "b"]))),
        }
    )
    frame.write_parquet(tmp_path / "a.parquet", **how)
    same(tmp_path / "a.parquet")
    back = [pl.read_parquet(f) for f in (tmp_path / "a.parquet", tmp_path / "out/all/a.parquet")]
    assert back[1].drop("one_weight").equals(back[0]) and back[1].drop("one_weight").schema == back[0].schema


@pytest.mark.parametrize("codec", ["uncompressed", "snappy", "gzip", "brotli", "lz4", "zstd"])
def test_codecs_of_polars(tmp_path, codec):
    pl.DataFrame({"x": range(3000)}).write_parquet(tmp_path / "a.parquet", compression=codec, row_group_size=999)
    same(tmp_path / "a.parquet")


# Times of 96 bits


def int96(path, times, **how):
    rows = {"id": range(len(times)), "t": times, "l": [[t] for t in times], "s": [{"t": t} for t in times]}
    ns = pa.timestamp("ns")
    types = [("id", pa.int8()), ("t", ns), ("l", pa.list_(ns)), ("s", pa.struct([("t", ns)]))]
    pq.write_table(pa.table(rows, pa.schema(types)), path, use_deprecated_int96_timestamps=True, **how)


@pytest.mark.parametrize("store_schema", [True, False])
def test_times_of_96_bits(tmp_path, store_schema):
    int96(tmp_path / "a.parquet", [0, None, 1, -1, 2**62, -(2**62)], store_schema=store_schema)
    same(tmp_path / "a.parquet")


@pytest.mark.parametrize("beyond", [2**63 - 1, -(2**63) + 1])
def test_times_of_96_bits_that_nanoseconds_do_not_hold_are_refused(tmp_path, beyond):
    """Polars makes the last nanosecond of them, without a word."""
    int96(tmp_path / "a.parquet", [0, beyond, None])
    assert [pl.read_parquet(tmp_path / "a.parquet")["t"].to_physical()[1]] == [2**63 - 1]
    said = refused(tmp_path / "a.parquet")
    assert "cannot be read: column 't' (INT96, some of it outside the years 1677 to 2262 of nanoseconds), " in said
    assert said.endswith('; sink.columns: {except: ["t", "l", "s"]} leaves them out, unless a rule reads them')
    carried_whole(tmp_path / "a.parquet")


# What Polars cannot carry


REFUSED = [
    (pa.time32("s"), [1, None], "time32[ms]"),
    (pa.time32("ms"), [1, None], "time32[ms]"),
    (pa.list_(pa.time32("ms")), [[1], None], "list<element: time32[ms]>"),
    (pa.duration("s"), [1, 2**62], "duration[s]"),
    (pa.list_(pa.duration("s")), [[1], None], "list<element: duration[s]>"),
    (pa.decimal256(70, 2), [D("1" * 60), None], "decimal256(70, 2)"),
    (pa.list_(pa.binary(3)), [[b"abc"], None], "list<element: fixed_size_binary[3]>"),
    (pa.struct([pa.field("a", INT8, nullable=False)]), [{"a": 1}, None], "struct<a: int8 not null>"),
    (pa.list_(INT8, 0), [[], []], "fixed_size_list<element: int8>[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "values", "called"), REFUSED, ids=[str(r[0]) for r in REFUSED])
def test_what_cannot_be_carried_is_named_with_its_type_and_can_be_left_out(tmp_path, dtype, values, called):
    if dtype == pa.list_(INT8, 0):  # Arrow does not read its own
        pq.write_table(pa.table({"c": pa.array(values, dtype)}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match=r": column 'c' \(fixed_size_list<element: int8>\[0\]\); sink.columns: "):
            through(tmp_path / "a.parquet")
        return
    pq.write_table(pa.table({"id": [1, 2], "c": pa.array(values, dtype)}), tmp_path / "a.parquet")
    said = refused(tmp_path / "a.parquet")
    assert f"cannot be written as it is: column 'c' ({called}); sink.columns: {{except: [\"c\"]}} leaves it" in said
    carried_whole(tmp_path / "a.parquet")


def test_a_file_of_nothing_else_gives_the_weight_of_its_rows(tmp_path):
    pq.write_table(pa.table({"a": pa.array([1, 2], pa.time32("ms"))}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "out/some/a.parquet").to_pydict() == {"one_weight": [1.0, 1.0]}


@pytest.mark.parametrize("encoding", ["BYTE_STREAM_SPLIT", "DELTA_BYTE_ARRAY"])
def test_columns_that_cannot_be_read_are_all_named(tmp_path, encoding):
    rows = pa.table({c: pa.array([b"abc", b"def"], pa.binary(3)) for c in ("a", "b c", "d")})
    how = {"use_dictionary": ["d"], "column_encoding": {"a": encoding, "b c": encoding}}
    pq.write_table(rows, tmp_path / "a.parquet", **how)
    said = refused(tmp_path / "a.parquet")
    both = "cannot be read: column 'a' (fixed_size_binary[3]), column 'b c' (fixed_size_binary[3])"
    assert both + '; sink.columns: {except: ["a", "b c"]} leaves them out, unless a rule reads them: ' in said


def test_a_panic_does_not_end_a_file_early(tmp_path):
    """Polars then gives no more rows, and does not say why."""
    pq.write_table(pa.table({"c": pa.array([[], []], pa.list_(INT8, 0))}), tmp_path / "a.parquet")
    assert not sum(c.height for c in pl.scan_parquet(tmp_path / "a.parquet").collect_batches())
    with pytest.raises(DataError, match="a.parquet: cannot be read: column 'c' .*: 0 of 2 rows can be decoded$"):
        list(Batch(tmp_path / "a.parquet", "a").read(None, 10))


@pytest.mark.parametrize("zone", ["Mars/Base", "-02:15", "+05:30"])
def test_files_that_polars_does_not_open_are_named_with_the_column(tmp_path, zone):
    pq.write_table(pa.table({"c": pa.array([1], pa.timestamp("us", zone))}), tmp_path / "a.parquet")
    assert f"cannot be read: column 'c' (timestamp[us, tz={zone}]): " in refused(tmp_path / "a.parquet")


@pytest.mark.parametrize(("value", "called"), [("interval 3 day", "Interval"), ("1::variant", "Variant(1)")])
def test_files_with_types_of_parquets_that_polars_does_not_know_are_named_with_the_column(tmp_path, value, called):
    duckdb.sql(f"copy (select 1 id, {value} c) to '{tmp_path}/a.parquet' (format parquet)")
    assert f"cannot be read: column 'c' ({called}): " in refused(tmp_path / "a.parquet")


def test_what_arrow_does_not_know_of_polars_is_named(tmp_path):
    pl.DataFrame({"x": [1], "c": [1]}, schema_overrides={"c": pl.Int128}).write_parquet(tmp_path / "a.parquet")
    assert "cannot be read: column 'c' (Int128): " in refused(tmp_path / "a.parquet")


# The files that all readers are tried on


FOLDER = os.environ.get("FAROL_PARQUET_TESTING", "")
FOUND = sorted(f for f in Path(FOLDER).rglob("*") if f.is_file() and ".parquet" in f.name) if FOLDER else []


@pytest.mark.skipif(not FOUND, reason="FAROL_PARQUET_TESTING names no folder with Parquet files")
@pytest.mark.parametrize("file", FOUND, ids=[str(f.relative_to(FOLDER)) for f in FOUND])
def test_files_of_parquet_testing(tmp_path, file):
    """Each passes as it is, or is refused; those that Arrow does not read itself have no reference here."""
    path = tmp_path / file.name
    path.symlink_to(file)
    try:
        out = through(path)
    except FarolError:
        refused(path, where_arrow_reads)
    else:
        assert not where_arrow_reads(path, out)
