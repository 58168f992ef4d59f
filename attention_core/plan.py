"""What a run would do, why, and about what it takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from attention_core.batches import Extent
from attention_core.ledger import Entry

BASE = 320 << 20  # what a process holds before it reads a row
WORKER = 200 << 20  # what a worker holds beside the row groups that it reads ahead, works on and writes, as measured
IN_FLIGHT = 2


@dataclass(frozen=True)
class Estimate:
    """About what a run takes: rows to be written, bytes to read and to stage, bytes of memory, and seconds.

    Memory and seconds are judged by the last run that wrote rows; seconds are None where there is none.
    """

    rows: int
    read: int
    staged: int
    memory: int
    seconds: float | None


def estimated(
    todo: Sequence[Extent],
    every: Sequence[Extent],
    asked: Sequence[str],
    decoded: Collection[str],
    passes: int,
    added: int,
    workers: int,
    last: Mapping[str, Any],
) -> Estimate:
    """What it takes to ask all batches about some columns in so many passes, and to write some with so many bytes
    added to each row.

    decoded: the columns that do not go from file to file as they lie.
    """
    rows = sum(extent.rows for extent in todo)
    keys = sum(extent.columns.get(name, 0) for extent in every for name in asked)
    packed = sum(extent.size for extent in todo)
    groups = max((extent.group * extent.share(decoded) for extent in todo), default=0)
    pace = last["rows"] / last["seconds"] if last.get("rows") and last.get("seconds") else None
    return Estimate(
        rows=rows,
        read=packed + passes * keys,
        staged=packed + added * rows,
        memory=int(last.get("peak_memory") or BASE + workers * (WORKER + IN_FLIGHT * groups)),
        seconds=rows / pace if pace else None,
    )


@dataclass(frozen=True)
class Plan:
    """What would be done, and why."""

    entries: tuple[Entry, ...]
    gone: tuple[str, ...]
    passes: int
    schema: Mapping[str, pl.DataType]
    other_versions: int
    interrupted: bool = False  # a run before was killed while it published
    strange: tuple[str, ...] = ()  # files that Farol did not write, and a run would replace or remove
    tables: tuple[str, ...] = ()  # of rules that pool, to be made again
    estimate: Estimate | None = None

    @property
    def nothing(self) -> bool:
        """Whether all is done."""
        return not (self.gone or self.interrupted or self.tables) and all(e.status == "done" for e in self.entries)

    def counts(self) -> dict[str, int]:
        """How many batches there are of each status."""
        found = [e.status for e in self.entries] + ["gone"] * len(self.gone)
        return {status: found.count(status) for status in dict.fromkeys(found)}
