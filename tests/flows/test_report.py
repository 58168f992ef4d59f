"""The report: what is seen of known data, what a page shows of it, and that nothing in the data is obeyed by it."""

import datetime as dt
import json
import math
import os
import re
from html.parser import HTMLParser

import polars as pl
import pytest

from attention_core.run import opened, run
from flows import report as reports
from flows.artifacts import health, markdown
from flows.pictures import bars, distribution, inline, small
from flows.report import history, keep, look, page
from flows.summary import changes

HOSTILE = "<script>alert('x')</script> $a_b$ \x1b[31m\u202e|`*"
NO_PREFECT = """\
import sys
from flows.cli import main
sys.argv = ["farol", "report", "job.yaml"]
try:
    main()
except SystemExit as ended:
    print(ended.code, any(m.split(".")[0] == "prefect" for m in sys.modules))
"""


class Read(HTMLParser):
    """The tags and the text of a page, and what it would fetch."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.addresses = [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data")]
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


def job(folder, rules, more="", name="demo"):
    (folder.path / "job.yaml").write_text(
        json.dumps({"name": name, "source": {"path": "in"}, "sink": {"path": "out"}, "attention": rules}) + more
    )


def ran(full=False):
    run("job.yaml", full=full)
    return look(opened("job.yaml"))


def test_before_any_run_there_is_nothing_to_report(folder):
    before = folder.files()
    status, out, err = folder.farol("report", "job.yaml")
    assert (status, out) == (2, "") and folder.files() == before
    assert err == "farol: demo: nothing is published yet, so there is nothing to report; farol run is the first step\n"


def test_what_is_seen_of_known_data(folder):
    found = ran()
    [view] = found.views
    assert view.how == "x: threshold → step, over the dataset"
    assert view.bins == [(1.0, 1.25, 4), (2.0, 2.5, 4)]
    assert set(view.points) == {(0.0, 1.0), (1.0, 2.0)} and len(view.points) == 8
    assert view.top["weight"].to_list() == [2.0] * 4 + [1.0] * 4
    assert set(view.top["x"][:4]) == {6, 7, 8, 9}
    assert set(view.top["batch of the source"]) == {"a.parquet", "b.parquet"}
    assert view.batches.rows() == [("a.parquet", 10 / 7, 0.0), ("b.parquet", 2.0, 0.0)]
    assert (view.trend, view.times, view.groups, view.notes, found.notes) == (None, None, None, [], [])


def test_attention_over_time_and_over_groups(folder):
    days = [dt.date(2024, 1, 1), dt.date(2024, 1, 2), dt.date(2024, 1, 2), dt.date(2024, 1, 4)]
    folder.data(day=days, who=["a", "b", "b", None], x=[1.0, 2.0, 4.0, None])
    folder.data("b.parquet", day=days[:1], who=["c"], x=[3.0])
    job(folder, [{"key": "x", "over": {"group": ["who"]}, "apply": "weights", "missing": 0.0}])
    [view] = ran().views
    assert view.time == "day"
    assert view.times.rows() == [
        (days[0], 2.0, 2), (days[1], 3.0, 2), (dt.date(2024, 1, 3), None, 0), (days[3], 0.0, 1)
    ]  # fmt: skip
    rows = view.groups.rows()
    assert [r[0] for r in rows] == ["b", "c", "a", "null"]
    assert rows[0][1:] == pytest.approx((3.0, 2, 0.6, 0.4, 4))
    assert view.top.columns == ["weight", "who", "x", "day", "batch of the source"]
    assert view.top.row(0) == (4.0, "b", 4.0, days[1], "a.parquet")


def test_moments_with_a_zone_and_far_ones(folder):
    folder.data(t=[0, 3_600_000, 7_200_000], x=[1.0, 2.0, 3.0])
    folder.data("b.parquet", t=[10_800_000], x=[4.0])
    for path in (folder.path / "in").iterdir():
        pl.read_parquet(path).with_columns(pl.col("t").cast(pl.Datetime("ms", "Asia/Kolkata"))).write_parquet(path)
    job(folder, [{"key": "x", "apply": "weights"}])
    found = ran()
    times = found.views[0].times
    assert times["rows"].sum() == 4 and times.drop_nulls()["mean"].to_list() == [1.0, 2.0, 3.0, 4.0]
    assert "The mean weight over t, in Asia/Kolkata." in page(found)
    for path in (folder.path / "in").iterdir():
        pl.read_parquet(path).with_columns(pl.col("t").dt.offset_by("20000y")).write_parquet(path)
    drawn = page(ran())
    assert "Distribution of the weights" in drawn and "Attention over time" not in drawn


def test_a_folder_is_a_group(folder):
    for month, x in (1, [1.0, 3.0]), (2, [4.0]):
        folder.data(f"month={month}/a.parquet", x=x)
    for name in "ab":
        (folder.path / f"in/{name}.parquet").unlink()
    job(folder, [{"key": "x", "over": {"group": ["month"]}, "apply": "weights"}])
    [view] = ran().views
    assert view.groups.select("group", "mean", "rows").rows() == [("1", 2.0, 2), ("2", 4.0, 1)]
    assert view.top.row(0) == (4.0, 2, 4.0, "month=2/a.parquet")


def test_what_was_missing(folder):
    folder.data(
        x=[1.0, None, float("nan"), 4.0], who=["a", "a", "a", "z"], day=[dt.date(2024, 1, d) for d in (1, 2, 3, 9)]
    )
    (folder.path / "in/b.parquet").unlink()
    rules = [
        {"key": "x", "over": {"group": ["who"]}, "score": "zscore", "fit": "who = 'a'", "apply": "weights"},
        {"key": "day", "score": {"kind": "recency", "now": "2024-01-05"}, "apply": "weights"},
    ]
    job(folder, rules)
    found = ran()
    drawn = Read(page(found)).text
    for what, rows, share in (
        ("weight is null: the key is null, masked, unseen, or has no score", 2, "50 %"),
        ("weight is NaN: the key is NaN", 1, "25 %"),
        ("group or value that those who taught have not seen", 1, "25 %"),
        ("key later than now", 1, "25 %"),
    ):
        assert f"{what}{rows}{share}" in drawn
    assert all(math.isfinite(n) for point in found.views[0].points for n in point)
    folder.job()
    folder.data(x=[1])
    assert "Nothing: every row has a weight." in page(ran())


def test_the_trend_over_two_runs(folder):
    first = ran()
    assert first.before is None and "No trend yet: that takes two runs." in page(first)
    assert "Since the last run" not in page(first)
    folder.data("c.parquet", x=[8, 8, None, None])
    second = ran()
    assert second.before["at"] == first.record["at"] and len(history(second.path.parent)) == 2
    trend = second.views[0].trend
    assert trend["mean"].to_list() == [1.5, 1.6] and trend["missing"].to_list() == [0.0, 2 / 12]
    assert changes(second.record, second.before) == [("high", "1.6", "1.5", "9.143", "7.2", "16.7 %", "0 %")]
    drawn = page(second)
    assert "was 1.5" in drawn and "Trend over runs" in drawn and "Since the last run" in drawn
    out = folder.farol("report", "job.yaml")[1]
    assert "mean 1.6 (was 1.5); smallest 1; largest 2; " in out


def test_a_rule_that_is_new_was_nothing_before(folder):
    run("job.yaml")
    folder.job(more="  - {name: other, key: x, apply: weights}\n")
    found = ran()
    assert changes(found.record, found.before)[1] == ("other", "5.125", "–", "6.249", "–", "0 %", "–")
    assert page(found).count("No trend yet") == 1
    health(found)


def test_a_page_needs_nothing_beside_it(folder):
    folder.data("c.parquet", x=[1, None])
    run("job.yaml")
    found = ran(full=True)
    text = keep(found).read_text()
    read = Read(text)
    assert text == page(found) and text.isascii()
    assert not re.search(r"https?:|//|@import", text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(read.tags)
    assert all(address.startswith("#") for address in read.addresses)
    assert set(re.findall(r"url\(.", text)) <= {"url(#"}
    assert read.tags.count("svg") == 5
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert not re.search(r"#0[1-4]0[2-5]0[3-6]", text)  # every colour is a name that the page gives a meaning


def test_ids_are_each_one_s_own_and_there(folder):
    text = page(ran())
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert {a or b for a, b in wanted} <= set(ids)


def test_nothing_in_names_and_values_is_obeyed(folder):
    folder.data(**{HOSTILE: [1.0, 2.0], "who": [HOSTILE, "b"], "day": [dt.date(2024, 1, d) for d in (1, 2)]})
    (folder.path / "in/b.parquet").unlink()
    rules = [{"name": f"r{HOSTILE}", "key": HOSTILE, "over": {"group": ["who"]}, "apply": "weights"}]
    job(folder, rules, name=HOSTILE)
    found = ran()
    text = page(found)
    read = Read(text)
    assert "script" not in read.tags and "alert" in read.text
    assert r"\x1b[31m\u202e|`*" in read.text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    for text in markdown({**found.record, "report": str(found.path)}), health(found):
        assert "<script" not in text.replace("\\<", "") and "\x1b" not in text and "\u202e" not in text
        assert r"\$a\_b\$" in text and r"\|\`\*" in text
    status, out, err = folder.farol("report", "job.yaml")
    assert (status, err) == (0, "") and r"\x1b[31m\u202e" in out
    assert "\x1b" not in out and "\u202e" not in out


def test_the_terminal_shows_it_shorter(folder):
    run("job.yaml")
    status, out, err = folder.farol("report", "job.yaml")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("demo: 2 batches, 8 rows in ")
    assert lines[2] == "high  x: threshold → step, over the dataset"
    assert "mean 1.5" in lines[3] and "missing 0 %" in lines[3]
    bar = "█" * 24
    assert [line.split() for line in lines[5:7]] == [["1", bar, "50", "%"], ["2", bar, "50", "%"]]
    assert [line.split()[0] for line in lines if "parquet" in line and "█" in line] == ["a.parquet", "b.parquet"]
    assert lines[-1] == f"page: {folder.path}/out.farol/report.html"


def test_as_json(folder):
    folder.data("c.parquet", x=[1.0, float("inf")])
    for name in "ab":
        folder.data(f"{name}.parquet", x=[1.0])
    job(folder, [{"key": "x", "apply": "weights"}])
    run("job.yaml")
    status, out, err = folder.farol("report", "job.yaml", "--json")
    assert (status, err) == (0, "")
    said = json.loads(out)
    assert said["report"] == f"{folder.path}/out.farol/report.html" and said["before"] is None
    assert said["run"]["rows"] == 4
    weights = said["weights"]["x_weight"]
    assert weights["histogram"][0] == [1.0, 1.25, 3] and weights["top"][0]["weight"] == "inf"
    assert weights["measures"]["max"] == "inf" and weights["scores"] == [[1.0, 1.0]] * 3


def test_the_page_is_written_where_it_is_older_than_the_run(folder):
    run("job.yaml")
    path = folder.path / "out.farol/report.html"
    assert folder.farol("report", "job.yaml")[0] == 0
    written = path.stat().st_mtime_ns
    assert folder.farol("report", "job.yaml")[0] == 0 and path.stat().st_mtime_ns == written
    os.utime(path, (0, 0))
    assert folder.farol("report", "job.yaml")[0] == 0 and path.stat().st_mtime_ns > written
    assert not list(path.parent.glob("*.part"))


def test_rules_that_have_changed_have_no_run_yet(folder):
    run("job.yaml")
    folder.job("high: 2.0", "high: 3.0")
    status, out, err = folder.farol("report", "job.yaml")
    assert (status, out) == (2, "")
    assert err == "farol: demo: the rules have changed since the last run; farol run applies them\n"


def test_report_leaves_prefect_alone(folder):
    run("job.yaml")
    done = folder.python(NO_PREFECT)
    out, err = done.communicate(timeout=120)
    assert out.splitlines()[-1] == "0 False", err


@pytest.mark.parametrize("published", [True, False])
def test_the_flow_writes_the_page_and_no_failure_of_it_fails_the_run(folder, server, monkeypatch, published):
    if not published:

        def broken(report):
            raise RuntimeError("no pen")

        monkeypatch.setattr(reports, "keep", broken)
    status, out, err = folder.farol("run", "job.yaml")
    assert (status, err) == (0, "")
    assert folder.rows()["high_weight"].to_list() == [1, 2, 1, 2, 1, 1, 2]
    path = folder.path / "out.farol/report.html"
    assert path.is_file() == published == (f"page: {path}" in out)
    if published:
        from prefect.artifacts import Artifact

        shown = Artifact.get("farol-demo-weights").data
        assert "This is the first run" in shown and str(path) in shown and "data:image/svg+xml;base64," in shown
        assert str(path) in Artifact.get("farol-demo").data
        written = path.stat().st_mtime_ns
        assert folder.farol("run", "job.yaml")[0] == 0 and path.stat().st_mtime_ns == written


def test_weight_health_in_markdown(folder):
    run("job.yaml")
    folder.data("c.parquet", x=[8, 8, None, None])
    lines = health(ran()).splitlines()
    table = lines[lines.index("## Since the last run") + 2 :]
    assert table[0] == "| rule | mean | was | effective | was | missing | was |"
    assert table[2] == "| high | 1.6 | 1.5 | 9.143 | 7.2 | 16.7 % | 0 % |"
    assert any(re.fullmatch(r"!\[[\w ]+\]\(data:image/svg\+xml;base64,[\w+/=]+\)", line) for line in lines)
    assert "| missing | 16.7 % | 0 % |" in lines
    assert "- 2 (16.7 %): weight is null: the key is null, masked, unseen, or has no score" in lines


def test_a_look_at_much_is_limited_and_says_so(folder, monkeypatch):
    for i in range(10):
        folder.data(f"c{i}.parquet", x=[i, i])
    monkeypatch.setattr(reports, "MOST_ROWS", 10)
    found = ran()
    [note] = found.notes
    assert note.endswith("of 4 batches from all over the source, 10 rows of 28")
    assert found.views[0].top.height == 10 and note in page(found)
    assert sum(n for *_, n in found.views[0].bins) == 28


def test_no_more_columns_than_a_person_looks_at(folder, monkeypatch):
    monkeypatch.setattr(reports, "MOST_COLUMNS", 2)
    for name in "ab":
        folder.data(f"{name}.parquet", s1=[1.0], s2=[2.0], s3=[3.0])
    job(folder, [{"key": {"match": "^s"}, "apply": "weights"}])
    found = ran()
    assert [(v.name, v.keys) for v in found.views] == [("s1", ("s1",)), ("s2", ("s2",))]
    assert found.notes == ["3 columns of weights; the first 2 are drawn"] and len(found.record["weights"]) == 3


@pytest.mark.parametrize(
    "rules, notes",
    [
        ([{"name": "h", "key": "x", "apply": "none"}], ["these weights are not written, so no rows are shown"]),
        ([{"key": "x", "apply": {"filter": {"min": 5}}}], []),
        ([{"key": "x", "over": "batch", "score": "zscore", "weight": "softmax", "apply": "weights"}], []),
        ([{"name": "p", "key": "x", "over": "batch", "apply": {"pool": "mean"}}], []),
        ([{"key": "x", "weight": "softmax", "keep": {"top_k": 2}, "apply": "weights"}], []),
        ([{"name": "e", "score": {"kind": "expression", "sql": "x - 5"}, "apply": "weights"}], []),
        ([{"key": "x", "mask": "x > 100", "apply": "weights"}], ["none of the rows that were looked at has a score"]),
        ([{"key": "x", "over": "row", "weight": "softmax"}], []),
    ],
)
def test_every_shape_of_rule_has_a_page(folder, rules, notes):
    job(folder, rules)
    found = ran()
    read = Read(page(found))
    health(found)
    assert found.views[0].notes == notes and "not drawn" not in read.text
    kept = "the rows with most attention, and attention over time and groups, are of those that a filter keeps"
    assert (kept in read.text) == ("filter" in str(rules))
    assert ("Weight of each score" in read.text) == (not notes or notes[0].startswith("these"))


def test_the_score_of_a_batch_is_of_the_whole_batch(folder, monkeypatch):
    folder.data(x=[float(i) for i in range(100)])
    folder.data("b.parquet", x=[float(i) for i in range(100)])
    job(folder, [{"key": "x", "over": "batch", "score": "zscore", "apply": "weights"}])
    found = ran()
    assert max(found.views[0].points)[1] == pytest.approx(found.record["weights"]["x_weight"]["max"])
    monkeypatch.setattr(reports, "MOST_SCORED", 50)
    [note] = look(opened("job.yaml")).views[0].notes
    assert note == "scores are not drawn: a rule looks at whole batches, and a.parquet is large"


def test_lists_and_no_rows(folder):
    for name in "ab":
        folder.data(f"{name}.parquet", xs=[[1.0, 6.0], [7.0], []])
    job(folder, [{"key": "xs", "over": "row", "weight": "softmax"}])
    [view] = ran().views
    assert view.top.row(0) == (1.0, [7.0], "a.parquet") and len(view.points) == 6
    for name in "ab":
        folder.data(f"{name}.parquet", xs=pl.Series([], dtype=pl.List(pl.Float64)))
    found = ran()
    assert found.views[0].bins == [] and "No" not in found.notes
    assert "Distribution" not in page(found) and health(found)


def test_pooled_tables_alone(folder):
    text = {"name": "demo", "source": {"path": "in"}, "sink": {"path": "out", "columns": "none"}}
    rules = [{"name": "p", "key": "x", "over": "batch", "apply": "pool"}]
    (folder.path / "job.yaml").write_text(json.dumps({**text, "attention": rules}))
    found = ran()
    assert found.notes == ["no rows are written, so none is shown"] and found.views[0].top is None
    assert "out.pooled/p.parquet" in page(found)


def test_a_record_that_cannot_be_read_is_passed_over(folder):
    run("job.yaml")
    for i, text in enumerate(("", "[]", "{}", '{"weights": 3}')):
        (folder.path / f"out.farol/runs/2000-01-0{i + 1}T00-00-00.json").write_text(text)
    assert len(history(folder.path / "out.farol")) == 1
    assert look(opened("job.yaml")).before is None


ZERO = (0.0, 5e-309, 7)
BINS = [
    [(1.0, 1.25, 3)],
    [ZERO],
    [(-2.5, -2.0, 1), ZERO, (1.0, 1.25, 2)],
    [(2.0**e * m, 2.0**e * (m + 0.25), 1) for e in range(-300, 300) for m in (1, 1.25, 1.5, 1.75)],
    [(-(2.0**e) * 1.25, -(2.0**e), 1) for e in range(40, -40, -1)] + [ZERO, (2.0**-60, 1.25 * 2.0**-60, 2)],
]


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("most", [1, 8, 24])
def test_bars_hold_every_weight_once_and_in_order(bins, most):
    found = bars(bins, most)
    assert sum(n for *_, n in found) == sum(n for *_, n in bins)
    assert all(a[1] <= b[0] for a, b in zip(found, found[1:], strict=False))
    assert len(found) <= most + 3  # zero stands alone, and so does each side of it
    assert ZERO not in bins or ZERO in found


@pytest.mark.parametrize("bins", BINS)
def test_a_distribution_of_any_weights_can_be_drawn(bins):
    svg = distribution(bins, bins[0][0], bins[-1][0], 1.0)
    assert "<svg" in inline(svg, "p", "<a> & b") and 'aria-label="&lt;a&gt; &amp; b"' in inline(svg, "p", "<a> & b")
    assert small(bins, bins[0][0], bins[-1][0]).startswith("data:image/svg+xml;base64,")
