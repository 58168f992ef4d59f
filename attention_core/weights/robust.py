"""Weights that turn outliers down: those of robust regression. They look at the size of a score, not at its sign."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from attention_core.contract import Rows
from attention_core.kinds import Weight


class Huber(Weight[None]):
    """1 where |s| <= at, else at/|s|: with `zscore`, outliers are turned down; an infinite score has weight 0.

    at: where it begins to fall, in the score's unit; 1.345 keeps 95 % of the efficiency on normal data.
    Source: Huber 1964.
    """

    kind: Literal["huber"] = "huber"
    at: float = Field(default=1.345, gt=0, allow_inf_nan=False)

    def __call__(self, rows: Rows, known: None) -> Tensor:
        size = rows.x.abs().clamp_(min=self.at)
        return torch.full_like(size, self.at).div_(size)  # `at / size` would multiply by a rounded reciprocal


class Bisquare(Weight[None]):
    """(1 − (s/at)²)² where |s| < at, else 0: outliers are left out.

    at: from where the weight is 0, in the score's unit; 4.685 keeps 95 % of the efficiency on normal data.
    Source: Beaton and Tukey 1974.
    """

    kind: Literal["bisquare"] = "bisquare"
    at: float = Field(default=4.685, gt=0, allow_inf_nan=False)

    def __call__(self, rows: Rows, known: None) -> Tensor:
        share = (rows.x / self.at).square_().clamp_(max=1)
        return share.neg_().add_(1).square_()
