"""What Prefect's automations can act on, and the one that Farol needs itself (Prefect)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from attention_core.errors import ExpectationMissed
from flows.artifacts import keyed

HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
PATIENCE = timedelta(seconds=90)  # three heartbeats

GONE = AutomationCore(
    name="farol: crashed",
    description="A run of Farol that gives no more sign of life has crashed: its process is gone",
    trigger=EventTrigger(
        after={HEARTBEAT},
        expect={HEARTBEAT, *ENDS},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": "farol"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=PATIENCE,
    ),
    actions=[
        ChangeFlowRunState(
            state=StateType.CRASHED, name="Crashed", message="no sign of life: killed, or its machine is gone"
        )
    ],
)


def published(record: Mapping[str, Any]) -> None:
    """Says that a run has published."""
    _emit("farol.run.published", record["job"], record, ("sink", "tables", "batches", "rows", "seconds", "report"))


def missed(job: str, sink: str | None, error: ExpectationMissed) -> None:
    """Says that a run has published nothing, for what it was to publish is not as expected."""
    what = str(error).removeprefix("nothing was published: ").split("; ")
    _emit("farol.expectation.missed", job, {"sink": sink, "missed": what}, ("sink", "missed"))


def _emit(event: str, job: str, of: Mapping[str, Any], names: tuple[str, ...]) -> None:
    resource = {"prefect.resource.id": f"farol.job.{keyed(job)}", "prefect.resource.name": job}
    emit_event(event, resource, payload={"job": job} | {name: of[name] for name in names if name in of})


def tell_of_the_gone() -> bool:
    """Creates the automation that marks runs as crashed whose process is gone; False where it is there already."""
    with get_client(sync_client=True) as client:
        if client.read_automations_by_name(GONE.name):
            return False
        client.create_automation(GONE)
    return True


if __name__ == "__main__":
    print(f"automation {GONE.name!r}: {'created' if tell_of_the_gone() else 'is there already'}")
