"""Jobs on a schedule: what `farol serve` and `prefect.yaml` make of them, and how a run that is cancelled ends."""

import time
from pathlib import Path

import pytest
import yaml
from test_cli import MAIN

import flows


@pytest.fixture
def served(monkeypatch, server):
    """The deployments that a call would serve."""
    import flows.schedule

    found = []
    monkeypatch.setattr(flows.schedule, "serve", lambda *deployments, **how: found.append((deployments, how)))
    monkeypatch.setenv("PREFECT_API_URL", server)
    return found


def test_serve_makes_a_deployment_of_each_job(folder, served):
    text = (folder.path / "job.yaml").read_text()
    (folder.path / "other.yaml").write_text(text.replace("demo", "other"))
    how = "--cron", "30 2 * * 1-5", "--timezone", "Europe/Lisbon", "--set", "workers=2"
    status, out, err = folder.farol("serve", "job.yaml", "other.yaml", *how)
    assert (status, err) == (0, "")
    assert "serving demo, other at '30 2 * * 1-5', Europe/Lisbon, one run at a time; Ctrl-C ends it\n" in out
    ((deployments, how),) = served
    assert how["limit"] == 1
    assert [d.name for d in deployments] == ["demo", "other"]
    for deployment, name in zip(deployments, ("job.yaml", "other.yaml"), strict=True):
        assert deployment.flow_name == "farol"
        assert deployment.parameters == {"job": str(folder.path / name), "options": {"set": {"workers": "2"}}}
        assert deployment.entrypoint == "flows.attend.attend"
        (schedule,) = deployment.schedules
        assert (schedule.schedule.cron, schedule.schedule.timezone) == ("30 2 * * 1-5", "Europe/Lisbon")
        assert deployment.concurrency_limit == 1


def test_serve_keeps_the_time_of_its_zone_or_utc(folder, served):
    assert folder.farol("serve", "job.yaml", "--cron", "0 2 * * *")[0] == 0
    assert served[0][0][0].schedules[0].schedule.timezone == "UTC"


@pytest.mark.parametrize("cron", ["soon", "", "0 25 * * *", "* * *"])
def test_a_schedule_that_is_none(refused, served, cron):
    said = refused(2, "serve", "job.yaml", "--cron", cron)
    assert said.startswith(f"--cron {cron!r}: ") and said.endswith("an example is '0 2 * * *'")
    assert not served


@pytest.mark.parametrize("zone", ["Lisbon", "Europe", "", "/etc/localtime", "../x", "a\nb"])
def test_a_time_zone_that_is_none(refused, served, zone):
    said = refused(2, "serve", "job.yaml", "--cron", "0 2 * * *", "--timezone", zone)
    assert said == f"--timezone {zone!r}: no such time zone; an example is Europe/Lisbon"
    assert not served


def test_serve_refuses_a_wrong_job_before_it_starts(folder, refused, served):
    folder.job("path: in", "path: im")
    assert refused(2, "serve", "job.yaml", "--cron", "0 2 * * *").startswith("job.yaml:2:16: ")
    assert not served


def test_serve_refuses_two_jobs_of_one_name(refused, served):
    said = refused(2, "serve", "job.yaml", "job.yaml", "--cron", "0 2 * * *")
    assert said == "two of these jobs have the same name; deployments are told apart by it"
    assert not served


def test_serve_needs_a_job(refused, served):
    assert refused(2, "serve", "--cron", "0 2 * * *").startswith("serve needs a job file")


def test_serve_needs_a_server(refused):
    assert "prefect server start" in refused(2, "serve", "job.yaml", "--cron", "0 2 * * *")


def test_the_automations_for_runs_that_are_gone_are_created_once(server):
    from prefect.client.orchestration import get_client

    from flows.events import GONE, LEFT, tell_of_the_gone

    names = [GONE.name, LEFT.name]
    with get_client(sync_client=True) as client:
        for name in names:
            for found in client.read_automations_by_name(name):
                client.delete_automation(found.id)
        assert tell_of_the_gone() == names
        assert tell_of_the_gone() == []
        (gone,), (left,) = map(client.read_automations_by_name, names)
        client.delete_automation(left.id)
        assert tell_of_the_gone() == names[1:]
    assert gone.enabled and gone.actions[0].state.value == "CRASHED"
    assert left.enabled and left.actions[0].state.value == "CANCELLED"
    assert "prefect.flow-run.Cancelled" in left.trigger.expect and left.trigger.after == {"prefect.flow-run.Cancelling"}


def test_the_deployment_of_prefect_yaml_is_one_of_the_flow(server):
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.flows import load_flow_from_entrypoint

    said = yaml.safe_load((Path(flows.__file__).parent / "prefect.yaml").read_text())
    (deployment,) = said["deployments"]
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert flow.name == "farol"
    flow.validate_parameters(deployment["parameters"])
    assert ConcurrencyLimitConfig.model_validate(deployment["concurrency_limit"]).limit == 1


def test_a_run_that_is_cancelled_in_prefect_stops_within_a_chunk(folder, server):
    """`farol run` in a process of its own, which no runner watches over."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Cancelling

    folder.job(more="chunk_rows: 20\nworkers: 1\n")
    folder.data("b.parquet", x=list(range(1_000_000)))
    process = folder.python(MAIN, "run", "job.yaml", PREFECT_API_URL=server)
    until = time.monotonic() + 60
    while not list((folder.path / "out.farol").glob("staging/*/.parts/b.parquet.*")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        client.set_flow_run_state(run.id, Cancelling())
        out, err = process.communicate(timeout=30)
        state = client.read_flow_run(run.id).state
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == (
        "farol: cancelled in Prefect; the sink is as it was, and the next run goes on from here"
    )
    assert state.is_cancelled()
    assert not (folder.path / "out").exists()
