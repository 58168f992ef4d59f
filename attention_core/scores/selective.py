"""Selective attention: the key as it is, and hard targets that are 1 or 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from attention_core.contract import Rows
from attention_core.kinds import Score


class Identity(Score[None]):
    """The key is its own score: s = x."""

    kind: Literal["identity"] = "identity"

    def __call__(self, rows: Rows, known: None) -> Tensor:
        return rows.x


class Threshold(Score[None]):
    """1 where every bound that is given holds, else 0.

    above, at_least, below, at_most: bounds on x, in the key's own units.
    absolute: bounds on |x| instead.
    Source: the text that Farol comes from; hard attention.
    """

    kind: Literal["threshold"] = "threshold"
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    absolute: bool = False

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if all(bound is None for bound, _ in self._bounds()):
            raise ValueError("needs at least one of above, at_least, below, at_most")
        return self

    def _bounds(self) -> tuple[tuple[float | None, Callable[..., Tensor]], ...]:
        return (
            (self.above, torch.gt),
            (self.at_least, torch.ge),
            (self.below, torch.lt),
            (self.at_most, torch.le),
        )

    def __call__(self, rows: Rows, known: None) -> Tensor:
        x = rows.x.abs() if self.absolute else rows.x
        # a comparison straight into floats takes a quarter of the time of booleans that are cast
        held = [test(x, bound, out=torch.empty_like(x)) for bound, test in self._bounds() if bound is not None]
        return reduce(torch.mul, held)
