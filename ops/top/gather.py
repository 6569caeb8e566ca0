"""Asks a stack's pods, all at once and again and again, through the API server. Who does not answer holds nobody up."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import kubernetes
import redis

from infra.api import APP
from infra.redis.sentinel import proxy_name
from ops import kube, tunnel
from ops.deployed import Deployed
from ops.doctor import inside
from ops.errors import OpsError
from ops.kube import TIMEOUT, Cluster
from ops.redis_pods import MODE, RedisPods
from ops.sessions import store
from ops.top.look import Answer, Look
from ops.top.metrics import Metrics

PATIENCE = 3.0
"""Seconds that all answers of one look may take together."""
Ask = Callable[[Cluster], Any]


class Source:
    """Somebody who is asked again and again: by one thread at a time, which has a client of its own (`tunnel`)."""

    def __init__(self, cluster: Cluster, name: str, ask: Ask) -> None:
        self._cluster, self.name, self._ask = cluster, name, ask
        self._thread: threading.Thread | None = None
        self._own: Cluster | None = None
        self._answer = Answer(name, 0.0, trouble="no answer yet")

    def start(self) -> None:
        """Ask, unless the last question is still open."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            if self._own is None:
                api = kubernetes.client.ApiClient(self._cluster.api.configuration)
                self._own = dataclasses.replace(self._cluster, api=api)
            said = self._ask(self._own)
            self._answer = Answer(self.name, time.monotonic(), said)
        except Exception as error:  # whatever it is, it is this one's trouble only
            told = kube.why(error, self._cluster) if isinstance(error, kubernetes.client.ApiException) else str(error)
            self._answer = Answer(self.name, time.monotonic(), trouble=" ".join(told.split())[:120] or repr(error))

    def answer(self, end: float, ready: bool) -> Answer:
        """What it said, waiting until `end` of our monotonic clock at most."""
        assert self._thread is not None  # noqa: S101 - started
        self._thread.join(max(end - time.monotonic(), 0))
        if self._thread.is_alive():
            return Answer(self.name, end, trouble=f"no answer within {PATIENCE:.0f} s", ready=ready)
        return dataclasses.replace(self._answer, ready=ready)


class Sources:
    """The pods of a deployed stack."""

    def __init__(self, found: Deployed) -> None:
        self._cluster, self._settings = found.cluster, found.settings
        self._known: dict[str, Source] = {}
        self._pods: dict[str, list[Any]] = {}

    def look(self) -> Look:
        """Everybody's answers."""
        seen = Look()
        try:
            self._pods = self._list()
        except kube.API_ERRORS as error:
            seen.unseen.append(kube.why(error, self._cluster))
        end = time.monotonic() + PATIENCE
        asked: list[tuple[list[Answer], Source, bool]] = []
        alive: set[str] = set()
        for part, pods in self._pods.items():
            answers: list[Answer] = getattr(seen, part)
            for pod in pods:
                name = str(pod.metadata.name)
                if pod.status.phase != "Running":
                    trouble = "being deleted" if pod.metadata.deletion_timestamp else str(pod.status.phase)
                    answers.append(Answer(name, end, trouble=trouble, ready=False))
                    continue
                asked.append((answers, self._source(part, name, str(pod.metadata.uid)), kube.is_ready(pod)))
                alive.add(str(pod.metadata.uid))
        if self._settings.redis.mode == "external":
            host = str(self._settings.redis.host)
            asked.append((seen.redis, self._source("external", host, host), True))
            alive.add(host)
        self._known = {uid: source for uid, source in self._known.items() if uid in alive}
        for _, source, _ in asked:
            source.start()
        for answers, source, is_ready in asked:
            answers.append(source.answer(end, is_ready))
        for answers in (seen.redis, seen.api, seen.proxies):
            answers.sort(key=lambda one: one.name)
        return seen

    def _list(self) -> dict[str, list[Any]]:
        """The pods, by what they are."""
        core, redis_app, mode = self._cluster.core, self._settings.redis.app, self._settings.redis.mode
        pods = core.list_namespaced_pod(self._settings.namespace, _request_timeout=TIMEOUT).items
        name = self._settings.api.existing_deployment or APP
        deployment = kube.get(self._cluster.apps.read_namespaced_deployment, name, self._settings.namespace)
        match = deployment.spec.selector.match_labels if deployment else {"app": name}
        found: dict[str, list[Any]] = {"redis": [], "api": [], "proxies": []}
        for pod in sorted(pods, key=lambda pod: str(pod.metadata.name)):
            labels = pod.metadata.labels or {}
            if pod.status.phase in ("Succeeded", "Failed"):
                continue
            if match and match.items() <= labels.items():
                found["api"].append(pod)
            elif mode != "external" and labels.get("app") == redis_app and labels.get(MODE, mode) == mode:
                found["redis"].append(pod)
            elif mode == "sentinel" and labels.get("app") == proxy_name(redis_app):
                found["proxies"].append(pod)
        return found

    def _source(self, part: str, name: str, uid: str) -> Source:
        if uid not in self._known:
            space, port = self._settings.namespace, self._settings.api.port
            ask: dict[str, Callable[[], Ask]] = {
                "redis": lambda: _redis(lambda cluster: RedisPods(cluster, self._settings).client(name)),
                "external": lambda: _redis(lambda cluster: store.external(cluster, self._settings)()),
                "api": lambda: lambda cluster: _metrics(cluster, space, name, port),
                "proxies": lambda: lambda cluster: inside.proxy(cluster, space, name),
            }
            self._known[uid] = Source(self._cluster, name, ask[part]())
        return self._known[uid]


def _redis(connect: Callable[[Cluster], redis.Redis]) -> Ask:
    """INFO over a connection that is kept, and made anew with everything that belongs to it when it broke."""
    kept: list[redis.Redis] = []

    def ask(cluster: Cluster) -> dict[str, Any]:
        client = kept.pop() if kept else connect(cluster)
        try:
            info: dict[str, Any] = client.info()
        except BaseException:
            client.close()
            raise
        kept.append(client)
        return info

    return ask


def _metrics(cluster: Cluster, namespace: str, pod: str, port: int) -> Metrics:
    reply = tunnel.request(tunnel.open_port(cluster, namespace, pod, port), "GET", "/metrics", {}, None)
    if reply.status != 200:
        raise OpsError(f"/metrics answered {reply.status}")
    return Metrics(str(reply.body))
