"""The first rows, before and after."""

from __future__ import annotations

from contextlib import suppress

import polars as pl

from attention_core.attention import Look, fit, kept
from attention_core.errors import FarolError
from attention_core.run import Run
from attention_core.statistics import NOTHING, of_sink


def sample(run: Run, rows: int) -> tuple[pl.DataFrame, bool]:
    """The first rows, as rules look at them and with what they add, and whether they are what a run would write.

    Rules that ask for their whole scope take what the last run published of it, where that fits; else they are fitted
    on the first batch that has rows, which is no more than a look.
    """
    reads = {c for head in run.heads for c in head.reads()}
    looked_at = [*(c for c in run.columns if c in reads), *run.outputs.added()]
    before = run.before
    if run.asks and run.given is None:
        with suppress(FarolError):
            before = of_sink(run.place.work, run.heads).statistics
    known = not run.asks or before is not NOTHING
    few = known and all(head.least is None for head in run.heads)  # a filter may drop the first rows
    for batch in run.batches:
        look = Look(run.heads, max(rows, 1) if few else None, order=run.look.order)
        statistics = fit(look, lambda work, batch=batch: [work(batch)], before)  # type: ignore[misc]
        for _, chunk in look.attended(batch, run.heads, statistics):
            shown = kept(run.heads, chunk)[looked_at].head(rows)
            return shown, known or len(run.batches) == 1
    return pl.DataFrame(
        schema={c: t for c, t in {**run.columns, **run.outputs.added()}.items() if c in looked_at}
    ), True
