"""What the Prefect UI shows of a run: its summary as a table (Prefect)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from prefect.artifacts import create_markdown_artifact

from flows.summary import HEADERS, headline, table


def show(record: Mapping[str, Any]) -> None:
    """Keeps the summary of a run under the job's name, so that the UI has its history."""
    name = re.sub(r"[^a-z0-9]+", "-", record["job"].lower()).strip("-") or "job"
    create_markdown_artifact(markdown(record), key=f"farol-{name}", description=f"Attention weights of {record['job']}")


def markdown(record: Mapping[str, Any]) -> str:
    """The summary as Markdown."""
    where = [f"Rows are in `{record['sink']}`."] if record["sink"] else []
    where += [f"A table is in `{path}`." for path in record["tables"]]
    lines = [f"**{record['job']}**: {headline(record)}", "", *where, ""]
    lines += [_row(HEADERS), _row(["---", *["--:"] * (len(HEADERS) - 1)])]
    lines += [_row(row) for row in table(record)]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
