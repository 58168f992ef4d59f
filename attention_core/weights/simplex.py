"""Weights that share one unit of attention among the keys of a scope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attention_core.contract import Fit, Question, Rows
from attention_core.errors import DataError
from attention_core.frozen import Frozen
from attention_core.kinds import Weight
from attention_core.questions import Count, Extent, Largest, Sum, Term, both, most, parts, refused
from attention_core.sums import Sums, placed, tops_of

INFINITE = "a score of +inf has no softmax; mask it"
UNBOUNDED = "a score of +inf has no entmax; mask it"
NEGATIVE = "proportional needs scores of 0 or more, and one is negative; mask it"

FIRST = 12  # weights of the largest key that are tried at first, in even ratios from 1/n to 1
EVEN = (0.2, 0.4, 0.6, 0.8)  # and then: where in the bracket, so that it shrinks to a fifth at worst,
NEAR = tuple(d * 2.0**-k for k in (5, 12, 24) for d in (-1, 1))  # and how far from where a line meets the root
CLOSE = 2.0**-51  # a bracket that is no wider, relative to its end, is closed
BLOCK = 1 << 16  # rows at once
REACH = 64.0  # of s/T: exponentials up to there are good to 2^-46, and far from overflowing


class Partition(Frozen):
    """Σexp((s − centre)/T) of each segment, (size,) float64; centre: its largest score, or 0 where that is near."""

    centre: Tensor
    total: Tensor


@dataclass(frozen=True, eq=False)
class Near:
    """The largest score of each segment, (size,) float64, −inf where there is none, and Σexp(min(s/T, REACH))."""

    largest: Tensor
    sums: Sums

    def __add__(self, other: Near) -> Near:
        return Near(torch.maximum(self.largest, other.largest), self.sums + other.sums)

    def spread(self, ids: Tensor, size: int) -> Near:
        return Near(placed(self.largest, ids, size, -torch.inf), self.sums.spread(ids, size))


class Nearby(Question[Near]):
    """The sum of exponentials where the largest is near, from 0 to REACH·T, which only its answer shows."""

    temperature: float

    def of(self, rows: Rows) -> Near:
        there = rows.present()
        largest = most(there)
        bounds = (largest / self.temperature).clamp_(max=REACH).exp_().mul_(2)  # an exponential is off by a bit or so
        terms = (there.x / self.temperature).clamp_(max=REACH).exp_()
        return Near(largest, Sums.of(terms, there.ids, rows.size, tops_of(bounds)))


class Exponentials(Term):
    """Σexp((s − centre)/T), terms in [0, 1]."""

    centre: Tensor
    temperature: float

    def term(self, rows: Rows) -> Tensor:
        return exponentials(rows, self.centre, self.temperature)

    def top(self, rows: Rows) -> int:
        return 1


def exponentials(rows: Rows, centre: Tensor, temperature: float) -> Tensor:
    """exp((s − centre)/T); 0 for a score of −inf."""
    x = rows.x - rows.at(centre) if bool(centre.any()) else rows.x
    return (x / temperature).exp_()


class Softmax(Weight[Partition]):
    """exp(s/T)/Σexp(s/T) over the scope. A score of −inf has weight 0, +inf is an error.

    The scope's largest score is subtracted first, unless it lies between 0 and 64·T, where nothing can overflow or
    vanish. One pass, and one more where it is subtracted.

    temperature: T > 0, in the score's unit; small is sharp, large is even.
    Source: Boltzmann; torch.softmax.
    """

    kind: Literal["softmax"] = "softmax"
    shares: ClassVar[bool] = True
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def fit(self) -> Fit[Partition]:
        near = yield Nearby(temperature=self.temperature)
        if bool((near.largest == torch.inf).any()):
            raise DataError(INFINITE)
        high = near.largest / self.temperature
        far = torch.isfinite(near.largest) & ((high < 0) | (high > REACH))  # below 0, small weights would vanish
        centre, total = torch.where(far, near.largest, 0.0), near.sums.value()
        if bool(far.any()):
            again = yield Exponentials(centre=centre, temperature=self.temperature)
            total = torch.where(far, again.value(), total)
        return Partition(centre=centre, total=torch.where(total > 0, total, 1.0))

    def __call__(self, rows: Rows, known: Partition) -> Tensor:
        if len(rows.x) and not float(rows.x.amax()) < torch.inf:
            refused(rows, rows.x == torch.inf, INFINITE)
        return exponentials(rows, known.centre, self.temperature).div_(rows.at(known.total))


class Whole(Frozen):
    """The mean score and the number of keys of each segment: (size,) float64."""

    mean: Tensor
    count: Tensor


class Proportional(Weight[Whole]):
    """s/Σs over the scope; all zero gives 1/n; a negative score is an error. Source: Luce 1959, the choice axiom."""

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


class Support(Frozen):
    """Of each segment, (size,) float64: the largest score, 1/t, and Σ[1 + u/t]₊^(1/(α−1)), as `Entmax` says."""

    largest: Tensor
    rise: Tensor
    total: Tensor


class Shares(Question[Sums]):
    """Half of Σ[1 + u/t]₊^(1/(α−1)) for several t of each segment; halves, so that all terms are below 1.

    rises: (size, m), 1/t; all inf for a segment that is not asked about.
    """

    largest: Tensor
    rises: Tensor
    alpha: float
    temperature: float

    def of(self, rows: Rows) -> Sums:
        there = rows.present()
        below = _below(there, self.largest, self.alpha, self.temperature)
        some = below * there.at(self.rises.amin(1)) > -1  # no other has a share, whatever the t (0·inf is no number)
        below = below[some]
        ids = there.ids[some] if there.ids is not None else None
        block = max(BLOCK, rows.size)
        total: Sums | None = None
        for start in range(0, max(len(below), 1), block):
            at = slice(start, start + block)
            here = None if ids is None else ids[at]
            rises = self.rises if here is None else self.rises.index_select(0, here)
            halves = _shares(below[at, None], rises, self.alpha).mul_(0.5)
            sums = Sums.of(halves, here, rows.size, 0)
            total = sums if total is None else total + sums
        assert total is not None
        return total


class Entmax(Weight[Support]):
    """[(α−1)s/T − τ]₊^(1/(α−1)), τ such that they sum to 1 over the scope: low scores get weight 0, exactly.

    A score of −inf has weight 0 (all of them, where a segment has no other), +inf is an error.

    alpha: α > 1; the larger, the fewer keys share; 2 is sparsemax, towards 1 it becomes softmax.
    temperature: T > 0, in the score's unit; small is sharp, large is even.
    Source: Peters et al. 2019; Martins and Astudillo 2016.
    """

    # With u = (α−1)(s − largest)/T and m the weight of the largest key, τ lies t = m^(α−1) below the largest, and each
    # weight is m·[1 + u/t]₊^(1/(α−1)). So one number is sought for each segment: the m in [1/n, 1] where they sum to 1.
    # The sum grows with m, so several are tried in each pass, and a bracket is narrowed until float64 ends.

    kind: Literal["entmax"] = "entmax"
    shares: ClassVar[bool] = True
    alpha: float = Field(default=1.5, gt=1, allow_inf_nan=False)
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def fit(self) -> Fit[Support]:
        count, extent = parts((yield both(Count(), Largest())))
        if bool((extent.high == torch.inf).any()):
            raise DataError(UNBOUNDED)
        nothing = extent.high == -torch.inf
        largest = torch.where(nothing, 0.0, extent.high)
        n = torch.where(nothing, 1, count.n).double()

        m = torch.exp(torch.log(n)[:, None] * torch.linspace(-1, 0, FIRST, dtype=torch.float64, device=n.device))
        ends, sums = _bracket(m, 2 * (yield self._asked(largest, m)).value())
        while bool((wide := ends[:, 1:] - ends[:, :1] > CLOSE * ends[:, 1:]).any()):
            m = _tries(ends, sums)
            tried = 2 * (yield self._asked(largest, m, wide)).value()
            narrowed = _bracket(torch.cat([ends, m], 1), torch.cat([sums, tried], 1))
            # a segment that is done stays as it is, or others would show in its bits
            ends, sums = (torch.where(wide, new, old) for new, old in zip(narrowed, (ends, sums), strict=True))
        off = (ends * sums - 1).abs()
        last = off[:, 0] <= off[:, 1]
        m, total = (torch.where(last, e[:, 0], e[:, 1]) for e in (ends, sums))
        return Support(largest=largest, rise=_rise(m, self.alpha), total=torch.where(total > 0, total, 1.0))

    def __call__(self, rows: Rows, known: Support) -> Tensor:
        if len(rows.x) and not float(rows.x.amax()) < torch.inf:
            refused(rows, rows.x == torch.inf, UNBOUNDED)
        below = _below(rows, known.largest, self.alpha, self.temperature)
        return _shares(below, rows.at(known.rise), self.alpha).div_(rows.at(known.total))

    def _asked(self, largest: Tensor, m: Tensor, wide: Tensor | None = None) -> Shares:
        rises = _rise(m, self.alpha)
        rises = rises if wide is None else torch.where(wide, rises, torch.inf)
        return Shares(largest=largest, rises=rises, alpha=self.alpha, temperature=self.temperature)


def _below(rows: Rows, largest: Tensor, alpha: float, temperature: float) -> Tensor:
    """u = (α−1)(s − largest)/T."""
    return (rows.x - rows.at(largest)).div_(temperature).mul_(alpha - 1)


def _shares(below: Tensor, rise: Tensor, alpha: float) -> Tensor:
    """[1 + u/t]₊^(1/(α−1))."""
    z = (below * rise).clamp_(min=-1)
    if alpha == 2:
        return z.add_(1)
    if alpha == 1.5:
        return z.add_(1).square_()
    return z.log1p_().div_(alpha - 1).exp_()


def _rise(m: Tensor, alpha: float) -> Tensor:
    """1/t = m^(1−α), as far as float64 goes."""
    if alpha == 2:
        return 1 / m
    if alpha == 1.5:
        return 1 / m.sqrt()
    return m.log().mul_(1 - alpha).clamp_(max=709).exp_()


def _bracket(m: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """The two neighbours (size, 2) among m (size, k) between which m times its sum becomes 1, and their sums."""
    m, order = m.sort(1)
    sums = sums.gather(1, order)
    over = (m * sums <= 1).long().cumprod(1).sum(1, keepdim=True).clamp(1, m.shape[1] - 1)
    pair = torch.cat([over - 1, over], 1)
    return m.gather(1, pair), sums.gather(1, pair)


def _tries(ends: Tensor, sums: Tensor) -> Tensor:
    """What to try within a bracket: some m at even steps, the others near the root of the line through its ends."""
    off = ends * sums - 1
    root = (off[:, :1] / (off[:, :1] - off[:, 1:])).nan_to_num_(0.5).clamp_(0, 1)
    near = (root + torch.tensor((0.0, *NEAR), dtype=torch.float64, device=root.device)).clamp_(0, 1)
    even = torch.tensor(EVEN, dtype=torch.float64, device=root.device).expand(len(root), len(EVEN))
    low, high = ends[:, :1], ends[:, 1:]
    return torch.minimum(low + (high - low) * torch.cat([even, near], 1), high)
