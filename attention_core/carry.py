"""Columns that nobody looks at go from file to file as they lie there, page for page; new ones are laid beside them.

What is known of Parquet here is its footer, with the fields of
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import BinaryIO, Protocol

from attention_core.errors import Unreadable
from attention_core.stores import Where
from attention_core.thrift import BINARY, I32, I64, STRUCT, Struct, read, structs, written

MAGIC = b"PAR1"
GAP = 1 << 16  # between chunks that are read at once
CODECS = {"uncompressed": 0, "snappy": 1, "gzip": 2, "zstd": 6, "lz4": 7}


class _File:
    VERSION, SCHEMA, ROWS, GROUPS, KEY_VALUES, CREATED_BY, ORDERS, ENCRYPTION, SIGNING_KEY = range(1, 10)


class _Element:
    TYPE, NAME, CHILDREN = 1, 4, 5


class _Group:
    CHUNKS, BYTES, ROWS, START, COMPRESSED = 1, 2, 3, 5, 6


class _Chunk:
    FILE, START, META, CRYPTO, ENCRYPTED = 1, 2, 3, 8, 9


class _Meta:
    CODEC, VALUES, UNPACKED, SIZE, DATA, INDEX, DICTIONARY, BLOOM, BLOOM_SIZE = 4, 5, 6, 7, 9, 10, 11, 14, 15


_LEFT = (_Meta.INDEX, _Meta.DICTIONARY, _Meta.BLOOM, _Meta.BLOOM_SIZE)  # of a chunk that moves


class _Page:
    TYPE, SIZE, CRC = 1, 3, 4
    OF_TYPE = {0: 5, 3: 8}  # where data pages, of either version, say more of themselves
    VALUES = 1  # is the first of it


class Writes(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Pieces:
    """A Parquet file as its footer cuts it. columns: of each top-level one its part of the schema, and its leaves.

    Raises:
        ValueError: where there is no footer that can be understood.
    """

    meta: Struct
    end: int  # of the row groups
    columns: Mapping[str, tuple[Sequence[Struct], range]]

    @staticmethod
    def of(file: BinaryIO) -> Pieces:
        size = file.seek(-8, io.SEEK_END) + 8
        tail = file.read(8)
        end = size - 8 - int.from_bytes(tail[:4], "little")
        if tail[4:] != MAGIC or end < len(MAGIC):
            raise ValueError("no footer")
        file.seek(end)
        meta, _ = read(file.read(size - 8 - end))
        try:
            return Pieces(meta, end, _columns(meta.at(_File.SCHEMA)))
        except (AttributeError, IndexError, KeyError, TypeError):
            raise ValueError("no schema") from None

    @property
    def groups(self) -> list[Struct]:
        return self.meta.at(_File.GROUPS, [])  # type: ignore[no-any-return]

    @property
    def rows(self) -> list[int]:
        """How many rows each row group has."""
        return [group.at(_Group.ROWS) for group in self.groups]

    def carried(self, names: Sequence[str], compression: str, most: int) -> frozenset[str]:
        """Those of these columns that can be laid into another file as they are, compressed so already.

        most: bytes of a row group, unpacked.
        """
        whole = [g for g in self.groups if g.at(_Group.ROWS, 0) > 0 and 0 <= g.at(_Group.BYTES, -1) <= most]
        leaves = sum(len(leaves) for _, leaves in self.columns.values())
        if _File.ENCRYPTION in self.meta or len(whole) < len(self.groups):
            return frozenset()
        if any(len(group.at(_Group.CHUNKS)) != leaves for group in whole):
            return frozenset()
        return frozenset(
            name
            for name in names
            if name in self.columns
            and all(
                self._plain(group.at(_Group.CHUNKS)[leaf], CODECS[compression])
                for group in whole
                for leaf in self.columns[name][1]
            )
        )

    def _plain(self, chunk: Struct, codec: int) -> bool:
        """Whether a chunk lies in this file, and is compressed so."""
        if chunk.keys() & {_Chunk.FILE, _Chunk.CRYPTO, _Chunk.ENCRYPTED} or _Chunk.META not in chunk:
            return False
        meta = chunk.at(_Chunk.META)
        start, size = _span(meta)
        return meta.at(_Meta.CODEC) == codec and len(MAGIC) <= start < start + size <= self.end


@dataclass(frozen=True)
class Source:
    """A file that columns are carried from."""

    path: Where
    file: BinaryIO
    pieces: Pieces
    carried: frozenset[str]

    def chunks(self, i: int) -> dict[int, memoryview]:
        """The bytes of the carried chunks of a row group, by leaf; what lies together is read at once.

        Raises:
            Unreadable: where their pages do not add up to what the footer says.
        """
        chunks = self.pieces.groups[i].at(_Group.CHUNKS)
        names = {leaf: name for name in self.carried for leaf in self.pieces.columns[name][1]}
        spans = {leaf: _span(chunks[leaf].at(_Chunk.META)) for leaf in names}
        found: dict[int, memoryview] = {}
        for run in _runs(spans):
            start, end = spans[run[0]][0], max(sum(spans[leaf]) for leaf in run)
            self.file.seek(start)
            data = memoryview(self.file.read(end - start))
            for leaf in run:
                at, size = spans[leaf]
                found[leaf] = data[at - start : at - start + size]
                try:
                    _add_up(found[leaf], chunks[leaf].at(_Chunk.META))
                except (ValueError, TypeError, AttributeError) as error:
                    raise Unreadable(f"{self.path}: cannot be read: column {names[leaf]!r}: {error}") from None
        return found


@dataclass
class Joined:
    """A Parquet file in the making: of each row group the new columns, encoded, beside those that are carried.

    It says that it was created by who made the pages that are carried: readers go by that to know how to take them.
    """

    out: Writes
    names: Sequence[str]  # of its columns, in order
    source: Source | None
    at: int = 0
    rows: int = 0
    groups: list[Struct] = field(default_factory=list)
    new: Pieces | None = None

    def add(self, encoded: bytes) -> None:
        """Adds a row group. encoded: the new columns as a Parquet file of one row group, or of none for the schema."""
        self.new = Pieces.of(io.BytesIO(encoded))
        if not self.at:
            self._write(MAGIC)
        if not self.new.groups:
            return
        (group,), start, i = self.new.groups, self.at, len(self.groups)
        if self.source is not None and self.source.pieces.rows[i : i + 1] != [group.at(_Group.ROWS)]:
            raise Unreadable(f"{self.source.path}: changed while it was read")
        theirs = {} if self.source is None else self.source.chunks(i)
        chunks = list[Struct]()
        for name in self.names:
            carried = self._from(name) is not self.new
            for leaf in self._from(name).columns[name][1]:
                chunk = self._from(name).groups[i if carried else 0].at(_Group.CHUNKS)[leaf]
                at, size = _span(chunk.at(_Chunk.META))
                chunks.append(self._laid(chunk, theirs[leaf] if carried else memoryview(encoded)[at : at + size]))
        sizes = [chunk.at(_Chunk.META) for chunk in chunks]
        self.rows += group.at(_Group.ROWS)
        self.groups.append(
            Struct({
                _Group.CHUNKS: structs(chunks),
                _Group.BYTES: (I64, sum(meta.at(_Meta.UNPACKED) for meta in sizes)),
                _Group.ROWS: group[_Group.ROWS],
                _Group.START: (I64, start),
                _Group.COMPRESSED: (I64, self.at - start),
            })
        )  # fmt: skip

    def close(self, key_values: Mapping[str, str]) -> None:
        """Writes the footer."""
        assert self.new is not None
        sides = [self.new] if self.source is None else [self.source.pieces, self.new]
        pairs = [Struct({1: (BINARY, k.encode()), 2: (BINARY, v.encode())}) for k, v in key_values.items()]
        elements = [e for name in self.names for e in self._from(name).columns[name][0]]
        root = Struct({**sides[0].meta.at(_File.SCHEMA)[0], _Element.CHILDREN: (I32, len(self.names))})
        footer = Struct({
            _File.VERSION: (I32, max(side.meta.at(_File.VERSION, 1) for side in sides)),
            _File.SCHEMA: structs([root, *elements]),
            _File.ROWS: (I64, self.rows),
            _File.GROUPS: structs(self.groups),
            _File.KEY_VALUES: structs(pairs),
        })  # fmt: skip
        if _File.CREATED_BY in sides[0].meta:
            footer[_File.CREATED_BY] = sides[0].meta[_File.CREATED_BY]
        if all(_File.ORDERS in side.meta for side in sides):  # without them, no bound of texts counts
            orders = [
                self._from(n).meta.at(_File.ORDERS)[leaf] for n in self.names for leaf in self._from(n).columns[n][1]
            ]
            footer[_File.ORDERS] = structs(orders)
        data = written(footer)
        self._write(data + len(data).to_bytes(4, "little") + MAGIC)

    def _from(self, name: str) -> Pieces:
        assert self.new is not None
        return self.new if self.source is None or name not in self.source.carried else self.source.pieces

    def _laid(self, chunk: Struct, data: memoryview) -> Struct:
        """Writes a chunk, and says where; what indices and Bloom filters of it there are stays behind."""
        meta = chunk.at(_Chunk.META)
        start, _ = _span(meta)
        here = Struct({f: v for f, v in meta.items() if f not in _LEFT})
        here[_Meta.DATA] = (I64, meta.at(_Meta.DATA) - start + self.at)
        if start != meta.at(_Meta.DATA):
            here[_Meta.DICTIONARY] = (I64, self.at)
        laid = Struct({_Chunk.START: (I64, self.at), _Chunk.META: (STRUCT, here)})
        self._write(data)
        return laid

    def _write(self, data: bytes | memoryview) -> None:
        self.out.write(data)  # type: ignore[arg-type]
        self.at += len(data)


def _columns(elements: Sequence[Struct]) -> dict[str, tuple[Sequence[Struct], range]]:
    found, at, leaf = {}, 1, 0
    for _ in range(elements[0].at(_Element.CHILDREN, 0)):
        start, first, left = at, leaf, 1
        while left:
            left += elements[at].at(_Element.CHILDREN, 0) - 1
            leaf += _Element.TYPE in elements[at]
            at += 1
        found[elements[start].at(_Element.NAME).decode()] = elements[start:at], range(first, leaf)
    return found


def _span(meta: Struct) -> tuple[int, int]:
    """Where a chunk starts, and how many bytes it has. Some writers say 0 for a dictionary that is not there."""
    data, dictionary = meta.at(_Meta.DATA), meta.at(_Meta.DICTIONARY, 0)
    return dictionary if 0 < dictionary < data else data, meta.at(_Meta.SIZE)


def _runs(spans: Mapping[int, tuple[int, int]]) -> Iterator[list[int]]:
    """The chunks that lie together."""
    order = sorted(spans, key=spans.__getitem__)
    run = order[:1]
    for before, leaf in pairwise(order):
        if spans[leaf][0] - sum(spans[before]) > GAP:
            yield run
            run = []
        run.append(leaf)
    if run:
        yield run


def _add_up(data: memoryview, meta: Struct) -> None:
    """Goes from page to page.

    Raises:
        ValueError: where they are not what the footer says.
    """
    at = values = 0
    while at < len(data):
        page, at = read(data, at)
        size = page.at(_Page.SIZE, -1)
        if size < 0:
            raise ValueError("a page without a size")
        body, at = data[at : at + size], at + size
        if _Page.CRC in page and zlib.crc32(body) != page.at(_Page.CRC) & 0xFFFFFFFF:
            raise ValueError("the checksum of a page does not hold")
        values += page.at(_Page.OF_TYPE.get(page.at(_Page.TYPE), 0), Struct()).at(_Page.VALUES, 0)
    if at != len(data) or values != meta.at(_Meta.VALUES):
        raise ValueError(f"its pages hold {values} of {meta.at(_Meta.VALUES)} values")
