"""`farol`: runs, plans, checks and schedules job files."""

from __future__ import annotations

import atexit
import gc
import os
import re
import shlex
import signal
import sys
import tomllib
import traceback
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

from attention_core.errors import FarolError, JobError, briefly, nearest, printable

if TYPE_CHECKING:
    from attention_core.plan import Plan
    from attention_core.run import Run
    from flows.engines import Name

# Read by Prefect when it is imported: an own console without its log and its tracebacks, a patient start.
QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "farol",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # a line of a worker's thread needs no warning
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; an automation shows a run that gives none as crashed
}

app = App(
    name="farol",
    help="Attention on Parquet data, in batches: score, weigh, multiply. A job file says how.\n\n"
    "With `--debug`, an error comes with the place in the code that it is from.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,
    version=lambda: metadata.version("farol"),
    version_flags=["--version"],
)
app.register_install_completion_command(help="Teaches the shell to complete farol: bash, zsh or fish.")

Sets = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        negative=(),
        show_default=False,
        help="An entry of the job file by its dotted path, as in `--set sink.path=out`",
    ),
]
Json = Annotated[bool, Parameter(negative=(), show_default=False, help="Print JSON instead of a table")]


def _a_device(_: object, given: str | None) -> None:
    if given is not None and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", given):
        raise ValueError("Write auto, cpu, cuda or cuda:N.")


@app.command
def run(
    job: Path,
    /,
    *,
    full: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Do all batches again, also those that are done")
    ] = False,
    redo: Annotated[str | None, Parameter(help="Do batches again whose name matches this glob")] = None,
    device: Annotated[str | None, Parameter(help="auto, cpu, cuda or cuda:N", validator=_a_device)] = None,
    chunk_rows: Annotated[
        int | None,
        Parameter(help="Rows on the device at once; the results do not change", validator=Number(gte=1)),
    ] = None,
    workers: Annotated[
        int | None,
        Parameter(
            help="Batches at once, as many as there are cores unless given; the results do not change",
            validator=Number(gte=1),
        ),
    ] = None,
    engine: Annotated[
        Literal["here", "dask", "ray"],
        Parameter(
            help="Where the work runs: in this process, or on the cluster at DASK_SCHEDULER_ADDRESS or RAY_ADDRESS, or "
            "one made here; the results do not change"
        ),
    ] = "here",
    set: Sets = (),
    json: Json = False,
) -> None:
    """Does what is new or changed, as a Prefect flow, and publishes it.

    Where nothing is new, it says so and ends without starting Prefect. Killed at any moment, the next run ends as if
    nothing had happened.
    """
    from attention_core.run import execute, opened, refuse_plan
    from flows import show
    from flows.engines import unconnected

    own = {"device": device, "chunk_rows": chunk_rows, "workers": workers}
    overrides = [*set, *(f"{entry}={value}" for entry, value in own.items() if value is not None)]
    opening = opened(job, overrides, engine=unconnected(engine))
    plan = opening.plan()
    refuse_plan(opening, plan, full, redo)
    if plan.nothing and not full and redo is None and not _server():
        record = execute(opening).plain()
    else:
        record = _flow(job, full, redo, engine, overrides, opening, plan)
    if json:
        _print_json(record)
    else:
        told = shlex.join([str(job), *(part for text in set for part in ("--set", text))])
        show.summary(record, f"farol plan {told}" if record["batches"] else f"farol preview {told}")
        show.left_out(opening)


@app.command
def plan(
    job: Path,
    /,
    *,
    set: Sets = (),
    all: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Every batch, also those that are done")
    ] = False,
    json: Json = False,
) -> None:
    """Says what a run would do, and why. Reads footers only, and writes nothing."""
    from dataclasses import asdict

    from attention_core.run import opened, refuse_plan
    from flows import show

    opening, refused = opened(job, set), None
    found = opening.plan()
    try:
        refuse_plan(opening, found)
    except FarolError as error:
        refused = str(error)
    if json:
        entries = [{"batch": e.name, "status": e.status, "why": e.why} for e in found.entries]
        _print_json({"job": opening.job.name, "batches": entries, "gone": found.gone, "passes": found.passes,
                     "schema": {n: str(t) for n, t in found.schema.items()},
                     "other_versions": found.other_versions, "interrupted": found.interrupted, "refused": refused,
                     "estimate": found.estimate and asdict(found.estimate)})  # fmt: skip
    else:
        show.plan(opening, found, all, refused)


@app.command
def preview(
    job: Path, /, *, rows: Annotated[int, Parameter(help="How many", validator=Number(gte=1))] = 10, set: Sets = ()
) -> None:
    """Shows the first rows, before and after: the columns that rules look at, and those they add; and the first rows of
    the tables of rules that pool. Writes nothing.
    """
    from attention_core.preview import sample
    from attention_core.run import opened
    from flows import show

    opening = opened(job, set)
    found = sample(opening, rows)
    show.frame(found.rows, opening.outputs.added())
    for rule, table in found.tables.items():
        show.pooled(rule, table, rows)
    if not found.whole:
        what = "its rules need their whole scope, and this looked at the first batch only"
        show.note(f"{what}, {found.batch}: a run looks at all of them, and its numbers differ")
    if found.tables and not found.pooled:
        show.note(f"tables are of {found.batch} alone: a run pools all batches")
    show.left_out(opening)


@app.command
def check(job: Path, /, *, set: Sets = ()) -> None:
    """Says whether a job file is right, against the schema of its source. Reads no data."""
    from attention_core.run import opened
    from flows import show
    from flows.summary import counted

    opening = opened(job, set)
    opening.outputs.writable()
    columns = len(opening.columns)
    where = f"{counted(len(opening.batches), 'batch')} of {counted(columns, 'column')}"
    show.line(f"{job} is right: {where}, {counted(len(opening.job.attention), 'rule')}")
    show.made(opening)


@app.command
def kinds(kind: str | None = None, /) -> None:
    """Lists the scores and the weights that a rule can name, and what comes after them; explains one of these."""
    from attention_core.adjust import Clip, Keep, Scale
    from attention_core.apply import Apply
    from attention_core.job import SCORES, WEIGHTS, Job, Rule
    from flows import show
    from flows.schema import explained

    told = {**explained(Job), **explained(Rule)}
    entries = {"keep": Keep, "clip": Clip, "scale": Scale, "apply": Apply}
    families = {
        "scores": ("a score", SCORES),
        "weights": ("a weight", WEIGHTS),
        "after these, in this order": ("an entry of a rule", entries),
    }
    sought = "apply" if kind in Apply.model_fields else kind
    if sought is None:
        show.kinds({title: found for title, (_, found) in families.items()})
    elif sought in {**SCORES, **WEIGHTS, **entries}:
        show.explained(sought, {what: found.get(sought) for what, found in families.values()})
    elif sought in told:
        show.line(f"{sought} (an entry of {'a rule' if sought in Rule.model_fields else 'a job'}): {told[sought]}")
    else:
        known = [*SCORES, *WEIGHTS, *entries, *Apply.model_fields, *told]
        raise JobError(f"{kind!r} is neither a score nor a weight{nearest(str(kind), known)}")


@app.command
def new(
    source: Annotated[str, Parameter(name="FILE")],
    /,
    *,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="The job file to write; the terminal unless given")
    ] = None,
) -> None:
    """Looks at the data and writes a job file to start from, with comments, that runs as it stands.

    FILE is a Parquet file, a folder of them, or a glob in quotes. As in
    `farol new data/batches -o job.yaml`, then `farol check job.yaml` and `farol preview job.yaml`.

    Without `--output` the file is printed, and its paths are relative to the working directory. A file that is there
    is not overwritten.
    """
    from flows.new import new, write

    if output is None:
        sys.stdout.write(new(source))
    else:
        print(write(source, output))


@app.command
def report(job: Path, /, *, set: Sets = (), json: Json = False) -> None:
    """Shows the last run as a picture in the terminal, and where its page is: `report.html` in the work folder.

    The page is one file that needs nothing beside it. A run writes it; where it is older than the last run, it is
    written anew.
    """
    from attention_core.run import opened
    from flows import show
    from flows.report import draw, is_old, keep, look

    found = look(opened(job, set))
    if is_old(found):
        keep(found)
    if json:
        _print_json(found.plain())
    else:
        draw(found)
        show.line(f"page: {found.path}")


@app.command
def schema() -> None:
    """Prints the JSON Schema of the job file, with which editors check, complete and explain it.

    As in `farol schema > farol.schema.json`, and in the first line of the job file
    `# yaml-language-server: $schema=farol.schema.json`, which `farol new` writes. Most editors know this line, some
    through their YAML extension.
    """
    import json

    from flows.schema import schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))


@app.command
def serve(
    *jobs: Path,
    cron: Annotated[str, Parameter(help='When, as in "0 2 * * *": every night at two')],
    timezone: Annotated[str, Parameter(help="Of the schedule, as in Europe/Lisbon")] = "UTC",
    set: Sets = (),
) -> None:
    """Runs jobs on a schedule, as deployments in Prefect's UI, until it is interrupted.

    Needs a Prefect server: `prefect server start`, then
    `prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api`.
    """
    from attention_core.run import opened

    if not jobs:
        raise JobError("serve needs a job file, as in farol serve job.yaml --cron '0 2 * * *'")
    named = {opened(job, set).job.name: job.absolute() for job in jobs}
    if len(named) < len(jobs):
        raise JobError("two of these jobs have the same name; deployments are told apart by it")
    if not _server():
        fix = "prefect server start, then prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api"
        raise JobError(f"serve shows its runs in a Prefect server, and none is set: {fix}")
    _quietly(console=True)
    from flows.schedule import serve_all

    serve_all(named, cron, timezone, _pairs(set))


def main() -> None:
    """The console script: exit statuses and one-line errors."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    tokens = [a for a in arguments if a != "--debug"]
    # torch holds many objects that stay: to look through them for garbage as it is imported and as all ends takes 0.8 s
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    try:
        app(tokens, exit_on_error=False, print_error=False)
        status = 0
    except CycloptsError as error:
        status = _complain(f"{' '.join(str(error).split())} farol --help shows what there is", 2)
    except FarolError as error:
        if debug:
            traceback.print_exc()
        status = _complain(str(error), error.status)
    except KeyboardInterrupt:
        status = _complain("interrupted; the sink is as it was, and the next run goes on from here", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        status = _complain(f"{briefly(error)}; --debug shows where", 1)
    sys.exit(status)


def _complain(message: str, status: int) -> int:
    print("\n".join(f"farol: {printable(line)}" for line in message.splitlines()), file=sys.stderr)
    return status


def _flow(
    job: Path, full: bool, redo: str | None, engine: Name, overrides: list[str], opening: Run, plan: Plan
) -> dict[str, Any]:
    _quietly()
    _interruptible()
    from prefect.exceptions import CancelledRun

    from attention_core.errors import Stopped
    from flows.attend import OPENED, Options, attend, start_server
    from flows.progress import lines
    from flows.show import Bar, err

    if sys.stderr.isatty():
        err.print("starting Prefect ...", end="\r")
    with Bar() if sys.stderr.isatty() else lines() as watch:
        token = OPENED.set((opening.watched(watch), plan))
        try:
            start_server()
            record = attend(str(job), Options(full=full, redo=redo or "", engine=engine, set=_pairs(overrides)))
        except CancelledRun as error:
            raise Stopped(f"cancelled in Prefect; {error}") from None
        finally:
            OPENED.reset(token)
    assert isinstance(record, dict)
    return record


def _quietly(console: bool = False) -> None:
    """Sets Prefect for a command line; `console`: with its log, as for a service."""
    for name, value in QUIET.items():
        if not (console and name == "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"):
            os.environ.setdefault(name, value)


def _interruptible() -> None:
    """Makes Ctrl-C, and what asks a process to end, an exception, so that Prefect's own server is ended too.

    Ctrl-C is Python's, but Polars takes it when it is imported, and answers with panics of its threads.
    """
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(ending, signal.default_int_handler)


def _pairs(overrides: Any) -> dict[str, str]:
    return dict(text.split("=", 1) for text in overrides)


def _server() -> str | None:
    """The Prefect server that is set, found without importing Prefect (0.7 s)."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    path = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    try:
        said = tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return None
    active = os.environ.get("PREFECT_PROFILE", said.get("active", ""))
    url = said.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return url if isinstance(url, str) else None


def _print_json(value: Any) -> None:
    from attention_core.run import as_json

    print(as_json(value))


if __name__ == "__main__":
    main()
