"""From a chart's bare Redis to the stack's: the steps. Where an adoption stands is read from the cluster each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from typing import Any

import redis

from infra.redis import conf
from infra.settings import Settings
from ops import kube
from ops.adopt import record as records
from ops.adopt.door import TRIAL, Door
from ops.adopt.record import Record
from ops.adopt.redises import PAUSE_MS, New, Old, hang_up, in_sync, keys, level, others, replication, tell
from ops.errors import OpsError
from ops.kube import TIMEOUT, Cluster
from ops.rotate.steps import Steps

Declare = Callable[[str | None], str]
"""Writes the stage into the stack file and brings the stack up; says what changed."""


class Adoption:
    """One adoption of a Redis.

    Args:
        cluster: where.
        settings: of the stack.
        steps: shows the steps.
        declare: see `Declare`.
    """

    def __init__(self, cluster: Cluster, settings: Settings, steps: Steps, declare: Declare) -> None:
        self.cluster, self.settings, self.steps, self.declare = cluster, settings, steps, declare
        self.namespace, self.app = settings.namespace, settings.redis.app
        self.door, self.new = Door(cluster, settings), New(cluster, settings)

    # -- what there is

    def record(self) -> Record:
        """What was noted of the old Redis; noted now where nothing was.

        Raises:
            OpsError: nothing leads to an old Redis.
        """
        if kept := records.read(self.cluster, self.namespace, self.app):
            return kept
        made = old_redis(self.cluster, self.settings)
        records.write(self.cluster, self.namespace, self.app, made)
        return made

    def old(self) -> Old:
        """The old Redis, which runs."""
        kept = self.record()
        return Old(self.cluster, self.namespace, kept.selector, kept.port)

    def leads_to(self) -> dict[str, str]:
        """Selector of the clients' Service."""
        service = self.settings.redis.service
        found = self.cluster.core.read_namespaced_service(service, self.namespace, _request_timeout=TIMEOUT)
        return dict(found.spec.selector or {})

    @property
    def cut(self) -> bool:
        """Whether the new Redis takes the writes, and nobody else."""
        kept = records.read(self.cluster, self.namespace, self.app)
        return kept is not None and kept.cut

    def note(self, kept: Record, cut: bool) -> None:
        """Note which of the two takes the writes from now on; `kept` is what was noted before."""
        records.write(self.cluster, self.namespace, self.app, replace(kept, cut=cut))

    def settle(self) -> None:
        """Note what a command did not get to that was killed in the middle of a cut: who follows takes no writes."""
        kept = self.record()
        if kept.cut:
            with self.new.client() as here:
                if replication(here)["role"] != "master":
                    self.note(kept, cut=False)
            return
        try:
            old = self.old()
        except OpsError:
            return
        with old.client() as there:
            if replication(there).get("master_host") == self.door.name:
                self.note(kept, cut=True)

    # -- the steps

    def run(self, shut_out: bool) -> None:
        """All of them, from where it stands.

        Args:
            shut_out: demand the password although others than the API still come without.
        """
        self.steps.step("What there is is noted", self._noted)
        if not self.cut:
            self.steps.step("The stack's Redis runs beside the old one", lambda: self.declare("beside"))
            self.steps.step("It follows the old one", self.follow)
        if self.settings.redis.adoption:
            self.steps.step("A door for both kinds of clients", self.stand_open)
            self.steps.step("Everybody goes through the door", self._all_through)
            self.steps.step("Writes go to the new one", self.over)
            self.steps.step("The API takes password and TLS", self._wired)
            self.steps.step("Nobody comes without them any more", lambda: self._nobody_plain(shut_out))
        self.steps.step("The Service leads to the stack's Redis", lambda: self.declare(None))
        self.steps.step("The password is demanded, the door is gone", self._shut)
        self.steps.step("The old Redis rests", self._rest)

    def _noted(self) -> str:
        kept = self.record()
        self.settle()
        return f"Deployment {kept.deployment}, {kept.replicas} replicas, labels {kube.selector(kept.selector)}"

    def follow(self) -> str:
        """Make the new one a replica of the old and wait until it has it all."""
        old = self.old()
        self.door.policy(self.record().selector, old.port)
        with self.new.client() as here, old.client() as there:
            if master := replication(there).get("master_host"):
                raise OpsError(f"{old.pod.metadata.name} is a replica of {master}: adopt that one, or REPLICAOF NO ONE")
            found = replication(here)
            if found["role"] != "slave" or found["master_host"] != old.address:
                self.new.follow(here, old.address, old.port)
            self.steps.wait(lambda: in_sync(here))
            return f"in sync with {old.pod.metadata.name}: {_keys(keys(here))}"

    def stand_open(self) -> str:
        """Make the door, turned to whom the writes go; let clients through it without a password, and prove that."""
        kept = self.record()
        self.door.build(kept.selector, kept.port, kept.cut)
        self.steps.wait(self.door.ready)
        self.door.turner("new" if kept.cut else "old")()
        self.new.open()
        for pod in self.door.pods():
            plain, trial = self.door.opener(pod, conf.PORT), self.door.opener(pod, TRIAL)
            secured = plain if self.settings.tls.enabled else trial
            self.steps.wait(partial(self.new.prove, (plain, trial), secured))
        return f"{self.door.name}: plain and TLS get through each of its pods"

    def _all_through(self) -> str:
        """Lead everybody to the door; whoever is still connected to the old one is cut off, and connects again."""
        if self.leads_to() != self.door.service["selector"]:
            self.lead(**self.door.service)
        self.steps.wait(self.led)
        try:
            old = self.old()
        except OpsError:
            return "the old Redis is gone"
        with old.client() as there:
            _evict(there, {pod.status.pod_ip for pod in self.door.pods()})
        return f"clients reach {old.pod.metadata.name} through {self.door.name} only"

    def led(self) -> str | None:
        """What the clients' Service still waits for; None: it leads to the pods that its selector names."""
        service = self.settings.redis.service
        labels = kube.selector(self.leads_to())
        wanted = self.cluster.core.list_namespaced_pod(
            self.namespace, label_selector=labels, _request_timeout=TIMEOUT
        ).items
        slices = self.cluster.discovery.list_namespaced_endpoint_slice(
            self.namespace, label_selector=f"kubernetes.io/service-name={service}", _request_timeout=TIMEOUT
        ).items
        there = {address for one in slices for end in one.endpoints or [] for address in end.addresses}
        ready = {pod.status.pod_ip for pod in wanted if kube.is_ready(pod)}
        return None if ready and there == ready else f"Service {service} does not lead to {labels} yet"

    def over(self) -> str:
        """The cut: hold writes, let the new one catch up, demote the old one, turn the door.

        Killed before the old one is demoted, the old one goes on and the next run begins with `follow` again; after it,
        writes wait (the API holds its requests) until the next run turns the door.
        """
        kept = self.record()
        if kept.cut:
            return "they do"
        with self.old().client() as there, self.new.client() as here:
            turn, begin = self.door.turner("new"), time.monotonic()
            tell(there, "CLIENT", "PAUSE", str(PAUSE_MS), "WRITE")
            level(there, here)
            self.new.lead(here)
            # Not before the other leads: what was written after would be lost. From now on the old one refuses writes.
            tell(there, "REPLICAOF", self.door.name, str(conf.PORT))
            self.note(kept, cut=True)
            turn()
            tell(there, "CLIENT", "UNPAUSE")
            held = time.monotonic() - begin
            self.steps.wait(lambda: in_sync(there))
        return f"writes were held for {held:.2f} s; the old Redis follows the new one"

    def lead(self, selector: dict[str, str], ports: list[dict[str, Any]]) -> None:
        """Point the clients' Service elsewhere."""
        # JSON patch: the selector as a whole, the port's name and target whatever the chart called them.
        body = [
            {"op": "replace", "path": "/spec/selector", "value": selector},
            {"op": "replace", "path": "/spec/ports", "value": ports},
        ]
        service = self.settings.redis.service
        self.cluster.core.patch_namespaced_service(service, self.namespace, body, _request_timeout=TIMEOUT)

    def _wired(self) -> str:
        changed = self.declare("door")
        self.steps.wait(self.rolled_out)
        return f"{changed}; every pod of Deployment {self.settings.api.existing_deployment} is new and ready"

    def rolled_out(self) -> str | None:
        """What the API's rollout still waits for; None: it is through, and the old pods are gone."""
        name = self.settings.api.existing_deployment or "api"
        found = self.cluster.apps.read_namespaced_deployment(name, self.namespace, _request_timeout=TIMEOUT)
        status, wanted = found.status, found.spec.replicas
        if (status.observed_generation or 0) < found.metadata.generation or (status.updated_replicas or 0) < wanted:
            return f"{status.updated_replicas or 0} of {wanted} pods of {name} are new"
        if (status.replicas or 0) > wanted or (status.available_replicas or 0) < wanted:
            return f"{status.available_replicas or 0} of {wanted} pods of {name} are ready, {status.replicas} there"
        return None

    def plain(self) -> list[str]:
        """Who still comes to the door without TLS, in words; the old Redis is meant to."""
        kept = self.record()
        found = self.cluster.core.list_namespaced_pod(self.namespace, _request_timeout=TIMEOUT).items
        by_address = {pod.status.pod_ip: pod for pod in found if pod.status.pod_ip}
        said = []
        table = "plain" if self.settings.tls.enabled else "secured"
        for address in self.door.clients(table):
            pod = by_address.get(address)
            labels = (pod.metadata.labels or {}) if pod else {}
            if not kept.selector.items() <= labels.items():
                said.append(f"pod {pod.metadata.name}" if pod else f"{address} (no pod of namespace {self.namespace})")
        return sorted(said)

    def _nobody_plain(self, shut_out: bool) -> str:
        if not self.settings.tls.enabled:
            return "with TLS off nobody can be told from another: who has no password will be refused"
        end = time.monotonic() + 30
        while (left := self.plain()) and time.monotonic() < end:
            time.sleep(0.5)
        if not left:
            return "everybody speaks TLS"
        if shut_out:
            return f"shut out as you said: {', '.join(left)}"
        raise OpsError(f"{', '.join(left)} still come without TLS and password. {needs(self.settings)}")

    def _shut(self) -> str:
        self.new.shut()
        with self.new.client() as here:
            secured = "secured" if self.door.pods() else None

            def left() -> str | None:
                # A proxy of the cluster's learns late: who came back through the door is cut off once more.
                if not secured or not any(self.door.clients(secured).values()):
                    return None
                hang_up(here)
                return "somebody is still connected through the door"

            self.steps.wait(left)
        if not self.new.asks():
            raise OpsError(f"{self.new.name} lets clients in without a password")
        self.door.remove()
        return "NOAUTH without it; clients are connected directly"

    def _rest(self) -> str:
        kept = self.record()
        found = kube.get(self.cluster.apps.read_namespaced_deployment, kept.deployment, self.namespace)
        if found is None:
            return f"Deployment {kept.deployment} is gone"
        self.scale(kept.deployment, 0)
        return f"Deployment {kept.deployment} has 0 replicas; `ops adopt undo` brings it back"

    def scale(self, deployment: str, replicas: int) -> None:
        """Set a Deployment's replicas."""
        body = {"spec": {"replicas": replicas}}
        self.cluster.apps.patch_namespaced_deployment_scale(deployment, self.namespace, body, _request_timeout=TIMEOUT)


def old_redis(cluster: Cluster, settings: Settings) -> Record:
    """The Redis that the clients' Service leads to.

    Raises:
        OpsError: there is no such Service, Deployment or pod.
    """
    service, namespace = settings.redis.service, settings.namespace
    found = kube.get(cluster.core.read_namespaced_service, service, namespace)
    if found is None or not found.spec.selector:
        raise OpsError(
            f"There is no Service {service} with a selector in namespace {namespace}: "
            "say with --service how the API reaches Redis."
        )
    selector = dict(found.spec.selector)
    if selector.get("app") == settings.redis.app:
        raise OpsError(f"Service {service} leads to the stack's own Redis: there is nothing to adopt.")
    named = [
        item
        for item in cluster.apps.list_namespaced_deployment(namespace, _request_timeout=TIMEOUT).items
        if selector.items() <= (item.spec.template.metadata.labels or {}).items()
    ]
    if len(named) != 1:
        raise OpsError(
            f"{len(named)} Deployments in namespace {namespace} make pods for Service {service} "
            f"({kube.selector(selector)}), where one Redis is expected."
        )
    ports = [cluster.api.sanitize_for_serialization(port) for port in found.spec.ports]
    return Record(named[0].metadata.name, named[0].spec.replicas or 1, selector, ports)


def needs(settings: Settings) -> str:
    """What a client needs that is not the API."""
    names, redis = settings.credentials, settings.redis
    ca = f", TLS for name {redis.service} with ca.crt of Secret {settings.tls_secret}" if settings.tls_secret else ""
    return (
        f"Each needs user default, the password of Secret {names.password_secret} (key password){ca}, and the "
        'pod label session-store/redis-client: "true". Give it to them and run this again, or --shut-out them.'
    )


def _evict(client: redis.Redis, but: Container[str]) -> None:
    """Cut clients off until none has come back for two seconds: the cluster's proxies learn of a change late.

    Args:
        client: of the Redis.
        but: addresses that may come.
    """
    quiet, end = time.monotonic(), time.monotonic() + 60
    while time.monotonic() < quiet + 2:
        if left := others(client, but):
            hang_up(client)
            quiet = time.monotonic()
        if time.monotonic() > end:
            raise OpsError(f"clients keep coming back by another way than the Service: {left[0]['addr']}")
        time.sleep(0.5)  # they are served in between


def _keys(found: dict[int, int]) -> str:
    return ", ".join(f"{count} keys in database {number}" for number, count in sorted(found.items())) or "no keys"
