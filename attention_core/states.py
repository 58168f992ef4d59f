"""What batches answered, kept beside the sink, so that only new batches and new questions are asked."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from itertools import accumulate, pairwise
from typing import Any, get_args, get_type_hints

import polars as pl
import torch
import xxhash
from torch import Tensor

from attention_core.contract import Question
from attention_core.frozen import argument, content, digest, of_content
from attention_core.stores import Remote, Where

SHARE = 8  # a state is kept where it takes no more than this part of the batch that it stands for
SMALL = 1 << 16  # or so few bytes
DIGEST = 16


@dataclass
class States:
    """A folder of states, each a file that is named by what it is the answer to; None: nothing is kept.

    A file that is not whole is no file.
    """

    folder: Where | None = None

    def get(self, name: str, question: Question[Any] | None = None) -> Any:
        """The state that answers a question, or a table where there is none; None where it is not kept."""
        if self.folder is None:
            return None
        try:
            read = (self.folder / name).read_bytes()
            said, aside = _opened(name, read)
            state = _restored(said, aside, None) if question is None else _answer(question, said, aside)
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
            return None
        return state

    def put(self, name: str, state: Any, stands_for: int) -> None:
        """Keeps a state, or a table, of so many bytes of input; not if it is large beside them."""
        if self.folder is None:
            return
        aside: list[bytes] = []
        said = _plain(state, aside)
        sizes = [len(raw) for raw in aside]
        if sum(sizes) > max(SMALL, stands_for // SHARE):
            return
        whole = bytearray().join([bytes(DIGEST), json.dumps([said, sizes]).encode(), b"\n", *aside])
        whole[:DIGEST] = _digest(name, memoryview(whole)[DIGEST:])
        if isinstance(self.folder, Remote):
            (self.folder / name).write_bytes(bytes(whole))
            return
        with suppress(OSError):  # what cannot be kept is asked again
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f"{name}.{os.getpid()}.part"
            part.write_bytes(whole)
            os.replace(part, self.folder / name)

    def forget(self, but: Collection[str]) -> None:
        """Removes all but these."""
        if self.folder is not None and self.folder.is_dir():
            for file in self.folder.iterdir():
                if file.name not in but:
                    file.unlink(missing_ok=True)


def name_of(*what: Any) -> str:
    """The name of a state: the identity of what it is the answer to."""
    return digest(what)


def _digest(name: str, whole: bytes | memoryview) -> bytes:
    """Of the name too: a state under another's name is none."""
    found = xxhash.xxh3_128(name.encode())
    found.update(whole)
    return found.digest()


def _opened(name: str, read: bytes) -> tuple[Any, Sequence[bytes]]:
    digest, whole = read[:DIGEST], read[DIGEST:]
    if _digest(name, whole) != digest:
        raise ValueError("not whole, or another's")
    head, _, rest = whole.partition(b"\n")
    said, sizes = json.loads(head)
    ends = list(accumulate(sizes, initial=0))
    return said, [rest[start:end] for start, end in pairwise(ends)]


def _plain(state: Any, aside: list[bytes]) -> Any:
    """The state as JSON, with the bytes of its tensors and tables aside."""
    match state:
        case Tensor():
            aside.append(content(state))
            return {"tensor": len(aside) - 1, "of": str(state.dtype).removeprefix("torch."), "shape": list(state.shape)}
        case pl.DataFrame():
            aside.append(_bytes(state))
            return {"frame": len(aside) - 1}
        case tuple():
            return [_plain(item, aside) for item in state]
    if is_dataclass(state):
        return {f.name: _plain(getattr(state, f.name), aside) for f in fields(state)}
    return state


def _bytes(frame: pl.DataFrame) -> bytes:
    into = io.BytesIO()
    frame.write_ipc(into)
    return into.getvalue()


def _answer(question: Question[Any], said: Any, aside: Sequence[bytes]) -> Any:
    """What a question is answered with, as its class says."""
    kind, inner = argument(question), question.inner()
    hints = get_type_hints(kind)
    parts = {
        name: _answer(inner[name], item, aside) if name in inner else _restored(item, aside, hints[name])
        for name, item in said.items()
    }
    return kind(**parts)


def _restored(said: Any, aside: Sequence[bytes], hint: Any) -> Any:
    match said:
        case {"tensor": i, "of": dtype, "shape": shape}:
            return of_content(aside[i], getattr(torch, dtype), shape)
        case {"frame": i}:
            return pl.read_ipc(io.BytesIO(aside[i]))
        case list():
            return tuple(_restored(item, aside, None) for item in said)
        case dict():
            kind = next(t for t in (hint, *get_args(hint)) if isinstance(t, type) and is_dataclass(t))
            hints = get_type_hints(kind)
            return kind(**{n: _restored(item, aside, hints[n]) for n, item in said.items()})
    return said
