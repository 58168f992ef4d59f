"""The frozen base of everything that is a value: kinds, questions, what is known, and the job file's entries."""

from __future__ import annotations

import ctypes
import datetime as dt
import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar, get_args

import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from torch import Tensor

WIDE = (pl.Int128, pl.UInt128)  # torch has none as wide


class Frozen(BaseModel):
    """An immutable value with an identity: two with the same digest are the same, tensors included."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, ser_json_inf_nan="strings")

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, data: Any) -> Any:
        given = {n: v for n, v in data.items() if isinstance(v, bool)} if isinstance(data, dict) else {}
        wrong = [n for n in given if n in cls.model_fields and _numbers_only(cls.model_fields[n].annotation)]
        if not wrong:
            return data
        error = PydanticCustomError("float_type", "true or false is not a number")
        details = [InitErrorDetails(type=error, loc=(name,), input=data[name]) for name in wrong]
        raise ValidationError.from_exception_data(cls.__name__, details)

    @model_validator(mode="after")
    def _of_numbers(self) -> Self:
        for name, value in self:
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"{name} is nan, which is no number to work with")
        return self

    def digest(self) -> str:
        """32 hexadecimal digits that depend on the class and on every field to the last bit."""
        return digest(self)

    def picked(self, ids: Tensor) -> Self:
        """The same value for the segments `ids` (m,) alone; every tensor in it has the segment as first dimension.

        What has its segments elsewhere, as a table or several to a segment, says itself how it is picked.
        """
        return _rebuilt(self, lambda field: _picked(field, ids))  # type: ignore[no-any-return]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.digest() == digest(other)

    def __hash__(self) -> int:
        return hash(self.digest())


def _numbers_only(annotation: Any) -> bool:
    """Whether a type takes numbers, and no true or false, which pydantic would make 1 or 0."""
    named = {annotation, *(n for a in get_args(annotation) for n in (a, *get_args(a)) if isinstance(n, type))}
    return bool(named & {int, float}) and bool not in named


F = TypeVar("F", bound=Frozen)


def argument(value: Frozen) -> Any:
    """The type that stands in brackets where the class of a value was declared, as Spread in Score[Spread]."""
    said = (getattr(base, "__pydantic_generic_metadata__", {}).get("args") for base in type(value).__mro__)
    return next(args[0] for args in said if args)


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
            into.update(content(value))
        case pl.DataFrame():
            into.update(f"{value.height}{value.schema}".encode())
            for column in value.iter_columns():
                for part in _parts(column):
                    into.update(len(part).to_bytes(8, "little") + part)
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


def _parts(column: pl.Series) -> Iterator[bytes]:
    """What tells a column from any other of its type and length."""
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    column = column.to_physical()  # Python drops nanoseconds
    yield str(column.null_count()).encode()
    if column.null_count():
        yield from _parts(column.is_null())
    if column.dtype == pl.String:
        yield from _parts(column.str.len_bytes())
        yield "".join(column.drop_nulls().str.join("").to_list()).encode()
    elif column.dtype == pl.Boolean:
        yield from _parts(column.cast(pl.UInt8))
    elif column.dtype.is_numeric() and column.dtype not in WIDE and len(column):
        yield content(torch.from_dlpack(column.fill_null(0).to_arrow()))  # type: ignore[attr-defined]
    else:
        yield repr(column.to_list()).encode(errors="surrogatepass")


def content(value: Tensor) -> bytes:
    """The bytes of a tensor's numbers."""
    flat = value.detach().cpu().contiguous()
    return ctypes.string_at(flat.data_ptr(), flat.nbytes) if flat.numel() else b""


def of_content(numbers: bytes, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The tensor whose numbers have these bytes: the way back from `content`."""
    if not numbers:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(bytearray(numbers), dtype=dtype).reshape(tuple(shape))


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Plain data with every tensor in it changed; what holds none stays the same object."""
    return change(value) if isinstance(value, Tensor) else _rebuilt(value, lambda item: mapped(item, change))


def replaced(value: Any, kind: type[F], change: Callable[[F], Any]) -> Any:
    """Plain data with every value of a class in it changed; what holds none stays the same object."""
    return change(value) if isinstance(value, kind) else _rebuilt(value, lambda item: replaced(item, kind, change))


def holds(value: Any, kind: type[Frozen]) -> bool:
    """Whether plain data holds a value of a class."""
    return replaced(value, kind, lambda item: None) is not value


def _picked(value: Any, ids: Tensor) -> Any:
    match value:
        case Tensor():
            return value[ids]
        case Frozen():
            return value.picked(ids)
    return _rebuilt(value, lambda item: _picked(item, ids))


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A Frozen or a tuple with each field or item changed; the same object where none is."""
    match value:
        case Frozen():
            fields = {name: (field, change(field)) for name, field in value}
            update = {name: new for name, (old, new) in fields.items() if new is not old}
            return value.model_copy(update=update) if update else value
        case tuple():
            items = tuple(change(item) for item in value)
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value
