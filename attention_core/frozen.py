"""The frozen base of everything that is a value: kinds, questions, what is known, and the job file's entries."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from typing import Any, Self

import polars as pl
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor


class Frozen(BaseModel):
    """An immutable value with an identity: two with the same digest are the same, tensors included."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="strings")

    def digest(self) -> str:
        """32 hexadecimal digits that depend on the class and on every field to the last bit."""
        return digest(self)

    def picked(self, ids: Tensor) -> Self:
        """The same value for the segments `ids` (m,) alone; every tensor in it has the segment as first dimension."""
        return self.model_copy(update={name: _picked(value, ids) for name, value in self if _has_tensor(value)})

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.digest() == digest(other)

    def __hash__(self) -> int:
        return hash(self.digest())


def digest(value: object) -> str:
    """The identity of plain data: Frozen values, tensors, tables, and what JSON knows, in tuples or dicts.

    Raises:
        TypeError: for anything else, rather than to guess at its identity.
    """
    into = hashlib.blake2b(digest_size=16)
    _feed(value, into)
    return into.hexdigest()


def _feed(value: Any, into: hashlib.blake2b) -> None:
    kind = type(value).__qualname__
    into.update(kind.encode() + b"(")
    match value:
        case Frozen():
            for name, field in value:
                into.update(name.encode() + b"=")
                _feed(field, into)
        case Tensor():
            into.update(f"{value.dtype}{tuple(value.shape)}".encode())
            into.update(_bytes(value))
        case pl.DataFrame():
            into.update(str(value.schema).encode())
            for column in value.iter_columns():
                _feed(tuple(column.to_list()), into)
        case dict():
            for key in sorted(value):
                into.update(str(key).encode() + b":")
                _feed(value[key], into)
        case tuple() | list():
            for item in value:
                _feed(item, into)
        case float():
            into.update(struct.pack("<d", value))
        case str():
            into.update(f"{len(value)}:{value}".encode(errors="surrogatepass"))
        case None | bool() | int() | dt.date() | dt.timedelta():
            into.update(str(value).encode())
        case _:
            raise TypeError(f"a {kind} has no digest")
    into.update(b")")


def _bytes(value: Tensor) -> memoryview | bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    if not flat.numel():
        return b""
    return memoryview(bytearray(flat.view(torch.uint8).untyped_storage()))


def _has_tensor(value: Any) -> bool:
    match value:
        case Tensor():
            return True
        case Frozen():
            return any(_has_tensor(field) for _, field in value)
        case tuple():
            return any(_has_tensor(item) for item in value)
    return False


def _picked(value: Any, ids: Tensor) -> Any:
    match value:
        case Tensor():
            return value[ids]
        case Frozen():
            return value.picked(ids)
        case tuple():
            return tuple(_picked(item, ids) for item in value)
    return value
