"""Files that a job names: where they are, and what is in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationInfo

from attention_core.errors import JobError
from attention_core.stores import Remote, Where, located


def based(path: str | Where, where: str, info: ValidationInfo) -> Where:
    """A path relative to what its place in the job file says: the file's folder, or the working directory."""
    if isinstance(path, Remote) or "://" in str(path):
        return located(path)
    base = (info.context or {}).get("base")
    root: Path = base(where) if base is not None else Path.cwd()
    return Path(*(root / path).parts) if ".." not in Path(path).parts else Path(_plain(root / path))


def content(path: str, at: tuple[str, ...]) -> tuple[bytes, str]:
    """The bytes of a file that a rule names, and 32 hexadecimal digits that stand for them.

    at: the entry that names it.

    Raises:
        JobError: where it cannot be read.
    """
    try:
        read = Path(path).read_bytes()
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}", at) from None
    return read, hashlib.blake2b(read, digest_size=16).hexdigest()


def _plain(path: Path) -> str:
    """Without `..`, and without looking at links."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop() if len(parts) > 1 else None
        else:
            parts.append(part)
    return str(Path(*parts))
