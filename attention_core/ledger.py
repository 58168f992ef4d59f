"""What is new, changed and done: read from the footers of the outputs, and from what the last run published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
import xxhash

from attention_core.batches import reading

NUMERICS = 1  # raised when the bits of results change

Status = Literal["new", "changed", "done", "to be hashed", "depends on the fit"]


@dataclass(frozen=True)
class Fingerprint:
    """Which content an input has: its size and times, and the hash of its bytes where they were read."""

    size: int
    mtime_ns: int
    ctime_ns: int
    hash: str = ""

    @staticmethod
    def of(path: Path) -> Fingerprint:
        """From the file system alone; nothing is read."""
        with reading(path):
            stat = path.stat()
        return Fingerprint(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def hashed(self, path: Path) -> Fingerprint:
        """With the hash of the content (xxh3, 128 bits)."""
        hasher = xxhash.xxh3_128()
        with reading(path), path.open("rb") as file:
            while block := file.read(1 << 22):
                hasher.update(block)
        return Fingerprint(self.size, self.mtime_ns, self.ctime_ns, hasher.hexdigest())

    def untouched(self, other: Fingerprint) -> bool:
        """Whether size and times are the same, so that nothing need be hashed."""
        return (self.size, self.mtime_ns, self.ctime_ns) == (other.size, other.mtime_ns, other.ctime_ns)


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
    def read(path: Path) -> Footer | None:
        """The footer of an output; None where there is no file, or none that Farol wrote."""
        if not path.is_file():
            return None
        try:
            return Footer.of(json.loads(pl.read_parquet_metadata(path)["farol"]))
        except (KeyError, ValueError, pl.exceptions.PolarsError, OSError):
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


def pooled_of(table: Path) -> str:
    """What a pooled table says it was made of; empty where it is not there, or says nothing."""
    try:
        return pl.read_parquet_metadata(table).get("farol", "") if table.is_file() else ""
    except (pl.exceptions.PolarsError, OSError):
        return ""


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
