"""Order statistics at any size, exactly and in bounded memory: quantiles, the k largest, the nucleus, as questions.

What is ordered is looked at as whole numbers of the same order, its *keys*. A *bracket* holds the key that each segment
seeks, and histograms narrow it, until the rows inside are few enough to be gathered and sorted. The answer is exact:
how many passes that took, and how fine the histograms were, cannot show in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attention_core.contract import Fit, Question, Rows
from attention_core.errors import DataError
from attention_core.frozen import Frozen
from attention_core.questions import Sum, both, parts
from attention_core.sums import placed

GATHERED = 1 << 22  # so many rows are gathered and sorted, of all segments together
BINS = 1 << 22  # of all segments together
MOST_BINS, FEWEST_BINS = 1 << 16, 16  # of one segment
MOST, LEAST = (1 << 63) - 1, -(1 << 63)  # no number has these keys
WORD = 30  # bits; whole numbers beyond int64 are added as words of this size, the most significant first
NEGATIVE = "top_p needs weights of 0 or more, and one is negative; mask it or clip first"

Words = tuple[Tensor, ...]


def key_of(x: Tensor) -> Tensor:
    """An int64 for each float64, of the same order; −0.0 is 0.0."""
    bits = (x + 0.0).view(torch.int64)
    return bits ^ ((bits >> 63) & MOST)


def number_of(key: Tensor) -> Tensor:
    """The float64 that has this key."""
    return (key ^ ((key >> 63) & MOST)).view(torch.float64)


class Ordered(Frozen):
    """What is ordered."""

    def of(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """The keys (m,) int64 of the rows that take part, and their segments, as `Rows.ids`."""
        raise NotImplementedError


class Number(Ordered):
    """The numbers themselves; descending: the largest first."""

    descending: bool = False

    def of(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        there = rows.present()
        return key_of(-there.x if self.descending else there.x), there.ids


class Distance(Ordered):
    """|x − centre|, with a finite centre (size,) float64 for each segment."""

    centre: Tensor

    def of(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        there = rows.present()
        return key_of((there.x - there.at(self.centre)).abs_()), there.ids


class Position(Ordered):
    """Where the rows stand in dataset order, of those alone whose key among others is `at` (size,) int64."""

    among: Ordered
    at: Tensor

    def of(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        there = rows.present()
        keys, ids = self.among.of(there)
        tied = keys == there.at(self.at)
        positions = torch.masked_select(there.position(), tied)
        return positions, None if ids is None else torch.masked_select(ids, tied)


class Bracket(Frozen):
    """Where the key that each segment seeks must lie: low <= key <= high, (size,) int64 each."""

    what: Ordered
    low: Tensor
    high: Tensor

    def shift(self, bins: int) -> Tensor:
        """The least (size,) int64 with (high >> shift) − (low >> shift) < bins."""
        apart = self.high - self.low
        shift = ((apart < 0) | (apart >= bins)).to(torch.int64)  # below 0: beyond int64
        for s in range(1, 64):
            wide = (self.high >> s) - (self.low >> s) >= bins
            shift = torch.where(wide, s + 1, shift)
        return shift

    def wide(self) -> Tensor:
        """Where more than one key is left, (size,) bool."""
        return self.low < self.high


class Grain(Frozen):
    """Weights as whole numbers below 2^60, so that they add up exactly: w < 2^exponent, (size,) int64.

    What is below 2^-60 of a segment's largest weight is cut off.
    """

    exponent: Tensor

    def words(self, keys: Tensor, ids: Tensor | None) -> Words:
        """Weights by their keys, descending, as two words each."""
        first, second = (p if ids is None else p.index_select(0, ids) for p in self._powers())
        whole = (number_of(keys).abs_() * first * second).to(torch.int64)
        return whole >> WORD, whole & ((1 << WORD) - 1)

    def scaled(self, x: Tensor) -> Tensor:
        """x (size,) float64 in units of the whole numbers."""
        first, second = self._powers()
        return x * first * second

    def _powers(self) -> tuple[Tensor, Tensor]:
        """2^(60 − exponent) as two factors, since it may be beyond float64."""
        power = 2 * WORD - self.exponent
        return _power_of_two(power >> 1), _power_of_two(power - (power >> 1))


@dataclass(frozen=True, eq=False)
class Spans:
    """How many rows, the least and the greatest of their keys: (size,) int64 each; MOST and LEAST where none is."""

    n: Tensor
    low: Tensor
    high: Tensor

    def __add__(self, other: Spans) -> Spans:
        return Spans(self.n + other.n, torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))

    def spread(self, ids: Tensor, size: int) -> Spans:
        return Spans(
            placed(self.n, ids, size, 0), placed(self.low, ids, size, MOST), placed(self.high, ids, size, LEAST)
        )


@dataclass(frozen=True, eq=False)
class Tallies:
    """How many rows are in each bin of each segment, (size, bins) int64; what they weigh, in words that are not carried
    before they are read; no words where all weigh 1."""

    n: Tensor
    words: Words

    def __add__(self, other: Tallies) -> Tallies:
        return Tallies(self.n + other.n, tuple(a + b for a, b in zip(self.words, other.words, strict=True)))

    def spread(self, ids: Tensor, size: int) -> Tallies:
        return Tallies(placed(self.n, ids, size, 0), tuple(placed(w, ids, size, 0) for w in self.words))


@dataclass(frozen=True, eq=False)
class Gathered:
    """Keys and their segments in pieces, (m,) int64 each. They are sorted once, when read: sorting at every merge would
    sort the first rows as often as there are chunks."""

    keys: tuple[Tensor, ...]
    ids: tuple[Tensor, ...]

    def __add__(self, other: Gathered) -> Gathered:
        return Gathered(self.keys + other.keys, self.ids + other.ids)

    def spread(self, ids: Tensor, size: int) -> Gathered:
        return Gathered(self.keys, tuple(ids[own] for own in self.ids))

    def sorted(self) -> tuple[Tensor, Tensor]:
        """All keys and their segments, by segment and then by key."""
        keys, by_key = torch.cat(self.keys).sort(stable=True)
        ids, by_segment = torch.cat(self.ids)[by_key].sort(stable=True)
        return keys[by_segment], ids


class Span(Question[Spans]):
    """How many keys there are, the least and the greatest; of those above the bracket alone, where one is given."""

    what: Ordered
    above: Tensor | None = None

    def of(self, rows: Rows) -> Spans:
        keys, ids = self.what.of(rows)
        if self.above is not None:
            beyond = keys > _at(self.above, ids)
            keys, ids = torch.masked_select(keys, beyond), None if ids is None else torch.masked_select(ids, beyond)
        n, low, high = (torch.full((rows.size,), v, device=keys.device) for v in (0, MOST, LEAST))
        if ids is not None:
            n = torch.bincount(ids, minlength=rows.size)
            low, high = low.scatter_reduce_(0, ids, keys, "amin"), high.scatter_reduce_(0, ids, keys, "amax")
        elif keys.numel():
            n, (low, high) = n + len(keys), (v.reshape(1) for v in keys.aminmax())
        return Spans(n, low, high)


class Histogram(Question[Tallies]):
    """How many keys lie in each of `bins` equal parts of the bracket, and what they weigh.

    shift: (size,) int64, as `Bracket.shift` says; with a grain, what is ordered are weights, descending.
    """

    bracket: Bracket
    bins: int
    shift: Tensor
    grain: Grain | None

    def of(self, rows: Rows) -> Tallies:
        keys, ids = self.bracket.what.of(rows)
        many = rows.size * self.bins
        place = (keys >> _at(self.shift, ids)) - _at(self.bracket.low >> self.shift, ids)
        place = place if ids is None else place.add_(ids, alpha=self.bins)
        place = torch.where(_inside(self.bracket, keys, ids), place, many)  # those outside go to a bin of their own
        n = torch.bincount(place, minlength=many + 1)
        words = () if self.grain is None else self.grain.words(keys, ids)
        sums = (torch.zeros_like(n).scatter_add_(0, place, word) for word in words)
        return Tallies(n[:-1].reshape(-1, self.bins), tuple(s[:-1].reshape(-1, self.bins) for s in sums))


class Gather(Question[Gathered]):
    """The keys inside the brackets that hold more than one."""

    bracket: Bracket

    def of(self, rows: Rows) -> Gathered:
        keys, ids = self.bracket.what.of(rows)
        wanted = _inside(self.bracket, keys, ids) & _at(self.bracket.wide(), ids)
        found = torch.masked_select(keys, wanted)
        return Gathered((found,), (torch.zeros_like(found) if ids is None else torch.masked_select(ids, wanted),))


NOTHING = Gathered((torch.empty(0, dtype=torch.int64),), (torch.empty(0, dtype=torch.int64),))


@dataclass(frozen=True, eq=False)
class Found:
    """What was sought in each segment.

    key: (size,) int64, the first at which the rows up to it weigh what was wanted.
    left: what was wanted, less what the rows before that key weigh.
    equal: (size,) int64, how many rows have that key; after: the next greater key in the bracket, MOST where none is.
    """

    key: Tensor
    left: Words
    equal: Tensor
    after: Tensor


@dataclass(frozen=True, eq=False)
class Sought:
    """A search: in each segment, the first key at which the rows up to it weigh what is wanted.

    inside: (size,) int64, how many rows lie in the bracket; wanted: of their weight alone; grain: None where all
    rows weigh 1.
    """

    bracket: Bracket
    inside: Tensor
    wanted: Words
    grain: Grain | None = None

    def many(self) -> int:
        """How many rows are still to be told apart."""
        return int(torch.where(self.bracket.wide(), self.inside, 0).sum())

    def narrowed(self, tallies: Tallies, shift: Tensor) -> Sought:
        """The same search in the one bin of each segment that holds the key."""
        bracket = self.bracket
        words = tallies.words or (tallies.n,)
        up_to = tuple(w.cumsum(1) for w in words)
        short = ~_at_least(_carried(up_to), tuple(w[:, None] for w in self.wanted))
        last = (bracket.high >> shift) - (bracket.low >> shift)  # has the greatest key: where rounding wants too much
        bin = torch.minimum(short.sum(1), last)[:, None]
        before = tuple((u.gather(1, bin) - w.gather(1, bin))[:, 0] for u, w in zip(up_to, words, strict=True))
        start = ((bracket.low >> shift) + bin[:, 0]) << shift
        end = start + ((torch.ones_like(shift) << shift) - 1)
        low, high = torch.maximum(bracket.low, start), torch.minimum(bracket.high, end)
        inside = tallies.n.gather(1, bin)[:, 0]
        return Sought(Bracket(what=bracket.what, low=low, high=high), inside, _less(self.wanted, before), self.grain)

    def found(self, gathered: Gathered) -> Found:
        """The end of the search, among the keys of the brackets that hold more than one."""
        bracket, (keys, ids) = self.bracket, gathered.sorted()
        if not len(keys):
            return Found(bracket.low, self.wanted, self.inside, torch.full_like(bracket.low, MOST))
        wide, size = bracket.wide(), len(bracket.low)
        n = torch.where(wide, self.inside, 0)
        first = n.cumsum(0) - n
        words = (torch.ones_like(keys),) if self.grain is None else self.grain.words(keys, ids)
        sums = tuple(torch.cat([w.new_zeros(1), w.cumsum(0)]) for w in words)
        up_to = tuple(s[1:] - s[first][ids] for s in sums)
        short = ~_at_least(_carried(up_to), tuple(w[ids] for w in self.wanted))
        place = first + torch.minimum(torch.bincount(ids[short], minlength=size), n - 1).clamp(min=0)
        key = torch.where(wide, keys[place.clamp(max=len(keys) - 1)], bracket.low)
        before = torch.bincount(ids[keys < key[ids]], minlength=size)
        equal = torch.where(wide, torch.bincount(ids[keys == key[ids]], minlength=size), self.inside)
        left = _less(self.wanted, tuple(s[first + before] - s[first] for s in sums))
        there = wide & (before + equal < n)
        after = torch.where(there, keys[torch.where(there, first + before + equal, 0)], MOST)
        return Found(key, left, equal, after)


def search(sought: Sought) -> Generator[Question[Any], Any, Sought]:
    """Narrows the bracket until the rows in it can be gathered: one pass for each factor of `bins` in its width, none
    where they are few from the start. Of 10 M numbers in one segment, usually one."""
    each = BINS // max(len(sought.inside), 1)
    bins = max(FEWEST_BINS, min(MOST_BINS, 1 << each.bit_length() >> 1))
    while sought.many() > GATHERED:
        shift = sought.bracket.shift(bins)
        ask = Histogram(bracket=sought.bracket, bins=bins, shift=shift, grain=sought.grain)
        sought = sought.narrowed((yield ask), shift)
    return sought


def found(sought: Sought) -> Generator[Question[Any], Any, Found]:
    """The end of a search: its narrowing, and one pass to gather, unless each bracket holds one key."""
    sought = yield from search(sought)
    return sought.found((yield Gather(bracket=sought.bracket)) if sought.many() else NOTHING)


def quantile(q: float, centre: Tensor | None = None) -> Fit[Tensor]:
    """The quantile of each segment's numbers, or of their distances from a finite centre: (size,) float64; 0 of none.

    Type 7 of Hyndman and Fan (1996), as NumPy's default. An infinite number is itself where the quantile falls on it;
    between it and another, it is the largest finite number, so that it stays beyond the quantile.
    Two passes where all rows can be gathered; else three or more.
    """
    what = Number() if centre is None else Distance(centre=centre)
    return (yield from _quantile(q, what, (yield Span(what=what))))


def median_and_deviation(refused: str) -> Fit[tuple[Tensor, Tensor]]:
    """The median and the median absolute deviation from it, (size,) float64 each; 0 of none.

    Three passes where all rows can be gathered; else five or more. The distances need no pass to find their span.

    Raises:
        DataError: saying what is refused, where a median or a deviation is infinite.
    """
    span = yield Span(what=Number())
    median = yield from _quantile(0.5, Number(), span)
    _refuse_infinite(median, refused)
    low, high = (torch.where(span.n > 0, number_of(key), 0.0) for key in (span.low, span.high))
    farthest = key_of(torch.maximum(high - median, median - low))
    distances = Spans(span.n, torch.zeros_like(farthest), farthest)
    deviation = yield from _quantile(0.5, Distance(centre=median), distances)
    _refuse_infinite(deviation, refused)
    return median, deviation


def _refuse_infinite(x: Tensor, refused: str) -> None:
    if not bool(torch.isfinite(x).all()):
        raise DataError(refused)


def _quantile(q: float, what: Ordered, span: Spans) -> Fit[Tensor]:
    rank = (span.n - 1).clamp(min=0).double() * q
    lower = rank.floor()
    part = rank - lower
    sought = yield from search(Sought(_spanned(what, span), span.n, (lower.to(torch.int64) + 1,)))
    ask = Span(what=what, above=sought.bracket.high)
    if sought.many():
        gathered, beyond = parts((yield both(Gather(bracket=sought.bracket), ask)))
        at, after = sought.found(gathered), beyond.low
    else:  # the next number is wanted only where it is another one, and lies above the one in the bracket
        at = sought.found(NOTHING)
        another = bool(((at.left[0] >= at.equal) & (part > 0)).any())
        after = (yield ask).low if another else at.after
    after = torch.where(at.left[0] < at.equal, at.key, torch.minimum(at.after, after))
    low = number_of(at.key)
    return torch.where(span.n > 0, _between(low, torch.where(part > 0, number_of(after), low), part), 0.0)


def _between(a: Tensor, b: Tensor, part: Tensor) -> Tensor:
    """a + (b − a)·part for a <= b, to NumPy's bits."""
    most = torch.finfo(torch.float64).max
    same, a, b = torch.where(a == b, a, math.nan), a.clamp(-most, most), b.clamp(-most, most)
    far = b - a
    between = torch.where(part < 0.5, a + far * part, b - far * (1 - part))
    between = torch.where(torch.isfinite(far), between, a * (1 - part) + b * part)
    return torch.where(same.isnan(), torch.where(part > 0, between, a), same)


class Cut(Frozen):
    """Which rows of each segment are within: those beyond a number, and those on it up to a position.

    value: (size,) float64. last: (size,) int64, the position of the last row on the cut that is within; MOST: all are.
    largest: beyond is above; else below.
    """

    value: Tensor
    last: Tensor
    largest: bool = True

    def seen_from(self, first: int, rows: int) -> Cut:
        """The same for so many rows from a position on, whatever stands before and after them."""
        last = torch.where(self.last < MOST, (self.last - first).clamp(-1, rows), MOST)
        return self.model_copy(update={"last": last})

    def within(self, rows: Rows) -> Tensor:
        """(n,) bool."""
        cut = rows.at(self.value)
        tied = rows.x == cut
        if bool((self.last < MOST).any()):
            tied = tied & (rows.position() <= rows.at(self.last))
        if rows.taught is not None:
            tied = tied & rows.taught  # who did not teach has no place among equals
        return tied | (rows.x > cut if self.largest else rows.x < cut)


def top(many: Callable[[Tensor], Tensor], largest: bool = True) -> Fit[Cut]:
    """The largest or smallest numbers of each segment, exactly as many as `many` makes of their count, (size,) int64;
    all where there are fewer. Of equal ones the earlier rows.

    Two passes where all rows can be gathered, else three or more; and where equal numbers straddle the cut, one more
    for their positions, or three or more where those cannot be gathered.
    """
    what = Number(descending=largest)
    span = yield Span(what=what)
    wanted = torch.minimum(many(span.n), span.n)
    at = yield from found(Sought(_spanned(what, span), span.n, (wanted,)))
    return (yield from _cut(at, at.left[0], what))


def nucleus(p: float) -> Fit[Cut]:
    """The fewest of each segment's largest numbers whose sum is at least p times the sum of all, to float64's last bit;
    of equal ones the earlier rows. p = 1 keeps all.

    The passes of `top`; one where p = 1.

    Raises:
        DataError: for a number that is negative or infinite.
    """
    what = Number(descending=True)
    span, total = parts((yield both(Span(what=what), Sum())))
    if bool((span.high > 0).any()):
        raise DataError(NEGATIVE)
    if p == 1:
        return Cut(value=torch.where(span.n > 0, -number_of(span.high), 0.0) + 0.0, last=torch.full_like(span.n, MOST))
    bracket = _spanned(what, span)
    grain = Grain(exponent=torch.frexp(number_of(bracket.low).abs()).exponent.to(torch.int64))
    sum_of = total.value()
    sum_of = torch.where(torch.isinf(sum_of), grain.scaled(total.mean(span.n)) * span.n, grain.scaled(sum_of))
    wanted = torch.nextafter(p * sum_of, torch.zeros_like(sum_of))
    high = (wanted * 2.0**-WORD).floor()
    words = high.to(torch.int64), (wanted - high * 2.0**WORD).ceil().to(torch.int64)
    at = yield from found(Sought(bracket, span.n, _carried(words), grain))
    each = grain.words(at.key, torch.arange(len(at.key), device=at.key.device))
    return (yield from _cut(at, _times(at.left, each, at.equal), what))


def _times(left: Words, each: Words, most: Tensor) -> Tensor:
    """How many of equal rows weigh what is left, (size,) int64, from 1 to `most`; all of those that weigh nothing."""
    whole, unit = (a.double() * 2.0**WORD + b.double() for a, b in (left, each))
    times = (whole / unit.clamp(min=1)).floor().to(torch.int64) - 1  # of less than 2^33 rows: at most one less
    for _ in range(3):
        times = times + ~_at_least(_carried(tuple(w * times for w in each)), left) * (unit > 0)
    return torch.where(unit > 0, torch.minimum(times.clamp(min=1), most), most)


def _cut(at: Found, within: Tensor, what: Number) -> Fit[Cut]:
    """The cut at a key, with so many of the rows that have it within, the earlier ones."""
    split = within < at.equal
    last = torch.full_like(at.key, MOST)
    if bool(split.any()):
        positions = Position(among=what, at=torch.where(split, at.key, MOST))
        ties = torch.where(split, at.equal, 0)
        anywhere = Bracket(what=positions, low=torch.zeros_like(last), high=torch.where(split, MOST, 0))
        few = int(ties.sum()) <= GATHERED
        bracket = anywhere if few else _spanned(positions, (yield Span(what=positions)))
        last = torch.where(split, (yield from found(Sought(bracket, ties, (within,)))).key, MOST)
    value = number_of(at.key)
    return Cut(value=(-value if what.descending else value) + 0.0, last=last, largest=what.descending)


def _spanned(what: Ordered, span: Spans) -> Bracket:
    """The bracket that holds all keys; of a segment without any, the key 0."""
    low, high = (torch.where(span.n > 0, key, 0) for key in (span.low, span.high))
    return Bracket(what=what, low=low, high=high)


def _inside(bracket: Bracket, keys: Tensor, ids: Tensor | None) -> Tensor:
    return (keys >= _at(bracket.low, ids)) & (keys <= _at(bracket.high, ids))


def _at(known: Tensor, ids: Tensor | None) -> Tensor:
    return known if ids is None else known.index_select(0, ids)


def _carried(words: Words) -> Words:
    """The same whole numbers, with all words but the first in [0, 2^30)."""
    if len(words) == 1:
        return words
    high, low = words
    return high + (low >> WORD), low & ((1 << WORD) - 1)


def _less(a: Words, b: Words) -> Words:
    return _carried(tuple(x - y for x, y in zip(a, b, strict=True)))


def _at_least(a: Words, b: Words) -> Tensor:
    """Where a >= b, both carried."""
    if len(a) == 1:
        return a[0] >= b[0]
    return (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] >= b[1]))


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent, in the normal range."""
    return ((exponent + 1023) << 52).view(torch.float64)
