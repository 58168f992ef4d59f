"""What the weights of a column look like: a state that merges like any other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_core.sums import BLOCK, Sums

MEASURES = ("null_fraction", "nan_fraction", "min", "mean", "max", "sum", "zero_share", "largest_share", "entropy",
            "effective_sample_size")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Health:
    """Of some weights: how many rows, nulls, NaN and zeros; extents; Σw, Σw² and Σw·ln w over the finite ones."""

    rows: int
    nulls: int
    nans: int
    zeros: int
    low: float
    high: float
    sums: Sums

    @staticmethod
    def of(weights: Tensor, there: Tensor | None, nan: Tensor | None) -> Health:
        """The health of weights (n,) float64; there: (n,) bool, not null; nan: (n,) bool; None: all, and none."""
        nulls = 0 if there is None else int((~there).sum())
        nans = 0 if nan is None else int(nan.sum())
        ok = there if nan is None else ~nan if there is None else there & ~nan
        values, counts = _two(weights, ok, len(weights) - nulls - nans)
        if counts is None and ok is not None:
            values = weights[ok]
        some = values if counts is None else values[counts > 0]
        low, high = (float(v) for v in some.aminmax()) if len(some) else (math.inf, -math.inf)
        zeros = 0
        total: Sums | None = None
        blocks = torch.split(values, BLOCK) if counts is None else [values]
        for block in blocks:
            zeros += int(((block == 0) if counts is None else counts[block == 0]).sum())
            sums = _terms(block, counts)
            total = sums if total is None else total + sums
        assert total is not None
        return Health(len(weights), nulls, nans, zeros, low + 0.0, high + 0.0, total)

    def __add__(self, other: Health) -> Health:
        return Health(
            self.rows + other.rows,
            self.nulls + other.nulls,
            self.nans + other.nans,
            self.zeros + other.zeros,
            min(self.low, other.low),
            max(self.high, other.high),
            self.sums + other.sums,
        )

    def summary(self) -> dict[str, float | int | None]:
        """The measures; None where they have no value, as of no weights.

        entropy: −Σp·ln p with p = w/Σw, in nats. effective_sample_size: Kish's (Σw)²/Σw².
        """
        n = self.rows - self.nulls - self.nans
        total, squares, logs = self.sums.value().tolist()
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
        sums = [self.sums.top.tolist(), self.sums.low.tolist(), self.sums.high.tolist()]
        extents = [v.hex() for v in (self.low, self.high)]
        return {"counts": [self.rows, self.nulls, self.nans, self.zeros], "extents": extents, "sums": sums}

    @staticmethod
    def from_plain(plain: dict[str, object]) -> Health:
        """The state that `plain` gave."""
        low, high = (float.fromhex(v) for v in plain["extents"])  # type: ignore[attr-defined]
        sums = Sums(*(torch.tensor(v) for v in plain["sums"]))  # type: ignore[attr-defined]
        rows, nulls, nans, zeros = (int(v) for v in plain["counts"])  # type: ignore[attr-defined]
        return Health(rows, nulls, nans, zeros, low, high, sums)


def _two(w: Tensor, ok: Tensor | None, many: int) -> tuple[Tensor, Tensor | None]:
    """The weights; where there are but two of them, as of a gate, these and how often each is there."""
    if not len(w):
        return w, None
    low, high = w.aminmax()
    at_low, at_high = (int((w == v if ok is None else (w == v) & ok).sum()) for v in (low, high))
    if bool(low == high):
        at_low = 0
    if at_low + at_high != many:
        return w, None
    return torch.stack([low, high]), torch.tensor([at_low, at_high])


def _terms(w: Tensor, counts: Tensor | None) -> Sums:
    """Σw, Σw² and Σw·ln w, of those whose squares can be summed; each weight as often as it is there."""
    usable = w.abs() <= 1e150
    if not bool(usable.all()):
        w, counts = w[usable], None if counts is None else counts[usable]
    terms = [w, w * w, w * w.clamp(min=5e-324).log()]
    if counts is None or not len(w):
        return Sums.beside([Sums.of(term, None, 1) for term in terms])
    return Sums.repeated(torch.stack(terms), counts)
