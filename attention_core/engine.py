"""Where work on batches is done: here, unless somebody brings an engine of another sort."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from attention_core import devices

SHARED = "workers must share the folders of source and sink"
T = TypeVar("T")
R = TypeVar("R")


class Engine(Protocol):
    """Has work done somewhere. Called with work, it gives the same work, done there, for which its caller waits.

    name: for people.
    apart: whether that is in other processes, so that nothing is shared: work, items and what comes of them travel, and
    work may be done twice, where its first place is lost.
    """

    name: str
    apart: bool

    @property
    def workers(self) -> int:
        """How many batches can be worked on at once."""

    def device(self, name: str) -> torch.device:
        """The device that auto, cpu, cuda or cuda:N means there.

        Raises:
            JobError: where it is not there.
        """

    def __call__(self, work: Callable[[T], R]) -> Callable[[T], R]: ...


class Here:
    """In this process, by the thread that asks for it."""

    name, apart = "here", False

    @property
    def workers(self) -> int:
        return devices.cores()

    def device(self, name: str) -> torch.device:
        return devices.chosen(name)

    def __call__(self, work: Callable[[T], R]) -> Callable[[T], R]:
        return work


HERE = Here()
