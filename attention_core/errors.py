"""What can go wrong, as one line each: what, where, and what to do. Every error knows the exit status it stands for."""

from __future__ import annotations


class FarolError(Exception):
    """A failure that a person can act on. Its text is the whole message: no traceback is needed to understand it."""

    status = 1


class JobError(FarolError):
    """The job file or the command line is wrong, or asks for what the source cannot give (exit status 2)."""

    status = 2


class DataError(FarolError):
    """The data cannot be worked on: an unreadable file, an infinite key, a full disk (exit status 1)."""


class ExpectationMissed(FarolError):
    """What `expect` asks for does not hold; nothing was published (exit status 3)."""

    status = 3


class SinkBusy(FarolError):
    """Another run holds the sink (exit status 4)."""

    status = 4


class Stopped(FarolError):
    """The run was interrupted; the sink is as it was (exit status 130)."""

    status = 130
