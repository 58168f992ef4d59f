"""A Delta Lake table as a sink: which files its newest version holds, and one commit for each run.

Files are registered as Farol wrote them, which changes no type; https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from attention_core.errors import DataError, FarolError, JobError, first_line
from attention_core.stores import Remote, Where, at_once, plainly

if TYPE_CHECKING:
    from deltalake import DeltaTable

LOG = "_delta_log"
APP = "farol"  # under which the table counts Farol's commits
AT = ("sink", "format")
TRIES = 5
NAIVE, NAIVE_FEATURE = "timestamp_ntz", "timestampNtz"
LACKS = "no nanoseconds, times of day, durations, UInt64, Float16 or Arrays"
_OURS = re.compile(r"(?:(.*)/)?[0-9a-f]{16}-([^/]+)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ODD, _ODD_IN_A_URL = re.compile(r"[%\\\x00-\x1f\x7f]"), re.compile(r"[%\\#?\x00-\x1f\x7f]")
_HEEDED = {
    "appendOnly",
    "invariants",
    "checkConstraints",
    "changeDataFeed",
    "timestampNtz",
    "inCommitTimestamp",
    "variantType",
    "variantType-preview",
    "vacuumProtocolCheck",
}  # features; of two of them, the settings count


class Outdated(Exception):
    """A commit that does not fit the table any more: somebody has written to it, or taken files away."""


@dataclass(frozen=True)
class Commit:
    """What a run makes of a table, beside its files: plain data, so that who finishes an interrupted one knows it.

    number: how often Farol has committed, this time included. schema: Delta's, as JSON. by: the partition columns.
    replaces: the files that are the table's no longer, by batch. values: of each new file, by batch, the values of the
    partition columns as Delta writes them; rows: how many each has.
    """

    number: int
    schema: str
    by: Sequence[str]
    replaces: Mapping[str, str]
    values: Mapping[str, Mapping[str, str | None]]
    rows: Mapping[str, int]
    job: str


@dataclass(frozen=True, eq=False)
class Version:
    """A table as it was when it was looked at; None where there is none. live: its files, by the batch that each is of;
    a file of somebody else's by its own path.
    """

    table: DeltaTable | None
    paths: Sequence[str]
    live: Mapping[str, str]


@dataclass
class Table:
    """The table that a sink is, or will be."""

    sink: Where
    _newest: Version | None = field(default=None, init=False)

    def __reduce__(self) -> Any:
        return Table, (self.sink,)  # what was seen of it stays here

    def checked(self) -> None:
        """Refuses what cannot become a table.

        Raises:
            JobError: where the library is not there, or the folder holds files that are no table's.
        """
        try:
            from deltalake.transaction import RemoveAction  # noqa: F401, which 1.6.4 has first
        except ImportError:
            what = "delta needs the package deltalake, 1.6.4 or later; pip install deltalake brings it"
            raise JobError(what, AT) from None
        odd = (_ODD_IN_A_URL if isinstance(self.sink, Remote) else _ODD).search(str(self.sink))
        if odd:
            what = f"{self.sink}: deltalake takes a {odd[0]!r} in the path of a table for something else"
            raise JobError(f"{what}; name another sink.path", AT)
        if isinstance(self.sink, Path) and within_table(*self.sink.parents):
            raise JobError(f"{self.sink} lies in a Delta table; name another sink.path", AT)
        with self._asked():
            foreign = (f for f in self.sink.rglob("*.parquet") if not _OURS.fullmatch(f.name))
            plain = None if _is_table(self.sink) else next(foreign, None)
        if plain is not None:
            what = f"{self.sink} holds Parquet files that are no Delta table's, as {plain.name}"
            raise JobError(f"{what}; name another sink.path, or move them away", AT)

    def newest(self) -> Version:
        """The newest version, as it was when this was asked first."""
        if self._newest is None:
            from deltalake import DeltaTable

            with self._asked():
                table = DeltaTable(str(self.sink)) if _is_table(self.sink) else None
                found = [] if table is None else pa.table(table.get_add_actions())["path"].to_pylist()
            paths = [unquote(path) for path in found]
            self._newest = Version(table, paths, {_batch(path): path for path in paths})
        return self._newest

    def forget(self) -> None:
        """Looks again when it is asked next."""
        self._newest = None

    def live(self) -> Mapping[str, str]:
        """The files of the newest version, by batch."""
        return self.newest().live

    def foreign(self) -> str:
        """What is wrong where others have written rows."""
        found = next((path for path in self.newest().paths if not _OURS.fullmatch(path)), None)
        if found is None:
            return ""
        what = f"has files that Farol did not write, as {found}, perhaps by optimize"
        return f"{what}; DeltaTable.restore to the version before, or name another sink.path"

    def path(self, batch: str) -> Where:
        """Where the output of a batch lies; a place where nothing does, if there is none."""
        return self.sink / self.live().get(batch, f"{LOG}/{batch}")

    def done(self) -> int:
        """How often Farol has committed."""
        table = self.newest().table
        with self._asked():
            return 0 if table is None else table.transaction_version(APP) or 0

    def takes(self, schema: str, by: Sequence[str], names: Sequence[str], leave: Collection[str]) -> None:
        """Refuses, before any work, what `commit` would.

        names: of all batches. leave: those whose files are replaced or removed.

        Raises:
            JobError: saying why.
        """
        for name in names:
            _refuse_name(name, by)
        with self._asked():
            wrong = self._objection(schema, by, leave)
        if wrong:
            raise JobError(f"{self.sink} {wrong}", AT)

    def commit(self, run: str, moves: Sequence[str], removes: Sequence[str], commit: Commit) -> None:
        """Makes a run's files the table's, in place of those that they replace; nothing where that is done already.

        Raises:
            Outdated: where that is no longer what the table was meant to become.
            DataError: where the table cannot be written to.
        """
        from deltalake.exceptions import CommitFailedError

        said = ""
        for _ in range(TRIES):
            self.forget()
            try:
                with self._asked(CommitFailedError):
                    if self.done() < commit.number:
                        self._tried(run, moves, removes, commit)
                self.forget()
                return
            except CommitFailedError as error:  # as where somebody else was faster
                said = str(error).splitlines()[0][:300]
        raise DataError(f"{self.sink}: the Delta table does not take the commit: {said}; run again")

    def _tried(self, run: str, moves: Sequence[str], removes: Sequence[str], commit: Commit) -> None:
        from deltalake import CommitProperties, Schema, TableFeatures, Transaction
        from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

        def added(name: str) -> AddAction:
            path = placed(name, run, commit.by)
            try:
                seen = (self.sink / path).stat()
            except FileNotFoundError:
                raise Outdated(f"lacks {path}, which was to be part of it") from None
            stats = json.dumps({"numRecords": commit.rows[name]})
            return AddAction(path, seen.st_size, commit.values[name], seen.st_mtime_ns // 10**6, True, stats)

        new, leave, table = at_once(added, moves, self.sink), {*moves, *removes}, self.newest().table
        wrong = self._objection(commit.schema, commit.by, leave)
        if {name: path for name, path in self.live().items() if name in leave} != commit.replaces:
            wrong = wrong or "was written to by somebody else in the meantime"
        if wrong:
            raise Outdated(wrong)
        schema, by, moment = Schema.from_json(commit.schema), list(commit.by), int(time.time() * 1000)
        said = CommitProperties({"userMetadata": commit.job}, 0, [Transaction(APP, commit.number)])
        if table is None:
            create_table_with_add_actions(
                str(self.sink), schema, new, "error", by, name=commit.job, commit_properties=said
            )
            return
        mode, old = "append", [RemoveAction(path, True, moment) for path in commit.replaces.values()]
        if _other(table, commit.schema):
            mode, old = "overwrite", []  # of all that is there, as has been seen
            if NAIVE in commit.schema and NAIVE_FEATURE not in (table.protocol().writer_features or ()):
                # a commit of its own, which changes no row: without it, nobody could read what comes
                table.alter.add_feature(TableFeatures.TimestampWithoutTimezone, True)
        table.create_write_transaction([*new, *old], mode, schema, by, commit_properties=said)

    def _objection(self, schema: str, by: Sequence[str], leave: Collection[str]) -> str:
        """What keeps a commit from being right. leave: the batches whose files are replaced or removed."""
        now = self.newest()
        if now.table is None:
            return ""
        metadata, features = now.table.metadata(), now.table.protocol()
        if foreign := self.foreign():
            return foreign
        if len(now.live) < len(now.paths):
            return "has two files of one batch; DeltaTable.restore to the version before"
        set_to = [name for name in metadata.configuration if name.startswith("delta.constraints.")]
        if metadata.configuration.get("delta.appendOnly", "").lower() == "true":
            set_to.append("delta.appendOnly")
        set_to += sorted({*(features.reader_features or ()), *(features.writer_features or ())} - _HEEDED)
        if set_to:
            return f"has {', '.join(set_to)}, which Farol does not heed; take it away, or name another sink.path"
        was = list(metadata.partition_columns)
        if was != list(by):
            what = f"is partitioned by {', '.join(was) or 'no column'}, not by {', '.join(by) or 'none'}"
            return f"{what}; name another sink.path"
        other, stay = _other(now.table, schema), sorted(now.live.keys() - leave)
        if stay and other:
            what = f"and the run differ in columns ({', '.join(other)}), and the file of {stay[0]} would stay as it is"
            return f"{what}; run once with --full, without source.where or gone: keep, or name another sink.path"
        return ""

    @contextmanager
    def _asked(self, *passing: type[Exception]) -> Iterator[None]:
        """Turns what the library raises into one line; it has no sort of its own for some of that."""
        known: tuple[type[Exception], ...] = (FarolError, Outdated, *passing)
        try:
            yield
        except known:
            raise
        except Exception as error:
            line = first_line(error, type(error).__name__)[:300]
            said = plainly(error, self.sink) if isinstance(self.sink, Remote) else line
            raise DataError(f"{self.sink}: the Delta table cannot be read or written: {said}") from None


def _is_table(folder: Where) -> bool:
    return (folder / LOG).is_dir()


def _refuse_name(name: str, by: Sequence[str]) -> None:
    """Refuses folders and files that readers of a table would not find, or read other values from.

    Raises:
        JobError: naming the batch.
    """
    pairs = [(key, value) for key, _, value in (folder.partition("=") for folder in name.split("/")[:-1]) if key in by]
    if _CONTROL.search(name):
        raise JobError(f"{name}: a control character is no part of a name in a Delta table; rename it", AT)
    if len(dict(pairs)) < len(pairs) or any("=" in value or not value for _, value in pairs):
        what = "a folder with two =, with no value, or that says what another says is read otherwise by Delta's readers"
        raise JobError(f"{name}: {what}; rename it, or source.hive: false makes it no partition", AT)


def _other(table: DeltaTable, schema: str) -> list[str]:
    """The columns that are not the same in a table and in a schema; their order is nobody's concern."""
    from deltalake import Schema

    old, new = ({f.name: (f.type, f.nullable) for f in s.fields} for s in (table.schema(), Schema.from_json(schema)))
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def refuse_table(sink: Where) -> None:
    """Refuses to write plain files among those of a table.

    Raises:
        JobError: saying so.
    """
    if within_table(sink, *(sink.parents if isinstance(sink, Path) else ())):
        what = f"{sink} is a Delta table, or lies in one, which format: delta writes"
        raise JobError(f"{what}; or name another sink.path", AT)


def within_table(*folders: Where) -> bool:
    """Whether any of these folders is a table; of those that nobody lets us look into, nothing is said."""
    for one in folders:
        with suppress(OSError, DataError):
            if _is_table(one):
                return True
    return False


def placed(batch: str, run: str, by: Sequence[str]) -> str:
    """Where a run puts the output of a batch: older versions keep their own files.

    A folder's `=` is written otherwise unless it says a partition: some readers believe it, whatever the table says.
    """
    *folders, name = batch.split("/")
    said = [f for f in folders if "=" in f and f.partition("=")[0] in by]
    kept = [f if f in said else f.replace("%", "%25").replace("=", "%3D") for f in folders]
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


def schema_of(columns: pa.Schema) -> str:
    """Delta's schema of these columns, as JSON; all may be null."""
    from deltalake import Schema

    return str(Schema.from_arrow(pa.schema({f.name: _delta(f.type) for f in columns})).to_json())


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
        return pa.map_(dtype.key_type if dtype.key_type in _WIDER else _delta(dtype.key_type), _delta(dtype.item_type))
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
