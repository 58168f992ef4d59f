"""Jobs on a schedule, as deployments that Prefect's UI shows (Prefect)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

from prefect import serve
from prefect.schedules import Cron
from prefect.settings import PREFECT_UI_URL
from prefect.types.entrypoint import EntrypointType

from attention_core.errors import JobError
from flows.attend import attend
from flows.events import tell_of_the_gone


def serve_all(jobs: Mapping[str, Path], cron: str, timezone: str, overrides: Mapping[str, str]) -> None:
    """Serves a deployment for each job until interrupted; a job never runs twice at once, a late run waits.

    Raises:
        JobError: for a schedule or a time zone that is none.
    """
    _refuse_no_zone(timezone)
    try:
        schedule = Cron(cron, timezone=timezone)
        deployments = [
            attend.to_deployment(
                name=name,
                parameters={"job": str(path), "options": {"set": dict(overrides)}},
                schedule=schedule,
                concurrency_limit=1,
                description=f"Attention on the batches of {name} that are new or changed",
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
            for name, path in jobs.items()
        ]
    except ValueError as error:
        raise JobError(f"--cron {cron!r}: {str(error).splitlines()[0]}; an example is '0 2 * * *'") from None
    for name in tell_of_the_gone():
        print(f"created the automation {name!r}: it ends runs whose process is gone")
    print(f"serving {', '.join(jobs)} at {cron!r}, {timezone}, one run at a time; Ctrl-C ends it")
    print(f"watch: {PREFECT_UI_URL.value()}/deployments", flush=True)
    serve(*deployments, limit=1, print_starting_message=False)  # type: ignore[arg-type]


def _refuse_no_zone(timezone: str) -> None:
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):  # not found, a path that leads elsewhere, a folder of zones
        raise JobError(f"--timezone {timezone!r}: no such time zone; an example is Europe/Lisbon") from None
