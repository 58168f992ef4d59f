"""Columns that nobody looks at go from file to file as they lie there, page for page; new ones are laid beside them.

What is known of Parquet here is its footer, with the fields of
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from attention_core.errors import Unreadable
from attention_core.stores import Where
from attention_core.thrift import BINARY, I32, I64, LIST, STRUCT, Struct, read, structs, written

MAGIC = b"PAR1"
GAP = 1 << 16  # between chunks that are read at once
AT_ONCE = 1 << 23  # bytes of them, unless one has more
CODECS = {"uncompressed": 0, "snappy": 1, "gzip": 2, "zstd": 6, "lz4": 7}


class _File:
    VERSION, SCHEMA, ROWS, GROUPS, KEY_VALUES, CREATED_BY, ORDERS, ENCRYPTION = range(1, 9)
    NEEDS, MAY = {VERSION: I32, SCHEMA: LIST, GROUPS: LIST}, {CREATED_BY: BINARY, ORDERS: LIST}


class _Element:
    TYPE, REPETITION, NAME, CHILDREN = 1, 3, 4, 5
    NEEDS, MAY = {NAME: BINARY}, {TYPE: I32, REPETITION: I32, CHILDREN: I32}
    REPEATED = 2


class _Group:
    CHUNKS, BYTES, ROWS, START, COMPRESSED = 1, 2, 3, 5, 6
    NEEDS = {CHUNKS: LIST, ROWS: I64}


class _Chunk:
    FILE, START, META, CRYPTO, ENCRYPTED = 1, 2, 3, 8, 9
    NEEDS = {META: STRUCT}


class _Meta:
    TYPE, CODEC, VALUES, UNPACKED, SIZE, DATA, INDEX, DICTIONARY, BLOOM, BLOOM_SIZE = 1, 4, 5, 6, 7, 9, 10, 11, 14, 15
    NEEDS, MAY = {TYPE: I32, CODEC: I32, VALUES: I64, UNPACKED: I64, SIZE: I64, DATA: I64}, {DICTIONARY: I64}
    LEFT = (INDEX, DICTIONARY, BLOOM, BLOOM_SIZE)  # where a chunk was


class _Page:
    TYPE, SIZE, CRC = 1, 3, 4
    NEEDS, MAY = {TYPE: I32, SIZE: I32}, {CRC: I32, 5: STRUCT, 8: STRUCT}
    DICTIONARY = 2  # a type
    OF_DATA = {0: (5, 2), 3: (8, 4)}  # where data pages, of either version, say more, and their encoding there
    VALUES = 1  # is the first of it
    LOOKED_UP = {2, 8}  # encodings of what a dictionary before it says


class Writes(Protocol):
    def write(self, data: bytes, /) -> object: ...


@dataclass(frozen=True)
class Pieces:
    """A Parquet file as its footer cuts it. columns: of each top-level one its part of the schema, and its leaves."""

    meta: Struct
    end: int  # of the row groups
    columns: Mapping[str, tuple[Sequence[Struct], range]]

    @staticmethod
    def of(file: BinaryIO) -> Pieces:
        """The pieces of a file.

        Raises:
            ValueError: where the footer is not as it should be.
        """
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read(8)
        end = size - 8 - int.from_bytes(tail[:4], "little")
        if tail[4:] != MAGIC or end < len(MAGIC):
            raise ValueError("no footer")
        file.seek(end)
        meta = _typed(read(file.read(size - 8 - end))[0], _File.NEEDS, _File.MAY)
        elements = [_typed(e, _Element.NEEDS, _Element.MAY) for e in meta.at(_File.SCHEMA)]
        for group in meta.at(_File.GROUPS):
            _typed(group, _Group.NEEDS)
        return Pieces(meta, end, _columns(elements))

    @property
    def groups(self) -> list[Struct]:
        return self.meta.at(_File.GROUPS)  # type: ignore[no-any-return]

    @property
    def rows(self) -> list[int]:
        """How many rows each row group has."""
        return [group.at(_Group.ROWS) for group in self.groups]

    def whole(self, names: Sequence[str], most: int, added: int) -> dict[str, str]:
        """Those of these columns that can be laid into another file as they are, if that is compressed as said here.

        most: bytes of a row group, unpacked, with so many added to each row.

        Raises:
            ValueError: where the footer is not as it should be.
        """
        leaves = sum(len(leaves) for _, leaves in self.columns.values())
        metas = [[_meta(chunk) for chunk in group.at(_Group.CHUNKS)] for group in self.groups]
        sizes = [sum(max(m.at(_Meta.UNPACKED), m.at(_Meta.SIZE)) for m in group) for group in metas]
        orders = self.meta.at(_File.ORDERS)
        for order in orders or ():
            _typed(order, {})
        if (
            not self.groups
            or _File.ENCRYPTION in self.meta
            or (orders is not None and len(orders) != leaves)
            or any(rows <= 0 for rows in self.rows)
            or any(size + rows * added > most for size, rows in zip(sizes, self.rows, strict=True))
            or any(len(group) != leaves for group in metas)
        ):
            return {}
        words = {number: word for word, number in CODECS.items()}
        found = dict[str, str]()
        for name in (n for n in names if n in self.columns):
            elements, own = self.columns[name]
            types = [e.at(_Element.TYPE) for e in elements if _Element.TYPE in e]
            groups = zip(metas, self.rows, strict=True)
            chunks = [(g[leaf], t, rows) for g, rows in groups for leaf, t in zip(own, types, strict=True)]
            codecs = {meta.at(_Meta.CODEC) for meta, _, _ in chunks}
            if len(codecs) == 1 and codecs <= words.keys() and all(self._plain(name, *chunk) for chunk in chunks):
                found[name] = words[codecs.pop()]
        return found

    def _plain(self, name: str, meta: Struct, kind: int, rows: int) -> bool:
        """Whether a chunk lies in this file, is of this type, and one of so many rows."""
        (start, size), values = _span(meta), meta.at(_Meta.VALUES)
        repeated = any(e.at(_Element.REPETITION) == _Element.REPEATED for e in self.columns[name][0])
        inside = len(MAGIC) <= start < start + size <= self.end and meta.at(_Meta.UNPACKED) >= 0
        return inside and meta.at(_Meta.TYPE) == kind and (values >= rows if repeated else values == rows)


@dataclass(frozen=True)
class Source:
    """A file that columns are carried from."""

    path: Where
    file: BinaryIO
    pieces: Pieces
    carried: frozenset[str]

    def changed(self) -> Unreadable:
        return Unreadable(f"{self.path}: changed while it was read")

    def chunks(self, i: int, rows: int, names: Sequence[str]) -> Iterator[tuple[Struct, memoryview]]:
        """What a row group of so many rows has of those of these columns that are carried, in their order: of each
        chunk what the footer says, and its bytes. No more than a few are held at once.

        Raises:
            Unreadable: where it has other rows, or its pages do not add up to what the footer says.
        """
        if self.pieces.rows[i : i + 1] != [rows]:
            raise self.changed()
        chunks = self.pieces.groups[i].at(_Group.CHUNKS)
        carried = [(name, leaf) for name in names if name in self.carried for leaf in self.pieces.columns[name][1]]
        metas = [(name, chunks[leaf].at(_Chunk.META)) for name, leaf in carried]
        spans = [_span(meta) for _, meta in metas]
        for run in _runs(spans):
            start, end = min(spans[k][0] for k in run), max(sum(spans[k]) for k in run)
            self.file.seek(start)
            data = memoryview(self.file.read(end - start))
            for (name, meta), (at, size) in ((metas[k], spans[k]) for k in run):
                found = data[at - start : at - start + size]
                try:
                    _add_up(found, meta.at(_Meta.VALUES))
                except ValueError as error:
                    fix = f"sink.columns: {{except: {json.dumps([name], ensure_ascii=False)}}} leaves it out"
                    raise Unreadable(f"{self.path}: cannot be read: column {name!r}; {fix}: {error}") from None
                yield meta, found


@dataclass
class Joined:
    """A Parquet file in the making: of each row group the new columns, encoded, beside those that are carried.

    It says that it was created by who made the pages that are carried: readers go by that to know how to take them.
    """

    out: Writes
    names: Sequence[str]  # of its columns, in order
    source: Source
    at: int = 0
    rows: int = 0
    groups: list[Struct] = field(default_factory=list)
    new: Pieces | None = None

    def add(self, encoded: bytes, theirs: Iterator[tuple[Struct, memoryview]]) -> None:
        """Adds a row group.

        encoded: the new columns as a Parquet file of one row group. theirs: the chunks that are carried, in order,
            each after what the footer it is from says of it.
        """
        self.new = Pieces.of(io.BytesIO(encoded))
        if not self.at:
            self._write(MAGIC)
        (group,), start = self.new.groups, self.at
        chunks = list[Struct]()
        for name in self.names:
            for leaf in self._from(name).columns[name][1]:
                if self._from(name) is self.new:
                    meta = group.at(_Group.CHUNKS)[leaf].at(_Chunk.META)
                    at, size = _span(meta)
                    chunks.append(self._laid(meta, memoryview(encoded)[at : at + size]))
                else:
                    chunks.append(self._laid(*next(theirs)))
        self.rows += group.at(_Group.ROWS)
        self.groups.append(
            Struct({
                _Group.CHUNKS: structs(chunks),
                _Group.BYTES: (I64, sum(chunk.at(_Chunk.META).at(_Meta.UNPACKED) for chunk in chunks)),
                _Group.ROWS: group[_Group.ROWS],
                _Group.START: (I64, start),
                _Group.COMPRESSED: (I64, self.at - start),
            })
        )  # fmt: skip

    def close(self, key_values: Mapping[str, str]) -> None:
        """Writes the footer."""
        if self.new is None or len(self.groups) != len(self.source.pieces.groups):
            raise self.source.changed()
        sides = [self.source.pieces, self.new]
        columns = [(side, *side.columns[name]) for name in self.names for side in [self._from(name)]]
        pairs = [Struct({1: (BINARY, k.encode()), 2: (BINARY, v.encode())}) for k, v in key_values.items()]
        root = Struct({**sides[0].meta.at(_File.SCHEMA)[0], _Element.CHILDREN: (I32, len(columns))})
        footer = Struct({
            _File.VERSION: (I32, max(side.meta.at(_File.VERSION) for side in sides)),
            _File.SCHEMA: structs([root, *(e for _, elements, _ in columns for e in elements)]),
            _File.ROWS: (I64, self.rows),
            _File.GROUPS: structs(self.groups),
            _File.KEY_VALUES: structs(pairs),
        })  # fmt: skip
        if _File.CREATED_BY in sides[0].meta:
            footer[_File.CREATED_BY] = sides[0].meta[_File.CREATED_BY]
        if all(_File.ORDERS in side.meta for side in sides):  # without them, no bound of texts counts
            footer[_File.ORDERS] = structs(
                side.meta.at(_File.ORDERS)[leaf] for side, _, leaves in columns for leaf in leaves
            )
        data = written(footer)
        self._write(data + len(data).to_bytes(4, "little") + MAGIC)

    def _from(self, name: str) -> Pieces:
        assert self.new is not None
        return self.source.pieces if name in self.source.carried else self.new

    def _laid(self, meta: Struct, data: memoryview) -> Struct:
        """Writes a chunk, and says where; what indices and Bloom filters of it there are stays behind."""
        start, _ = _span(meta)
        here = Struct({f: v for f, v in meta.items() if f not in _Meta.LEFT})
        here[_Meta.DATA] = (I64, meta.at(_Meta.DATA) - start + self.at)
        if start != meta.at(_Meta.DATA):
            here[_Meta.DICTIONARY] = (I64, self.at)
        laid = Struct({_Chunk.START: (I64, self.at), _Chunk.META: (STRUCT, here)})
        self._write(data)
        return laid

    def _write(self, data: bytes | memoryview) -> None:
        self.out.write(data)  # type: ignore[arg-type]
        self.at += len(data)


def _typed(struct: Struct, needs: Mapping[int, int], may: Mapping[int, int] | None = None) -> Struct:
    """The struct, if it has fields of these types.

    Raises:
        ValueError: where it has not.
    """
    if not isinstance(struct, Struct) or any(f not in struct or struct[f][0] != kind for f, kind in needs.items()):
        raise ValueError("a field is not there, or of another type")
    if may and any(f in struct and struct[f][0] != kind for f, kind in may.items()):
        raise ValueError("a field is of another type")
    return struct


def _meta(chunk: Struct) -> Struct:
    if _typed(chunk, _Chunk.NEEDS).keys() & {_Chunk.FILE, _Chunk.CRYPTO, _Chunk.ENCRYPTED}:
        raise ValueError("a chunk that lies elsewhere, or is encrypted")
    return _typed(chunk.at(_Chunk.META), _Meta.NEEDS, _Meta.MAY)


def _columns(elements: Sequence[Struct]) -> dict[str, tuple[Sequence[Struct], range]]:
    found, at, leaf = {}, 1, 0
    for _ in range(elements[0].at(_Element.CHILDREN, 0) if elements else 0):
        start, first, left = at, leaf, 1
        while left:
            if at >= len(elements):
                raise ValueError("half a schema")
            left += elements[at].at(_Element.CHILDREN, 0) - 1
            leaf += _Element.TYPE in elements[at]
            at += 1
        found[elements[start].at(_Element.NAME).decode()] = elements[start:at], range(first, leaf)
    return found


def _span(meta: Struct) -> tuple[int, int]:
    """Where a chunk starts, and how many bytes it has. Some writers say 0 for a dictionary that is not there."""
    data, dictionary = meta.at(_Meta.DATA), meta.at(_Meta.DICTIONARY, 0)
    return dictionary if 0 < dictionary < data else data, meta.at(_Meta.SIZE)


def _runs(spans: Sequence[tuple[int, int]]) -> Iterator[range]:
    """Which of them, one after the other, are read at once, since they lie together."""
    first = low = high = 0
    for i, (at, size) in enumerate(spans):
        start, end = min(low, at), max(high, at + size)
        near = i > 0 and max(at - high, low - at - size) <= GAP and end - start <= AT_ONCE
        if i and not near:
            yield range(first, i)
            first = i
        low, high = (start, end) if near else (at, at + size)
    if spans:
        yield range(first, len(spans))


def _add_up(data: memoryview, wanted: int) -> None:
    """Goes from page to page, as a reader does, until it has so many values.

    Raises:
        ValueError: where there are not so many.
    """
    at = values = 0
    known = False  # a dictionary
    while values < wanted and at < len(data):
        try:
            page, at = read(data, at)
            _typed(page, _Page.NEEDS, _Page.MAY)
            size, kind = page.at(_Page.SIZE), page.at(_Page.TYPE)
            here, encoding = _Page.OF_DATA.get(kind, (0, 0))
            more = _typed(page.at(here), {_Page.VALUES: I32, encoding: I32}) if here else None
        except ValueError:
            raise ValueError("a page whose header is damaged") from None
        if not 0 <= size <= len(data) - at:
            raise ValueError("a page that does not lie in it")
        if _Page.CRC in page and zlib.crc32(data[at : at + size]) != page.at(_Page.CRC) & 0xFFFFFFFF:
            raise ValueError("the checksum of a page does not hold")
        known |= kind == _Page.DICTIONARY
        if more is not None and more.at(encoding) in _Page.LOOKED_UP and not known:
            raise ValueError("a page that needs a dictionary, and none is there")
        values += 0 if more is None else more.at(_Page.VALUES)
        at += size
    if values != wanted:
        raise ValueError(f"its pages hold {values} of {wanted} values")
