"""Vectors that Arrow decodes: the same rows as Polars reads, whatever lies beside them and however they are cut."""

import random
import struct

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attention_core import batches, vectors
from attention_core.batches import Batch
from attention_core.errors import DataError
from attention_core.run import run
from attention_core.vectors import Vectors, plain

TYPES = [pl.Float32(), pl.Float64(), pl.Float16(), pl.Int16(), pl.UInt64(), pl.Boolean(), pl.String()]


def frame(rows, inner, null=0.2, size=3):
    """A column `v.w` of vectors, some of them null and some with nulls, beside others; one is called its first part."""
    dice = random.Random(0)

    def component():
        x = dice.randrange(100)
        return None if dice.random() < null else str(x) if inner == pl.String else x > 50 if inner == pl.Boolean else x

    found = [None if dice.random() < null else [component() for _ in range(size)] for _ in range(rows)]
    columns = {
        "v": range(rows),
        "text": [str(i) for i in range(rows)],
        "x": [None if i % 3 else i / 2 for i in range(rows)],
    }
    return pl.DataFrame({"v.w": pl.Series(found, dtype=pl.Array(inner, size)), **columns})


@pytest.mark.parametrize("null", [0, 0.2, 1])
@pytest.mark.parametrize("inner", TYPES, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 200])
def test_chunks_are_those_of_the_file(tmp_path, monkeypatch, rows, inner, null):
    monkeypatch.setattr(vectors, "NUMBERS", 64)  # so that pieces end everywhere
    want, path = frame(rows, inner, null), tmp_path / "a.parquet"
    want.write_parquet(path, row_group_size=70)
    for columns in (["v.w"], ["v", "v.w"], ["v.w", "text"], ["x", "text", "v.w", "v"]):
        for most in (33, 10_000):
            chunks = list(Batch(path, "a").read(columns, most))
            assert all(c.height <= most for _, c in chunks)
            assert [start for start, _ in chunks] == [sum(c.height for _, c in chunks[:i]) for i in range(len(chunks))]
            found = pl.concat([chunk for _, chunk in chunks])
            assert found.schema == want[columns].schema and found.equals(want[columns])


def test_arrow_decodes_numbers_where_there_are_vectors_of_them_and_nothing_else(tmp_path, monkeypatch):
    path, decoded = tmp_path / "a.parquet", []
    frame(50, pl.Float32()).with_columns(many=pl.Series([[1.0]] * 50)).write_parquet(path)

    class Noted(Vectors):
        def __init__(self, file, names):
            decoded.append(list(names))
            super().__init__(file, names)

    monkeypatch.setattr(batches, "Vectors", Noted)
    for columns, threads in ((["v.w", "text", "x", "many"], 1), (["x", "text"], 1), (["v.w"], 2), (None, 1)):
        assert sum(chunk.height for _, chunk in Batch(path, "a").read(columns, 20, threads)) == 50
    assert decoded == [["v.w", "x"]]  # several threads decode with Polars, which uses as many itself


@pytest.mark.parametrize(
    ("arrow", "ours", "is_plain"),
    [
        (pa.list_(pa.float32(), 3), pl.Array(pl.Float32, 3), True),
        (pa.list_(pa.float32()), pl.Array(pl.Float32, 3), False),
        (pa.list_(pa.list_(pa.float32(), 2), 3), pl.Array(pl.Float32, (3, 2)), True),
        (pa.list_(pa.string(), 3), pl.Array(pl.String, 3), False),
        (pa.list_(pa.decimal128(5, 2), 3), pl.Array(pl.Decimal(5, 2), 3), False),
        (pa.int32(), pl.Int32(), True),
        (pa.int32(), pl.Int64(), False),
        (pa.timestamp("us"), pl.Datetime("us"), False),
        (pa.bool_(), pl.Boolean(), False),
    ],
)
def test_only_what_both_take_for_the_same_numbers_is_plain(arrow, ours, is_plain):
    assert plain(pa.schema([("c", arrow)]), {"c": ours}) == (["c"] if is_plain else [])


def test_matrices_are_read_too(tmp_path, monkeypatch):
    want = pl.DataFrame(
        {"m": pl.Series([[[1, 2], [3, None]], None, [[5, 6], [7, 8]]], dtype=pl.Array(pl.Int8, (2, 2)))}
    )
    want.write_parquet(tmp_path / "a.parquet")
    assert pl.concat([c for _, c in Batch(tmp_path / "a.parquet", "a").read(["m"], 2)]).equals(want)
    monkeypatch.setattr(vectors, "NUMBERS", 8)
    with Vectors(tmp_path / "a.parquet", ["m"]) as found:
        assert [len(piece) for piece in found.pieces] == [2, 1]  # four numbers a row


def test_vectors_that_are_damaged_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    frame(500, pl.Float32()).write_parquet(path, compression="zstd")
    path.write_bytes(path.read_bytes()[:4] + bytes(100) + path.read_bytes()[104:])
    with pytest.raises(DataError, match=r"a.parquet: cannot be read: column 'v.w' \(fixed_size_list") as error:
        list(Batch(path, "a").read(["v.w", "x"], 20))
    assert "\n" not in str(error.value)


def test_rows_that_are_not_there_are_missed(tmp_path):
    frame(5, pl.Float32()).write_parquet(tmp_path / "a.parquet")
    with Vectors(tmp_path / "a.parquet", ["v.w"]) as found:
        assert [len(column) for column in found.take(3)] == [3]
        with pytest.raises(pa.ArrowInvalid, match="2 of 3 rows"):
            found.take(3)


def test_a_page_that_is_not_what_its_checksum_says_is_refused(tmp_path):
    path, want = tmp_path / "a.parquet", frame(500, pl.Float32())
    pq.write_table(want.to_arrow(), path, compression="none", use_dictionary=False, write_page_checksum=True)
    assert pl.concat([c for _, c in Batch(path, "a").read(["v.w"], 1000)]).equals(want[["v.w"]])
    data = path.read_bytes()
    number = struct.pack("<f", 77.0)
    path.write_bytes(data.replace(number, struct.pack("<f", 78.0), 1))
    with pytest.raises(DataError, match=r"a.parquet: cannot be read: column 'v.w' \(fixed_size_list.* CRC"):
        list(Batch(path, "a").read(["v.w"], 1000))


def test_a_damaged_file_is_one_line_whoever_reads_it(tmp_path):
    """Arrow and Polars word differently what is wrong with the same column, and a run reads it with both."""
    for name in ("0", "1"):
        rows = {
            "a": [1.0, 2.0] * 500,
            "g": [1, 2] * 500,
            "v": pl.Series([[1.0, 2.0]] * 1000, dtype=pl.Array(pl.Float32, 2)),
        }
        (tmp_path / "in").mkdir(exist_ok=True)
        pl.DataFrame(rows).write_parquet(tmp_path / f"in/{name}.parquet")
    data = (tmp_path / "in/1.parquet").read_bytes()
    (tmp_path / "in/1.parquet").write_bytes(data[:4] + bytes(60) + data[64:])
    rule = "{name: u, key: a, value: v, over: {group: [g]}, weight: softmax, apply: pool}"
    job = f"name: n\nsource: {{path: in}}\nsink: {{path: out, columns: none}}\nattention:\n  - {rule}\n"
    (tmp_path / "job.yaml").write_text(job)
    with pytest.raises(DataError, match="1.parquet: cannot be read: column") as error:
        run(tmp_path / "job.yaml")
    assert "\n" not in str(error.value)
