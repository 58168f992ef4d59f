"""`farol` as a user calls it: what it prints, how it ends, and what it leaves."""

import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
import time

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Field
from deltalake.schema import PrimitiveType

from attention_core import batches
from attention_core.hold import held
from attention_core.job import SCORES, WEIGHTS
from attention_core.run import run
from flows import show

MAIN = "from flows.cli import main; main()"
NO_PREFECT = """\
import sys
from flows.cli import main
for command in "plan", "preview", "check", "run":
    sys.argv = ["farol", command, "job.yaml"]
    try:
        main()
    except SystemExit as ended:
        print(command, ended.code, any(m.split(".")[0] == "prefect" for m in sys.modules), file=sys.stderr)
"""
ZSCORE = "{kind: threshold, above: 5}", "zscore"


@pytest.fixture
def failed(folder, server):
    """What is said where a run fails over its data: nothing is published, and what was there stays."""

    def one(status, *arguments):
        before = {n: b for n, b in folder.files().items() if n.startswith("out/")}
        ended, out, err = folder.farol(*arguments)
        assert (ended, out) == (status, ""), err
        assert err.startswith("farol: ") and err.count("\n") == 1, err
        assert {n: b for n, b in folder.files().items() if n.startswith("out/")} == before
        return err.removeprefix("farol: ").strip()

    return one


def test_run(folder, server):
    status, out, err = folder.farol("run", "job.yaml")
    assert (status, err) == (0, "")
    assert folder.rows()["x_weighted"].to_list() == [1, 12, 3, 14, 2, 5, 18]
    assert folder.rows("b.parquet")["high_weight"].to_list() == [2]
    lines = out.splitlines()
    assert lines[0].startswith("demo: 2 batches, 8 rows in ")
    assert lines[1].split()[:3] == ["rule", "rows", "missing"]
    assert lines[2].split()[:4] == ["high", "8", "0", "1"]
    assert lines[-2] == f"rows: {folder.path / 'out'}"
    assert lines[-1] == "next: farol plan job.yaml"

    status, out, err = folder.farol("run", "job.yaml")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "demo: nothing is new"
    assert out.splitlines()[-1] == "next: farol preview job.yaml"


def test_what_is_new_is_done_and_what_is_asked_for_again(folder, server):
    def done(*arguments):
        status, out, err = folder.farol("run", "job.yaml", "--json", *arguments)
        assert (status, err) == (0, "")
        return json.loads(out)["batches"]

    assert done() == 2
    assert (
        json.loads(next((folder.path / "out.farol/runs").iterdir()).read_text())["weights"]["high_weight"]["sum"] == 12
    )
    folder.data("c.parquet", x=[1])
    assert done() == 1
    assert done() == 0
    assert done("--redo", "[ab]*") == 2
    assert done("--full") == 3


def test_full_is_the_way_out_where_a_plan_alone_is_refused(folder, server):
    folder.job("sink: {", "sink: {format: delta, ")
    assert folder.farol("run", "job.yaml")[0] == 0
    DeltaTable(folder.path / "out").alter.add_columns([Field("extra", PrimitiveType("string"))])
    folder.data("b.parquet", x=[7])
    status, _, err = folder.farol("run", "job.yaml")
    assert status == 2 and "differ in columns (extra)" in err
    assert folder.farol("run", "job.yaml", "--full")[0] == 0
    assert DeltaTable(folder.path / "out").to_pyarrow_table().num_rows == 8


def test_set_and_the_options_that_stand_for_it(folder, server):
    (folder.path / "elsewhere").mkdir()
    folder.monkeypatch.chdir(folder.path / "elsewhere")
    arguments = "--set", "sink.path=my out", "--set", "attention[0].weight.high=3", "--set", "name=mine"
    how = "--chunk-rows", "2", "--workers", "1", "--device", "cpu"
    status, out, err = folder.farol("run", "../job.yaml", *arguments, *how)
    assert (status, err) == (0, "")
    assert pl.read_parquet("my out/a.parquet")["high_weight"].to_list() == [1, 3, 1, 3, 1, 1, 3]
    assert out.startswith("mine: ")
    again = "--set 'sink.path=my out' --set 'attention[0].weight.high=3' --set name=mine"
    assert out.splitlines()[-1] == f"next: farol plan ../job.yaml {again}"
    assert not (folder.path / "out").exists()


def test_plan(folder):
    before = folder.files()
    status, out, err = folder.farol("plan", "job.yaml")
    assert (status, err) == (0, "") and folder.files() == before
    lines = out.splitlines()
    assert lines[0] == "demo: 2 new; 0 fitting passes"
    assert [line.split() for line in lines[1:4]] == [["batch", "status", "why"], ["a.parquet", "new"],
                                                     ["b.parquet", "new"]]  # fmt: skip
    assert lines[-2:] == ["adds: high_weight (Float64), x_weighted (Float64)", f"writes to {folder.path / 'out'}"]


def test_what_is_not_written_is_not_said_to_be_added(folder):
    folder.job("sink: {", "sink: {columns: [x, x_weighted], ")
    lines = folder.farol("check", "job.yaml")[1].splitlines()
    assert lines[-2:] == ["adds: x_weighted (Float64)",
                          "note: sink.columns leaves out what the rules add: high_weight"]  # fmt: skip


def test_a_plan_says_whose_statistics_they_are_where_batches_are_left_out(folder):
    folder.data("m=1/a.parquet", x=[1])
    folder.data("m=2/a.parquet", x=[2])
    (folder.path / "in/a.parquet").unlink()
    (folder.path / "in/b.parquet").unlink()
    where = "--set", "source.where=m = 1"
    said = (
        "note: source.where leaves 1 batch out, whose outputs stay; what rules know of a scope is of the others alone"
    )
    assert said not in folder.farol("plan", "job.yaml", *where)[1]  # which needs to know nothing
    folder.job(*ZSCORE)
    assert said in folder.farol("plan", "job.yaml", *where)[1].splitlines()


def test_a_run_says_which_keys_are_later_than_now_or_unseen(folder, server):
    old, new = ZSCORE
    folder.job(old, "{kind: recency, now: 2024-01-01}", more="    apply: weights\n")
    folder.data("a.parquet", x=[dt.datetime(2024, 1, 2), dt.datetime(2023, 1, 1)])
    folder.data("b.parquet", x=[dt.datetime(2024, 1, 3)])
    lines = folder.farol("run", "job.yaml")[1].splitlines()
    assert "note: high: 2 keys are later than now, and counted as of now" in lines


def test_a_plan_says_what_is_copied_and_what_would_let_more_be(folder, monkeypatch):
    def said(*more):
        return next(
            (t for t in folder.farol("plan", "job.yaml", *more)[1].splitlines() if t.startswith("copies: ")), ""
        )

    assert said() == "copies: 1 of 1 column of a.parquet as they lie there"
    better = "; sink.compression: zstd, as there, would copy 1, which is faster"
    assert said("--set", "sink.compression=gzip") == "copies: 0 of 1 column of a.parquet as they lie there" + better
    monkeypatch.setattr(batches, "ROW_GROUP_BYTES", 10)
    monkeypatch.setattr(show, "ROW_GROUP_BYTES", 10)
    assert re.fullmatch(r"copies: 0 of 1 .* there, whose row groups of \d+ bytes are cut to 10 bytes", said())
    run(folder.path / "job.yaml")
    assert said() == ""


def test_what_cannot_be_written_as_it_was_is_refused_before_any_work(folder, refused):
    path = folder.path / "in/a.parquet"
    (folder.path / "in/b.parquet").unlink()
    pq.write_table(pa.table({"x": [1, 2], "t": pa.array([1, None], pa.time32("s"))}), path, compression="snappy")
    said = refused(1, "check", "job.yaml")
    assert said.endswith(
        "a.parquet: cannot be written as it is: column 't' (time32[ms]); "
        'sink.columns: {except: ["t"]} leaves it out; sink.compression: snappy copies it as it lies there'
    )
    assert folder.farol("check", "job.yaml", "--set", "sink.compression=snappy")[0] == 0


def test_a_plan_as_json(folder):
    folder.job(*ZSCORE)
    status, out, _ = folder.farol("plan", "job.yaml", "--json")
    plan = json.loads(out)
    assert status == 0
    assert plan["batches"] == [{"batch": f"{n}.parquet", "status": "new", "why": ""} for n in "ab"]
    assert (plan["job"], plan["gone"], plan["passes"], plan["other_versions"]) == ("demo", [], 1, 0)
    assert plan["schema"] == {"x": "Int64", "high_weight": "Float64", "x_weighted": "Float64"}


def test_a_plan_as_json_says_what_a_run_would_refuse(folder):
    run(folder.path / "job.yaml")
    assert json.loads(folder.farol("plan", "job.yaml", "--json")[1])["refused"] is None
    (folder.path / "in/b.parquet").unlink()
    status, out, _ = folder.farol("plan", "job.yaml", "--json")
    assert status == 0 and "1 output has no input any more" in json.loads(out)["refused"]
    assert "note: a run would refuse this: job.yaml:3:7: sink.gone: 1 output has" in folder.farol("plan", "job.yaml")[1]


def test_a_plan_says_that_a_strange_file_would_be_lost(folder):
    folder.data("../out/a.parquet", x=[1])
    out = folder.farol("plan", "job.yaml")[1]
    said = f"job.yaml:3:14: sink.path: {folder.path}/out/a.parquet was not written by Farol"
    assert f"note: a run would refuse this: {said}" in out and said in folder.farol("run", "job.yaml")[2]
    out = folder.farol("plan", "job.yaml", "--set", f"sink.path={folder.path}/out")[1]
    assert f"refuse this: --set sink.path: {folder.path}/out/a.parquet was not written by Farol" in out


def test_a_plan_shows_what_is_new_before_what_it_moves(folder):
    folder.job(*ZSCORE)
    run(folder.path / "job.yaml")
    for i in range(25):
        folder.data(f"a{i:02}.parquet", x=[1])
    run(folder.path / "job.yaml")
    folder.data("z.parquet", x=[1])
    lines = folder.farol("plan", "job.yaml")[1].splitlines()
    assert lines[2].split() == ["z.parquet", "new"] and "8 more; --all shows them" in lines


def test_a_table_is_told_with_its_columns(folder):
    more = "    over: batch\n    apply: pool\n"
    folder.job("source:", "source:", more=more)
    table = f"table: {folder.path}/out.pooled/high.parquet: batch (String), rows (Int64), weight_sum (Float64), "
    for command in ("plan", "check"):
        lines = folder.farol(command, "job.yaml")[1].splitlines()
        assert "adds: high_weight (Float64)" in lines and table + "x_pooled (Float64)" in lines
    folder.job("sink: {", "sink: {columns: none, ", more=more)
    run(folder.path / "job.yaml")
    out = folder.farol("check", "job.yaml")[1]
    assert "adds:" not in out and table in out
    written = pl.read_parquet(folder.path / "out.pooled/high.parquet").schema
    assert list(written.items()) == [("batch", pl.String), ("rows", pl.Int64), ("weight_sum", pl.Float64),
                                     ("x_pooled", pl.Float64)]  # fmt: skip


def test_a_table_of_no_rule_is_told(folder):
    folder.job(more="    apply: pool\n")
    run(folder.path / "job.yaml")
    assert "is of no rule" not in folder.farol("plan", "job.yaml")[1]
    folder.job("name: high", "name: higher", more="    apply: pool\n")
    run(folder.path / "job.yaml")
    pl.DataFrame().write_parquet(folder.path / "out.pooled/mine.parquet")
    advice = "is of no rule any more, and stays as it is; remove it if nobody reads it"
    old = f"note: {folder.path}/out.pooled/high.parquet {advice}"
    for command in ("plan", "check"):
        lines = folder.farol(command, "job.yaml")[1].splitlines()
        assert [line for line in lines if "is of no rule" in line] == [old]
    assert {p.name for p in (folder.path / "out.pooled").iterdir()} == {
        "high.parquet",
        "higher.parquet",
        "mine.parquet",
    }


def test_columns_that_rules_add_and_the_sink_leaves_out_are_told(folder, server):
    folder.job("path: out", "path: out, columns: [x]")
    note = "note: sink.columns leaves out what the rules add: high_weight, x_weighted"
    for command in ("plan", "check", "preview", "run"):
        assert note in folder.farol(command, "job.yaml")[1].splitlines()
    assert note not in folder.farol("run", "job.yaml", "--set", "sink.columns=all")[1]


def test_a_long_plan_is_cut_unless_all_is_asked_for(folder):
    for i in range(30):
        folder.data(f"n{i}.parquet", x=[1])
    assert "12 more; --all shows them" in folder.farol("plan", "job.yaml")[1]
    assert "n29.parquet" in folder.farol("plan", "job.yaml", "--all")[1]


def test_preview(folder):
    before = folder.files()
    status, out, err = folder.farol("preview", "job.yaml", "--rows", "2")
    assert (status, err) == (0, "") and folder.files() == before
    rows = [line.split() for line in out.splitlines()]
    assert rows == [["x", "high_weight", "x_weighted"], ["1", "1", "1"], ["6", "2", "12"]]


def test_a_preview_that_is_only_a_look_says_so(folder):
    folder.job(*ZSCORE)
    assert folder.farol("preview", "job.yaml")[1].splitlines()[-1] == (
        "note: its rules need their whole scope, and this looked at the first batch only, a.parquet: "
        "a run looks at all of them, and its numbers differ"
    )


def test_a_preview_shows_tables_too(folder):
    folder.data("0.parquet", x=pl.Series([], dtype=pl.Int64))
    folder.data("b.parquet", x=[100])
    folder.job(more="    over: {group: [x]}\n    apply: pool\n")
    status, out, err = folder.farol("preview", "job.yaml", "--rows", "2")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()[-6:-1]] == [
        [],
        ["table", "of", "high:", "7", "rows,", "the", "first", "2", "of", "them"],
        ["x", "rows", "weight_sum", "x_pooled"],
        ["1", "1", "1", "1"],
        ["2", "1", "1", "2"],
    ]
    assert out.splitlines()[-1] == "note: tables are of a.parquet alone: a run pools all batches"


def test_kinds_are_listed_and_explained(folder):
    status, out, err = folder.farol("kinds")
    assert (status, err) == (0, "")
    listed = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert set(listed) >= {*SCORES, *WEIGHTS, "keep", "clip", "scale", "apply"}
    for word in listed:
        if word in {*SCORES, *WEIGHTS}:
            assert folder.farol("kinds", word)[1].startswith(f"{word} (a {'score' if word in SCORES else 'weight'})")
    assert "  - temperature: 1.0 unless given" in folder.farol("kinds", "softmax")[1].splitlines()
    assert folder.farol("kinds", "identity")[1].count("identity (a ") == 2
    assert folder.farol("kinds", "pool")[1].startswith("apply (an entry of a rule)")
    assert folder.farol("kinds", "mask")[1].startswith("mask (an entry of a rule): who can get attention")
    assert folder.farol("kinds", "expect")[1].startswith("expect (an entry of a job): ")
    assert folder.farol("kinds", "sofmax") == (
        2, "", "farol: 'sofmax' is neither a score nor a weight; did you mean 'softmax'?\n"
    )  # fmt: skip


def test_check(folder):
    before = folder.files()
    status, out, err = folder.farol("check", "job.yaml")
    assert (status, err) == (0, "") and folder.files() == before
    assert out.splitlines() == [
        "job.yaml is right: 2 batches of 1 column, 1 rule",
        "adds: high_weight (Float64), x_weighted (Float64)",
    ]


def test_help_names_every_command(folder):
    status, out, err = folder.farol("--help")
    assert (status, err) == (0, "")
    assert all(f" {name} " in out for name in ("run", "plan", "preview", "check", "serve"))


def test_no_prefect_where_none_is_needed(folder):
    run("job.yaml")
    out, err = folder.python(NO_PREFECT).communicate(timeout=60)
    assert err.splitlines() == ["plan 0 False", "preview 0 False", "check 0 False", "run 0 False"]
    assert "demo: nothing is new" in out


# What is wrong with the job file or the command line: status 2, before anything is read or written.


def test_no_job_file(refused):
    assert refused(2, "run", "no.yaml") == "no.yaml: cannot be read: No such file or directory"


@pytest.mark.parametrize("command", ["run", "plan", "preview", "check"])
def test_no_source(folder, refused, command):
    folder.job("path: in", "path: im")
    assert refused(2, command, "job.yaml") == (
        f"job.yaml:2:16: source.path: there is no file or folder {folder.path / 'im'}"
    )


def test_an_empty_folder(folder, refused):
    folder.job("path: in", "path: empty")
    (folder.path / "empty").mkdir()
    assert refused(2, "run", "job.yaml") == (
        f"job.yaml:2:16: source.path: {folder.path / 'empty'} holds no *.parquet file"
    )


def test_no_such_column(folder, refused):
    folder.job("key: x", "key: y")
    folder.data(x_y=[1])
    folder.data("b.parquet", x_y=[1])
    said = refused(2, "run", "job.yaml")
    assert said.startswith("job.yaml:6:10: attention[0].key: ") and "'y'" in said and "x_y" in said


def test_a_column_twice_in_a_list(folder, refused):
    folder.job("key: x", "key: [x, x]")
    assert refused(2, "check", "job.yaml") == "job.yaml:6:14: attention[0].key[1]: 'x' is named twice"
    folder.job("key: x", "key: x\n    over: {group: [x, x]}")
    assert refused(2, "check", "job.yaml") == "job.yaml:7:23: attention[0].over.group[1]: 'x' is named twice"


def test_no_such_column_in_a_list(folder, refused):
    folder.job("key: x", "key: [x,\n      y]")
    assert refused(2, "check", "job.yaml").startswith("job.yaml:7:7: attention[0].key[1]: no column 'y'")
    folder.job("sink: {path: out}", "sink: {path: out, columns: {except: [y]}}")
    assert refused(2, "check", "job.yaml").startswith("job.yaml:3:38: sink.columns.except[0]: no column 'y'")


def test_text_as_the_key_of_a_numeric_score(folder, refused):
    for name in ("a.parquet", "b.parquet"):
        folder.data(name, x=["one"])
    said = refused(2, "run", "job.yaml")
    assert said.startswith("job.yaml:6:10: attention[0].key: ") and "'x'" in said and "String" in said


def test_a_text_value(folder, refused):
    folder.job("key: x", "key: x\n    value: t")
    for name in ("a.parquet", "b.parquet"):
        folder.data(name, x=[1], t=["one"])
    said = refused(2, "run", "job.yaml")
    assert said.startswith("job.yaml:7:12: attention[0].value: ") and "apply: weights" in said


@pytest.mark.parametrize("sink", ["in/out", "in", "."])
def test_a_sink_in_or_around_its_source(folder, refused, sink):
    folder.job("path: out", f"path: {sink}")
    said = refused(2, "run", "job.yaml")
    assert said.startswith("job.yaml:3:14: sink.path: ") and said.endswith("name a folder beside it")


def test_no_yaml(folder, refused):
    folder.job("source: {path: in}", "source: {path: in")
    assert refused(2, "run", "job.yaml").startswith("job.yaml:3:5: not YAML: ")


def test_bytes(folder, refused):
    (folder.path / "job.yaml").write_bytes((folder.path / "in/a.parquet").read_bytes() + b"\xff")
    assert refused(2, "run", "job.yaml").startswith("job.yaml: not a job file: ")


def test_an_environment_variable_that_is_not_set(folder, refused):
    folder.monkeypatch.delenv("FAROL_NOT_SET", raising=False)
    folder.job("path: out", 'path: "${FAROL_NOT_SET}/out"')
    said = refused(2, "run", "job.yaml")
    assert said.startswith("job.yaml:3:14: ") and "FAROL_NOT_SET" in said


@pytest.mark.parametrize("sql", ["x - AVG(x)", "x - SUM(x) OVER ()", "NOW()", "LAG(x)", "rank (x)"])
def test_an_expression_that_looks_beyond_its_row(folder, refused, sql):
    folder.job("key: x\n    score: {kind: threshold, above: 5}", f'score: {{kind: expression, sql: "{sql}"}}')
    assert refused(2, "run", "job.yaml").startswith("job.yaml:6:36: attention[0].score.sql: ")


def test_two_wrong_things_are_a_line_each(folder):
    folder.job("score: {kind: threshold", "scores: {kind: threshol", more="devise: cpu\n")
    status, out, err = folder.farol("run", "job.yaml")
    assert (status, out) == (2, "")
    assert [line.split(": ")[1] for line in err.splitlines()] == ["job.yaml:7:5", "job.yaml:9:1"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["rum", "job.yaml"], 'Did you mean "run"?'),
        (["run", "job.yaml", "--fulll"], "Did you mean --full?"),
        (["run"], "requires an argument"),
        (["run", "job.yaml", "--workers", "many"], "--workers"),
        (["run", "job.yaml", "another.yaml"], "another.yaml"),
        (["serve", "job.yaml"], "--cron"),
    ],
)
def test_a_wrong_command_line(refused, arguments, said):
    message = refused(2, *arguments)
    assert said in message and message.endswith("farol --help shows what there is")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--set", "sink"], "--set sink: write it as path=value, as in --set sink.path=out"),
        (["--set", "sink.pth=out"], "did you mean 'path'?"),
        (["--set", "workers=0"], "--set workers: "),
        (["--workers", "0"], 'Invalid value "0" for --workers. Must be >= 1.'),
        (["--chunk-rows", "-1"], 'Invalid value "-1" for --chunk-rows. Must be >= 1.'),
        (["--device", "gpu"], 'Invalid value "gpu" for --device. Write auto, cpu, cuda or cuda:N.'),
    ],
)
def test_a_wrong_option(refused, arguments, said):
    assert said in refused(2, "run", "job.yaml", *arguments)


def test_no_batch_to_do_again(failed):
    said = failed(2, "run", "job.yaml", "--redo", "z*")
    assert said == "--redo z*: no batch has such a name; the first is a.parquet"


def test_outputs_without_input(folder, failed):
    run("job.yaml")
    (folder.path / "in/b.parquet").unlink()
    said = failed(2, "run", "job.yaml")
    assert "b.parquet" in said and "sink.gone" in said


# What is wrong with the data, or the machine: status 1.


@pytest.mark.parametrize("keep", [0, 3, 100, -30])
@pytest.mark.parametrize("command", ["run", "plan", "preview", "check"])
def test_a_file_that_is_cut_off(folder, refused, keep, command):
    path = folder.path / "in/b.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    assert refused(1, command, "job.yaml").startswith(f"{path}: cannot be read: ")


def test_a_file_that_is_broken_inside(folder, failed):
    folder.data(x=list(range(10_000)))
    path = folder.path / "in/a.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + b"\0" * 5000 + whole[5040:])
    assert failed(1, "run", "job.yaml").startswith(f"{path}: cannot be read: ")


def test_an_infinite_key(folder, failed):
    folder.job(*ZSCORE)
    folder.data(x=[1.0, float("inf")])
    folder.data("b.parquet", x=[1.0])
    said = failed(1, "run", "job.yaml")
    assert said.startswith(f"{folder.path / 'in/a.parquet'}: ") and "infinite" in said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk(folder, failed, monkeypatch):
    full = folder.path / "b.parquet.part"
    full.symlink_to("/dev/full")
    monkeypatch.setattr("attention_core.publish.Place.unfinished", lambda self, name: full)
    said = failed(1, "run", "job.yaml")
    assert said.startswith(f"{full}: cannot be written: ") and "No space left" in said


def test_an_unforeseen_error_is_one_line_too(folder, refused):
    import attention_core.run

    def broken(*_):
        raise ZeroDivisionError("division by zero\nsecond line")

    folder.monkeypatch.setattr(attention_core.run, "opened", broken)
    assert refused(1, "check", "job.yaml") == "ZeroDivisionError: division by zero; --debug shows where"


def test_debug_shows_where_and_ends_with_the_same_status(folder):
    status, out, err = folder.farol("check", "no.yaml", "--debug")
    assert (status, out) == (2, "")
    assert "Traceback" in err and err.splitlines()[-1] == "farol: no.yaml: cannot be read: No such file or directory"


# The other ends.


def test_an_expectation_that_is_missed(folder, failed):
    folder.job(more="expect:\n  high: {mean: {max: 1.2}}\n  source: {rows: {min: 100}}\n")
    assert failed(3, "run", "job.yaml") == (
        "nothing was published: high_weight: mean is 1.5, not at most 1.2 (job.yaml:10:22); "
        "source: rows is 8, not at least 100 (job.yaml:11:24)"
    )


def test_an_expectation_of_the_command_line_that_is_missed(folder, failed):
    folder.job(more="expect:\n  source: {rows: {min: 1}}\n")
    assert failed(3, "run", "job.yaml", "--set", "expect.source.rows.min=99") == (
        "nothing was published: source: rows is 8, not at least 99 (--set expect.source.rows.min)"
    )


def test_a_sink_that_another_run_holds(folder, failed):
    (folder.path / "out.farol").mkdir()
    with held(folder.path / "out.farol/lock", folder.path):
        said = failed(4, "run", "job.yaml")
    assert said.startswith(f"{folder.path / 'out'}: another run holds this sink; ")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_the_sink_as_it_was_and_the_next_goes_on(folder, server, ending):
    """Ctrl-C, or what a scheduler sends, while batches are being written, in a process of its own."""
    folder.job(more="chunk_rows: 100\nworkers: 2\n")
    folder.data("b.parquet", x=list(range(1_000_000)))
    process = folder.python(MAIN, "run", "job.yaml", PREFECT_API_URL=server)
    staging = folder.path / "out.farol/staging"
    until = time.monotonic() + 60
    while not (list(staging.glob("*/a.parquet.staged")) and list(staging.glob("*/.parts/b.parquet.*"))):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)
    process.send_signal(ending)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == "farol: interrupted; the sink is as it was, and the next run goes on from here\n"
    assert not (folder.path / "out").exists()
    staged = next(staging.glob("*/a.parquet.staged")).stat()

    run("job.yaml", ["chunk_rows=100000"])
    assert folder.rows("b.parquet").height == 1_000_000
    assert (folder.path / "out/a.parquet").stat().st_ino == staged.st_ino
    assert not staging.exists()


def test_the_own_server_of_prefect_outlives_ctrl_c(server, monkeypatch):
    """A terminal sends it to all processes of a group, and a run waits long for a server that is gone."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

    from flows.attend import start_server

    blocked = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    said = []
    command = [sys.executable, "-c", blocked]
    monkeypatch.setattr(SubprocessASGIServer, "start", lambda _: said.append(subprocess.check_output(command)))
    start_server()
    assert not said
    with temporary_settings({PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True}, restore_defaults={PREFECT_API_URL}):
        start_server()
    assert said == [b"True\n"]
    assert subprocess.check_output(command) == b"False\n"


def test_a_reader_that_goes_away_is_no_error(folder):
    process = folder.python(MAIN, "plan", "job.yaml", "--json")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 1
