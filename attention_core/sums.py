"""A sum whose bits do not depend on how its addends were cut, ordered or merged.

Every addend is cut into pieces of 30 bits that stand at fixed powers of two (multiples of 2^30), and each piece is
added into an int64. A segment keeps the three pieces ("limbs") below the top of its largest addend; to merge is to
align and add. What lies below the third limb is cut off: the error is at most n * 2^-60 of the largest addend, for n
addends. So [1e25, 3.14159, -1e25] gives 3.0, and sums whose terms do not cancel are right to the last bit or so.

After Demmel and Nguyen, "Parallel Reproducible Summation" (IEEE Trans. Comput. 2015), and Neal, "Fast exact summation
using small and large superaccumulators" (2015).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 30
LIMBS = 3
BLOCK = 1 << 16  # rows at once: fits the cache
BLOCKS = 2  # of so many numbers, for vectors: each operation waits for Python's lock
STRIPES = 32  # of the segments that several threads add to, each one thread's at a time
EXACT = 1 << 22  # so many pieces of 30 bits add up exactly in a float64, which is faster than int64
LOWEST = -33  # the top of a segment without addends: its limbs reach down to 2^-1080, below all that float64 has
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
    def of(x: Tensor, ids: Tensor | None, size: int, top: int | Tensor | None = None) -> Sums:
        """Sums x (n,) or (n, d) float64, all finite, by segment.

        top: where |x| < 2^(30·top) is known, everywhere or of each segment (size,).
        """
        if ids is None and x.ndim == 1:
            top = top_of(magnitude(x)) if top is None else int(top)
            return Sums.of_blocks(torch.split(x, BLOCK), top, x.device)
        ids = torch.zeros(len(x), dtype=torch.int64, device=x.device) if ids is None else ids
        if len(x) > EXACT:
            half = len(x) // 2
            return Sums.of(x[:half], ids[:half], size, top) + Sums.of(x[half:], ids[half:], size, top)
        shape = (size, *x.shape[1:])
        if top is None:
            largest = torch.zeros(shape, dtype=torch.float64, device=x.device)
            top = tops_of(largest.scatter_reduce_(0, _beside(ids, x), x.abs(), "amax"))
        adding = Adding(shape, x.device, torch.full(shape, top, device=x.device) if isinstance(top, int) else top)
        adding.add(x, ids)
        return adding.sums()

    @staticmethod
    def of_blocks(blocks: Iterable[Tensor], top: int, device: torch.device) -> Sums:
        """Sums the numbers of all blocks (n,) float64 as one segment, where |x| < 2^(30·top); what is made of rows as
        it is asked for need not leave the cache.
        """
        limbs, power = [0] * LIMBS, float(_power(torch.tensor(1 - top)))
        for block in blocks:
            limbs = [limb + int(piece.sum()) for limb, piece in zip(limbs, _pieces(block * power), strict=True)]
        return _split(*(torch.tensor(v, device=device) for v in ([top], [[limb] for limb in limbs])))

    @staticmethod
    def repeated(x: Tensor, counts: Tensor, tops: Tensor | None = None) -> Sums:
        """Sums x (size, m) float64 by row, each number counts (m,) int64 times: the bits of adding them one by one."""
        size, m = x.shape
        x = torch.where(counts > 0, x, 0.0)
        tops = tops_of(x.abs().amax(1)) if tops is None else tops
        one_each = Adding((size * m,), x.device, tops.repeat_interleave(m))
        one_each.add(x.reshape(-1), torch.arange(size * m, device=x.device))
        return _split(tops, (one_each.limbs().reshape(LIMBS, size, m) * counts).sum(2))

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

    def part(self, rows: slice) -> Sums:
        """Some of the segments."""
        return Sums(self.top[rows], self.low[:, rows], self.high[:, rows])

    def spread(self, ids: Tensor, size: int) -> Sums:
        limbs = (torch.stack([placed(limb, ids, size, 0) for limb in v]) for v in (self.low, self.high))
        return Sums(placed(self.top, ids, size, LOWEST), *limbs)

    @property
    def shape(self) -> torch.Size:
        return self.top.shape

    def value(self) -> Tensor:
        """The sums (size,) float64; beyond the range of float64, ±inf."""
        return torch.cat([s._read() * _power(s.top - 1) for s in self._blocks()]).reshape(self.shape)

    def mean(self, count: Tensor) -> Tensor:
        """The sums over `count` (size,), also where a sum itself is beyond float64; 0 where the count is 0."""
        return self._read() / count.clamp(min=1) * _power(self.top - 1)

    def _blocks(self) -> list[Sums]:
        """The same, one dimension, in parts that fit the cache."""
        top, low, high = self.top.reshape(-1), self.low.reshape(LIMBS, -1), self.high.reshape(LIMBS, -1)
        parts = zip(torch.split(top, BLOCK), torch.split(low, BLOCK, 1), torch.split(high, BLOCK, 1), strict=True)
        return [Sums(*part) for part in parts]

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

    def _read(self) -> Tensor:
        """The sums in units of 2^(30·(top-1)): limbs are carried here, when nothing will be merged any more."""
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
        return total + rest


class Adding:
    """Adds rows to the sums of (size,) or (size, d) segments as they come, without a state for each chunk of them.

    Vectors are taken segment by segment, so that a segment's limbs are fetched from memory once for all its rows.
    Several threads may add at once. tops: where they are known beforehand, of all rows that will come, EXACT at most.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device, tops: Tensor | None = None) -> None:
        self.known = tops is not None
        self.tops = torch.full(shape, LOWEST, dtype=torch.int8, device=device) if tops is None else tops
        self.scales = _exponent(1 - self.tops.to(torch.int16))  # by which addends are multiplied, to be cut at 1
        self.open = torch.zeros(LIMBS, *shape, dtype=torch.float64, device=device)
        self.met = torch.full(shape[:1], self.known, device=device)  # the segments whose tops are known
        self.rows = torch.zeros(shape[:1], dtype=torch.int64, device=device)  # of each segment, that `open` holds
        self.unmet = not self.known  # whether there may be others
        self.raised = 0  # how often tops have changed
        self.done: Sums | None = None
        self.locks = [threading.Lock() for _ in range(STRIPES)]  # each of some of the segments, in order

    def add(self, x: Tensor, ids: Tensor, weight: Tensor | None = None) -> None:
        """x (n,) or (n, d), times weight (n,), to the segments ids (n,) int64.

        Raises:
            OverflowError: where a product is not finite.
        """
        for rows in ranges(len(x), BLOCK) if x.ndim == 1 else torch.split(ids.argsort(), block_of(x, BLOCKS)):
            at, addends = ids[rows], x[rows] if x.ndim == 1 else x.index_select(0, rows)  # type: ignore[arg-type]
            addends = addends.double()
            if weight is not None and x.ndim == 1:
                addends = addends * weight[rows]
            elif weight is not None:
                addends.mul_(weight[rows, None])  # its own memory: it was gathered
            while not self._added(addends, at):
                pass

    @contextmanager
    def _alone(self, ids: Tensor | None = None) -> Iterator[None]:
        """Nobody else changes anything of these segments, which are sorted; None: of any."""
        locks = self.locks
        if ids is not None:
            first, last = (int(at) * STRIPES // len(self.tops) for at in (ids[0], ids[-1]))
            locks = locks[first : last + 1]
        with ExitStack() as held:
            for lock in locks:
                held.enter_context(lock)
            yield

    def _has_room(self, ids: Tensor) -> bool:
        """Whether rows of these segments, which are counted then, still add up exactly with what is open."""
        if self.known:
            return True
        if int(self.rows.index_select(0, ids).amax()) + len(ids) > EXACT:
            return False
        self.rows.scatter_add_(0, ids, torch.ones_like(ids))
        return True

    def _close(self) -> None:
        """Makes room."""
        self.done = self.sums()
        self.open.zero_()
        self.rows.zero_()

    def _added(self, x: Tensor, ids: Tensor) -> bool:
        """Whether these rows are added; not where they must be cut into pieces anew, or there was no room."""
        if not x.numel():
            return True
        mine = ids if x.ndim > 1 else None
        if self.unmet:
            with self._alone(mine):
                self._meet(x, ids)
        raised, where = self.raised, _beside(ids, x)
        shares = _power_of(self.scales.index_select(0, ids)).mul_(x)
        if not self.known and not magnitude(shares) < _BASE:
            if not math.isfinite(magnitude(x)):
                raise OverflowError
            with self._alone():
                if raised == self.raised:
                    self._raise(x, ids, shares)
                    self.raised += 1  # last: who has seen it has seen the new tops
            return False
        pieces = list(_pieces(shares, keep=True))
        with self._alone(mine):
            if raised != self.raised:
                return False
            if self._has_room(ids):
                for limb, piece in zip(self.open, pieces, strict=True):
                    limb.scatter_add_(0, where, piece)
                return True
        with self._alone():
            self._close()
        return False

    def _meet(self, x: Tensor, ids: Tensor) -> None:
        """Takes the tops of segments that have no rows yet from one of these; the others may raise them."""
        new = ~self.met.index_select(0, ids)
        if bool(new.any()):
            at = ids[new]
            self.tops[at] = tops_of(x[new].abs()).to(torch.int8)
            self.scales[at] = _exponent(1 - self.tops[at].to(torch.int16))
            self.met[at] = True
            if bool(self.met.all()):
                self.unmet = False

    def _raise(self, x: Tensor, ids: Tensor, shares: Tensor) -> None:
        """Lets the limbs of the segments that these addends have outgrown, by these shares, stand higher."""
        over = (shares.abs() >= _BASE).nonzero(as_tuple=True)
        entries = ids[over[0]] if x.ndim == 1 else ids[over[0]] * math.prod(x.shape[1:]) + over[1]
        at, mine = torch.unique(entries, return_inverse=True)
        new = tops_of(x.new_zeros(len(at)).scatter_reduce_(0, mine, x[over].abs(), "amax"))
        tops, limbs = self.tops.reshape(-1), self.open.reshape(LIMBS, -1)
        down, old = new - tops[at], limbs[:, at]  # int64, as `new`
        for k in range(LIMBS):
            limbs[k, at] = sum((torch.where(down == k - i, old[i], 0.0) for i in range(k)), torch.zeros_like(old[0]))
        tops[at] = new.to(tops.dtype)
        self.scales.reshape(-1)[at] = _exponent(1 - new).to(torch.int16)

    @property
    def shape(self) -> torch.Size:
        return self.tops.shape

    def limbs(self) -> Tensor:
        """The limbs (LIMBS, size) int64 of the rows that are not done."""
        return self.open.to(torch.int64)

    def sums(self) -> Sums:
        """The sums of all rows so far."""
        return self.part(slice(None))

    def part(self, rows: slice) -> Sums:
        """Of some of the segments."""
        here = _split(self.tops[rows].to(torch.int64, copy=True), self.open[:, rows].to(torch.int64))
        return here if self.done is None else self.done.part(rows) + here


def placed(values: Tensor, ids: Tensor, size: int, fill: float) -> Tensor:
    """The values (m, ...) of these segments at their places among `size`, and `fill` at the others."""
    out = torch.full((size, *values.shape[1:]), fill, dtype=values.dtype, device=values.device)
    out[ids] = values
    return out


def _split(tops: Tensor, limbs: Tensor) -> Sums:
    return Sums(tops, limbs & _MASK, limbs >> BITS)


def magnitude(x: Tensor) -> float:
    """The largest of |x|; 0 of nothing."""
    return float(torch.stack(x.aminmax()).abs().amax()) if x.numel() else 0.0


def ranges(n: int, block: int) -> Iterator[slice]:
    """All of n rows, so many at a time."""
    return (slice(start, start + block) for start in range(0, n, block))


def block_of(x: Tensor | Sums | Adding, blocks: int = 1) -> int:
    """How many rows of it are as many numbers as so many blocks."""
    return max(1, blocks * BLOCK // max(1, math.prod(x.shape[1:])))


def _beside(ids: Tensor, x: Tensor) -> Tensor:
    """The segment of each number of x: a vector's components are all in its row's."""
    return ids if x.ndim == 1 else ids[:, None].expand_as(x)


def top_of(largest: float) -> int:
    """The top of a segment whose numbers are no larger than this."""
    return int(tops_of(torch.tensor(largest, dtype=torch.float64)))


def tops_of(largest: Tensor) -> Tensor:
    """The tops (size,) int64 of segments whose numbers are no larger than these (size,) float64, none below 0."""
    exponent = (largest.contiguous().view(torch.int64) >> 52).double().sub_(1022)  # |x| < 2^exponent
    return exponent.div_(BITS).ceil_().clamp_(min=LOWEST).long()


def _pieces(x: Tensor, *, keep: bool = False) -> Iterator[Tensor]:
    """The whole numbers below 2^30 that stand at 1, 2^-30, 2^-60 in |x| < 2^30, one after another; x is used up.

    Cut off towards zero: to round would carry into the limb above, and show where the top is.
    keep: each in memory of its own, rather than until the next is asked for.
    """
    rest = torch.empty_like(x)
    for limb in range(LIMBS):
        torch.frac(x, out=rest)  # torch.trunc takes seven times as long
        yield x.sub_(rest)
        if limb < LIMBS - 1:
            x, rest = rest.mul_(_BASE), torch.empty_like(x) if keep else x


def _exponent(limb: Tensor) -> Tensor:
    """The biased exponent of 2^(30·limb) as a float64: tops of -33 to 35 keep it within the range."""
    return limb * BITS + 1023


def _power_of(exponent: Tensor) -> Tensor:
    """The float64 that has this biased exponent, exactly."""
    return exponent.to(torch.int64).bitwise_left_shift_(52).view(torch.float64)


def _power(limb: Tensor) -> Tensor:
    """2^(30·limb), exactly."""
    return _power_of(_exponent(limb))
