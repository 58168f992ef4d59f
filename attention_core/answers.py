"""What parts answered, brought together: states about each part's own segments become states about all."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from attention_core.columns import places, union

WAITING = 8  # answers, until they are merged at once


@dataclass(frozen=True, eq=False)
class Answer:
    """States about these segments, one to each question; keys: None where there is one segment."""

    keys: pl.DataFrame | None
    states: tuple[Any, ...]


class Gathered:
    """Answers by scope, merged as they come, from any thread. known: the segments of scopes, where they are known.

    most: answers that wait until they are merged at once, so that memory does not grow with the number of parts.
    """

    def __init__(self, known: Mapping[str, pl.DataFrame], most: int = WAITING) -> None:
        self.known, self.most, self.lock = known, most, threading.Lock()
        self.waiting: dict[str, list[Answer]] = {}

    def add(self, answers: Mapping[str, Answer]) -> None:
        """Takes what one part answered."""
        for scope, answer in answers.items():
            with self.lock:
                waiting = self.waiting.setdefault(scope, [])
                waiting.append(answer)
                full = len(waiting) >= self.most
                if full:
                    self.waiting[scope] = []
            if full:
                self.add({scope: self._merged(scope, waiting)})

    def whole(self, scope: str) -> Answer | None:
        """What all answered, its segments sorted by value; None where nobody did."""
        waiting = self.waiting.get(scope)
        return self._merged(scope, waiting) if waiting else None

    def _merged(self, scope: str, answers: Sequence[Answer]) -> Answer:
        tables = [a.keys for a in answers if a.keys is not None]
        whole = self.known.get(scope)
        if whole is None and tables:
            whole = union(tables)
        total: tuple[Any, ...] | None = None
        for answer in answers:
            states = answer.states
            if whole is not None and answer.keys is not None and answer.keys is not whole:
                at = places(answer.keys, whole)
                states = tuple(state.spread(at, whole.height) for state in states)
            total = states if total is None else tuple(a + b for a, b in zip(total, states, strict=True))
        return Answer(whole, total or ())
