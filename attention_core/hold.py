"""One writer at a time: a lease on a sink that dies with its holder, on this machine and across machines."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from attention_core.errors import DataError, FarolError, SinkBusy
from attention_core.stores import Moved, Remote, Where

SECONDS = 30.0  # without a sign of life, after which the holder on another machine counts as dead

BUSY = "another run holds this sink; wait for it, or give this job its own"
REPLACED = "another run took this sink over while this one stood still; it publishes nothing"
REFUSES = "the store refuses If-Match with the ETag that it gave itself, so no run can hold a sink there"
IGNORES = "the store ignores If-None-Match and If-Match, so two runs would not see each other"

Check = Callable[[], None]


@contextmanager
def held(lock: Where, what: Where) -> Iterator[Check]:
    """Holds a lease while the block runs. Gives a check that the lease is still this one's.

    A holder that died on this machine is replaced at once. One on another machine is watched for a while: it may have
    died, or be slow; so may this one, and it is replaced in turn. Hence the check, before anything is published.

    Raises:
        SinkBusy: while another run holds it; and of the check, where another run took it over.
    """
    if isinstance(lock, Remote):
        with Lease(lock, what).held() as of_store:
            yield of_store
        return
    lease = SoftFileLease(lock, lease_duration=SECONDS, timeout=0)
    try:
        _acquire(lease, lock)
    except (Timeout, LeaseSettingsMismatch):
        _writable(lock)  # a dead holder's lease cannot be taken over where nothing can be written
        raise SinkBusy(f"{what}: {BUSY}") from None
    except OSError as error:
        raise DataError(f"{lock}: cannot be written: {error.strerror}") from None
    check = OfFile(lock, what, f"token={lease.token}")
    try:
        yield check
    except (FarolError, OSError):
        check()  # what failed may have failed since another run took its files away
        raise
    finally:
        lease.release()


@dataclass(frozen=True)
class OfFile:
    """A check that a lease in a file is still this one's."""

    lock: Path
    what: Where
    token: str

    def __call__(self) -> None:
        try:
            said = self.lock.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            said = []
        except OSError as error:
            raise DataError(f"{self.lock}: cannot be read: {error.strerror}") from None
        if self.token not in said:
            raise SinkBusy(f"{self.what}: {REPLACED}")


@dataclass(frozen=True)
class OfObject:
    """The same of a lease in a store, for who does not hold it."""

    lock: Remote
    what: Where
    token: str

    def __call__(self) -> None:
        said, _ = _lease(self.lock)
        if said is None or said["free"] or said["token"] != self.token:
            raise SinkBusy(f"{self.what}: {REPLACED}")


class Lost:
    """Whether a lease is not its holder's any more, for who works for that one elsewhere: a run that ends gives it up.

    It is looked at once a second at most.
    """

    def __init__(self, check: Check) -> None:
        self.check, self.over, self.seen = check, False, time.monotonic()

    def __call__(self) -> bool:
        if not self.over and time.monotonic() - self.seen >= 1:
            self.seen = time.monotonic()
            try:
                self.check()
            except SinkBusy:
                self.over = True
            except FarolError:  # it cannot be seen just now
                pass
        return self.over

    def __reduce__(self) -> Any:
        return Lost, (self.check,)


def _acquire(lease: SoftFileLease, lock: Path) -> None:
    try:
        lease.acquire()
    except Timeout:
        if f"host={socket.gethostname()}" in _said(lock):
            raise
        lease.acquire(timeout=1.5 * SECONDS)


def _writable(lock: Path) -> None:
    probe = lock.with_name("lock.probe")
    try:
        probe.write_bytes(b" " * 4096)
    except OSError as error:
        raise DataError(f"{lock}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            probe.unlink()


def _said(lock: Path) -> list[str]:
    try:
        return lock.read_text(errors="replace").splitlines()
    except OSError:
        return []


class Lease:
    """A lease in an object store: an object that its holder writes anew, each time only where nobody else has.

    It says too which run is publishing, since that must be known and hold at once. Called, it checks that it is held.
    """

    def __init__(self, lock: Remote, what: Where) -> None:
        self.lock, self.what, self.token = lock, what, secrets.token_hex(16)
        self.unfinished = ""  # the run that began to publish and did not end
        self._version: Any = None
        self._renewed = -SECONDS
        self._one = threading.Lock()
        self._over = threading.Event()

    @contextmanager
    def held(self) -> Iterator[Lease]:
        """Takes the lease, and gives signs of life while the block runs."""
        self._take()
        _MINE.add(self.token)
        beats = threading.Thread(target=self._beat, name="farol-lease", daemon=True)
        beats.start()
        try:
            yield self
        except FarolError:
            with suppress(DataError):
                self.renew()  # what failed may have failed since another run took its objects away
            raise
        finally:
            self._over.set()
            beats.join()
            _MINE.discard(self.token)
            with suppress(FarolError):
                self._write(free=True)

    def __call__(self) -> None:
        """Nobody replaces who was seen a moment ago, so the store is not asked each time."""
        if time.monotonic() - self._renewed > SECONDS / 2:
            self.renew()

    def __reduce__(self) -> Any:
        return OfObject, (self.lock, self.what, self.token)

    def renew(self) -> None:
        """Gives a sign of life.

        Raises:
            SinkBusy: where another run has taken the lease.
        """
        self._write(free=False)

    def say(self, unfinished: str) -> None:
        """Says which run is publishing, "" for none.

        Raises:
            SinkBusy: where another run has taken the lease, and nothing is said.
        """
        self.unfinished = unfinished
        self._write(free=False)

    def _take(self) -> None:
        said, version = _lease(self.lock)
        if said is not None and not said["free"] and self._alive(said, version):
            raise SinkBusy(f"{self.what}: {BUSY}")
        self._version, self.unfinished = version, "" if said is None else said["unfinished"]
        try:
            self._write(free=False)
        except SinkBusy:
            raise SinkBusy(f"{self.what}: {BUSY}") from None
        self.renew()  # one that refuses does so now, and not after all the work
        with suppress(Moved):
            self.lock.write_bytes(self._text(free=False), version)
            raise DataError(f"{self.lock}: {IGNORES}")

    def _alive(self, said: dict[str, Any], version: Any) -> bool:
        """Whether the holder gives a sign of life, or is seen to be dead, or is not seen for a while."""
        if said["host"] == socket.gethostname():
            return said["token"] in _MINE or (said["pid"] != os.getpid() and _runs(said["pid"]))
        until = time.monotonic() + 1.5 * SECONDS
        while time.monotonic() < until:
            time.sleep(SECONDS / 10)
            if _lease(self.lock)[1] != version:
                return True
        return False

    def _write(self, free: bool) -> None:
        with self._one:
            now, text = time.monotonic(), self._text(free)
            try:
                self._version = self.lock.write_bytes(text, self._version)
            except Moved:
                there, version = _lease(self.lock)
                if there is not None and version == self._version:
                    raise DataError(f"{self.lock}: {REFUSES}") from None
                if there is None or there["token"] != self.token:
                    raise SinkBusy(f"{self.what}: {REPLACED}") from None
                try:
                    self._version = self.lock.write_bytes(text, version)  # the answer to what was written was lost
                except Moved:
                    raise SinkBusy(f"{self.what}: {REPLACED}") from None
            self._renewed = now

    def _text(self, free: bool) -> bytes:
        said = {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "free": free}
        said |= {"unfinished": self.unfinished, "nonce": secrets.token_hex(8)}
        return json.dumps(said, sort_keys=True).encode()

    def _beat(self) -> None:
        while not self._over.wait(SECONDS / 3):
            try:
                self.renew()
            except SinkBusy:
                return  # the next check says so
            except DataError:
                continue


_MINE: set[str] = set()  # the leases of this process


def unfinished(lock: Remote) -> str:
    """The run that began to publish and did not end; "" for none."""
    said, _ = _lease(lock)
    return "" if said is None else str(said["unfinished"])


def _lease(lock: Remote) -> tuple[dict[str, Any] | None, Any]:
    """What a lease says, and which version of it that is; `create` where there is none."""
    try:
        read, version = lock.read()
    except FileNotFoundError:
        return None, "create"
    try:
        said = json.loads(read)
        return {name: said[name] for name in ("token", "host", "pid", "free", "unfinished", "nonce")}, version
    except (ValueError, KeyError, TypeError):
        raise SinkBusy(f"{lock} is no lease of this version's; remove it if no run is alive") from None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
