"""How clients reach the API: through its Service, or like an ingress does, which balances over the pods itself."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import kubernetes

from ops.kube import API_ERRORS, Cluster

OUT_SECONDS = 10.0
"""How long a pod that failed gets no request: nginx's fail_timeout, with its max_fails of 1."""
RETRY_SECONDS = 0.5


class Route(Protocol):
    """Where a request goes."""

    tries: int
    """How many addresses a request may be sent to."""

    def pick(self, tried: Sequence[str]) -> str | None:
        """URL of the next address to try; None: there is none."""

    def failed(self, address: str) -> None:
        """Note that an address did not answer."""


class ServiceRoute:
    """The Service's own address; kube-proxy chooses the pod, and a request has one try."""

    tries = 1

    def __init__(self, address: str, port: int) -> None:
        self._url = f"http://{address}:{port}"

    def pick(self, tried: Sequence[str]) -> str | None:
        """See `Route`."""
        return None if tried else self._url

    def failed(self, address: str) -> None:
        """See `Route`."""


class Balancer:
    """The pods themselves, as an ingress in front of the cluster does it.

    It watches the Service's endpoints at the API server, and passes over a pod that did not answer a moment ago.
    """

    tries = 3

    def __init__(self, cluster: Cluster, namespace: str, service: str = "api") -> None:
        self._cluster, self._namespace, self._service = cluster, namespace, service
        self._slices: dict[str, list[str]] = {}
        self._out: dict[str, float] = {}
        self._seen = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        self._seen.wait(30)

    def pick(self, tried: Sequence[str]) -> str | None:
        """See `Route`."""
        ready = [url for urls in list(self._slices.values()) for url in urls]
        fresh = [url for url in ready if url not in tried] or ready
        now = time.monotonic()
        well = [url for url in fresh if self._out.get(url, 0.0) < now]
        return random.choice(well or fresh) if fresh else None  # noqa: S311 - which pod is asked

    def failed(self, address: str) -> None:
        """See `Route`."""
        self._out[address] = time.monotonic() + OUT_SECONDS

    def _watch(self) -> None:
        discovery = self._cluster.discovery
        selector = f"kubernetes.io/service-name={self._service}"
        while True:
            try:
                listed = discovery.list_namespaced_endpoint_slice(self._namespace, label_selector=selector)
                self._slices = {item.metadata.name: _ready(item) for item in listed.items}
                self._seen.set()
                events = kubernetes.watch.Watch().stream(
                    discovery.list_namespaced_endpoint_slice,
                    self._namespace,
                    label_selector=selector,
                    resource_version=listed.metadata.resource_version,
                    timeout_seconds=300,
                )
                for event in events:
                    item = event["object"]
                    gone = event["type"] == "DELETED"
                    self._slices = {**self._slices, item.metadata.name: [] if gone else _ready(item)}
            except API_ERRORS:
                time.sleep(RETRY_SECONDS)


def _ready(item: Any) -> list[str]:
    port = item.ports[0].port if item.ports else 0
    return [f"http://{e.addresses[0]}:{port}" for e in item.endpoints or [] if e.conditions.ready]
