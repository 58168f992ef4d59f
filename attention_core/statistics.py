"""What all rules know of their scopes: as a value, and as files that are readable without Farol."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args
from urllib.parse import quote

import polars as pl
import torch
import xxhash
from torch import Tensor

from attention_core.batches import reading, write_table
from attention_core.columns import arrayed, booleans, components, places, series, tensor
from attention_core.contract import Kind
from attention_core.errors import DataError, JobError, briefly
from attention_core.frozen import Frozen, argument, digest
from attention_core.head import Head, Known, needs
from attention_core.publish import Place, write_whole
from attention_core.stores import Where, polars

FORM = "statistics.json"
TAUGHT = "keys"  # the column that counts how many keys taught a segment
AT = ("statistics",)


class Statistics(Frozen):
    """What all heads know, by their first weight column, and the segments that it is about, by scope."""

    known: dict[str, Known]
    keys: dict[str, pl.DataFrame]

    def of(self, head: Head, segments: pl.DataFrame | None) -> Known:
        """What a head knows of these segments alone; of those that nobody has seen, that no key taught."""
        known, keys = self.known[head.weights[0]], self.keys.get(scope(head))
        if keys is None or segments is None or known.count is None:
            return known
        if segments.schema != keys.schema:
            was = ", ".join(f"{c} {t}" for c, t in keys.schema.items())
            raise DataError(f"the groups are of other types than those that the statistics are about: {was}")
        at = places(segments, keys)
        here = known.picked(at.clamp(min=0)) if keys.height else known
        assert here.count is not None
        return here.model_copy(update={"count": torch.where(at < 0, 0, here.count)})


NOTHING = Statistics(known={}, keys={})


def scope(head: Head) -> str:
    """The name of a head's scope: heads of the same one have the same segments."""
    return "\0".join(head.over) if isinstance(head.over, tuple) else f"\0{head.over}"


@dataclass(frozen=True, eq=False)
class Published:
    """Statistics that a run published. id: of their files' bytes; taught: the batches, in order, with their hashes."""

    statistics: Statistics = NOTHING
    taught: Mapping[str, str] = field(default_factory=dict)
    id: str = ""
    folder: Where | None = None


def publish(heads: Sequence[Head], statistics: Statistics, taught: Mapping[str, str], folder: Where) -> str:
    """Writes the statistics to a folder of their own and gives their id.

    One Parquet file for each head that asks: a row a segment, with the group's columns, how many keys taught it, and
    what each kind knows, as `zscore.middle`. The JSON file beside them says which is which. What a batch or a row
    knows of itself is not among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = {}
    for i, head in enumerate(heads):
        known = statistics.known[head.weights[0]] if shared(head) else None
        rule: dict[str, Any] = {"rule": head.rule, "over": head.over, "identity": _identity(head, heads)}
        if known is not None:
            columns: list[pl.Series] = [] if known.count is None else [series(TAUGHT, known.count, None, pl.Int64())]
            kinds = [_plain(k, word(kind), columns) for kind, k in zip(head.kinds, known.kinds, strict=True)]
            keys = statistics.keys.get(scope(head))
            table = pl.DataFrame(columns) if keys is None else keys.rename(_group).hstack(columns)
            file = f"{i:02}-{quote(head.weights[0], safe=' ')[:100]}.parquet"
            write_table(table, folder / file, "", "zstd")
            rule |= {"file": file, "kinds": kinds}
        said[head.weights[0]] = rule
    write_whole(folder / FORM, json.dumps({"rules": said, "taught": dict(taught)}, indent=1))
    return _id(folder)


def read(folder: Where, heads: Sequence[Head], what: str) -> Published:
    """The statistics that a run published in a folder. what: whose they are, for people.

    Raises:
        JobError: where they are not there, or are those of other rules.
    """
    with _refused(what):
        said = json.loads((folder / FORM).read_text())
        known, keys = dict[str, Known](), dict[str, pl.DataFrame]()
        for head in heads:
            rule = said["rules"].get(head.weights[0], {})
            if rule.get("identity") != _identity(head, heads):
                fix = f"and know nothing of {head.named()} as it is here; a run with statistics: fresh publishes those"
                raise JobError(f"{what}: they are of other rules, {fix}", AT)
            if not shared(head):
                continue
            with reading(folder / rule["file"]):
                path, options = polars(folder / rule["file"])
                table = pl.read_parquet(path, **options)
            groups = [c for c in table.columns if c.startswith(_group(""))]
            if isinstance(head.over, tuple):
                keys[scope(head)] = table.select(groups).rename(lambda c: c.removeprefix(_group("")))
            kinds = tuple(_restored(p, argument(k), table) for k, p in zip(head.kinds, rule["kinds"], strict=True))
            known[head.weights[0]] = Known(count=tensor(table[TAUGHT]).clone(), kinds=kinds)
        return Published(Statistics(known=known, keys=keys), said["taught"], folder.name, folder)


def of_sink(path: Where, heads: Sequence[Head]) -> Published:
    """The statistics that the last run published to a sink. path: the sink, or its work folder.

    Raises:
        JobError: where none are there, or those of other rules.
    """
    work = path if Place[Any](path, path).last() else path.with_name(f"{path.name}.farol")
    place = Place[Any](path, work)
    last = place.last()
    if not last:
        raise JobError(f"{path}: nothing is published there; a run with statistics: fresh publishes statistics", AT)
    return read(place.statistics(last["fitted"]), heads, str(path))


def shared(head: Head) -> bool:
    """Whether a head asks a scope that crosses batches."""
    return head.asks() and head.over != "batch"


def word(kind: Kind[Any]) -> str:
    """What a kind is called in a file."""
    return str(getattr(kind, "kind", type(kind).__name__.lower()))


def _identity(head: Head, heads: Sequence[Head]) -> str:
    """The identity of what a head knows: of its own rule, and of the rules whose columns it looks at."""
    above = needs(heads)[head.weights[0]]
    return digest((head.teaching(), tuple(h.making() for h in heads if h.weights[0] in above)))


def _group(column: str) -> str:
    """What a group's column is called in a file, apart from what kinds know."""
    return f"group.{column}"


def _id(folder: Where) -> str:
    hasher = xxhash.xxh3_128()
    files: list[Where] = list(folder.iterdir())
    for file in sorted(files, key=lambda f: f.name):
        hasher.update(file.name.encode() + b"\0" + file.read_bytes())
    return hasher.hexdigest()


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except OSError:
        raise JobError(f"{what}: no statistics are there; a run with statistics: fresh publishes them", AT) from None
    except (KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise JobError(f"{what}: the statistics cannot be read ({briefly(error)})", AT) from None


def _plain(known: Any, name: str, columns: list[pl.Series]) -> Any:
    """What is known as JSON, with every tensor and table as a column of the segments' file."""
    match known:
        case Tensor() if known.ndim > 1 and not known.shape[1]:
            return {"empty": list(known.shape)}  # vectors of which nobody knows the length
        case Tensor():
            columns.append(_column(name, known))
            return {"column": name}
        case pl.DataFrame():
            columns.append(_nested(name, known, len(columns[0])))
            return {"lists": name}
        case Frozen():
            return {field: _plain(value, f"{name}.{field}", columns) for field, value in known}
    return known


def _column(name: str, known: Tensor) -> pl.Series:
    if known.ndim == 1:
        return series(name, known, None, pl.Int64() if known.dtype == torch.int64 else pl.Float64())
    there = booleans(torch.ones(len(known), dtype=torch.bool))
    return arrayed(series(name, known.reshape(-1), None, pl.Float64()), there, pl.Array(pl.Float64, known.shape[1]))


def _nested(name: str, table: pl.DataFrame, size: int) -> pl.Series:
    """A table sorted by its segment, as a list for each segment."""
    inner = pl.struct(pl.exclude("segment")).alias(name)
    lists = table.group_by("segment", maintain_order=True).agg(inner)
    every = pl.DataFrame({"segment": pl.int_range(size, eager=True)})
    return every.join(lists, on="segment", how="left", maintain_order="left")[name]


def _restored(plain: Any, hint: Any, table: pl.DataFrame) -> Any:
    match plain:
        case {"column": name}:
            column = table[name]
            if not isinstance(column.dtype, pl.Array):
                return tensor(column).clone()
            return tensor(components(column)).reshape(len(column), column.dtype.size).clone()
        case {"empty": shape}:
            return torch.empty(shape, dtype=torch.float64)
        case {"lists": name}:
            lists = table.select(pl.int_range(pl.len()).alias("segment"), pl.col(name)).drop_nulls(name)
            return lists.explode(name).unnest(name)
        case dict():
            kind = next(t for t in (hint, *get_args(hint)) if isinstance(t, type) and issubclass(t, Frozen))
            fields = kind.model_fields
            return kind(**{name: _restored(p, fields[name].annotation, table) for name, p in plain.items()})
    return plain
