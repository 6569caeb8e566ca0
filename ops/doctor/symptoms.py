"""What is seen at the end of the chain, told by itself only where nothing before explains it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ops.doctor.look import Look, Object, is_ready, name, statuses
from ops.doctor.model import API, BROKEN, CHANGED, CLUSTER, PATH, REDIS, RISK, SESSIONS, Finding


def redis_silent(look: Look) -> Iterator[Finding]:
    """Every Redis answers and is ready."""
    if look.saw("pods") and not look.redis_pods() and not look.external:
        none = f"pods in namespace {look.settings.namespace}: none of Redis"
        fix = f"`{look.kubectl} describe statefulset` tells why"
        yield Finding("pod-not-ready", REDIS, "Redis has no pod", (none,), fix, because=(CLUSTER, REDIS, CHANGED))
    for pod in look.redis_pods():
        if is_ready(pod):
            continue
        one = look.redis.get(name(pod))
        seen = [f"pod {name(pod)}: {_condition(pod)}"]
        if one and not one.info:
            seen.append(f"pod {name(pod)}: redis-cli PING says: {one.ping or 'nothing'}")
        last = look.logs.get(f"{name(pod)} redis", "").strip().splitlines()[-1:]
        seen += [f"log of {name(pod)}: {line[:200]}" for line in last]
        what = f"Redis in {name(pod)} is not ready"
        fix = f"`{look.kubectl} describe pod {name(pod)}` and `{look.kubectl} logs {name(pod)} -c redis` tell why"
        others = any(is_ready(other) for other in look.redis_pods())
        because = (CLUSTER, REDIS, PATH, CHANGED)
        yield Finding("pod-not-ready", REDIS, what, tuple(seen), fix, RISK if others else BROKEN, because=because)


def no_way(look: Look) -> Iterator[Finding]:
    """The API's pods get a connection to Redis, and Redis takes their writes."""
    for pod, answer in look.api.items():
        env = answer["env"]
        where = f"{env.get('REDIS_HOST', 'redis')}:{env.get('REDIS_PORT', '6379')}"
        because = (CLUSTER, REDIS, PATH, CHANGED)
        for step, verb in (
            ("tcp", "connect to"),
            ("tls", "speak TLS with"),
            ("auth", "log in to"),
            ("write", "write to"),
        ):
            said = answer.get(step)
            if said is None or (isinstance(said, dict) and said.get("ok")) or str(said).startswith(("+", ":")):
                continue
            text = f"{said.get('code')}: {said.get('message', '')}" if isinstance(said, dict) else str(said)
            what = f"The API cannot {verb} Redis: {text.partition(':')[0].lstrip('-').split()[0]}"
            seen = f"pod {pod}: {where} ({(answer.get('dns') or {}).get('address')}): {text}"
            fix = f"`{look.kubectl} get pods,endpointslices -o wide` shows what stands behind {where}"
            yield Finding("no-connection", PATH, what, (seen,), fix, because=because)


def api_idle(look: Look) -> Iterator[Finding]:
    """The API's pods are ready, and their rollout comes to its end."""
    pods = [p for p in look.api_pods() if p["status"].get("phase") in ("Running", "Pending")]
    idle = [pod for pod in pods if not is_ready(pod)]
    because = (CLUSTER, REDIS, PATH, SESSIONS, API, CHANGED)
    for pod in idle:
        said = (look.api.get(name(pod)) or {}).get("readyz") or {}
        try:
            reason = json.loads(said.get("body", "{}")).get("reason") or said.get("body")
        except ValueError:
            reason = said["body"]
        seen = f"pod {name(pod)}: " + (f"/readyz {said['status']}: {reason}" if "status" in said else _condition(pod))
        what = f"The API's pod {name(pod)} is not ready"
        fix = f"`{look.kubectl} logs {name(pod)}` tells what it waits for"
        severity = RISK if len(idle) < len(pods) else BROKEN
        yield Finding("api-not-ready", API, what, (seen,), fix, severity, because=because)
    deployment = look.named("deployments", look.deployment)
    for condition in (deployment or {}).get("status", {}).get("conditions") or []:
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            seen = f"Deployment {look.deployment}: {condition.get('message')}"
            what = "The API's rollout is stuck: the pods of before serve on"
            fix = f"`{look.kubectl} rollout undo deployment/{look.deployment}`, or mend its new pods"
            yield Finding("rollout-stuck", API, what, (seen,), fix, RISK, because=(*because, "api-not-ready"))


def _condition(pod: Object) -> str:
    for status in statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting:
            return f"{status['name']} {waiting.get('reason')}: {waiting.get('message', '')}".rstrip(": ")
    for condition in pod["status"].get("conditions") or []:
        if condition["type"] in ("Ready", "PodScheduled") and condition["status"] != "True":
            why = condition.get("message") or condition.get("reason")
            return f"condition {condition['type']} {condition['status']}: {why}"
    return f"phase {pod['status'].get('phase')}"
