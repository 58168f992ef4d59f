"""Whole runs: what they write and where, what they do again, what they refuse, and that nothing stops them for good."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from attention_core import attention, batches, statistics
from attention_core import run as runs
from attention_core.errors import DataError, ExpectationMissed, JobError, SinkBusy
from attention_core.outputs import Outputs
from attention_core.run import execute, opened, run

ROOT = Path(__file__).parents[2]
DOUBLE = {"key": "x", "score": {"kind": "threshold", "above": 5}, "weight": "step"}
SOFTMAX = {"name": "soft", "key": "x", "score": "zscore", "weight": "softmax", "apply": "weights"}
GROUPS = {"name": "in_group", "key": "x", "over": {"group": ["g"]}, "score": "zscore", "weight": "softmax"}
EVERY = [
    {"name": "far", "key": "x", "score": "zscore", "weight": "softmax", "scale": {"mean": 1.0}},
    {**GROUPS, "value": "y"},
    {"name": "recent", "key": "id", "score": "recency", "weight": {"kind": "exponential", "half_life": 9}},
    {"name": "both", "score": {"kind": "expression", "sql": "far_weight * in_group_weight"}, "apply": "weights"},
    {"name": "on_both", "key": "both_weight", "over": {"group": ["g", "h"]}, "weight": "linear", "apply": "weights"},
]


def frame(n, seed=0):
    r = np.random.default_rng(seed)
    x = [None if u < 0.1 else np.nan if u < 0.15 else v for u, v in zip(r.random(n), r.normal(size=n), strict=True)]
    return pl.DataFrame(
        {
            "id": np.arange(n),
            "x": pl.Series(x, dtype=pl.Float64, strict=False),
            "y": r.normal(size=n).astype("f4"),
            "g": [["a", "b", None][i] for i in r.integers(0, 3, n)],
            "h": r.integers(0, 4, n),
        },
        nan_to_null=False,
    )


class Folder:
    """A job file and what is around it."""

    def __init__(self, path):
        self.path = path
        path.mkdir(exist_ok=True)

    def job(self, *rules, **entries):
        sink = {"path": "out", **entries.pop("sink", {})}
        source = {"path": "in", **entries.pop("source", {})}
        job = {"name": "job", "source": source, "sink": sink, "attention": rules or [DOUBLE], **entries}
        (self.path / "job.yaml").write_text(json.dumps(job))
        return self

    def put(self, name, rows, **how):
        """Writes an input, from a frame or from the values of x."""
        path = self.path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (rows if isinstance(rows, pl.DataFrame) else pl.DataFrame({"x": rows})).write_parquet(path, **how)
        return path

    def run(self, *overrides, **how):
        return run(self.path / "job.yaml", overrides, **how)

    def rows(self, name="a.parquet", sink="out"):
        return pl.read_parquet(self.path / sink / name, hive_partitioning=False, glob=False)

    def held(self, sink="out"):
        """What is in the sink, with its bytes and the time it was written."""
        files = [f for f in (self.path / sink).rglob("*") if f.is_file()]
        return {f.relative_to(self.path / sink).as_posix(): (f.read_bytes(), f.stat().st_mtime_ns) for f in files}

    def written(self, before):
        """The outputs that are not as they were."""
        now = self.held()
        return sorted(name for name in now if now[name] != before.get(name))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def table_bits(table):
    """Values, types and metadata; a float's repr tells it to the last bit, and Farol's footer holds times."""
    metadata = {k: v for k, v in (table.schema.metadata or {}).items() if k != b"farol"}
    schema = table.schema.with_metadata(metadata).to_string(show_schema_metadata=True, show_field_metadata=True)
    return schema, repr(table.to_pydict())


def bits(sink):
    """All outputs by name."""
    return {f.relative_to(sink).as_posix(): table_bits(pq.ParquetFile(f).read()) for f in sink.rglob("*.parquet")}


def farol(path):
    return json.loads(pq.read_metadata(path).metadata[b"farol"])


# What is written, and where


def test_the_example_as_rows(folder):
    run(ROOT / "data/lighthouse/job.yaml", [f"sink.path={folder.path}/out"])
    out = folder.rows("rows.parquet")
    assert out.columns == ["x", "x_weight", "x_weighted"]
    assert out["x"].to_list() == [1, 6, 3, 7, 2, 5, 9]
    assert out["x_weight"].to_list() == [1, 2, 1, 2, 1, 1, 2] and out["x_weight"].dtype == pl.Float64
    assert out["x_weighted"].to_list() == [1, 12, 3, 14, 2, 5, 18] and out["x_weighted"].dtype == pl.Float64


def test_the_example_as_columns(folder):
    run(ROOT / "data/lighthouse/columns.yaml", [f"sink.path={folder.path}/out"])
    (row,) = folder.rows("columns.parquet").to_dicts()
    assert [row[f"s{i}_weight"] for i in range(1, 8)] == [1, 2, 1, 2, 1, 1, 2]
    assert [row[f"s{i}_weighted"] for i in range(1, 8)] == [1, 12, 3, 14, 2, 5, 18]


def test_the_example_as_a_list(folder):
    run(ROOT / "data/lighthouse/list.yaml", [f"sink.path={folder.path}/out"])
    (row,) = folder.rows("list.parquet").to_dicts()
    assert row["xs"] == [1, 6, 3, 7, 2, 5, 9]
    assert row["xs_weight"] == [1, 2, 1, 2, 1, 1, 2] and row["xs_weighted"] == [1, 12, 3, 14, 2, 5, 18]


def test_outputs_lie_where_the_inputs_do_and_three_readers_take_the_sink_as_a_folder(folder):
    folder.job(sink={"columns": {"except": ["x_weight"]}})
    for month in (1, 2):
        folder.put(f"year=2024/month={month:02}/a.parquet", [month, 6 + month])
    folder.put("year=2025/month=1/deep/b.parquet", [9])
    folder.run()
    assert sorted(folder.held()) == [
        "year=2024/month=01/a.parquet",
        "year=2024/month=02/a.parquet",
        "year=2025/month=1/deep/b.parquet",
    ]
    assert folder.rows("year=2024/month=01/a.parquet").columns == ["x", "x_weighted"]
    wanted = [(1, 1.0, 2024, 1), (2, 2.0, 2024, 2), (7, 14.0, 2024, 1), (8, 16.0, 2024, 2), (9, 18.0, 2025, 1)]
    out = folder.path / "out"
    by_polars = pl.scan_parquet(out, hive_partitioning=True).collect()
    assert sorted(by_polars.select("x", "x_weighted", "year", "month").rows()) == wanted
    query = f"SELECT x, x_weighted, year, month::INT FROM read_parquet('{out}/**/*.parquet', hive_partitioning = true)"
    assert sorted(duckdb.sql(query).fetchall()) == wanted
    by_arrow = ds.dataset(out, partitioning="hive").to_table(columns=["x", "x_weighted", "year", "month"])
    assert sorted(zip(*by_arrow.to_pydict().values(), strict=True)) == wanted


def test_nothing_but_rows_lies_in_the_sink_and_staging_is_swept(folder):
    folder.job(SOFTMAX).put("deep/a.parquet", [1, 6])
    folder.put("b.parquet", [2])
    folder.run()
    assert all(name.endswith(".parquet") for name in folder.held()) and len(folder.held()) == 2
    here = sorted(p.name for p in (folder.path / "out.farol").iterdir())
    assert here == ["published.json", "runs", "states", "statistics"]
    record = json.loads(next((folder.path / "out.farol/runs").iterdir()).read_text())
    assert (record["batches"], record["rows"], record["weights"]["soft_weight"]["rows"]) == (2, 3, 3)


def test_a_footer_tells_where_an_output_is_from(folder):
    folder.job(SOFTMAX).put("deep/a.parquet", [1, 6])
    outcome = folder.run()
    said = farol(folder.path / "out/deep/a.parquet")
    assert said["name"] == "deep/a.parquet" and said["rows"] == 2 and said["rules"] == outcome.run.outputs.rules
    assert said["input"]["size"] == (folder.path / "in/deep/a.parquet").stat().st_size
    assert len(said["input"]["hash"]) == 32 and set(said["versions"]) == {"numerics", "torch"}
    assert said["health"]["soft_weight"]["counts"] == [2, 0, 0, 0, 0, 0]
    assert "farol" in pl.read_parquet_metadata(folder.path / "out/deep/a.parquet")


@pytest.mark.parametrize(
    ("columns", "there"),
    [
        ("all", ["x", "y", "x_weight", "x_weighted"]),
        ("added", ["x_weight", "x_weighted"]),
        (["x_weighted", "y"], ["x_weighted", "y"]),
        ({"except": ["x", "x_weight"]}, ["y", "x_weighted"]),
    ],
)
def test_which_columns_are_written(folder, columns, there):
    folder.job(sink={"columns": columns}).put("a.parquet", pl.DataFrame({"x": [1, 6], "y": ["a", None]}))
    folder.run()
    assert folder.rows().columns == there


@pytest.mark.parametrize("compression", ["zstd", "lz4", "snappy", "gzip", "uncompressed"])
def test_compression(folder, compression):
    folder.job(sink={"compression": compression}).put("a.parquet", [1, 6])
    folder.run()
    found = pq.read_metadata(folder.path / "out/a.parquet").row_group(0).column(0).compression
    assert found.lower() == compression


# What is done again


def test_a_second_run_does_nothing(folder):
    for rules in ([DOUBLE], [SOFTMAX, DOUBLE]):
        folder.job(*rules).put("a.parquet", [1, 6])
        folder.put("b.parquet", [2, 8])
        assert folder.run().written == 2
        before = folder.held()
        again = folder.run()
        assert again.written == 0 and again.plan.nothing and folder.held() == before
        assert again.health[f"{'soft' if len(rules) == 2 else 'x'}_weight"].rows == 4


@pytest.mark.parametrize("rule", [DOUBLE, SOFTMAX])
def test_a_touched_input_is_not_changed(folder, rule):
    path = folder.job(rule).put("a.parquet", [1, 6])
    folder.run()
    before = folder.held()
    os.utime(path, (1, 1))
    touched = folder.run()
    assert touched.plan.counts() == {"to be hashed": 1}
    assert touched.written == 0 and folder.held() == before
    assert folder.run().plan.nothing


def test_changed_content_is_done_again_even_where_size_and_time_are_the_same(folder):
    path = folder.job().put("a.parquet", [1, 6])
    folder.put("b.parquet", [1, 6])
    folder.run()
    before, was = folder.held(), path.stat()
    folder.put("a.parquet", [6, 1])
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert path.stat().st_size == was.st_size
    assert folder.run().written == 1
    assert folder.written(before) == ["a.parquet"] and folder.rows()["x_weight"].to_list() == [2, 1]


def test_changed_rules_and_output_options_are_done_again(folder):
    folder.job().put("a.parquet", [1, 6])
    folder.run()
    folder.job({**DOUBLE, "weight": {"kind": "step", "high": 3.0}})
    assert folder.run().plan.entries[0].why == "rules" and folder.rows()["x_weight"].to_list() == [1, 3]
    folder.job({**DOUBLE, "weight": {"kind": "step", "high": 3.0}}, sink={"columns": "added"})
    assert folder.run().plan.entries[0].why == "output options" and "x" not in folder.rows().columns


@pytest.mark.parametrize(
    ("rule", "kept", "read"),
    [
        ({"score": "robust_zscore"}, 1 << 20, 2),
        ({"score": "robust_zscore"}, 3000, 5),
        ({"score": "robust_zscore"}, 0, 8),
        ({"score": "zscore"}, 1 << 20, 2),
        ({"score": "zscore", "weight": "softmax", "over": {"group": ["g"]}}, 1 << 20, 4),
        ({"weight": "softmax", "over": {"group": ["g"]}}, 1 << 20, 6),
    ],
)
def test_keys_are_read_once_for_all_passes_and_for_the_rows(folder, monkeypatch, rule, kept, read):
    """Two batches; a key column of 300 rows takes 2,400 bytes. The groups of a batch are read apart from its keys."""
    folder.job({"key": "x", "apply": "weights", **rule}, workers=1, chunk_rows=70)
    for i in range(2):
        folder.put(f"{i}.parquet", frame(300, i))
    monkeypatch.setattr(attention, "FIT_ROWS", 110)
    folder.run(f"sink.path={folder.path}/afresh", "workers=2")
    reads, real = [], batches.Batch.read
    monkeypatch.setattr(runs, "KEPT", kept)
    monkeypatch.setattr(batches.Batch, "read", lambda self, *how: reads.append(self.name) or real(self, *how))
    folder.run()
    assert len(reads) == read
    for name in ("0.parquet", "1.parquet"):
        assert_frame_equal(folder.rows(name), folder.rows(name, "afresh"), check_exact=True)


def test_what_does_not_change_rows_is_not_done_again(folder):
    folder.job(SOFTMAX).put("a.parquet", [1, 6])
    folder.run()
    folder.job(SOFTMAX, sink={"gone": "keep"}, chunk_rows=1, workers=1)
    assert folder.run().plan.nothing


def test_a_new_batch_moves_the_statistics_of_all(folder):
    folder.job(SOFTMAX).put("a.parquet", [1, 6])
    folder.run()
    folder.put("b.parquet", [2])
    outcome = folder.run()
    assert outcome.written == 2 and outcome.plan.counts() == {"depends on the fit": 1, "new": 1}
    assert sum(folder.rows(n)["soft_weight"].sum() for n in ("a.parquet", "b.parquet")) == pytest.approx(1)


def test_a_batch_that_is_gone_moves_them_too(folder):
    folder.job(SOFTMAX, sink={"gone": "keep"}).put("a.parquet", [1, 6])
    gone = folder.put("b.parquet", [2])
    folder.run()
    before = folder.held()
    gone.unlink()
    assert folder.run().written == 1 and folder.written(before) == ["a.parquet"]
    assert folder.rows()["soft_weight"].sum() == pytest.approx(1)


def test_a_group_that_did_not_change_costs_no_rewrite(folder):
    folder.job(GROUPS).put("a.parquet", pl.DataFrame({"x": [1.0, 6, 2], "g": ["p", "p", "q"]}))
    folder.put("b.parquet", pl.DataFrame({"x": [1.0, 7], "g": ["q", "q"]}))
    folder.put("c.parquet", pl.DataFrame({"x": [1.0, 2, 3], "g": ["r", None, "r"]}))
    folder.run()
    before = folder.held()
    folder.put("b.parquet", pl.DataFrame({"x": [1.0, 8, 1], "g": ["q", "q", "new"]}))
    assert folder.run().written == 2
    assert folder.written(before) == ["a.parquet", "b.parquet"]
    assert folder.run().plan.nothing


def test_full_and_redo(folder):
    folder.job().put("a.parquet", [1])
    folder.put("b.parquet", [2])
    folder.run()
    assert folder.run(full=True).written == 2
    before = folder.held()
    execute(opened(folder.path / "job.yaml"), redo="b*")
    assert folder.written(before) == ["b.parquet"]
    with pytest.raises(JobError, match="no batch has such a name"):
        execute(opened(folder.path / "job.yaml"), redo="z*")


def test_a_damaged_or_deleted_output_is_made_again(folder):
    folder.job().put("a.parquet", [1, 6])
    folder.put("b.parquet", [7])
    folder.run()
    whole = bits(folder.path / "out")
    (folder.path / "out/a.parquet").write_bytes(b"PAR1")
    (folder.path / "out/b.parquet").unlink()
    assert folder.run().written == 2 and bits(folder.path / "out") == whole


@pytest.mark.parametrize("rule", [DOUBLE, SOFTMAX])
def test_without_its_work_folder_a_run_loses_no_row_and_writes_none_anew(folder, rule):
    folder.job(rule).put("a.parquet", [1, 6])
    folder.run()
    before = folder.held()
    shutil.rmtree(folder.path / "out.farol")
    assert folder.run().written == 0 and folder.held() == before


def test_what_a_failed_run_staged_is_no_part_of_a_later_ones_health(folder):
    folder.job().put("a.parquet", [1, 6])
    folder.run()
    folder.job({**DOUBLE, "weight": {"kind": "step", "high": 9.0}}, expect={"x": {"max": {"max": 2}}})
    with pytest.raises(ExpectationMissed):
        folder.run()
    folder.job()
    assert folder.run().health["x_weight"].summary()["max"] == 2
    folder.put("b.parquet", [7])
    outcome = folder.run()
    assert outcome.written == 1 and outcome.health["x_weight"].summary()["max"] == 2
    assert not (folder.path / "out.farol/staging").exists()


# The same bits


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The same rows in one file, and cut at random into seven, one of them empty, in another order."""
    folder = Folder(tmp_path_factory.mktemp("cut"))
    rows = frame(200)
    folder.put("../whole/a.parquet", rows)
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=1)
    r = random.Random(2)
    cuts = [0, *sorted([*r.sample(range(1, 200), 5), 90]), 90, 200]
    for i, (a, b) in enumerate(zip(sorted(cuts), sorted(cuts)[1:], strict=False)):
        folder.put(f"p={i % 3}/{i}.parquet", shuffled[a:b])
    return folder


@pytest.fixture(scope="module")
def undisturbed(cut):
    cut.job(*EVERY, chunk_rows="auto", workers=1)
    cut.run("sink.path=" + str(cut.path / "first"))
    return bits(cut.path / "first")


@pytest.mark.parametrize(("chunk_rows", "workers"), [(1, 1), (7, 1), (7, 2), ("auto", 2), (64, 5)])
def test_the_same_bits_for_any_chunks_and_workers(cut, undisturbed, tmp_path, chunk_rows, workers):
    split = 10 if workers > 1 else "auto"
    how = (f"chunk_rows={chunk_rows}", f"workers={workers}", f"source.split_rows={split}")
    cut.run(f"sink.path={tmp_path}/out", *how)
    assert bits(tmp_path / "out") == undisturbed


def test_the_same_bits_for_any_cut_into_files(cut, undisturbed, tmp_path):
    cut.run(f"sink.path={tmp_path}/out", f"source.path={cut.path}/whole")
    whole = pq.read_table(tmp_path / "out/a.parquet")
    files = sorted((cut.path / "first").rglob("*.parquet"))
    parts = pa.concat_tables([pq.ParquetFile(f).read() for f in files]).sort_by("id")
    assert whole.num_rows == 200 and len(files) >= 7
    assert table_bits(parts) == table_bits(whole)


def test_weights_sum_to_one_over_all_files(cut, undisturbed):
    weights = pl.scan_parquet(cut.path / "first/**/*.parquet").select("in_group_weight", "g").collect()
    sums = weights.fill_nan(None).group_by("g").sum()["in_group_weight"]
    assert len(sums) == 3 and all(s == pytest.approx(1, abs=1e-12) for s in sums)


@pytest.mark.parametrize(
    ("entry", "sql", "said"),
    [
        ("mask", "g = 1", "mask: cannot compare string with numeric type"),
        ("fit", "day = '2024-03-02'", "fit: a time is compared with a text; write it as date '2024-12-31'"),
        ("mask", "x > 'a'", "mask: cannot compare string with numeric type"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_row_is_read(folder, entry, sql, said):
    folder.job({"key": "x", entry: sql}).put("day=2024-03-02/a.parquet", frame(5))
    with pytest.raises(JobError, match=rf"attention\[0\]\.{said}"):
        opened(folder.path / "job.yaml")


def test_a_day_is_picked_by_its_date(folder):
    for day in (1, 2):
        folder.job(source={"where": "day = date '2024-03-02'"}).put(f"day=2024-03-0{day}/a.parquet", [day])
    assert folder.run().written == 1
    folder.job(source={"where": "day = '2024-03-02'"})
    with pytest.raises(JobError, match="source.where: .*write it as date '2024-12-31'"):
        folder.run()


# Killed at any moment

KILLED = """
import gc, json, os, shutil, signal, sys
from pathlib import Path
from attention_core import delta, run

steps, last = 0, None

def step():
    global steps
    steps += 1
    if steps == last:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(owner, name):
    whole = getattr(owner, name)
    def one(*given, **named):
        step()
        return whole(*given, **named)
    setattr(owner, name, one)

class Watch(run.Watch):
    def rows(self, rows):
        step()

def killed(job, at):
    global last
    last = at
    child = os.fork()
    if not child:
        for owner, name in ((os, "replace"), (Path, "unlink"), (shutil, "rmtree"), (delta.Table, "commit")):
            counted(owner, name)
        run.run(job, watch=Watch())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

gc.freeze()  # else each child looks at all that its parent holds, and so copies it
every, jobs = int(sys.argv[1]), sys.argv[2:]
at = 1 - every
ended = []
while not ended or ended[-1] != 0:
    at += every
    ended.append(killed(jobs[min(len(ended), len(jobs) - 1)], at))
print(json.dumps(ended))
"""


def killed(every, jobs):
    """How runs ended that were killed at their first, (1 + every)-th, ... step, until one has no so many."""
    command = [sys.executable, "-c", KILLED, str(every), *(str(j) for j in jobs)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert set(ended[:-1]) == {-9} and ended[-1] == 0
    return ended


def before_the_kill(path, *then, **sink):
    """A sink that a run published, and then other rules, a changed batch, a new one, and one that is gone."""
    folder = Folder(path).job(GROUPS, workers=1, chunk_rows=50, sink={"gone": "remove", **sink})
    for i in range(3):
        folder.put(f"p={i}/{i}.parquet", frame(50, i))
    folder.run()
    folder.job(*then or (SOFTMAX, GROUPS), workers=1, chunk_rows=50, sink={"gone": "remove", **sink})
    folder.put("p=1/1.parquet", frame(70, 5))
    folder.put("p=3/3.parquet", frame(30, 6))
    (path / "in/p=2/2.parquet").unlink()
    return folder


def as_if_nothing_had_happened(folder, whole):
    assert bits(folder.path / "out") == whole
    work = folder.path / "out.farol"
    assert {p.name for p in work.iterdir()} - {"lock"} == {"published.json", "runs", "states", "statistics"}
    fitted = json.loads((work / "published.json").read_text())["fitted"]
    assert [p.name for p in (work / "statistics").iterdir()] == [fitted] and statistics._id(
        work / "statistics" / fitted
    ) == fitted
    assert folder.run().plan.nothing


def test_killed_at_any_moment_the_next_run_ends_as_if_nothing_had_happened(tmp_path):
    first = before_the_kill(tmp_path / "first")
    copies = [Folder(shutil.copytree(first.path, tmp_path / str(i))) for i in range(60)]
    old = bits(first.path / "out")
    first.run()
    whole = bits(first.path / "out")
    ended = killed(2, [c.path / "job.yaml" for c in copies])  # each step of its own is `make stress`
    assert 15 < len(ended) < 60
    seen = set()
    for copy in copies[: len(ended)]:
        now = bits(copy.path / "out")  # a reader finds whole files, of one run or of the other
        assert all(b in (old.get(name), whole.get(name)) for name, b in now.items()) and set(old) - set(now) <= {
            "p=2/2.parquet"
        }
        seen.add((now == old, now == whole, (copy.path / "out.farol/journal.json").exists()))
        copy.run()
        as_if_nothing_had_happened(copy, whole)
    assert seen >= {(True, False, False), (True, False, True), (False, False, True), (False, True, True)}


@pytest.mark.parametrize("every", [3])
def test_killed_again_and_again_it_ends_all_the_same(tmp_path, every):
    folder = before_the_kill(tmp_path / "one")
    other = Folder(shutil.copytree(folder.path, tmp_path / "other"))
    other.run()
    assert len(killed(every, [folder.path / "job.yaml"])) > 3
    folder.run()
    as_if_nothing_had_happened(folder, bits(other.path / "out"))


def test_an_interrupted_publish_is_finished_where_all_outputs_are_in_their_place(folder):
    folder.job().put("a.parquet", [1, 6])
    folder.run()
    work = folder.path / "out.farol"
    told = {
        "moves": [],
        "removes": [],
        "tables": [],
        "run": "1",
        "published": json.loads((work / "published.json").read_text()),
    }
    (work / "journal.json").write_text(json.dumps(told))
    assert not opened(folder.path / "job.yaml").plan().nothing
    assert folder.run().written == 0 and not (work / "journal.json").exists()


def test_what_was_staged_for_nothing_is_swept(folder):
    folder.job().put("a.parquet", [1, 6])
    folder.run()
    folder.put("b.parquet", [7])
    folder.job(expect={"x": {"max": {"max": 1}}})
    with pytest.raises(ExpectationMissed):
        folder.run()
    work = folder.path / "out.farol"
    assert list((work / "staging").rglob("*.staged"))
    (work / "runs/2000.json.part").write_text("")
    (folder.path / "in/b.parquet").unlink()
    folder.job()
    assert folder.run().plan.nothing and not (work / "staging").exists() and not list((work / "runs").glob("*.part"))
    assert len(list((work / "statistics").iterdir())) == 1


@pytest.mark.parametrize(
    "journal",
    ["", "[]", "{}", '{"moves": [], "removes": ["../in/a.parquet"], "tables": [], "run": "1", "published": {}}'],
)
def test_a_damaged_journal_is_an_error_and_does_nothing(folder, journal):
    folder.job().put("a.parquet", [1, 6])
    folder.run()
    (folder.path / "out.farol/journal.json").write_text(journal)
    with pytest.raises(DataError, match="journal.json: is damaged; move it away"):
        folder.run()
    assert (folder.path / "in/a.parquet").exists() and sorted(folder.held()) == ["a.parquet"]


@pytest.mark.parametrize("published", ["", "[]", '{"batches": 3}', "null"])
def test_what_was_published_may_be_lost(folder, published):
    folder.job(SOFTMAX).put("a.parquet", [1, 6])
    folder.run()
    (folder.path / "out.farol/published.json").write_text(published)
    folder.run()
    assert folder.run().plan.nothing


def test_a_state_or_a_record_that_cannot_be_kept_fails_no_run(folder, monkeypatch):
    folder.job(SOFTMAX).put("a.parquet", [1, 6])
    folder.path.joinpath("out.farol").mkdir()
    for name in ("states", "runs"):
        (folder.path / "out.farol" / name).write_text("a file, where a folder should be")
    assert folder.run().written == 1 and folder.run().plan.nothing


def test_what_is_staged_already_is_not_written_again(folder, monkeypatch):
    folder.job(expect={"x": {"max": {"max": 1}}}).put("a.parquet", [1, 6])
    folder.put("b.parquet", [1])
    with pytest.raises(ExpectationMissed):
        folder.run()
    folder.job()
    folder.put("b.parquet", [7])
    written = []
    whole = batches.write

    def write(frames, schema, target, like, *rest):
        written.append(like.name)
        whole(frames, schema, target, like, *rest)

    staged = sorted(f.name for f in (folder.path / "out.farol/staging").rglob("*.*") if f.is_file())
    assert staged == ["a.parquet.staged", "b.parquet.staged"]  # no reader takes them for rows
    monkeypatch.setattr(batches, "write", write)
    assert folder.run().written == 2 and written == ["b.parquet"]
    assert folder.rows()["x_weight"].to_list() == [1, 2] and folder.rows("b.parquet")["x_weight"].to_list() == [2]


def test_a_publish_that_was_cut_short_is_finished_before_anything_else(folder, monkeypatch):
    folder.job().put("a.parquet", [1, 6])
    folder.put("b.parquet", [7])
    replace = os.replace

    def cut_short(source, target):
        if str(target).endswith("out/b.parquet"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", cut_short)
        folder.run()
    assert sorted(folder.held()) == ["a.parquet"]
    folder.put("c.parquet", [8])
    folder.job(expect={"x": {"max": {"max": 1}}})
    with pytest.raises(ExpectationMissed):
        folder.run()
    assert sorted(folder.held()) == ["a.parquet", "b.parquet"]


def test_a_second_run_is_refused_while_the_first_is_alive(folder):
    folder.job().put("a.parquet", [1, 6])
    with opened(folder.path / "job.yaml").place.held():
        with pytest.raises(SinkBusy, match="another run holds this sink"):
            folder.run()
        assert not (folder.path / "out").exists()
    assert folder.run().written == 1


# What is refused


def test_a_missed_expectation_publishes_nothing(folder):
    folder.job().put("a.parquet", [1, 6])
    folder.run()
    before = folder.held()
    published = (folder.path / "out.farol/published.json").read_bytes()
    folder.put("a.parquet", [1, 7, None])
    folder.put("b.parquet", [8])
    bounds = {
        "x": {"mean": {"max": 1.5}, "null_fraction": {"max": 0.1}, "max": {"max": 2}},
        "source": {"rows": {"min": 5}},
    }
    folder.job(expect=bounds)
    with pytest.raises(ExpectationMissed) as missed:
        folder.run()
    said = str(missed.value)
    assert "x_weight: mean is 1.66667, not at most 1.5" in said and "null_fraction is 0.25" in said
    assert "source: rows is 4, not at least 5" in said and "max is" not in said.replace("at most", "")
    assert folder.held() == before
    assert (folder.path / "out.farol/published.json").read_bytes() == published
    folder.job()
    assert folder.run().written == 2


def test_expected_rows_are_rows_also_where_weights_are_lists(folder):
    rule = {"key": "x", "over": "row", "weight": "softmax"}
    folder.job(rule, expect={"source": {"rows": {"min": 2, "max": 2}}})
    folder.put("a.parquet", pl.DataFrame({"x": [[1.0, 2, 3], [4.0]]}))
    folder.run()


def test_expectations_of_no_rows_are_told_not_tripped_over(folder):
    folder.job(expect={"x": {"mean": {"min": 1}}}).put("a.parquet", pl.DataFrame({"x": [1]}).clear())
    with pytest.raises(ExpectationMissed, match="mean is not there"):
        folder.run()


def test_outputs_whose_input_is_gone(folder):
    folder.job().put("a.parquet", [1])
    gone = folder.put("d/b.parquet", [2])
    folder.run()
    before = folder.held()
    gone.unlink()
    with pytest.raises(JobError, match="1 output has no input any more, the first of them d/b.parquet"):
        folder.run()
    assert folder.held() == before
    folder.job(sink={"gone": "keep"})
    assert folder.run().written == 0 and folder.held() == before
    folder.job(sink={"gone": "remove"})
    assert folder.run().plan.counts() == {"done": 1, "gone": 1}
    assert folder.held() == {"a.parquet": before["a.parquet"]}
    assert folder.run().plan.nothing


def test_a_file_that_is_not_farols_is_never_removed_or_replaced(folder):
    folder.job(sink={"gone": "remove"}).put("a.parquet", [1])
    (folder.path / "out").mkdir()
    pl.DataFrame({"mine": [1]}).write_parquet(folder.path / "out/mine.parquet")
    before = folder.held()
    with pytest.raises(JobError, match="mine.parquet was not written by Farol"):
        folder.run()
    folder.put("mine.parquet", [1])
    with pytest.raises(JobError, match="mine.parquet was not written by Farol"):
        folder.run()
    assert folder.held() == before


@pytest.mark.parametrize(
    ("source", "sink"),
    [("in", "in/out"), ("in", "in"), ("in", "."), ("in/deep", "in"), ("in/**/*.parquet", "in/out"), ("i?/*", "in/out")],
)
def test_the_sink_and_the_source_lie_apart(folder, source, sink):
    folder.job(source={"path": source}, sink={"path": sink}).put("deep/a.parquet", [1])
    folder.put("a.parquet", [1])
    with pytest.raises(JobError, match="lies"):
        folder.run()


@pytest.mark.parametrize("work", ["out", "out/w", ".", "in/w"])
def test_the_work_folder_lies_apart_from_both(folder, work):
    folder.job(sink={"work": work}).put("a.parquet", [1])
    with pytest.raises(JobError, match="sink.work"):
        folder.run()


def test_the_work_folder_may_lie_elsewhere(folder):
    folder.job(sink={"work": "w/farol"}).put("a.parquet", [1])
    folder.run()
    assert (folder.path / "w/farol/published.json").exists() and not (folder.path / "out.farol").exists()
    assert folder.run().plan.nothing


def test_a_link_does_not_hide_that_they_do_not(folder):
    folder.job(sink={"path": "link/out"}).put("a.parquet", [1])
    (folder.path / "link").symlink_to(folder.path / "in")
    with pytest.raises(JobError, match="lies inside the source"):
        folder.run()


def test_a_file_and_a_sink_beside_it(folder):
    folder.job(source={"path": "a.parquet"}).put("../a.parquet", [1, 6])
    folder.run()
    assert folder.rows()["x_weight"].to_list() == [1, 2]
    folder.job(source={"path": "out/a.parquet"})
    with pytest.raises(JobError, match="lies around the source"):
        folder.run()


@pytest.mark.parametrize(
    ("path", "said"), [("in", "no *.parquet"), ("no", "no file or folder"), ("in/*.parquet", "no file matches")]
)
def test_a_source_without_files(folder, path, said):
    folder.job(source={"path": path})
    (folder.path / "in").mkdir()
    (folder.path / "in/note.txt").write_text("")
    with pytest.raises(JobError) as error:
        folder.run()
    assert said in str(error.value) and str(error.value).startswith("job.yaml:1:") and "source.path" in str(error.value)


def damaged(path, how):
    whole = path.read_bytes()
    middle = bytes(b ^ 0xFF for b in whole[4:200])
    path.write_bytes(
        {"cut": whole[:-20], "empty": b"", "garbage": b"PAR1" * 40, "pages": whole[:4] + middle + whole[200:]}[how]
    )


@pytest.mark.parametrize("how", ["cut", "empty", "garbage", "pages"])
@pytest.mark.parametrize("rule", [DOUBLE, SOFTMAX])
def test_a_damaged_file_is_named_and_nothing_is_published(folder, how, rule):
    folder.job(rule).put("a.parquet", [1, 6])
    folder.run()
    before = folder.held()
    folder.put("c.parquet", [1])
    damaged(folder.put("b.parquet", list(range(1000)), compression="uncompressed"), how)
    with pytest.raises(DataError, match="b.parquet: .*cannot be read") as error:
        folder.run()
    assert "\n" not in str(error.value) and folder.held() == before


@pytest.mark.parametrize("sink", [{}, {"columns": "added"}])
@pytest.mark.parametrize("rule", [DOUBLE, SOFTMAX])
def test_every_damaged_file_is_named_not_the_first_alone(folder, rule, sink):
    folder.job(rule, workers=2, sink=sink)
    for i in range(9):
        path = folder.put(f"{i}.parquet", list(range(1000)), compression="uncompressed")
        if i in (3, 4, 8):
            damaged(path, "pages")
    with pytest.raises(DataError) as error:
        folder.run()
    lines = str(error.value).splitlines()
    assert sorted(line[: line.index(".parquet")][-1] for line in lines) == ["3", "4", "8"]
    assert all("cannot be read" in line for line in lines) and not (folder.path / "out").exists()


def test_batches_that_differ_are_refused_by_name(folder):
    folder.job().put("a.parquet", pl.DataFrame({"x": [1], "y": ["a"]}))
    folder.put("b.parquet", pl.DataFrame({"y": ["a"], "x": [1]}))
    folder.put("c.parquet", pl.DataFrame({"x": [1], "z": [1]}))
    folder.put("d.parquet", pl.DataFrame({"x": [1.0], "y": ["a"]}))
    with pytest.raises(JobError) as error:
        folder.run()
    said = str(error.value)
    assert "differ from a.parquet" in said and "b.parquet" not in said
    assert "c.parquet lacks 'y', has 'z' besides" in said and "d.parquet has 'x' as Float64, not Int64" in said


def test_columns_in_another_order_are_written_in_that_of_the_first(folder):
    folder.job().put("a.parquet", pl.DataFrame({"x": [1], "y": ["a"]}))
    folder.put("b.parquet", pl.DataFrame({"y": ["b"], "x": [6]}))
    folder.run()
    assert folder.rows("b.parquet").rows() == [(6, "b", 2.0, 12.0)]
    assert folder.rows("b.parquet").columns == folder.rows("a.parquet").columns


def test_a_footer_that_counts_other_rows_than_its_parts(folder, monkeypatch):
    folder.job().put("a.parquet", [1, 6])
    whole = pq.ParquetFile

    class Lies(whole):
        @property
        def metadata(self):
            real = super().metadata
            said = {"num_rows": 0, "num_row_groups": 1, "num_columns": 1, "metadata": {}}
            return type("M", (), {**said, "row_group": lambda _, i: real.row_group(i)})()

    monkeypatch.setattr(pq, "ParquetFile", Lies)
    with pytest.raises(DataError, match="a.parquet: the footer counts 0 rows, its parts 2"):
        folder.run()


def test_an_input_that_changes_while_it_is_read(folder, monkeypatch):
    folder.job().put("a.parquet", [1, 6])
    job = opened(folder.path / "job.yaml")
    whole = Outputs._frames

    def changing(*given):
        yield from whole(*given)
        folder.put("a.parquet", [2, 7, 8])

    monkeypatch.setattr(Outputs, "_frames", changing)
    with pytest.raises(DataError, match="changed while the run was reading it"):
        execute(job)
    assert not (folder.path / "out").exists()


@pytest.mark.parametrize("rule", [SOFTMAX, GROUPS, {**GROUPS, "apply": "pool"}], ids=["one", "groups", "pool"])
@pytest.mark.parametrize("when", ["fit", "pool", "apply"])
def test_nothing_is_kept_of_an_input_that_changed(folder, monkeypatch, rule, when):
    """Put back as it was, with its times, it is the input that was hashed: what was read in between must not count."""
    folder.job(rule, workers=1)
    path, other = folder.put("0.parquet", frame(40, 1)), folder.path / "other"
    folder.put("1.parquet", frame(40, 2))
    frame(60, 3).with_columns(g=pl.lit("new")).write_parquet(other)
    by = Outputs if when == "apply" else runs.Run
    was, times, real = path.read_bytes(), path.stat(), getattr(by, when)

    def changed(self, *given, **known):
        path.write_bytes(other.read_bytes())
        return real(self, *given, **known)

    monkeypatch.setattr(by, when, changed)
    if when != "pool" or rule.get("apply") == "pool":
        with pytest.raises(DataError, match="0.parquet: changed while the run was reading it"):
            folder.run()
        assert not (folder.path / "out").exists()
    monkeypatch.undo()
    path.write_bytes(was)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    folder.run()
    folder.run(f"sink.path={folder.path}/afresh")
    for name in ("0.parquet", "1.parquet"):
        assert_frame_equal(folder.rows(name), folder.rows(name, "afresh"), check_exact=True)
    tables = [pl.read_parquet(p) for p in folder.path.glob("*.pooled/*")]
    assert len(tables) == 2 * (rule.get("apply") == "pool") and all(t.equals(tables[0]) for t in tables)


def test_a_rule_may_need_no_column_beside_its_groups(folder):
    """Whatever the columns are called, among them what rows are counted by."""
    rule = {"name": "r", "score": {"kind": "expression", "sql": "1.5"}, "over": {"group": ["g"]}, "apply": "weights"}
    folder.job(rule).put("a.parquet", pl.DataFrame({"#row": [5, 6, 7], "g": ["a", "b", "a"], "##row": [1, 2, 3]}))
    folder.run()
    assert folder.rows()["r_weight"].to_list() == [1.5, 1.5, 1.5]


# Empty batches, partitions, `where`


@pytest.mark.parametrize("rule", [DOUBLE, SOFTMAX, {**GROUPS, "value": "y"}])
def test_an_empty_batch_gives_an_empty_file_with_all_columns(folder, rule):
    folder.job(rule).put("a.parquet", frame(20))
    folder.put("b.parquet", frame(20).clear())
    outcome = folder.run()
    assert outcome.rows == 20
    assert folder.rows("b.parquet").height == 0 and folder.rows("b.parquet").schema == folder.rows().schema
    assert (
        pq.read_schema(folder.path / "out/b.parquet").remove_metadata()
        == pq.read_schema(folder.path / "out/a.parquet").remove_metadata()
    )
    assert folder.run().plan.nothing


def test_text_is_looked_at_and_shared_among_but_no_number(folder):
    rules = [
        {"name": "is", "score": {"kind": "expression", "sql": "s = 'é'"}, "apply": "weights"},
        {**SOFTMAX, "over": {"group": ["s"]}},
    ]
    folder.job(*rules).put("a.parquet", pl.DataFrame({"s": ["é", "é", None, ""], "x": [1, 2, 3, 4]}))
    folder.put("b.parquet", pl.DataFrame({"s": ["é", ""], "x": [3, 4]}))
    folder.run()
    a, b = folder.rows(), folder.rows("b.parquet")
    assert a["is_weight"].to_list() == [1, 1, None, 0] and b["is_weight"].to_list() == [1, 0]
    assert a["soft_weight"][2] == 1 and a["soft_weight"][3] == b["soft_weight"][1] == 0.5
    assert a["soft_weight"][:2].sum() + b["soft_weight"][0] == pytest.approx(1)
    folder.job({**SOFTMAX, "key": "s"})
    with pytest.raises(JobError, match="'s'.*String"):
        folder.run()


def test_a_rule_may_look_at_what_folders_say(folder):
    folder.job({"key": "month", "value": "x", "score": {"kind": "threshold", "above": 1}, "weight": "step"})
    for month in ("01", "02", "__HIVE_DEFAULT_PARTITION__"):
        folder.put(f"month={month}/a.parquet", [3])
    folder.run()
    found = [folder.rows(n).row(0) for n in sorted(folder.held())]
    assert found == [(3, 1.0, 3.0), (3, 2.0, 6.0), (3, None, None)]


def test_a_files_own_copy_of_a_partition_column_passes_and_rules_see_the_folders(folder):
    rule = {"key": "p", "value": ["x", "p"], "score": {"kind": "threshold", "above": 1}, "weight": "step"}
    folder.job(rule)
    own = pl.Series("p", [7.5, None, -0.0], pl.Float32)
    folder.put("p=1/a.parquet", pl.DataFrame([own, pl.Series("x", [1, 2, 3])]))
    folder.put("p=2/a.parquet", pl.DataFrame([own, pl.Series("x", [1, 2, 3])]))
    folder.run()
    out = folder.rows("p=2/a.parquet")
    assert out.columns == ["p", "x", "p_weight", "x_weighted", "p_weighted"] and out["p"].dtype == pl.Float32
    assert repr(out["p"].to_list()) == repr(own.to_list())
    assert out["p_weight"].to_list() == [2, 2, 2] and out["p_weighted"].to_list() == [4, 4, 4]
    assert folder.rows("p=1/a.parquet")["p_weighted"].to_list() == [1, 1, 1]
    folder.job(rule, sink={"columns": {"except": ["p"]}})
    folder.run()
    assert folder.rows("p=2/a.parquet").columns == ["x", "p_weight", "x_weighted", "p_weighted"]


def test_a_copy_that_only_some_files_have_is_drift(folder):
    folder.job().put("p=1/a.parquet", pl.DataFrame({"x": [1], "p": [1]}))
    folder.put("p=2/a.parquet", [1])
    with pytest.raises(JobError, match="p=2/a.parquet lacks 'p'"):
        folder.run()


def test_where_leaves_the_outputs_of_others_alone(folder):
    folder.job()
    for month in range(1, 4):
        folder.put(f"month={month}/a.parquet", [month])
    folder.run()
    before = folder.held()
    for month in range(1, 4):
        folder.put(f"month={month}/a.parquet", [month, 6])
    folder.job(source={"where": "month >= 3"}, sink={"gone": "remove"})
    assert folder.run().written == 1
    assert folder.written(before) == ["month=3/a.parquet"] and len(folder.held()) == 3
    folder.job(source={"where": "month > 3"})
    with pytest.raises(JobError, match=r"no batch has 'month > 3', by month \(Int64\)"):
        folder.run()
    folder.job(source={"where": "mont > 3"})
    with pytest.raises(JobError, match="did you mean 'month'"):
        folder.run()


@pytest.mark.parametrize("name", ["a[1].parquet", "x*?.parquet", "g=a%2Fb c/ä ö.parquet", "%41/{b}.parquet"])
def test_names_that_mean_something_elsewhere(folder, name):
    folder.job().put(name, [6])
    folder.put("other.parquet" if "=" not in name else "g=z/a.parquet", [7])
    folder.run()
    assert folder.rows(name)["x_weighted"].to_list() == [12] and name in folder.held()
    assert folder.run().plan.nothing


def test_a_source_without_rows_gives_outputs_without_rows(tmp_path):
    (tmp_path / "in").mkdir()
    pl.DataFrame(schema={"x": pl.Float64, "g": pl.String}).write_parquet(tmp_path / "in" / "a.parquet")
    (tmp_path / "job.yaml").write_text(
        "name: none\nsource: {path: in}\nsink: {path: out}\nattention:\n"
        "  - {key: x, over: {group: [g]}, score: zscore, weight: softmax, apply: weights}\n"
        "  - {name: all, key: x, score: recency, weight: linear, apply: weights}\n"
    )
    run(tmp_path / "job.yaml")
    out = pl.read_parquet(tmp_path / "out" / "a.parquet")
    assert out.schema == {"x": pl.Float64, "g": pl.String, "x_weight": pl.Float64, "all_weight": pl.Float64}
    assert out.height == 0
