"""Parquet in chunks; Parquet out in one piece. The only module that knows Polars' streaming."""

from __future__ import annotations

import base64
import errno
import io
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from attention_core.carry import Joined, Pieces, Source
from attention_core.errors import DataError, FarolError, Unreadable, first_line, printable
from attention_core.stores import Remote, Where, arrow, created, opened, plainly, polars
from attention_core.vectors import Vectors, plain

ROW_GROUP_BYTES = 128 << 20
FEW = 1000  # chunks of a file
SMALL = 1 << 16  # bytes, unpacked: to decode and encode such a chunk takes no longer than to say where it lies
READ = "cannot be read"
WRITTEN = "written as it is"
_FOREIGN = re.compile(r"field_id=-?\d+ (.+) \(((?:Variant|Geometry|Geography|Unknown|Interval)\b.*)\)", re.IGNORECASE)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_PASSING = {errno.EIO, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.EPIPE,
            errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}  # fmt: skip
_HUNG = re.compile("timed? ?out|connection (reset|refused|closed)|server error|service unavailable", re.IGNORECASE)
_ROW = "#row"
_BEYOND = (1 << 63) - 1  # what Polars makes of INT96 that nanoseconds cannot hold


Compression = Literal["zstd", "lz4", "snappy", "gzip", "uncompressed"]


@dataclass(frozen=True)
class Extent:
    """How large a file is: its rows, its bytes, about how many each column has, and its largest row group unpacked."""

    rows: int
    size: int
    columns: Mapping[str, int]
    group: int

    def share(self, columns: Collection[str]) -> float:
        """About which part of the bytes these columns have."""
        return sum(self.columns.get(name, 0) for name in columns) / max(1, sum(self.columns.values()))


@dataclass(frozen=True)
class Batch:
    """One input file. name: its path under its root, with forward slashes; partitions: what its folders say.

    reads: columns that are read as another type than the file's, or as nulls where it has none.
    """

    path: Where
    name: str
    partitions: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, pl.DataType] = field(default_factory=dict)
    reads: Mapping[str, pl.DataType] = field(default_factory=dict)

    def own(self) -> dict[str, pl.DataType]:
        """The columns that the file itself has; one of a type that Polars can only name is an Object."""
        with reading(self.path, blame=self._foreign):
            return dict(_usable(tuple(self._scan().collect_schema().items())))

    def arrow_schema(self) -> pa.Schema:
        """The file's schema, as it is written in it, without what an earlier run said of itself."""
        with self._footer() as file:
            schema, beside = file.schema_arrow, file.metadata.metadata or {}
        kept = {k: v for k, v in {**(schema.metadata or {}), **beside}.items() if k not in (b"farol", b"ARROW:schema")}
        return schema.with_metadata(kept or None)

    def rows(self) -> int:
        """How many rows the row groups hold.

        Raises:
            DataError: where the footer counts others, since Polars would read that many without a word.
        """
        return self._contents()[0]

    def extent(self) -> Extent:
        """How large the file is, by its footer, and by its columns' widths: to ask pyarrow for what the footer says of
        a column ends the process where that is damaged.
        """
        with self._footer() as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            rows, largest = int(file.metadata.num_rows), max((int(g.total_byte_size) for g in groups), default=0)
            widths = {field.name: _width(field.type) for field in file.schema_arrow}
        size, whole = self.path.stat().st_size, sum(widths.values()) or 1
        return Extent(rows, size, {name: size * width // whole for name, width in widths.items()}, largest)

    def row_group_rows(self, added: int = 0) -> int | None:
        """As many rows as the largest row group has, and no more than fit in 128 MiB.

        added: bytes of a row that are not the file's.
        """
        with self._footer() as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        rows = max((g.num_rows for g in groups), default=0)
        if not rows:
            return None
        per_row = max(added + sum(g.total_byte_size for g in groups) / max(sum(g.num_rows for g in groups), 1), 1)
        return max(1, min(rows, int(ROW_GROUP_BYTES / per_row)))

    def read(self, columns: Sequence[str] | None, rows: int, threads: int = 1) -> Iterator[tuple[int, pl.DataFrame]]:
        """The file in chunks of at most `rows` rows, each with where it starts; partitions are columns too.

        An empty file is one empty chunk.

        Where the file has a column that its folders have too, all columns (None) hold it as `in_file` calls it.

        threads: that take the chunks at once. For one, vectors and the numbers beside them are decoded here, and
            not by threads of Polars' own.

        Raises:
            DataError: where a column cannot be read, or not all of it.
        """
        there, old, group = self._contents()
        absent = self._absent()
        own = None if columns is None else [c for c in columns if c not in self.partitions and c not in absent]
        arrows = list[str]()
        with reading(self.path, blame=lambda: self._unreadable(own, arrows)):
            lazy, arrows = self._lazily(own), [] if not own or threads > 1 else self._beside_vectors(own)
            start, folders = 0, self._partition_columns(absent)
            for frame in self._decoded(lazy, rows if arrows else _aligned(rows, group), arrows):
                if old:
                    self._refuse_beyond(frame)
                chunk = self._as_agreed(frame)
                yield start, chunk.with_columns(folders) if folders else chunk
                start += chunk.height
            if start != there:  # a panic ends the batches without a word
                raise pl.exceptions.ComputeError(f"{start} of {there} rows can be decoded")
            if not start:
                yield 0, self._as_agreed(lazy.limit(0).collect()).with_columns(folders)

    def _lazily(self, own: Sequence[str] | None) -> pl.LazyFrame:
        """Some of the columns; a frame has as many rows as its columns, so there must be one."""
        if own is None:
            return self._scan().rename({c: in_file(c) for c in self.partitions}, strict=False)
        return self._scan().select(own) if own else self._numbered()

    def _decoded(self, lazy: pl.LazyFrame, rows: int, arrows: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Frames of at most so many rows; Arrow decodes these of their columns."""
        if not arrows:
            for frame in lazy.collect_batches(chunk_size=rows, maintain_order=True):
                yield from frame.iter_slices(rows)
            return
        names = lazy.collect_schema().names()
        with Vectors(arrow(self.path), arrows) as vectors:
            if len(arrows) == len(names):
                yield from vectors.frames(rows)
            else:
                for frame in self._decoded(lazy.drop(arrows), rows, []):
                    yield frame.hstack(vectors.take(frame.height))[names]

    def _beside_vectors(self, names: Sequence[str]) -> list[str]:
        """Those of these columns that Arrow decodes, if it does: of a file, as a store is asked for each look."""
        if not isinstance(self.path, Path):
            return []
        types = self._scan().select(names).collect_schema()
        return plain(self.arrow_schema(), types) if any(isinstance(t, pl.Array) for t in types.values()) else []

    def _numbered(self) -> pl.LazyFrame:
        """As many rows as there are, of a column that is none of the file's."""
        name = max([_ROW, *(f"{own}#" for own in self.own())], key=len)
        return self._scan(row_index_name=name).select(name)

    def whole(self, names: Sequence[str], added: int = 0) -> dict[str, str]:
        """Those of these columns that an output can take as they lie in the file, if it is compressed as said here.

        added: bytes of a row that are not the file's.
        """
        with reading(self.path), opened(self.path) as file:
            return self._whole(file, names, added)[1]

    @contextmanager
    def source(self, names: Sequence[str], compression: Compression, added: int = 0) -> Iterator[Source | None]:
        """The file as what an output takes some of these columns from as they lie; None where it takes none.

        added: as of `whole`.
        """
        if not names:
            yield None
            return
        with reading(self.path):
            file = opened(self.path)
        with file:
            with reading(self.path):
                pieces, found = self._whole(file, names, added)
            carried = frozenset(name for name, packed in found.items() if packed == compression)
            yield Source(self.path, file, pieces, carried) if pieces is not None and carried else None

    def _whole(self, file: BinaryIO, names: Sequence[str], added: int) -> tuple[Pieces | None, dict[str, str]]:
        with self._footer() as arrows:
            size = sum(arrows.metadata.row_group(i).total_byte_size for i in range(arrows.metadata.num_row_groups))
            chunks = arrows.metadata.num_columns * arrows.metadata.num_row_groups
        if chunks > FEW and size < chunks * SMALL:
            return None, {}
        try:
            pieces = Pieces.of(file)
            return pieces, pieces.whole([n for n in names if n not in self.reads], ROW_GROUP_BYTES, added)
        except ValueError:  # who decodes it says what is wrong
            return None, {}

    def _scan(self, **how: Any) -> pl.LazyFrame:
        path, options = polars(self.path)
        return pl.scan_parquet(path, hive_partitioning=False, glob=False, **options, **how)

    @contextmanager
    def _footer(self) -> Iterator[pq.ParquetFile]:
        with reading(self.path, blame=self._unknown_to_arrow), pq.ParquetFile(arrow(self.path)) as file:
            yield file

    def _contents(self) -> tuple[int, bool, int]:
        """How many rows there are, whether any of their times are INT96, and the rows of the first row group."""
        with self._footer() as file:
            groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            counted = sum(groups)
            if counted != file.metadata.num_rows:
                raise DataError(f"{self.path}: the footer counts {file.metadata.num_rows} rows, its parts {counted}")
            columns = (file.schema.column(i) for i in range(len(file.schema)))
            return int(counted), any(column.physical_type == "INT96" for column in columns), max(groups[:1], default=0)

    def _refuse_beyond(self, frame: pl.DataFrame) -> None:
        beyond = [column.name for column in frame.get_columns() if _latest(column) == _BEYOND]
        if beyond:
            said = dict.fromkeys(beyond, "INT96, some of it outside the years 1677 to 2262 of nanoseconds")
            raise DataError(f"{self.path}: {cannot(said, 'read')}")

    def _unreadable(self, columns: Sequence[str] | None, arrows: Sequence[str]) -> str:
        """Which of the columns cannot be read; each is tried alone, by who decodes it."""
        lazy, rows, types = self._scan(), self.rows(), self.arrow_schema()

        def whole(name: str) -> bool:
            frames = self._decoded(lazy.select(name), FEW, [name] if name in arrows else [])
            return sum(frame.height for frame in frames) == rows

        tried = lazy.collect_schema().names() if columns is None else columns
        wrong = [n for n in tried if _fails(lambda n=n: whole(n))]  # type: ignore[misc]
        return f"{self.path}: {cannot({n: types.field(n).type for n in wrong}, 'read')}" if wrong else ""

    def _foreign(self) -> str:
        """Which column keeps Polars from opening the file."""
        try:
            with pq.ParquetFile(arrow(self.path)) as file:
                schema, annotated = file.schema_arrow, _FOREIGN.search(str(file.schema))
        except (OSError, UnicodeDecodeError, pa.ArrowException):
            return ""
        strange = annotated.groups() if annotated else _first_unknown({f.name: f.type for f in schema}, _of_arrow)
        return f"{self.path}: cannot be read: {_column(*strange)}" if strange else ""

    def _unknown_to_arrow(self) -> str:
        """Which column of Polars' own keeps Arrow from opening the file."""
        strange = _first_unknown(self.own(), lambda dtype: pl.Schema({"": dtype}).to_frame().to_arrow().schema)
        return f"{self.path}: cannot be read: {_column(*strange)}" if strange else ""

    def _absent(self) -> dict[str, pl.DataType]:
        """The columns that are nulls, since the file has none of them."""
        there = self._scan().collect_schema() if self.reads else {}
        return {n: t for n, t in self.reads.items() if n not in there}

    def _as_agreed(self, chunk: pl.DataFrame) -> pl.DataFrame:
        named = {self._called(n): t for n, t in self.reads.items()}
        casts = [self._widened(chunk[n], t) for n, t in named.items() if n in chunk.columns]
        return chunk.with_columns(casts) if casts else chunk

    def _widened(self, column: pl.Series, dtype: pl.DataType) -> pl.Series:
        """The same numbers as another type."""
        wide = column.cast(dtype)
        if column.dtype.is_integer() and dtype.is_float():
            lost = column.filter(wide.cast(column.dtype, strict=False).ne_missing(column))
            if len(lost):
                what = f"column {column.name!r} has {lost[0]}, which {dtype} does not hold exactly"
                raise DataError(f"{self.path}: {what}; cast it in the source")
        return wide

    def _called(self, column: str) -> str:
        """What chunks call a column of the file, where its folders have it too."""
        return in_file(column) if column in self.partitions else column

    def _partition_columns(self, absent: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        nulls = [
            pl.lit(None, dtype=dtype).alias(in_file(n) if n in self.partitions else n) for n, dtype in absent.items()
        ]
        return nulls + [pl.lit(value, dtype=self.types[name]).alias(name) for name, value in self.partitions.items()]


def _aligned(rows: int, group: int) -> int:
    """About so many rows, such that chunks end where row groups do: a chunk of two pieces would be copied into one."""
    if not 0 < group:
        return rows
    return rows // group * group if group <= rows else math.ceil(group / math.ceil(group / rows))


@lru_cache(maxsize=256)
def _usable(schema: tuple[tuple[str, pl.DataType], ...]) -> tuple[tuple[str, pl.DataType], ...]:
    """The columns, those of a type that Polars can only name as Objects."""
    if not _fails(pl.Schema(schema).to_frame):
        return schema
    return tuple((n, pl.Object() if _fails(pl.Schema({n: t}).to_frame) else t) for n, t in schema)


def _width(dtype: pa.DataType) -> int:
    """About how many bytes a value takes; of texts and lists, nobody knows."""
    dtype = getattr(dtype, "storage_type", dtype)
    if isinstance(dtype, pa.FixedSizeListType):
        return int(dtype.list_size) * _width(dtype.value_type)
    if dtype.num_fields:
        return sum(_width(dtype.field(i).type) for i in range(dtype.num_fields))
    try:
        return max(1, int(dtype.bit_width) // 8)
    except ValueError:
        return 16


def breadth(types: Mapping[str, pl.DataType]) -> int:
    """About how many bytes a row of such columns takes."""
    return sum(_width(field.type) for field in pl.Schema(types).to_frame().to_arrow().schema)


def in_file(column: str) -> str:
    """What a file's own column is called beside the one that its folders say."""
    return f"#{column} in the file"


def write(
    frames: Iterator[pl.DataFrame],
    schema: Mapping[str, pl.DataType],
    target: Where,
    like: Batch,
    compression: Compression,
    footer: Callable[[], dict[str, str]],
    source: Source | None = None,
    added: int = 0,
) -> None:
    """Writes chunks as they come, synced to disk; `footer` is asked for after the last of them.

    Columns that the input has keep its Arrow types, nullability and metadata.

    source: the input, as what columns are carried from: the frames lack them.
    added: bytes of a row that are not the input's.

    Raises:
        DataError: where a column cannot be kept so, or the file cannot be written, as on a full disk.
    """
    carried = frozenset[str]() if source is None else source.carried
    own, new, casts = _kept(like, schema, carried)
    exact, written = _exact(own, new, schema, carried)
    last, rows, whole = pl.DataFrame(), 0, False

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal last, rows, whole
        for last in frames:
            rows += last.height
            yield last.cast(casts) if casts else last  # type: ignore[arg-type]
        whole = True

    def metadata(_: object = None) -> dict[str, str]:
        if not whole:  # a store would be given what there is, as if it were all; so it is given nothing
            raise DataError(f"{target}: cannot be written: not all rows are there")
        return {k.decode(): v.decode() for k, v in (own.metadata or {}).items()} | _arrow(exact) | footer()

    def alone(name: str) -> pa.Schema:
        return _sunk(last.select(pl.col(name).cast(new[name])), pa.schema([written.field(name)]))

    def unwritable() -> str:
        wrong = [n for n in last.columns if _fails(lambda n=n: alone(n))]  # type: ignore[misc]
        return f"{like.path}: {cannot({n: exact.field(n).type for n in wrong}, WRITTEN)}" if wrong else ""

    target.parent.mkdir(parents=True, exist_ok=True)
    with reading(target, "cannot be written", unwritable):
        if source is None:
            how = {"row_group_size": like.row_group_rows(added), "metadata": metadata, "arrow_schema": written}
            _sink(register_io_source(lambda *_: counted(), schema=pl.Schema(new)), target, compression, **how)
        else:
            with created(target) as out:
                joined = Joined(out, list(schema), source)
                for i, group in enumerate(_regrouped(counted(), source.pieces.rows)):
                    joined.add(_encoded(group, written, compression), _taken(source, i, group.height, joined.names))
                joined.close(metadata())
        there = pq.read_metadata(arrow(target)).num_rows
    if there != rows:
        raise DataError(f"{target}: cannot be written: {there} of {rows} rows are there")
    if source is not None:
        with reading(like.path):  # whose footer says some of what the output's does
            _opened(target)


def output_schema(like: Batch, schema: Mapping[str, pl.DataType], carried: frozenset[str]) -> pa.Schema:
    """What Arrow will read from what is written.

    Raises:
        DataError: where `write` would, by the types alone: before any work.
    """
    own, new, _ = _kept(like, schema, carried)
    return _exact(own, new, schema, carried)[0]


def _exact(
    own: pa.Schema, new: Mapping[str, pl.DataType], schema: Mapping[str, pl.DataType], carried: frozenset[str]
) -> tuple[pa.Schema, pa.Schema]:
    """How Arrow reads all columns, and how Polars must write those that are encoded for that."""
    exact, written = _shapes(own, new)
    return pa.schema([own.field(n) if n in carried else exact.field(n) for n in schema], exact.metadata), written


def _kept(
    like: Batch, schema: Mapping[str, pl.DataType], carried: frozenset[str]
) -> tuple[pa.Schema, dict[str, pl.DataType], dict[str, pl.DataType]]:
    """The input's types, those of the columns that are encoded, and into which some of them are cast for that."""
    own = like.arrow_schema()
    for name in (n for n in own.names if n in like.reads):
        own = own.remove(own.get_field_index(name))  # it is written as agreed, not as it was
    new = {n: t for n, t in schema.items() if n not in carried}
    casts, lost = _casts(own.serialize().to_pybytes(), tuple(new.items()))
    if lost:
        whole = like.whole(lost)
        it = "it as it lies" if len(lost) == 1 else "them as they lie"
        copied = len(whole) == len(lost) and len(set(whole.values())) == 1
        or_copied = f"; sink.compression: {whole[lost[0]]} copies {it} there" if copied else ""
        raise DataError(f"{like.path}: {cannot({n: own.field(n).type for n in lost}, WRITTEN)}{or_copied}")
    return own, new | casts, casts


def _taken(source: Source, i: int, rows: int, names: Sequence[str]) -> Iterator[tuple[Any, memoryview]]:
    """What is carried of a row group of so many rows."""
    with reading(source.path):
        yield from source.chunks(i, rows, names)


def _opened(path: Where) -> None:
    """Has Polars read a footer."""
    to, options = polars(path)
    pl.scan_parquet(to, hive_partitioning=False, glob=False, **options).select(pl.len()).collect()


def _encoded(frame: pl.DataFrame, written: pa.Schema, compression: Compression) -> bytes:
    """Rows as a Parquet file of one row group."""
    file = io.BytesIO()
    _sink(frame.lazy(), file, compression, row_group_size=frame.height, arrow_schema=written)
    return file.getvalue()


def _sink(rows: pl.LazyFrame, target: Where | io.BytesIO, compression: Compression, **how: Any) -> None:
    to, options = (target, {}) if isinstance(target, io.BytesIO) else polars(target)
    synced: Literal["all"] | None = "all" if isinstance(target, Path) else None  # a store has what it says it has
    level = 1 if compression == "zstd" else None
    rows.sink_parquet(to, compression=compression, compression_level=level, sync_on_close=synced, **options, **how)


def _regrouped(frames: Iterator[pl.DataFrame], sizes: Iterable[int]) -> Iterator[pl.DataFrame]:
    """The same rows, cut into frames of these sizes; what is left at the end is one more."""
    held, size, left = list[pl.DataFrame](), 0, iter(sizes)
    for frame in frames:
        while frame.height:
            size = size or next(left, frame.height)
            held.append(frame[:size])
            frame, size = frame[size:], size - held[-1].height
            if not size:
                yield pl.concat(held)
                held.clear()
    if held:
        yield pl.concat(held)


def write_table(table: pl.DataFrame, target: Where, made_of: str, compression: Compression) -> None:
    """Writes a pooled table, synced to disk, with what it was made of in its metadata."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with reading(target, "cannot be written"):
        _sink(table.lazy(), target, compression, metadata={"farol": made_of})


@contextmanager
def reading(path: Where, what: str = READ, blame: Callable[[], str] = str) -> Iterator[None]:
    """Turns what Polars and Arrow raise, panics too, into one line that names the file.

    blame: looks for the column that it is about, and says so instead; "" where there is none.
    """
    try:
        yield
    except FarolError:
        raise
    except BaseException as error:
        if not _theirs(error):
            raise
        try:
            said = "" if _may_pass(error) else blame()
        except BaseException as another:
            if not (isinstance(another, FarolError) or _theirs(another)):
                raise
            said = ""
        sort = Unreadable if what == READ else DataError
        why = plainly(error, path) if isinstance(path, Remote) else _first_line(error)
        raised = sort(f"{said or f'{printable(str(path))}: {what}'}: {why}")
        raised.may_pass = _may_pass(error)
        raise raised from None if isinstance(path, Remote) else error  # what a store says repeats who asked


def _may_pass(error: BaseException) -> bool:
    """Whether it is of the kind that a second try may not meet: a disk or a connection that hung."""
    told = _OS_ERROR.search(str(error))
    number = int(told[1]) if told else getattr(error, "errno", None)
    return number in _PASSING or _HUNG.search(str(error)) is not None


def _theirs(error: BaseException) -> bool:
    known = isinstance(error, OSError | UnicodeDecodeError | pl.exceptions.PolarsError | pa.ArrowException)
    return known or type(error).__name__ == "PanicException"


def _fails(tried: Callable[[], Any]) -> bool:
    """Whether it raises, or finds that something is not so."""
    try:
        return tried() is False
    except BaseException as error:
        if not _theirs(error):
            raise
        return True


def _first_unknown(types: Mapping[str, Any], to: Callable[[Any], Any]) -> tuple[str, Any] | None:
    """The first column whose type the other library does not take."""
    return next(((name, t) for name, t in types.items() if _fails(lambda t=t: to(t))), None)  # type: ignore[misc]


def _column(name: str, dtype: Any) -> str:
    said = str(dtype)
    return f"column {name!r} ({said if len(said) <= 100 else said[:99] + '…'})"


def cannot(types: Mapping[str, Any], what: str) -> str:
    """That columns cannot be carried, and how to do without them."""
    said = ", ".join(_column(name, dtype) for name, dtype in types.items())
    out = json.dumps(list(types), ensure_ascii=False)
    it = "them" if len(types) > 1 else "it"
    unless = f", unless a rule reads {it}" if what == "read" else ""
    return f"cannot be {what}: {said}; sink.columns: {{except: {out}}} leaves {it} out{unless}"


def _first_line(error: BaseException) -> str:
    return printable(first_line(error, type(error).__name__)[:300])


def _latest(column: pl.Series) -> int | None:
    """The largest count of nanoseconds in a column, however deep."""
    if isinstance(column.dtype, pl.Struct):
        inner = column.struct.unnest().get_columns()
    elif isinstance(column.dtype, pl.List | pl.Array):
        inner = [column.explode()]
    elif isinstance(column.dtype, pl.Datetime) and column.dtype.time_unit == "ns":
        return column.to_physical().max()  # type: ignore[return-value]
    else:
        return None
    return max((x for x in map(_latest, inner) if x is not None), default=None)


@lru_cache(maxsize=256)
def _casts(own: bytes, schema: tuple[tuple[str, pl.DataType], ...]) -> tuple[dict[str, pl.DataType], tuple[str, ...]]:
    """Into which types columns must be cast to be written as they were, and which cannot be.

    A scan goes by Parquet's types, and may take days for times or texts for bytes; Arrow's type then knows better.
    """
    arrow = pa.ipc.read_schema(pa.py_buffer(own))
    there = {n: t for n, t in schema if n in arrow.names}
    if _comes_back(arrow, there):
        return {}, ()
    casts, lost = {}, []
    for name, dtype in there.items():
        field = pa.schema([arrow.field(name)])
        if _comes_back(field, {name: dtype}):
            continue
        if _fails(lambda field=field: _of_arrow(field.field(0).type)):  # type: ignore[misc]
            lost.append(name)
            continue
        casts[name] = _of_arrow(field.field(0).type)
        if not _comes_back(field, {name: casts[name]}):
            lost.append(name)
    return casts, tuple(lost)


def _of_arrow(dtype: pa.DataType) -> pl.DataType:
    """What Polars makes of a type of Arrow's."""
    return pl.Schema(pa.schema([pa.field("", getattr(dtype, "storage_type", dtype))]))[""]


def _comes_back(own: pa.Schema, schema: Mapping[str, pl.DataType]) -> bool:
    """Whether columns of these types, written without rows, are read as they were; names of elements do not matter."""

    def same() -> bool:
        exact, written = _shapes(own, schema)
        back = _sunk(pl.Schema(schema).to_frame(), written, _arrow(exact))
        pairs = [(back.field(name), own.field(name)) for name in schema]
        return all(one.equals(other) and one.metadata == other.metadata for one, other in pairs)

    return not _fails(same)


def _sunk(frame: pl.DataFrame, written: pa.Schema, metadata: dict[str, str] | None = None) -> pa.Schema:
    """Writes rows into memory, and tells the schema that is read from there."""
    file = io.BytesIO()
    frame.lazy().sink_parquet(file, arrow_schema=written, metadata=metadata)
    file.seek(0)
    with pq.ParquetFile(file) as read:
        return read.schema_arrow


def _arrow(schema: pa.Schema) -> dict[str, str]:
    return {"ARROW:schema": base64.b64encode(schema.serialize().to_pybytes()).decode()}


def _shapes(own: pa.Schema, schema: Mapping[str, pl.DataType]) -> tuple[pa.Schema, pa.Schema]:
    """How Arrow reads the columns, as it did those of the input, and how Polars must write them for that.

    Of seconds Polars makes milliseconds, and Arrow would take these for seconds if it were told so.
    """
    theirs = pl.Schema(schema).to_frame().to_arrow().schema
    kept = [n in own.names and "duration[s]" not in str(own.field(n).type) for n in schema]
    fields = [own.field(n) if k else theirs.field(n) for n, k in zip(schema, kept, strict=True)]
    exact = pa.schema(fields, own.metadata or None)
    return exact, pa.schema([_as_polars(f, theirs.field(f.name)) for f in exact])


def _as_polars(own: pa.Field, theirs: pa.Field) -> pa.Field:
    """The field as Polars can write it, with the nullability and metadata of the input's, at every depth."""
    t, p = own.type, theirs.type
    if pa.types.is_dictionary(p):
        return pa.field(own.name, p, own.nullable, {**(own.metadata or {}), **(theirs.metadata or {})})
    if pa.types.is_list(t) or pa.types.is_large_list(t):
        p = pa.large_list(_as_polars(t.value_field, p.value_field))
    elif pa.types.is_fixed_size_list(t):
        p = pa.list_(_as_polars(t.value_field, p.value_field), t.list_size)
    elif pa.types.is_struct(t):
        p = pa.struct([_as_polars(t.field(i), p.field(i)) for i in range(t.num_fields)])
    elif pa.types.is_map(t):
        p = pa.map_(_as_polars(t.key_field, p.key_field), _as_polars(t.item_field, p.item_field), t.keys_sorted)
    elif pa.types.is_time64(t) or pa.types.is_fixed_size_binary(getattr(t, "storage_type", t)):
        p = t
    return pa.field(own.name, p, own.nullable, own.metadata)
