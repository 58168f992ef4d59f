"""The batches of a job: which ones, where they must not lie, and the columns that they agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from attention_core.batches import Batch
from attention_core.errors import DataError, JobError, nearest
from attention_core.frozen import WIDE
from attention_core.job import Job
from attention_core.publish import Place
from attention_core.search import searched
from attention_core.sql import row_expression, wrong_types
from attention_core.stores import at_once

DRIFT = ("source", "drift")


def chosen(found: Sequence[Batch], where: str | None) -> tuple[Batch, ...]:
    """The batches that `source.where` picks, by the columns of their folders."""
    if where is None:
        return tuple(found)
    expression = row_expression(where)
    schema = {name: dtype for b in found for name, dtype in b.types.items()}
    rows = pl.DataFrame([dict(b.partitions) for b in found], schema=schema)
    for name in expression.meta.root_names():
        if name not in rows.columns:
            raise JobError(f"{name!r} is not a partition column{nearest(name, rows.columns)}", ("source", "where"))
    try:
        holds = rows.with_columns(expression.alias("#holds"))["#holds"].fill_null(False)
    except pl.exceptions.PolarsError as error:
        raise JobError(f"{where!r}: {wrong_types(error)}", ("source", "where")) from None
    if holds.dtype != pl.Boolean:
        raise JobError(f"{where!r} is {holds.dtype}, where true or false is wanted", ("source", "where"))
    chosen = tuple(b for b, hold in zip(found, holds, strict=True) if hold)
    if not chosen:
        types = ", ".join(f"{name} ({dtype})" for name, dtype in schema.items())
        raise JobError(f"no batch has {where!r}, by {types}", ("source", "where"))
    return chosen


def apart(job: Job, place: Place[Any]) -> None:
    """The sink must not be inside the source, nor the other way round; nor the work folder in either."""
    sink, work = place.sink.resolve(), place.work.resolve()
    if sink in (work, *work.parents) or work in sink.parents:
        raise JobError(f"{place.work} and the sink lie in each other; name a folder beside it", ("sink", "work"))
    pooled, tables = place.pooled.resolve(), any(rule.pools() for rule in job.attention)
    if tables and (work in (pooled, *pooled.parents) or pooled in work.parents):
        raise JobError(f"the tables go to {pooled}, which the work folder shares; name another", ("sink", "work"))
    if tables and pooled.exists() and not pooled.is_dir():
        raise JobError(f"{place.pooled} is a file, where the tables go; move it away", ("sink", "path"))
    for path in job.source.paths():
        source = searched(path).resolve()
        if source in (sink, *sink.parents):
            raise JobError(f"{place.sink} lies inside the source; name a folder beside it", ("sink", "path"))
        if source in (work, *work.parents):
            raise JobError(f"{place.work} lies inside the source; name a folder beside it", ("sink", "work"))
        if tables and (source in (pooled, *pooled.parents) or pooled in source.parents):
            raise JobError(
                f"the tables go to {pooled}, which lies inside the source; name another sink", ("sink", "path")
            )
        if sink in source.parents:
            raise JobError(f"{place.sink} lies around the source; name a folder beside it", ("sink", "path"))


def agreed(found: Sequence[Batch], drift: str) -> tuple[dict[str, pl.DataType], tuple[Batch, ...]]:
    """The columns that the files of all batches have, and the batches as they are read for that.

    drift: strict: the same columns and types, in any order. widen: numbers of several types get the type that holds
    them all, and nulls alone any type. fill: that, and a column that a file lacks is null there.

    Raises:
        JobError: naming every batch that differs from the others, and how.
        DataError: naming every file that cannot be read.
    """
    own = _own(found)
    first, types = own[0], dict[str, pl.DataType]()
    for name in dict.fromkeys(name for columns in own for name in columns):
        every = [columns[name] for columns in own if name in columns]
        types[name] = every[0] if drift == "strict" else widest(every) or every[0]
    if drift != "fill":
        types = {name: dtype for name, dtype in types.items() if name in first}
    wrong = []
    for batch, here in zip(found, own, strict=True):
        differs = [*_drift(here, types, drift), *_drift(batch.types, found[0].types, "strict", " as a folder")]
        if differs:
            wrong.append(f"{batch.name} {', '.join(differs)}")
    if wrong:
        advice = "" if any(b.types != found[0].types for b in found) else _advice(own, drift)
        raise JobError(f"the batches differ from {found[0].name}: {'; '.join(wrong)}{advice}", DRIFT)
    reads = [{n: t for n, t in types.items() if here.get(n) != t} for here in own]
    return types, tuple(replace(b, reads=r) if r else b for b, r in zip(found, reads, strict=True))


def wider(a: pl.DataType, b: pl.DataType) -> pl.DataType | None:
    """The numeric type that holds the numbers of both, of nulls and a type that type; None where there is none."""
    if a == b or b == pl.Null:
        return a
    if a == pl.Null:
        return b
    if not all(t.is_integer() or t.is_float() for t in (a, b)):
        return None
    empty = [pl.Series("", [], dtype=t).to_frame() for t in (a, b)]
    found = pl.concat(empty, how="vertical_relaxed").dtypes[0]
    return None if found in WIDE else found  # which no file holds


def widest(types: Sequence[pl.DataType]) -> pl.DataType | None:
    """The type that holds the numbers of all, in whatever order they come: whole numbers first, then fractions."""
    found: pl.DataType | None = pl.Null()
    for dtype in sorted(set(types), key=lambda t: (t.is_float(), str(t))):
        found = None if found is None else wider(found, dtype)
    return found


def _own(found: Sequence[Batch]) -> list[dict[str, pl.DataType]]:
    own, broken = list[dict[str, pl.DataType]](), list[str]()
    for columns in at_once(_columns, found, *(b.path for b in found[:1])):
        if isinstance(columns, DataError):
            broken.append(str(columns))
        else:
            own.append(columns)
    if broken:
        raise DataError("\n".join(broken))
    return own


def _columns(batch: Batch) -> dict[str, pl.DataType] | DataError:
    try:
        return batch.own()
    except DataError as error:
        return error


def _drift(here: Mapping[str, pl.DataType], wanted: Mapping[str, pl.DataType], drift: str, how: str = "") -> list[str]:
    if here == wanted:
        return []
    lacks = [f"lacks {c!r}{how}" for c in wanted if c not in here and drift != "fill"]
    extra = [f"has {c!r}{how} besides" for c in here if c not in wanted]
    other = [
        f"has {c!r}{how} as {here[c]}, not {t}"
        for c, t in wanted.items()
        if c in here and here[c] != t and (drift == "strict" or wider(here[c], t) != t)
    ]
    return [*lacks, *extra, *other]


def _advice(own: Sequence[Mapping[str, pl.DataType]], drift: str) -> str:
    """Which other drift would do."""
    for name in dict.fromkeys(name for columns in own for name in columns):
        if widest([columns[name] for columns in own if name in columns]) is None:
            return ""
    same = all(set(columns) == set(own[0]) for columns in own)
    better = "widen" if same else "fill"
    return f"; source.drift: {better} would take them as they are" if better != drift else ""
