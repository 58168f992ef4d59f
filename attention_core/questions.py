"""What kinds ask: counts, extents and sums, over segments. Everything that a kind knows is made of their states.

Each question's `of` looks at the rows that take part (`Rows.present`); each state is a commutative monoid to the last
bit, so that no cut into chunks and no order of merging can show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from pydantic import SkipValidation
from torch import Tensor

from attention_core.contract import Question, Rows, State
from attention_core.errors import DataError
from attention_core.sums import Sums, magnitude, placed, top_of

__all__ = ["Both", "Count", "Counts", "Extent", "Extents", "Infinite", "Largest", "Pair", "Sum", "Sums", "Term"]


class Infinite(DataError):
    """An infinite number where a sum or an extent is asked."""

    def __init__(self, what: str = "an infinite key has no place in a sum or an extent; mask it or leave it out"):
        super().__init__(what)


@dataclass(frozen=True, eq=False)
class Counts:
    """How many keys take part: n (size,) int64."""

    n: Tensor

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.n + other.n)

    def spread(self, ids: Tensor, size: int) -> Counts:
        return Counts(placed(self.n, ids, size, 0))


@dataclass(frozen=True, eq=False)
class Extents:
    """The smallest and the largest number: (size,) float64 each; +inf and −inf where there is none."""

    low: Tensor
    high: Tensor

    def __add__(self, other: Extents) -> Extents:
        return Extents(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))

    def spread(self, ids: Tensor, size: int) -> Extents:
        return Extents(placed(self.low, ids, size, math.inf), placed(self.high, ids, size, -math.inf))


@dataclass(frozen=True, eq=False)
class Pair:
    """Two answers of one pass."""

    first: Any
    second: Any

    def __add__(self, other: Pair) -> Pair:
        return Pair(self.first + other.first, self.second + other.second)

    def spread(self, ids: Tensor, size: int) -> Pair:
        return Pair(self.first.spread(ids, size), self.second.spread(ids, size))


class Count(Question[Counts]):
    """How many keys take part."""

    def of(self, rows: Rows) -> Counts:
        there = rows.present()
        if there.ids is None:
            return Counts(torch.full((1,), len(there.x), dtype=torch.int64, device=there.x.device))
        return Counts(torch.bincount(there.ids, minlength=rows.size))


class Extent(Question[Extents]):
    """The smallest and the largest number; an infinite one is an error."""

    def of(self, rows: Rows) -> Extents:
        return _extent(rows.present(), finite=True)


class Largest(Question[Extents]):
    """The largest number, infinite ones included (in `high`; `low` is the smallest)."""

    def of(self, rows: Rows) -> Extents:
        return _extent(rows.present(), finite=False)


class Term(Question[Sums]):
    """A sum of a term of each row; the term is finite."""

    def term(self, rows: Rows) -> Tensor:
        """What is added for each row, (n,) or (n, d) float64, of rows that all take part."""
        raise NotImplementedError

    def top(self, rows: Rows) -> int | None:
        """Where it is known before the terms are: |term| < 2^(30·top)."""
        return None

    def of(self, rows: Rows) -> Sums:
        there = rows.present()
        return Sums.of(self.term(there), there.ids, rows.size, self.top(there))


class Sum(Term):
    """The sum of the numbers themselves; an infinite one is an error."""

    def term(self, rows: Rows) -> Tensor:
        if not math.isfinite(magnitude(rows.bounds)):
            raise Infinite
        return rows.x

    def top(self, rows: Rows) -> int | None:
        return top_of(magnitude(rows.bounds)) if rows.single else None


class Both(Question[Pair]):
    """Two questions in one pass."""

    first: SkipValidation[Question[Any]]
    second: SkipValidation[Question[Any]]

    def of(self, rows: Rows) -> Pair:
        there = rows.present()
        return Pair(self.first.of(there), self.second.of(there))

    def inner(self) -> Mapping[str, Question[Any]]:
        return {"first": self.first, "second": self.second}


def both(*questions: Question[Any]) -> Question[Any]:
    """Several questions in one pass, nested to the right: unpack the answer with `parts`."""
    first, *rest = questions
    return Both(first=first, second=both(*rest)) if rest else first


def parts(state: State) -> list[Any]:
    """The answers to `both`, in its order."""
    return [state.first, *parts(cast(State, state.second))] if isinstance(state, Pair) else [state]


def refused(rows: Rows, bad: Tensor, what: str) -> None:
    """Nothing, unless a key that takes part is bad, (n,) bool.

    Raises:
        DataError: saying what.
    """
    if bool(bad.any()) and bool((bad if rows.ok is None else bad & rows.ok).any()):
        raise DataError(what)


def most(rows: Rows) -> Tensor:
    """The largest number of each segment, (size,) float64, of rows that all take part; −inf where there is none."""
    largest = torch.full((rows.size,), -math.inf, dtype=torch.float64, device=rows.x.device)
    if rows.x.numel():
        largest = rows.x.amax().reshape(1) if rows.ids is None else largest.scatter_reduce_(0, rows.ids, rows.x, "amax")
    return largest + 0.0  # -0.0 and 0.0 compare equal: which one wins would show the order


def _extent(rows: Rows, *, finite: bool) -> Extents:
    x, ids, size = rows.x, rows.ids, rows.size
    low = torch.full((size,), math.inf, dtype=torch.float64, device=x.device)
    high = -low
    if x.numel():
        if ids is None:
            low, high = rows.bounds[:1], rows.bounds[1:]
        else:
            low = low.scatter_reduce_(0, ids, x, "amin")
            high = high.scatter_reduce_(0, ids, x, "amax")
        if finite and not bool(((low > -math.inf) & (high < math.inf)).all()):
            raise Infinite
    return Extents(low + 0.0, high + 0.0)  # -0.0 and 0.0 compare equal: which one wins would show the order
