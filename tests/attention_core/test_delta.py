"""A Delta Lake table as the sink: the rows of a folder, one version a run, whole at every moment."""

import datetime as dt
import json
import shutil
import sys
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Field, TableFeatures
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction
from polars.testing import assert_frame_equal
from test_run import DOUBLE, GROUPS, SOFTMAX, Folder, before_the_kill, frame, killed, table_bits

from attention_core import delta
from attention_core.delta import Table, placed
from attention_core.errors import DataError, FarolError, JobError
from attention_core.stores import Remote

DELTA = {"format": "delta"}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path).job(GROUPS, sink=DELTA)


def version(folder):
    return DeltaTable(folder.path / "out").version()


def read(folder, **how):
    return pl.scan_delta(str(folder.path / "out"), **how).collect()


def outputs(folder):
    """The outputs of the newest version, by batch."""
    sink = folder.path / "out"
    return {name: table_bits(pq.ParquetFile(sink / path).read()) for name, path in Table(sink).live().items()}


def test_a_table_holds_what_a_folder_would_to_the_bit_and_is_read_as_one(folder):
    for name in ("p=1/a.parquet", "p=2/b.parquet"):
        folder.put(name, frame(50))
    folder.run("sink.format=parquet", "sink.path=" + str(folder.path / "plain"))
    folder.run()
    plain = {p.relative_to(folder.path / "plain").as_posix(): p for p in (folder.path / "plain").rglob("*.parquet")}
    assert outputs(folder) == {name: table_bits(pq.ParquetFile(path).read()) for name, path in plain.items()}
    rows = pl.read_parquet(folder.path / "plain/**/*.parquet", hive_partitioning=True)
    assert_frame_equal(read(folder), rows, check_row_order=False)
    arrow = pl.DataFrame(DeltaTable(folder.path / "out").to_pyarrow_table())
    assert_frame_equal(arrow, rows, check_row_order=False)
    (count,) = pa.table(DeltaTable(folder.path / "out").get_add_actions())["num_records"].unique().to_pylist()
    assert count == 50


def test_a_run_is_one_commit_and_older_versions_stay_as_they_were(folder):
    folder.put("a.parquet", frame(50, 1))
    folder.put("b.parquet", frame(50, 2))
    folder.run()
    first = read(folder)
    assert folder.run().plan.nothing and version(folder) == 0
    folder.put("b.parquet", frame(40, 3))
    folder.put("c.parquet", frame(30, 4))
    assert folder.run().written == 3 and version(folder) == 1
    assert read(folder).height == 120 and folder.run().plan.nothing
    assert_frame_equal(read(folder, version=0), first, check_row_order=False)
    assert DeltaTable(folder.path / "out").transaction_version("farol") == 2
    assert DeltaTable(folder.path / "out").history(1)[0]["userMetadata"] == "job"


def test_only_what_changed_is_replaced(folder):
    folder.job(DOUBLE, sink=DELTA).put("a.parquet", [1, 6])
    folder.put("b.parquet", [7])
    folder.run()
    before = dict(Table(folder.path / "out").live())
    folder.put("b.parquet", [8])
    assert folder.run().written == 1
    now = Table(folder.path / "out").live()
    assert now["a.parquet"] == before["a.parquet"] and now["b.parquet"] != before["b.parquet"]


@pytest.mark.parametrize(("gone", "left"), [("remove", 1), ("keep", 3)])
def test_outputs_whose_input_is_gone(folder, gone, left):
    folder.job(DOUBLE, sink=DELTA).put("a.parquet", [1])
    lost = folder.put("b.parquet", [7, 8])
    folder.run()
    lost.unlink()
    with pytest.raises(JobError, match="1 output has no input any more, the first of them b.parquet"):
        folder.run()
    folder.run(f"sink.gone={gone}")
    assert read(folder).height == left and read(folder, version=0).height == 3


def test_without_its_work_folder_and_after_a_vacuum_nothing_is_done_again(folder):
    folder.job(DOUBLE, sink=DELTA).put("a.parquet", [1, 6])
    folder.run()
    folder.put("a.parquet", [2, 7])
    folder.run()
    shutil.rmtree(folder.path / "out.farol")
    DeltaTable(folder.path / "out").vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert folder.run().written == 0 and read(folder)["x"].to_list() == [2, 7]
    assert len(list((folder.path / "out").glob("*.parquet"))) == 1


# Folders

NAMES = [
    ("d=2024-05-06/a.parquet", "auto", {"d": dt.date(2024, 5, 6)}),
    ("n=-3/a.parquet", "auto", {"n": -3}),
    ("n=007/t=a%2Fb c/ü =.parquet", "auto", {"n": 7, "t": "a/b c"}),
    ("t=__HIVE_DEFAULT_PARTITION__/a.parquet", "auto", {"t": None}),
    ("n=1/a.parquet", False, {}),
    ("%3D/50%=é/a b.parquet", False, {}),
]


@pytest.mark.parametrize(("name", "hive", "said"), NAMES)
def test_what_folders_say_are_partitions_however_they_are_called(folder, name, hive, said):
    folder.job(DOUBLE, source={"hive": hive}, sink=DELTA).put(name, [1, 6])
    folder.run()
    assert [row for row in read(folder).drop("x", "x_weight", "x_weighted").to_dicts() if row] == [said, said] * bool(
        said
    )
    assert read(folder)["x"].to_list() == [1, 6] and DeltaTable(folder.path / "out").to_pyarrow_table().num_rows == 2
    assert list(Table(folder.path / "out").live()) == [name] and folder.run().plan.nothing
    folder.put(name, [7])
    folder.run()
    assert read(folder)["x"].to_list() == [7]


@pytest.mark.parametrize(
    "name", ["t=a=b/a.parquet", "t=/a.parquet", "n=1/n=2/a.parquet", "a\tb/a.parquet", "a\n.parquet"]
)
def test_names_that_readers_take_for_others_are_refused(folder, name):
    folder.job(DOUBLE, sink=DELTA).put(name, [1, 6])
    with pytest.raises(JobError, match="sink.format: .*: (a control character|a folder with two =)"):
        folder.run()
    assert not (folder.path / "out").exists()


def test_columns_that_differ_in_case_alone_are_refused(folder):
    folder.job(DOUBLE, sink=DELTA).put("a.parquet", pl.DataFrame({"x": [1], "X": [2]}))
    with pytest.raises(DataError, match="out: 'x' and 'X' are one column to Delta; leave one out"):
        folder.run()
    folder.put("a.parquet", [1]).rename(folder.put("X=1/a.parquet", [1]))
    with pytest.raises(DataError, match="out: 'x' and 'X' are one column to Delta; leave one out"):
        folder.run()


@pytest.mark.parametrize("key", ["o#x", "o?x", "o%20x", "o\\x"])
def test_a_key_that_the_library_takes_for_another_is_refused(key):
    with pytest.raises(JobError, match="deltalake takes a '.*' in the path of a table for something else"):
        Table(Remote("s3://bucket", key)).checked()


def test_a_sink_within_a_table_is_refused(folder):
    folder.put("a.parquet", frame(20))
    folder.run()
    for how in ("delta", "parquet"):
        with pytest.raises(JobError, match="lies in"):
            folder.run(f"sink.path={folder.path}/out/inner", f"sink.format={how}")


def test_the_folder_of_a_table_may_be_called_almost_anything(folder):
    name = "a b #ü?=1"
    folder.job(DOUBLE, sink={**DELTA, "path": name}).put("a.parquet", [1, 6])
    folder.run()
    assert folder.run().plan.nothing and DeltaTable(folder.path / name).to_pyarrow_table().num_rows == 2
    folder.put("a.parquet", [2])
    assert folder.run().written == 1 and (folder.path / name / "_delta_log").is_dir()
    with pytest.raises(JobError, match="50%: deltalake takes a '%' in the path of a table for something else"):
        folder.run("sink.path=50%")


def test_a_column_that_files_have_too_is_no_partition(folder):
    folder.job(DOUBLE, sink=DELTA).put("g=1/a.parquet", pl.DataFrame({"x": [1, 6], "g": [5, 6]}))
    folder.run()
    assert DeltaTable(folder.path / "out").metadata().partition_columns == []
    assert read(folder)["g"].to_list() == [5, 6]


@pytest.mark.parametrize(
    ("name", "by"), [("a=1/b=2/c.pq", ["a"]), ("a/b%2/c", []), ("x.parquet", []), ("%=/x", ["%"]), ("a%41/x", ["a%41"])]
)
def test_a_file_tells_its_batch(name, by):
    assert delta._batch(placed(name, "0123456789abcdef", by)) == name
    assert delta._batch(name) == name


# Types

KEPT = {
    "bool": pa.array([True, None]),
    "int8": pa.array([-1, None], pa.int8()),
    "int16": pa.array([-1, None], pa.int16()),
    "uint8": pa.array([2**8 - 1, None], pa.uint8()),
    "uint16": pa.array([2**16 - 1, None], pa.uint16()),
    "uint32": pa.array([2**32 - 1, None], pa.uint32()),
    "unsigned inside": pa.array([[2**32 - 1, None], None], pa.list_(pa.uint32())),
    "int64": pa.array([2**53 + 1, None]),
    "float32": pa.array([-0.0, None], pa.float32()),
    "text": pa.array(["a", None]),
    "large text": pa.array(["a", None], pa.large_string()),
    "categories": pa.array(["a", None]).dictionary_encode(),
    "bytes": pa.array([b"a", None]),
    "bytes of a length": pa.array([b"abc", None], pa.binary(3)),
    "date": pa.array([dt.date(2024, 1, 2), None]),
    "moment": pa.array([1, None], pa.timestamp("us", "UTC")),
    "zone": pa.array([1, None], pa.timestamp("us", "America/New_York")),
    "local time": pa.array([1, None], pa.timestamp("us")),
    "milliseconds": pa.array([1, None], pa.timestamp("ms")),
    "decimal": pa.array([Decimal("1.25"), None], pa.decimal128(38, 2)),
    "list": pa.array([[1.5, None], None], pa.large_list(pa.float64())),
    "struct": pa.array([{"a": 1, "b": ["c"]}, None]),
    "list of structs": pa.array([[{"a": 1}], None]),
}
REFUSED = {
    "unsigned": pa.array([1, None], pa.uint64()),
    "nanoseconds": pa.array([1, None], pa.timestamp("ns")),
    "half": pa.array([1.0, None], pa.float16()),
    "time": pa.array([1, None], pa.time64("us")),
    "duration": pa.array([1, None], pa.duration("us")),
    "array": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
    "unsigned keys": pa.array([[(1, 2)], None], pa.map_(pa.uint32(), pa.int64())),
    "unsigned deep inside": pa.array([[{"a": 1}], None], pa.list_(pa.struct({"a": pa.uint64()}))),
}


def with_column(folder, column):
    folder.job(DOUBLE, sink=DELTA)
    (folder.path / "in").mkdir()
    pq.write_table(pa.table({"x": [1, 6], "c": column}), folder.path / "in/a.parquet")


@pytest.mark.parametrize("column", KEPT.values(), ids=KEPT)
def test_a_type_that_delta_has_is_read_as_it_was(folder, column):
    with_column(folder, column)
    folder.run()
    wanted = [v.as_py() for v in column]
    assert DeltaTable(folder.path / "out").to_pyarrow_table()["c"].to_pylist() == wanted
    assert read(folder)["c"].to_list() == pl.Series(column).to_list()
    assert pq.read_table(next((folder.path / "out").glob("*.parquet")))["c"].type == column.type


@pytest.mark.parametrize("column", REFUSED.values(), ids=REFUSED)
def test_a_type_that_delta_lacks_is_refused_before_any_work(folder, column):
    with_column(folder, column)
    with pytest.raises(
        DataError, match=r"out: cannot be kept in a Delta table as it is: column 'c' \(.*except.*Delta has no"
    ):
        folder.run()
    assert not (folder.path / "out").exists() and not (folder.path / "out.farol").exists()
    folder.run('sink.columns={except: ["c"]}')
    assert read(folder).columns == ["x", "x_weight", "x_weighted"]


def test_a_naive_time_that_comes_later_is_a_feature_that_readers_are_told_of(folder):
    folder.job(DOUBLE, sink=DELTA).put("a.parquet", [1])
    folder.run()
    folder.put("a.parquet", pl.DataFrame({"x": [1], "t": [[dt.datetime(2024, 1, 1)]]}))
    folder.run()
    assert read(folder)["t"].to_list() == [[dt.datetime(2024, 1, 1)]] and read(folder, version=0)["x"].to_list() == [1]
    assert folder.run().plan.nothing and version(folder) == 2  # the feature has a commit of its own
    assert DeltaTable(folder.path / "out").transaction_version("farol") == 2


# Other columns


def test_other_columns_are_another_schema_where_every_file_is_made_anew(folder):
    folder.put("a.parquet", frame(20))
    folder.run()
    folder.job(GROUPS, SOFTMAX, sink=DELTA).run()
    assert "soft_weight" in read(folder).columns and "soft_weight" not in read(folder, version=0).columns
    assert folder.run().plan.nothing and version(folder) == 1


def test_other_columns_are_refused_where_a_file_would_keep_its_own(folder):
    for name in ("p=1/a.parquet", "p=2/b.parquet"):
        folder.put(name, frame(20))
    folder.run()
    folder.job(GROUPS, SOFTMAX, sink=DELTA, source={"where": "p = 2"})
    with pytest.raises(JobError, match=r"sink.format: .*differ in columns \(soft_weight\), and the file of p=1/a.p"):
        folder.run()
    assert version(folder) == 0


def test_columns_in_another_order_are_the_same_columns(folder):
    for name in ("p=1/a.parquet", "p=2/b.parquet"):
        folder.put(name, frame(20))
    folder.run()
    for name in ("p=1/a.parquet", "p=2/b.parquet"):
        folder.put(name, frame(30).select("y", "x", "h", "g", "id"))
    folder.run("source.where=p = 2", "sink.gone=keep")
    assert read(folder).group_by("p").len().sort("p").rows() == [(1, 20), (2, 30)]


def test_other_partitions_are_refused(folder):
    folder.job(DOUBLE, sink=DELTA).put("p=1/a.parquet", [1])
    folder.run()
    with pytest.raises(JobError, match="partitioned by p, not by none; name another sink.path"):
        folder.run("source.hive=false")


# What is in the way


def test_a_table_is_no_folder_of_files_and_a_folder_no_table(folder):
    folder.put("a.parquet", frame(20))
    folder.run()
    with pytest.raises(
        JobError, match="sink.format: .*out is a Delta table, or lies in one, which format: delta writes"
    ):
        folder.run("sink.format=parquet")
    (folder.path / "out/p=1").mkdir()
    shutil.copy(folder.path / "in/a.parquet", folder.path / "out/p=1")
    for path in ("out", "out/*.parquet", "out/p=1", "out/p=1/*", ".", "*/*/*.parquet"):
        with pytest.raises(
            JobError, match="source.path: .*out is a Delta table, where files of older versions lie too"
        ):
            folder.run(f"source.path={folder.path}/{path}", f"sink.path={folder.path.parent}/other")
    file = Table(folder.path / "out").path("a.parquet")
    folder.run(f"source.path={file}", f"sink.path={folder.path}/other", "sink.format=parquet", "attention=[{key: y}]")
    other = [f"sink.path={folder.path}/plain"]
    folder.run("sink.format=parquet", *other)
    with pytest.raises(JobError, match="sink.format: .*plain holds Parquet files that are no Delta table's"):
        folder.run(*other)


def test_without_the_library_it_says_how_to_have_it(folder, monkeypatch):
    folder.put("a.parquet", frame(20))
    monkeypatch.setitem(sys.modules, "deltalake.transaction", None)
    with pytest.raises(JobError, match="sink.format: delta needs the package deltalake, 1.6.4 or later; pip install"):
        folder.run()


# Others who write to the table


def theirs(sink):
    """Appends rows, as somebody else would."""
    table = DeltaTable(sink)
    pl.scan_delta(str(sink)).collect()[:1].write_parquet(sink / "theirs.parquet")
    table.create_write_transaction(
        [AddAction("theirs.parquet", (sink / "theirs.parquet").stat().st_size, {}, 0, True, "{}")],
        "append",
        table.schema(),
    )


def optimized(sink):
    DeltaTable(sink).optimize.compact()


@pytest.mark.parametrize("by_them", [theirs, optimized])
@pytest.mark.parametrize("gone", ["refuse", "keep", "remove"])
def test_what_others_have_written_is_neither_lost_nor_doubled(folder, by_them, gone):
    folder.job(DOUBLE, sink={**DELTA, "gone": gone}).put("a.parquet", [1])
    folder.put("b.parquet", [2, 7])
    folder.run()
    by_them(folder.path / "out")
    rows = sorted(read(folder)["x"])
    folder.put("b.parquet", [3])
    with pytest.raises(JobError, match="has files that Farol did not write, as .*; DeltaTable.restore"):
        folder.run()
    assert sorted(read(folder)["x"]) == rows
    DeltaTable(folder.path / "out").restore(0)
    folder.run()
    assert sorted(read(folder)["x"]) == [1, 3] and folder.run().plan.nothing


@pytest.mark.parametrize("rules", [[DOUBLE], [DOUBLE, SOFTMAX]], ids=["", "schema"])
@pytest.mark.parametrize("by_them", [theirs, optimized])
@pytest.mark.parametrize("at", ["commit", "_objection"])
def test_nor_where_they_write_while_a_run_publishes(folder, monkeypatch, by_them, rules, at):
    folder.job(DOUBLE, sink=DELTA).put("a.parquet", [1])
    folder.put("b.parquet", [2, 7])
    folder.run()
    folder.job(*rules, sink=DELTA).put("a.parquet", [4])
    whole, sink, done = getattr(Table, at), folder.path / "out", []

    def late(*given):
        """They write right before the commit, or when it has looked whether they did."""
        before = at == "commit"
        found = None if before else whole(*given)
        if not done and (before or sys._getframe(1).f_code.co_name == "_tried"):
            done.append(by_them(sink))
        return whole(*given) if before else found

    monkeypatch.setattr(Table, at, late)
    said = "(has files that Farol did not write|was written to by somebody else).*; nothing was published, run again"
    with pytest.raises(DataError, match=said):
        folder.run()
    assert done and sorted(read(folder)["x"]) == sorted([1, 2, 7] + [1] * (by_them is theirs))
    assert not (folder.path / "out.farol/journal.json").exists()
    assert len(list(sink.glob("*-a.parquet"))) == 1  # what was given up is gone
    DeltaTable(sink).restore(0)
    monkeypatch.undo()
    folder.run()
    assert sorted(read(folder)["x"]) == [2, 4, 7] and folder.run().plan.nothing


def vectors(table):
    table.alter.add_feature(TableFeatures.DeletionVectors, True)


def tracked(table):
    table.alter.add_feature(TableFeatures.RowTracking, True)


def constrained(table):
    table.alter.add_constraint({"p": "x > 0"})


def append_only(table):
    table.alter.set_table_properties({"delta.appendOnly": "true"})


SET = {
    "deletionVectors": vectors,
    "rowTracking": tracked,
    "delta.constraints.p": constrained,
    "delta.appendOnly": append_only,
}


@pytest.mark.parametrize(("said", "by_them"), SET.items())
def test_settings_that_it_does_not_heed_are_refused_before_any_work(folder, said, by_them):
    folder.job(DOUBLE, sink=DELTA).put("a.parquet", [1])
    folder.run()
    by_them(DeltaTable(folder.path / "out"))
    folder.put("a.parquet", [-1])
    with pytest.raises(JobError, match=f"sink.format: .*has {said}, which Farol does not heed"):
        folder.run()


def test_columns_that_others_have_added_are_refused_until_all_is_done_again(folder):
    folder.job(DOUBLE, sink=DELTA).put("a.parquet", [1])
    folder.put("b.parquet", [2])
    folder.run()
    DeltaTable(folder.path / "out").alter.add_columns([Field("extra", PrimitiveType("string"))])
    folder.put("b.parquet", [3])
    with pytest.raises(JobError, match=r"differ in columns \(extra\), .*run once with --full"):
        folder.run()
    assert folder.run(full=True).written == 2 and sorted(read(folder)["x"]) == [1, 3]


def test_what_had_been_made_ready_and_is_gone_is_made_again(folder, monkeypatch):
    cut_short(folder, monkeypatch)
    shutil.rmtree(folder.path / "out")
    with pytest.raises(DataError, match="out lacks .*-a.parquet, .*nothing was published, run again"):
        folder.run()
    assert folder.run().written == 1 and read(folder).height == 20 and version(folder) == 0


def test_a_damaged_log_is_one_line(folder):
    folder.put("a.parquet", frame(20))
    folder.run()
    (folder.path / "out/_delta_log/00000000000000000000.json").write_text("{")
    with pytest.raises(FarolError, match="out: the Delta table cannot be read or written: ") as error:
        folder.run()
    assert "\n" not in str(error.value)


# Killed at any moment


def test_killed_at_any_moment_a_version_is_whole_and_the_next_run_ends_with_one_more(tmp_path):
    first = before_the_kill(tmp_path / "first", GROUPS, **DELTA)
    copies = [Folder(shutil.copytree(first.path, tmp_path / str(i))) for i in range(60)]
    old = outputs(first)
    first.run()
    whole = outputs(first)
    ended = killed(2, [c.path / "job.yaml" for c in copies])
    assert 15 < len(ended) < 60
    seen = set()
    for copy in copies[: len(ended)]:
        now, many = outputs(copy), version(copy)
        assert (now, many) in ((old, 0), (whole, 1))
        seen.add((many, (copy.path / "out.farol/journal.json").exists()))
        copy.run()
        assert outputs(copy) == whole and version(copy) == 1 and copy.run().plan.nothing
        assert DeltaTable(copy.path / "out").transaction_version("farol") == 2
        assert {p.name for p in (copy.path / "out.farol").iterdir()} - {"lock"} == {
            "published.json", "runs", "states", "statistics"
        }  # fmt: skip
    assert seen == {(0, False), (0, True), (1, True), (1, False)}


def cut_short(folder, monkeypatch):
    """The very first publish, killed when all files are in their place."""
    folder.put("a.parquet", frame(20))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Table, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        folder.run()
    assert not (folder.path / "out/_delta_log").exists()
    assert json.loads((folder.path / "out.farol/journal.json").read_text())["commit"]["number"] == 1


def test_the_first_version_is_finished_too(folder, monkeypatch):
    cut_short(folder, monkeypatch)
    assert folder.run().written == 0 and version(folder) == 0 and read(folder).height == 20


def test_files_without_a_journal_are_in_nobodys_way(folder, monkeypatch):
    cut_short(folder, monkeypatch)
    shutil.rmtree(folder.path / "out.farol")
    assert folder.run().written == 1 and version(folder) == 0 and read(folder).height == 20


def test_a_publish_is_finished_as_it_was_begun_whatever_the_job_says_by_then(folder, monkeypatch):
    cut_short(folder, monkeypatch)
    with pytest.raises(JobError, match="is a Delta table, or lies in one, which format: delta writes"):
        folder.run("sink.format=parquet", "sink.gone=keep")
    assert version(folder) == 0 and read(folder).height == 20
