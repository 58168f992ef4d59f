"""Columns that nobody looks at are taken over as they lie in the input. Of every type: test_fidelity.py."""

import errno
import io

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_run import Folder

from attention_core import batches, carry, thrift, work
from attention_core.batches import Batch
from attention_core.carry import Pieces
from attention_core.errors import DataError, JobError
from attention_core.run import opened
from attention_core.thrift import BINARY, BYTE, DOUBLE, FALSE, I16, I32, I64, LIST, SET, STRUCT, TRUE, Items, Struct

KEY = {"key": "x", "weight": "sigmoid", "apply": "weights"}


def footer(path):
    raw = path.read_bytes()
    return raw[-8 - int.from_bytes(raw[-8:-4], "little") : -8]


def change_footer(path, change):
    raw, old = path.read_bytes(), footer(path)
    struct, _ = thrift.read(old)
    change(struct)
    new = thrift.written(struct)
    path.write_bytes(raw[: -8 - len(old)] + new + len(new).to_bytes(4, "little") + b"PAR1")


def rows(n=100):
    dice = np.random.default_rng(n)
    frame = pl.DataFrame({"x": dice.normal(size=n), "s": [f"é{i % 7}" for i in range(n)], "i": range(n)})
    return frame.with_columns(l=pl.concat_list("i", "i"), v=pl.struct("s", "i"), f=pl.col("i").cast(pl.Float32))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def carried(folder):
    """What is carried, by batch."""
    run = opened(folder.path / "job.yaml")
    return {batch.name: run.outputs.carried(batch) for batch in run.batches}


# Thrift


def fields():
    plain = {
        TRUE: st.just(True), FALSE: st.just(False), BYTE: st.integers(0, 255), BINARY: st.binary(max_size=200),
        DOUBLE: st.binary(min_size=8, max_size=8),
        **{t: st.integers(-(2 ** (b - 1)), 2 ** (b - 1) - 1) for t, b in ((I16, 16), (I32, 32), (I64, 64))},
    }  # fmt: skip
    inside = plain | {TRUE: st.integers(1, 2), FALSE: st.integers(1, 2)}
    leaf = st.sampled_from(sorted(plain)).flatmap(lambda t: st.tuples(st.just(t), plain[t]))

    def deeper(field):
        struct = st.dictionaries(st.integers(1, 300), field, max_size=5).map(Struct)
        several = st.sampled_from(sorted(inside)).flatmap(
            lambda t: st.lists(inside[t], max_size=20).map(lambda v: Items(t, v))
        )
        lists = st.one_of(several, st.lists(struct, max_size=20).map(lambda v: Items(STRUCT, v)))
        kinds = st.sampled_from([LIST, SET])
        return st.one_of(st.tuples(st.just(STRUCT), struct), st.tuples(kinds, lists))

    return st.dictionaries(st.integers(1, 300), st.recursive(leaf, deeper, max_leaves=20), max_size=8).map(Struct)


@given(fields())
def test_structs_are_read_as_they_were_written(struct):
    data = thrift.written(struct)
    assert thrift.read(b"??" + data + b"??", 2) == (struct, 2 + len(data))


@given(st.binary(max_size=300))
def test_what_is_no_struct_is_refused_or_read(data):
    try:
        _, end = thrift.read(data)
    except ValueError:
        return
    assert end <= len(data)


@pytest.mark.parametrize("many", [1, 40])
def test_footers_are_written_as_they_were(tmp_path, many):
    frame = pl.DataFrame({f"c{i}": [1, None, 3] for i in range(many)}).with_columns(s=pl.lit("é"))
    frame.write_parquet(tmp_path / "polars", row_group_size=1)
    pq.write_table(frame.to_arrow(), tmp_path / "arrow", write_page_index=True, row_group_size=2)
    duckdb.sql(f"copy frame to '{tmp_path}/duckdb' (format parquet, kv_metadata {{a: 'b'}})")
    for path in tmp_path.iterdir():
        struct, end = thrift.read(footer(path))
        assert end == len(footer(path)) and thrift.written(struct) == footer(path)


# What is carried


def test_what_no_rule_reads_is_not_decoded(folder, monkeypatch):
    folder.job(KEY)
    folder.put("a.parquet", rows(), row_group_size=30)
    read, seen = Batch.read, []

    def noted(self, columns, rows, threads=1):
        seen.append(columns)
        return read(self, columns, rows, threads)

    monkeypatch.setattr(Batch, "read", noted)
    folder.run()
    assert seen == [["x"]] and carried(folder) == {"a.parquet": frozenset(rows().columns)}
    out = folder.path / "out/a.parquet"
    metadata = pq.read_metadata(out)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [30, 30, 30, 10]
    for back in (pl.read_parquet(out), pl.from_arrow(pq.read_table(out)), duckdb.sql(f"from '{out}'").pl()):
        assert back.drop("x_weight").cast(rows().schema).equals(rows()) and back["x_weight"].null_count() == 0


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    columns=st.sets(st.sampled_from(rows().columns), min_size=1),
    plain=st.sets(st.sampled_from(rows().columns)),
    chunk_rows=st.integers(1, 70),
)
def test_any_columns_of_any_row_groups(tmp_path_factory, sizes, columns, plain, chunk_rows):
    """Some of them compressed otherwise, so that they are decoded and encoded beside the others."""
    folder, frame = Folder(tmp_path_factory.mktemp("any")), rows(sum(sizes))
    table = frame.to_arrow()
    how = {c: "snappy" if c in plain else "zstd" for c in frame.columns}
    how |= {"v.s": how["v"], "v.i": how["v"], "l.list.element": how["l"]}
    path = folder.put("a.parquet", frame)
    with pq.ParquetWriter(path, table.schema, compression=how) as writer:
        for start, n in zip(np.cumsum([0, *sizes]), sizes, strict=False):
            writer.write_table(table.slice(start, n))
    chosen = sorted(columns, reverse=True)
    folder.job(KEY, sink={"columns": [*chosen[:2], "x_weight", *chosen[2:]]}, chunk_rows=chunk_rows)
    assert carried(folder) == {"a.parquet": columns - plain}
    folder.run()
    folder.run(f"sink.path={folder.path}/other", "sink.compression=gzip", "chunk_rows=7")
    back, other = folder.rows(), folder.rows(sink="other")
    assert back.columns == [*chosen[:2], "x_weight", *chosen[2:]] and back.equals(other)
    assert back.select(chosen).equals(frame.select(chosen))


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({}, True),
        ({"sink": {"columns": "added"}}, False),
        ({"sink": {"columns": ["x", "s"]}}, False),  # nothing new is written beside them
        ({"sink": {"compression": "snappy"}}, False),
    ],
)
def test_when_columns_are_carried(folder, more, kept):
    folder.job(KEY, **more).put("a.parquet", rows())
    assert bool(carried(folder)["a.parquet"]) == kept
    folder.run()
    there = [c for c in folder.rows().columns if c in rows().columns]
    assert folder.rows().select(there).equals(rows().select(there))


def test_rows_that_are_dropped_are_dropped_from_all_columns(folder):
    folder.job({**KEY, "apply": {"filter": {"min": 0.5}}}).put("a.parquet", rows())
    assert not carried(folder)["a.parquet"]
    folder.run()
    assert folder.rows().select(rows().columns).equals(rows().filter(pl.col("x") >= 0))


def test_row_groups_too_large_or_without_rows_are_not_carried(folder, monkeypatch):
    folder.job(KEY).put("a.parquet", rows())
    table = rows().to_arrow()
    with pq.ParquetWriter(folder.path / "in/b.parquet", table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.write_table(table[:0])
    assert [bool(c) for c in carried(folder).values()] == [True, False]
    group = pq.read_metadata(folder.path / "in/a.parquet").row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    size = sum(max(c.total_uncompressed_size, c.total_compressed_size) for c in chunks)
    for more, fits in ((8 * 100, True), (8 * 100 - 1, False)):  # the new column counts
        monkeypatch.setattr(batches, "ROW_GROUP_BYTES", size + more)
        assert bool(carried(folder)["a.parquet"]) is fits
    monkeypatch.setattr(batches, "ROW_GROUP_BYTES", 1000)
    assert not any(carried(folder).values())
    folder.run()
    groups = pq.read_metadata(folder.path / "out/a.parquet")
    assert groups.num_row_groups > 1 and folder.rows("b.parquet").drop("x_weight").equals(rows())


def test_many_small_chunks_are_decoded_which_is_faster(folder, monkeypatch):
    folder.job(KEY).put("a.parquet", rows(), row_group_size=10)
    assert carried(folder)["a.parquet"]
    monkeypatch.setattr(batches, "FEW", 60)
    assert not carried(folder)["a.parquet"]  # 10 groups of 7 leaves
    folder.run()
    assert folder.rows().drop("x_weight").equals(rows())


@pytest.mark.parametrize("names", [["x", "x"], ["x", "s", "s"], ["x_weight", "x", "x_weight"]])
def test_a_column_that_is_named_twice_is_refused(folder, names):
    folder.job(KEY, sink={"columns": names}).put("a.parquet", rows())
    with pytest.raises(JobError, match=r"sink.columns\[\d\]: '\w+' is named twice"):
        folder.run()


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.update({7: (STRUCT, Struct())}),
        lambda f: f.update({7: (LIST, Items(I32, [1] * len(f.at(7))))}),
        lambda f: f.at(4)[0].at(1)[1].at(3).update({1: (I32, 6)}),
        lambda f: f.update({6: (I32, 5)}),
        lambda f: f.at(4)[0].at(1)[1].at(3).update({6: (I64, -1)}),
        lambda f: f.at(4)[0].at(1)[1].at(3).update({7: (I64, 1 << 40)}),
        lambda f: f.at(4)[0].at(1)[1].at(3).update({5: (I64, 99)}),
        lambda f: f.at(4)[0].at(1)[1].at(3).update({9: (I32, 4)}),
        lambda f: f.at(4)[0].at(1)[1].update({1: (BINARY, b"elsewhere")}),
        lambda f: f.at(4)[0].at(1).pop(),
    ],
)
def test_footers_that_say_odd_things(folder, change):
    """What is copied is as it should be; else the column is decoded, and who decodes it says what is wrong."""
    folder.job(KEY).put("a.parquet", rows())
    change_footer(folder.path / "in/a.parquet", change)
    try:
        folder.run()
    except DataError as error:
        assert "a.parquet" in str(error)
        assert not (folder.path / "out").exists()
    else:
        assert folder.rows().drop("x_weight").equals(rows())
        assert pq.read_table(folder.path / "out/a.parquet").num_rows == 100


def test_a_column_that_is_read_as_another_type_is_not_carried(folder):
    folder.job(KEY, source={"drift": "widen"}).put("a.parquet", rows())
    folder.put("b.parquet", rows().with_columns(pl.col("f").cast(pl.Float64)))
    assert {name: "f" in found for name, found in carried(folder).items()} == {"a.parquet": False, "b.parquet": True}
    folder.run()
    assert folder.rows("a.parquet").schema == folder.rows("b.parquet").schema
    assert folder.rows("a.parquet")["f"].to_list() == rows()["f"].to_list()


def test_a_files_own_copy_of_a_partition_column_is_carried(folder):
    folder.job(KEY).put("i=7/a.parquet", rows())
    folder.run()
    assert "i" in carried(folder)["i=7/a.parquet"]
    assert pl.read_parquet(folder.path / "out/i=7/a.parquet", hive_partitioning=False)["i"].to_list() == list(
        range(100)
    )


def test_what_points_into_the_input_is_left_there(folder):
    """Page indices and Bloom filters say where pages lie; the footer's other words on a chunk are kept."""
    folder.job(KEY).put("a.parquet", rows())
    how = {
        "write_page_index": True,
        "compression": "zstd",
        "row_group_size": 40,
        "sorting_columns": [pq.SortingColumn(2)],
    }
    pq.write_table(rows().to_arrow(), folder.path / "in/a.parquet", **how)
    folder.run()
    one, other = (pq.read_metadata(folder.path / f / "a.parquet") for f in ("in", "out"))
    assert one.row_group(0).column(0).has_offset_index and not other.row_group(0).column(0).has_offset_index
    for i in range(one.num_row_groups):
        assert other.row_group(i).num_rows == one.row_group(i).num_rows and not other.row_group(i).sorting_columns
        for j in range(one.num_columns):
            kept = [m.row_group(i).column(j).statistics for m in (one, other)]
            assert kept[0] == kept[1] and kept[0].has_min_max
    assert other.created_by == one.created_by


def test_statistics_of_a_writer_without_an_order_stay_without_one(folder):
    """A reader must not trust bounds of texts that were written before there was an order."""
    folder.job(KEY).put("a.parquet", rows())

    def older(struct):
        del struct[7]
        struct[6] = (BINARY, b"parquet-mr version 1.7.0 (build x)")

    change_footer(folder.path / "in/a.parquet", older)
    folder.run()
    back, _ = thrift.read(footer(folder.path / "out/a.parquet"))
    assert 7 not in back and back.at(6) == b"parquet-mr version 1.7.0 (build x)"
    assert folder.rows().drop("x_weight").equals(rows())


def test_a_dictionary_that_is_said_to_lie_at_0_is_none(folder):
    folder.job(KEY).put("a.parquet", rows())
    path = folder.path / "in/a.parquet"
    pq.write_table(rows().to_arrow(), path, compression="zstd", use_dictionary=False)
    change_footer(path, lambda struct: [c.at(3).update({11: (I64, 0)}) for c in struct.at(4)[0].at(1)[1:]])
    folder.run()
    assert folder.rows().drop("x_weight").equals(rows())
    assert not any(11 in c.at(3) for c in thrift.read(footer(folder.path / "out/a.parquet"))[0].at(4)[0].at(1))


# What is wrong with a file


def input_of(folder, **how):
    """An input, its bytes, and where a chunk of it begins and ends that no rule reads."""
    folder.job(KEY).put("a.parquet", rows())
    path = folder.path / "in/a.parquet"
    pq.write_table(rows().to_arrow(), path, compression="zstd", use_dictionary=False, **how)
    meta = pq.read_metadata(path).row_group(0).column(2)
    return path, bytearray(path.read_bytes()), meta.data_page_offset, meta.data_page_offset + meta.total_compressed_size


@pytest.mark.parametrize(
    "change",
    [
        lambda page: {1: (I32, 2)},
        lambda page: {3: (I32, page.at(3) ^ 1)},
        lambda page: {3: (I32, -page.at(3))},
        lambda page: {5: (STRUCT, Struct({**page.at(5), 1: (I32, 101)}))},
        lambda page: {5: (I32, 100)},
        lambda page: {5: (STRUCT, Struct({**page.at(5), 1: (BINARY, b"")}))},
        lambda page: {5: (STRUCT, Struct({**page.at(5), 2: (BINARY, b"")}))},
        lambda page: {5: (STRUCT, Struct({**page.at(5), 2: (I32, 8)}))},
    ],
)
def test_pages_that_do_not_add_up_are_refused(folder, change):
    path, raw, start, _ = input_of(folder)
    page, end = thrift.read(raw, start)
    changed = thrift.written(Struct({**page, **change(page)}))
    raw[start:end] = changed[: end - start].ljust(end - start, b"\0")
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"in/a\.parquet: cannot be read: column 'i'; .* leaves it out: (its|a) page"):
        folder.run()
    assert not (folder.path / "out").exists()


@pytest.mark.parametrize("wrong", [{}, {11: (I64, 0)}, {11: (I64, 1 << 20)}])
def test_pages_of_a_dictionary_that_does_not_lie_before_them_are_refused(folder, wrong):
    folder.job(KEY).put("a.parquet", rows())
    path = folder.path / "in/a.parquet"
    pq.write_table(rows().to_arrow(), path, compression="zstd")

    def elsewhere(struct):
        meta = struct.at(4)[0].at(1)[2].at(3)
        del meta[11]
        meta.update(wrong)

    change_footer(path, elsewhere)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read: column 'i'; .*: a page that needs a dictionary"):
        folder.run()
    assert not (folder.path / "out").exists()


def test_what_lies_together_is_read_at_once_in_any_order(monkeypatch):
    monkeypatch.setattr(carry, "GAP", 2)
    monkeypatch.setattr(carry, "AT_ONCE", 30)
    for spans, wanted in (
        ([], []),
        ([(4, 10), (14, 5), (21, 5)], [(0, 3)]),
        ([(21, 5), (14, 5), (4, 10)], [(0, 3)]),
        ([(14, 5), (21, 5), (4, 10)], [(0, 3)]),
        ([(4, 10), (17, 5)], [(0, 1), (1, 2)]),
        ([(4, 10), (14, 10), (24, 11)], [(0, 2), (2, 3)]),
        ([(4, 99), (103, 1)], [(0, 1), (1, 2)]),
    ):
        assert [(run.start, run.stop) for run in carry._runs(spans)] == wanted


def test_bytes_after_the_last_page_are_nobodys(folder):
    path, raw, start, end = input_of(folder)
    raw[end:end] = b"\0" * 16
    path.write_bytes(raw)

    def longer(struct):
        for chunk in struct.at(4)[0].at(1)[3:]:
            chunk.at(3)[9] = (I64, chunk.at(3).at(9) + 16)
        meta = struct.at(4)[0].at(1)[2].at(3)
        meta[7] = (I64, meta.at(7) + 16)

    change_footer(path, longer)
    folder.run()
    assert "i" in carried(folder)["a.parquet"] and folder.rows().drop("x_weight").equals(rows())


def test_a_disk_that_does_not_read_is_the_inputs(folder, monkeypatch):
    folder.job(KEY).put("a.parquet", rows())

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(work, "PAUSES", ())  # what may pass is tried again
    monkeypatch.setattr(carry, "_runs", broken)
    with pytest.raises(DataError, match=r"in/a\.parquet: cannot be read: \[Errno 5\] Input/output error"):
        folder.run()


@pytest.mark.parametrize("sums", [True, False])
def test_a_checksum_is_held_against_its_page(folder, sums):
    path, raw, start, end = input_of(folder, write_page_checksum=sums)
    raw[end - 3] ^= 1
    path.write_bytes(raw)
    if sums:
        with pytest.raises(
            DataError, match=r"a\.parquet: cannot be read: column 'i'; .*: the checksum of a page does not hold$"
        ):
            folder.run()
    else:  # what nobody looks at is then copied as it is
        folder.run()
        assert raw[start:end] in (folder.path / "out/a.parquet").read_bytes()


def test_a_file_that_is_another_by_now_is_refused(tmp_path):
    rows().write_parquet(tmp_path / "a.parquet", row_group_size=60)
    batch, schema = Batch(tmp_path / "a.parquet", "a"), {**rows().schema, "w": pl.Float64()}
    for heights in ([50], [60], [60, 41], [60, 40, 5]):
        frames = (pl.DataFrame({"w": np.ones(n)}) for n in heights)
        with batch.source(rows().columns, "zstd") as source:
            with pytest.raises(DataError, match="changed while it was read"):
                batches.write(frames, schema, tmp_path / "out", batch, "zstd", dict, source)


def test_what_is_no_footer(tmp_path):
    for raw in (b"PAR1", b"PAR1" + b"\0" * 4 + b"PAR1", b"PAR1\x15" + (1).to_bytes(4, "little") + b"PAR1", b"12345678"):
        with pytest.raises((ValueError, OSError)):
            Pieces.of(io.BytesIO(raw))
