"""Do sample weights pay? A model that learns which departures will be late, with the weights of attention and without.

`python data/flights/sample_weights.py` learns from January to September, judges on October to December, and prints a
table. Needs scikit-learn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, recall_score, roc_auc_score

from attention_core.attention import attend

BATCHES = Path(__file__).resolve().parent / "batches"
LATE = 15  # minutes
LAST_LEARNED = 9  # September
NUMBERS, TEXTS = ["hour", "minute", "weekday", "distance"], ["carrier", "origin", "dest"]
WAYS = {
    "no weights": None,
    "recency": "recent_weight",
    "balance": "balance_weight",
    "both": "sample_weight",
    "balance over all": "overall_weight",
}

RULES: list[dict[str, Any]] = [
    # The last flight counts 1, one that left 30 days before it one half.
    {
        "name": "recent",
        "key": "time_hour",
        "score": {"kind": "recency", "unit": "days"},
        "weight": {"kind": "exponential", "half_life": 30},
        "apply": "weights",
    },
    # Late flights are the rarer class: in each carrier, they count as much in all as those on time.
    {
        "name": "balance",
        "key": "late",
        "over": {"group": ["carrier"]},
        "score": {"kind": "rarity", "form": "inverse"},
        "apply": "weights",
    },
    # Both, with a mean of 1 in each carrier, so that no carrier gains or loses by it.
    {
        "name": "sample",
        "over": {"group": ["carrier"]},
        "score": {"kind": "expression", "sql": "recent_weight * balance_weight"},
        "scale": {"mean": 1.0},
        "apply": "weights",
    },
    # For comparison: balance that leaves the carriers their differences.
    {"name": "overall", "key": "late", "score": {"kind": "rarity", "form": "inverse"}, "apply": "weights"},
]


def departures() -> pl.DataFrame:
    """The flights that left, with what was known before: the schedule, the route and the carrier."""
    return (
        pl.scan_parquet(BATCHES, hive_partitioning=True)
        .drop_nulls("dep_delay")
        .with_columns(late=pl.col("dep_delay") > LATE, weekday=pl.col("time_hour").dt.weekday())
        .with_columns(pl.col(TEXTS).rank("dense").name.suffix(" number"))
        .collect()
    )


def numbers(flights: pl.DataFrame) -> np.ndarray:
    """What the model sees: the texts by their place in the alphabet."""
    return flights.select(*NUMBERS, *(f"{c} number" for c in TEXTS)).to_numpy()


def chances(learned: pl.DataFrame, weights: pl.Series | None, judged: pl.DataFrame) -> np.ndarray:
    """How likely each judged flight is late, says a model that learned from others, with these sample weights."""
    texts = [False] * len(NUMBERS) + [True] * len(TEXTS)
    model = HistGradientBoostingClassifier(categorical_features=texts, early_stopping=False, random_state=0)
    model.fit(numbers(learned), learned["late"].to_numpy(), None if weights is None else weights.to_numpy())
    return model.predict_proba(numbers(judged))[:, 1]


def measures(late: np.ndarray, chance: np.ndarray, cut: float = 0.5) -> dict[str, float]:
    """How well the flights are ranked, how right the chances are, and what those above the cut find."""
    called = chance > cut
    return {
        "ROC AUC": roc_auc_score(late, chance),
        "precision, mean": average_precision_score(late, chance),
        "log loss": log_loss(late, chance),
        "Brier": brier_score_loss(late, chance),
        "chance, mean": chance.mean(),
        "late found": recall_score(late, called),
        "on time left": recall_score(~late, ~called),
    }


def main() -> None:
    flights = departures()
    learned, judged = flights.filter(pl.col("month") <= LAST_LEARNED), flights.filter(pl.col("month") > LAST_LEARNED)
    weighted = attend(learned, RULES)
    assert isinstance(weighted, pl.DataFrame)
    late, usual = judged["late"].to_numpy(), float(learned["late"].to_numpy().mean())
    print(f"learned from {learned.height:,} flights, {usual:.1%} of them late;", end=" ")
    print(f"judged on {judged.height:,}, {late.mean():.1%} late; called late are chances above one half")
    for way, column in WAYS.items():
        chance = chances(learned, None if column is None else weighted[column], judged)
        rows = {way: measures(late, chance)}
        if column is None:  # what balance does, done by hand
            rows[f"{way}, cut at {usual:.3f}"] = measures(late, chance, usual)
            print(f"{'':25}" + "".join(f"{name:>17}" for name in rows[way]))
        for name, found in rows.items():
            print(f"{name:25}" + "".join(f"{value:17.3f}" for value in found.values()))


if __name__ == "__main__":
    main()
