"""The facts about a live stack, as plain data: what the API server, the pods and the engine said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from infra.api import APP
from infra.redis import conf
from infra.redis.sentinel import proxy_name
from infra.settings import Settings
from ops.foreign import Touched
from ops.locks import Lock
from ops.promote.records import Record

Object = Mapping[str, Any]
"""A Kubernetes object as the API server's JSON has it."""


@dataclass
class Redis:
    """What one Redis said about itself.

    Attributes:
        ping: its answer to a client without a password; what redis-cli says when there is none.
        logins: its answers to a PING with each password that its pod has.
        refused: why it does not even start: a damaged append-only file.
        info: INFO; {} when it does not answer.
        config: `maxmemory*`.
        passwords: SHA-256 of those that the default user may have.
        mounted: SHA-256 of those in the mounted Secret, newest first.
        disk: kilobytes of its volume, free and in all; None: unknown.
        sentinel: lines of the Sentinel beside it.
        sessions: a sample: (key, seconds to live, content).
    """

    ping: str = ""
    refused: str = ""
    logins: list[str] = field(default_factory=list)
    info: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    passwords: list[str] = field(default_factory=list)
    mounted: list[str] = field(default_factory=list)
    disk: tuple[int, int] | None = None
    sentinel: list[str] = field(default_factory=list)
    sessions: list[tuple[str, int, str]] = field(default_factory=list)

    def number(self, key: str) -> int:
        """A number from INFO; 0 when it is not there."""
        value = self.info.get(key, "0")
        return int(value) if value.isdigit() else 0


@dataclass
class Secret:
    """A Secret: its values are compared and never shown."""

    data: dict[str, bytes]
    managers: dict[str, str] = field(default_factory=dict)
    """Key to the manager that wrote it last, and when."""

    @property
    def last(self) -> str | None:
        """The last of those."""
        return max(self.managers.values(), key=lambda text: text.partition(", ")[2], default=None)


@dataclass
class Books:
    """What the engine and the repository know.

    Attributes:
        declared: (kind, name) of each object that the last update left.
        touched: objects with fields that people set since.
        unproven: releases that refusals were passed over for, which nobody has proved since.
    """

    declared: list[tuple[str, str]] = field(default_factory=list)
    touched: list[Touched] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    unproven: list[Record] = field(default_factory=list)


@dataclass
class Look:
    """All of it; what could not be seen is empty, and told in `unseen`.

    Attributes:
        settings: as deployed, or as the stack file has them.
        now: the API server's time.
        lists: objects of the namespace by kind, as `services`, `pods`; those of the cluster as `nodes`, `classes`.
        secrets: by name; a name without one is missing.
        api: what each API pod that runs said (`probe.js`).
        redis: what each Redis pod that runs said.
        proxies: backend to servers that are up, of each proxy.
        clocks: seconds that a clock may differ at least from ours, by `pod name` or `node name`.
        logs: the last lines, by `pod container`; of one that crashed, its last run's.
    """

    stack: str
    settings: Settings
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    lists: dict[str, list[Object]] = field(default_factory=dict)
    namespace: Object | None = field(default_factory=lambda: {"metadata": {}, "status": {"phase": "Active"}})
    secrets: dict[str, Secret] = field(default_factory=dict)
    api: dict[str, dict[str, Any]] = field(default_factory=dict)
    redis: dict[str, Redis] = field(default_factory=dict)
    proxies: dict[str, dict[str, int]] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    books: Books = field(default_factory=Books)
    unseen: list[str] = field(default_factory=list)

    # -- objects

    def of(self, kind: str) -> list[Object]:
        """Objects of a kind."""
        return self.lists.get(kind, [])

    def saw(self, kind: str) -> bool:
        """Whether they could be listed at all."""
        return kind in self.lists

    def named(self, kind: str, name: str) -> Object | None:
        """One of them."""
        return next((item for item in self.of(kind) if item["metadata"]["name"] == name), None)

    @property
    def kubectl(self) -> str:
        """How commands for people begin."""
        return f"kubectl -n {self.settings.namespace}"

    @property
    def mend(self) -> str:
        """The command that takes back what was changed by hand."""
        return f"`python -m ops drift {self.stack} --fix`"

    def by_hand(self, about: tuple[str, ...]) -> bool:
        """Whether somebody changed one of these objects, each `Kind name`."""
        return any(f"{one.kind} {one.name}" in about for one in self.books.touched)

    # -- pods

    @property
    def deployment(self) -> str:
        """Name of the API's Deployment."""
        return self.settings.api.existing_deployment or APP

    @property
    def external(self) -> bool:
        """Redis is somebody else's."""
        return self.settings.redis.mode == "external"

    @property
    def sentinel(self) -> bool:
        """Several Redis, with proxies in front."""
        return self.settings.redis.mode == "sentinel"

    def pods(self, match: Mapping[str, str]) -> list[Object]:
        """Pods with these labels that nobody is deleting."""
        return [
            pod
            for pod in self.of("pods")
            if match.items() <= labels(pod).items() and not pod["metadata"].get("deletionTimestamp")
        ]

    def api_pods(self) -> list[Object]:
        """The API's pods."""
        deployment = self.named("deployments", self.deployment)
        match = deployment["spec"]["selector"].get("matchLabels") if deployment else None
        return self.pods(match or {"app": self.deployment})

    def redis_pods(self) -> list[Object]:
        """Redis's pods; of the other mode, too, while one is left for the other."""
        return [] if self.external else self.pods({"app": self.settings.redis.app})

    def proxy_pods(self) -> list[Object]:
        """The proxies."""
        return self.pods({"app": proxy_name(self.settings.redis.app)}) if self.sentinel else []

    @property
    def server(self) -> str:
        """Label `app` of what the Service leads to."""
        if self.settings.redis.adoption == "door":
            return conf.door(self.settings)
        return proxy_name(self.settings.redis.app) if self.sentinel else self.settings.redis.app

    def server_pods(self) -> list[Object]:
        """What the Service leads to."""
        return [] if self.external else self.pods({"app": self.server})

    def all_pods(self) -> Iterator[tuple[str, Object]]:
        """(part of the stack, pod) of each pod of ours."""
        for part, found in (("redis", self.redis_pods()), ("path", self.proxy_pods()), ("api", self.api_pods())):
            for pod in found:
                yield part, pod

    def container(self, pod: Object) -> Object:
        """The API's container in one of its pods."""
        containers: list[Object] = pod["spec"]["containers"]
        return next((c for c in containers if c["name"] == self.settings.api.container), containers[0])

    # -- endpoints

    def endpoints(self, service: str, kind: str = "slices") -> list[Object]:
        """Endpoints of a Service, each with the ports of its slice."""
        return [
            {**endpoint, "ports": piece.get("ports") or []}
            for piece in self.of(kind)
            if labels(piece).get("kubernetes.io/service-name") == service
            for endpoint in piece.get("endpoints") or []
        ]


def name(item: Object) -> str:
    """Of an object."""
    return str(item["metadata"]["name"])


def names(items: Iterable[Object]) -> str:
    """Of objects, for people."""
    return ", ".join(sorted(name(item) for item in items))


def labels(item: Object) -> dict[str, str]:
    """Of an object."""
    return item["metadata"].get("labels") or {}


def is_ready(pod: Object) -> bool:
    """Whether a pod serves."""
    return any(
        c["type"] == "Ready" and c["status"] == "True" for c in (pod.get("status") or {}).get("conditions") or []
    )


def statuses(pod: Object) -> list[Object]:
    """Of its containers, starters included."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def moment(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text) if text else None


def pairs(values: Mapping[str, Any]) -> str:
    """`a=b,c=d`."""
    return ",".join(f"{key}={value}" for key, value in sorted(values.items()))
