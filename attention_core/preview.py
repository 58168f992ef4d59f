"""The first rows, before and after, and what they are pooled to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import polars as pl

from attention_core.attention import Look, Part, fit, kept, tables
from attention_core.errors import FarolError
from attention_core.run import Run
from attention_core.statistics import NOTHING, of_sink


@dataclass(frozen=True)
class Sample:
    """What one batch gives: its first rows, as rules look at them and with what they add, and all of its tables.

    whole: the rows are what a run would write; pooled: so are the tables.
    """

    rows: pl.DataFrame
    tables: Mapping[str, pl.DataFrame]
    batch: str = ""
    whole: bool = True
    pooled: bool = True


def sample(run: Run, rows: int) -> Sample:
    """A look at the first batch that has rows.

    Rules that ask for their whole scope take what the last run published of it, where that fits; else they are fitted
    on that batch alone.
    """
    reads = {c for head in run.heads for c in head.reads()}
    looked_at = [*(c for c in run.columns if c in reads), *run.outputs.added()]
    before = run.before
    if run.asks and run.given is None:
        with suppress(FarolError):
            before = of_sink(run.place.work, run.heads).statistics
    known = not run.asks or before is not NOTHING
    few = known and all(head.least is None for head in run.heads)  # a filter may drop the first rows
    batch = next((b for b in run.batches if b.rows()), None)
    if batch is None:
        every = {**run.columns, **run.outputs.added()}
        return Sample(pl.DataFrame(schema={c: t for c, t in every.items() if c in looked_at}), {})
    part: Part = batch
    look = Look(run.heads, order=run.look.order)
    statistics = fit(look, lambda work: [work(part)], before)
    first = Look(run.heads, max(rows, 1) if few else None, order=run.look.order)
    chunks = first.attended(part, run.heads, statistics)
    shown = next(kept(run.heads, chunk)[looked_at].head(rows) for _, chunk in chunks)
    pooled = tables(look, lambda work: [work(part)], statistics, run.columns)
    alone = len(run.batches) == 1
    return Sample(shown, pooled, batch.name, known or alone, alone)
