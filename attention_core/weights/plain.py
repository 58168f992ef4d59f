"""Weights that follow the score itself."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attention_core.contract import Fit, Rows
from attention_core.frozen import Frozen
from attention_core.kinds import Weight
from attention_core.questions import Extent, refused

PRODUCTS = 64  # powers up to so many products: as good as exp(p·log s), and exact where that is not


class Identity(Weight[None]):
    """The score is the weight: w = s. Source: the column itself."""

    kind: Literal["identity"] = "identity"

    def __call__(self, rows: Rows, known: None) -> Tensor:
        return rows.x


class Between(Frozen):
    """The smallest and the largest score of each segment: (size,) float64."""

    smallest: Tensor
    largest: Tensor


class Linear(Weight[Between]):
    """The scores stretched over a range: low + (high − low)(s − min)/(max − min); `low` where max = min.

    low, high: the weights of the smallest and of the largest score.
    Source: scikit-learn's MinMaxScaler.
    """

    kind: Literal["linear"] = "linear"
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _within_reach(self) -> Self:
        if not math.isfinite(self.high - self.low):
            raise ValueError(f"from {self.low:g} to {self.high:g} is farther than a number goes; bring them closer")
        return self

    def fit(self) -> Fit[Between]:
        extent = yield Extent()
        return Between(smallest=extent.low, largest=extent.high)

    def __call__(self, rows: Rows, known: Between) -> Tensor:
        # halves, since the range of two finite numbers may be beyond float64
        low, width = rows.at(known.smallest / 2), rows.at(known.largest / 2 - known.smallest / 2)
        share = torch.where(width > 0, (rows.x / 2 - low) / width, 0.0)
        return self.low + (self.high - self.low) * share


class Exponential(Weight[None]):
    """Half the weight for each half-life: 2^(s/half_life).

    half_life: in the score's unit; with `recency`, the age at which the weight is 1/2.
    Source: exponential decay; pandas ewm with `halflife`.
    """

    kind: Literal["exponential"] = "exponential"
    half_life: float = Field(gt=0, allow_inf_nan=False)

    def __call__(self, rows: Rows, known: None) -> Tensor:
        return torch.exp(rows.x / self.half_life * math.log(2))  # torch's exp2 depends on where a row stands


class Gaussian(Weight[None]):
    """exp(−s²/(2·width²)): 1 at a score of 0, the same for s and −s, 0 far away.

    width: the standard deviation of the bell, in the score's unit.
    Source: kernel smoothing.
    """

    kind: Literal["gaussian"] = "gaussian"
    width: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def __call__(self, rows: Rows, known: None) -> Tensor:
        return (rows.x / self.width).square_().mul_(-0.5).exp_()


class Power(Weight[None]):
    """s^p. 0^0 is 1; a power beyond float64 is infinite; a score that has no real power is an error.

    exponent: p. A whole one takes negative scores, any other none; a negative one does not take 0.
    Source: with p < 0 and a distance, inverse distance weighting, Shepard 1968.
    """

    kind: Literal["power"] = "power"
    exponent: float = Field(allow_inf_nan=False)

    def __call__(self, rows: Rows, known: None) -> Tensor:
        p, x = self.exponent, rows.x
        whole = p.is_integer()
        if not whole:
            refused(rows, x < 0, f"a negative score has no power {p}; mask it, or take a whole exponent")
        if p < 0:
            refused(rows, x == 0, f"a score of 0 has no power {p}; mask it")
        # torch's pow depends on where a row stands
        if (2 * p).is_integer() and abs(p) <= PRODUCTS:
            root = x if whole else (x + 0.0).sqrt_()  # + 0.0: no root of −0.0
            return _product(root if p >= 0 else 1 / root, int(abs(p if whole else 2 * p)))
        size = x.abs().log_().mul_(p).exp_()
        return size.mul_(x.sign()) if whole and p % 2 else size


def _product(x: Tensor, times: int) -> Tensor:
    """x^times, by squares."""
    found = None
    while times:
        if times % 2:
            found = x if found is None else found * x
        times //= 2
        x = x * x if times else x
    return torch.ones_like(x) if found is None else found
