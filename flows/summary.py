"""What a run came to, as the rows of a table: one for each weight column. For the terminal and for Prefect's UI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from attention_core.errors import printable

HEADERS = ("rule", "rows", "missing", "min", "mean", "max", "effective", "seconds", "rows/s")
STRANGE = {
    "later_than_now": "later than now, and counted as of now",
    "unseen": "of groups or values that those who taught have not seen, and counted as missing",
}
CHANGES = ("rule", "mean", "was", "effective", "was", "missing", "was")


def table(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for each weight column of a run's record, in the order of the rules; numbers as text.

    missing: the rows without a weight. effective: Kish's effective sample size. seconds: what the workers spent on
    the rule, fitting included.
    """
    rows, names = [], named(record["weights"])
    for column, s in record["weights"].items():
        seconds = s["seconds"]
        measures = (number(s[m]) for m in ("min", "mean", "max", "effective_sample_size"))
        speed = f"{record['rows'] / seconds:,.0f}" if seconds and record["rows"] else ""
        took = f"{seconds:.2f}" if seconds else ""
        rows.append((names[column], f"{s['rows']:,}", f"{s['nulls'] + s['nans']:,}", *measures, took, speed))
    return rows


def changes(record: Mapping[str, Any], before: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for each weight column: what its weights come to, each beside what it was in the run before."""
    rows, names = [], named(record["weights"])
    for column, now in record["weights"].items():
        was = before["weights"].get(column)
        of = [MEASURES[name] for name in ("mean", "effective sample", "missing")]
        cells = [text for measure in of for text in (measure(now), measure(was) if was else "–")]
        rows.append((names[column], *cells))
    return rows


def named(weights: Mapping[str, Any]) -> dict[str, str]:
    """What the weight columns of a record are called: each by its rule, where that says enough."""
    rules = {column: str(measures["rule"]) for column, measures in weights.items()}
    many = Counter(rules.values())
    return {c: rule if many[rule] == 1 and c == f"{rule}_weight" else c for c, rule in rules.items()}


def measures(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """What some weights come to: the measure, its value, and what it was in the run before; empty where none was."""
    return [(name, of(now), of(before) if before else "") for name, of in MEASURES.items()]


def missing(measures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Which keys have no weight, or are strange: what, how many, their share of the rows; only what there is."""
    counts = {
        "weight is null: the key is null, masked, unseen, or has no score": measures["nulls"],
        "weight is NaN: the key is NaN": measures["nans"],
        "group or value that those who taught have not seen": measures.get("unseen", 0),
        "key later than now": measures.get("later_than_now", 0),
    }
    return [(what, f"{n:,}", percent(n / measures["rows"])) for what, n in counts.items() if n]


def strange(record: Mapping[str, Any]) -> list[str]:
    """What a person may not expect of the keys of a run: those that are later than now, or that nobody has taught."""
    names = named(record["weights"])
    return [
        f"{names[column]}: {s[measure]:,} {'key is' if s[measure] == 1 else 'keys are'} {what}"
        for column, s in record["weights"].items()
        for measure, what in STRANGE.items()
        if s.get(measure)
    ]


def missing_share(measures: Mapping[str, Any]) -> float:
    """The share of the rows that have no weight."""
    return float((measures["nulls"] + measures["nans"]) / measures["rows"]) if measures["rows"] else 0.0


def _effective_share(measures: Mapping[str, Any]) -> str:
    effective, rows = measures["effective_sample_size"], measures["rows"]
    return percent(None if effective is None or not rows else effective / rows)


MEASURES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "mean": lambda m: number(m["mean"]),
    "smallest": lambda m: number(m["min"]),
    "largest": lambda m: number(m["max"]),
    "effective sample": lambda m: number(m["effective_sample_size"]),
    "effective share": _effective_share,
    "largest share": lambda m: percent(m["largest_share"]),
    "are zero": lambda m: percent(m["zero_share"]),
    "missing": lambda m: percent(missing_share(m)),
}


def headline(record: Mapping[str, Any]) -> str:
    """What was done, in one line."""
    removed = record["plan"].get("gone", 0)
    if not record["batches"]:
        return f"removed {counted(removed, 'output')} whose input is gone" if removed else "nothing is new"
    rows, seconds = record["rows"], record["seconds"]
    return (
        f"{counted(record['batches'], 'batch')}, {counted(rows, 'row')} in {seconds:.1f} s "
        f"({rows / seconds:,.0f} rows/s)"
    )


def planned(counts: Mapping[str, int]) -> str:
    """`12 new, 3 done`."""
    return ", ".join(f"{n:,} {status}" for status, n in counts.items()) or "no batches"


def number(value: float | int | None) -> str:
    """A measure as a person reads it: four digits, thousands apart."""
    if value is None:
        return "–"
    size = float(f"{abs(value):.4g}")
    if size == 0 or 1e-3 <= size < 1e4:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1e4 <= size < 1e12 else f"{value:.2e}"


def percent(share: float | None) -> str:
    """A share as a person reads it."""
    if share is None:
        return "–"
    return "< 0.01 %" if 0 < share < 1e-4 else f"{100 * share:.3g} %"


def shortened(text: str, most: int) -> str:
    """A text, printable, and cut where it is longer."""
    text = printable(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def counted(n: int, one: str) -> str:
    """`1 batch`, `12 batches`."""
    return f"{n:,} {one}{'' if n == 1 else 'es' if one.endswith(('ch', 's')) else 's'}"
