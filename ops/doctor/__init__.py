"""`ops doctor`: looks at a live stack, changes nothing, and names what is wrong, causes before what they lead to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ops.doctor import certificates, credentials, network, pods, sentinel, sessions, stack, store, symptoms
from ops.doctor.look import Look
from ops.doctor.model import Finding, sort

CHECKS: tuple[Callable[[Look], Iterator[Finding]], ...] = (
    pods.namespace,
    pods.nodes,
    pods.missing,
    pods.images,
    pods.secrets,
    store.claims,
    pods.room,
    pods.memory,
    pods.ending,
    store.disk,
    store.damaged,
    network.wiring,
    network.name_servers,
    network.service,
    network.policies,
    network.lookups,
    certificates.certificate,
    certificates.reloaded,
    certificates.speech,
    credentials.password,
    credentials.rotation,
    store.loading,
    store.memory,
    pods.crashes,
    sentinel.quorum,
    sentinel.masters,
    sentinel.replication,
    sentinel.proxies,
    sessions.memory_store,
    sessions.cookie,
    credentials.session_secrets,
    sessions.endless,
    sessions.clocks,
    stack.changed,
    symptoms.redis_silent,
    network.endpoints,
    symptoms.no_way,
    symptoms.api_idle,
    stack.autoscaler,
    stack.locks,
    stack.overrides,
)
"""In causal order: what a check finds may explain what those after it find, never before."""


def examine(look: Look) -> list[Finding]:
    """What is wrong, causes first, each with what follows from it."""
    return sort(finding for check in CHECKS for finding in check(look))
