"""Pictures of weights: matplotlib draws them as SVG, and their colours are named, so that a page is light or dark.

Two hues of Okabe and Ito's palette, which colour-blind people tell apart; and each has a shape of its own as well.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from html import escape
from itertools import groupby
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from flows.summary import number, printable, shortened

Bins = Sequence[tuple[float, float, int]]  # from, up to but without, how many weights

INK, GRID, FIRST, SECOND = "#010203", "#020304", "#030405", "#040506"  # stand for the names below
NAMED = {INK: "var(--ink)", GRID: "var(--grid)", FIRST: "var(--first)", SECOND: "var(--second)"}
EITHER = {INK: "#808890", GRID: "#8088904d", FIRST: "#2b8cc4", SECOND: "#d55e00"}  # on light and dark ground alike
WIDE, HIGH = 3.9, 2.2  # inches; a phone shows such a picture a little larger than it is drawn
MOST_BARS, MOST_OF_SMALL = 44, 22
MOST_POINTS = 400
RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "farol",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "text.parse_math": False,  # a dollar in a name is one
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.formatter.use_mathtext": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.unicode_minus": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


def distribution(bins: Bins, low: float, high: float, mean: float | None) -> str:
    """The share of the weights in each bin; bins are as wide as each other, so that small weights are seen too."""
    return _drawn(lambda figure: _distribution(figure, bins, low, high, mean))


def small(bins: Bins, low: float, high: float) -> str:
    """The distribution as a small picture that stands alone, as the address of an image."""
    svg = _drawn(lambda figure: _distribution(figure, bins, low, high, None, MOST_OF_SMALL), 3.0, 1.3, EITHER)
    return "data:image/svg+xml;base64," + b64encode(svg.encode()).decode()


def scores(points: Sequence[tuple[float, float]], label: str) -> str:
    """The weight of each score; points that would lie on each other are one."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        found = _apart(points)
        size = 6.0 if len(found) < 20 else 2.8
        axes.plot(*zip(*found, strict=True), "o", color=FIRST, markersize=size, markeredgewidth=0)
        weights = [w for _, w in found]
        if min(weights) > 0 and max(weights) > 1000 * min(weights):
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.06)
        _plain(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        _plain(axes.xaxis)
        axes.set_xlabel(shortened(label, 36))
        axes.set_ylabel("weight")

    return _drawn(draw)


def over_time(at: Sequence[date], means: Sequence[float | None]) -> str:
    """The mean weight over time; a gap is where no weights are."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _line(axes, at, means)
        locator = AutoDateLocator(maxticks=6)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]

    return _drawn(draw)


def over_batches(means: Sequence[float | None]) -> str:
    """The mean weight of each batch, or of each of as many runs of batches."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _line(axes, range(1, len(means) + 1), means)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("batch, in order")

    return _drawn(draw)


def missing(shares: Sequence[float]) -> str:
    """The share of rows without a weight, for each batch."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.bar(range(1, len(shares) + 1), [100 * s for s in shares], color=FIRST, width=0.8)
        axes.grid(False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("batch, in order")
        axes.set_ylabel("% missing")
        _plain(axes.yaxis)

    return _drawn(draw)


def groups(names: Sequence[str], attention: Sequence[float], rows: Sequence[float]) -> str:
    """Each group's share of all attention as a bar, and its share of the rows as a diamond."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(names))
        axes.barh(places, [100 * s for s in attention], color=FIRST, height=0.62, label="of attention")
        axes.plot([100 * s for s in rows], places, "D", color=SECOND, markersize=4.5, label="of rows")
        axes.set_yticks(places, [shortened(n, 18) for n in names])
        axes.grid(False, axis="y")
        axes.invert_yaxis()
        axes.set_xlabel("%")
        _plain(axes.xaxis)
        figure.legend(loc="outside upper right", ncols=2, handletextpad=0.4, columnspacing=1.2)

    return _drawn(draw, high=0.9 + 0.19 * max(len(names), 4))


def trend(at: Sequence[str], measures: Mapping[str, Sequence[float | None]]) -> str:
    """Measures over the last runs, one below the other."""

    def draw(figure: Figure) -> None:
        rows = figure.subplots(len(measures), sharex=True)
        for axes, (name, values) in zip(rows, measures.items(), strict=True):
            axes.plot(range(len(at)), _gaps(values), "o-", color=FIRST, markersize=3.5)
            axes.set_title(name, fontsize=9, loc="left", pad=3)
            _calm(axes)
            axes.yaxis.set_major_locator(MaxNLocator(3))
            _plain(axes.yaxis)
            known = [v for v in _gaps(values) if not math.isnan(v)]
            if known and min(known) == max(known):
                axes.set_ylim(min(0, 2 * known[0]), max(0, 2 * known[0]) or 1)
            axes.margins(y=0.25)
        last = len(at) - 1
        rows[-1].set_xticks([0, last] if last < 4 else [0, last // 2, last])
        rows[-1].set_xticklabels([at[int(i)] for i in rows[-1].get_xticks()])
        rows[-1].set_xlim(-0.25, last + 0.25)

    return _drawn(draw, high=0.5 + 0.85 * len(measures))


def bars(bins: Bins, most: int) -> list[tuple[float, float, int]]:
    """The bins, neighbours taken together where there are more than so many places between the first and the last."""
    return [(found[0][1], found[-1][2], sum(n for *_, n in found)) for found in _taken_together(bins, most)]


def _distribution(
    figure: Figure, bins: Bins, low: float, high: float, mean: float | None, most: int = MOST_BARS
) -> None:
    axes = figure.subplots()
    finite = [b for b in bins if math.isfinite(b[0]) and math.isfinite(b[1])]
    total = sum(n for *_, n in finite)
    place = _places(finite)
    for found in _taken_together(finite, most):
        left, right = found[0][0], found[-1][0] + 1
        share = 100 * sum(n for *_, n in found) / total
        axes.bar(left, share, right - left, align="edge", color=FIRST, edgecolor=FIRST, linewidth=0.4)
    if len(finite) <= 2:  # the bounds of the bins say less than the weights themselves
        ends = [low, high] if len(finite) == 2 else [low]
        same = len(finite) == 2 or low == high
        texts = [number(e) for e in ends] if same else [f"{number(low)} to {number(high)}"]
        axes.set_xticks([place(b[0]) + 0.5 for b in finite], texts)
        middle = sum(place(b[0]) for b in finite) / len(finite) + 0.5
        axes.set_xlim(middle - 6, middle + 6) if abs(place(finite[-1][0]) - place(finite[0][0])) < 8 else None
    else:
        ticks = _ticks(finite)
        axes.set_xticks([place(t) for t in ticks], [_short(t) for t in ticks])
        if mean is not None and math.isfinite(mean):
            at_the_top = axes.get_xaxis_transform()
            axes.plot([place(mean)], [0.97], "v", color=SECOND, markersize=7, transform=at_the_top)
            axes.annotate(
                "mean", (place(mean), 0.97), xycoords=at_the_top, xytext=(6, 0), textcoords="offset points",
                va="center", fontsize=9,
            )  # fmt: skip
            axes.margins(y=0.16)
    axes.grid(False, axis="x")
    axes.set_xlabel("weight")
    axes.set_ylabel("% of weights" if most == MOST_BARS else "%")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    _plain(axes.yaxis)


def _octaves(weight: float) -> float:
    """Four for each power of two, and even within it, as the bins are."""
    mantissa, exponent = math.frexp(abs(weight))
    return 4 * (exponent - 1) + 4 * (2 * mantissa - 1)


def _places(bins: Bins) -> Callable[[float], float]:
    """Where a weight stands on an axis that gives every bin the width 1: zero's begins at 0."""
    nearest = [_octaves(min(abs(a), abs(b))) for a, b, _ in bins if not _of_zero(a, b)]
    first = 4 * math.floor(min(nearest, default=0.0) / 4)

    def place(weight: float) -> float:
        if abs(weight) < 1e-300:
            return 0.0
        away = max(_octaves(weight) - first, 0.0)
        return away + 1 if weight > 0 else -away

    return place


def _of_zero(low: float, high: float) -> bool:
    return max(abs(low), abs(high)) < 1e-300


def _taken_together(bins: Bins, most: int) -> list[list[tuple[float, float, float, int]]]:
    """The bins, each with its place before it; zero's stays alone."""
    if not bins:
        return []
    place = _places(bins)
    placed = sorted((place(a) if a >= 0 or _of_zero(a, b) else place(b) - 1, a, b, n) for a, b, n in bins)
    wide = (placed[-1][0] - placed[0][0] + 1) / most
    step = 1 if wide <= 1 else 4 * math.ceil(wide / 4)  # whole doublings, which are as wide as each other

    def of(bin: tuple[float, float, float, int]) -> tuple[int, int]:
        return (0, 0) if _of_zero(*bin[1:3]) else (1 if bin[1] >= 0 else -1, math.floor((bin[0] - 1) / step))

    return [list(found) for _, found in groupby(placed, of)]


def _ticks(bins: Bins) -> list[float]:
    """Round numbers between the first weight and the last, no more than six on each side of zero."""
    found: list[float] = []
    for sign in (-1, 1):
        ends = sorted(abs(e) for a, b, _ in bins if not _of_zero(a, b) and (a >= 0) == (sign > 0) for e in (a, b))
        if not ends:
            continue
        low, high = math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[-1]))
        steps = (1, 2, 5) if high - low <= 2 else (1,)
        every = max(1, math.ceil((high - low) / 5))
        decades = range(low - low % every, high + 1, every)
        round_ones = [s * 10.0**d for d in decades for s in steps if -300 < d < 308]
        found += [sign * t for t in round_ones if ends[0] <= t * (1 + 1e-9) and t <= ends[-1]]
    return sorted(found + ([0.0] if any(_of_zero(a, b) for a, b, _ in bins) else []))


def _line(axes: Any, x: Sequence[Any], means: Sequence[float | None]) -> None:
    axes.plot(x, _gaps(means), "o-", color=FIRST, markersize=2.6)
    axes.set_ylabel("mean weight")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    low, high = axes.get_ylim()
    if 0 < low < 0.4 * high:
        axes.set_ylim(0, high)
    _calm(axes)
    _plain(axes.yaxis)


def _calm(axes: Any) -> None:
    """Keeps what hardly differs from looking like a fall, with labels that are all the same."""
    low, high = axes.get_ylim()
    middle, least = (low + high) / 2, 0.02 * abs(low + high) / 2
    if high - low < least:
        axes.set_ylim(middle - least / 2, middle + least / 2)


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if v is None or not math.isfinite(v) else v for v in values]


def _plain(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    return re.sub(r"\.?0*e", "e", number(float(f"{value:.12g}")))


def _apart(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """One point for each place of a grid, the coarser the more there are."""
    (left, right), (low, high) = ((min(v), max(v)) for v in zip(*points, strict=True))
    for cells in (160, 110, 80, 50, 30):
        found = {
            (round(cells * (x - left) / ((right - left) or 1)), round(cells * (y - low) / ((high - low) or 1))): (x, y)
            for x, y in points
        }
        if len(found) <= MOST_POINTS:
            break
    return sorted(found.values())


def _drawn(
    draw: Callable[[Figure], None], wide: float = WIDE, high: float = HIGH, colours: Mapping[str, str] = NAMED
) -> str:
    with matplotlib.rc_context(RC), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the browser has the letters that matplotlib's own font lacks
        figure = Figure(figsize=(wide, high), layout="constrained")
        draw(figure)
        text = io.StringIO()
        none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(text, metadata=none)  # type: ignore[no-untyped-call]
    svg = text.getvalue()
    for stands, named in colours.items():
        svg = svg.replace(stands, named)
    return svg[svg.index("<svg") :] if colours is EITHER else svg


def inline(svg: str, name: str, label: str) -> str:
    """The picture as a part of a page: it refers to nothing outside, and its names are its own."""
    svg = svg[svg.index("<svg") :]
    head, body = svg[: svg.index(">") + 1], svg[svg.index(">") + 1 :]
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'\b(?:xlink:)?href="#', f'href="#{name}-', body)
    return f'<svg {box.group() if box else ""} role="img" aria-label="{escape(printable(label))}">{body}'
