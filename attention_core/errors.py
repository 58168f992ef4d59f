"""What can go wrong, as one line each: what, where, and what to do. Every error knows the exit status it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_ENDLESS = re.compile(r"\S{8000,}")


def printable(text: str) -> str:
    """A text of unknown origin, so that no terminal obeys it: what cannot be seen is written as an escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_line(error: BaseException, otherwise: str = "") -> str:
    """What an error of somebody else's says first; otherwise: where it says nothing."""
    return (str(error).strip().splitlines() or [otherwise])[0]


def briefly(error: BaseException) -> str:
    """An error of somebody else's as part of a line: its type, and what it says first."""
    return f"{type(error).__name__}: {first_line(error)}"


def _bounded(line: str) -> str:
    """The line, with words shortened that are longer than any path can be."""
    return _ENDLESS.sub(lambda word: f"{word[0][:400]}…{word[0][-40:]}", line)


class FarolError(Exception):
    """A failure that a person can act on. Its text is the whole message: no traceback is needed to understand it.

    Some speak of several things, a line each.
    """

    status = 1

    def __init__(self, what: str) -> None:
        super().__init__("\n".join(map(_bounded, map(printable, what.split("\n")))))


class JobError(FarolError):
    """The job file or the command line is wrong, or asks for what the source cannot give (exit status 2).

    at: the path of the entry in the job file, as ("attention", 1, "key"); empty where it is about none.
    """

    status = 2

    def __init__(self, what: str, at: tuple[str | int, ...] = ()) -> None:
        self.what, self.at = what, at
        super().__init__(f"{dotted(at)}: {what}" if at else what)

    def under(self, *at: str | int) -> JobError:
        """The same, of an entry that stands under another."""
        return JobError(self.what, (*at, *self.at))


class DataError(FarolError):
    """The data cannot be worked on: an unreadable file, an infinite key, a full disk (exit status 1).

    may_pass: whether to try again makes sense, as after a connection that broke.
    """

    may_pass = False


class Unreadable(DataError):
    """A file, or a column of it, that cannot be read."""


class ExpectationMissed(FarolError):
    """What `expect` asks for does not hold; nothing was published (exit status 3)."""

    status = 3


class SinkBusy(FarolError):
    """Another run holds the sink (exit status 4)."""

    status = 4


class Stopped(FarolError):
    """The run was interrupted; the sink is as it was (exit status 130)."""

    status = 130

    def __init__(self, what: str = "stopped; the sink is as it was") -> None:
        super().__init__(what)


def dotted(at: Iterable[str | int]) -> str:
    """The path of an entry as a person writes it: attention[1].score.kind."""
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of a message about a word that is not known: the nearest one that is, or all there are."""
    known = [str(w) for w in words]
    near = get_close_matches(word, known, 1, 0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    return f"; there are {shown}" if known else "; there are none"
