"""Parquet in chunks; Parquet out in one piece. The only module that knows Polars' streaming."""

from __future__ import annotations

import base64
import datetime as dt
import glob
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from attention_core.errors import DataError, FarolError, JobError

ROW_GROUP_BYTES = 128 << 20
_WILD = re.compile(r"[*?\[]")
_HIVE = re.compile(r"^([^=]+)=(.*)$")
_WHOLE = re.compile(r"^-?[0-9]{1,19}$")


@dataclass(frozen=True)
class Batch:
    """One input file. name: its path under its root, with forward slashes; partitions: what its folders say."""

    path: Path
    name: str
    partitions: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, pl.DataType] = field(default_factory=dict)

    def own(self) -> dict[str, pl.DataType]:
        """The columns that the file itself has."""
        with reading(self.path):
            return dict(pl.scan_parquet(self.path, hive_partitioning=False, glob=False).collect_schema())

    def arrow_schema(self) -> pa.Schema:
        """The file's schema, as it is written in it."""
        with reading(self.path):
            return pq.read_schema(self.path)

    def rows(self) -> int:
        """How many rows the row groups hold.

        Raises:
            DataError: where the footer counts others, since Polars would read that many without a word.
        """
        with reading(self.path), pq.ParquetFile(self.path) as file:
            counted = sum(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
            if counted != file.metadata.num_rows:
                raise DataError(f"{self.path}: the footer counts {file.metadata.num_rows} rows, its parts {counted}")
            return int(counted)

    def row_group_rows(self) -> int | None:
        """As many rows as the largest row group has, and no more than fit in 128 MiB."""
        with reading(self.path), pq.ParquetFile(self.path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        rows = max((g.num_rows for g in groups), default=0)
        if not rows:
            return None
        per_row = max(sum(g.total_byte_size for g in groups) / max(sum(g.num_rows for g in groups), 1), 1)
        return max(1, min(rows, int(ROW_GROUP_BYTES / per_row)))

    def read(self, columns: Sequence[str] | None, rows: int) -> Iterator[tuple[int, pl.DataFrame]]:
        """The file in chunks of at most `rows` rows, each with where it starts; partitions are columns too.

        An empty file is one empty chunk.

        Where the file has a column that its folders have too, all columns (None) hold it as `in_file` calls it.
        """
        with reading(self.path):
            lazy = pl.scan_parquet(self.path, hive_partitioning=False, glob=False)
            if columns is None:
                lazy = lazy.rename({c: in_file(c) for c in self.partitions}, strict=False)
            else:
                own = [c for c in columns if c not in self.partitions]
                lazy = lazy.select(own or lazy.collect_schema().names()[:1])
            start, folders = 0, self._partition_columns()
            for frame in lazy.collect_batches(chunk_size=rows, maintain_order=True):
                for chunk in frame.iter_slices(rows):
                    yield start, chunk.with_columns(folders) if folders else chunk
                    start += chunk.height
            if not start:
                yield 0, lazy.limit(0).collect().with_columns(folders)

    def _partition_columns(self) -> list[pl.Expr]:
        return [pl.lit(value, dtype=self.types[name]).alias(name) for name, value in self.partitions.items()]


def in_file(column: str) -> str:
    """What a file's own column is called beside the one that its folders say."""
    return f"#{column} in the file"


def find(paths: Sequence[str], hive: bool | str = "auto") -> tuple[Batch, ...]:
    """The batches of a source in dataset order: by path, numbers in it compared as numbers.

    paths: files, folders (searched for *.parquet) and globs, absolute.

    Raises:
        JobError: for a path that is not there, a folder without Parquet files, two batches of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        root, files = _files(path)
        for file in files:
            name = file.relative_to(root).as_posix()
            if name in found:
                what = f"{file} and {found[name]} would both be written to {name}; give each a job of its own"
                raise JobError(what, ("source", "path"))
            found[name] = file
    names = sorted(found, key=natural)
    parts = {name: _partitions(name) if hive is not False else {} for name in names}
    types = _partition_types(list(parts.values()))
    return tuple(
        Batch(found[n], n, {k: _typed(v, types[k]) for k, v in parts[n].items()}, {k: types[k] for k in parts[n]})
        for n in names
    )


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key in which numbers are compared as numbers."""
    return [(0, int(p), p) if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


Compression = Literal["zstd", "lz4", "snappy", "gzip", "uncompressed"]


def write(
    frames: Iterator[pl.DataFrame],
    schema: Mapping[str, pl.DataType],
    target: Path,
    like: Batch,
    compression: Compression,
    footer: Callable[[], dict[str, str]],
) -> None:
    """Writes chunks as they come, synced to disk; `footer` is asked for after the last of them.

    Columns that the input has keep its Arrow types, nullability and metadata.

    Raises:
        DataError: where the file cannot be written, as on a full disk.
    """
    own = like.arrow_schema()
    days = {
        n: pl.Date() for n, t in schema.items() if t != pl.Date and n in own.names and own.field(n).type == pa.date32()
    }
    schema = {**schema, **days}  # Polars takes days that once were milliseconds for times
    theirs = pl.Schema(schema).to_frame().to_arrow().schema
    fields = [_exact(own.field(n), theirs.field(n)) if n in own.names else theirs.field(n) for n in schema]
    kept = {k.decode(): v.decode() for k, v in (own.metadata or {}).items() if k != b"farol"}
    exact = pa.schema(fields, metadata=kept or None)

    def metadata(_: object) -> dict[str, str]:
        arrow = base64.b64encode(exact.serialize().to_pybytes()).decode()
        return kept | {"ARROW:schema": arrow} | footer()

    def source(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[pl.DataFrame]:
        for frame in frames:
            yield frame.cast(days) if days else frame  # type: ignore[arg-type]

    target.parent.mkdir(parents=True, exist_ok=True)
    with reading(target, "cannot be written"):
        register_io_source(source, schema=pl.Schema(schema)).sink_parquet(
            target,
            compression=compression,
            compression_level=1 if compression == "zstd" else None,
            row_group_size=like.row_group_rows(),
            sync_on_close="all",
            metadata=metadata,
            arrow_schema=pa.schema([_as_polars(f, theirs.field(f.name)) for f in fields]),
        )


def write_table(table: pl.DataFrame, target: Path, made_of: str, compression: Compression) -> None:
    """Writes a pooled table, synced to disk, with what it was made of in its metadata."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with reading(target, "cannot be written"):
        level = 1 if compression == "zstd" else None
        metadata = {"farol": made_of}
        table.lazy().sink_parquet(
            target, compression=compression, compression_level=level, sync_on_close="all", metadata=metadata
        )


@contextmanager
def reading(path: Path, what: str = "cannot be read") -> Iterator[None]:
    """Turns what Polars and Arrow raise, panics too, into one line that names the file."""
    try:
        yield
    except FarolError:
        raise
    except (OSError, pl.exceptions.PolarsError, pa.ArrowException) as error:
        raise DataError(f"{path}: {what}: {_first_line(error)}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{path}: {what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def searched(path: str) -> Path:
    """Where the files of a source's path are looked for: the folder, the part before a wildcard, or the one file."""
    wild = _WILD.search(path)
    if wild is None or Path(path).exists():
        return Path(path)
    before = path[: wild.start()]
    return Path(before) if before.endswith("/") else Path(before).parent


def _files(path: str) -> tuple[Path, list[Path]]:
    """The root of a source's path and the files under it."""
    if "://" in path:
        raise JobError(f"{path}: object stores cannot be read yet; name a local path", ("source", "path"))
    root = searched(path)
    if root != Path(path):
        files = [Path(f) for f in glob.glob(path, recursive=True) if Path(f).is_file() and not _farols(Path(f), root)]
        if not files:
            raise JobError(f"no file matches {path}", ("source", "path"))
        return root, files
    if root.is_file():
        return root.parent, [root]
    if not root.is_dir():
        raise JobError(f"there is no file or folder {path}", ("source", "path"))
    files = [f for f in root.rglob("*.parquet") if f.is_file() and not _farols(f, root)]
    if not files:
        raise JobError(f"{path} holds no *.parquet file", ("source", "path"))
    return root, files


def _farols(file: Path, root: Path) -> bool:
    return any(part.endswith(".farol") for part in file.relative_to(root).parts[:-1])


def _partitions(name: str) -> dict[str, str | None]:
    found = [_HIVE.match(part) for part in name.split("/")[:-1]]
    values = {m[1]: unquote(m[2]) for m in found if m}
    return {k: None if v == "__HIVE_DEFAULT_PARTITION__" else v for k, v in values.items()}


def _partition_types(parts: list[dict[str, str | None]]) -> dict[str, pl.DataType]:
    """An integer or a date where all values of a partition column are, as Polars has it, else text."""
    types: dict[str, pl.DataType] = {}
    for key in dict.fromkeys(k for p in parts for k in p):
        values = [p[key] for p in parts if p.get(key) is not None]
        types[key] = next(t for t in (pl.Int64(), pl.Date(), pl.String()) if all(_fits(v, t) for v in values))
    return types


def _fits(value: str | None, dtype: pl.DataType) -> bool:
    if dtype == pl.String or value is None:
        return True
    try:
        read = _typed(value, dtype)
    except ValueError:
        return False
    return abs(read) < 1 << 63 if dtype == pl.Int64 else str(read) == value


def _typed(value: str | None, dtype: pl.DataType) -> Any:
    if value is None or dtype == pl.String:
        return value
    if dtype == pl.Date:
        return dt.date.fromisoformat(value)
    if not _WHOLE.match(value):
        raise ValueError(value)
    return int(value)


def _exact(own: pa.Field, theirs: pa.Field) -> pa.Field:
    """The input's field; seconds are written as milliseconds, and a reader would take them for seconds."""
    return own.with_type(theirs.type) if "duration[s]" in str(own.type) else own


def _as_polars(own: pa.Field, theirs: pa.Field, under_null: bool = False) -> pa.Field:
    """The field as Polars can write it, with the nullability and metadata of the input's, at every depth.

    under_null: what is around it can be null, and then Polars sees a null in it too.
    """
    t, p = own.type, theirs.type
    nullable = own.nullable or under_null
    if pa.types.is_dictionary(p):
        return pa.field(own.name, p, nullable, {**(own.metadata or {}), **(theirs.metadata or {})})
    if pa.types.is_list(t) or pa.types.is_large_list(t):
        p = pa.large_list(_as_polars(t.value_field, p.value_field))
    elif pa.types.is_fixed_size_list(t):
        p = pa.list_(_as_polars(t.value_field, p.value_field, nullable), t.list_size)
    elif pa.types.is_struct(t):
        p = pa.struct([_as_polars(t.field(i), p.field(i), nullable) for i in range(t.num_fields)])
    elif pa.types.is_map(t):
        p = pa.map_(_as_polars(t.key_field, p.key_field), _as_polars(t.item_field, p.item_field), t.keys_sorted)
    elif pa.types.is_time64(t) or pa.types.is_fixed_size_binary(getattr(t, "storage_type", t)):
        p = t
    return pa.field(own.name, p, nullable, own.metadata)
