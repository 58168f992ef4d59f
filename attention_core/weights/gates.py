"""Gates: weights that switch at a point."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from attention_core.contract import Rows
from attention_core.kinds import Weight


class Step(Weight[None]):
    """high where s > at, else low.

    high, low: the two weights. at: where it switches, in the score's unit.
    Source: the text that Farol comes from.
    """

    kind: Literal["step"] = "step"
    high: float = 2.0
    low: float = 1.0
    at: float = 0.0

    def __call__(self, rows: Rows, known: None) -> Tensor:
        low_high = torch.tensor([self.low, self.high], dtype=torch.float64, device=rows.x.device)
        return low_high.index_select(0, (rows.x > self.at).int())  # five times faster than torch.where
