"""Weights that share one unit of attention among the keys of a scope."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attention_core.contract import Fit, Rows
from attention_core.errors import DataError
from attention_core.frozen import Frozen
from attention_core.kinds import Weight
from attention_core.questions import Count, Extent, Largest, Sum, Term, both, parts, refused

INFINITE = "a score of +inf has no softmax; mask it"
NEGATIVE = "proportional needs scores of 0 or more, and one is negative; mask it"


class Partition(Frozen):
    """The largest score and Σexp((s − largest)/T) of each segment: (size,) float64."""

    largest: Tensor
    total: Tensor


class Exponentials(Term):
    """Σexp((s − largest)/T), terms in [0, 1]."""

    largest: Tensor
    temperature: float

    def term(self, rows: Rows) -> Tensor:
        return exponentials(rows, self.largest, self.temperature)

    def top(self) -> int:
        return 1


def exponentials(rows: Rows, largest: Tensor, temperature: float) -> Tensor:
    """exp((s − largest)/T): the maximum is subtracted first, so that nothing overflows; 0 for a score of −inf."""
    return (rows.x - rows.at(largest)).div_(temperature).exp_()


class Softmax(Weight[Partition]):
    """exp(s/T)/Σexp(s/T) over the scope. A score of −inf has weight 0, +inf is an error.

    temperature: T > 0, in the score's unit; small is sharp, large is even.
    Source: Boltzmann; torch.softmax.
    """

    kind: Literal["softmax"] = "softmax"
    shares: ClassVar[bool] = True
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def fit(self) -> Fit[Partition]:
        largest = (yield Largest()).high
        if bool((largest == torch.inf).any()):
            raise DataError(INFINITE)
        largest = torch.where(largest == -torch.inf, 0.0, largest)
        total = (yield Exponentials(largest=largest, temperature=self.temperature)).value()
        return Partition(largest=largest, total=torch.where(total > 0, total, 1.0))

    def __call__(self, rows: Rows, known: Partition) -> Tensor:
        if len(rows.x) and not float(rows.x.amax()) < torch.inf:
            refused(rows, rows.x == torch.inf, INFINITE)
        return exponentials(rows, known.largest, self.temperature).div_(rows.at(known.total))


class Whole(Frozen):
    """The mean score and the number of keys of each segment: (size,) float64."""

    mean: Tensor
    count: Tensor


class Proportional(Weight[Whole]):
    """s/Σs over the scope; all zero gives 1/n; a negative score is an error."""

    kind: Literal["proportional"] = "proportional"
    shares: ClassVar[bool] = True

    def fit(self) -> Fit[Whole]:
        count, total, extent = parts((yield both(Count(), Sum(), Extent())))
        if bool((extent.low < 0).any()):
            raise DataError(NEGATIVE)
        return Whole(mean=total.mean(count.n), count=count.n.double())

    def __call__(self, rows: Rows, known: Whole) -> Tensor:
        refused(rows, rows.x < 0, NEGATIVE)
        # by the mean, since the sum itself may be beyond float64
        mean = rows.at(known.mean)
        return torch.where(mean > 0, rows.x / mean, 1.0) / rows.at(known.count)
