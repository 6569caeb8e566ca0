"""The old Redis and the new one, and what the adoption says to each. Both are reached through port-forward."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from infra.redis import conf
from infra.settings import Settings
from ops import kube, tunnel
from ops.errors import OpsError
from ops.kube import TIMEOUT, Cluster
from ops.redis_pods import RedisPods

PAUSE_MS = 15_000
"""The longest that writes are held; after it the old one takes them again, unless it has been demoted."""
LEVEL_S = 8.0
OLDEST = (6, 2)
"""Redis that can hold writes and still serve reads (CLIENT PAUSE … WRITE)."""


def tell(client: redis.Redis, *words: str) -> Any:
    """One command, as Redis names it."""
    return client.execute_command(*words)  # type: ignore[no-untyped-call]


def version(info: dict[str, Any]) -> tuple[int, int]:
    """(major, minor) of INFO's redis_version."""
    major, minor, *_ = str(info["redis_version"]).split(".")
    return int(major), int(minor)


def only(cluster: Cluster, namespace: str, selector: dict[str, str]) -> Any:
    """The one pod with these labels.

    Raises:
        OpsError: there is none that runs, or there are several.
    """
    labels = kube.selector(selector)
    found = cluster.core.list_namespaced_pod(namespace, label_selector=labels, _request_timeout=TIMEOUT).items
    running = [p for p in found if p.status.phase == "Running" and not p.metadata.deletion_timestamp]
    if len(running) != 1:
        raise OpsError(
            f"{len(running)} pods with {labels} run in namespace {namespace}, where one Redis is expected: "
            f"`kubectl -n {namespace} get pods -l {labels}`"
        )
    return running[0]


class Old:
    """The Redis that is there: no password, no TLS."""

    def __init__(self, cluster: Cluster, namespace: str, selector: dict[str, str], port: int) -> None:
        self._cluster, self._namespace, self.port = cluster, namespace, port
        self.pod = only(cluster, namespace, selector)

    @property
    def address(self) -> str:
        """Its pod's."""
        return str(self.pod.status.pod_ip)

    @contextmanager
    def client(self, database: int = 0) -> Iterator[redis.Redis]:
        """A client of it.

        Raises:
            OpsError: it does not answer, or wants a password.
        """
        name = self.pod.metadata.name

        def opener() -> Any:
            return tunnel.open_port(self._cluster, self._namespace, name, self.port)

        made = tunnel.redis_over(opener, None, database=database)
        try:
            made.ping()
            yield made
        except redis.AuthenticationError as error:
            raise OpsError(
                f"The Redis in {name} asks for a password ({error}); what is adopted here is a bare one: "
                "`ops backup` and `ops restore` move the sessions of another."
            ) from None
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise OpsError(
                f"The Redis in {name} does not answer on port {self.port} ({error}): is it Redis, and up?"
            ) from None
        finally:
            made.close()


class New:
    """The stack's one Redis."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._pods, self._settings = RedisPods(cluster, settings), settings
        self.name = f"{conf.stateful_set(settings)}-0"

    @contextmanager
    def client(self, database: int = 0) -> Iterator[redis.Redis]:
        """A client of it, with the password."""
        made = self._pods.client(self.name, database)
        try:
            yield made
        finally:
            made.close()

    def follow(self, here: redis.Redis, host: str, port: int) -> None:
        """Become a replica of a Redis that speaks no TLS and asks for no password; `here` is a client of it."""
        if self._settings.tls.enabled:
            here.config_set("tls-replication", "no")
        here.config_set("masterauth", "")
        here.config_set("masteruser", "")
        tell(here, "REPLICAOF", host, str(port))

    def lead(self, here: redis.Redis) -> None:
        """Become a master, as its configuration has it; `here` is a client of it."""
        tell(here, "REPLICAOF", "NO", "ONE")
        if self._settings.tls.enabled:
            here.config_set("tls-replication", "yes")

    def open(self) -> None:
        """Let clients in without a password, as the old one does."""
        with self.client() as here:
            here.config_set("protected-mode", "no")
            tell(here, "ACL", "SETUSER", "default", "nopass")

    def shut(self) -> None:
        """Ask for the password again, and cut everybody off who has not given it."""
        values = self._pods.secret(self._settings.credentials.password_secret)
        hashes = [
            "#" + hashlib.sha256(values[key].encode()).hexdigest()
            for key in ("password", "previous")
            if values.get(key)
        ]
        with self.client() as here:
            tell(here, "ACL", "SETUSER", "default", "on", "resetpass", *hashes, "~*", "&*", "+@all")
            here.config_set("protected-mode", "yes")
            hang_up(here)

    def prove(self, plain: Iterable[tunnel.Opener], secured: tunnel.Opener) -> str | None:
        """Talk through the door as old clients do and as a new one does: what goes wrong, None: both get through."""
        try:
            for opener in plain:
                with tunnel.redis_over(opener, None) as client:
                    client.ping()
            self._pods.talk(secured).close()
        except (redis.RedisError, OSError) as error:
            return f"nobody gets through the door: {error}"
        return None

    def asks(self) -> bool:
        """Whether a client without a password is refused."""
        with self.client() as here:
            listed = [str(line) for line in tell(here, "ACL", "LIST")]
        return not any(" nopass " in line for line in listed if line.startswith(("user default", "b'user default")))


def replication(client: redis.Redis) -> dict[str, Any]:
    """INFO replication."""
    return dict(client.info("replication"))


def in_sync(client: redis.Redis) -> str | None:
    """What a replica still waits for; None: it has it all."""
    found = replication(client)
    if found["role"] != "slave":
        return "it is no replica"
    if found.get("master_link_status") == "up" and not int(found.get("master_sync_in_progress", 0)):
        return None
    left = found.get("master_sync_left_bytes")
    return f"link to {found['master_host']} is {found['master_link_status']}" + (f", {left} bytes left" if left else "")


def hang_up(client: redis.Redis) -> int:
    """Cut off every client but this one; how many there were."""
    return sum(int(tell(client, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")) for kind in ("normal", "pubsub"))


def others(client: redis.Redis, but: Container[str] = ()) -> list[dict[str, str]]:
    """The clients but this one, those of the addresses in `but`, and those on loopback: probes and port-forwards."""
    me = str(client.client_id())
    found = client.client_list(_type="normal") + client.client_list(_type="pubsub")
    return [
        one
        for one in found
        if str(one["id"]) != me
        and not one["addr"].startswith(("127.", "[::1]", "/"))
        and one["addr"].rpartition(":")[0] not in but
    ]


def level(master: redis.Redis, replica: redis.Redis) -> None:
    """Wait until a replica has all that its paused master wrote.

    Raises:
        OpsError: it did not get there in time; the master takes writes again.
    """
    end = time.monotonic() + LEVEL_S
    while True:
        wrote, has = replication(master), replication(replica)
        # Twice the same: nothing is written any more.
        if has.get("slave_repl_offset") == wrote["master_repl_offset"] == replication(master)["master_repl_offset"]:
            return
        if time.monotonic() > end:
            tell(master, "CLIENT", "UNPAUSE")
            raise OpsError(
                f"the replica is at {has.get('slave_repl_offset')} of {wrote['master_repl_offset']} in time; "
                "writes go on where they went"
            )
        time.sleep(0.02)


def keys(client: redis.Redis) -> dict[int, int]:
    """Keys by database."""
    found = client.info("keyspace")
    return {int(name.removeprefix("db")): int(value["keys"]) for name, value in found.items() if name.startswith("db")}
