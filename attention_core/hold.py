"""One writer at a time: a lease on a sink that dies with its holder, on this machine and across machines."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from attention_core.errors import FarolError, SinkBusy

SECONDS = 30.0  # without a sign of life, after which the holder on another machine counts as dead

Check = Callable[[], None]


@contextmanager
def held(lock: Path, what: Path) -> Iterator[Check]:
    """Holds a lease while the block runs. Gives a check that the lease is still this one's.

    A holder that died on this machine is replaced at once. One on another machine is watched for a while: it may have
    died, or be slow; so may this one, and it is replaced in turn. Hence the check, before anything is published.

    Raises:
        SinkBusy: while another run holds it; and of the check, where another run took it over.
    """
    lease = SoftFileLease(lock, lease_duration=SECONDS, timeout=0)
    try:
        _acquire(lease, lock)
    except (Timeout, LeaseSettingsMismatch):
        raise SinkBusy(f"{what}: another run holds this sink; wait for it, or give this job its own") from None
    token = f"token={lease.token}"

    def check() -> None:
        if token not in _said(lock):
            raise SinkBusy(f"{what}: another run took this sink over while this one stood still; it publishes nothing")

    try:
        yield check
    except FarolError:
        check()  # what failed may have failed since another run took its files away
        raise
    finally:
        lease.release()


def _acquire(lease: SoftFileLease, lock: Path) -> None:
    try:
        lease.acquire()
    except Timeout:
        if f"host={socket.gethostname()}" in _said(lock):
            raise
        lease.acquire(timeout=1.5 * SECONDS)


def _said(lock: Path) -> list[str]:
    try:
        return lock.read_text(errors="replace").splitlines()
    except OSError:
        return []
