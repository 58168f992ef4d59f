"""What a run would do, why, and about what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from attention_core.ledger import Entry


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

    @property
    def nothing(self) -> bool:
        """Whether all is done."""
        return not (self.gone or self.interrupted or self.tables) and all(e.status == "done" for e in self.entries)

    def counts(self) -> dict[str, int]:
        """How many batches there are of each status."""
        found = [e.status for e in self.entries] + ["gone"] * len(self.gone)
        return {status: found.count(status) for status in dict.fromkeys(found)}
