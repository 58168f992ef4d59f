"""Salience: how far a key stands out from its scope."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from attention_core.contract import Fit, Rows
from attention_core.frozen import Frozen
from attention_core.kinds import Score
from attention_core.questions import Count, Extent, Extents, Sum, Term, both, parts
from attention_core.selection import median_and_deviation
from attention_core.sums import magnitude, top_of

ROBUST = (
    "robust_zscore needs a finite median and deviation, and half of the keys are infinite or too far apart; mask them"
)

ENOUGH = 16  # times the variance is at least the mean square, where it is taken from that: good to 2^-46
LARGE = 2.0**500  # keys up to there, and down to 1 over it, have squares that float64 can sum


class Spread(Frozen):
    """Where the keys of each segment lie: (size,) float64 each, in the key's units."""

    middle: Tensor
    width: Tensor


class Squares(Term):
    """Σx², of keys whose squares can be summed; what is larger counts as LARGE."""

    def term(self, rows: Rows) -> Tensor:
        return rows.x.clamp(-LARGE, LARGE).square_()

    def top(self, rows: Rows) -> int | None:
        return top_of(min(magnitude(rows.bounds), LARGE) ** 2) if rows.single else None


class SquaresAbout(Term):
    """Σ((x − mean)/unit)², with a power of two for a unit, so that no square overflows or vanishes."""

    mean: Tensor
    unit: Tensor

    def term(self, rows: Rows) -> Tensor:
        unit = rows.at(self.unit)
        return (rows.x / unit).sub_(rows.at(self.mean) / unit).square_()


class ZScore(Score[Spread]):
    """Standard deviations from the mean: |x − μ|/σ, with the population's σ; 0 where σ = 0.

    One pass, and one more where the mean lies further than some 4·σ from 0: σ² = E[x²] − μ² loses too much there.

    absolute: false gives (x − μ)/σ, with its sign.
    Source: the standard score; scipy.stats.zscore.
    """

    kind: Literal["zscore"] = "zscore"
    absolute: bool = True

    def fit(self) -> Fit[Spread]:
        count, total, extent, squares = parts((yield both(Count(), Sum(), Extent(), Squares())))
        mean = torch.minimum(torch.maximum(total.mean(count.n), extent.low), extent.high)
        mean = torch.where(count.n > 0, mean, 0.0)
        square = squares.mean(count.n)
        variance, largest = square - mean * mean, torch.maximum(extent.high, -extent.low)
        enough = (variance * ENOUGH >= square) & (largest >= 1 / LARGE) & (largest <= LARGE)
        width = torch.where(enough, variance, 0.0).sqrt()
        asked = ~enough & (extent.low < extent.high)
        if bool(asked.any()):
            width = torch.where(asked, (yield from _deviation(count.n, mean, extent)), width)
        return Spread(middle=mean, width=width)

    def __call__(self, rows: Rows, known: Spread) -> Tensor:
        return standardised(rows, known, self.absolute)


def _deviation(count: Tensor, mean: Tensor, extent: Extents) -> Fit[Tensor]:
    """σ (size,) float64, from the squares about the mean."""
    unit = power_of_two(torch.maximum(extent.high / 2 - mean / 2, mean / 2 - extent.low / 2) * 2)
    squares = yield SquaresAbout(mean=mean, unit=unit)
    return torch.sqrt(squares.mean(count)) * unit


class RobustZScore(Score[Spread]):
    """Robust deviations from the median: 0.67449·|x − median|/MAD, MAD the median of |x − median|; 0 where MAD = 0.

    The factor makes it the z-score where the keys are normal. Three passes up to 4 M keys, else five or more.

    absolute: false gives 0.67449·(x − median)/MAD, with its sign.
    Source: Iglewicz and Hoaglin 1993.
    """

    kind: Literal["robust_zscore"] = "robust_zscore"
    absolute: bool = True

    def fit(self) -> Fit[Spread]:
        median, deviation = yield from median_and_deviation(ROBUST)
        return Spread(middle=median, width=deviation)

    def __call__(self, rows: Rows, known: Spread) -> Tensor:
        z = standardised(rows, known, self.absolute).mul_(0.67449)
        return torch.where(rows.at(known.width) > 0, z, 0.0)  # also of an infinite key


def standardised(rows: Rows, known: Spread, absolute: bool) -> Tensor:
    """(x − middle)/width; 0 where the width is 0."""
    unit = power_of_two(known.width)
    width = rows.at(torch.where(known.width > 0, known.width / unit, torch.inf))
    z = (rows.x / rows.at(unit)).sub_(rows.at(known.middle / unit)).div_(width)
    return z.abs_() if absolute else z


def power_of_two(x: Tensor) -> Tensor:
    """The power of two at or below x > 0 in the normal range, so that dividing by it rounds nothing; 1 for others."""
    usable = torch.isfinite(x) & (x > 0)
    bits = torch.where(usable, x, 1.0).clamp(min=2.0**-1022).view(torch.int64)
    return (bits & (0x7FF << 52)).view(torch.float64)
