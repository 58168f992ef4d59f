"""Draws the weight of each score for every kind of weight: `python -m attention_core.curves.draw`, with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import polars as pl

from attention_core.attention import attend

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
SCORES = [i / 20 for i in range(-80, 81)]
ALONE: dict[str, list[dict[str, Any]]] = {
    "step": [{"kind": "step"}],
    "sigmoid": [{"kind": "sigmoid"}, {"kind": "sigmoid", "temperature": 0.3}],
    "exponential": [{"kind": "exponential", "half_life": 2}, {"kind": "exponential", "half_life": 1}],
    "gaussian": [{"kind": "gaussian"}, {"kind": "gaussian", "width": 2}],
    "huber": [{"kind": "huber"}, {"kind": "huber", "at": 0.7}],
    "bisquare": [{"kind": "bisquare", "at": 4}, {"kind": "bisquare", "at": 2}],
    "power": [{"kind": "power", "exponent": 2}, {"kind": "power", "exponent": 0.5}],
}
SHARED: dict[str, list[dict[str, Any]]] = {
    "linear": [{"kind": "linear"}, {"kind": "linear", "low": 1, "high": 0.5}],
    "proportional": [{"kind": "proportional"}],
    "softmax": [{"kind": "softmax"}, {"kind": "softmax", "temperature": 0.4}],
    "entmax": [{"kind": "entmax"}, {"kind": "entmax", "alpha": 2}],
}
THEMES = {
    "light": {"ink": "#24292f", "grid": "#d0d7de", "lines": ("#0b5cad", "#c2570c")},
    "dark": {"ink": "#e6edf3", "grid": "#3d444d", "lines": ("#6cb6ff", "#f0a35e")},
}


def curve(weight: dict[str, Any], scores: list[float]) -> list[float]:
    """The weights of these scores, one scope."""
    rule = {"key": "s", "weight": weight, "apply": "weights"}
    found = attend(pl.DataFrame({"s": scores}), [rule])
    assert isinstance(found, pl.DataFrame)
    return found["s_weight"].to_list()


def label(weight: dict[str, Any]) -> str:
    """Its parameters, as a job file has them."""
    return ", ".join(f"{name}: {value}" for name, value in weight.items() if name != "kind") or "the defaults"


def panel(axes: Any, title: str, weights: list[dict[str, Any]], shared: bool, theme: dict[str, Any]) -> None:
    """One kind: its curves over single scores, or its shares of five scores."""
    for i, weight in enumerate(weights):
        colour, style = theme["lines"][i], ("-", "--")[i]
        if shared:
            scores = [0.0, 0.5, 1.0, 1.5, 2.0]
            axes.plot(scores, curve(weight, scores), style, marker="os"[i], color=colour, label=label(weight))
        else:
            scores = [s for s in SCORES if s >= 0 or title != "power"]
            axes.plot(scores, curve(weight, scores), style, color=colour, label=label(weight))
    axes.set_title(title, color=theme["ink"], fontweight="bold", fontsize=11, loc="left")
    axes.tick_params(colors=theme["ink"], labelsize=8)
    axes.grid(color=theme["grid"], linewidth=0.6)
    axes.set_xlabel("the five scores of a scope" if shared else "score", color=theme["ink"], fontsize=8)
    for side in axes.spines.values():
        side.set_color(theme["grid"])
    axes.legend(fontsize=7, frameon=False, labelcolor=theme["ink"])


def draw(name: str, theme: dict[str, Any]) -> Path:
    """All kinds in one picture, on a transparent ground."""
    figure, grid = plt.subplots(3, 4, figsize=(11, 7.5), layout="constrained")
    panels = [(kind, weights, False) for kind, weights in ALONE.items()]
    panels += [(kind, weights, True) for kind, weights in SHARED.items()]
    for axes, (kind, weights, shared) in zip(grid.flat, panels, strict=False):
        panel(axes, kind, weights, shared, theme)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    path = HERE / f"weights-{name}.svg"
    figure.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(figure)
    return path


if __name__ == "__main__":
    plt.rcParams.update({"svg.hashsalt": "farol", "svg.fonttype": "none"})
    for name, theme in THEMES.items():
        print(draw(name, theme))
