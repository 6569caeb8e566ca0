"""Fills a `Look`: all that the API server knows, then what each pod says when asked from within. Changes nothing.

Every question may fail by itself; what it would have told is then listed as not seen.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import kubernetes

from infra.credentials import internal_keys, internal_secret
from infra.settings import Settings
from ops import kube
from ops.doctor import inside
from ops.doctor.look import Look, Object, Secret, is_ready, moment, name, statuses
from ops.errors import OpsError
from ops.kube import TIMEOUT, Cluster

PATIENCE = 45.0
"""Seconds that all questions of one round may take together."""
DNS_NAMESPACE, DNS_LABEL, DNS_SERVICE = "kube-system", "k8s-app=kube-dns", "kube-dns"
RENEWED = 40.0
"""Seconds within which a node that lives renews its lease."""
Tell = Callable[[str], None]


def look(cluster: Cluster, stack: str, settings: Settings, tell: Tell) -> Look:
    """Everything that can be seen of a stack.

    Args:
        cluster: where.
        stack: its name.
        settings: its settings.
        tell: what is looked at now, for people.

    Raises:
        OpsError: the cluster does not answer.
    """
    seen = Look(stack, settings)
    tell("the objects in the cluster")
    try:
        seen.namespace, seen.now = _namespace(cluster, settings.namespace)
    except kube.API_ERRORS as error:
        raise OpsError(kube.why(error, cluster)) from None
    for kind, answer in _together(cluster, _lists(settings.namespace), seen).items():
        seen.lists[kind] = answer
    secrets = {secret: _secret(settings.namespace, secret) for secret in _secrets(settings)}
    for secret, content in _together(cluster, secrets, seen).items():
        if content is not None:
            seen.secrets[secret] = content
    clocks = _together(cluster, {"clocks of the nodes": _node_clocks("kube-node-lease")}, seen)
    dead = {f"node {name(node)}" for node in seen.of("nodes") if not is_ready(node)}
    seen.clocks |= {node: apart for found in clocks.values() for node, apart in found.items() if node not in dead}
    tell("the pods, from within")
    for put in _together(cluster, dict(_questions(seen)), seen).values():
        put(seen)
    return seen


def reach(cluster: Cluster) -> None:
    """Whether the cluster answers at all.

    Raises:
        OpsError: it does not.
    """
    try:
        kubernetes.client.VersionApi(cluster.api).get_code(_request_timeout=TIMEOUT)
    except kube.API_ERRORS as error:
        raise OpsError(kube.why(error, cluster)) from None


def _together(cluster: Cluster, asked: Mapping[str, Callable[[Cluster], Any]], seen: Look) -> dict[str, Any]:
    """The answers to questions that are all asked at the same time; each has a client of its own (`tunnel`)."""
    answers: queue.Queue[tuple[str, Any, Exception | None]] = queue.Queue()

    def ask(what: str, question: Callable[[Cluster], Any]) -> None:
        own = dataclasses.replace(cluster, api=kubernetes.client.ApiClient(cluster.api.configuration))
        try:
            answers.put((what, question(own), None))
        except Exception as error:  # whatever it is, the others are not held up by it
            answers.put((what, None, error))

    for item in asked.items():
        threading.Thread(target=ask, args=item, daemon=True).start()
    found: dict[str, Any] = {}
    waiting, end = set(asked), time.monotonic() + PATIENCE
    while waiting:
        try:
            what, answer, error = answers.get(timeout=max(end - time.monotonic(), 0))
        except queue.Empty:
            seen.unseen += [f"{what}: no answer within {PATIENCE:.0f} s" for what in sorted(waiting)]
            break
        waiting.discard(what)
        if error is None:
            found[what] = answer
        else:
            known = isinstance(error, kube.API_ERRORS)
            seen.unseen.append(f"{what}: {kube.why(error, cluster) if known else ' '.join(str(error).split())[:200]}")
    return found


def _namespace(cluster: Cluster, wanted: str) -> tuple[Object | None, datetime]:
    """(the namespace, the API server's time)."""
    try:
        reply = cluster.core.read_namespace(wanted, _preload_content=False, _request_timeout=TIMEOUT)
    except kubernetes.client.ApiException as error:
        if error.status != 404:
            raise
        return None, datetime.now(UTC)
    told = reply.headers.get("Date")
    return json.loads(reply.data), parsedate_to_datetime(told) if told else datetime.now(UTC)


def _lists(namespace: str) -> dict[str, Callable[[Cluster], list[Object]]]:
    client = kubernetes.client

    def within(api: Any, method: str, where: str = namespace, **how: Any) -> Callable[[Cluster], list[Object]]:
        def ask(cluster: Cluster) -> list[Object]:
            call = getattr(api(cluster.api), method)
            reply = call(*([where] if where else []), _preload_content=False, _request_timeout=TIMEOUT, **how)
            return list(json.loads(reply.data)["items"])

        return ask

    core, apps, find = client.CoreV1Api, client.AppsV1Api, "list_namespaced_"
    return {
        "services": within(core, f"{find}service"),
        "slices": within(client.DiscoveryV1Api, f"{find}endpoint_slice"),
        "pods": within(core, f"{find}pod"),
        "claims": within(core, f"{find}persistent_volume_claim"),
        "events": within(core, f"{find}event", field_selector="type=Warning"),
        "configmaps": within(core, f"{find}config_map"),
        "budgets": within(client.PolicyV1Api, f"{find}pod_disruption_budget"),
        "deployments": within(apps, f"{find}deployment"),
        "statefulsets": within(apps, f"{find}stateful_set"),
        "scalers": within(client.AutoscalingV2Api, f"{find}horizontal_pod_autoscaler"),
        "policies": within(client.NetworkingV1Api, f"{find}network_policy"),
        "classes": within(client.StorageV1Api, "list_storage_class", ""),
        "nodes": within(core, "list_node", ""),
        "namespaces": within(core, "list_namespace", ""),
        "dns services": within(core, f"{find}service", DNS_NAMESPACE, label_selector=DNS_LABEL),
        "dns slices": within(
            client.DiscoveryV1Api,
            f"{find}endpoint_slice",
            DNS_NAMESPACE,
            label_selector=f"kubernetes.io/service-name={DNS_SERVICE}",
        ),
        "dns pods": within(core, f"{find}pod", DNS_NAMESPACE, label_selector=DNS_LABEL),
    }


def _secrets(settings: Settings) -> Iterator[str]:
    yield settings.credentials.password_secret
    yield settings.credentials.session_secret
    if settings.tls_secret:
        yield settings.tls_secret
    if internal_keys(settings):
        yield internal_secret(settings)


def _secret(namespace: str, secret: str) -> Callable[[Cluster], Secret | None]:
    def ask(cluster: Cluster) -> Secret | None:
        found = kube.get(cluster.core.read_namespaced_secret, secret, namespace)
        if found is None:
            return None
        managers = {}
        for entry in sorted(found.metadata.managed_fields or [], key=lambda one: str(one.time)):
            for key in (entry.fields_v1 or {}).get("f:data", {}):
                managers[key.removeprefix("f:")] = f"{entry.manager}, {entry.time:%Y-%m-%d %H:%M} UTC"
        return Secret({key: base64.b64decode(value) for key, value in (found.data or {}).items()}, managers)

    return ask


# -- the pods


def _questions(seen: Look) -> Iterator[tuple[str, Callable[[Cluster], Callable[[Look], None]]]]:
    """What to ask which pod; each answer puts itself into the look."""
    sessions = seen.settings.sessions
    for part, pod in seen.all_pods():
        alive = {status["name"] for status in statuses(pod) if (status.get("state") or {}).get("running")}
        if part == "api" and seen.container(pod)["name"] in alive:
            yield f"from {name(pod)}", _ask_api(seen.settings.namespace, pod, seen.container(pod)["name"])
        if part == "redis" and "redis" in alive:
            yield (
                f"Redis in {name(pod)}",
                _ask_redis(seen.settings.namespace, pod, seen.settings.redis.database, sessions.prefix),
            )
        if part == "path" and alive:
            yield f"HAProxy in {name(pod)}", _ask_proxy(seen.settings.namespace, pod)
        for status in statuses(pod):
            crashed = not is_ready(pod) and status.get("restartCount", 0) > 0 and status["name"] not in alive
            if crashed or status["name"] in alive:
                yield (
                    f"log of {name(pod)} {status['name']}",
                    _log(seen.settings.namespace, pod, status["name"], crashed),
                )


def _ask_api(namespace: str, pod: Object, container: str) -> Callable[[Cluster], Callable[[Look], None]]:
    def ask(cluster: Cluster) -> Callable[[Look], None]:
        answer, before, after = inside.api(cluster, namespace, name(pod), container)

        def put(seen: Look) -> None:
            seen.api[name(pod)] = answer
            seen.clocks[f"pod {name(pod)}"] = _difference(answer["now"] / 1000, before, after)

        return put

    return ask


def _ask_redis(namespace: str, pod: Object, database: int, prefix: str) -> Callable[[Cluster], Callable[[Look], None]]:
    def ask(cluster: Cluster) -> Callable[[Look], None]:
        answer, clock, before, after = inside.redis(cluster, namespace, name(pod), database, prefix)

        def put(seen: Look) -> None:
            seen.redis[name(pod)] = answer
            if "PONG" in answer.logins and not answer.info:
                seen.unseen.append(f"INFO of Redis in {name(pod)}: no answer in time")
            if clock is not None:
                seen.clocks[f"pod {name(pod)}"] = _difference(clock, before - 1, after)

        return put

    return ask


def _ask_proxy(namespace: str, pod: Object) -> Callable[[Cluster], Callable[[Look], None]]:
    def ask(cluster: Cluster) -> Callable[[Look], None]:
        answer = inside.proxy(cluster, namespace, name(pod))

        def put(seen: Look) -> None:
            seen.proxies[name(pod)] = answer

        return put

    return ask


def _log(namespace: str, pod: Object, container: str, last_run: bool) -> Callable[[Cluster], Callable[[Look], None]]:
    def ask(cluster: Cluster) -> Callable[[Look], None]:
        reply = cluster.core.read_namespaced_pod_log(
            name(pod),
            namespace,
            container=container,
            previous=last_run,
            tail_lines=200,
            _preload_content=False,
            _request_timeout=TIMEOUT,
        )
        text = reply.data.decode(errors="replace")

        def put(seen: Look) -> None:
            seen.logs[f"{name(pod)} {container}"] = text

        return put

    return ask


# -- clocks


def _difference(theirs: float, before: float, after: float) -> float:
    """Seconds that a clock read between two looks at ours is ahead of it at least; negative: behind."""
    return max(theirs - after, 0.0) + min(theirs - before, 0.0)


def _node_clocks(namespace: str) -> Callable[[Cluster], dict[str, float]]:
    """A kubelet writes its own time into its lease every ten seconds. What a dead one wrote is no clock."""

    def ask(cluster: Cluster) -> dict[str, float]:
        api = kubernetes.client.CoordinationV1Api(cluster.api)
        reply = api.list_namespaced_lease(namespace, _preload_content=False, _request_timeout=TIMEOUT)
        now, found = parsedate_to_datetime(reply.headers["Date"]), {}
        for lease in json.loads(reply.data)["items"]:
            if renewed := moment(lease["spec"].get("renewTime")):
                apart = (renewed - now).total_seconds()
                found[f"node {name(lease)}"] = max(apart - 1, 0.0) + min(apart + RENEWED, 0.0)
        return found

    return ask
