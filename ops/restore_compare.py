"""A backup's keys against the running store's: what is the same, what differs, and bringing it over."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import redis
from rich.table import Table

from ops.master import OURS, Store, persist

BATCH = 200
Clients = Callable[[int], redis.Redis]


@dataclass
class Counts:
    """Of one database.

    Attributes:
        backup: keys in the backup.
        expired: of these, expired since it was made.
        missing: of the living, not in the store.
        different: in both, with another value or another end.
        same: in both.
        extra: in the store only.
    """

    backup: int = 0
    expired: int = 0
    missing: int = 0
    different: int = 0
    same: int = 0
    extra: int = 0

    def changes(self, overwrite: bool, replace: bool) -> tuple[int, int, int]:
        """(added, overwritten, deleted) by a restore."""
        return self.missing, self.different if overwrite or replace else 0, self.extra if replace else 0


@dataclass(frozen=True)
class Key:
    """A living key of the backup.

    Attributes:
        dump: its value, as DUMP gives it.
        end: when it expires, in milliseconds; 0: never.
        state: `missing`, `different` or `same`.
    """

    name: bytes
    dump: bytes
    end: int
    state: str


def _batches(client: redis.Redis) -> Iterator[list[bytes]]:
    """Every key that is a session, once; SCAN may tell one twice."""
    seen: set[bytes] = set()
    keys = client.scan_iter(count=BATCH)
    while batch := list(itertools.islice(keys, BATCH)):
        new = [key for key in dict.fromkeys(batch) if key not in seen and not key.startswith(OURS)]
        seen.update(new)
        if new:
            yield new


def _values(client: redis.Redis, keys: list[bytes]) -> list[tuple[bytes | None, int]]:
    pipe: Any = client.pipeline(transaction=False)  # parts of redis-py are untyped
    for key in keys:
        pipe.dump(key)
        pipe.execute_command("PEXPIRETIME", key)
    answers = pipe.execute()
    return [(dump, max(int(end), 0)) for dump, end in zip(answers[::2], answers[1::2], strict=True)]


def _same(backup: tuple[bytes | None, int], live: tuple[bytes | None, int]) -> bool:
    # The last ten bytes are the version of the format and a checksum of all.
    return backup[1] == live[1] and (backup[0] or b"")[:-10] == (live[0] or b"")[:-10]


def _states(scratch: redis.Redis, live: redis.Redis | None, batch: list[bytes]) -> list[Key]:
    """The living keys of a batch. live: None for a store that has nothing."""
    theirs = _values(scratch, batch)
    ours = _values(live, batch) if live else [(None, 0)] * len(batch)
    found = []
    for name, (dump, end), present in zip(batch, theirs, ours, strict=True):
        if dump is None:
            continue  # it expired just now
        state = "missing" if present[0] is None else "same" if _same((dump, end), present) else "different"
        found.append(Key(name, dump, end, state))
    return found


def extra(scratch: redis.Redis, live: redis.Redis) -> Iterator[list[bytes]]:
    """The store's keys that the backup does not have, in batches."""
    for batch in _batches(live):
        pipe = scratch.pipeline(transaction=False)
        for key in batch:
            pipe.exists(key)
        yield [key for key, there in zip(batch, pipe.execute(), strict=True) if not there]


def databases(*clients: redis.Redis | None) -> list[int]:
    """Numbers of the databases that hold something in any of these."""
    found: set[int] = set()
    for client in clients:
        if client:
            found |= {int(name[2:]) for name in client.info("keyspace") if name[2:].isdigit()}
    return sorted(found)


def compare(scratch: Clients, live: Clients | None, moved: Callable[[int], None] = lambda _: None) -> dict[int, Counts]:
    """Count, per database.

    Args:
        scratch: gives a client of the backup, by database.
        live: the same of the store; None: it has nothing.
        moved: told how many keys were looked at.
    """
    result = {}
    for database in databases(scratch(0), live(0) if live else None):
        theirs, ours, counts = scratch(database), live(database) if live else None, Counts()
        for batch in _batches(theirs):
            for key in _states(theirs, ours, batch):
                setattr(counts, key.state, getattr(counts, key.state) + 1)
            moved(len(batch))
        living = counts.missing + counts.different + counts.same
        internal = len(list(theirs.scan_iter(match=OURS + b"*", count=1000)))
        counts.backup = int(theirs.dbsize()) - internal
        counts.expired = counts.backup - living
        if ours:
            counts.extra = sum(len(batch) for batch in extra(theirs, ours))
        result[database] = counts
    return result


def table(found: dict[int, Counts]) -> Table:
    """The counts, for people."""
    shown = Table(title="The backup against the running store, in keys", title_justify="left")
    for column in (
        "database",
        "in the backup",
        "expired since",
        "missing in the store",
        "different",
        "same",
        "only in the store",
    ):
        shown.add_column(column, justify="right")
    for database, c in found.items():
        numbers = (database, c.backup, c.expired, c.missing, c.different, c.same, c.extra)
        shown.add_row(*(str(number) for number in numbers))
    return shown


def copy(
    scratch: redis.Redis,
    live: Store,
    overwrite: bool,
    moved: Callable[[int], None],
    patience: float,
) -> int:
    """Bring one database's keys over; safe to do again.

    Args:
        scratch: the backup.
        live: the store.
        overwrite: the backup's value wins.
        moved: told how many keys were looked at.
        patience: seconds that a store may be without a master.

    Returns:
        How many were written.

    Raises:
        OpsError: the store takes no writes.
    """
    written = 0
    wanted = ("missing", "different") if overwrite else ("missing",)
    for names in _batches(scratch):
        written += persist(partial(_restore, scratch, names, wanted), live, patience)
        moved(len(names))
    return written


def _restore(scratch: redis.Redis, names: list[bytes], wanted: tuple[str, ...], live: redis.Redis) -> int:
    replace = ["REPLACE"] if "different" in wanted else []
    pipe: Any = live.pipeline(transaction=False)
    count = 0
    for key in _states(scratch, live, names):
        if key.state in wanted:
            pipe.execute_command("RESTORE", key.name, key.end, key.dump, "ABSTTL", *replace)
            count += 1
    for answer in pipe.execute(raise_on_error=False) if count else ():
        if isinstance(answer, redis.ResponseError) and "BUSYKEY" in str(answer):
            count -= 1  # somebody logged in meanwhile: that is newer
        elif isinstance(answer, Exception):
            raise answer
    return count


def _unlink(names: list[bytes], live: redis.Redis) -> int:
    return int(live.unlink(*names))


def prune(scratch: redis.Redis, live: Store, patience: float) -> int:
    """Delete what one database of the store has and the backup has not.

    Returns:
        How many keys went.
    """
    return sum(persist(partial(_unlink, names), live, patience) for names in extra(scratch, live.client()) if names)
