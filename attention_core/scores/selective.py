"""Selective attention: the key as it is, and hard targets that are 1 or 0."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attention_core.contract import Fit, Rows
from attention_core.kinds import Score
from attention_core.selection import MOST, Cut, quantile, top


class Identity(Score[None]):
    """The key is its own score: s = x. Source: the column itself."""

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


class Quantile(Score[Tensor]):
    """1 where x > Q(q), or x < Q(q) with side: below; else 0. Q is exact, and interpolated as NumPy does.

    An infinite key is compared as itself. Two passes up to 4 M keys, else three or more.

    q: from 0 to 1. side: above or below.
    Source: Hyndman and Fan 1996, type 7.
    """

    kind: Literal["quantile"] = "quantile"
    q: float = Field(ge=0, le=1)
    side: Literal["above", "below"] = "above"

    def fit(self) -> Fit[Tensor]:
        return (yield from quantile(self.q))

    def __call__(self, rows: Rows, known: Tensor) -> Tensor:
        test = torch.gt if self.side == "above" else torch.lt
        return test(rows.x, rows.at(known)).double()


class TopK(Score[Cut]):
    """1 for the k largest keys of the scope, or the k smallest with largest: false; else 0.

    Exactly k, or all where there are fewer: of equal keys those of earlier rows. Two passes up to 4 M keys, else three
    or more; and one more, or a few, where equal keys straddle the cut.

    k: how many; or fraction: of the keys that are not missing, rounded up, the fraction taken as it is written.
    Source: hard attention.
    """

    kind: Literal["top_k"] = "top_k"
    k: int | None = Field(default=None, ge=1)
    fraction: float | None = Field(default=None, gt=0, le=1)
    largest: bool = True

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.k is None) == (self.fraction is None):
            raise ValueError("needs exactly one of k, fraction")
        return self

    def fit(self) -> Fit[Cut]:
        return (yield from top(self._many, self.largest))

    def _many(self, n: Tensor) -> Tensor:
        if self.k is not None:
            return n.clamp(max=min(self.k, MOST))
        share = Fraction(repr(self.fraction))  # in floats, 0.07 of 100 is more than 7
        many = [-(-count * share.numerator // share.denominator) for count in n.tolist()]
        return torch.tensor(many, dtype=torch.int64, device=n.device)

    def __call__(self, rows: Rows, known: Cut) -> Tensor:
        return known.within(rows).double()
