"""What a person sees in the terminal: progress, and tables."""

from __future__ import annotations

import datetime as dt
import inspect
import json
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from attention_core.attention import pooling, table_types
from attention_core.batches import ROW_GROUP_BYTES, Batch
from attention_core.engine import HERE
from attention_core.errors import printable
from attention_core.plan import Estimate, Plan
from attention_core.run import Run
from attention_core.work import Watch
from flows.summary import HEADERS, counted, headline, planned, strange, table

# Names and data are printed as they stand: what looks like markup or an emoji in them is none.
out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)
FEW = 8  # elements of a list or a vector that are shown
WIDE = 160  # columns of a page, where the output is no terminal
err = Console(stderr=True, highlight=False, markup=False, emoji=False)


class Bar(Watch):
    """A progress bar: the step, batches, rows/s, time left. Quiet where the output is no terminal."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description:>12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("batches  {task.fields[speed]}"),
            TimeRemainingColumn(),
            console=err,
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self.lock = threading.Lock()
        self.step: Any = None
        self.read = 0

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begin(self, what: str, batches: int) -> None:
        with self.lock:
            if self.step is not None:
                self.bar.remove_task(self.step)
            self.step, self.read = self.bar.add_task(what, total=batches, speed=""), 0

    def rows(self, rows: int) -> None:
        with self.lock:
            self.read += rows
            elapsed = self.bar.tasks[-1].elapsed if self.bar.tasks else None
            if elapsed:
                self.bar.update(self.step, speed=f"{self.read / elapsed:,.0f} rows/s")

    def batch(self, name: str) -> None:
        with self.lock:
            self.bar.advance(self.step)


def summary(record: Mapping[str, Any], again: str) -> None:
    """The end of a run: what was done, what the weights look like, where the rows are, what to try next."""
    out.print(Text.assemble((printable(record["job"]), "bold"), f": {headline(record)}"))
    if record["batches"]:
        _print(_table(HEADERS, table(record), right_from=1))
        out.print("min, mean and max are of the weights; effective is Kish's effective sample size", style="dim")
        for what in strange(record):
            note(what)
    if record["batches"] and record["engine"] != HERE.name:
        line(f"by: {record['engine']}")
    if record.get("report"):
        line(f"page: {record['report']}")
    for path in record["tables"]:
        line(f"table: {path}")
    if record["sink"] is not None:
        line(f"rows: {record['sink']}")
    line(f"next: {again}")


def plan(run: Run, found: Plan, every: bool, refused: str | None = None) -> None:
    """What would be done, and why. refused: what a run would say instead."""
    passes = "" if found.nothing else f"; {counted(found.passes, 'fitting pass')}"
    what = f": {planned(found.counts())}{passes}"
    out.print(Text.assemble((printable(run.job.name), "bold"), what))
    lines = [(e.name, e.status, e.why) for e in found.entries] + [(n, "gone", "no input") for n in found.gone]
    lines.sort(key=lambda line: line[1] == "depends on the fit")  # the many, which the few have moved
    shown = lines if every else [line for line in lines if line[1] != "done"][:20]
    if shown:
        _print(_table(("batch", "status", "why"), shown))
    else:
        out.print("nothing is new; farol run --full would do all of it again")
    if shown and len(lines) > len(shown):
        out.print(f"{len(lines) - len(shown):,} more; --all shows them")
    if found.interrupted:
        out.print("a run was interrupted while it published; the next run finishes that first")
    if found.other_versions:
        was = "output was" if found.other_versions == 1 else "outputs were"
        out.print(f"{found.other_versions:,} {was} made by other versions of Farol's numerics or torch; --full redoes")
    if shown and found.estimate is not None:
        out.print(f"takes about: {_takes(found.estimate)}")
        todo = next((b for b, e in zip(run.batches, found.entries, strict=True) if e.status != "done"), None)
        if todo is not None and run.outputs.passing():
            line(f"copies: {_copies(run, todo)}")
    made(run)
    if refused is not None:
        note(f"a run would refuse this: {refused}")
    if found.nothing:
        return
    if not run.outputs.rowless:
        line(f"writes to {run.place.sink}")


def made(run: Run) -> None:
    """What the rules make: columns beside the rows, and tables."""
    if not run.outputs.rowless:
        written = set(run.outputs.names())
        line(f"adds: {_named({n: t for n, t in run.outputs.added().items() if n in written}) or 'nothing'}")
        left_out(run)
    if run.left_out and run.given is None and run.asks:
        which = counted(len(run.left_out), "batch")
        note(f"source.where leaves {which} out, whose outputs stay; what rules know of a scope is of the others alone")
    for head in pooling(run.heads):
        line(f"table: {run.place.table(head.rule)}: {_named(table_types(head, run.outputs.with_added()))}")
    for old in run.old_tables():
        note(f"{old} is of no rule any more, and stays as it is; remove it if nobody reads it")


def left_out(run: Run) -> None:
    """That columns which the rules add are not written, where that is so."""
    written = set(run.outputs.names())
    left = [name for name in run.outputs.added() if name not in written]
    if left and not run.outputs.rowless:
        note(f"sink.columns leaves out what the rules add: {', '.join(left)}")


def _named(types: Mapping[str, pl.DataType]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in types.items())


def _takes(estimate: Estimate) -> str:
    """What a run takes, in words."""
    read, staged, memory = (decimal(n) for n in (estimate.read, estimate.staged, estimate.memory))
    seconds = estimate.seconds
    pace = "" if seconds is None else f", {seconds:.1f} s" if seconds < 100 else f", {seconds / 60:.0f} min"
    return f"{estimate.rows:,} rows, {read} to read, {staged} of disk, {memory} of memory{pace}"


def _copies(run: Run, batch: Batch) -> str:
    """How much of a batch is copied rather than decoded and encoded, and what would let more of it be."""
    now, better = run.outputs.copies(batch)
    said = f"{now} of {counted(len(run.outputs.passing()), 'column')} of {batch.name} as they lie there"
    if better is not None:
        return f"{said}; sink.compression: {better[0]}, as there, would copy {better[1]}, which is faster"
    if not now and (group := batch.extent().group) > ROW_GROUP_BYTES:
        return f"{said}, whose row groups of {decimal(group)} are cut to {decimal(ROW_GROUP_BYTES)}"
    return said


def frame(rows: pl.DataFrame, added: Iterable[str]) -> None:
    """Rows as a table, the columns that rules add in bold; one line a column where they do not fit side by side."""
    new = set(added)
    titles = [Text(printable(name), style="bold" if name in new else "") for name in rows.columns]
    drawn = Table(box=None, pad_edge=False)
    for title, dtype in zip(titles, rows.dtypes, strict=True):
        drawn.add_column(title, justify="right" if dtype.is_numeric() else "left", no_wrap=True)
    for row in rows.iter_rows():
        drawn.add_row(*(cell(value) for value in row))
    page, many = out.width if out.is_terminal else WIDE, rows.height
    if len(titles) > 1 and out.measure(drawn).maximum > page:
        for many in range(rows.height, 0, -1):  # as many rows as fit beside each other
            drawn = Table(box=None, pad_edge=False, show_header=False)
            for title, column in zip(titles, rows.head(many).iter_columns(), strict=True):
                drawn.add_row(title, *(cell(value) for value in column))
            if out.measure(drawn).maximum <= page:
                break
    _print(drawn)
    if many < rows.height:
        line(f"{rows.height - many} of {counted(rows.height, 'row')} more, which do not fit beside each other")


def pooled(rule: str, table: pl.DataFrame, rows: int) -> None:
    """The first rows of the table of a rule that pools."""
    many = f", the first {rows:,} of them" if rows < table.height else ""
    out.print()
    line(f"table of {rule}: {counted(table.height, 'row')}{many}")
    frame(table.head(rows), ())


def _print(drawn: Table) -> None:
    """A table in its full width: the terminal may wrap it, but no number is cut."""
    wide = Console(width=10_000, markup=False, emoji=False)
    if (needed := wide.measure(drawn).maximum) <= out.width:
        out.print(drawn)
    else:
        Console(file=out.file, width=needed, highlight=False, markup=False, emoji=False).print(drawn, crop=False)


def cell(value: object) -> str:
    """A value as a person reads it: null and NaN apart, whole numbers without a fraction."""
    match value:
        case None:
            return "null"
        case float():
            return f"{value:.6g}"
        case dt.datetime():
            return value.isoformat(" ", "auto")
        case list() | pl.Series():
            shown = [cell(v) for v in value[:FEW]] + (["…"] if len(value) > FEW else [])
            return "[" + ", ".join(shown) + "]"
    return printable(str(value))


def line(text: str) -> None:
    """One line, however long."""
    out.print(printable(text), soft_wrap=True)


def note(text: str) -> None:
    """What a person should know of what is shown."""
    out.print(Text.assemble(("note", "yellow"), f": {printable(text)}"), soft_wrap=True)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], right_from: int | None = None) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for i, header in enumerate(headers):
        drawn.add_column(
            header, justify="right" if right_from is not None and i >= right_from else "left", no_wrap=True
        )
    for row in rows:
        drawn.add_row(*map(printable, row))
    return drawn


def kinds(families: Mapping[str, Mapping[str, type[Any]]]) -> None:
    """A line for each kind: its word, and the first line of what its class says of it."""
    for title, found in families.items():
        listed = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), show_header=False)
        for word, one in found.items():
            listed.add_row(Text(word, style="bold"), Text(_lines(one)[0]))
        out.print(listed)
        out.print()
    note("farol kinds softmax explains one; in a job file, score: {kind: threshold, above: 5}, or a bare word")


def explained(word: str, found: Mapping[str, type[Any] | None]) -> None:
    """All that the classes of this word say, and the parameters of kinds."""
    for what, one in found.items():
        if one is None:
            continue
        out.print(Text(f"{word} ({what})", style="bold"))
        for text in _lines(one):
            line(f"  {text}" if text else "")
        for name, field in one.model_fields.items():
            if "kind" in one.model_fields and name != "kind":
                line(f"  - {name}: {_given(field)}")
        out.print()


def _given(field: FieldInfo) -> str:
    """Whether a parameter must be given, and what it is otherwise, as YAML has it."""
    if field.is_required():
        return "needed"
    return "may be left out" if field.default is None else f"{json.dumps(field.default, default=str)} unless given"


def _lines(kind: type[Any]) -> list[str]:
    return (inspect.getdoc(kind) or "").splitlines()
