"""What Prefect's automations can act on, and those that Farol needs itself (Prefect)."""

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


def _unless(after: str, expect: set[str], name: str, description: str, action: ChangeFlowRunState) -> AutomationCore:
    """What to do with a run of Farol after an event that none of the expected ones followed."""
    return AutomationCore(
        name=name,
        description=description,
        trigger=EventTrigger(
            after={after},
            expect=expect,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": "farol"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=PATIENCE,
        ),
        actions=[action],
    )


GONE = _unless(
    HEARTBEAT,
    {HEARTBEAT, *ENDS},
    "farol: crashed",
    "A run of Farol that gives no more sign of life has crashed: its process is gone",
    ChangeFlowRunState(
        state=StateType.CRASHED, name="Crashed", message="no sign of life: killed, or its machine is gone"
    ),
)
# Prefect refuses any other end of a run that is being cancelled, and until then it keeps its deployment's place.
LEFT = _unless(
    "prefect.flow-run.Cancelling",
    ENDS,
    "farol: cancelled",
    "A run of Farol that was cancelled where nobody was left to end it is cancelled",
    ChangeFlowRunState(
        state=StateType.CANCELLED, name="Cancelled", message="cancelled, and nobody was left to say that it ended"
    ),
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


def tell_of_the_gone() -> list[str]:
    """Creates the automations that end runs whose process is gone, those that are not there; gives their names."""
    with get_client(sync_client=True) as client:
        missing = [a for a in (GONE, LEFT) if not client.read_automations_by_name(a.name)]
        for automation in missing:
            client.create_automation(automation)
    return [a.name for a in missing]


if __name__ == "__main__":
    created = tell_of_the_gone()
    for name in (GONE.name, LEFT.name):
        print(f"automation {name!r}: {'created' if name in created else 'is there already'}")
