"""Farol beside what one would write by hand: `python -m tests.benchmarks.run [--rows N] [--rounds 5] [--only JOB]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import ParamSpec, TypeVar

from tests.benchmarks import BENCH, ROWS
from tests.benchmarks.measure import Failed, Results, made, memory, prefect, rounds, warm_up
from tests.benchmarks.report import environment, report, write

# Those that are compared take turns with each other, and stand here with the reference of each job first.
GROUPS = {
    "elementwise": [
        "elementwise/polars",
        "elementwise/duckdb",
        "elementwise/pandas-torch",
        "elementwise/pandas-torch-threads",
        "elementwise/farol",
        "elementwise/farol-encoding",
    ],
    "zscore-softmax": [
        "one-column/polars",
        "one-column/farol",
        "one-column/farol-encoding",
        "zscore-softmax/polars",
        "zscore-softmax/farol",
        "zscore-softmax/farol-encoding",
    ],
    "group-softmax": [
        "group-softmax/polars",
        "group-softmax/polars-joins",
        "group-softmax/polars-narrow",
        "group-softmax/duckdb",
        "group-softmax/farol",
    ],
    "pool": ["pool/polars", "pool/duckdb", "pool/farol"],
    "median": ["median/polars", "median/farol"],
}
# Plans that were found slower, to choose again where the cores or the versions are others.
VARIANTS = {
    "elementwise": [
        "elementwise/polars-one-by-one",
        "elementwise/polars-collect-all",
        "elementwise/polars-eager",
        "elementwise/polars-dataset",
        "elementwise/duckdb-one-by-one",
    ],
    "group-softmax": ["group-softmax/duckdb-one-by-one"],
    "pool": ["pool/polars-struct", "pool/duckdb-windows"],
}
P = ParamSpec("P")
T = TypeVar("T")


def chosen(group: str, given: argparse.Namespace) -> list[str]:
    names = GROUPS[group] + (VARIANTS.get(group, []) if given.variants else [])
    begins = tuple(given.peers.split(",")) if given.peers else ("",)
    return [name for name in names if name.partition("/")[2].startswith(begins)]


def attempt(what: str, failures: dict[str, str], do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """A section that fails does not lose what the others measured."""
    try:
        return do(*args, **kwargs)
    except Failed as failed:
        failures[what] = str(failed)
        return None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Farol beside what one would write by hand.")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=[*GROUPS, "none"], help="one job; none is for --memory or --prefect alone")
    parser.add_argument("--peers", help="those whose names begin so, as in polars,duckdb; all unless said")
    parser.add_argument("--variants", action="store_true", help="the plans that were found slower, too")
    parser.add_argument("--memory", action="store_true", help="Farol's peak memory, for four times the rows as well")
    parser.add_argument("--prefect", action="store_true", help="what Prefect itself costs")
    parser.add_argument("--folder", type=Path, default=BENCH, help="where data and results lie")
    parser.add_argument("--write", action="store_true", help="put what was measured into README.md")
    given = parser.parse_args()
    if given.write and (given.only or given.peers):
        parser.error("--write goes without --only and --peers: the block is written whole, or not at all")
    return given


def main() -> None:
    given = arguments()
    bench = given.folder.resolve()
    where = environment(given.rows, given.rounds)
    results: Results = {}
    failures: dict[str, str] = {}
    for group in GROUPS if given.only is None else {given.only} & set(GROUPS):
        names = chosen(group, given)
        source = made(bench, given.rows // 10, kind="vectors") if group == "pool" else made(bench, given.rows)
        failures |= warm_up(names, source, bench)
        able = [name for name in names if name not in failures]
        results |= attempt(group, failures, rounds, able, source, bench, given.rounds) or {}
    peaks = attempt("memory", failures, memory, given.rows, bench) if given.memory else None
    cost = attempt("prefect", failures, prefect, bench) if given.prefect else None
    text = report(where, results, failures, peaks, cost)
    print(text)
    runs = {name: [asdict(run) for run in each] for name, each in results.items()}
    kept = {"environment": where, "runs": runs, "memory": peaks, "prefect": cost, "failures": failures}
    (bench / f"results-{given.rows}.json").write_text(json.dumps(kept, indent=2) + "\n")
    if given.write and not failures:
        write(text)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
