"""The read-only look before an adoption: what there is, what is in the way, and a stack file for it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import redis
import yaml

from infra.redis import conf
from infra.settings import PROJECT, Settings, parse
from ops import kube, pod_exec
from ops.adopt import helm
from ops.adopt.record import Record
from ops.adopt.redises import OLDEST, Old, keys, others, version
from ops.adopt.steps import old_redis
from ops.errors import OpsError
from ops.kube import Cluster

PREFIXES = 200
"""Keys that are looked at to learn how sessions are called."""


@dataclass
class Wish:
    """What the operator says on the command line."""

    namespace: str
    deployment: str = "api"
    container: str | None = None
    service: str | None = None
    name: str | None = None
    redis_image: str | None = None
    proxy_image: str | None = None


@dataclass
class Found:
    """What there is.

    Attributes:
        env: of the API's container: name to value, None where it comes from elsewhere.
        record: the old Redis; None: the API keeps its sessions in memory.
        info: its INFO.
        keys: keys by database.
        prefix: how session keys begin.
        clients: pods that are connected to it, but for the API's.
        problems: what must be mended first, each with its fix.
    """

    deployment: Any
    container: Any
    env: dict[str, str | None]
    releases: list[helm.Release]
    record: Record | None = None
    info: dict[str, Any] = field(default_factory=dict)
    keys: dict[int, int] = field(default_factory=dict)
    prefix: str = "ctmd:sess:"
    clients: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def in_memory(self) -> bool:
        """The API has no Redis yet."""
        return self.record is None


def look(cluster: Cluster, wish: Wish) -> Found:
    """Look at the API and its Redis.

    Raises:
        OpsError: there is no such Deployment or container, or the Redis does not answer.
    """
    found = kube.get(cluster.apps.read_namespaced_deployment, wish.deployment, wish.namespace)
    if found is None:
        names = ", ".join(d.metadata.name for d in cluster.apps.list_namespaced_deployment(wish.namespace).items)
        raise OpsError(
            f"There is no Deployment {wish.deployment} in namespace {wish.namespace} (there are: {names or 'none'}): "
            "say with --deployment which one is the API."
        )
    containers = {c.name: c for c in found.spec.template.spec.containers}
    name = wish.container or (wish.deployment if wish.deployment in containers else next(iter(containers)))
    if name not in containers:
        raise OpsError(f"Deployment {wish.deployment} has no container {name} (it has {', '.join(containers)}).")
    env = {item.name: item.value for item in containers[name].env or []}
    if "NODE_ENV" not in env and (of_image := _node_env(cluster, wish, found, name)):
        env["NODE_ENV"] = of_image
    seen = Found(found, containers[name], env, helm.releases(cluster, wish.namespace))
    seen.problems += _api_problems(cluster, wish, seen)
    if env.get("REDIS_HOST") and env.get("SESSION_STORE") != "memory":
        _look_at_redis(cluster, wish, seen)
    return seen


def _node_env(cluster: Cluster, wish: Wish, deployment: Any, container: str) -> str | None:
    """NODE_ENV as the image sets it, from a running pod."""
    labels = kube.selector(deployment.spec.selector.match_labels)
    for pod in cluster.core.list_namespaced_pod(wish.namespace, label_selector=labels).items:
        with contextlib.suppress(TimeoutError, *kube.API_ERRORS):
            said = pod_exec.run(cluster, wish.namespace, pod.metadata.name, container, ["printenv", "NODE_ENV"]).out
            return said.strip() or None
    return None


def _api_problems(cluster: Cluster, wish: Wish, seen: Found) -> Iterator[str]:
    name = wish.deployment
    if not seen.container.readiness_probe:
        yield (
            f"Deployment {name} has no readiness probe: its pods get requests before they listen, so each rolling "
            "update fails some. Add one to the chart (httpGet /readyz) and `helm upgrade`."
        )
    secret = session_secret(seen)
    if secret is None:
        yield (
            f"Deployment {name} takes API_SESSION_SECRET from no Secret: put it into one (key session-secret), refer "
            "to it with secretKeyRef, and `helm upgrade`; the same value keeps everybody logged in."
        )
        return
    data = kube.get(cluster.core.read_namespaced_secret, secret, wish.namespace)
    if not (data and (data.data or {}).get("session-secret")):
        yield f"Secret {secret} with key session-secret, which Deployment {name} refers to, is missing: restore it."


def session_secret(seen: Found) -> str | None:
    """Name of the Secret that signs cookies."""
    for item in seen.container.env or []:
        if item.name == "API_SESSION_SECRET" and item.value_from and item.value_from.secret_key_ref:
            return str(item.value_from.secret_key_ref.name)
    return None


def _look_at_redis(cluster: Cluster, wish: Wish, seen: Found) -> None:
    service = wish.service or str(seen.env["REDIS_HOST"]).split(".")[0]
    wish.service = service
    settings = parse({**proposal(wish, seen, any_image=True), "namespace": wish.namespace})
    seen.record = old_redis(cluster, settings)
    old = Old(cluster, wish.namespace, seen.record.selector, seen.record.port)
    with old.client() as client:
        seen.info = dict(client.info("everything"))
        seen.keys = keys(client)
        seen.problems += redis_problems(seen.info, settings)
        addresses = {one["addr"].rsplit(":", 1)[0] for one in others(client)}
    database = int(seen.env.get("REDIS_SESSION_DB") or 0)
    with old.client(database) as client:
        seen.prefix = seen.env.get("SESSION_PREFIX") or _prefix(client) or seen.prefix
    pods = {p.status.pod_ip: p for p in cluster.core.list_namespaced_pod(wish.namespace).items if p.status.pod_ip}
    api = seen.deployment.spec.selector.match_labels
    for address in sorted(addresses):
        pod = pods.get(address)
        if not (pod and api.items() <= (pod.metadata.labels or {}).items()):
            seen.clients[address] = f"pod {pod.metadata.name}" if pod else "no pod of this namespace"


def _prefix(client: redis.Redis) -> str | None:
    for at, key in enumerate(client.scan_iter(count=PREFIXES)):
        text = key if isinstance(key, str) else key.decode(errors="replace")
        for prefix in ("ctmd:sess:", "sess:"):
            if text.startswith(prefix):
                return prefix
        if at > PREFIXES:
            break
    return None


def redis_problems(info: dict[str, Any], settings: Settings) -> Iterator[str]:
    """What makes a Redis one that cannot be adopted, from its INFO."""
    if int(info.get("cluster_enabled", 0)):
        yield "The Redis runs in cluster mode, which has one database and no single master: it cannot be adopted."
    if version(info) < OLDEST:
        yield (
            f"The Redis is {info['redis_version']}; {OLDEST[0]}.{OLDEST[1]} is the oldest that can hold its writes "
            "while the new one catches up: raise its tag in the chart first."
        )
    used = max(int(info["used_memory"]) - int(info.get("used_memory_startup", 0)), 0)
    limit = conf.maxmemory(settings)
    if used > limit:
        yield (
            f"The Redis holds {used >> 20} MiB and the new one may hold {limit >> 20} MiB (from session-store:redis."
            f"memory {settings.redis.memory}): raise that."
        )


def by_digest(image: str | None, option: str) -> str:
    """The image, if it is named by digest.

    Raises:
        OpsError: it is missing, or named by a tag.
    """
    if image and re.search(r"@sha256:[0-9a-f]{64}$", image):
        return image
    what = f"{option} {image} is a tag, which may be another image tomorrow" if image else f"{option} is missing"
    example = (image or "redis:7.4.2").split("@")[0]
    raise OpsError(
        f"{what}: `docker buildx imagetools inspect {example}` (or `crane digest {example}`) prints its digest; give "
        f"{option} {example}@sha256:…"
    )


def proposal(wish: Wish, seen: Found, any_image: bool = False) -> dict[str, Any]:
    """The settings of the stack, key to value without the project's prefix."""
    placeholder = f"any@sha256:{'0' * 64}" if any_image else None
    in_memory = seen.in_memory and not any_image
    service = wish.service or ("session-redis" if in_memory else "redis")
    used = int(seen.info.get("used_memory", 0))
    memory = max(256, 1 << max(0, (used * 3 >> 20).bit_length()))
    env = seen.env
    section: dict[str, Any] = {
        "adoption": "beside",
        "service": service,
        "name": wish.name or f"session-{service}",
        "image": placeholder or by_digest(wish.redis_image, "--redis-image"),
        "proxyImage": placeholder or by_digest(wish.proxy_image, "--proxy-image"),
        "memory": f"{memory}Mi",
        "database": int(env.get("REDIS_SESSION_DB") or 0),
    }
    api: dict[str, Any] = {"existingDeployment": wish.deployment, "container": seen.container.name}
    if in_memory:
        section["name"] = service
    if (port := env.get("API_PORT") or _port(seen)) != 3030:
        api["port"] = int(port)
    for key, name in (("authEnv", "AUTH_ENV"), ("nodeEnv", "NODE_ENV")):
        if value := env.get(name):
            api[key] = value
    # Cookies keep the flags they have: without NODE_ENV they were not Secure.
    api.setdefault("nodeEnv", "development")
    sessions: dict[str, Any] = {"prefix": seen.prefix}
    for key, name in (("cookieName", "SESSION_COOKIE_NAME"), ("sameSite", "SESSION_COOKIE_SAMESITE")):
        if value := env.get(name):
            sessions[key] = value
    if seconds := env.get("SESSION_TTL_SECONDS"):
        sessions["ttlSeconds"] = int(seconds)
    if secure := env.get("SESSION_COOKIE_SECURE"):
        sessions["secureCookie"] = secure == "true"
    return {
        "namespace": wish.namespace,
        "createNamespace": False,
        "redis": section,
        "api": api,
        "sessions": sessions,
        "credentials": {"createSessionSecret": False, "sessionSecret": session_secret(seen) or "api-session-secret"},
    }


def _port(seen: Found) -> int:
    ports = seen.container.ports or []
    return int(ports[0].container_port) if ports else 3030


def stack_file(values: dict[str, Any], promoted_stack: str | None) -> str:
    """The proposed Pulumi.<stack>.yaml.

    Args:
        values: as `proposal` gives them.
        promoted_stack: the stack's name where it is one that is promoted to.
    """
    lines = ["# Proposed by `ops adopt look` from what runs. Read it, change it, commit it.", "config:"]
    for key, value in values.items():
        text = yaml.safe_dump({f"{PROJECT}:{key}": value}, sort_keys=False)
        lines += [f"  {line}" for line in text.splitlines()]
    if promoted_stack:
        lines.append(f"  {PROJECT}:stages: [{promoted_stack}] # outside of the promotion until it is adopted")
    text = "\n".join(lines) + "\n"
    return text.replace(
        "    adoption: beside\n", "    adoption: beside # `ops adopt` writes this line, and takes it out again\n"
    )


def describe(seen: Found, wish: Wish) -> Iterator[str]:
    """What was found, for people."""
    release = helm.owner(seen.releases, "Deployment", wish.deployment)
    made_by = f"release {release.name} of chart {release.chart}" if release else "no Helm release"
    yield f"API: Deployment {wish.deployment}, container {seen.container.name}, {seen.container.image}; {made_by}"
    yield f"     {seen.deployment.spec.replicas} replicas; cookies signed with Secret {session_secret(seen) or '-'}"
    if seen.record is None:
        yield "Sessions: in the memory of the API's pod, no Redis"
        return
    version_text, used = seen.info["redis_version"], seen.info["used_memory_human"]
    yield f"Redis: {version_text}, Deployment {seen.record.deployment} behind Service {wish.service}, {used} in use"
    database = int(seen.env.get("REDIS_SESSION_DB") or 0)
    for number, count in sorted(seen.keys.items()):
        yield f"  database {number}: {count} keys{f', sessions {seen.prefix}*' if number == database else ''}"
    for address, who in seen.clients.items():
        yield f"  another client: {who} ({address}), which will need password, TLS and the label (docs/adopt.md)"
