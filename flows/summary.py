"""What a run came to, as the rows of a table: one for each weight column. For the terminal and for Prefect's UI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADERS = ("rule", "rows", "missing", "min", "mean", "max", "effective", "seconds", "rows/s")


def table(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for each weight column of a run's record, in the order of the rules; numbers as text.

    missing: the rows without a weight. effective: Kish's effective sample size. seconds: what the workers spent on
    the rule, fitting included.
    """
    rows = []
    for column, s in record["weights"].items():
        seconds = s["seconds"]
        measures = (number(s[m]) for m in ("min", "mean", "max", "effective_sample_size"))
        speed = f"{record['rows'] / seconds:,.0f}" if seconds and record["rows"] else ""
        took = f"{seconds:.2f}" if seconds else ""
        name = s["rule"] if column == f"{s['rule']}_weight" else column
        rows.append((name, f"{s['rows']:,}", f"{s['nulls'] + s['nans']:,}", *measures, took, speed))
    return rows


def headline(record: Mapping[str, Any]) -> str:
    """What was done, in one line."""
    removed = record["plan"].get("gone", 0)
    if not record["batches"]:
        return f"removed {counted(removed, 'output')} whose input is gone" if removed else "nothing is new"
    rows, seconds = record["rows"], record["seconds"]
    return f"{counted(record['batches'], 'batch')}, {rows:,} rows in {seconds:.1f} s ({rows / seconds:,.0f} rows/s)"


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


def counted(n: int, one: str) -> str:
    """`1 batch`, `12 batches`."""
    return f"{n:,} {one}{'' if n == 1 else 'es' if one.endswith(('ch', 's')) else 's'}"
