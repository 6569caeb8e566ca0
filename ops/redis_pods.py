"""The Redis pods of a stack, by role, and verified connections to each, through port-forward."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import redis
from kubernetes.client import ApiException

from infra.credentials import internal_secret
from infra.settings import Settings, parse
from ops import kube, tunnel
from ops.errors import OpsError
from ops.kube import TIMEOUT, Cluster
from ops.stacks import Target

PORT = 6379
CONTAINER = "redis"
MODE = "session-store/mode"


@dataclass(frozen=True)
class RedisPod:
    """A Redis that answers.

    Attributes:
        name: of the pod.
        info: what INFO says, all sections.
    """

    name: str
    info: dict[str, Any]

    @property
    def master(self) -> bool:
        """Takes writes."""
        return bool(self.info["role"] == "master")

    @property
    def in_sync(self) -> bool:
        """A replica that is connected to its master."""
        return not self.master and self.info.get("master_link_status") == "up"

    @property
    def dataset(self) -> int:
        """Bytes of memory its data takes."""
        return max(int(self.info["used_memory"]) - int(self.info.get("used_memory_startup", 0)), 0)

    @property
    def keys(self) -> dict[str, int]:
        """Keys by database number."""
        return {
            name.removeprefix("db"): int(value["keys"])
            for name, value in self.info.items()
            if name.startswith("db") and name[2:].isdigit()
        }


class RedisPods:
    """Redis of a deployed stack that runs it itself.

    Args:
        cluster: where it runs.
        settings: as it was deployed.
    """

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        if settings.redis.mode == "external":
            raise OpsError(
                f"Redis of this stack is external ({settings.redis.host}): who runs it backs it up and restores it."
            )
        self.cluster, self.settings, self.namespace = cluster, settings, settings.namespace

    @cached_property
    def _tls(self) -> ssl.SSLContext | None:
        name = self.settings.tls_secret
        return tunnel.trust(self.secret(name).get("ca.crt")) if name else None

    @cached_property
    def _passwords(self) -> list[str]:
        """Newest first; a Redis that has not heard of the newest yet knows the one before."""
        if self.settings.redis.mode == "sentinel":
            name, keys = internal_secret(self.settings), ("internal", "internal-previous")
        else:
            name, keys = self.settings.credentials.password_secret, ("password", "previous")
        values = self.secret(name)
        if not values.get(keys[0]):
            raise OpsError(f"Secret {name} in namespace {self.namespace} has no key {keys[0]}.")
        return [values[key] for key in keys if values.get(key)]

    @property
    def _user(self) -> str:
        return "agent" if self.settings.redis.mode == "sentinel" else "default"

    def secret(self, name: str) -> dict[str, str]:
        """A Secret's values, {} when there is none. They are never shown."""
        return {key: value.decode() for key, value in kube.secret(self.cluster, self.namespace, name).items()}

    def running(self) -> list[Any]:
        """Pods whose Redis may answer, by name."""
        selector = f"app={self.settings.redis.app}"
        found = self.cluster.core.list_namespaced_pod(self.namespace, label_selector=selector, _request_timeout=TIMEOUT)
        mode = self.settings.redis.mode
        return sorted(
            (
                pod
                for pod in found.items
                if pod.status.phase == "Running"
                and not pod.metadata.deletion_timestamp
                and pod.metadata.labels.get(MODE, mode) == mode
            ),
            key=lambda pod: str(pod.metadata.name),
        )

    def opener(self, pod: str) -> tunnel.Opener:
        """Opens plain sockets to a pod."""
        return lambda: tunnel.open_port(self.cluster, self.namespace, pod, PORT)

    def client(self, pod: str, database: int = 0) -> redis.Redis:
        """A binary client of one pod."""
        return self.talk(self.opener(pod), database, f"Redis in {pod}")

    def talk(self, opener: tunnel.Opener, database: int = 0, whose: str = "Redis") -> redis.Redis:
        """A binary client over sockets that `opener` makes."""
        for password in self._passwords:
            client = tunnel.redis_over(
                opener, password, self._user, database, self._tls, self.settings.redis.service, binary=True
            )
            try:
                client.ping()
            except redis.AuthenticationError:
                client.close()
                continue
            return client
        raise OpsError(f"{whose} refuses the passwords that its Secret holds.")

    def connection(self, pod: str) -> socket.socket:
        """A socket that is past TLS and AUTH, for what redis-py does not speak."""
        for password in self._passwords:
            talk = plain = self.opener(pod)()
            if self._tls:
                talk = self._tls.wrap_socket(plain, server_hostname=self.settings.redis.service)
            talk.sendall(command(b"AUTH", self._user.encode(), password.encode()))
            if (answer := line(talk)).startswith(b"+"):
                return talk
            talk.close()
            if not answer.startswith(b"-WRONGPASS"):
                raise OpsError(f"Redis in {pod} answered: {answer[1:].decode(errors='replace')}")
        raise OpsError(f"Redis in {pod} refuses the passwords that its Secret holds.")

    def answering(self) -> Iterator[RedisPod]:
        """Every Redis that answers, by name."""
        for pod in self.running():
            try:
                client = self.client(pod.metadata.name)
                info = client.info("everything")
                client.close()
            except (redis.RedisError, OSError, ApiException):
                continue
            yield RedisPod(pod.metadata.name, info)

    def master(self) -> RedisPod:
        """The one that takes writes.

        Raises:
            OpsError: there is none.
        """
        found = list(self.answering())
        masters = [pod for pod in found if pod.master]
        if len(masters) != 1:
            says = (
                ", ".join(f"{pod.name} is {'master' if pod.master else 'replica'}" for pod in found) or "none answers"
            )
            raise OpsError(
                f"Redis in namespace {self.namespace} has {len(masters) or 'no'} masters ({says}): try again soon."
            )
        return masters[0]


def of(target: Target, outputs: dict[str, Any]) -> RedisPods:
    """The Redis pods of a deployed stack, by its outputs."""
    return RedisPods(target.cluster, parse(outputs["settings"]))


def command(*words: bytes) -> bytes:
    """A command as Redis's protocol writes it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def line(talk: socket.socket) -> bytes:
    """The next line, without its end, and no byte more."""
    found = bytearray()
    while not found.endswith(b"\n"):
        byte = talk.recv(1)
        if not byte:
            raise ConnectionError("Redis hung up")
        found += byte
    return bytes(found.rstrip(b"\r\n"))
