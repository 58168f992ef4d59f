"""What is written for each batch: which columns, how, and the one function that writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import polars as pl
import pyarrow as pa

from attention_core import batches
from attention_core.attention import Look, hidden, kept, pooling, whole_schema
from attention_core.batches import Batch, Compression
from attention_core.columns import elements
from attention_core.delta import LACKS, schema_of, unknown
from attention_core.errors import DataError
from attention_core.frozen import digest
from attention_core.head import Head, Notice, merged
from attention_core.health import Health
from attention_core.job import Sink
from attention_core.ledger import Fingerprint, Footer, versions
from attention_core.publish import Place
from attention_core.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Outputs:
    """What becomes of the batches of a job. It travels to where they are read; what they become lies in staging.

    own: the columns of the files; columns: those that rules look at, which are these, and the folders' instead where
    both have one; first: the batch that the others agree with.
    """

    sink: Sink
    drift: str
    heads: Sequence[Head]
    own: Mapping[str, pl.DataType]
    columns: Mapping[str, pl.DataType]
    first: Batch
    place: Place[Any]
    look: Look
    digests: dict[str, str] = field(default_factory=dict, init=False)

    @cached_property
    def rules(self) -> str:
        """The identity of the rules, as they are resolved."""
        return digest(tuple(self.heads))

    @cached_property
    def options(self) -> str:
        """The identity of what decides how rows are written: the types that all files share among it."""
        own, every = (tuple((name, str(dtype)) for name, dtype in t.items()) for t in (self.own, self.columns))
        folders = tuple(self.first.types)  # whose columns rules see instead of the files' own
        return digest((self.sink.options(), self.drift, own, every, folders))

    @property
    def rowless(self) -> bool:
        """Whether no rows are written, but pooled tables alone."""
        return self.sink.columns == "none"

    def added(self) -> dict[str, pl.DataType]:
        """The columns that the rules add and that are written."""
        unseen = hidden(self.heads)
        schema = self.with_added()
        return {name: dtype for name, dtype in schema.items() if name not in self.columns and name not in unseen}

    def with_added(self) -> dict[str, pl.DataType]:
        """The columns that rules look at, and all that they add."""
        return whole_schema(self.heads, self.columns)

    def names(self) -> list[str]:
        """The columns of the outputs; partitions are in the folders' names only, unless the files have them too."""
        names = self.sink.written(self.columns, self.added())
        return [n for n in names if n in self.own or n not in self.first.partitions]

    def passing(self) -> list[str]:
        """The columns that go from the input to the output with all their rows; none unless there are new ones too."""
        names = self.names()
        if self.rowless or any(head.least is not None for head in self.heads) or set(names) <= set(self.own):
            return []
        return [n for n in names if n in self.own]

    @cached_property
    def added_bytes(self) -> int:
        """About how many a row of the output has that the input has not."""
        return batches.breadth({name: dtype for name, dtype in self.schema().items() if name not in self.own})

    def carried(self, batch: Batch) -> frozenset[str]:
        """The columns that the output takes as they lie in the input."""
        whole = batch.whole(self.passing(), self.added_bytes)
        return frozenset(name for name, packed in whole.items() if packed == self.sink.compression)

    def copies(self, batch: Batch, names: Sequence[str] | None = None) -> tuple[int, tuple[Compression, int] | None]:
        """How many columns are carried, and the compression of outputs with which more would be, and how many.

        names: of these columns; None: of those that pass.
        """
        many = Counter(batch.whole(self.passing() if names is None else names, self.added_bytes).values())
        every: tuple[Compression, ...] = get_args(Compression)
        now, best = many[self.sink.compression], max(every, key=lambda c: many[c])
        return now, (best, many[best]) if many[best] > now else None

    def writable(self) -> None:
        """Refuses, before any work, what cannot be written as it was, as the first batch has it.

        Raises:
            DataError: naming the columns.
        """
        if not self.rowless:
            self._written_columns()
            if self.place.delta is not None:
                _ = self.table_schema

    def _written_columns(self) -> pa.Schema:
        first = self.first
        return batches.output_schema(first, self.schema(), self.carried(first))

    @cached_property
    def table_schema(self) -> str:
        """The schema of the Delta table that the sink is.

        Raises:
            DataError: naming the columns that it cannot have.
        """
        said = pl.Schema({n: self.first.types[n] for n in self.folders()}).to_frame().to_arrow().schema
        columns = pa.schema([*self._written_columns(), *said])
        wrong = unknown(columns)
        if wrong:
            what = batches.cannot(wrong, "kept in a Delta table as it is")
            raise DataError(f"{self.place.sink}: {what}; Delta has {LACKS}")
        named: dict[str, str] = {}
        for name in columns.names:
            if (first := named.setdefault(name.casefold(), name)) != name:
                raise DataError(f"{self.place.sink}: {first!r} and {name!r} are one column to Delta; leave one out")
        return schema_of(columns)

    def folders(self) -> list[str]:
        """The columns that are in no output, but in the names of its folders."""
        written = self.names()
        return [n for n in self.first.types if n not in written]

    def apply(self, batch: Batch, statistics: Statistics, inputs: Mapping[str, Fingerprint]) -> Footer:
        """Writes the output of one batch to staging, or finds it there from an interrupted run."""
        now, digest_of = inputs[batch.name], self.digest(batch, statistics)
        staged = None if self.rowless else Footer.read(self.place.staged(batch.name))
        if staged is not None and self._is(staged, digest_of, now):
            self.look.watch(staged.rows)
            return staged
        steady(inputs, batch)
        health: dict[str, Health] = {}
        rows = batch.rows()

        def said() -> Footer:
            return self._footer(batch, now, digest_of, rows, health)

        if self.rowless:
            for _ in self._frames(batch, statistics, health, frozenset()):  # for their health alone
                pass
            steady(inputs, batch)
            return said()
        compression = self.sink.compression
        added = self.added_bytes
        carrying = batch.source(self.passing(), compression, added)
        with self.place.stages(batch.name) as target, carrying as source:
            carried = frozenset[str]() if source is None else source.carried
            frames = self._frames(batch, statistics, health, carried)
            schema = self.schema()
            batches.write(frames, schema, target, batch, compression, lambda: said().metadata(), source, added)
            steady(inputs, batch)
        return said()

    def digest(self, batch: Batch, statistics: Statistics) -> str:
        """The identity of what the rows of one batch use of the statistics; a run has but one of these."""
        if batch.name not in self.digests:
            where = [(h, self.look.keys(batch, h, statistics)) for h in self.heads if h.asks()]
            here = tuple((self.look.seen(batch, h, statistics.of(h, keys)), keys) for h, keys in where)
            self.digests[batch.name] = digest(here)
        return self.digests[batch.name]

    def _frames(
        self, batch: Batch, statistics: Statistics, health: dict[str, Health], carried: frozenset[str]
    ) -> Iterator[pl.DataFrame]:
        weights, stored = [w for h in self.heads for w in h.weights], self.stored(batch, carried)
        own = {s: n for s, n in stored.items() if s != n}
        noticed: Mapping[str, Notice] = {}

        def tell(more: Mapping[str, Notice]) -> None:
            nonlocal noticed
            noticed = merged(noticed, more)

        for _, chunk in self.look.attended(batch, self.heads, statistics, self.reads_for(stored, batch), tell=tell):
            seen, noticed = noticed, {}
            for column in weights:
                w, notice = chunk[column], seen.get(column, Notice(0, 0))
                here = Health.of(elements(w)[0] if isinstance(w.dtype, pl.List) else w)
                here = replace(here, unseen=notice.unseen, later=notice.later) if seen else here
                health[column] = health[column] + here if column in health else here
            if self.rowless:
                continue
            chunk = kept(self.heads, chunk)[list(stored)]
            yield chunk.rename(own) if own else chunk  # a query costs as much as a rule

    def stored(self, batch: Batch, carried: frozenset[str]) -> dict[str, str]:
        """What chunks call the columns that are written of them, and what they are then called."""
        names = [n for n in self.names() if n not in carried]
        return {batches.in_file(n) if n in batch.partitions else n: n for n in names}

    def reads_for(self, stored: Mapping[str, str], batch: Batch) -> set[str] | None:
        """The columns that the rows are made of, these among them; None: all. A pool has read its values already."""
        if set(self.own) <= set(stored.values()) or any(batches.in_file(n) in stored for n in batch.partitions):
            return None
        made = {name for head in self.heads for name in head.adds()}
        tables = pooling(self.heads)
        looked_at = {c for head in self.heads for c in (head.inside() if head in tables else head.takes())}
        return (looked_at | set(stored)) - made

    def _footer(
        self, batch: Batch, now: Fingerprint, statistics: str, rows: int, health: Mapping[str, Health]
    ) -> Footer:
        plain = {column: h.plain() for column, h in health.items()}
        return Footer(batch.name, now, self.rules, self.options, statistics, versions(), rows, plain)

    def _is(self, footer: Footer, statistics: str, now: Fingerprint) -> bool:
        same = (footer.rules, footer.options, footer.statistics, footer.input.hash)
        mine = (self.rules, self.options, statistics, now.hash)
        return same == mine and dict(footer.versions) == versions()

    def schema(self) -> dict[str, pl.DataType]:
        """The columns of the outputs, with their types."""
        every = dict(self.own) | self.added()
        return {name: every[name] for name in self.names()}


def steady(inputs: Mapping[str, Fingerprint], batch: Batch) -> None:
    """Refuses a batch that is not as it was hashed.

    Raises:
        DataError: saying so.
    """
    if not Fingerprint.of(batch.path).untouched(inputs[batch.name]):
        raise DataError(f"{batch.path}: changed while the run was reading it; run again when it is whole")
