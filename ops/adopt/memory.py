"""From sessions in a pod's memory to Redis: the old pod goes on for those it knows, until their cookies expire.

The pod is taken from its Deployment by its labels, so that no rollout stops it; the API's Service leads to a router
meanwhile (`router.py`).
"""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from typing import Any

from infra import pods
from infra.settings import Settings
from ops import kube
from ops.adopt.door import apply, delete
from ops.adopt.router import OLD, Router
from ops.adopt.steps import Adoption, Declare
from ops.errors import OpsError
from ops.kube import TIMEOUT, Cluster
from ops.rotate.steps import Steps


class BlueGreen:
    """One such change.

    Args:
        cluster: where.
        settings: of the stack.
        steps: shows the steps.
        declare: writes how far it is into the stack file, and brings the stack up.
        image: of the API with session-store.js, for its Deployment; None: the one it has is that already.
    """

    def __init__(
        self, cluster: Cluster, settings: Settings, steps: Steps, declare: Declare, image: str | None = None
    ) -> None:
        self._image = image
        self._cluster, self._settings, self._steps, self._declare = cluster, settings, steps, declare
        self._namespace = settings.namespace
        self._deployment = settings.api.existing_deployment or "api"
        self._router = Router(cluster, settings, self._deployment)
        self._note = f"{self._deployment}-adoption"

    def run(self, now: datetime, end_now: bool) -> None:
        """All steps that can be taken now.

        Args:
            now: the time.
            end_now: do not wait until the old cookies have expired.
        """
        noted = self._read()
        if noted is None and not self._settings.redis.adoption:
            self._steps.say("Nothing to do: the API has Redis, and no old pod is left.")
            return
        if self._settings.redis.adoption:
            self._steps.step("What there is is noted", self._noted)
            self._steps.step("The stack's Redis runs", lambda: self._declare("beside"))
            self._steps.step("A router before the API", self._routed)
            self._steps.step("The old pod keeps its memory, whatever its Deployment does", self._orphaned)
            self._steps.step("New pods of the API use Redis", self._renewed)
        noted = self._noted_values()
        if "since" not in noted:
            noted["since"] = now.isoformat()
            self._write(noted)
        ends = datetime.fromisoformat(noted["since"]) + timedelta(seconds=self._settings.sessions.ttl_seconds)
        if now < ends and not end_now:
            self._steps.say(
                f"The old pod serves its cookies until the last has expired, {ends:%Y-%m-%d %H:%M} UTC: run this again "
                "then (--end-now: now, which logs those people out). No `helm upgrade` until then: it would lead "
                f"Service {noted['service']} past the router."
            )
            return
        self._steps.step("The Service leads to the new pods", self._direct)
        self._steps.step("Old pod and router are gone", self._removed)

    # -- notes

    def _read(self) -> dict[str, Any] | None:
        found = kube.get(self._cluster.core.read_namespaced_config_map, self._note, self._namespace)
        return dict(json.loads(found.data["note"])) if found else None

    def _noted_values(self) -> dict[str, Any]:
        found = self._read()
        if found is None:
            raise OpsError(f"ConfigMap {self._note} is gone, which said how the API was reached before.")
        return found

    def _write(self, values: dict[str, Any]) -> None:
        body = {"metadata": {"name": self._note, "labels": pods.labels(self._note, "adoption")}}
        apply(self._cluster, self._namespace, "ConfigMap", {**body, "data": {"note": json.dumps(values)}})

    def _noted(self) -> str:
        if noted := self._read():
            return f"Service {noted['service']} (noted before)"
        labels = self._api().spec.template.metadata.labels or {}
        found = [
            service
            for service in self._cluster.core.list_namespaced_service(self._namespace, _request_timeout=TIMEOUT).items
            if service.spec.selector and service.spec.selector.items() <= labels.items()
        ]
        if len(found) != 1:
            raise OpsError(f"{len(found)} Services lead to Deployment {self._deployment}, where one is expected.")
        containers = self._api().spec.template.spec.containers
        env = {e.name for c in containers if c.name == self._settings.api.container for e in c.env or []}
        if not self._image and "SESSION_STORE" not in env:
            raise OpsError(
                "an API that keeps sessions in memory does not know Redis: say which image has session-store.js, with "
                "--api-image NAME@sha256:… (the one that runs, if it has), and put it into the chart's values too."
            )
        if (self._api().spec.replicas or 1) != 1:
            raise OpsError(
                f"Deployment {self._deployment} has {self._api().spec.replicas} replicas, each with its own sessions: "
                "scale it to 1 first (memory is shared by nobody)."
            )
        service = found[0]
        ports = self._cluster.api.sanitize_for_serialization(service.spec.ports)
        self._write({"service": service.metadata.name, "selector": service.spec.selector, "ports": ports})
        return f"Service {service.metadata.name}, Deployment {self._deployment}"

    def _api(self) -> Any:
        found = kube.get(self._cluster.apps.read_namespaced_deployment, self._deployment, self._namespace)
        if found is None:
            raise OpsError(f"Deployment {self._deployment} is missing in namespace {self._namespace}.")
        return found

    # -- steps

    def _pods(self, labels: dict[str, str]) -> list[Any]:
        text = kube.selector(labels)
        found = self._cluster.core.list_namespaced_pod(self._namespace, label_selector=text, _request_timeout=TIMEOUT)
        return [p for p in found.items if p.status.phase == "Running" and not p.metadata.deletion_timestamp]

    def _routed(self) -> str:
        noted = self._noted_values()
        port = noted["ports"][0]
        if not self._pods(OLD):
            for pod in self._pods(noted["selector"]):
                self._label(pod.metadata.name, dict(OLD))
        if len(self._pods(OLD)) != 1:
            raise OpsError(f"{len(self._pods(OLD))} pods of Deployment {self._deployment} run, where one is expected.")
        self._router.build(noted["selector"], port.get("targetPort", port["port"]))
        self._steps.wait(self._router.ready)
        self._lead(noted["service"], pods.selector(self._router.name), self._settings.api.port)
        return f"Service {noted['service']}, {self._router.name}, pod {self._pods(OLD)[0].metadata.name}"

    def _label(self, pod: str, labels: dict[str, str | None]) -> None:
        body = {"metadata": {"labels": labels}}
        self._cluster.core.patch_namespaced_pod(pod, self._namespace, body, _request_timeout=TIMEOUT)

    def _lead(self, service: str, selector: dict[str, str], target: Any) -> None:
        body = [
            {"op": "replace", "path": "/spec/selector", "value": selector},
            {"op": "replace", "path": "/spec/ports/0/targetPort", "value": target},
        ]
        self._cluster.core.patch_namespaced_service(service, self._namespace, body, _request_timeout=TIMEOUT)

    def _orphaned(self) -> str:
        pod = self._pods(OLD)[0]
        theirs = self._api().spec.selector.match_labels
        if theirs.items() <= (pod.metadata.labels or {}).items():
            time.sleep(2)  # every node's proxy has learned where the Service leads
            self._label(pod.metadata.name, dict.fromkeys(theirs))

        def left() -> str | None:
            found = kube.get(self._cluster.core.read_namespaced_pod, pod.metadata.name, self._namespace)
            return "its ReplicaSet has not let go of it" if found and found.metadata.owner_references else None

        self._steps.wait(left)
        return f"{pod.metadata.name} belongs to nobody"

    def _renewed(self) -> str:
        if self._image:
            containers = [{"name": self._settings.api.container, "image": self._image}]
            body = {"spec": {"template": {"spec": {"containers": containers}}}}
            self._cluster.apps.patch_namespaced_deployment(
                self._deployment, self._namespace, body, _request_timeout=TIMEOUT
            )
        changed = self._declare(None)
        adoption = Adoption(self._cluster, self._settings, self._steps, self._declare)
        self._steps.wait(adoption.rolled_out)
        return changed

    def _direct(self) -> str:
        noted = self._noted_values()
        port = noted["ports"][0]
        self._lead(noted["service"], noted["selector"], port.get("targetPort", port["port"]))
        time.sleep(3)  # every node's proxy has learned of it before the router goes
        return f"Service {noted['service']}"

    def _removed(self) -> str:
        self._router.remove()
        for pod in self._pods(OLD):
            self._cluster.core.delete_namespaced_pod(pod.metadata.name, self._namespace, _request_timeout=TIMEOUT)
        delete(self._cluster, self._namespace, "ConfigMap", self._note)
        return "sessions are in Redis only"
