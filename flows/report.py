"""What the weights of the last run look like: a page in one file, and a shorter picture in the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import polars as pl
import torch
from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from attention_core.attention import FramePart, Look, fit, one_thread
from attention_core.batches import Batch
from attention_core.columns import booleans, elements, series
from attention_core.contract import conclude
from attention_core.errors import FarolError, JobError, first_line
from attention_core.head import Head
from attention_core.health import Health
from attention_core.ledger import Footer
from attention_core.publish import write_whole, writing
from attention_core.run import Run
from attention_core.statistics import NOTHING, Statistics, of_sink, word
from attention_core.stores import Where, polars
from flows.show import cell, out
from flows.summary import (
    CHANGES,
    HEADERS,
    changes,
    counted,
    headline,
    measures,
    missing,
    missing_share,
    named,
    number,
    percent,
    printable,
    shortened,
    table,
)

Bins = list[tuple[float, float, int]]

MOST_COLUMNS = 24  # weight columns that are drawn
MOST_ROWS = 60_000_000  # of the sink that are looked at, all columns together
MOST_SCORED = 200_000  # rows of the source whose scores are computed again
MOST_POINTS = 4_000  # scores with their weights that are looked at
SAMPLES = 8  # batches that they are of
TOP = 10
RUNS = 20
MOMENTS = 48
GROUPS = 12
PARTS = 60  # of the batches in order, each with a mean of its own
SHOWN = 6  # columns beside the weight of a row
LONGEST = 60  # characters of a value
SEEN = "the rows with most attention, and attention over time and groups, are of"
FILE, ROW = "#the file of the row", "#its place"


@dataclass
class View:
    """What is seen of one weight column. points: some scores and their weights; notes: what is not seen, and why."""

    column: str
    head: Head
    measures: Mapping[str, Any]
    before: Mapping[str, Any] | None
    bins: Bins
    name: str  # of the column among others
    points: list[tuple[float, float]] = field(default_factory=list)
    sample: str = ""
    top: pl.DataFrame | None = None
    times: pl.DataFrame | None = None  # at, mean, rows
    time: str = ""
    groups: pl.DataFrame | None = None  # group, mean, rows, of_attention, of_rows
    batches: pl.DataFrame | None = None  # batches, mean, missing
    trend: pl.DataFrame | None = None  # at, mean, effective, missing
    notes: list[str] = field(default_factory=list)

    @property
    def finite(self) -> Bins:
        """The bins without those of infinite weights, which have no place on an axis."""
        return [b for b in self.bins if math.isfinite(b[0]) and math.isfinite(b[1])]

    @property
    def how(self) -> str:
        """The rule in one line."""
        head = self.head
        scope = ", ".join(head.over) if isinstance(head.over, tuple) else head.over
        over = f"the {scope}" if scope == "dataset" else f"each {scope}"
        kinds = " → ".join(word(kind) for kind in head.kinds)
        return f"{', '.join(self.keys)}{': ' if self.keys else ''}{kinds}, over {over}"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that the weights are of: of a head with several, their own."""
        alone = len(self.head.weights) > 1
        return (self.head.key[self.head.weights.index(self.column)],) if alone else self.head.key

    def plain(self) -> dict[str, Any]:
        """The same as plain data."""
        frames = {n: getattr(self, n) for n in ("top", "times", "groups", "batches", "trend")}
        tables = {n: None if f is None else [dict(zip(f.columns, row, strict=True)) for row in _lines(f)]
                  for n, f in frames.items()}  # fmt: skip
        said = {"rule": self.head.rule, "how": self.how, "measures": dict(self.measures), "before": self.before}
        return said | {"histogram": self.bins, "scores": self.points} | tables | {"notes": self.notes}


@dataclass
class Report:
    """What the last run came to, beside the one before it."""

    record: Mapping[str, Any]
    before: Mapping[str, Any] | None
    path: Where
    views: list[View]
    notes: list[str]

    @property
    def when(self) -> str:
        """When the run began."""
        return _moment(self.record["at"])

    def plain(self) -> dict[str, Any]:
        """The same as plain data."""
        views = {view.column: view.plain() for view in self.views}
        said = {"job": self.record["job"], "report": str(self.path), "run": self.record, "before": self.before}
        return said | {"weights": views, "notes": self.notes}


def look(run: Run) -> Report:
    """Looks at the last run of a job: at its record, at what outputs say of themselves, and at some of their rows.

    Raises:
        JobError: where nothing was published, or by other rules.
    """
    records = history(run.place.work)
    last, path = run.place.last(), run.place.work / "report.html"
    if not records or not last:
        raise JobError(
            f"{run.job.name}: nothing is published yet, so there is nothing to report; farol run is the first step"
        )
    if last.get("rules") != run.outputs.rules:
        there = f"; the page of that run is {path}" if path.is_file() else ""
        raise JobError(f"{run.job.name}: the rules have changed since the last run; farol run applies them{there}")
    record, before = records[-1], records[-2] if len(records) > 1 else None
    columns = [(head, column) for head in run.heads for column in head.weights if column in record["weights"]]
    notes = []
    if len(columns) > MOST_COLUMNS:
        notes.append(f"{len(columns):,} columns of weights; the first {MOST_COLUMNS} are drawn")
    footers = run.footers()
    parts = [footers[i : i + _size(footers)] for i in range(0, len(footers), _size(footers))]
    healths = [run.health(part) for part in parts]
    views, names = [], named(record["weights"])
    for head, column in columns[:MOST_COLUMNS]:
        was = before["weights"].get(column) if before else None
        bins = reduce(add, [h[column] for h in healths]).histogram() if healths else []
        view = View(column, head, record["weights"][column], was, bins, names[column])
        view.batches = _batches(column, parts, healths) if len(parts) > 1 else None
        view.trend = _trend(column, records)
        views.append(view)
    _see_scores(run, views)
    notes += _see_rows(run, views, footers)
    return Report(record, before, path, views, notes)


def history(work: Where) -> list[dict[str, Any]]:
    """The records of the last runs, the oldest first; `at` is when each began."""
    found = []
    for path in sorted((work / "runs").glob("*.json"))[-RUNS:]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            record = json.loads(path.read_text())
            weights = {column: _numbers(measures) for column, measures in record["weights"].items()}
            found.append({**record, "at": path.stem, "weights": weights})
    return found


def keep(report: Report) -> Where:
    """Writes the page to the work folder."""
    with writing(report.path):
        write_whole(report.path, page(report))
    return report.path


def is_old(report: Report) -> bool:
    """Whether the page is not there, or is of a run before."""
    runs = report.path.parent / "runs" / f"{report.record['at']}.json"
    return not report.path.is_file() or report.path.stat().st_mtime < runs.stat().st_mtime


def _numbers(measures: Mapping[str, Any]) -> dict[str, Any]:
    """Measures as they were before JSON, which knows no infinity, took them."""
    texts = ("inf", "-inf", "nan")
    return {n: float(v) if n != "rule" and v in texts else v for n, v in measures.items()}


def _size(footers: Sequence[Footer]) -> int:
    return max(1, math.ceil(len(footers) / PARTS))


def _batches(column: str, parts: Sequence[Sequence[Footer]], healths: Sequence[Mapping[str, Health]]) -> pl.DataFrame:
    found = [h[column].summary() for h in healths]
    names = [p[0].name if len(p) == 1 else f"{p[0].name} to {p[-1].name}" for p in parts]
    columns = {"batches": names, "mean": [m["mean"] for m in found], "missing": [missing_share(m) for m in found]}
    return pl.DataFrame(columns, schema={"batches": pl.String, "mean": pl.Float64, "missing": pl.Float64})


def _trend(column: str, records: Sequence[Mapping[str, Any]]) -> pl.DataFrame | None:
    runs = [(r["at"], r["weights"][column]) for r in records if column in r["weights"]]
    if len(runs) < 2 or all(m["mean"] is None for _, m in runs):
        return None
    rows = [
        (_moment(at), m["mean"], m["effective_sample_size"], missing_share(m), m["rows"]) for at, m in runs if m["rows"]
    ]
    schema = {"at": pl.String, "mean": pl.Float64, "effective": pl.Float64, "missing": pl.Float64, "rows": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _moment(at: str) -> str:
    """`2026-11-25 21:52 UTC`, from the name of a record."""
    day, _, time = at.partition("T")
    return f"{day} {time[:5].replace('-', ':')} UTC"


def _see_scores(run: Run, views: Sequence[View]) -> None:
    """Scores some rows of the source again, with the statistics that were published, and weighs them."""
    if not views:
        return
    try:
        chosen = _spread(run.batches, SAMPLES)
        most = MOST_SCORED // len(chosen)
        with one_thread():
            for batch in chosen:
                _score(run, batch, views, most, MOST_POINTS // len(chosen))
    except (FarolError, OSError, pl.exceptions.PolarsError) as error:
        for view in views:
            view.points = []
            view.notes.append(f"scores are not drawn: {str(error).splitlines()[0]}")
        return
    for view in views:
        view.sample = f"some of the first {most:,} rows of {counted(len(chosen), 'batch')}"
        if not view.points and not view.notes:
            view.notes.append("none of the rows that were looked at has a score")


def _score(run: Run, batch: Batch, views: Sequence[View], most: int, points: int) -> None:
    alone = any(head.over == "batch" and head.asks() for head in run.heads)  # only the whole batch tells their scores
    if alone and batch.rows() > MOST_SCORED:
        raise JobError(f"a rule looks at whole batches, and {batch.name} is large")
    made = {c for head in run.heads for c in head.adds()}
    columns = sorted({c for head in run.heads for c in head.reads()} - made)
    frame = next(iter(batch.read(columns, MOST_SCORED if alone else most)))[1]
    known = of_sink(run.place.work, run.heads).statistics if run.asks else NOTHING
    seen = Look(run.heads, None, order=run.look.order)
    part = FramePart(frame, batch.name)
    known = fit(seen, lambda work: [work(part)], known)
    for start, chunk in seen.attended(part, run.heads, known):
        for view in views:
            found = _points(seen, part, start, chunk, view, known)
            many = points * chunk.height // max(frame.height, 1)
            view.points += found.gather_every(max(1, math.ceil(found.height / max(many, 1)))).rows()


def _points(
    seen: Look, part: FramePart, start: int, chunk: pl.DataFrame, view: View, known: Statistics
) -> pl.DataFrame:
    """The score and the weight of each key of a chunk."""
    head, whole = view.head, seen.segments(part, view.head, known)
    found = head.look(chunk, whole.slice(start, chunk.height), start=seen.first(part, head) + start).rows
    if head.over == "row":
        first = head.kinds[0]
        score = first(found, conclude(first.fit(), lambda question: question.of(found)))
    else:
        score = head.scored(found, known.of(head, whole.keys).kinds[:1]).x
    i, k = head.weights.index(view.column), len(head.weights)
    weights = chunk[view.column]
    weights = elements(weights)[0] if isinstance(weights.dtype, pl.List) else weights
    there = torch.ones(len(score), dtype=torch.bool) if found.ok is None else found.ok
    pairs = pl.DataFrame(
        {
            "score": series("", score[i::k], None, pl.Float64()),
            "weight": weights,
            "there": booleans(there[i::k].contiguous()),
        }
    )
    both = pl.col("score").is_finite() & pl.col("weight").is_finite()
    return pairs.filter("there", both).select("score", "weight")


def _lines(frame: pl.DataFrame) -> Iterator[tuple[Any, ...]]:
    """The rows of a frame; moments that Python has no date for are numbers."""
    return zip(*(_values(column) for column in frame.iter_columns()), strict=True)


def _values(column: pl.Series) -> list[Any]:
    try:
        return column.to_list()
    except (OverflowError, ValueError):
        return column.to_physical().to_list()


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """Some of them, evenly from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _see_rows(run: Run, views: Sequence[View], footers: Sequence[Footer]) -> list[str]:
    """Looks at rows that are written: which get most attention, and how much there is over time and over groups."""
    there = [f for f in footers if f.rows and run.place.output(f.name).is_file()]
    if not views or not there:
        return ["no rows are written, so none is shown"] if run.outputs.rowless else []
    notes, rows, most = [], sum(f.rows for f in there), MOST_ROWS // len(views)
    if rows > most:
        there = there[:: math.ceil(rows / most)]
        of = f"{counted(len(there), 'batch')} from all over the source, {min(most, sum(f.rows for f in there)):,} rows"
        notes.append(f"{SEEN} {of} of {rows:,}")
    if any(head.least is not None for head in run.heads):
        notes.append(f"{SEEN} those that a filter keeps")
    written = _Written(run, there, most)
    for view in views:
        try:
            _see(written, view)
        except (FarolError, OSError, pl.exceptions.PolarsError) as error:
            view.notes.append(f"rows are not shown: {str(error).splitlines()[0]}")
    return notes


class _Written:
    """The rows of some outputs, and the columns that their folders stand for."""

    def __init__(self, run: Run, footers: Sequence[Footer], most: int) -> None:
        names = {str(run.place.output(f.name)): f.name for f in footers}
        self.run, self.names, self.many = run, names, len(footers)
        folders = {b.name: b for b in run.batches}
        self.lazy = pl.scan_parquet(
            list(names),
            glob=False,
            hive_partitioning=False,
            n_rows=most,
            include_file_paths=FILE,
            row_index_name=ROW,
            **polars(run.place.sink)[1],
        )
        self.schema = dict(self.lazy.collect_schema())
        self.folders = {
            column: pl.col(FILE)
            .replace_strict({path: folders[n].partitions[column] for path, n in names.items()}, return_dtype=dtype)
            .alias(column)
            for column, dtype in run.batches[0].types.items()
        }
        self.schema |= dict(run.batches[0].types)

    def of(self, column: str) -> pl.Expr:
        return self.folders.get(column, pl.col(column))

    def time(self, head: Head) -> str | None:
        """The column that tells when a row is of: the rule's own key, another's, or the first there is."""
        keys = [*head.key, *(c for other in self.run.heads for c in other.key), *self.schema]
        return next((c for c in keys if isinstance(self.schema.get(c), pl.Date | pl.Datetime)), None)


def _see(written: _Written, view: View) -> None:
    head, column = view.head, view.column
    if column not in written.schema:
        view.notes.append("these weights are not written, so no rows are shown")
        return
    raw = pl.col(column)
    listed = isinstance(written.schema[column], pl.List)
    finite = pl.col("#w").is_finite()
    groups = [c for c in head.over if c in written.schema] if isinstance(head.over, tuple) else []
    time = written.time(head)
    keys = [c for c in view.keys or sorted(head.columns()) if c in written.schema]
    beside = list(dict.fromkeys([*groups, *keys, *([time] if time else [])]))[:SHOWN]

    shown = [written.of(c).alias(f"{i}") for i, c in enumerate(beside)]
    weights = written.lazy.select(*shown, FILE, ROW, (raw.list.max() if listed else raw).alias("#w"))
    there = weights.filter(pl.col("#w").is_not_nan())
    top = there.top_k(TOP, by=["#w", ROW], reverse=[False, True])  # ties go to the earlier row
    found = top.collect(engine="streaming").sort("#w", ROW, descending=[True, False])
    batch = [pl.col(FILE).replace_strict(written.names, return_dtype=pl.String)] if written.many > 1 else []
    view.top = found.select(
        pl.col("#w").alias("weight"), *(pl.col(f"{i}").alias(c) for i, c in enumerate(_apart(beside))),
        *(b.alias("batch of the source") for b in batch),
    )  # fmt: skip

    mean = (raw.list.mean() if listed else raw).alias("#w")
    if time:
        view.time = time
        view.times = _over_time(written.lazy.select(written.of(time).alias("#t"), mean).filter(finite))
    if groups and len(groups) == len(head.over) and not (view.measures["min"] or 0) < 0:
        lazy = written.lazy.select(*(written.of(c).alias(f"{i}") for i, c in enumerate(groups)), mean)
        view.groups = _over_groups(lazy.filter(finite), len(groups))


def _apart(names: Sequence[str]) -> list[str]:
    """Column names that may stand beside those of the table's own."""
    return [f"{name} " if name in ("weight", "batch of the source") else name for name in names]


def _over_time(rows: pl.LazyFrame) -> pl.DataFrame | None:
    """The mean weight of each of some equal stretches of time."""
    at = pl.col("#t").to_physical().cast(pl.Int64)
    first, last, dtype = rows.select(at.min().alias("a"), at.max().alias("b"), pl.col("#t").first()).collect(
        engine="streaming"
    ).pipe(lambda f: (f["a"][0], f["b"][0], f["#t"].dtype))  # fmt: skip
    if first is None or first == last:
        return None
    span = last - first + 1
    stretches = min(MOMENTS, span)
    place = ((at - first).cast(pl.Float64) * (stretches / span)).floor().clip(0, stretches - 1).cast(pl.Int64)
    found = (
        rows.drop_nulls("#t").group_by(place.alias("#i")).agg(pl.col("#w").mean().alias("mean"), pl.len().alias("rows"))
    ).collect(engine="streaming")  # fmt: skip
    every = pl.DataFrame({"#i": range(stretches)}, schema={"#i": pl.Int64})
    found = every.join(found, on="#i", how="left", maintain_order="left")
    starts = pl.Series("at", [first + i * span // stretches for i in range(stretches)], dtype=pl.Int64)
    moments = starts.cast(pl.Int32).cast(dtype) if dtype == pl.Date else starts.cast(dtype)
    return found.select(moments, "mean", pl.col("rows").fill_null(0))


def _over_groups(rows: pl.LazyFrame, columns: int) -> pl.DataFrame | None:
    """The groups with the largest shares of attention."""
    keys = [f"{i}" for i in range(columns)]
    found = rows.group_by(keys).agg(pl.col("#w").sum().alias("sum"), pl.len().alias("rows")).collect(engine="streaming")
    total, many = found["sum"].sum(), found["rows"].sum()
    if not total or not math.isfinite(total):
        return None
    top = found.sort("sum", *keys, descending=[True, *[False] * columns], nulls_last=True).head(GROUPS)
    names = [", ".join(cell(v) for v in row) for row in _lines(top.select(keys))]
    return top.select(
        pl.Series("group", names, dtype=pl.String),
        (pl.col("sum") / pl.col("rows")).alias("mean"),
        "rows",
        (pl.col("sum") / total).alias("of_attention"),
        (pl.col("rows") / many).alias("of_rows"),
        pl.lit(found.height).alias("of"),
    )


@dataclass(frozen=True)
class Shown:
    """A picture with what it says, and its numbers for who cannot see it."""

    title: str
    says: str
    svg: str
    headers: Sequence[str]
    rows: Sequence[tuple[str, ...]]


def page(report: Report) -> str:
    """The report as an HTML page that needs nothing beside it."""
    import jinja2
    from markupsafe import Markup

    from flows.pictures import inline

    names = (f"p{i}" for i in range(1_000_000))

    def picture(shown: Shown) -> Markup:
        return Markup(inline(shown.svg, next(names), f"{shown.title}. {shown.says}"))

    def visible(value: Any) -> Any:
        return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)

    where = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(
        loader=where, autoescape=True, finalize=visible, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    text = pages.get_template("report.html").render(
        report=report,
        record=report.record,
        headline=headline(report.record),
        headers=HEADERS,
        table=table(report.record),
        change_headers=CHANGES,
        changes=changes(report.record, report.before) if report.before else [],
        views=[
            (view, measures(view.measures, view.before), figures(view), top(view, LONGEST), missing(view.measures))
            for view in report.views
        ],
        picture=picture,
    )
    return text.encode("ascii", "xmlcharrefreplace").decode()  # the same whatever the encoding


def top(view: View, longest: int) -> tuple[list[str], list[list[str]]]:
    """The rows with most attention as texts."""
    if view.top is None:
        return [], []
    rows = [
        [number(weight), *(shortened(cell(value), longest) for value in values)] for weight, *values in _lines(view.top)
    ]
    return view.top.columns, rows


def figures(view: View) -> tuple[list[Shown], list[str]]:
    """The pictures of a weight column, and notes on those that cannot be drawn: the others are."""
    found, notes = [], []
    for draw in (_distribution, _scores, _groups, _times, _over_batches, _missing_over_batches, _runs):
        try:
            if (shown := draw(view)) is not None:
                found.append(shown)
        except (ArithmeticError, ValueError, pl.exceptions.PolarsError) as error:
            notes.append(f"a picture is not drawn: {first_line(error, type(error).__name__)}")
    return found, notes


def _distribution(view: View) -> Shown | None:
    from flows.pictures import bars, distribution

    bins, m = view.finite, view.measures
    if not bins:
        return None
    many = sum(n for *_, n in bins)
    rows = [(number(a), number(b), f"{n:,}", percent(n / many)) for a, b, n in bars(bins, 24)]
    says = f"{counted(many, 'weight')}. Each bar is a range of weights, on an axis of doublings."
    drawn = distribution(bins, m["min"], m["max"], m["mean"])
    return Shown("Distribution of the weights", says, drawn, ("from", "to", "weights", "share"), rows)


def _scores(view: View) -> Shown | None:
    from flows.pictures import scores

    if not view.points:
        return None
    label = f"score: {word(view.head.kinds[0])}" + (f" of {', '.join(view.keys)}" if view.keys else "")
    low, high = min(view.points), max(view.points)
    rows = [("lowest score", *map(number, low)), ("highest score", *map(number, high))]
    says = f"{counted(len(view.points), 'key')}, {view.sample}."
    return Shown("Weight of each score", says, scores(view.points, label), ("", "score", "weight"), rows)


def _groups(view: View) -> Shown | None:
    from flows.pictures import groups

    if view.groups is None:
        return None
    of, names = int(view.groups["of"][0]), view.groups["group"].to_list()
    says = f"The {len(names)} groups with most attention, of {of:,}." if of > len(names) else f"All {of:,} groups."
    says += " Where the bar is longer than the diamond is far, they get more than their rows alone would."
    columns = view.groups.select("group", "rows", "mean", "of_attention", "of_rows")
    rows = [(g, f"{n:,}", number(w), percent(a), percent(r)) for g, n, w, a, r in columns.iter_rows()]
    drawn = groups(names, view.groups["of_attention"].to_list(), view.groups["of_rows"].to_list())
    headers = ("group", "rows", "mean weight", "of attention", "of rows")
    return Shown("Attention over groups", says, drawn, headers, rows)


def _times(view: View) -> Shown | None:
    from flows.pictures import over_time

    if view.times is None:
        return None
    at = view.times["at"]
    zone = at.dtype.time_zone if isinstance(at.dtype, pl.Datetime) else None
    naive = at if zone is None else at.dt.replace_time_zone(None)
    rows = [(cell(t), number(w), f"{n:,}") for t, w, n in view.times.iter_rows()]
    says = f"The mean weight over {view.time}" + (f", in {zone}." if zone else ".")
    drawn = over_time(naive.to_list(), view.times["mean"].to_list())
    return Shown("Attention over time", says, drawn, (f"{view.time} from", "mean weight", "rows"), rows)


def _over_batches(view: View) -> Shown | None:
    from flows.pictures import over_batches

    if view.batches is None:
        return None
    rows = [(b, number(w), percent(s)) for b, w, s in view.batches.iter_rows()]
    drawn = over_batches(view.batches["mean"].to_list())
    says = "The mean weight of each batch."
    return Shown("Attention over batches", says, drawn, ("batch", "mean weight", "missing"), rows)


def _missing_over_batches(view: View) -> Shown | None:
    from flows.pictures import missing

    if view.batches is None or not (view.batches["missing"] > 0).any():
        return None
    rows = [(b, percent(s)) for b, _, s in view.batches.iter_rows()]
    drawn = missing(view.batches["missing"].to_list())
    says = "The share of rows without a weight in each batch."
    return Shown("Missing over batches", says, drawn, ("batch", "missing"), rows)


def _runs(view: View) -> Shown | None:
    from flows.pictures import trend

    runs = view.trend
    if runs is None:
        return None
    found = {
        "mean weight": runs["mean"].to_list(),
        "effective sample, % of rows": (100 * runs["effective"] / runs["rows"]).to_list(),
        "missing, % of rows": (100 * runs["missing"]).to_list(),
    }
    rows = [(at, number(w), number(e), percent(s), f"{n:,}") for at, w, e, s, n in runs.iter_rows()]
    headers = ("run", "mean weight", "effective sample", "missing", "rows")
    drawn = trend([at[:10] for at in runs["at"]], found)
    return Shown("Trend over runs", f"The last {runs.height} runs.", drawn, headers, rows)


def draw(report: Report) -> None:
    """The shorter picture, in the terminal."""
    out.print(Text.assemble((printable(report.record["job"]), "bold"), f": {headline(report.record)}; {report.when}"))
    for view in report.views:
        out.print()
        out.print(Text.assemble((printable(view.name), "bold"), f"  {printable(view.how)}"), soft_wrap=True)
        said = (
            f"{name} {now}" + (f" (was {was})" if was and was != now else "")
            for name, now, was in measures(view.measures, view.before)
        )
        out.print("; ".join(said), soft_wrap=True)
        for title, lines in _bars(view):
            out.print(_chart(title, lines))
        headers, rows = top(view, 30)
        if rows:
            out.print(_rows(headers, rows[:3]))
        for note in view.notes:
            out.print(printable(note), style="dim", soft_wrap=True)
    out.print()
    for note in report.notes:
        out.print(printable(note), style="dim", soft_wrap=True)


def _bars(view: View) -> Iterator[tuple[str, list[tuple[str, float, str]]]]:
    """Charts of few bars: a name, a length and a text for each."""
    from flows.pictures import bars

    many = sum(n for *_, n in view.finite)
    yield "weights from", [(number(a), n / many, percent(n / many)) for a, _, n in bars(view.finite, 8)]
    if view.groups is not None and (view.times is None or _tell(view.groups)):
        few = view.groups.head(6).select("group", "of_attention", "of_rows").iter_rows()
        yield "share of attention", [(g, a, f"{percent(a)} with {percent(r)} of the rows") for g, a, r in few]
    elif view.times is not None:
        some = view.times.filter(pl.col("mean").is_not_null())
        some = some.gather_every(max(1, math.ceil(some.height / 8)))
        yield f"mean weight from {view.time}", [(cell(t), w, number(w)) for t, w, _ in some.iter_rows()]
    elif view.batches is not None:
        some = view.batches.filter(pl.col("mean").is_not_null())
        some = some.gather_every(max(1, math.ceil(some.height / 8)))
        yield "mean weight of batch", [(b, w, number(w)) for b, w, _ in some.iter_rows()]


def _tell(groups: pl.DataFrame) -> bool:
    """Whether any of the groups gets more or less attention than its rows alone would."""
    return any(abs(a - r) > 0.01 for a, r in groups.select("of_attention", "of_rows").iter_rows())


def _chart(title: str, lines: Sequence[tuple[str, float, str]]) -> Table:
    drawn = Table(box=None, pad_edge=False, show_header=True, header_style="dim", padding=(0, 1, 0, 0))
    drawn.add_column(shortened(title, 28), justify="right", no_wrap=True, min_width=20)
    drawn.add_column("", width=24)
    drawn.add_column("", no_wrap=True)
    longest = max((abs(length) for _, length, _ in lines), default=0.0)
    for name, length, text in lines:
        share = abs(length) / longest if longest > 0 and math.isfinite(length / longest) else 0.0
        drawn.add_row(shortened(name, 28), Bar(1.0, 0.0, share, width=24, color="blue"), text)
    return drawn


def _rows(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for header in headers:
        drawn.add_column("most attention" if header == "weight" else printable(header), no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    return drawn
