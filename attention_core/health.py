"""What the weights of a column look like: a state that merges like any other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import polars as pl
import torch
from torch import Tensor

from attention_core.sums import Sums

MEASURES = ("null_fraction", "nan_fraction", "min", "mean", "max", "sum", "zero_share", "largest_share", "entropy",
            "effective_sample_size")  # fmt: skip
MOST_TALLIED = 64


@dataclass(frozen=True, eq=False)
class Health:
    """Of some weights: how many rows, nulls, NaN and zeros; extents; Σw, Σw² and Σw·ln w over the finite ones.

    tally: how often some weights are there that `sums` does not hold yet. A gate gives but two, and to count is cheap.
    """

    rows: int
    nulls: int
    nans: int
    zeros: int
    low: float
    high: float
    sums: Sums
    tally: Mapping[float, int] = field(default_factory=dict)

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
        return Health(rows, nulls, nans, zeros, low + 0.0, high + 0.0, _terms(w, None))

    def __add__(self, other: Health) -> Health:
        tally = dict(self.tally)
        for weight, count in other.tally.items():
            tally[weight] = tally.get(weight, 0) + count
        whole = Health(
            self.rows + other.rows,
            self.nulls + other.nulls,
            self.nans + other.nans,
            self.zeros + other.zeros,
            min(self.low, other.low),
            max(self.high, other.high),
            self.sums + other.sums,
            tally,
        )
        return whole if len(tally) <= MOST_TALLIED else whole.settled()

    def settled(self) -> Health:
        """The same, with the tally in the sums: the bits of adding weight by weight."""
        if not self.tally:
            return self
        counts = torch.tensor(list(self.tally.values()))
        sums = _terms(torch.tensor(list(self.tally), dtype=torch.float64), counts)
        return replace(self, sums=self.sums + sums, tally={})

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
            "min": self.low if n else None,
            "mean": total / n if n else None,
            "max": self.high if n else None,
            "sum": total if n else None,
            "zero_share": self.zeros / n if n else None,
            "largest_share": self.high / total if positive else None,
            "entropy": math.log(total) - logs / total if positive else None,
            "effective_sample_size": total * total / squares if squares > 0 and math.isfinite(total) else None,
        }

    def plain(self) -> dict[str, object]:
        """The state as plain data, for a file's footer."""
        settled = self.settled().sums
        sums = [settled.top.tolist(), settled.low.tolist(), settled.high.tolist()]
        extents = [v.hex() for v in (self.low, self.high)]
        return {"counts": [self.rows, self.nulls, self.nans, self.zeros], "extents": extents, "sums": sums}

    @staticmethod
    def from_plain(plain: dict[str, object]) -> Health:
        """The state that `plain` gave."""
        low, high = (float.fromhex(v) for v in plain["extents"])  # type: ignore[attr-defined]
        sums = Sums(*(torch.tensor(v) for v in plain["sums"]))  # type: ignore[attr-defined]
        rows, nulls, nans, zeros = (int(v) for v in plain["counts"])  # type: ignore[attr-defined]
        return Health(rows, nulls, nans, zeros, low, high, sums)


def _tallied(weights: pl.Series, many: int) -> dict[float, int] | None:
    """How often each weight is there, if there are but two, as of a gate; Polars counts faster than torch."""
    if not many:
        return {}
    found = {float(w): int((weights == w).sum()) for w in {weights.min(), weights.max()}}  # type: ignore[arg-type]
    return found if sum(found.values()) == many and not any(map(math.isnan, found)) else None


def _terms(w: Tensor, counts: Tensor | None) -> Sums:
    """Σw, Σw² and Σw·ln w, of those whose squares can be summed; each weight as often as it is there."""
    if len(w) and not float(w.abs().amax()) <= 1e150:
        usable = w.abs() <= 1e150
        w, counts = w[usable], None if counts is None else counts[usable]
    terms = [w, w * w, w * w.clamp(min=5e-324).log()]
    if counts is None or not len(w):
        return Sums.beside([Sums.of(term, None, 1) for term in terms])
    return Sums.repeated(torch.stack(terms), counts)


NO_SUMS = _terms(torch.empty(0, dtype=torch.float64), None)
NO_WEIGHTS = Health(0, 0, 0, 0, math.inf, -math.inf, NO_SUMS)
