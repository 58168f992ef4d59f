"""Where the batches of a source are: files, folders that are searched, globs; and what their folders' names say."""

from __future__ import annotations

import datetime as dt
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote

import polars as pl

from attention_core.batches import Batch
from attention_core.delta import LOG, within_table
from attention_core.errors import DataError, JobError
from attention_core.stores import Remote, Where, located

_WILD = re.compile(r"[*?\[]")
_HIVE = re.compile(r"^([^=]+)=(.*)$")
_WHOLE = re.compile(r"^-?[0-9]{1,19}$")
AT = ("source", "path")


def find(paths: Sequence[str], hive: bool | str = "auto") -> tuple[Batch, ...]:
    """The batches of a source in dataset order: by path, numbers in it compared as numbers.

    paths: files, folders (searched for *.parquet) and globs, absolute, or URLs of them.

    Raises:
        JobError: for a path that is not there, a folder without Parquet files, two batches of one name.
    """
    found: dict[str, Where] = {}
    for path in paths:
        root, files = _files(path)
        for file in files:
            name = _below(file, root).as_posix()
            if name in found:
                what = f"{file} and {found[name]} would both be written to {name}; give each a job of its own"
                raise JobError(what, AT)
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


def searched(path: str) -> Where:
    """Where the files of a source's path are looked for: the folder, the part before a wildcard, or the one file.

    Raises:
        JobError: for a URL that names no place.
    """
    try:
        wild, whole = _WILD.search(path), located(path)
    except ValueError as error:
        raise JobError(str(error), AT) from None
    if wild is None or whole.exists():
        return whole
    before = located(path[: wild.start()])
    return before if path[: wild.start()].endswith("/") else before.parent


def _files(path: str) -> tuple[Where, Sequence[Where]]:
    """The root of a source's path and the files under it."""
    root = searched(path)
    try:
        objects = [o for o, _ in root.found()] if isinstance(root, Remote) else []
    except FileNotFoundError as error:  # of a bucket that is not there
        raise JobError(str(error), AT) from None
    if root != located(path):
        files = [f for f in _matching(path, root, objects) if not _farols(f, root)]
        if not files:
            raise JobError(f"no file matches {path}", AT)
        _refuse_tables(path, root, files, objects)
        return root, files
    if root.is_file():
        return root.parent, [root]
    if not root.is_dir():
        raise JobError(f"there is no file or folder {path}", AT)
    files = [f for f in _under(root, objects) if not _farols(f, root)]
    if not files:
        raise JobError(f"{path} holds no *.parquet file", AT)
    _refuse_tables(path, root, files, objects)
    return root, files


def _refuse_tables(path: str, root: Where, files: Sequence[Where], objects: Sequence[Remote]) -> None:
    """Refuses files of Delta tables: those of older versions lie among them. objects: all under a root in a store.

    Raises:
        JobError: naming the table.
    """
    if isinstance(root, Remote):  # which has told already of all that is in it
        parts = [o.key.split("/") for o in objects]
        folders: set[Where] = {Remote(root.bucket, "/".join(p[: p.index(LOG)])) for p in parts if LOG in p[:-1]}
    else:
        folders = {root / above for above in {p for f in files for p in _below(f, root).parents}}
    for folder in (*folders, *root.parents):
        if within_table(folder):
            what = f"{folder} is a Delta table, where files of older versions lie too"
            raise JobError(f"{path}: {what}; write its newest out as Parquet, or name the files", AT)


def _matching(path: str, root: Where, objects: Sequence[Remote]) -> Sequence[Where]:
    if isinstance(root, Remote):
        return list(root.fitting(str(located(path)).removeprefix(f"{root}/"), objects))
    parts = path[len(str(root)) :].strip("/").split("/")
    for i in range(len(parts)):  # a folder that cannot be looked into would seem to be empty
        for folder in glob.glob(os.path.join(str(root), *parts[:i], ""), recursive=True):
            _looked_into(folder)
    found = (f for f in map(Path, glob.glob(path, recursive=True)) if f.is_file() and not _behind_a_link(f, root))
    return [_itself(f) for f in found]


def _under(root: Where, objects: Sequence[Remote]) -> Iterator[Where]:
    """The Parquet files in a folder, at any depth."""
    if isinstance(root, Remote):
        yield from (o for o in objects if o.key.endswith(".parquet"))
        return
    for folder, _, names in os.walk(root, onerror=_refused):
        files = (Path(folder, name) for name in names if name.endswith(".parquet"))
        yield from (_itself(f) for f in files if f.is_file())


def _looked_into(folder: str) -> None:
    try:
        os.scandir(folder).close()
    except OSError as error:
        _refused(error)


def _refused(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be looked into: {error.strerror}; its batches would seem to be gone")


def _behind_a_link(file: Path, root: Path) -> bool:
    """Whether a folder on the way to a file is a link: what links lead to is not searched."""
    return any(p.is_symlink() for p in file.parents if root in p.parents)


def _itself(file: Path) -> Path:
    """The file that was found.

    Raises:
        JobError: where it is a link: it could lead anywhere, or to another batch.
    """
    if file.is_symlink():
        to = os.path.realpath(file)
        raise JobError(f"{file} is a link to {to}; put the file itself there, or name it in source.path", AT)
    return file


def _below(file: Where, root: Where) -> PurePath:
    """The path of a file under its root."""
    return file.relative_to(root) if isinstance(file, Remote) else file.relative_to(str(root))


def _farols(file: Where, root: Where) -> bool:
    return any(part.endswith(".farol") for part in _below(file, root).parts[:-1])


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
