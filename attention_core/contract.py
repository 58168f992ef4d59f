"""What a score or a weight is, what it may ask of its scope, and how asking is answered. Read this first.

A *kind* works row by row once it knows its scope. What it must know, it asks for: each `yield` of its `fit` is a
*question*, answered by a *state* over all the rows of every segment. One question is one pass over the key columns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, Protocol, Self, TypeVar

import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from attention_core.frozen import Frozen


@dataclass(frozen=True, eq=False)
class Rows:
    """What a kind sees of one chunk: the numbers that the kinds before it made of the keys, first of all the keys.

    x: (n,) float64; (n, d) of a vector key that is not scored yet. What stands where `ok` is false means nothing.
    ok: (n,) bool, the keys that take part; None: all of them.
    ids: (n,) int64 in [0, size), the segment of each key; None: all are in segment 0.
    size: how many segments there are.
    start: the position of the first row in dataset order; those of the others follow it.
    column: the keys as they came, for a score of what is no number; query: (n, d) float64, what each vector is compared
        to, where that is not one for all.
    taught: (n,) bool, the rows that taught; None: all.
    among: which rows of the chunk these are, (m,) bool; None: all. `column` is still that of all.
    """

    x: Tensor
    ok: Tensor | None = None
    ids: Tensor | None = None
    size: int = 1
    start: int = 0
    column: pl.Series | None = None
    query: Tensor | None = None
    taught: Tensor | None = None
    among: Tensor | None = None

    @cached_property
    def bounds(self) -> Tensor:
        """The smallest and the largest x, (2,), both NaN where one is; (0,) of no rows."""
        return torch.stack(self.x.aminmax()) if self.x.numel() else self.x.new_empty(0)

    @property
    def single(self) -> bool:
        """Whether all are numbers in one segment."""
        return self.ids is None and self.x.ndim == 1

    def at(self, known: Tensor) -> Tensor:
        """What is known of each segment (size, ...), for each row (n, ...); of one segment, for all rows to share."""
        return known if self.ids is None else known.index_select(0, self.ids)

    def present(self) -> Rows:
        """The rows that take part."""
        if self.ok is None:
            return self
        beside = (self.ids, self.query, self.taught)
        ids, query, taught = (None if t is None else only(t, self.ok) for t in beside)
        return replace(self, x=only(self.x, self.ok), ok=None, ids=ids, query=query, taught=taught, among=self.ok)

    def position(self) -> Tensor:
        """Where each row stands in dataset order, (n,) int64: ties go to the earlier."""
        many = len(self.x) if self.among is None else len(self.among)
        return only(torch.arange(self.start, self.start + many, device=self.x.device), self.among)

    def keys(self) -> pl.Series:
        """The keys as they came, (n,)."""
        assert self.column is not None
        if self.among is None or not len(self.among):
            return self.column
        among = pl.Series(pa.Array.from_dlpack(self.among.cpu().view(torch.uint8)))
        return self.column.filter(among.cast(pl.Boolean))


def only(rows: Tensor, there: Tensor | None) -> Tensor:
    """The rows (n, ...) where `there` (n,) bool is true; None: all of them."""
    if there is None:
        return rows
    return torch.masked_select(rows, there) if rows.ndim == 1 else rows[there]


class State(Protocol):
    """What is known of some rows, for each segment: a commutative monoid to the last bit; small, plain data."""

    def __add__(self, other: Self) -> Self: ...

    def spread(self, ids: Tensor, size: int) -> Self:
        """The same, with its segments at the places `ids` among `size`; the others know nothing yet."""
        ...


S = TypeVar("S", bound=State, covariant=True)
K = TypeVar("K")


class Question(Frozen, Generic[S]):
    """What every chunk can answer for itself. No rows, no news: s + of(empty) == s."""

    def of(self, rows: Rows) -> S:
        raise NotImplementedError

    def inner(self) -> Mapping[str, Question[Any]]:
        """The questions that fields of its state are the answers to, by field."""
        return {}


Fit = Generator[Question[Any], Any, K]


class Kind(Frozen, Generic[K]):
    """A score, a weight, a clip, a scale: its fields are its parameters, and the job file's entry is that value."""

    def fit(self) -> Fit[K]:
        """Asks what must be known of the whole scope, one pass a question; a kind that needs none asks none."""
        return nothing()  # type: ignore[return-value]

    def __call__(self, rows: Rows, known: K) -> Tensor:
        """The new numbers (n,) float64 of the rows. Row by row: where chunks end cannot matter."""
        raise NotImplementedError


def nothing() -> Fit[None]:
    """The fit of a kind that asks nothing."""
    return None
    yield


Q = TypeVar("Q")
A = TypeVar("A")


def conclude(fit: Generator[Q, A, K], ask: Callable[[Q], A]) -> K:
    """Answers the questions of a fit in turn, until it knows what it must know."""
    try:
        question = next(fit)
        while True:
            question = fit.send(ask(question))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def together(
    fits: dict[str, Generator[Q, A, K]], after: dict[str, set[str]], before: Mapping[str, K] | None = None
) -> Generator[tuple[tuple[Q, ...], dict[str, K]], tuple[A, ...], dict[str, K]]:
    """Lets several fits ask together, round by round, each once those named in `after` have concluded.

    before: what is known at the start.

    Yields the distinct questions of a round with what is known so far; wants their answers in the same order. An
    answer that an earlier round gave is not asked again.
    """
    known: dict[str, K] = dict(before or {})
    answers: dict[Q, A] = {}
    waiting, asking = dict(fits), dict[str, Q]()

    def resume(name: str, answer: A | None) -> None:
        try:
            asking[name] = next(fits[name]) if answer is None else fits[name].send(answer)
        except StopIteration as done:
            asking.pop(name, None)
            known[name] = done.value

    while waiting or asking:
        for name in [n for n in waiting if after.get(n, set()) <= known.keys()]:
            del waiting[name]
            resume(name, None)
        for name in [n for n, question in asking.items() if question in answers]:
            resume(name, answers[asking[name]])
        fresh = tuple(dict.fromkeys(q for q in asking.values() if q not in answers))
        if fresh:
            answers.update(zip(fresh, (yield fresh, dict(known)), strict=True))
    return known
