"""Weights that follow the score itself."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from attention_core.contract import Fit, Rows
from attention_core.frozen import Frozen
from attention_core.kinds import Weight
from attention_core.questions import Extent


class Identity(Weight[None]):
    """The score is the weight: w = s."""

    kind: Literal["identity"] = "identity"

    def __call__(self, rows: Rows, known: None) -> Tensor:
        return rows.x


class Between(Frozen):
    """The smallest and the largest score of each segment: (size,) float64."""

    smallest: Tensor
    largest: Tensor


class Linear(Weight[Between]):
    """The scores stretched over a range: low + (high − low)(s − min)/(max − min); `low` where max = min.

    low, high: the weights of the smallest and of the largest score. scikit-learn's MinMaxScaler.
    """

    kind: Literal["linear"] = "linear"
    low: float = 0.0
    high: float = 1.0

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
    """

    kind: Literal["exponential"] = "exponential"
    half_life: float = Field(gt=0)

    def __call__(self, rows: Rows, known: None) -> Tensor:
        return torch.exp(rows.x / self.half_life * math.log(2))  # torch's exp2 depends on where a row stands
