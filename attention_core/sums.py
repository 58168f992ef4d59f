"""A sum whose bits do not depend on how its addends were cut, ordered or merged.

Every addend is cut into pieces of 30 bits that stand at fixed powers of two (multiples of 2^30), and each piece is
added into an int64. A segment keeps the three pieces ("limbs") below the top of its largest addend; to merge is to
align and add. What lies below the third limb is cut off: the error is at most n * 2^-60 of the largest addend, for n
addends. So [1e25, 3.14159, -1e25] gives 3.0, and sums whose terms do not cancel are right to the last bit or so.

After Demmel and Nguyen, "Parallel Reproducible Summation" (IEEE Trans. Comput. 2015), and Neal, "Fast exact summation
using small and large superaccumulators" (2015).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 30
LIMBS = 3
BLOCK = 1 << 16  # rows at once: fits the cache
EXACT = 1 << 22  # so many pieces of 30 bits add up exactly in a float64, which is faster than int64
NONE = -40  # the top of a segment without addends: below that of the smallest subnormal, 2^-1074
_BASE = 2.0**BITS
_MASK = (1 << BITS) - 1


@dataclass(frozen=True, eq=False)
class Sums:
    """The sums of (size,) segments, not rounded yet; of vectors, (size, d) where (size,) is said.

    top: (size,) int64; the segment's limbs stand at 2^(30·(top-1)), 2^(30·(top-2)), 2^(30·(top-3)).
    low, high: (LIMBS, size) int64; a limb is high·2^30 + low with 0 <= low < 2^30. It is never carried into the next
    limb before the value is read: that would show the order of merging.
    """

    top: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(x: Tensor, ids: Tensor | None, size: int, top: int | None = None) -> Sums:
        """Sums x (n,) or (n, d) float64, all finite, by segment. `top`: where |x| < 2^(30·top) is known everywhere."""
        if x.ndim == 2:
            return _of_vectors(x, ids, size, top)
        tops = _tops(x, ids, size) if top is None else torch.tensor([top], device=x.device)
        limbs = _one_segment(x, int(tops)) if ids is None else _by_segment(x, ids, tops, size)
        return Sums(tops if top is None else tops.repeat(size), limbs & _MASK, limbs >> BITS)

    @staticmethod
    def repeated(x: Tensor, counts: Tensor) -> Sums:
        """Sums x (size, m) float64 by row, each number counts (m,) int64 times: the bits of adding them one by one."""
        size, m = x.shape
        x = torch.where(counts > 0, x, 0.0)
        tops = _above(x.abs().amax(1))
        each = torch.arange(size * m, device=x.device)
        one_each = _by_segment(x.reshape(-1), each, tops.repeat_interleave(m), size * m)
        limbs = (one_each.reshape(LIMBS, size, m) * counts).sum(2)
        return Sums(tops, limbs & _MASK, limbs >> BITS)

    @staticmethod
    def beside(sums: Sequence[Sums]) -> Sums:
        """The segments of several sums, one after another."""
        top = torch.cat([s.top for s in sums])
        return Sums(top, torch.cat([s.low for s in sums], 1), torch.cat([s.high for s in sums], 1))

    def __add__(self, other: Sums) -> Sums:
        top = torch.maximum(self.top, other.top)
        a, b = self._aligned(top), other._aligned(top)
        low = a.low + b.low
        return Sums(top, low & _MASK, a.high + b.high + (low >> BITS))

    def spread(self, ids: Tensor, size: int) -> Sums:
        def place(v: Tensor, fill: int) -> Tensor:
            out = torch.full((size, *v.shape[1:]), fill, dtype=v.dtype, device=v.device)
            out[ids] = v
            return out

        def limbs(v: Tensor) -> Tensor:
            return torch.stack([place(limb, 0) for limb in v])

        return Sums(place(self.top, NONE), limbs(self.low), limbs(self.high))

    def value(self) -> Tensor:
        """The sums (size,) float64; beyond the range of float64, ±inf."""
        number, top = self._read()
        return _scaled(number, _powers(top - 1))

    def mean(self, count: Tensor) -> Tensor:
        """The sums over `count` (size,), also where a sum itself is beyond float64; 0 where the count is 0."""
        number, top = self._read()
        return _scaled(number / count.clamp(min=1), _powers(top - 1))

    def _aligned(self, top: Tensor) -> Sums:
        """The same limbs below a higher top; what falls below the last limb is cut off."""
        if torch.equal(top, self.top):
            return self
        down = top - self.top
        low, high = torch.zeros_like(self.low), torch.zeros_like(self.high)
        for i in range(LIMBS):
            for k in range(i, LIMBS):
                here = down == k - i
                low[k] += torch.where(here, self.low[i], 0)
                high[k] += torch.where(here, self.high[i], 0)
        return Sums(top, low, high)

    def _read(self) -> tuple[Tensor, Tensor]:
        """The sums as number · 2^(30·(top-1)): limbs are carried here, when nothing will be merged any more."""
        carry, digits = torch.zeros_like(self.top), []
        for i in reversed(range(LIMBS)):
            limb = self.low[i] + carry
            digits.append(limb & _MASK)
            carry = self.high[i] + (limb >> BITS)
        total, rest = carry.double() * _BASE, torch.zeros_like(self.top, dtype=torch.float64)
        for i, digit in enumerate(reversed(digits)):
            addend = digit.double() * _BASE**-i
            new = total + addend
            over = new - total
            rest = rest + ((total - (new - over)) + (addend - over))
            total = new
        return total + rest, self.top


def _of_vectors(x: Tensor, ids: Tensor | None, size: int, top: int | None) -> Sums:
    """Each component of each segment is a segment of its own."""
    n, d = x.shape
    first = (torch.zeros(n, dtype=torch.int64, device=x.device) if ids is None else ids)[:, None] * d
    flat = Sums.of(x.reshape(-1), (first + torch.arange(d, device=x.device)).reshape(-1), size * d, top)
    return Sums(flat.top.reshape(size, d), *(v.reshape(LIMBS, size, d) for v in (flat.low, flat.high)))


def _tops(x: Tensor, ids: Tensor | None, size: int) -> Tensor:
    """The limb index above each segment's largest addend, (size,) int64."""
    if ids is None:
        largest = torch.stack(x.aminmax()).abs().amax().reshape(1) if x.numel() else x.new_zeros(1)
    else:
        largest = x.new_zeros(size).scatter_reduce_(0, ids, x.abs(), "amax")
    return _above(largest)


def _above(largest: Tensor) -> Tensor:
    exponent = torch.frexp(largest).exponent.to(torch.int64)  # |x| < 2^exponent
    return torch.where(largest > 0, -torch.div(-exponent, BITS, rounding_mode="floor"), NONE)


def _one_segment(x: Tensor, top: int) -> Tensor:
    limbs = [0] * LIMBS
    powers = _powers(torch.tensor([1 - top], device=x.device))
    for block in torch.split(x, BLOCK):
        shares = _scaled(block, powers)
        limbs = [limb + int(piece.sum()) for limb, piece in zip(limbs, _pieces(shares), strict=True)]
    return torch.tensor(limbs, dtype=torch.int64, device=x.device).reshape(LIMBS, 1)


def _by_segment(x: Tensor, ids: Tensor, tops: Tensor, size: int) -> Tensor:
    """tops: (size,), or one for all."""
    limbs = torch.zeros(LIMBS, size, dtype=torch.int64, device=x.device)
    powers = _powers(1 - tops)
    for rows, segments in zip(torch.split(x, EXACT), torch.split(ids, EXACT), strict=True):
        sums = x.new_zeros(LIMBS, size)
        for block, at in zip(torch.split(rows, BLOCK), torch.split(segments, BLOCK), strict=True):
            for limb, piece in zip(sums, _pieces(_scaled(block, powers, at)), strict=True):
                limb.scatter_add_(0, at, piece)
        limbs += sums.to(torch.int64)
    return limbs


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """The whole numbers below 2^30 that stand at 1, 2^-30, 2^-60 in |x| < 2^30, one after another; x is used up.

    Cut off towards zero: to round would carry into the limb above, and show where the top is.
    """
    rest = torch.empty_like(x)
    for _ in range(LIMBS):
        torch.frac(x, out=rest)  # torch.trunc takes seven times as long
        yield x.sub_(rest)
        x, rest = rest.mul_(_BASE), x


def _powers(limb: Tensor) -> tuple[Tensor, ...]:
    """2^(30·limb) as its exact factors: two where it may be beyond float64, and what is multiplied is not."""
    near = limb.clamp(-33, 33)
    parts = (near,) if torch.equal(near, limb) else (near, limb - near)
    return tuple(((part * BITS + 1023) << 52).view(torch.float64) for part in parts)


def _scaled(number: Tensor, powers: tuple[Tensor, ...], at: Tensor | None = None) -> Tensor:
    """The number times these powers, of which one is for all, or those at these places are."""
    for power in powers:
        number = number * (power if at is None or len(power) == 1 else power.index_select(0, at))
    return number
