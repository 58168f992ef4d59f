"""The jobs as Farol reads them. Imports nothing, so that who only starts processes stays small."""

from __future__ import annotations

import json
from pathlib import Path

ATTENTION = {
    "elementwise": """
  - key: [a, b, c, f]
    score: {kind: threshold, above: 0.5}
    weight: {kind: step, high: 2.0, low: 1.0}
""",
    "one-column": """
  - key: a
    score: {kind: threshold, above: 0.5}
    weight: {kind: step, high: 2.0, low: 1.0}
""",
    "zscore-softmax": """
  - key: a
    score: zscore
    weight: softmax
""",
    "group-softmax": """
  - key: a
    over: {group: [user]}
    weight: softmax
    apply: weights
""",
    "pool": """
  - name: users
    key: a
    value: v
    over: {group: [user]}
    weight: softmax
    apply: pool
""",
    "median": """
  - key: a
    score: robust_zscore
    apply: weights
""",
}
# What is written of the rows, where they are not the point; all of it unless said.
COLUMNS = {"pool": "none"}
# The table that a job is about, where that is not the rows.
TABLES = {"pool": "users", "median": "spread"}


def write_job(job: str, source: Path, out: Path) -> Path:
    """The job file that does `job` from `source` into `out`, beside `out`."""
    path = out.with_suffix(".yaml")
    quoted = {name: json.dumps(str(folder.resolve())) for name, folder in (("source", source), ("out", out))}
    path.write_text(
        f"name: {job}\n"
        f"source: {{path: {quoted['source']}}}\n"
        f"sink: {{path: {quoted['out']}, compression: zstd, columns: {COLUMNS.get(job, 'all')}}}\n"
        f"attention:{ATTENTION[job]}"
    )
    return path
