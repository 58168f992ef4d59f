"""What is new, changed and done: read from the footers of the outputs, and from what the last run published."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash

from attention_core.batches import reading
from attention_core.stores import Remote, Seen, Where, arrow

NUMERICS = 2  # raised when the bits of results change

Status = Literal["new", "changed", "done", "to be hashed", "depends on the fit"]


@dataclass(frozen=True)
class Fingerprint:
    """Which content an input has: its size, times and etag, and the hash of its bytes where they were read."""

    size: int
    mtime_ns: int
    ctime_ns: int
    hash: str = ""
    etag: str = ""

    @staticmethod
    def of(path: Where) -> Fingerprint:
        """From the file system or the store alone; nothing is read."""
        with reading(path):
            stat = path.stat()
        if isinstance(stat, Seen):
            return Fingerprint(stat.st_size, stat.st_mtime_ns, stat.st_mtime_ns, etag=stat.etag)
        return Fingerprint(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def hashed(self, path: Where) -> Fingerprint:
        """With the hash of the content (xxh3, 128 bits)."""
        hasher = xxhash.xxh3_128()
        with reading(path):
            for block in _blocks(path):
                hasher.update(block)
        return replace(self, hash=hasher.hexdigest())

    def untouched(self, other: Fingerprint) -> bool:
        """Whether size, times and etag are the same, so that nothing need be hashed."""
        return replace(self, hash="") == replace(other, hash="")


@dataclass(frozen=True)
class Footer:
    """What an output says of itself, under the key `farol` of its Parquet metadata."""

    name: str
    input: Fingerprint
    rules: str
    options: str
    statistics: str
    versions: Mapping[str, str]
    rows: int
    health: Mapping[str, Any]

    @staticmethod
    def read(path: Where) -> Footer | None:
        """The footer of an output; None where there is no file, or none that Farol wrote."""
        try:
            return Footer.of(json.loads(_said(path)["farol"]))
        except (KeyError, ValueError, pl.exceptions.PolarsError, pa.ArrowException, OSError):
            return None

    @staticmethod
    def of(said: Any) -> Footer | None:
        """The footer that this plain data is; None where it is none."""
        try:
            return Footer(**{**said, "input": Fingerprint(**said["input"])})
        except (KeyError, TypeError):
            return None

    def metadata(self) -> dict[str, str]:
        return {"farol": json.dumps(asdict(self), sort_keys=True)}


def pooled_of(table: Where) -> str:
    """What a pooled table says it was made of; empty where it is not there, or says nothing."""
    try:
        return _said(table).get("farol", "")
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError):
        return ""


def _said(path: Where) -> Mapping[str, str]:
    """The texts in a file's footer; none where there is no file."""
    if isinstance(path, Path):
        return pl.read_parquet_metadata(path) if path.is_file() else {}
    metadata = pq.read_metadata(arrow(path)).metadata or {}
    return {key.decode(): text.decode() for key, text in metadata.items()}


def _blocks(path: Where) -> Iterator[bytes]:
    if isinstance(path, Remote):
        yield from path.blocks()
        return
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def versions() -> dict[str, str]:
    """What the bits of a result may depend on."""
    return {"numerics": str(NUMERICS), "torch": torch.__version__.split("+")[0]}


@dataclass(frozen=True)
class Entry:
    """A batch in a plan: what is to be done with it, and why."""

    name: str
    status: Status
    why: str = ""


def compare(
    name: str, now: Fingerprint, footer: Footer | None, published: Fingerprint | None, rules: str, options: str
) -> Entry:
    """What an output's footer says of an input as it is now. `published`: the input as the last run saw it."""
    if footer is None:
        return Entry(name, "new")
    for was, now_is, what in ((footer.rules, rules, "rules"), (footer.options, options, "output options")):
        if was != now_is:
            return Entry(name, "changed", what)
    if footer.input.size != now.size or (now.hash and footer.input.hash != now.hash):
        return Entry(name, "changed", "input")
    known = now.hash or footer.input.untouched(now)
    known = known or (published is not None and published.untouched(now) and published.hash == footer.input.hash)
    return Entry(name, "done") if known else Entry(name, "to be hashed", "its times moved")
