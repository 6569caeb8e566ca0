"""Checks of several Redis: one master that everybody agrees on, the others in sync, every proxy leading there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import redis

from infra.credentials import internal_secret
from infra.redis.conf import PORT, SENTINEL_PORT
from ops import tunnel
from ops.kube import wait_for
from ops.verify.live import Live
from ops.verify.model import Check, Failed

SETTLES = 15.0
"""Seconds in which a failover or a new replica that this run happens to meet is over."""


def agreement(live: Live) -> str:
    """A majority of the Sentinels name one master, and it is one; no other Redis thinks it is."""
    named, votes = _agreed(live)
    roles = {pod: str(_ask(live, pod, PORT, "ROLE")[0]) for pod in _pods(live)}
    if masters := [pod for pod, role in roles.items() if role == "master" and pod != named]:
        raise Failed(f"the Sentinels name {named}, but {', '.join(masters)} is a master too")
    if roles.get(named) != "master":
        raise Failed(f"the Sentinels name {named}, which is {roles.get(named, 'gone')}")
    return f"{votes} of {live.settings.redis.replicas} Sentinels name {named}, and its role is master"


def replication(live: Live) -> str:
    """Each of the others follows the master and has what it has."""
    problems: list[str] = []

    def in_sync() -> bool:
        problems.clear()
        named, wanted = _agreed(live)[0], live.settings.redis.replicas - 1
        others = [pod for pod in _pods(live) if pod != named]
        if len(others) != wanted:
            problems.append(f"{len(others)} replicas, {wanted} configured")
        for pod in others:
            _, host, _, link, _ = _ask(live, pod, PORT, "ROLE")
            if str(host).partition(".")[0] != named or link != "connected":
                problems.append(f"{pod} follows {host}: {link}")
        return not problems

    if not wait_for(in_sync, SETTLES):
        raise Failed("; ".join(problems))
    return f"{live.settings.redis.replicas - 1} replicas connected to {master(live)}"


def proxies(live: Live) -> str:
    """Every proxy leads to the master."""
    named = master(live)
    wanted = _identity(live, named)
    names = [str(pod.metadata.name) for pod in live.proxy_pods()]
    if len(names) < live.settings.redis.proxy_replicas:
        raise Failed(f"{len(names)} proxies, {live.settings.redis.proxy_replicas} configured")
    if wrong := [name for name in names if _identity(live, name) != wanted]:
        raise Failed(f"{', '.join(wrong)} does not lead to the master, {named}")
    return f"{', '.join(names)}: to {named}"


def password(live: Live) -> str:
    """A Sentinel is told nothing, and tells nothing, without a password: who can command it can move the master."""
    trust, command = live.trust(), f"SENTINEL MASTER {live.settings.redis.app}"
    answers = {pod: live.raw(command, trust, live.pod_opener(pod, SENTINEL_PORT)) for pod in _pods(live)}
    if bad := [f"{pod}: {answer or 'nothing'}" for pod, answer in answers.items() if not answer.startswith("-NOAUTH")]:
        raise Failed(f"a Sentinel answered a client without password: {'; '.join(bad)}")
    return f"-NOAUTH from {', '.join(answers)}"


def fencing(live: Live) -> str:
    """A master that no replica follows takes no writes: what it took would be lost when it comes back."""
    found = {pod: _setting(live, pod, "min-replicas-to-write") for pod in _pods(live)}
    if bad := [f"{pod}: {value}" for pod, value in found.items() if value != "1"]:
        raise Failed(f"min-replicas-to-write is not 1: {', '.join(bad)}")
    return f"min-replicas-to-write 1 at {', '.join(found)}"


def durable(live: Live) -> str:
    """A login is answered when as many replicas have it as configured."""
    wanted = live.settings.sessions.wait_replicas
    containers = live.deployment().spec.template.spec.containers
    container = next((c for c in containers if c.name == live.settings.api.container), containers[0])
    env = {item.name: item.value for item in container.env or []}
    if env.get("SESSION_WAIT_REPLICAS", "0") != str(wanted):
        raise Failed(f"the API's SESSION_WAIT_REPLICAS is {env.get('SESSION_WAIT_REPLICAS')}, not {wanted}")
    if not wanted:
        return "0: a login is answered at once, as configured"
    answered = int(live.redis().wait(wanted, live.settings.sessions.wait_timeout_ms))
    if answered < wanted:
        raise Failed(f"WAIT {wanted}: {answered} replicas within {live.settings.sessions.wait_timeout_ms} ms")
    return f"{wanted}, as configured; WAIT: {answered} replicas"


def master(live: Live) -> str:
    """Name of the pod that a majority of the Sentinels name.

    Raises:
        Failed: they do not agree.
    """
    return _agreed(live)[0]


def _agreed(live: Live) -> tuple[str, int]:
    need, pods, answers = live.settings.redis.replicas // 2 + 1, _pods(live), Counter[str]()
    for pod in pods:
        try:
            found = _ask(live, pod, SENTINEL_PORT, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", live.settings.redis.app)
        except (OSError, redis.RedisError) as error:
            found = [f"nothing ({error})"]
        answers[str(found[0] if found else "no master").partition(".")[0]] += 1
    if not answers or answers.most_common(1)[0][1] < need:
        said = ", ".join(f"{count} name {name}" for name, count in answers.items()) or "there are none"
        raise Failed(f"no majority of {live.settings.redis.replicas} Sentinels: {said}")
    return answers.most_common(1)[0]


def _pods(live: Live) -> list[str]:
    return [str(pod.metadata.name) for pod in live.redis_pods()]


def _client(live: Live, pod: str, port: int) -> redis.Redis:
    key = (internal_secret(live.settings), "internal") if port == SENTINEL_PORT else None
    secret = live.secret(*(key or (live.settings.credentials.password_secret, "password")))
    return tunnel.redis_over(live.pod_opener(pod, port), secret, tls=live.trust(), server_name=live.server_name)


def _ask(live: Live, pod: str, port: int, *command: str) -> Any:
    client = _client(live, pod, port)
    try:
        # Answers as they come: redis-py would make objects of them.
        client.response_callbacks.clear()
        return client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        client.close()


def _setting(live: Live, pod: str, name: str) -> str:
    answer = _ask(live, pod, PORT, "CONFIG", "GET", name)
    return str(answer[1]) if len(answer) > 1 else "unknown"


def _identity(live: Live, pod: str) -> str:
    """The run that answers behind a pod's Redis port."""
    lines = str(_ask(live, pod, PORT, "INFO", "server")).splitlines()
    return next((line for line in lines if line.startswith("run_id:")), "")


CHECKS = (
    Check("sentinels-agree", "The Sentinels agree on a master", "Design: quorum, one master", agreement),
    Check("replicas-in-sync", "Every replica is in sync", "Design: replicas on several nodes", replication),
    Check("proxies-lead", "Every proxy leads to the master", "Design: Service redis is the master", proxies),
    Check("sentinel-password", "Sentinel needs a password", "Security: Redis password authentication", password),
    Check("min-replicas", "A cut-off master takes no writes", "Design: min-replicas-to-write 1", fencing),
    Check("wait-replicas", "Logins wait for replicas as configured", "Design: durable logins", durable),
)
