"""What is done to weights before they are applied: keep, clip, and scale. Each is a kind like any other."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor

from attention_core.contract import Fit, Kind, Rows, nothing
from attention_core.errors import DataError
from attention_core.frozen import Frozen
from attention_core.questions import Count, Extent, Sum, both, parts
from attention_core.selection import MOST, Cut, nucleus, top


def _exactly_one(kind: Frozen) -> None:
    """Refuses all but one entry, and one that is null."""
    if len(kind.model_fields_set) != 1 or None in kind.model_dump(include=kind.model_fields_set).values():
        raise ValueError(f"needs exactly one of {', '.join(type(kind).model_fields)}")


class Keep(Kind[Cut | None]):
    """Weights of what is kept; the others become 0.

    What is kept is exactly one of:

    top_k: so many of the largest weights of the scope, exactly; of equal ones those of earlier rows.
    top_p: the fewest of the largest weights whose sum is at least this share of the whole sum, from 0 to 1, to the last
    bit of float64; of equal ones those of earlier rows. Also called the nucleus. A negative weight is an error.
    min: weights that are at least this.

    min takes no pass; the others two up to 4 M keys, else three or more, and one more, or a few, where equal weights
    straddle the cut. top_p: 1 takes one.
    """

    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    min: float | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        _exactly_one(self)
        return self

    def fit(self) -> Fit[Cut | None]:
        if self.top_k is not None:
            return (yield from top(self._many))
        return None if self.top_p is None else (yield from nucleus(self.top_p))

    def _many(self, n: Tensor) -> Tensor:
        return n.clamp(max=min(self.top_k or 0, MOST))

    def __call__(self, rows: Rows, known: Cut | None) -> Tensor:
        kept = rows.x >= float(self.min or 0) if known is None else known.within(rows)
        return torch.where(kept, rows.x, 0.0)


class Clip(Kind[None]):
    """Weights held within [low, high]."""

    low: float = -math.inf
    high: float = math.inf

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"the first of clip must not be above the second, and {self.low:g} > {self.high:g}")
        return self

    def __call__(self, rows: Rows, known: None) -> Tensor:
        return rows.x.clamp(self.low, self.high)


class Factor(Frozen):
    """What each segment's weights are divided and multiplied by: (size,) float64."""

    by: Tensor
    to: Tensor


class Share(Kind[Factor]):
    """Weights that sum to 1 over the scope again, after some of them became 0; all 0 stay so. One pass."""

    def fit(self) -> Fit[Factor]:
        total = (yield Sum()).value()
        by = torch.where(total > 0, total, 1.0)
        return Factor(by=by, to=torch.ones_like(by))

    def __call__(self, rows: Rows, known: Factor) -> Tensor:
        return rows.x / rows.at(known.by)


class Scale(Kind[Factor]):
    """Weights scaled so that a statistic of the scope becomes what is asked.

    Exactly one of:

    mean, sum: of the weights. min, max: of the smallest, of the largest weight.
    sum_at_most: a scope whose weights sum to more is scaled down to this.
    """

    mean: FiniteFloat | None = None
    sum: FiniteFloat | None = None
    min: FiniteFloat | None = None
    max: FiniteFloat | None = None
    sum_at_most: FiniteFloat | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one(self) -> Self:
        _exactly_one(self)
        return self

    def fit(self) -> Fit[Factor]:
        asked = next(iter(self.model_fields_set))
        target = float(getattr(self, asked))
        if asked in ("min", "max"):
            extent = yield Extent()
            now = extent.low if asked == "min" else extent.high
            filled, to = torch.isfinite(now), torch.full_like(now, target)
        else:
            count, total = parts((yield both(Count(), Sum())))
            now, filled = total.mean(count.n), count.n > 0
            to = torch.full_like(now, target) if asked == "mean" else target / count.n.clamp(min=1).double()
        if asked == "sum_at_most":
            over = now > to
            return Factor(by=torch.where(over, now, 1.0), to=torch.where(over, to, 1.0))
        if bool((filled & (now == 0)).any()):
            raise DataError(f"the weights cannot be scaled by their {asked}, since it is 0")
        return Factor(by=torch.where(filled, now, 1.0), to=torch.where(filled, to, 1.0))

    def __call__(self, rows: Rows, known: Factor) -> Tensor:
        return rows.x / rows.at(known.by) * rows.at(known.to)


__all__ = ["Clip", "Factor", "Keep", "Scale", "Share", "nothing"]
