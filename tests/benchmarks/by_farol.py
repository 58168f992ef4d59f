"""Farol, as `farol run` does the work, without Prefect."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import polars as pl

from attention_core.attention import one_thread
from attention_core.devices import keep_freed_memory
from attention_core.outputs import Outputs
from attention_core.run import opened, run
from attention_core.work import threads
from tests.benchmarks.job_files import TABLES, write_job


def do(job: str, source: Path, out: Path) -> None:
    run(write_job(job, source, out))


def encoding(job: str, source: Path, out: Path) -> None:
    """As where the input is compressed otherwise: no column is carried over as it lies."""
    Outputs.passing = lambda self: []  # type: ignore[method-assign]
    do(job, source, out)


def pool(source: Path, out: Path) -> None:
    run(write_job("pool", source, out / "rows"))  # the table's folder lies beside that of the rows


def median(source: Path, out: Path) -> None:
    """The fit alone, as a run makes it, the inputs' hashes included, by which it keeps states: no row is written."""
    keep_freed_memory()
    job = opened(write_job("median", source, out))
    with one_thread():
        each = threads(job.workers, job.watch, job.stop)
        spread = job.fit(each, job.hash(each)).known["a_weight"].kinds[0]
    found = pl.DataFrame({"median": spread.middle.numpy(), "mad": spread.width.numpy()})
    found.write_parquet(out / f"{TABLES['median']}.parquet")


PEERS = {
    **{f"{job}/farol-encoding": partial(encoding, job) for job in ("elementwise", "one-column", "zscore-softmax")},
    "elementwise/farol": partial(do, "elementwise"),
    "one-column/farol": partial(do, "one-column"),
    "zscore-softmax/farol": partial(do, "zscore-softmax"),
    "group-softmax/farol": partial(do, "group-softmax"),
    "pool/farol": pool,
    "median/farol": median,
}
