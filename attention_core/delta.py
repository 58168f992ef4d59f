"""A Delta Lake table as a sink: which files its newest version holds, and one commit for each run.

Files are registered as Farol wrote them, which changes no type; https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from attention_core.errors import DataError, JobError
from attention_core.stores import Remote, Where, at_once, plainly

if TYPE_CHECKING:
    from deltalake import DeltaTable

LOG = "_delta_log"
APP = "farol"  # under which the table counts Farol's commits
AT = ("sink", "format")
_OURS = re.compile(r"(?:(.*)/)?[0-9a-f]{16}-([^/]+)", re.DOTALL)


@dataclass(frozen=True)
class Commit:
    """What a run makes of a table, beside its files: plain data, so that who finishes an interrupted one knows it.

    version: how often Farol has committed, this time included. schema: Delta's, as JSON. by: the partition columns.
    values: of each new file, by batch, the values of those as Delta writes them; rows: how many each has.
    """

    version: int
    schema: str
    by: Sequence[str]
    values: Mapping[str, Mapping[str, str | None]]
    rows: Mapping[str, int]
    job: str


@dataclass
class Table:
    """The table that a sink is, or will be."""

    sink: Where
    _live: dict[str, str] | None = field(default=None, init=False)

    def checked(self) -> None:
        """Refuses what cannot become a table, or be written to as one.

        Raises:
            JobError: where the library is not there, or the folder holds files that are no table's.
        """
        try:
            from deltalake.transaction import RemoveAction  # noqa: F401, which 1.6.4 has first
        except ImportError:
            what = "delta needs the package deltalake, of version 1.6.4 at least; pip install 'farol[delta]' brings it"
            raise JobError(what, AT) from None
        if "%" in str(self.sink):
            what = f"{self.sink}: deltalake takes a % in the path of a table for another sign"
            raise JobError(f"{what}; name another sink.path", AT)
        foreign = (f for f in self.sink.rglob("*.parquet") if not _OURS.fullmatch(f.name))
        if not (self.sink / LOG).is_dir() and next(foreign, None) is not None:
            raise JobError(f"{self.sink} holds Parquet files that are no Delta table's; name another sink.path", AT)

    def live(self) -> Mapping[str, str]:
        """The files of the newest version, by the batch that each is of; a file of somebody else's by its own path."""
        if self._live is None:
            table = self._opened()
            found = [] if table is None else pa.table(table.get_add_actions())["path"].to_pylist()
            self._live = {_batch(path): path for path in map(unquote, found)}
        return self._live

    def forget(self) -> None:
        """Looks again when it is asked next."""
        self._live = None

    def path(self, batch: str) -> Where:
        """Where the output of a batch lies; a place where nothing does, if there is none."""
        return self.sink / self.live().get(batch, f"{LOG}/{batch}")

    def next(self) -> int:
        """The number of the next commit of Farol's."""
        table = self._opened()
        return 1 + ((table.transaction_version(APP) or 0) if table is not None else 0)

    def takes(self, schema: str, by: Sequence[str], stay: Sequence[str]) -> None:
        """Refuses a commit that would leave files of other columns in the table.

        stay: the batches whose files stay.

        Raises:
            JobError: saying which columns.
        """
        table = self._opened()
        if table is None:
            return
        was = list(table.metadata().partition_columns)
        if was != list(by):
            what = f"{self.sink} is partitioned by {', '.join(was) or 'no column'}, not by {', '.join(by) or 'none'}"
            raise JobError(f"{what}; name another sink.path", AT)
        other = _other(table, schema)
        if stay and other:
            what = f"{self.sink} has other columns ({', '.join(other)}), and the file of {stay[0]} would keep them"
            raise JobError(f"{what}; sink.gone: remove, or no source.where, or another sink.path", AT)

    def commit(self, run: str, moves: Sequence[str], removes: Sequence[str], commit: Commit) -> None:
        """Makes a run's files the table's, in place of those that they replace; nothing where that is done already.

        Raises:
            DataError: where the table cannot be written to.
        """
        from deltalake import CommitProperties, Schema, Transaction
        from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

        table, moment = self._opened(), int(time.time() * 1000)
        self.forget()
        if table is not None and (table.transaction_version(APP) or 0) >= commit.version:
            return
        live = self.live()

        def added(name: str) -> AddAction:
            path = placed(name, run, commit.by)
            seen = (self.sink / path).stat()
            stats = json.dumps({"numRecords": commit.rows[name]})
            return AddAction(path, seen.st_size, commit.values[name], seen.st_mtime_ns // 10**6, True, stats)

        new = at_once(added, moves, self.sink)
        gone = [live[name] for name in (*moves, *removes) if name in live]
        schema, by = Schema.from_json(commit.schema), list(commit.by)
        said = CommitProperties(
            custom_metadata={"userMetadata": commit.job}, app_transactions=[Transaction(APP, commit.version)]
        )
        with self._asked():
            if table is None:
                create_table_with_add_actions(
                    str(self.sink), schema, new, partition_by=by, name=commit.job, commit_properties=said
                )
            elif _other(table, commit.schema):  # which all files leave, as `takes` has seen
                if not live.keys() <= {*moves, *removes}:
                    raise ValueError("somebody has added files to it while this run wrote other columns")
                table.create_write_transaction([*new], "overwrite", schema, by, commit_properties=said)
            else:
                old = [RemoveAction(path, True, moment) for path in gone]
                table.create_write_transaction([*new, *old], "append", schema, by, commit_properties=said)
        self.forget()

    def _opened(self) -> DeltaTable | None:
        from deltalake import DeltaTable

        if not (self.sink / LOG).is_dir():
            return None
        with self._asked():
            return DeltaTable(str(self.sink))

    @contextmanager
    def _asked(self) -> Iterator[None]:
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (DeltaError, OSError, ValueError) as error:
            said = plainly(error, self.sink) if isinstance(self.sink, Remote) else str(error).strip().splitlines()[0]
            raise DataError(f"{self.sink}: the Delta table cannot be read or written: {said}") from None


def _other(table: DeltaTable, schema: str) -> list[str]:
    """The columns that are not the same in a table and in a schema; their order is nobody's concern."""
    from deltalake import Schema

    old, new = ({f.name: f for f in s.fields} for s in (table.schema(), Schema.from_json(schema)))
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def refuse_table(sink: Where) -> None:
    """Refuses to write plain files among those of a table.

    Raises:
        JobError: saying so.
    """
    if (sink / LOG).is_dir():
        raise JobError(f"{sink} is a Delta table; delta writes to it, or name another sink.path", AT)


def within_table(folder: Where) -> bool:
    """Whether a folder is a table, or lies in one."""
    return any((one / LOG).is_dir() for one in (folder, *folder.parents))


def placed(batch: str, run: str, by: Sequence[str]) -> str:
    """Where a run puts the output of a batch: older versions keep their own files.

    A folder's `=` is written otherwise unless it says a partition: some readers believe it, whatever the table says.
    """
    *folders, name = batch.split("/")
    kept = [f if f.partition("=")[0] in by else f.replace("%", "%25").replace("=", "%3D") for f in folders]
    return "/".join([*kept, f"{run}-{name}"])


def _batch(path: str) -> str:
    """The batch of which this is the output, as `placed` has put it."""
    found = _OURS.fullmatch(path)
    if found is None:
        return path
    folders = [f if "=" in f else unquote(f) for f in (found[1] or "").split("/") if f]
    return "/".join([*folders, found[2]])


def unknown(columns: pa.Schema) -> dict[str, pa.DataType]:
    """The columns of types that Delta does not have, or that readers of it would take for others."""
    return {f.name: f.type for f in columns if not _comes_back(_delta(f.type))}


def schema_of(columns: pa.Schema, folders: Mapping[str, pa.DataType]) -> str:
    """Delta's schema, as JSON, of files with these columns, in folders that say those; all may be null."""
    from deltalake import Schema

    types = {f.name: _delta(f.type) for f in columns} | dict(folders)
    return str(Schema.from_arrow(pa.schema(types)).to_json())


_WIDER = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64()}


def _delta(dtype: pa.DataType) -> pa.DataType:
    """What Delta knows that holds the same values: how texts lie in memory is Arrow's alone, and so are zones."""
    t = pa.types
    if t.is_dictionary(dtype):
        return _delta(dtype.value_type)
    if t.is_large_string(dtype) or t.is_string_view(dtype):
        return pa.string()
    if t.is_large_binary(dtype) or t.is_binary_view(dtype) or t.is_fixed_size_binary(dtype):
        return pa.binary()
    if t.is_list(dtype) or t.is_large_list(dtype):
        return pa.list_(pa.field("element", _delta(dtype.value_type)))
    if t.is_struct(dtype):
        return pa.struct({f.name: _delta(f.type) for f in dtype})
    if t.is_map(dtype):
        return pa.map_(_delta(dtype.key_type), _delta(dtype.item_type))
    if t.is_timestamp(dtype) and dtype.unit in ("ms", "us"):
        return pa.timestamp("us", "UTC" if dtype.tz else None)
    return _WIDER.get(dtype, dtype)


def _comes_back(dtype: pa.DataType) -> bool:
    """Whether Delta has the type; its nanoseconds are a feature that few readers know."""
    from deltalake import Schema

    if "timestamp[ns" in str(dtype):
        return False
    try:
        back = pa.schema(Schema.from_arrow(pa.schema({"": dtype})).to_arrow())
    except Exception:  # the library has no name for it
        return False
    return bool(back.field(0).type == dtype)
