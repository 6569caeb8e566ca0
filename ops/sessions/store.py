"""The sessions in a stack's Redis: keys under its prefix, in its database, on the master of the moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import redis

from infra.settings import Settings
from ops import kube, tunnel
from ops.errors import OpsError
from ops.master import OURS, Answer, Store, persist
from ops.redis_pods import RedisPods
from ops.sessions.session import Session, escape

BATCH = 1000
"""Keys that Redis looks at, or drops, at once: about a millisecond of its time."""
PATIENCE = 60.0
"""Seconds that it may be without a master in the middle of the work."""
CONFIRM_MS = 1000
"""Milliseconds that a replica has to confirm what was dropped."""


@dataclass
class Dropped:
    """How far it came.

    Attributes:
        gone: sessions that were dropped.
        unconfirmed: batches of them that no replica confirmed.
    """

    gone: int = 0
    unconfirmed: int = 0


class Sessions:
    """The sessions of one stack.

    Args:
        connect: gives a binary client of the present master, in the stack's database.
        prefix: of its keys.
        replicated: there are replicas, one of which may be master next.
    """

    def __init__(self, connect: Callable[[], redis.Redis], prefix: str, replicated: bool = False) -> None:
        self._store, self.prefix, self._replicated = Store(connect), prefix.encode(), replicated
        self._store.client()  # who never answered is told at once

    def _do(self, work: Callable[[Any], Answer]) -> Answer:
        return persist(work, self._store, PATIENCE, "Redis does not do as it is told")

    def scan(self, glob: bytes = b"*") -> Iterator[list[bytes]]:
        """Every key whose id matches, once, in batches; those that are there all the while are sure to be met.

        A cursor means something to the one server that gave it: another master, or the same started anew, is scanned
        from its beginning.
        """
        cursor, scanned = 0, None  # type: tuple[int, tuple[redis.Redis, Any] | None]
        seen: set[int] = set()  # hashes, for SCAN may tell a key twice: a million keys are 60 MB
        match = escape(self.prefix) + glob

        def step(client: redis.Redis) -> tuple[int, list[bytes]]:
            nonlocal cursor, scanned
            if scanned is None or scanned[0] is not client:
                # A connection of its own: it breaks with its server, and does not come back by itself.
                cursor, scanned = 0, (client, client.client())  # type: ignore[no-untyped-call]
            next_cursor, found = scanned[1].scan(cursor, match, BATCH)
            return int(next_cursor), list(found)

        while True:
            cursor, found = self._do(step)
            new = [key for key in dict.fromkeys(found) if hash(key) not in seen and self._is_session(key)]
            seen.update(map(hash, new))
            if new:
                yield new
            if not cursor:
                return

    def _is_session(self, key: bytes) -> bool:
        """Not a key of the machinery (the agent's heartbeat), which a short prefix might take in."""
        return key.startswith(self.prefix) and (self.prefix.startswith(OURS) or not key.startswith(OURS))

    def read(self, keys: list[bytes], contents: bool = False) -> list[Session]:
        """Those of the keys that are still there; `contents`: with what they hold."""

        def ask(client: redis.Redis) -> list[Any]:
            pipe: Any = client.pipeline(transaction=False)  # parts of redis-py are untyped
            for key in keys:
                pipe.pttl(key)
                if contents:
                    pipe.get(key)
            return answers(pipe, "WRONGTYPE")

        told = self._do(ask) if keys else []
        if not contents:
            return [Session(self.prefix, key, left) for key, left in zip(keys, told, strict=True) if left != -2]
        return [
            Session(self.prefix, key, left, content if isinstance(content, bytes) else None)
            for key, left, content in zip(keys, told[::2], told[1::2], strict=True)
            if left != -2 and content is not None
        ]

    def facts(self, key: bytes) -> tuple[str, int | None]:
        """(type of a key, bytes of memory it takes; None: not told)."""
        kind = self._do(lambda client: client.type(key))
        try:
            taken = self._store.client().memory_usage(key)
        except redis.RedisError:  # a managed Redis need not allow it
            taken = None
        return kind.decode(), taken

    def there(self, identity: bytes) -> bool:
        """Whether there is a session with this very id."""
        return bool(self._do(lambda client: client.exists(self.prefix + identity)))

    def drop(self, keys: Iterable[list[bytes]], done: Dropped, moved: Callable[[int], None]) -> None:
        """Log out whom these keys keep logged in. It may be cut off, and done again.

        Args:
            keys: in batches.
            done: tells how far it came, also when it did not come to its end.
            moved: told how many keys were dealt with.
        """

        def unlink(client: redis.Redis) -> list[Any]:
            pipe: Any = client.pipeline(transaction=False)
            pipe.unlink(*batch)
            if self._replicated:
                pipe.execute_command("WAIT", 1, CONFIRM_MS)
            return answers(pipe, "ERR WAIT", "WAIT")

        for many in keys:
            for start in range(0, len(many), BATCH):
                batch = [key for key in many[start : start + BATCH] if self._is_session(key)]
                told = self._do(unlink)
                done.gone += int(told[0])
                # What no replica knows of comes back when one of them is promoted.
                done.unconfirmed += self._replicated and not (isinstance(told[1], int) and told[1])
                moved(len(batch))


def answers(pipe: Any, *accepted: str) -> list[Any]:
    """A pipeline's answers. An error, but for those that begin with an accepted word, is raised as Redis said it.

    redis-py's own would quote the command with its arguments: session ids.
    """
    found: list[Any] = pipe.execute(raise_on_error=False)
    for one in found:
        if isinstance(one, Exception) and not str(one).startswith(accepted):
            raise one
    return found


def of(cluster: kube.Cluster, settings: Settings, stack: str) -> Sessions:
    """The sessions of a deployed stack.

    Raises:
        OpsError: they are in no Redis, or it cannot be reached; the message says which and what to do.
    """
    if settings.sessions.store == "memory":
        raise OpsError(
            f"Stack {stack} keeps its sessions in the API's memory (session-store:sessions.store is memory): nobody "
            "can be asked for them. Restarting the API ends them all; set it to redis to have them in Redis."
        )
    if settings.redis.adoption == "beside":
        raise OpsError(
            f"`ops adopt` of stack {stack} is under way: people's sessions are not in the stack's Redis yet. "
            f"`python -m ops adopt run --stack {stack}` first."
        )
    connect = external(cluster, settings) if settings.redis.mode == "external" else _own(cluster, settings)
    try:
        return Sessions(connect, settings.sessions.prefix, settings.redis.mode == "sentinel")
    except (redis.RedisError, OSError) as error:
        raise OpsError(f"Redis of stack {stack} does not answer: {error}. `ops doctor --stack {stack}`") from None


def _own(cluster: kube.Cluster, settings: Settings) -> Callable[[], redis.Redis]:
    pods = RedisPods(cluster, settings)
    return lambda: pods.client(pods.master().name, settings.redis.database)


def external(cluster: kube.Cluster, settings: Settings) -> Callable[[], redis.Redis]:
    """A managed Redis, from here, as the API connects."""
    host, port = str(settings.redis.host), settings.redis.port
    name = settings.credentials.password_secret

    def connect() -> redis.Redis:
        def read(secret: str, key: str) -> str | None:
            value = kube.secret(cluster, settings.namespace, secret).get(key)
            return None if value is None else value.decode()

        ca = read(settings.tls_secret, "ca.crt") if settings.tls_secret else None
        client = tunnel.redis_over(
            tunnel.direct(host, port),
            read(name, "password"),
            settings.redis.username,
            settings.redis.database,
            tunnel.trust(ca) if settings.tls.enabled else None,
            settings.tls.server_name or host,
            binary=True,
        )
        try:
            client.ping()
        except redis.AuthenticationError as error:
            raise OpsError(f"{host}:{port} refuses the password of Secret {name}: {error}") from None
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise OpsError(
                f"{host}:{port} cannot be reached from here ({error}): run this where the API's network is."
            ) from None
        return client

    return connect
