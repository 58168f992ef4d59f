"""Vectors as Arrow decodes them: so few at a time that they stay in the cache, where they take half as long as they
take Polars; and the numbers beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

NUMBERS = 1 << 18  # of a column, decoded at once
READ_AHEAD = 1 << 18  # bytes


def plain(schema: pa.Schema, types: Mapping[str, pl.DataType]) -> list[str]:
    """The columns of numbers, and of vectors of them, that Polars (types) reads as what Arrow does."""
    return [n for n, ours in types.items() if _plain(schema.field(n).type, ours)]


def _plain(theirs: pa.DataType, ours: pl.DataType) -> bool:
    if isinstance(ours, pl.Array):
        size, inner = ours.size, pl.Schema({"": ours.inner})[""]
        return pa.types.is_fixed_size_list(theirs) and 0 < size == theirs.list_size and _plain(theirs.value_type, inner)
    number = pa.types.is_integer(theirs) or pa.types.is_floating(theirs)
    return number and pl.Schema(pa.schema([pa.field("", theirs)]))[""] == ours


def _numbers(dtype: pa.DataType) -> int:
    """How many a value holds, at every depth."""
    return int(dtype.list_size) * _numbers(dtype.value_type) if pa.types.is_fixed_size_list(dtype) else 1


class Vectors:
    """Some columns of a file, read from its start."""

    def __init__(self, file: Any, names: Sequence[str]) -> None:
        self.names = list(names)
        self.file = pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_AHEAD, page_checksum_verification=True)
        widest = max(_numbers(self.file.schema_arrow.field(name).type) for name in names)
        rows = max(1, NUMBERS // widest)
        self.pieces = self.file.iter_batches(batch_size=rows, columns=self.names, use_threads=False)
        self.left: pa.RecordBatch | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()

    def frames(self, rows: int) -> Iterator[pl.DataFrame]:
        """All rows, so many at a time."""
        while (frame := self._next(rows)).height:
            yield frame

    def take(self, rows: int) -> list[pl.Series]:
        """The columns of the next rows.

        Raises:
            ArrowInvalid: where there are not so many.
        """
        found = self._next(rows)
        if found.height < rows:
            raise pa.ArrowInvalid(f"{found.height} of {rows} rows can be decoded")
        return found.get_columns()

    def _next(self, rows: int) -> pl.DataFrame:
        held = list[pa.RecordBatch]()
        while rows and (piece := self.left or next(self.pieces, None)) is not None:
            held.append(piece[:rows])
            self.left, rows = piece[rows:] if len(piece) > rows else None, rows - len(held[-1])
        if not held:
            return pl.DataFrame()
        whole = pa.Table.from_batches([*held, held[0][:0]]).select(self.names)  # two or more are copied into one:
        found = pl.from_arrow(whole.combine_chunks(memory_pool=_heap()))  # Polars takes no part of vectors with nulls
        assert isinstance(found, pl.DataFrame)
        return found


def _heap() -> pa.MemoryPool:
    """Not the one that pieces come from, in which such large ones would leave holes."""
    return pa.mimalloc_memory_pool() if "mimalloc" in pa.supported_memory_backends() else pa.default_memory_pool()
