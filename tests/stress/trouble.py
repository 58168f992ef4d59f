"""A run in a process of its own, and what happens to it there."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from attention_core import head
from attention_core.errors import FarolError
from attention_core.publish import Place
from attention_core.run import run
from attention_core.work import Watch
from flows.cli import _interruptible

BROKE = "a rule broke"


@dataclass(frozen=True)
class Trouble:
    """What happens within the process.

    kill: SIGKILL at this step (a call that changes the file system, or a chunk that was read).
    late: steps count from where it publishes.
    vanish: at this step a batch is lost.
    broken: the call of a rule that raises.
    most: bytes that a file can have.
    polite: signals that ask to end are exceptions, as they are under `farol`.
    """

    kill: int = 0
    late: bool = False
    vanish: tuple[int, str] = (0, "")
    broken: int = 0
    most: int = 0
    polite: bool = False


@dataclass
class Steps:
    """Counts, and does something at one of them."""

    at: int
    do: Callable[[], None]
    late: bool = False  # counts nothing yet
    seen: int = 0

    def step(self) -> None:
        self.seen += not self.late
        if self.seen == self.at and not self.late:
            self.do()

    def begin(self) -> None:
        self.late = False

    def before(self, owner: Any, name: str) -> None:
        """Counts the calls of a function."""
        whole = getattr(owner, name)

        def counted(*given: Any, **named: Any) -> Any:
            self.step()
            return whole(*given, **named)

        setattr(owner, name, counted)


class Counted(Watch):
    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def rows(self, rows: int) -> None:
        self.steps.step()


def disturbed(job: str, trouble: Trouble, said: Connection) -> None:
    """Runs a job in trouble, and says how it ended: exit status, what was raised, its text, and how many steps."""
    at, do = trouble.kill, lambda: os.kill(os.getpid(), signal.SIGKILL)
    if trouble.vanish[0]:
        at, do = trouble.vanish[0], lambda: Path(trouble.vanish[1]).unlink(missing_ok=True)  # type: ignore[assignment]
    steps = Steps(at, do, trouble.late)
    Steps(1, steps.begin).before(Place, "publish")
    if trouble.broken:
        Steps(trouble.broken, _break).before(head.Head, "_look")
    for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "mkdir"), (shutil, "rmtree")):
        steps.before(owner, name)
    if trouble.most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble.most, trouble.most))
    if trouble.polite:
        _interruptible()
    try:
        run(job, watch=Counted(steps))
        said.send((0, "", "", steps.seen))
    except FarolError as error:
        said.send((error.status, type(error).__name__, str(error), steps.seen))
    except KeyboardInterrupt:
        said.send((130, "KeyboardInterrupt", "", steps.seen))
    except BaseException as error:
        said.send((1, type(error).__name__, str(error), steps.seen))


def _break() -> None:
    raise RuntimeError(BROKE)
