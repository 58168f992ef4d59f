"""A head: one key and the chain of kinds that makes weights of it. (A rule with several keys has several heads.)"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch
from pydantic import SkipValidation
from torch import Tensor

from attention_core.apply import Pools, column_type, every, inner, multiplied, pool_columns, product
from attention_core.columns import (
    ONE,
    Numbers,
    Segments,
    elements,
    joined,
    listed,
    numbers,
    plain,
    presence,
    series,
    true,
    vectors,
)
from attention_core.contract import Kind, Question, Rows, conclude
from attention_core.errors import DataError
from attention_core.frozen import Frozen, digest
from attention_core.kinds import Score
from attention_core.questions import Count, both
from attention_core.sql import columns_of, row_expression

CPU = torch.device("cpu")
Over = str | tuple[str, ...]  # dataset, batch, row, or the columns of a group


class Known(Frozen):
    """What a head knows: how many keys taught each segment, (size,) int64, and what each of its kinds knows."""

    count: Tensor | None  # None: the kinds ask nothing
    kinds: tuple[Any, ...]


@dataclass(frozen=True)
class Notice:
    """Of some keys: how many those who taught have not seen, and how many are later than now."""

    unseen: int
    later: int

    def __add__(self, other: Notice) -> Notice:
        return Notice(self.unseen + other.unseen, self.later + other.later)


@dataclass(frozen=True, eq=False)
class Attended:
    """Rows with what a head adds, and what it noticed, by weight column; nothing where there is nothing to notice."""

    frame: pl.DataFrame
    noticed: Mapping[str, Notice]

    def __add__(self, other: Attended) -> Attended:
        return Attended(pl.concat([self.frame, other.frame]), merged(self.noticed, other.noticed))


def merged(a: Mapping[str, Notice], b: Mapping[str, Notice]) -> Mapping[str, Notice]:
    """What was noticed in two parts."""
    none = Notice(0, 0)
    return {w: a.get(w, none) + b.get(w, none) for w in {**a, **b}} if a and b else a or b


class Ask(Frozen):
    """A question to a head whose earlier kinds are concluded: plain data, all that travels to where the rows are."""

    head: SkipValidation[Head]
    concluded: tuple[Any, ...]
    question: SkipValidation[Question[Any]]

    def picked(self, ids: Tensor) -> Ask:
        """The same about the segments `ids` (m,) alone; a head's own tensors are about none."""
        question, concluded = self.question.picked(ids), Known(count=None, kinds=self.concluded).picked(ids).kinds
        return self.model_copy(update={"question": question, "concluded": concluded})

    def of(self, frame: pl.DataFrame, segments: Segments, device: torch.device = CPU, start: int = 0) -> Any:
        """The answer for one chunk, whose first row stands at `start` in dataset order."""
        look = self.head.look(frame, segments, device, start)
        return self.question.of(self.head.scored(look.taught(), self.concluded))


class Look:
    """The keys of one chunk as a head sees them."""

    def __init__(
        self,
        keys: Numbers,
        masked: Tensor | None,
        teaches: Tensor | None,
        segments: Segments,
        device: torch.device,
        start: int,
        column: pl.Series | None = None,
        query: Numbers | None = None,
    ) -> None:
        there, nan, masked, self.teaches, ids = (
            None if t is None else t.to(device) for t in (keys.there, keys.nan, masked, teaches, segments.ids)
        )
        self.keys = Numbers(keys.x.to(device), there, nan)
        asked = None if query is None else query.x.to(device)
        ok = every(self.keys.ok, masked, None if query is None else query.ok)
        self.rows = Rows(self.keys.x, ok, ids, segments.size, start, column, asked, self.teaches)

    def taught(self) -> Rows:
        """The rows that teach."""
        return replace(self.rows, ok=every(self.rows.ok, self.teaches))


class Head(Frozen):
    """One key, its scope, its kinds, and the names of what it adds."""

    rule: str
    key: tuple[str, ...]
    over: Over
    looks: SkipValidation[Score[Any]]
    kinds: tuple[SkipValidation[Kind[Any]], ...]
    mask: str | None
    teaches: str | None
    missing: str | float
    weights: tuple[str, ...]  # one; over a row, one for each key
    values: tuple[tuple[str, str, int], ...]  # a value, its weighted column, and which of the weights
    written: bool
    pool: str | None = None  # how values are pooled
    least: float | None = None  # the smallest weight that a row needs to stay
    widths: tuple[tuple[str, int], ...] = ()  # the vectors among what it reads, with how many components
    lists: bool = False  # the key is a List, and attention is shared among its elements

    def columns(self) -> set[str]:
        """The columns that the head reads to make its weights."""
        return self.inside() | set(self.over if isinstance(self.over, tuple) else ())

    def inside(self) -> set[str]:
        """Those among them that it reads where the segments are known."""
        sql = [e for e in (self.mask, self.teaches) if e is not None]
        named = {c for e in sql for c in columns_of(e)} | set(self.looks.beside())
        return named | {c for e in self._expressions() for c in e.meta.root_names()}

    def takes(self) -> set[str]:
        """All that it reads there, the values among them."""
        return self.inside() | {value for value, _, _ in self.values}

    def reads(self) -> set[str]:
        """All columns that the head reads, the values among them."""
        return self.columns() | {value for value, _, _ in self.values}

    def adds(self) -> tuple[str, ...]:
        """The columns that later rules can look at."""
        return (*self.weights, *(weighted for _, weighted, _ in self.values if self.pool is None or self.lists))

    def fit(self) -> Generator[Ask, Any, Known]:
        """Asks what the kinds must know, each once those before it are concluded; with the first, how many taught.

        Raises:
            DataError: naming the rule, for what a kind cannot work on.
        """
        try:
            return (yield from self._fit())
        except DataError as error:
            raise DataError(f"{self.named()}: {error}") from error

    def named(self) -> str:
        """The rule and its key, for people."""
        return f"rule {self.rule!r}" + (f", key {', '.join(map(repr, self.key))}" if self.key else "")

    def _fit(self) -> Generator[Ask, Any, Known]:
        if not self.asks():
            return Known(count=None, kinds=tuple(None for _ in self.kinds))
        count: Tensor | None = None
        concluded: tuple[Any, ...] = ()
        for kind in self.kinds:
            fit = kind.fit()
            try:
                question = next(fit)
                while True:
                    first = count is None
                    asked = both(Count(), question) if first else question
                    answer = yield Ask(head=self, concluded=concluded, question=asked)
                    if first:
                        count, answer = answer.first.n, answer.second
                    question = fit.send(answer)
            except StopIteration as done:
                concluded = (*concluded, done.value)
        return Known(count=count, kinds=concluded)

    def look(self, frame: pl.DataFrame, segments: Segments, device: torch.device = CPU, start: int = 0) -> Look:
        """The keys of a chunk; over a row, those of its columns or of its list one after another, a segment a row."""
        masked = None if self.mask is None else _true(frame, self.mask)
        if self.lists:
            flat, lengths = elements(frame[self.key[0]])
            masked = None if masked is None else masked.repeat_interleave(lengths)
            ids = torch.arange(frame.height).repeat_interleave(lengths)
            query = self.looks.queries(frame)
            query = None if query is None else query.gather(series("", ids, None, pl.UInt32()))
            return self._look(flat, query, masked, None, Segments(None, ids, frame.height), device, 0)
        columns = [_column(frame, expr) for expr in self._expressions()]
        teaches = None if self.teaches is None else _true(frame, self.teaches)
        teaches = torch.zeros(frame.height, dtype=torch.bool) if start < 0 else teaches
        if self.looks.vector and len(columns) > 1:
            return self._look(joined(columns), self.looks.queries(frame), masked, teaches, segments, device, start)
        if self.over != "row":
            return self._look(columns[0], self.looks.queries(frame), masked, teaches, segments, device, start)
        n, k = frame.height, len(columns)
        masked = None if masked is None else masked.repeat_interleave(k)
        each = Segments(None, torch.arange(n).repeat_interleave(k), n)
        if self.looks.counts:
            flat = pl.DataFrame(columns).select(pl.concat_list(pl.all())).to_series().explode()
            return self._look(flat, None, masked, None, each, device, 0)
        found = [numbers(column) for column in columns]
        together = Numbers(
            torch.stack([f.x for f in found], 1).reshape(-1),
            _joined([f.there for f in found], n, default=True),
            _joined([f.nan for f in found], n, default=False),
        )
        return Look(together, masked, None, each, device, 0)

    def _look(
        self,
        keys: pl.Series,
        query: pl.Series | None,
        masked: Tensor | None,
        teaches: Tensor | None,
        segments: Segments,
        device: torch.device,
        start: int,
    ) -> Look:
        """The keys as numbers, as vectors, or as they are, which the score decides."""
        beside = None if query is None else vectors(query)
        if self.looks.counts:
            keys_are = Numbers(torch.zeros(len(keys), dtype=torch.float64), *presence(keys))
            column = plain(keys.alias("#").to_frame()).to_series()
            return Look(keys_are, masked, teaches, segments, device, start, column)
        found = vectors(keys) if self.looks.vector else numbers(keys)
        return Look(found, masked, teaches, segments, device, start, None, beside)

    def scored(self, rows: Rows, concluded: Iterable[Any]) -> Rows:
        """The rows after as many kinds as are concluded."""
        for i, (kind, known) in enumerate(zip(self.kinds, concluded, strict=False)):
            rows = replace(rows, x=kind(rows, known))
            if i == 0 and self.looks.counts and bool((unseen := rows.x.isnan()).any()):
                rows = replace(rows, ok=every(rows.ok, ~unseen))  # values that nobody has taught
        return rows

    def attend(
        self, frame: pl.DataFrame, segments: Segments, known: Known, device: torch.device = CPU, start: int = 0
    ) -> Attended:
        """The chunk, whose first row stands at `start`, with the weights and the weighted values.

        start: negative where the rows have no place in the order of those who taught.
        """
        look = self.look(frame, segments, device, start)
        weight, ok = self.weighed(look, known)
        found = self._of_lists(frame, look, weight, ok) if self.lists else self._plain(frame, look, weight, ok)
        return Attended(frame.hstack(found), self._noticed(look, known, ok))

    def _noticed(self, look: Look, known: Known, ok: Tensor | None) -> dict[str, Notice]:
        """What the health counts beside the weights, by weight column."""
        k, rows = len(self.weights), look.rows
        unseen = 0 if ok is rows.ok or ok is None else int(every(rows.ok, ~ok).sum())  # type: ignore[union-attr]
        later = self.looks.later(rows, known.kinds[0])
        if later is None or not bool(later.any()):
            return {self.weights[0]: Notice(unseen, 0)} if unseen else {}
        there = later if rows.ok is None else later & rows.ok
        counts = [Notice(0, int(there[i::k].sum())) for i in range(k)]
        counts[0] = replace(counts[0], unseen=unseen)  # in a row, all have been seen
        return dict(zip(self.weights, counts, strict=True))

    def weighed(self, look: Look, known: Known) -> tuple[Tensor, Tensor | None]:
        """The weights (n,) of the keys that get one, and which do; None: all."""
        rows = look.rows
        if self.over == "row":
            for kind in self.kinds:
                known_here = conclude(kind.fit(), lambda q, rows=rows: q.of(rows))  # type: ignore[misc]
                rows = replace(rows, x=kind(rows, known_here))
            return rows.x, rows.ok
        rows = self.scored(rows, known.kinds)
        unseen = None if known.count is None else known.count == 0
        if unseen is None or not bool(unseen.any()):
            return rows.x, rows.ok
        return rows.x, every(rows.ok, ~rows.at(unseen).expand(len(rows.x)))

    def pooled(
        self,
        frame: pl.DataFrame,
        segments: Segments,
        known: Known,
        into: Pools,
        at: Tensor | None,
        device: torch.device = CPU,
        start: int = 0,
    ) -> None:
        """Adds the chunk to the pools; at: (size of segments,) int64, where each segment stands among theirs."""
        look = self.look(frame, segments, device, start)
        ids = look.rows.ids
        if at is not None:
            at = at.to(device)
            ids = at.expand(len(look.rows.x)) if ids is None else at.index_select(0, ids)
        into.add([frame[value] for value, _, _ in self.values], *self.weighed(look, known), ids)

    def _plain(self, frame: pl.DataFrame, look: Look, weight: Tensor, ok: Tensor | None) -> list[pl.Series]:
        k, (weight, there) = len(self.weights), self._filled(look, weight, ok)
        columns = [
            series(name, weight[i::k], None if there is None else there[i::k], pl.Float64())
            for i, name in enumerate(self.weights)
        ]
        for value, weighted, i in () if self.pool else self.values:
            mine = None if there is None else there[i::k]
            if self.key == (value,) and self._as_numbers():
                columns.append(product(look.keys, weight[i::k], mine, weighted, frame.schema[value]))
            else:
                columns.append(multiplied(frame[value], weight[i::k], mine, weighted))
        return columns

    def _of_lists(self, frame: pl.DataFrame, look: Look, weight: Tensor, ok: Tensor | None) -> list[pl.Series]:
        key, (filled, there) = frame[self.key[0]], self._filled(look, weight, ok)
        columns = [listed(series(self.weights[0], filled, there, pl.Float64()), key)]
        if self.pool is not None:
            inside = [elements(frame[value])[0] for value, _, _ in self.values]
            types = [column.dtype for column in inside]
            pools = Pools(frame.height, types)
            pools.add(inside, weight, ok, look.rows.ids)
            return [*columns, *pool_columns(pools, self.pool, [name for _, name, _ in self.values], types)[2:]]
        for value, weighted, _ in self.values:
            flat, lengths = elements(frame[value])
            if not torch.equal(lengths, elements(key)[1]):
                raise DataError(f"a list of {value!r} is not as long as the one of {self.key[0]!r} beside it")
            columns.append(listed(multiplied(flat, filled, there, weighted), frame[value]))
        return columns

    def _filled(self, look: Look, weight: Tensor, ok: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weights (n,) with what missing keys get, and where they are not null."""
        if ok is None or bool(ok.all()):
            return weight, None
        if not isinstance(self.missing, str):
            return torch.where(ok, weight, self.missing), None
        if look.keys.nan is None:
            return weight, ok
        return torch.where(look.keys.nan, torch.nan, weight), ok | look.keys.nan

    def missed(self, attended: pl.DataFrame) -> int:
        """How many keys are missing in rows that must have all of them."""
        if self.missing != "error":
            return 0
        found = [elements(c)[0] if self.lists else c for c in (attended[name] for name in self.weights)]
        return sum(c.null_count() + int(c.is_nan().sum()) for c in found)

    def _expressions(self) -> list[pl.Expr]:
        return [self.looks.looks_at(key) for key in self.key] or [self.looks.looks_at(None)]

    def _as_numbers(self) -> bool:
        return not (self.looks.vector or self.looks.counts)

    def teaching(self) -> str:
        """The identity of what decides what the head comes to know, and who then gets which weight."""
        return digest((self.key, self.over, self.kinds, self.mask, self.teaches, self.missing))

    def making(self) -> str:
        """The identity of what decides its columns, once it knows what it knows."""
        return digest((self.teaching(), self.weights, self.values, self.pool))

    def asks(self) -> bool:
        """Whether anything must be known of the scope before the first row is written."""
        return self.over != "row" and any(next(kind.fit(), None) is not None for kind in self.kinds)


def needs(heads: Sequence[Head]) -> dict[str, set[str]]:
    """For each head, by its first weight column, the heads whose columns it looks at, and theirs."""
    maker = {column: head.weights[0] for head in heads for column in head.adds()}
    found: dict[str, set[str]] = {}
    for head in heads:
        direct = {maker[c] for c in head.reads() if c in maker}
        found[head.weights[0]] = direct.union(*(found[d] for d in direct))
    return found


def _true(frame: pl.DataFrame, sql: str) -> Tensor:
    column = _column(frame, row_expression(sql))
    if column.dtype != pl.Boolean:
        raise DataError(f"{sql!r} is {column.dtype}, where true or false is wanted")
    return true(column)


def _column(frame: pl.DataFrame, expression: pl.Expr) -> pl.Series:
    if expression.meta.is_column():
        return frame[expression.meta.output_name()]
    return frame.with_columns(expression.alias("#"))["#"]


def _joined(masks: list[Tensor | None], n: int, *, default: bool) -> Tensor | None:
    if all(m is None for m in masks):
        return None
    full = torch.full((n,), default)
    return torch.stack([full if m is None else m for m in masks], 1).reshape(-1)


__all__ = ["ONE", "Ask", "Head", "Known", "Look", "Over", "column_type", "inner", "needs"]
