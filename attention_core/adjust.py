"""What is done to weights before they are applied: clip, and scale. Each is a kind like any other."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attention_core.contract import Fit, Kind, Rows, nothing
from attention_core.errors import DataError
from attention_core.frozen import Frozen
from attention_core.questions import Count, Extent, Sum, both, parts


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


class Scale(Kind[Factor]):
    """Weights scaled so that a statistic of the scope becomes what is asked; exactly one of:

    mean, sum: of the weights. min, max: of the smallest, of the largest weight.
    sum_at_most: a scope whose weights sum to more is scaled down to this.
    """

    mean: float | None = None
    sum: float | None = None
    min: float | None = None
    max: float | None = None
    sum_at_most: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or None in self.model_dump(include=self.model_fields_set).values():
            raise ValueError("needs exactly one of mean, sum, min, max, sum_at_most")
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


__all__ = ["Clip", "Factor", "Scale", "nothing"]
