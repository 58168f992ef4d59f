"""Places in object stores, asked as local paths are: `Where` is one or the other.

A store has no folders and no renames, and an object is there whole or not at all. Credentials and endpoints come from
the environment, which its clients read by themselves, so that nobody here can hold them, log them or write them.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast, final

from attention_core.errors import DataError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")
R = TypeVar("R")

SCHEMES = ("s3", "gs", "az")
AT_ONCE = 16  # requests: a store answers late, and many at once
_TAIL = 1 << 16
_BLOCK = 1 << 17  # what is smaller is gathered
_FLOW = 1 << 23
PART = 64 << 20  # of what is too large for one copy; a store takes 10,000
ONE_COPY = 5 << 30  # S3 copies no more in one request
_MAY_PASS = re.compile("error sending request|timed? ?out|connection|status code: 5|SlowDown", re.IGNORECASE)
_URL = re.compile(r"([A-Za-z0-9+.-]+)://([^/]*)/*(.*)", re.DOTALL)


class Moved(Exception):
    """An object is not as it was when it was last looked at."""


@dataclass(frozen=True)
class Seen:
    """What a store says of an object, under the names that a file system has."""

    st_size: int
    st_mtime_ns: int
    etag: str

    @property
    def st_mtime(self) -> float:
        return self.st_mtime_ns / 1e9


@final
@dataclass(frozen=True, order=True)
class Remote:
    """A key of a bucket, whether or not there is an object; what is under it counts as a folder.

    Raises:
        DataError: where the store does not answer, or refuses.
    """

    bucket: str  # as s3://name
    key: str  # without slashes at its ends; "" is the bucket itself

    @staticmethod
    def of(url: str) -> Remote:
        """From a URL.

        Raises:
            ValueError: where it is none that can be used.
        """
        found = _URL.fullmatch(url)
        if not found or found[1].lower() not in SCHEMES:
            raise ValueError(f"{url}: there are {', '.join(f'{s}://' for s in SCHEMES)} and local paths")
        parts = [p for p in found[3].split("/") if p]
        if not found[2] or "@" in found[2] or any(p in (".", "..") for p in parts):
            raise ValueError(f"{found[1]}://…: write {found[1]}://bucket/key, without . and .. and without credentials")
        return Remote(f"{found[1].lower()}://{found[2]}", "/".join(parts))

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def __truediv__(self, name: str) -> Remote:
        return Remote(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> Remote:
        return Remote(self.bucket, self.key.rpartition("/")[0])

    @property
    def parents(self) -> tuple[Remote, ...]:
        return (self.parent, *self.parent.parents) if self.key else ()

    def with_name(self, name: str) -> Remote:
        return self.parent / name

    def relative_to(self, other: Path | Remote) -> PurePosixPath:
        if not self.is_relative_to(other):
            raise ValueError(f"{self} is not under {other}")
        return PurePosixPath(self.key).relative_to(other.key if isinstance(other, Remote) else "")

    def is_relative_to(self, other: Path | Remote) -> bool:
        return other == self or other in self.parents

    def resolve(self) -> Remote:
        return self

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there once something is in it."""

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        try:
            return bool(self.key) and self.stat() is not None
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        try:
            return next(self.found(), None) is not None
        except FileNotFoundError:
            return False

    def stat(self) -> Seen:
        import obstore

        with self._asked() as store:
            return _seen(obstore.head(store, self.key))

    def read_bytes(self) -> bytes:
        return self.read()[0]

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def read(self) -> tuple[bytes, Any]:
        """The object, and which version of it that is."""
        import obstore

        with self._asked() as store:
            got = obstore.get(store, self.key)
            return bytes(got.bytes()), _version(got.meta)

    def blocks(self) -> Iterator[bytes]:
        """The object, piece by piece."""
        import obstore

        with self._asked() as store:
            for block in obstore.get(store, self.key).stream(min_chunk_size=1 << 22):
                yield bytes(block)

    def range(self, start: int, end: int) -> bytes:
        """Some of the object's bytes."""
        import obstore

        with self._asked() as store:
            return bytes(obstore.get_range(store, self.key, start=start, end=end)) if start < end else b""

    def write_bytes(self, data: bytes, over: Any = "overwrite") -> Any:
        """Puts the object, and tells which version that is. over: the version that is there, or `create` for none.

        Raises:
            Moved: where another version is there.
        """
        import obstore

        with self._asked() as store:
            try:
                try:
                    return _version(obstore.put(store, self.key, data, mode=over))
                except obstore.exceptions.PreconditionError:
                    if not isinstance(over, dict) or obstore.head(store, self.key)["e_tag"] != over["e_tag"]:
                        raise
                    bare: Any = {**over, "e_tag": over["e_tag"].strip('"')}  # as Ceph up to Reef compares it
                    return _version(obstore.put(store, self.key, data, mode=bare))
            except (obstore.exceptions.PreconditionError, obstore.exceptions.AlreadyExistsError):
                raise Moved(str(self)) from None
            except FileNotFoundError:
                if over == "overwrite":
                    raise
                raise Moved(str(self)) from None

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())

    def copy(self, to: Remote) -> None:
        """Copies within the store, and through this machine what is too large for that."""
        import obstore

        with self._asked() as store:
            if obstore.head(store, self.key)["size"] <= ONE_COPY:
                obstore.copy(store, self.key, to.key)
                return
        with to.writer() as writer:
            for block in self.blocks():
                writer.write(block)

    @contextmanager
    def writer(self) -> Iterator[_Writer]:
        """What takes the object's bytes, in order."""
        import obstore

        with self._asked() as store:
            raw = obstore.open_writer(store, self.key, buffer_size=PART)
        yield _Writer(self, raw)
        with self._asked():
            raw.close()  # which puts it there: an error before that must not

    def unlink(self, missing_ok: bool = False) -> None:
        import obstore

        try:
            with self._asked() as store:
                obstore.delete(store, self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def found(self) -> Iterator[tuple[Remote, Seen]]:
        """All objects under this key."""
        import obstore

        with self._asked() as store:
            for some in obstore.list(store, self.key or None):
                for one in some:
                    yield Remote(self.bucket, one["path"]), _seen(one)

    def rglob(self, pattern: str) -> Iterator[Remote]:
        """All objects under this key, by a pattern that is a star and an ending; of names that begin with a dot too."""
        with suppress(FileNotFoundError):
            for one, _ in self.found():
                if one.key.endswith(pattern.removeprefix("*")):
                    yield one

    def glob(self, pattern: str) -> Iterator[Remote]:
        """The objects under this key whose path fits, as files do: ** stands for any folders, * and ? for no slash."""
        with suppress(FileNotFoundError):
            yield from self.fitting(pattern, (one for one, _ in self.found()))

    def fitting(self, pattern: str, objects: Iterable[Remote]) -> Iterator[Remote]:
        """Those of these objects under this key that `glob` would give."""
        fits = re.compile(_pattern(pattern), re.DOTALL)
        return (one for one in objects if fits.fullmatch(one.relative_to(self).as_posix()))

    def iterdir(self) -> Iterator[Remote]:
        """What lies right under this key: objects and folders."""
        import obstore

        with self._asked() as store:
            there = obstore.list_with_delimiter(store, self.key or None)
        yield from (Remote(self.bucket, one["path"]) for one in there["objects"])
        yield from (Remote(self.bucket, prefix.rstrip("/")) for prefix in there["common_prefixes"])

    @contextmanager
    def _asked(self) -> Iterator[ObjectStore]:
        """The store, for one question; what goes wrong is one line, without what the store says of who asked."""
        from obstore.exceptions import BaseError

        try:
            yield _store(self.bucket)
        except FileNotFoundError as error:
            raise FileNotFoundError(plainly(error, self)) from None
        except (BaseError, OSError, ValueError) as error:
            if "NoSuchBucket" in str(error):
                raise FileNotFoundError(plainly(error, self)) from None
            failed = DataError(f"{self}: {plainly(error, self)}")
            failed.may_pass = _MAY_PASS.search(str(error)) is not None
            raise failed from None


@dataclass(frozen=True)
class _Writer:
    where: Remote
    raw: Any

    def write(self, data: bytes) -> None:
        with self.where._asked():
            self.raw.write(data)


Where = Path | Remote


def located(path: str | Path | Remote) -> Where:
    """A place by its name: a URL is one in a store."""
    if isinstance(path, Remote):
        return path
    return Remote.of(path) if isinstance(path, str) and "://" in path else Path(path)


def polars(where: Where) -> tuple[Path | str, dict[str, Any]]:
    """What Polars calls a place, and the options that it then wants: none of its own look for credentials."""
    return (where, {}) if isinstance(where, Path) else (str(where), {"credential_provider": None})


def arrow(where: Where) -> Any:
    """What Arrow reads a place from."""
    return where if isinstance(where, Path) else opened(where)


def opened(where: Where) -> BinaryIO:
    """A place, to read some of its bytes."""
    return cast(BinaryIO, open(where, "rb") if isinstance(where, Path) else _Ranges(where, where.stat()))


@contextmanager
def created(where: Where) -> Iterator[Any]:
    """A place to write to from its start, synced to disk; an object is there once all is written, and not before."""
    if isinstance(where, Path):
        with io.BufferedWriter(_Flowing(where, "wb"), _BLOCK) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    else:
        with where.writer() as writer:
            yield writer


class _Flowing(io.FileIO):
    """A file that goes to disk while it is written, so that its sync waits for the end of it alone."""

    begun = 0

    def write(self, data: Any, /) -> int:
        done = super().write(data)
        if self.tell() - self.begun >= _FLOW and hasattr(os, "posix_fadvise"):
            # Linux begins to write what it is told that nobody needs, and keeps it until then
            os.posix_fadvise(self.fileno(), self.begun, self.tell() - self.begun, os.POSIX_FADV_DONTNEED)
            self.begun = self.tell()
        return done


class _Ranges(io.RawIOBase):
    """An object as a file, of which only what is asked for is fetched: of Parquet, the footer at its end."""

    def __init__(self, where: Remote, seen: Seen) -> None:
        self._where, self._seen, self._at = where, seen, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._seen.st_size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        end, tail = min(self._at + len(buffer), self._seen.st_size), max(self._seen.st_size - _TAIL, 0)
        if self._at >= tail:
            read = _tail(self._where, self._seen)[self._at - tail : end - tail]
        else:
            read = self._where.range(self._at, end)
        buffer[: len(read)] = read
        self._at += len(read)
        return len(read)


@lru_cache(maxsize=512)
def _tail(where: Remote, seen: Seen) -> bytes:
    """The end of an object as it was seen."""
    return where.range(max(seen.st_size - _TAIL, 0), seen.st_size)


def at_once(work: Callable[[T], R], items: Sequence[T], *where: Where) -> list[R]:
    """Does some work for every item, in turn; many at once where a store is asked."""
    if not any(isinstance(one, Remote) for one in where) or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(AT_ONCE, len(items)), thread_name_prefix="farol-store") as pool:
        return list(pool.map(work, items))


def remove(*objects: Remote) -> None:
    """Removes objects, of which some may be gone."""
    at_once(lambda one: one.unlink(missing_ok=True), objects, *objects[:1])


def plainly(error: BaseException, where: Remote) -> str:
    """What went wrong in a store, in a few words: its own answers repeat the request, and with it who asked."""
    said = str(error)
    for signs, words in _WORDS:
        if any(sign in said for sign in signs):
            who = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if where.bucket.startswith("s3:") else "its variables"
            return words.format(
                bucket=where.bucket, endpoint=os.environ.get("AWS_ENDPOINT_URL") or "the store", who=who
            )
    if isinstance(error, FileNotFoundError):
        return "there is no such object"
    return re.split(r"\n|<\?xml|<Error>|\bDebug source", said, maxsplit=1)[0].strip()[:300] or type(error).__name__


_WORDS = (
    (("NoSuchBucket",), "there is no bucket {bucket}"),
    (
        ("Missing AccessKeyId", "Missing SecretAccessKey", "169.254."),
        "there are no credentials; set {who} in the environment",
    ),
    (
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "401 Unauthorized", "403 Forbidden"),
        "access is denied; who asks is said by {who} in the environment",
    ),
    (("builder error", "scheme is not allowed"), "{endpoint} is asked without TLS only where AWS_ALLOW_HTTP=true"),
    (
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "configured region"),
        "the bucket is in another region; set AWS_REGION",
    ),
    (("error sending request", "error trying to connect", "onnection refused"), "no answer from {endpoint}"),
)


@lru_cache(maxsize=64)
def _store(bucket: str) -> ObjectStore:
    from obstore.store import from_url

    return from_url(bucket, retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)})


def _seen(meta: Any) -> Seen:
    moment = int(meta["last_modified"].timestamp() * 1e6) * 1000
    return Seen(meta["size"], moment, meta["e_tag"] or meta["version"] or "")


def _version(meta: Any) -> Any:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}


def _pattern(glob: str) -> str:
    """A glob as a regular expression; what begins with a dot must be named so."""
    parts = glob.split("/")
    folders = [r"(?:(?!\.)[^/]+/)*" if part == "**" else _segment(part) + "/" for part in parts[:-1]]
    return "".join(folders) + (_segment(parts[-1]) if parts[-1] != "**" else r"(?:(?!\.)[^/]+/)*(?!\.)[^/]+")


def _segment(part: str) -> str:
    out = r"(?!\.)" if part[:1] in ("*", "?", "[") else ""
    for piece in re.findall(r"\[!?\]?[^\]]*\]|.", part, re.DOTALL):
        if piece == "*":
            out += "[^/]*"
        elif piece == "?":
            out += "[^/]"
        elif len(piece) > 2 and piece[0] == "[":
            inner = piece[1:-1].replace("\\", r"\\").replace("[", r"\[")
            out += f"[^{inner[1:]}]" if inner[0] == "!" else f"[{inner}]" if inner[0] != "^" else f"[\\{inner}]"
        else:
            out += re.escape(piece)
    return out
