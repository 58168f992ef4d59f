"""Farol, as `farol run` does the work, without Prefect."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from attention_core.run import run
from tests.benchmarks.job_files import ATTENTION, write_job


def do(job: str, source: Path, out: Path) -> None:
    run(write_job(job, source, out))


PEERS = {f"{job}/farol": partial(do, job) for job in ATTENTION}
