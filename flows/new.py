"""A job file to start from: a look at the data, and rules that make sense for what is there."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from attention_core.batches import Batch, reading
from attention_core.errors import JobError
from attention_core.job import Job
from attention_core.run import Run
from attention_core.search import searched
from attention_core.stores import Where, arrow
from flows.show import cell
from flows.summary import counted, number

MOST_ROWS, MOST_BYTES, MOST_BATCHES = 1_000_000, 256 << 20, 100  # of one look
MOST_LISTED = 100  # columns
FEW, MANY = 50, 1000  # values of a column that sorts rows into some; more are names of the rows themselves
HALF_LIVES = (1, 2, 3, 5, 7, 10, 14, 20, 30, 60, 90, 180, 365, 730, 1825, 3650)
UNITS = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}
YEARS = (-6.2e10, 2.5e11)  # what Python can write: from the year 1 to nearly 10,000, in seconds since 1970
HUGE = 1e100  # beyond it, squares and sums are soon no numbers
_WORD = re.compile(r"(?:\.{0,2}/)*[A-Za-z_][A-Za-z0-9_./-]*")  # or a path
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

HEAD = """\
# yaml-language-server: $schema=farol.schema.json
# Editors explain and check this file once `farol schema > farol.schema.json` has been called in its folder.
#
# A job to start from. Look at it: `farol check` and `farol preview`; then `farol run`. Paths are relative to this file.
name: {name}

source:
  path: {source}

sink:
  path: {sink}    # one file for each batch, under the same name: its columns, and the new ones{compression}

{columns}

# Each rule has three steps. Score: how relevant is a row? Weight: how much attention does that earn?
# Apply: write the weight alone, as here, or `multiply` values by it. `farol kinds` lists what there is.
attention:
"""
RECENT = """\
  # What is recent counts more: the last row 1, one that is a half-life older one half, and so on.
  - name: {name}
    key: {key}
    score: {{kind: recency, unit: {unit}}}
    weight: {weight:<38}# in {unit}; a longer one evens the ages out
    missing: 0.5                                  # the weight of a row whose {short} is missing
    apply: weights                                # adds {name}_weight
"""
ALIKE = """\
  # What points the same way as the average vector counts 1, what is least like it one half.
  - name: {name}
    key: {key}
    score: {{kind: cosine, query: centroid}}        # or a query of your own: a list of numbers, or {{column: name}}
    weight: {{kind: linear, low: 0.5, high: 1.0}}   # low: 1.0, high: 0.5 favours what is unlike
    missing: 1.0                                  # the weight of a row whose {short} is missing
    apply: weights                                # adds {name}_weight
"""
USUAL = """\
  # Outliers are turned down: 1 up to 3.5 robust deviations from the median, one half at 7, a tenth at 35.
  - name: {name}
    key: {key}
    score: robust_zscore                          # median and MAD, which outliers do not move
    weight: {{kind: huber, at: 3.5}}                # a smaller number turns more rows down
    missing: 1.0                                  # the weight of a row whose {short} is missing
    apply: weights                                # adds {name}_weight
"""
BALANCED = """\
  # What is rare counts more: each row by one over the root of how often its {short} occurs.
  - name: {name}
    key: {key}
    score: {{kind: rarity, form: inverse}}
    weight: {{kind: power, exponent: 0.5}}          # 1 would give each value the same total, 0 each row the same weight
    missing: 1.0                                  # the weight of a row whose {short} is missing
    apply: weights                                # adds {name}_weight
"""
SAMPLE = """\
{about}
  - name: {name}
    score: {{kind: expression, sql: "{sql}"}}
    clip: [0.01, 100.0]                           # no row is left out, and none outshines all others
    scale: {{mean: 1.0}}                            # the weights average 1
    apply: weights                                # adds {name}_weight
"""
COMBINED = """\
  # Rules see the columns of the rules above them. The sample weight is the product of theirs; any Polars SQL expression
  # of a row's own columns can stand here."""
ALONE = """\
  # No column invites a rule of its own, so each row counts the same. Any Polars SQL expression of a row's own columns
  # can stand here, and `farol kinds` lists what else there is."""


@dataclass(frozen=True)
class Column:
    """What a look at a column shows.

    missing: nulls and NaN. distinct: how many values, None where they are not counted. low, high: the least and the
    greatest value as text. span: from one to the other, in seconds, of a date or a moment. tail: how far the farthest
    of some numbers lies from the median, in robust deviations. alike: vectors of one length, finite.
    """

    name: str
    dtype: pl.DataType
    rows: int = 0
    missing: int = 0
    distinct: int | None = None
    low: str = ""
    high: str = ""
    span: float = 0.0
    tail: float = 0.0
    alike: bool = False

    @property
    def usable(self) -> bool:
        """Whether Farol takes such a name, and at least half of the rows have a value."""
        return nameable(self.name) and 2 * self.missing <= self.rows

    @property
    def id(self) -> bool:
        """Whether it only tells rows apart."""
        return self.distinct == self.rows - self.missing and self.dtype.is_integer()


@dataclass(frozen=True)
class Look:
    """What a look at a source shows: its columns, from so many rows; every: from all there are."""

    columns: tuple[Column, ...]
    rows: int
    batches: int
    every: bool


def write(path: str, output: Path) -> str:
    """Writes a job file where there is none; returns what a person should know of it.

    Raises:
        JobError: as `new` does, and where the job file is there already or cannot be written.
    """
    if output.exists():
        raise JobError(f"{output} is there already; name another file, or remove it")
    if not output.absolute().parent.is_dir():
        raise JobError(f"{output}: there is no folder {output.absolute().parent}")
    text = new(path, output)
    try:
        with open(output, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise JobError(f"{output}: cannot be written: {error.strerror}") from None
    return f"{output} is written; next: farol check {shlex.quote(str(output))}"


def new(path: str, output: Path | None = None) -> str:
    """The text of a job file over a file, a folder or a glob; nothing is written.

    output: where the job file will be, to which its paths are relative; None: the working directory, and the source
        stays as it was typed.

    Raises:
        JobError: where there is no source, its batches differ, or a job file cannot name it.
    """
    folder = Path(os.path.abspath(output)).parent if output else Path.cwd()
    whole = os.path.abspath(path) if "://" not in path else path
    if _NO_TEXT.search(path) or _NO_TEXT.search(str(folder)):
        raise JobError(f"{path!r} is no text that a job file can hold; rename the folder or the file")
    try:
        name = _called(whole)
        sink = _sink(searched(whole), folder, name)
        run = Run.of(_every_row(name, whole, sink))
    except JobError as error:
        raise JobError(error.what) from None
    seen = look(run.batches, run.columns)
    text = HEAD.format(
        name=scalar(name),
        source=scalar(path if output is None else _seen_from(whole, folder)),
        sink=scalar(_seen_from(str(sink), folder)),
        compression=_compression(run),
        columns="\n".join(f"# {line}".rstrip() for line in listed(seen)),
    )
    return text + "\n".join(rules(seen))


def _compression(run: Run) -> str:
    """A line on the compression of outputs, where columns are copied with another than the one that goes unsaid."""
    _, better = run.outputs.copies(run.batches[0], list(run.own))
    if better is None:
        return ""
    fastest = "columns are then copied as they lie there, which is fastest"
    return f"\n  compression: {better[0]}    # as in the source: {fastest}"


def nameable(column: str) -> bool:
    """Whether a job file and Polars take this for the name of a column."""
    pattern = column == "*" or (column.startswith("^") and column.endswith("$"))
    return not pattern and _NO_TEXT.search(column) is None


def scalar(text: str) -> str:
    """The text as a YAML scalar on one line: a bare word, or in double quotes with what cannot be seen escaped.

    `${` is doubled, which is how a job file says that it means the characters themselves.
    """
    text = re.sub(r"\$+(?=\{)", lambda dollars: 2 * dollars[0], text)
    if _WORD.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else _escaped(c) for c in text) + '"'


def _escaped(c: str) -> str:
    if c in '"\\':
        return "\\" + c
    n = ord(c)
    return f"\\x{n:02x}" if n < 1 << 8 else f"\\u{n:04x}" if n < 1 << 16 else f"\\U{n:08x}"


def _called(path: str) -> str:
    """What a job over this path is called: its folder, or its file without the ending."""
    root = searched(path)
    stem = root.stem if root.is_file() else root.name
    return re.sub(r"[^\w-]+", "-", stem)[:40].strip("-") or "job"


def _sink(source: Where, folder: Path, name: str) -> Path:
    """A folder for the rows that is not there yet: under `out` beside the job file, or else beside the source."""
    place, root = folder / "out", source.resolve()
    if root == place.resolve() or root in place.resolve().parents:
        place = source.parent / f"{source.name}-out"
    found, i = place / name, 1
    while found.exists() or found.with_name(found.name + ".farol").exists():
        i += 1
        found = place / f"{name}-{i}"
    return found


def _seen_from(path: str, folder: Path) -> str:
    """A path relative to a folder, where both share more than the root."""
    if "://" in path:
        return path
    shared = len(Path(os.path.commonpath([path, folder])).parts) > 1
    return os.path.relpath(path, folder) if shared else path


def _every_row(name: str, source: str, sink: Path) -> Job:
    """A job that asks nothing of its rows, to see whether there could be one."""
    rule = {"name": "all", "score": {"kind": "expression", "sql": "1"}, "apply": "none"}
    plain = {"name": name, "source": {"path": source}, "sink": {"path": str(sink)}, "attention": [rule]}
    return Job.model_validate(plain)


def look(found: Sequence[Batch], columns: Mapping[str, pl.DataType]) -> Look:
    """Reads the first rows of batches that lie evenly in the source, as many as fit in a look."""
    chosen = found[:: -(-len(found) // MOST_BATCHES)]
    each = max(1, min(MOST_ROWS, MOST_BYTES // max(_row_bytes(b) for b in chosen)) // len(chosen))
    names = [c for c in columns if nameable(c)]
    frames, every = list[pl.DataFrame](), len(chosen) == len(found)
    for batch in chosen if names else ():
        _, frame = next(batch.read(names, each))
        frames.append(frame.select(pl.col(names)))
        every = every and frame.height == batch.rows()
    rows = pl.concat(frames, how="vertical") if frames else pl.DataFrame()
    seen = [column(n, t, rows[n]) if n in rows.columns else Column(n, t) for n, t in columns.items()]
    return Look(tuple(seen), rows.height, len(chosen), every)


def _row_bytes(batch: Batch) -> int:
    """About how many bytes a row takes in memory: as it is packed, or eight for each number, whichever is more."""
    with reading(batch.path):
        footer = pq.read_metadata(arrow(batch.path))
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    packed = sum(int(group.total_byte_size) for group in groups)
    numbers = sum(int(group.column(i).num_values) for group in groups for i in range(footer.num_columns))
    return 1 + max(packed, 8 * numbers) // max(1, int(footer.num_rows))


def column(name: str, dtype: pl.DataType, values: pl.Series) -> Column:
    """What these values of a column show."""
    there = values.drop_nulls()
    if dtype.is_float():
        there = there.drop_nans()
    seen: dict[str, Any] = {"rows": len(values), "missing": len(values) - len(there)}
    if not len(there):
        return Column(name, dtype, **seen)
    if isinstance(dtype, pl.Array | pl.List):
        return Column(name, dtype, **seen, alike=_alike(there))
    if dtype.is_nested() or dtype in (pl.Object, pl.Null):
        return Column(name, dtype, **seen)
    seen["distinct"] = there.n_unique()
    if dtype.is_temporal():
        counts = there.to_physical().cast(pl.Float64) * _seconds(dtype)
        first, last = float(counts.min()), float(counts.max())  # type: ignore[arg-type]
        seen["span"] = last - first if dtype in (pl.Date, pl.Datetime) else 0.0
        if YEARS[0] < first <= last < YEARS[1]:
            seen |= {"low": cell(there.min()), "high": cell(there.max())}
    elif dtype.is_numeric():
        seen |= {"low": _number(there.min()), "high": _number(there.max()), "tail": _tail(there)}
    return Column(name, dtype, **seen)


def _number(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and math.isfinite(value) else str(value)


def _seconds(dtype: pl.DataType) -> float:
    """How long one count of a time is."""
    if dtype == pl.Date:
        return 86400.0
    return {"ms": 1e-3, "us": 1e-6}.get(getattr(dtype, "time_unit", "ns"), 1e-9)


def _tail(there: pl.Series) -> float:
    """How far the farthest finite value lies from the median, in robust deviations; 0 where there are none."""
    x = there.cast(pl.Float64)
    finite = x.filter(x.is_finite() & (x.abs() < HUGE))
    if 10 * len(finite) < 9 * len(x):
        return 0.0  # the median itself may be infinite
    apart = (finite - finite.median()).abs()
    deviation = apart.median()
    return float(apart.max()) / float(deviation) if deviation else 0.0  # type: ignore[arg-type]


def _alike(there: pl.Series) -> bool:
    """Whether these vectors have one length, and finite numbers alone."""
    inner = getattr(there.dtype, "inner", pl.Null())
    if not inner.is_numeric() or inner.is_decimal():
        return False
    lists = there.arr.to_list() if isinstance(there.dtype, pl.Array) else there
    lengths, numbers = lists.list.len(), lists.explode().cast(pl.Float64).drop_nulls().drop_nans()
    return lengths.n_unique() == 1 and lengths[0] > 0 and bool((numbers.abs() < HUGE).all()) and len(numbers) > 0


def listed(seen: Look) -> list[str]:
    """A table of the columns, with what the look showed."""
    what = "all there are" if seen.every else "the first ones"
    if seen.batches > 1 and not seen.every:
        what += f" of each of {seen.batches} batches"
    rows = [("column", "type", "missing", "distinct", "from", "to")]
    for c in seen.columns[:MOST_LISTED]:
        distinct = "" if c.distinct is None else f"{c.distinct:,}"
        rows.append(
            (
                scalar(c.name),
                re.sub(", time_zone=None|time_unit=|time_zone=", "", str(c.dtype)),
                f"{c.missing:,}",
                distinct,
                c.low,
                c.high,
            )
        )
    texts = [[_short(text) for text in row] for row in rows]
    widths = [max(map(len, entries)) for entries in zip(*texts, strict=True)]
    lines = []
    for row in texts:
        name, dtype, *numbers = zip(row, widths, strict=True)
        lines.append("  ".join([*(c.ljust(w) for c, w in (name, dtype)), *(c.rjust(w) for c, w in numbers)]))
    more = len(seen.columns) - MOST_LISTED
    return [f"The columns, from a look at {counted(seen.rows, 'row')}, {what}:", "", *lines] + (
        [f"and {more:,} more"] if more > 0 else []
    )


def _short(text: str) -> str:
    """On one line, and not long."""
    seen = "".join(c if c.isprintable() else "?" for c in text)
    return seen if len(seen) <= 40 else seen[:37] + "..."


def rules(seen: Look) -> list[str]:
    """Rules for the columns at hand, each as text: four at most that look at one thing each, and one of them all."""
    taken = {c.name for c in seen.columns}
    parts, names = list[str](), list[str]()
    for template, word, chosen, more in _choices([c for c in seen.columns if c.usable]):
        if chosen is not None:
            names.append(_free(word, taken))
            short = scalar(chosen.name) if len(chosen.name) <= 20 else "key"
            parts.append(template.format(name=names[-1], key=scalar(chosen.name), short=short, **more))
    sql = " * ".join(f"{name}_weight" for name in names) or "1"
    about = COMBINED if names else ALONE
    return [*parts, SAMPLE.format(about=about, name=_free("sample", taken), sql=sql)]


def _choices(columns: Sequence[Column]) -> Iterable[tuple[str, str, Column | None, dict[str, Any]]]:
    """For each sort of rule: how it is written, what it is called, the column that suits it best."""
    when = _best((c for c in columns if c.span > 0), lambda c: c.missing)
    yield RECENT, "recent", when, _half_life(when.span) if when else {}
    yield ALIKE, "alike", _best((c for c in columns if c.alike), lambda c: c.missing), {}
    yield USUAL, "usual", _best((c for c in columns if c.tail > 3.5 and not c.id), _measured), {}
    sorts = (c for c in columns if c.distinct is not None and 2 <= c.distinct <= min(MANY, max(20, c.rows // 100)))
    words = (c for c in sorts if not (c.dtype.is_float() or c.dtype.is_decimal() or c.dtype.is_temporal() or c.id))
    yield BALANCED, "balanced", _best(words, lambda c: (c.dtype.is_numeric(), (c.distinct or 0) > FEW)), {}


def _measured(column: Column) -> tuple[bool, float]:
    """What was measured before what may be a number of something."""
    return column.dtype.is_integer(), -column.tail


def _best(columns: Iterable[Column], by: Any) -> Column | None:
    """The one with the least of something; the first of several."""
    return min(columns, key=by, default=None)


def _half_life(span: float) -> dict[str, Any]:
    """A weight with about a quarter of a span for its half-life, in a unit and a number that a person would choose."""
    unit, per = next(((u, s) for u, s in UNITS.items() if span / 4 >= s), ("seconds", 1.0))
    wanted = span / 4 / per
    near = min(HALF_LIVES, key=lambda n: abs(math.log(n / wanted)))
    half_life = near if 0.5 < wanted < 5000 else float(f"{wanted:.1g}")
    return {"unit": unit, "weight": f"{{kind: exponential, half_life: {half_life}}} "}


def _free(word: str, taken: Iterable[str]) -> str:
    """A name for a rule whose weight column no column is called."""
    found, i = word, 1
    while f"{found}_weight" in taken:
        i += 1
        found = f"{word}_{i}"
    return found
