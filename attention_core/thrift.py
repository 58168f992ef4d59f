"""Thrift's compact protocol, which Parquet writes its footers in: to plain data and back, what is not known here too.

Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, _, STRUCT = range(1, 13)


class Items(NamedTuple):
    """A list of values of one type."""

    kind: int
    values: list[Any]


class Struct(dict[int, tuple[int, Any]]):
    """Fields by their number, each with its type."""

    def at(self, field: int, default: Any = None) -> Any:
        """The value of a field; of a list, its values."""
        value = self[field][1] if field in self else default
        return value.values if isinstance(value, Items) else value


def structs(values: Iterable[Struct]) -> tuple[int, Items]:
    """A field that is a list of structs."""
    return LIST, Items(STRUCT, list(values))


def read(data: bytes | memoryview, at: int = 0) -> tuple[Struct, int]:
    """The struct that begins there, and where it ends.

    Raises:
        ValueError: where there is none.
    """
    reader = _Reader(data, at)
    try:
        return reader.struct(), reader.at
    except (IndexError, RecursionError):
        raise ValueError("no Thrift struct, or half of one") from None


def written(struct: Struct) -> bytes:
    """The bytes of a struct."""
    out = bytearray()
    _struct(out, struct)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes | memoryview, at: int) -> None:
        self.data, self.at = data, at

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        byte = self.byte()
        if byte < 128:
            return byte
        found, shift = byte & 127, 7
        while byte >= 128:
            byte = self.byte()
            found |= (byte & 127) << shift
            shift += 7
            if shift > 70:
                raise ValueError("a number without an end")
        return found

    def signed(self) -> int:
        n = self.varint()
        return (n >> 1) ^ -(n & 1)

    def bytes(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise IndexError
        return bytes(self.data[self.at - size : self.at])

    def struct(self) -> Struct:
        found, field = Struct(), 0
        while head := self.byte():
            field = field + (head >> 4) if head >> 4 else self.signed()
            kind = head & 15
            found[field] = (kind, kind == TRUE if kind in (TRUE, FALSE) else self.value(kind))
        return found

    def value(self, kind: int) -> Any:
        if kind in (I16, I32, I64):
            return self.signed()
        if kind == BINARY:
            return self.bytes(self.varint())
        if kind == STRUCT:
            return self.struct()
        if kind in (LIST, SET):
            head = self.byte()
            size = head >> 4 if head >> 4 < 15 else self.varint()
            return Items(head & 15, [self.value(head & 15) for _ in range(size)])
        if kind in (TRUE, FALSE, BYTE):  # in a list, a boolean is a byte
            return self.byte()
        if kind == DOUBLE:
            return self.bytes(8)
        raise ValueError(f"a value of type {kind}")


def _varint(out: bytearray, n: int) -> None:
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)


def _signed(out: bytearray, n: int) -> None:
    _varint(out, n << 1 if n >= 0 else ~(n << 1))


def _struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for field, (kind, value) in sorted(struct.items()):
        kind = kind if kind not in (TRUE, FALSE) else TRUE if value else FALSE
        if 0 < field - last < 16:
            out.append((field - last) << 4 | kind)
        else:
            out.append(kind)
            _signed(out, field)
        if kind not in (TRUE, FALSE):
            _value(out, kind, value)
        last = field
    out.append(0)


def _value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _signed(out, value)
    elif kind == BINARY:
        _varint(out, len(value))
        out += value
    elif kind == STRUCT:
        _struct(out, value)
    elif kind in (LIST, SET):
        size = len(value.values)
        out.append(min(size, 15) << 4 | value.kind)
        if size >= 15:
            _varint(out, size)
        for item in value.values:
            _value(out, value.kind, item)
    elif kind == DOUBLE:
        out += value
    else:
        out.append(value)
