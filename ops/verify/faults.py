"""The fault checks of `--deep`: pods killed without a warning, while somebody who is logged in keeps asking."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import kubernetes

from ops.kube import TIMEOUT, is_ready, wait_for
from ops.verify import sentinel
from ops.verify.live import PATIENCE, Live
from ops.verify.model import Check, Failed, Skipped

SERVED_AGAIN = 30.0
"""Seconds within which logins must work again."""


@dataclass
class Visitor:
    """Somebody who is logged in and keeps asking, each time another pod of the API."""

    live: Live
    asked: int = 0
    failed: int = 0
    longest: float = 0.0

    def ask(self, stop: threading.Event) -> None:
        """Until told to stop."""
        session, good = self.live.main_session(), time.monotonic()
        while not stop.wait(0.1):
            self.asked += 1
            try:
                pods = self.live.api_pods()
                status = self.live.status(pods[self.asked % len(pods)].metadata.name, session)
            except Exception:
                status = 0
            now = time.monotonic()
            self.longest, good = max(self.longest, now - good), now if status == 200 else good
            self.failed += status != 200

    def __str__(self) -> str:
        return f"{self.failed} of {self.asked} requests failed, longest time without an answer {self.longest:.1f} s"


@contextlib.contextmanager
def visitor(live: Live) -> Iterator[Visitor]:
    """A visitor at the same time, with a client of its own: opening a tunnel changes a client while it lasts."""
    cluster = dataclasses.replace(live.cluster, api=kubernetes.client.ApiClient(live.cluster.api.configuration))
    own = Live(cluster, live.settings, live.outputs)
    own.session = live.session
    found, stop = Visitor(own), threading.Event()
    thread = threading.Thread(target=found.ask, args=(stop,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join(PATIENCE)


def redis_death(live: Live) -> str:
    """The Redis that is written to dies: sessions stay, and people can log in again."""
    pods = live.redis_pods()
    if not pods:
        raise Skipped("an external Redis is somebody else's")
    if not live.sentinel and not live.settings.redis.appendonly:
        raise Skipped("one Redis without a file forgets its sessions by design")
    name = sentinel.master(live) if live.sentinel else pods[0].metadata.name
    victim = next(pod for pod in pods if pod.metadata.name == name)
    with visitor(live) as seen:
        _kill(live, victim)
        if not wait_for(lambda: _logs_in(live), SERVED_AGAIN):
            raise Failed(f"{name} was killed: no login within {SERVED_AGAIN:.0f} s")
        _replaced(live, victim, live.redis_pods, len(pods))
    if (status := live.status(live.an_api_pod(), live.main_session())) != 200:
        raise Failed(f"{name} was killed, and the session of before is gone: /auth_status {status}")
    if live.sentinel:
        sentinel.replication(live)
    return f"{name} killed: the session of before is there; {seen}"


def proxy_death(live: Live) -> str:
    """A proxy dies: the others lead on."""
    pods = live.proxy_pods()
    if len(pods) < 2:
        raise Skipped("there is no second proxy" if pods else "mode sentinel has proxies")
    return _one_of_several(live, pods, live.proxy_pods)


def api_death(live: Live) -> str:
    """A pod of the API dies: the others serve."""
    pods = live.api_pods()
    if len(pods) < 2:
        raise Skipped("the API has one pod")
    return _one_of_several(live, pods, live.api_pods)


def _one_of_several(live: Live, pods: list[Any], listed: Any) -> str:
    victim = pods[0]
    with visitor(live) as seen:
        _kill(live, victim)
        if not wait_for(lambda: _logs_in(live), SERVED_AGAIN):
            raise Failed(f"{victim.metadata.name} was killed: no login within {SERVED_AGAIN:.0f} s")
        _replaced(live, victim, listed, len(pods))
    return f"{victim.metadata.name} killed; {seen}"


def _kill(live: Live, pod: Any) -> None:
    live.cluster.core.delete_namespaced_pod(
        pod.metadata.name, live.namespace, grace_period_seconds=0, _request_timeout=TIMEOUT
    )


def _replaced(live: Live, victim: Any, listed: Any, count: int) -> None:
    def enough() -> bool:
        return sum(1 for pod in listed() if is_ready(pod) and pod.metadata.uid != victim.metadata.uid) >= count

    if not wait_for(enough, PATIENCE):
        raise Failed(f"{victim.metadata.name} was killed; no new pod was ready within {PATIENCE:.0f} s")


def _logs_in(live: Live) -> bool:
    with contextlib.suppress(Exception):
        session = live.login(live.an_api_pod())
        return live.status(live.an_api_pod(), session) == 200
    return False


CHECKS = (
    Check("redis-death", "Sessions outlive the death of Redis", "Design: failover", redis_death, True, True),
    Check("proxy-death", "The death of a proxy is no outage", "Design: several proxies", proxy_death, True, True),
    Check("api-death", "The death of an API pod is no outage", "Phase 5: several pods", api_death, True, True),
)
