"""What the weights of a column look like: a state that merges like any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import polars as pl
import torch
from torch import Tensor

from attention_core.selection import key_of, number_of
from attention_core.sums import BLOCK, Sums, magnitude, top_of

T = TypeVar("T")

MEASURES = ("null_fraction", "nan_fraction", "unseen_fraction", "min", "mean", "max", "sum", "zero_share",
            "largest_share", "entropy", "effective_sample_size")  # fmt: skip
MOST_TALLIED = 64
FEW = 64  # weights that show whether there are but two
COARSE = 50  # bits of a float64 that a bin does not tell apart: four bins from each power of two to the next
BINS = 1 << (64 - COARSE)
SQUARABLE = 1e150
LOGARITHM = 1024  # beyond that of any float64


@dataclass(frozen=True, eq=False)
class Health:
    """Of some weights: how many rows, nulls, NaN and zeros; extents; Σw, Σw² and Σw·ln w over the finite ones.

    tally: how often some weights are there that `sums` and `bins` do not hold yet. A gate gives but two, and to count
    is cheap. bins: how many weights lie in each bin of the histogram. unseen: how many keys those who taught have not
    seen; later: how many are later than now.
    """

    rows: int
    nulls: int
    nans: int
    zeros: int
    low: float
    high: float
    sums: Sums
    tally: Mapping[float, int] = field(default_factory=dict)
    bins: Mapping[int, int] = field(default_factory=dict)
    unseen: int = 0
    later: int = 0

    @staticmethod
    def of(weights: pl.Series) -> Health:
        """The health of a column of weights, Float64."""
        rows, nulls, nans = len(weights), weights.null_count(), 0
        tally = _tallied(weights, rows - nulls)
        if tally is None and (nans := int(weights.is_nan().sum())):
            tally = _tallied(weights, rows - nulls - nans)
        if tally is not None:
            low, high = min(tally, default=math.inf), max(tally, default=-math.inf)
            return Health(rows, nulls, nans, tally.get(0.0, 0), low + 0.0, high + 0.0, NO_SUMS, tally)
        there = (weights.drop_nulls().drop_nans() if nulls or nans else weights).to_arrow()
        w: Tensor = torch.from_dlpack(there)  # type: ignore[attr-defined]
        low, high = (float(v) for v in w.aminmax())
        zeros = int((weights == 0.0).sum()) if low <= 0 <= high else 0
        sums = _terms(w, max(-low, high))
        return Health(rows, nulls, nans, zeros, low + 0.0, high + 0.0, sums, {}, _binned(w, low))

    def __add__(self, other: Health) -> Health:
        tally = _added(self.tally, other.tally)
        whole = Health(
            self.rows + other.rows,
            self.nulls + other.nulls,
            self.nans + other.nans,
            self.zeros + other.zeros,
            min(self.low, other.low),
            max(self.high, other.high),
            self.sums + other.sums,
            tally,
            _added(self.bins, other.bins),
            self.unseen + other.unseen,
            self.later + other.later,
        )
        return whole if len(tally) <= MOST_TALLIED else whole.settled()

    def settled(self) -> Health:
        """The same, with the tally in the sums: the bits of adding weight by weight."""
        if not self.tally:
            return self
        counts, w = torch.tensor(list(self.tally.values())), torch.tensor(list(self.tally), dtype=torch.float64)
        bins = self.bins
        for weight, count in self.tally.items():
            bins = _added(bins, {_bin(weight): count})
        return replace(self, sums=self.sums + _terms(w, magnitude(w), counts), tally={}, bins=bins)

    def histogram(self) -> list[tuple[float, float, int]]:
        """The bins that hold weights: from, up to but without, and how many. Four for each power of two; 0 is 0.0."""
        bins = self.settled().bins
        return [(_edge(b), _edge(b + 1), bins[b]) for b in sorted(bins)]

    def summary(self) -> dict[str, float | int | None]:
        """The measures; None where they have no value, as of no weights.

        entropy: −Σp·ln p with p = w/Σw, in nats. effective_sample_size: Kish's (Σw)²/Σw².
        """
        n = self.rows - self.nulls - self.nans
        total, squares, logs = self.settled().sums.value().tolist()
        if n and math.isinf(self.high - self.low):
            total = self.low + self.high  # the sums are of the finite weights alone
        positive = n > 0 and self.low >= 0 and 0 < total < math.inf
        return {
            "rows": self.rows,
            "nulls": self.nulls,
            "nans": self.nans,
            "null_fraction": self.nulls / self.rows if self.rows else None,
            "nan_fraction": self.nans / self.rows if self.rows else None,
            "unseen": self.unseen,
            "unseen_fraction": self.unseen / self.rows if self.rows else None,
            "later_than_now": self.later,
            "min": self.low if n else None,
            "mean": total / n if n else None,
            "max": self.high if n else None,
            "sum": total if n else None,
            "zero_share": self.zeros / n if n else None,
            "largest_share": self.high / total if positive else None,
            "entropy": math.log(total) - logs / total if positive else None,
            "effective_sample_size": total * total / squares if squares > 0 and math.isfinite(total) else None,
        }

    def plain(self) -> dict[str, Any]:
        """The state as plain data, for a file's footer."""
        settled = self.settled()
        sums = [settled.sums.top.tolist(), settled.sums.low.tolist(), settled.sums.high.tolist()]
        extents = [v.hex() for v in (self.low, self.high)]
        counts = [self.rows, self.nulls, self.nans, self.zeros, self.unseen, self.later]
        return {"counts": counts, "extents": extents, "sums": sums, "bins": sorted(settled.bins.items())}

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Health:
        """The state that `plain` gave."""
        rows, nulls, nans, zeros, unseen, later = plain["counts"]
        low, high = (float.fromhex(v) for v in plain["extents"])
        sums = Sums(*(torch.tensor(v) for v in plain["sums"]))
        return Health(rows, nulls, nans, zeros, low, high, sums, {}, dict(plain["bins"]), unseen, later)


def _added(a: Mapping[T, int], b: Mapping[T, int]) -> dict[T, int]:
    found = dict(a)
    for what, count in b.items():
        found[what] = found.get(what, 0) + count
    return found


def _edge(bin: int) -> float:
    """Where a bin begins; what lies beyond the infinities is infinite."""
    edge = float(number_of(torch.tensor(bin << COARSE)))
    return edge if not math.isnan(edge) else math.copysign(math.inf, bin)


def _bin(weight: float) -> int:
    return int(key_of(torch.tensor(weight, dtype=torch.float64)) >> COARSE)


def _binned(w: Tensor, low: float) -> dict[int, int]:
    """How many weights lie in each bin: the first bits of numbers that are ordered as the weights are."""
    keys = key_of(w) if low < 0 else (w if low > 0 else w + 0.0).view(torch.int64)  # in which -0.0 is far from 0.0
    bins, first = keys >> COARSE, -BINS // 2 if low < 0 else 0
    counts = torch.bincount(bins - first if first else bins)
    there = counts.nonzero()[:, 0]
    return dict(zip((there + first).tolist(), counts[there].tolist(), strict=True))


def _tallied(weights: pl.Series, many: int) -> dict[float, int] | None:
    """How often each weight is there, if there are but two, as of a gate; Polars counts faster than torch."""
    if not many:
        return {}
    if weights.head(FEW).n_unique() > 4:  # two, null and NaN
        return None
    found = {float(w): int((weights == w).sum()) for w in {weights.min(), weights.max()}}  # type: ignore[arg-type]
    return found if sum(found.values()) == many and not any(map(math.isnan, found)) else None


def _terms(w: Tensor, most: float, counts: Tensor | None = None) -> Sums:
    """Σw, Σw² and Σw·ln w, of those whose squares can be summed; each weight as often as it is there.

    most: the largest of |w|.
    """
    if not most <= SQUARABLE:
        usable = w.abs() <= SQUARABLE
        w, counts = w[usable], None if counts is None else counts[usable]
        most = magnitude(w)
    tops = [top_of(most), top_of(most * most), top_of(most * LOGARITHM)]
    if counts is not None and len(w):
        return Sums.repeated(torch.stack([of(w) for of in TERMS]), counts, torch.tensor(tops))
    blocks = torch.split(w, BLOCK)
    return Sums.beside([Sums.of_blocks(map(of, blocks), top, w.device) for of, top in zip(TERMS, tops, strict=True)])


TERMS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda w: w,
    lambda w: w * w,
    lambda w: w * w.clamp(min=5e-324).log(),
)
NO_SUMS = _terms(torch.empty(0, dtype=torch.float64), 0.0)
NO_WEIGHTS = Health(0, 0, 0, 0, math.inf, -math.inf, NO_SUMS)
