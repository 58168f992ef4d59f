"""`farol new`: whatever the data, the job file that it writes runs as it stands."""

import datetime as dt
import math
import os
import random
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from attention_core import jobfile
from attention_core.job import Job
from attention_core.jobfile import load
from attention_core.run import run
from flows import new

INF, NAN = math.inf, math.nan
DAYS = [dt.date(2020, 1, 1) + dt.timedelta(d) for d in range(200)]
MOMENTS = [dt.datetime(2020, 1, 1) + dt.timedelta(hours=h) for h in range(200)]
RANDOM = random.Random(1)
MANY = [math.exp(RANDOM.gauss(0, 2)) for _ in range(200)]
WORDS = [RANDOM.choice("aaaab") for _ in range(200)]
ODD = ["*", "^a.*$", "{}", "{key}", "${HOME}", "$${x}", "a: b", "# no", "- x", "", " ", "null", "yes", "1", "'", '"',
       "\\", "new\nline", "\x1b[31m", "\u2028", "\u202e", "\x85", "é", "\U0001f600", "%", "!t", "&a", "~", ".inf",
       "a.b[0]", "x" * 300, "batch", "#holds", "recent_weight", "sample_weight", "balanced_weight",
       "\ufeff"]  # fmt: skip


def column(values, dtype=None):
    return pl.Series(values, dtype=dtype)


FRAMES = {
    "only text": {"t": [str(i) for i in range(200)]},
    "some text": {"t": WORDS},
    "one text": {"t": ["a"] * 200},
    "text with nulls": {"t": [None if i % 3 else w for i, w in enumerate(WORDS)]},
    "all null": {"t": column([None] * 9, pl.String), "x": column([None] * 9, pl.Float64), "n": [None] * 9},
    "numbers": {"x": MANY},
    "one infinity": {"x": [INF, *MANY]},
    "half infinite": {"x": [INF] * 150 + MANY},
    "both infinities": {"x": [INF, -INF] * 50 + MANY},
    "nan and null": {"x": [NAN, None] * 50 + MANY},
    "all nan": {"x": [NAN] * 7},
    "constant": {"x": [2.5] * 200},
    "two values": {"x": [0.0] * 199 + [1.0]},
    "near the end of float64": {"x": [1.7e308, -1.7e308] * 50 + [1e300 * v for v in MANY]},
    "tiny": {"x": [5e-324 * i for i in range(200)]},
    "whole numbers": {"x": [int(v * 100) for v in MANY], "i": list(range(200)), "u": column(range(200), pl.UInt64)},
    "wide numbers": {"x": column([2**63 + int(v * 1e15) for v in MANY], pl.UInt64)},
    "float32": {"x": column(MANY, pl.Float32)},
    "decimals": {"x": column([str(round(v, 2)) for v in MANY]).cast(pl.Decimal(20, 2))},
    "booleans": {"b": [True, False, None, True] * 9},
    "dates": {"d": DAYS, "x": MANY},
    "one date": {"d": DAYS[:1] * 5},
    "far dates": {"d": [*DAYS, dt.date(9999, 12, 31), dt.date(1, 1, 1)]},
    "dates beyond Python": {"d": column([-(2**30), 2**30, 0], pl.Int32).cast(pl.Date)},
    "moments beyond Python": {"d": column([-(2**62), 2**62, 0], pl.Int64).cast(pl.Datetime("us"))},
    "moments in a zone": {"d": column(MOMENTS).dt.replace_time_zone("Europe/Lisbon"), "t": WORDS, "x": MANY},
    "moments a nanosecond apart": {"d": column([0, 1, 2], pl.Int64).cast(pl.Datetime("ns"))},
    "moments with nulls": {"d": column([None, *MOMENTS[:4], None])},
    "times of day and durations": {"t": column([0, 9, 10**9], pl.Int64).cast(pl.Time),
                                   "d": column([0, 9, 10**9], pl.Int64).cast(pl.Duration)},
    "vectors": {"v": column([[v, 1.0] for v in MANY], pl.Array(pl.Float32, 2))},
    "vectors with nulls": {"v": column([[1.0, 2.0], None, [None, 1.0], [NAN, 3.0]], pl.Array(pl.Float64, 2))},
    "vectors with infinities": {"v": column([[1.0, 2.0], [INF, 1.0]], pl.Array(pl.Float64, 2))},
    "vectors of nothing": {"v": column([[], []], pl.Array(pl.Float64, 0))},
    "null vectors": {"v": column([None, None], pl.Array(pl.Float64, 2))},
    "huge vectors": {"v": column([[1e300, 1e300], [1e300, -1e300]], pl.Array(pl.Float64, 2))},
    "lists of one length": {"v": [[v, 1.0, 0.0] for v in MANY]},
    "lists of several lengths": {"v": [[1.0], [1.0, 2.0], [], None]},
    "lists of text": {"v": [["a"], ["b"]]},
    "lists of lists": {"v": [[[1.0]], [[2.0]]]},
    "vectors of truth": {"v": column([[True, False], [True, True]], pl.Array(pl.Boolean, 2))},
    "structs": {"s": [{"a\nb": 1}, {"a\nb": 2}]},
    "bytes": {"b": [b"a", b"a", b"\xff"]},
    "categories": {"c": column(WORDS, pl.Categorical), "e": column(WORDS, pl.Enum(["a", "b", "new\nline"]))},
    "all sorts": {"d": DAYS, "x": MANY, "t": WORDS, "v": column([[v, 1.0] for v in MANY], pl.Array(pl.Float64, 2))},
    "odd names of text": {name: WORDS for name in ODD},
    "odd names of numbers": {name: MANY for name in ODD},
    **{f"the name {name[:9]!r}": {name: WORDS} for name in ODD if name != "^a.*$"},
    **{f"{what}, {rows} rows": {"d": DAYS[:rows], "x": MANY[:rows], "t": WORDS[:rows], "i": list(range(rows)),
                                "v": column([[v] for v in MANY[:rows]], pl.Array(pl.Float64, 1))}
       for what, rows in (("empty", 0), ("one", 1), ("two", 2), ("three", 3))},
}  # fmt: skip


def weights(folder, sink="out/in"):
    """Runs the job that is written and returns its sample weights."""
    job = YAML(typ="safe").load((folder / "job.yaml").read_text())
    record = run(folder / "job.yaml").plain()
    name = f"{job['attention'][-1]['name']}_weight"
    assert record["weights"][name]["nulls"] == record["weights"][name]["nans"] == 0
    return pl.concat(
        [
            pl.read_parquet(f, columns=[name], hive_partitioning=False)
            for f in sorted((folder / sink).rglob("*.parquet"))
        ]
    )[name]


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_it_runs_as_it_stands(folder, frame):
    for old in (folder.path / "in").iterdir():
        old.unlink()
    (folder.path / "job.yaml").unlink()
    pl.DataFrame(frame).write_parquet(folder.path / "in/a.parquet")
    assert folder.farol("new", "in", "-o", "job.yaml") == (0, "job.yaml is written; next: farol check job.yaml\n", "")
    status, out, err = folder.farol("check", "job.yaml")
    assert (status, err) == (0, ""), err
    found = weights(folder.path)
    assert len(found) == len(pl.DataFrame(frame))
    assert not len(found) or found.mean() == pytest.approx(1)
    assert found.is_finite().all()


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
VALUES = st.sampled_from([WORDS, MANY, DAYS, [[v] for v in MANY], [None] * 200])


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_any_names_and_any_columns(tmp_path_factory, columns):
    path = tmp_path_factory.mktemp("new")
    pl.DataFrame({"x": MANY, **columns}).write_parquet(path / "a.parquet")
    new.write(str(path / "a.parquet"), path / "job.yaml")
    assert weights(path, "out/a").mean() == pytest.approx(1)


@given(st.text())
def test_a_text_stays_what_it_is(text):
    if new._NO_TEXT.search(text):
        return
    line = new.scalar(text)
    assert line.isprintable()
    assert jobfile._parsed(f"name: {line}", "job.yaml").plain() == {"name": text}


@given(st.floats(1e-9, 1e15))
def test_a_half_life_is_about_a_quarter_of_the_span(span):
    found = new._half_life(span)
    half_life = YAML(typ="safe").load(found["weight"])["half_life"]
    assert 0.4 < half_life * new.UNITS[found["unit"]] / (span / 4) < 2.5


def kinds(folder):
    """What the rules of the job that is written look at, and with which score."""
    job = load(folder.path / "job.yaml", Job).value
    return [(rule.key, rule.score.word) for rule in job.attention]


def test_the_rules_suit_the_columns(folder):
    folder.data("c.parquet", **FRAMES["all sorts"])
    new.write("in/c.parquet", folder.path / "new.yaml")
    (folder.path / "new.yaml").rename(folder.path / "job.yaml")
    assert kinds(folder) == [
        ("d", "recency"),
        ("v", "cosine"),
        ("x", "robust_zscore"),
        ("t", "rarity"),
        (None, "expression"),
    ]
    sample = load(folder.path / "job.yaml", Job).value.attention[-1]
    assert sample.score.sql == "recent_weight * alike_weight * usual_weight * balanced_weight"
    assert (sample.scale.mean, sample.apply) == (1.0, "weights")


def test_a_folder_of_folders(folder):
    for month in (1, 2, 10):
        path = folder.path / f"hive/month={month}/zone=a%20b/part.parquet"
        path.parent.mkdir(parents=True)
        pl.DataFrame({"x": MANY[:month]}).write_parquet(path)
    assert folder.farol("new", "hive", "--output", "hive.yaml")[0] == 0
    text = (folder.path / "hive.yaml").read_text()
    assert re.search("# month +Int64 +0 +3 +1 +10\n", text)
    assert re.search("# zone +String +0 +1\n", text)
    (folder.path / "hive.yaml").rename(folder.path / "job.yaml")
    assert kinds(folder) == [("x", "robust_zscore"), ("month", "rarity"), (None, "expression")]
    assert len(weights(folder.path, "out/hive")) == 13


def test_a_column_that_files_and_folders_have(folder):
    (folder.path / "hive/t=z").mkdir(parents=True)
    pl.DataFrame({"x": MANY, "t": WORDS}).write_parquet(folder.path / "hive/t=z/part.parquet")
    assert folder.farol("new", "hive/*/*.parquet", "-o", "new.yaml")[0] == 0
    (folder.path / "new.yaml").rename(folder.path / "job.yaml")
    assert kinds(folder) == [("x", "robust_zscore"), (None, "expression")]
    assert len(weights(folder.path, "out/hive")) == 200


def test_it_is_printed_unless_there_is_a_place_for_it(folder):
    before = folder.files()
    status, out, err = folder.farol("new", "in")
    assert (status, err) == (0, "") and folder.files() == before
    lines = out.splitlines()
    assert lines[0] == "# yaml-language-server: $schema=farol.schema.json"
    assert "  path: in" in lines and any(line.startswith("  path: out/in ") for line in lines)
    (folder.path / "job.yaml").write_text(out)
    assert folder.farol("check", "job.yaml")[0] == 0
    assert len(weights(folder.path)) == 8


def test_paths_are_relative_to_the_job_file(folder):
    (folder.path / "jobs").mkdir()
    (folder.path / "my in {x} ${y}").mkdir()
    (folder.path / "in/a.parquet").rename(folder.path / "my in {x} ${y}/a.parquet")
    assert folder.farol("new", "my in {x} ${y}", "-o", "jobs/job.yaml")[0] == 0
    job = load(folder.path / "jobs/job.yaml", Job).value
    assert job.source.path == (str(folder.path / "my in {x} ${y}"),)
    assert job.sink.path == folder.path / "jobs/out/my-in-x-y"
    assert "../my in" in (folder.path / "jobs/job.yaml").read_text()
    run(folder.path / "jobs/job.yaml")


@pytest.mark.parametrize("where, source, sink", [
    (".", ".", "../{}-out/{}"), ("in", ".", "../in-out/in"), ("in", "a.parquet", "out/a"),
    (".", "in/*.parquet", "out/in"),
])  # fmt: skip
def test_the_sink_is_never_inside_its_source(folder, where, source, sink):
    folder.monkeypatch.chdir(folder.path / where)
    assert folder.farol("new", source, "-o", "new.yaml")[0] == 0
    wanted = Path(os.path.abspath(sink.format(folder.path.name, folder.path.name[:40].strip("-"))))
    assert load(Path("new.yaml"), Job).value.sink.path == wanted
    assert folder.farol("check", "new.yaml")[0] == 0


def test_the_sink_is_a_new_folder(folder):
    (folder.path / "out/in").mkdir(parents=True)
    (folder.path / "out/in-2.farol").mkdir()
    assert folder.farol("new", "in", "-o", "new.yaml")[0] == 0
    assert load(folder.path / "new.yaml", Job).value.sink.path == folder.path / "out/in-3"


def test_a_look_reads_some_rows_of_some_batches(folder, monkeypatch):
    monkeypatch.setattr(new, "MOST_ROWS", 20)
    monkeypatch.setattr(new, "MOST_BATCHES", 4)
    for i in range(10):
        folder.data(f"n/{i}.parquet", x=[float(i)] * 100)
    assert folder.farol("new", "in/n", "-o", "new.yaml")[0] == 0
    text = (folder.path / "new.yaml").read_text()
    assert "from a look at 20 rows, the first ones of each of 4 batches:" in text
    assert "# x       Float64        0         4     0   9" in text
    assert folder.farol("check", "new.yaml")[0] == 0


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["im"], "there is no file or folder {}/im"),
        (["empty"], "{}/empty holds no *.parquet file"),
        (["in/*.csv"], "no file matches {}/in/*.csv"),
        (["ftp://in"], "ftp://in: there are s3://, gs://, az:// and local paths"),
        (["in", "-o", "job.yaml"], "job.yaml is there already; name another file, or remove it"),
        (["in", "-o", "no/job.yaml"], "no/job.yaml: there is no folder {}/no"),
        (
            ["drift"],
            "the batches differ from a.parquet: b.parquet lacks 'x', has 'y' besides; "
            "source.drift: fill would take them as they are",
        ),
    ],
)
def test_what_is_refused(folder, arguments, said):
    (folder.path / "empty").mkdir()
    (folder.path / "drift").mkdir()
    pl.DataFrame({"x": [1]}).write_parquet(folder.path / "drift/a.parquet")
    pl.DataFrame({"y": [1]}).write_parquet(folder.path / "drift/b.parquet")
    before = folder.files()
    assert folder.farol("new", *arguments) == (2, "", f"farol: {said.format(folder.path)}\n")
    assert folder.files() == before


def test_what_cannot_be_read_is_a_failure(folder):
    (folder.path / "in/a.parquet").write_bytes(b"no")
    status, out, err = folder.farol("new", "in")
    assert (status, out) == (1, "") and err.startswith(f"farol: {folder.path / 'in/a.parquet'}: cannot be read: ")


@pytest.mark.parametrize(("compression", "said"), [("zstd", None), ("snappy", "snappy"), ("brotli", None)])
def test_outputs_are_compressed_as_the_source_is(tmp_path, compression, said):
    pl.DataFrame({"x": range(50)}).write_parquet(tmp_path / "a.parquet", compression=compression)
    text = new.new(str(tmp_path / "a.parquet"), tmp_path / "job.yaml")
    assert YAML(typ="safe").load(text)["sink"].get("compression") == said
