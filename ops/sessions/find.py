"""Which sessions a command means."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ops.errors import OpsError
from ops.sessions.session import FOR_EVER, HEAD, Session, masked, printable
from ops.sessions.store import Sessions

Moved = Callable[[int], None]
"""Told how many keys were looked at."""


@dataclass(frozen=True)
class Wish:
    """What was asked for: one of these.

    Attributes:
        words: names of sessions, as `list` shows them.
        user: who is logged in, exactly.
        pattern: Redis's, of ids.
        without_end: those that stay for ever.
    """

    words: tuple[str, ...] = ()
    user: str | None = None
    pattern: str | None = None
    without_end: bool = False

    def __post_init__(self) -> None:
        if sum((bool(self.words), self.user is not None, self.pattern is not None, self.without_end)) != 1:
            raise OpsError("Drop which? Name sessions, or give one of --user, --pattern and --without-end.", 2)

    def __str__(self) -> str:
        if self.user is not None:
            return f"of user {printable(self.user)}"
        if self.pattern is not None:
            return f"that match {self.pattern}"
        return "without an end" if self.without_end else f"named {', '.join(map(masked, self.words))}"


def batches(sessions: Sessions, user: str | None, moved: Moved) -> Iterator[list[Session]]:
    """All sessions, or a user's."""
    for keys in sessions.scan():
        read = sessions.read(keys, contents=user is not None)
        moved(len(keys))
        yield [one for one in read if user is None or one.user == user]


def keys(sessions: Sessions, wish: Wish, moved: Moved) -> list[bytes]:
    """The keys of the sessions that are meant.

    Raises:
        OpsError: a name means none or several; a pattern means all.
    """
    if wish.words:
        return list(dict.fromkeys(named(sessions, wish.words, moved)))
    if wish.pattern is not None:
        return _matching(sessions, wish.pattern, moved)
    found = itertools.chain.from_iterable(batches(sessions, wish.user, moved))
    return [one.key for one in found if not wish.without_end or one.left == FOR_EVER]


def _matching(sessions: Sessions, pattern: str, moved: Moved) -> list[bytes]:
    glob = pattern.encode().removeprefix(sessions.prefix)
    found: list[bytes] = []
    if said := re.sub(rb"\[[^\]]*\]|[*?]", b"", glob):
        for some in sessions.scan(glob):
            found += some
            moved(len(some))
    if not said or (len(found) > 1 and sum(map(len, sessions.scan())) <= len(found)):
        raise OpsError(
            f"The pattern {pattern} means every session: `ops sessions flush` drops them all, and asks twice."
        )
    return found


def named(sessions: Sessions, words: tuple[str, ...], moved: Moved) -> list[bytes]:
    """The key that each word means: the beginning of a session's name or id, or the whole id.

    Raises:
        OpsError: a word is too short, or means none or several.
    """
    wanted = {word: _bare(sessions, word) for word in words}
    found: dict[str, set[bytes]] = {
        word: {sessions.prefix + plain} if sessions.there(plain) else set() for word, plain in wanted.items()
    }
    open_ = [word for word in words if not found[word]]
    for some in sessions.scan() if open_ else ():
        for key in some:
            one = Session(sessions.prefix, key, 0)
            for word in open_:
                if one.called(wanted[word]):
                    found[word].add(key)
        moved(len(some))
    for word, meant in found.items():
        if not meant:
            raise OpsError(
                f"There is no session {masked(word)}: it has ended, or `ops sessions list` names it otherwise."
            )
        if len(meant) > 1:
            raise OpsError(
                f"{len(meant)} sessions begin with {masked(word)}: give more of its name in `ops sessions list`."
            )
    return [key for word in words for key in found[word]]


def _bare(sessions: Sessions, word: str) -> bytes:
    plain = word.encode().removeprefix(sessions.prefix).removesuffix("…".encode())
    if len(plain) < HEAD:
        raise OpsError(f"{masked(word)} is too short for a session: give at least {HEAD} characters of its name.", 2)
    return plain
