"""Checks of the pods: what runs, what it logs, and that replacing it costs nobody their login."""

from __future__ import annotations

import http.client
import re
from typing import Any

from kubernetes.client import ApiException
from kubernetes.utils.quantity import parse_quantity

from ops.kube import TIMEOUT, is_ready, wait_for
from ops.verify import sentinel
from ops.verify.live import PATIENCE, Live, Session
from ops.verify.model import Check, Failed, Skipped, Unseen

WARNING = "MemoryStore is not designed for a production environment"
CONNECTED = "Connected to Redis for session storage"
ERRORS = re.compile(r"^session_store_errors_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
RESIDENT = re.compile(r"^process_resident_memory_bytes(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def replicas(live: Live) -> str:
    """As many pods serve as were configured."""
    settings, pods = live.settings.api, live.api_pods(ready_only=False)
    serving = [pod for pod in pods if is_ready(pod)]
    if settings.existing_deployment:
        low = high = live.deployment().spec.replicas
    elif settings.autoscaling:
        low, high = settings.autoscaling.min_replicas, settings.autoscaling.max_replicas
    else:
        low = high = settings.replicas
    if not low <= len(serving) <= high or len(serving) != len(pods):
        idle = "".join(f"; {pod.metadata.name} is not ready{_reason(pod)}" for pod in pods if not is_ready(pod))
        raise Failed(f"{len(serving)} pods are ready, {low if low == high else f'{low} to {high}'} configured{idle}")
    answers = {}
    for pod in serving:
        answers[pod.metadata.name] = live.http(pod.metadata.name, "GET", "/readyz")
    if bad := [f"{name} answers {r.status}" for name, r in answers.items() if r.status not in (200, 404)]:
        raise Failed(f"/readyz: {'; '.join(bad)}")
    nodes = {pod.spec.node_name for pod in serving}
    return f"{len(serving)} ready on {len(nodes)} nodes, /readyz 200 from each"


def redis_ready(live: Live) -> str:
    """Redis serves."""
    if live.outputs["endpoint"]["mode"] == "external":
        live.opener()
        return f"{live.outputs['endpoint']['host']} accepts connections"
    pods = live.redis_pods()
    if idle := [f"{pod.metadata.name}{_reason(pod)}" for pod in pods if not is_ready(pod)]:
        raise Failed(f"not ready: {', '.join(idle)}")
    wanted = live.settings.redis.replicas if live.sentinel else 1
    if len(pods) < wanted:
        raise Failed(f"Redis has {len(pods) or 'no'} pod{'s' * (len(pods) > 1)}, {wanted} configured")
    live.redis().ping()
    return f"{', '.join(pod.metadata.name for pod in pods)} ready, PONG"


def images(live: Live) -> str:
    """What runs is what the release names, by digest."""
    wanted, seen = dict(live.outputs["release"]["images"]), []
    if not wanted:
        raise Skipped("no pod of this stack is ours")
    places = {
        "redis": (live.redis_pods, "redis"),
        "proxy": (live.proxy_pods, "haproxy"),
        "exporter": (live.redis_pods, "exporter"),
        "api": (live.api_pods, live.settings.api.container),
    }
    for part, image in wanted.items():
        list_pods, container = places[part]
        for pod in list_pods():
            spec = next((c for c in pod.spec.containers if c.name == container), pod.spec.containers[0])
            if spec.image != image:
                raise Failed(f"{pod.metadata.name} runs {spec.image}, the release says {image}")
            status = next((s for s in pod.status.container_statuses or [] if s.name == spec.name), None)
            if (
                status
                and "@sha256:" in status.image_id
                and status.image_id.partition("@")[2] != image.partition("@")[2]
            ):
                # An index names one manifest per platform; the node reports the one it chose.
                seen.append(f"{pod.metadata.name} resolved it to {status.image_id.partition('@')[2][:19]}")
        seen.append(f"{part} {image.partition('@')[2][:19]}")
    return ", ".join(seen)


def memory_warning(live: Live) -> str:
    """No pod keeps sessions in its own memory."""
    # express-session wraps its warning over three lines.
    logs = {name: " ".join(text.split()) for name, text in _logs(live).items()}
    if bad := [name for name, text in logs.items() if WARNING in text]:
        raise Failed(f"the MemoryStore warning is in the log of {', '.join(bad)}")
    return f"not in the log of {', '.join(logs)}"


def connection_line(live: Live) -> str:
    """Every pod says that it is connected."""
    logs = _logs(live)
    if bad := [name for name, text in logs.items() if CONNECTED not in text]:
        raise Failed(f"{CONNECTED!r} is not in the log of {', '.join(bad)}")
    return f"in the log of {', '.join(logs)}"


def errors_before(live: Live) -> dict[str, float]:
    """Session errors per pod so far; pods without metrics are left out."""
    found = {}
    for pod in live.api_pods():
        reply = live.http(pod.metadata.name, "GET", "/metrics")
        if reply.status == 200 and "session_store_" in str(reply.body):
            found[pod.metadata.uid] = sum(float(value) for value in ERRORS.findall(str(reply.body)))
    return found


def errors(live: Live) -> str:
    """This run's logins cost no session error."""
    after = errors_before(live)
    if not after:
        raise Unseen("the API has no /metrics of this session store")
    if grown := sum(max(0.0, value - live.errors_before.get(uid, 0.0)) for uid, value in after.items()):
        raise Failed(f"{grown:.0f} session errors during this run (session_store_errors_total)")
    return f"session_store_errors_total did not grow ({sum(after.values()):.0f} since the pods started)"


def memory(live: Live) -> str:
    """The API's memory stays well below its limit."""
    shown = []
    for pod in live.api_pods():
        container = next(
            (c for c in pod.spec.containers if c.name == live.settings.api.container), pod.spec.containers[0]
        )
        limit = ((container.resources and container.resources.limits) or {}).get("memory")
        found = RESIDENT.search(str(live.http(pod.metadata.name, "GET", "/metrics").body))
        if not found:
            raise Unseen("the API reports no process_resident_memory_bytes at /metrics")
        used = float(found[1])
        if limit and used > 0.9 * float(parse_quantity(limit)):
            raise Failed(f"{pod.metadata.name} uses {used / 2**20:.0f} MiB of {limit}")
        shown.append(f"{used / 2**20:.0f} MiB{f' of {limit}' if limit else ''}")
    return ", ".join(shown)


def redis_replaced(live: Live) -> str:
    """A restart of Redis logs nobody out, where sessions are persistent or replicated."""
    session, pods = live.main_session(), live.redis_pods()
    if not pods:
        raise Skipped("external mode: its pods are not ours")
    # Of several, the one that matters most.
    gone = sentinel.master(live) if live.sentinel else None
    for pod in pods:
        if gone in (None, pod.metadata.name):
            live.delete_pod(pod, live.redis_pods, len(pods))
    _wait_api(live, session)
    status = live.status(live.an_api_pod(), session)
    if gone is None and not live.settings.redis.appendonly:
        return f"persistence is off: the API recovered, /auth_status {status}"
    if status != 200:
        raise Failed(f"{gone or 'Redis'} was replaced and the session is lost: /auth_status {status}")
    if gone:
        return f"the master, {gone}, replaced; {sentinel.master(live)} is the master now; the same session: 200"
    return f"{len(pods)} pod replaced, the same session: 200"


def api_replaced(live: Live) -> str:
    """New API pods know the old sessions."""
    session, old = live.main_session(), live.api_pods()
    forgets = not (live.settings.redis.appendonly or live.sentinel)
    if forgets and live.status(live.an_api_pod(), session) == 401:
        session = live.session = live.login(live.an_api_pod())  # it went with the Redis that was replaced before
    for pod in old:
        live.delete_pod(pod, live.api_pods, len(old))
    _wait_api(live, session)
    gone = {pod.metadata.uid for pod in old}
    answers = {
        p.metadata.name: live.status(p.metadata.name, session) for p in live.api_pods() if p.metadata.uid not in gone
    }
    if wrong := [f"{name} answers {status}" for name, status in answers.items() if status != 200]:
        raise Failed(f"all API pods were replaced and the session is lost: {'; '.join(wrong)}")
    return f"{len(old)} pods replaced, the same session: 200 from each of {len(answers)} new ones"


def _wait_api(live: Live, session: Session) -> None:
    """Until every pod serves; one may look ready while its connection to Redis is still coming back."""
    wanted = live.deployment().spec.replicas

    def back() -> bool:
        pods = live.api_pods()
        try:
            return len(pods) >= wanted and all(live.status(pod.metadata.name, session) != 503 for pod in pods)
        except (OSError, http.client.HTTPException, ApiException):
            return False  # without a readiness probe a pod is ready before it listens

    if not wait_for(back, PATIENCE):
        raise Failed(f"the API did not serve again within {PATIENCE:.0f} s")


def _logs(live: Live) -> dict[str, str]:
    found = {}
    for pod in live.api_pods():
        names = [container.name for container in pod.spec.containers]
        container = live.settings.api.container if live.settings.api.container in names else names[0]
        # Undecoded: the client turns bytes into their Python spelling otherwise.
        reply = live.cluster.core.read_namespaced_pod_log(
            pod.metadata.name, live.namespace, container=container, _preload_content=False, _request_timeout=TIMEOUT
        )
        found[pod.metadata.name] = reply.data.decode(errors="replace")
    if not found:
        raise Failed("no pod of the API is ready")
    return found


def _reason(pod: Any) -> str:
    for status in pod.status.container_statuses or []:
        waiting = status.state and (status.state.waiting or status.state.terminated)
        if waiting and waiting.reason:
            return f" ({waiting.reason})"
    return ""


PERSIST = "Phase 4: sessions persist after API pod restart"
CHECKS = (
    Check("replicas", "The API's pods are ready", "Success: can scale API to multiple replicas", replicas),
    Check("redis-ready", "Redis is ready", "Troubleshooting: check Redis is running", redis_ready),
    Check("images", "The release's images run", "Design: images by digest", images),
)
AFTER = (
    Check("redis-replaced", "The session survives Redis", "Q&A: survive Redis restarts", redis_replaced, True, True),
    Check("api-replaced", "The session survives the API's pods", PERSIST, api_replaced, True, True),
    Check("no-memorystore", "No MemoryStore warning", "Phase 4: no memory warning on API startup", memory_warning),
    Check("connection-line", "The connection line", "Phase 4: Redis connection logs appear", connection_line),
)
HEALTH = (
    Check("errors", "No session errors", "Success: no increase in login errors", errors),
    Check("memory", "The API's memory", "Success: API memory usage stable over time", memory),
)
