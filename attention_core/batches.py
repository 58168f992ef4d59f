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


@dataclass(frozen=True)
class Batch:
    """One input file. name: its path under its root, with forward slashes; partitions: what its folders say."""

    path: Path
    name: str
    partitions: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, pl.DataType] = field(default_factory=dict)

    def columns(self) -> dict[str, pl.DataType]:
        """The columns that rules see: the file's own, and the folders' instead of the file's where both have one."""
        with reading(self.path):
            own = dict(pl.scan_parquet(self.path, hive_partitioning=False, glob=False).collect_schema())
        return own | dict(self.types)

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
        with pq.ParquetFile(self.path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        rows = max((g.num_rows for g in groups), default=0)
        if not rows:
            return None
        per_row = max(sum(g.total_byte_size for g in groups) / max(sum(g.num_rows for g in groups), 1), 1)
        return max(1, min(rows, int(ROW_GROUP_BYTES / per_row)))

    def read(self, columns: Sequence[str] | None, rows: int) -> Iterator[tuple[int, pl.DataFrame]]:
        """The file in chunks of at most `rows` rows, each with where it starts; partitions are columns too."""
        with reading(self.path):
            lazy = pl.scan_parquet(self.path, hive_partitioning=False, glob=False)
            if columns is not None:
                own = [c for c in columns if c not in self.partitions]
                lazy = lazy.select(own or lazy.collect_schema().names()[:1])
            start, folders = 0, self._partition_columns()
            for frame in lazy.collect_batches(chunk_size=rows, maintain_order=True):
                for chunk in frame.iter_slices(rows):
                    yield start, chunk.with_columns(folders) if folders else chunk
                    start += chunk.height

    def _partition_columns(self) -> list[pl.Expr]:
        return [pl.lit(value, dtype=self.types[name]).alias(name) for name, value in self.partitions.items()]


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
    return [(0, int(p), p) if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


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
    own, added = like.arrow_schema(), pl.Schema(schema).to_frame().to_arrow().schema
    fields = [own.field(n) if n in own.names else added.field(n) for n in schema]
    exact = pa.schema(fields, metadata=own.metadata)
    kept = {k.decode(): v.decode("utf-8", "surrogateescape") for k, v in (own.metadata or {}).items()}

    def metadata(_: object) -> dict[str, str]:
        arrow = base64.b64encode(exact.serialize().to_pybytes()).decode()
        return {k: v for k, v in kept.items() if k != "farol"} | {"ARROW:schema": arrow} | footer()

    def source(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[pl.DataFrame]:
        yield from frames

    target.parent.mkdir(parents=True, exist_ok=True)
    with reading(target, "cannot be written"):
        register_io_source(source, schema=pl.Schema(schema)).sink_parquet(
            target,
            compression=compression,
            compression_level=1 if compression == "zstd" else None,
            row_group_size=like.row_group_rows(),
            sync_on_close="all",
            metadata=metadata,
            arrow_schema=pa.schema([_large(f) for f in fields]),
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


def _files(path: str) -> tuple[Path, list[Path]]:
    """The root of a source's path and the files under it."""
    if "://" in path:
        raise JobError(f"{path}: object stores cannot be read yet; name a local path", ("source", "path"))
    if _WILD.search(path) and not Path(path).exists():
        before = Path(path[: _WILD.search(path).start()])  # type: ignore[union-attr]
        root = before if path[: _WILD.search(path).start()].endswith("/") else before.parent  # type: ignore[union-attr]
        files = [Path(f) for f in glob.glob(path, recursive=True) if Path(f).is_file() and not _farols(Path(f), root)]
        if not files:
            raise JobError(f"no file matches {path}", ("source", "path"))
        return root, files
    root = Path(path)
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
    """An integer or a date where all values of a partition column are, else text."""
    types: dict[str, pl.DataType] = {}
    for key in dict.fromkeys(k for p in parts for k in p):
        values = [p[key] for p in parts if p.get(key) is not None]
        for dtype in (pl.Int64(), pl.Date(), pl.String()):
            if all(_fits(v, dtype) for v in values):
                types[key] = dtype
                break
    return types


def _fits(value: str | None, dtype: pl.DataType) -> bool:
    try:
        _typed(value, dtype)
    except ValueError:
        return False
    return True


def _typed(value: str | None, dtype: pl.DataType) -> Any:
    if value is None or dtype == pl.String:
        return value
    return int(value) if dtype == pl.Int64 else dt.date.fromisoformat(value)


def _large(f: pa.Field) -> pa.Field:
    """The field as Polars takes it, with large forms of text, bytes and lists, at every depth."""
    return pa.field(f.name, _large_type(f.type), f.nullable, f.metadata)


def _large_type(t: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(t):
        return pa.dictionary(pa.uint32(), pa.large_string(), t.ordered)
    if pa.types.is_string(t) or pa.types.is_string_view(t):
        return pa.large_string()
    if pa.types.is_binary(t) or pa.types.is_binary_view(t):
        return pa.large_binary()
    if pa.types.is_list(t) or pa.types.is_large_list(t):
        return pa.large_list(_large(t.value_field))
    if pa.types.is_fixed_size_list(t):
        return pa.list_(_large(t.value_field), t.list_size)
    if pa.types.is_struct(t):
        return pa.struct([_large(t.field(i)) for i in range(t.num_fields)])
    if pa.types.is_map(t):
        return pa.map_(_large(t.key_field), _large(t.item_field), t.keys_sorted)
    if pa.types.is_time32(t):
        return pa.time64("ns")
    if pa.types.is_timestamp(t) and t.unit == "s":
        return pa.timestamp("ms", t.tz)
    return t
