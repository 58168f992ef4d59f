"""What the Prefect UI shows of a run: its summary, and what its weights look like (Prefect)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from flows.progress import Pace
from flows.summary import CHANGES, HEADERS, changes, headline, measures, missing, printable, table

if TYPE_CHECKING:
    from flows.report import Report


def show(record: Mapping[str, Any], report: Report | None = None) -> None:
    """Keeps the summary of a run and its weight health under the job's name, so that the UI has their history."""
    key = f"farol-{keyed(record['job'])}"
    job = printable(record["job"])
    create_markdown_artifact(markdown(record), key=key, description=f"Attention weights of {job}")
    if report is not None:
        create_markdown_artifact(health(report), key=f"{key}-weights", description=f"Weight health of {job}")


def keyed(job: str) -> str:
    """A job's name as the keys of artifacts and the ids of resources are written."""
    return re.sub(r"[^a-z0-9]+", "-", job.lower()).strip("-") or "job"


class Progress:
    """How far a run is, as an artifact that is written again where it has changed."""

    def __init__(self, job: str, pace: Pace) -> None:
        self.pace, self.told = pace, (0.0, f"{printable(job)} begins")
        key = f"farol-{keyed(job)}-progress"
        self.id: Any = create_progress_artifact(0.0, key=key, description=self.told[1])

    def update(self) -> None:
        """Writes it down, if there is anything new to say."""
        now = round(100 * self.pace.share(), 1), self.pace.line()
        if self.pace.what and now != self.told:
            self.told = now
            update_progress_artifact(self.id, *now)

    def end(self) -> None:
        """Writes down that all is done."""
        update_progress_artifact(self.id, 100.0, "done")


def markdown(record: Mapping[str, Any]) -> str:
    """The summary as Markdown."""
    where = [f"Rows are in {_code(record['sink'])}."] if record["sink"] else []
    where += [f"A table is in {_code(path)}." for path in record["tables"]]
    where += [f"The report is {_code(record['report'])}."] if record.get("report") else []
    lines = [f"**{_text(record['job'])}**: {headline(record)}", "", *where, ""]
    return "\n".join(lines + _table(HEADERS, table(record)))


def health(report: Report) -> str:
    """What has changed since the last run, and for each rule its measures and a picture, as Markdown."""
    from flows.pictures import small

    lines = [f"**{_text(report.record['job'])}**: {headline(report.record)}", ""]
    lines += [f"The report is {_code(str(report.path))}.", ""]
    if report.before is not None:
        lines += ["## Since the last run", "", *_table(CHANGES, changes(report.record, report.before)), ""]
    else:
        lines += ["This is the first run: there is none to compare it with.", ""]
    for view in report.views:
        lines += [f"## {_text(view.name)}", "", _text(view.how), ""]
        if view.finite:
            lines += [
                f"![how many weights of each size]({small(view.finite, view.measures['min'], view.measures['max'])})"
            ]
        lines += ["", *_table(("measure", "now", "last run"), measures(view.measures, view.before))]
        lines += ["", *(f"- {n} ({share}): {what}" for what, n, share in missing(view.measures)), ""]
    return "\n".join(lines)


def _table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(headers)
    return [_row(heads), _row(["---", *["--:"] * (len(heads) - 1)]), *(_row(_text(c) for c in row) for row in rows)]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(text: str) -> str:
    """A text of unknown origin, in which Markdown and HTML see nothing of theirs."""
    return re.sub(r"([\\`*_\[\]<>&|~$!#])", r"\\\1", printable(text))


def _code(text: str) -> str:
    """A path as code: between more backticks than it has itself."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{printable(text)}{pad}{fence}"
