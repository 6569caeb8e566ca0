"""The router: HAProxy before the API for as long as the cookies of a pod's memory live.

Whoever has a cookie of the old pod is served by it; whoever logs in, or comes without a cookie, by pods with Redis.
"""

from __future__ import annotations

from typing import Any

from infra import pods
from infra.settings import Settings
from ops.adopt.door import CONFINED, FOLDER, REPLICAS, apply, delete, pods_ready
from ops.kube import Cluster

MARKER = "session-store-new"
"""Cookie of those whom the new pods serve."""
OLD = {"session-store/old": "true"}
"""Label of the pod that keeps its memory."""
HEALTH = 8404


def config(settings: Settings, old: str, new: str) -> str:
    """haproxy.cfg.

    Args:
        settings: the stack's.
        old: host name and port of the old pod.
        new: of the new ones, which are there later.
    """
    cookie, login = settings.sessions.cookie_name, settings.verify.login_path
    return f"""\
global
    log stdout format raw local0 notice

defaults
    mode http
    log global
    timeout connect 2s
    timeout client 1m
    timeout server 1m
    retries 3
    option redispatch
    # A new connection for each request: none is used that its pod is just closing.
    option http-server-close
    default-server init-addr last,libc,none resolvers cluster

resolvers cluster
    parse-resolv-conf
    hold valid 5s

frontend api
    bind :{settings.api.port}
    acl marked req.cook({MARKER}) -m found
    acl known req.cook({cookie}) -m found
    acl login path {login}
    acl login_post method POST
    # Until a pod with Redis is ready, the old one does it all.
    acl new_there nbsrv(probed) ge 1
    use_backend new if marked
    use_backend new if new_there !known
    use_backend new if new_there login login_post
    default_backend old

backend old
    server old {old}

backend new
    acl logged_in res.cook({cookie}) -m found
    http-response add-header Set-Cookie "{MARKER}=1; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax" if logged_in
    server new {new}

backend probed
    server new {new} check inter 500ms rise 2 fall 3

frontend health
    bind :{HEALTH}
    http-request return status 200
"""


class Router:
    """Its objects, and the Services of the two kinds of pods."""

    def __init__(self, cluster: Cluster, settings: Settings, deployment: str) -> None:
        self._cluster, self._settings, self._namespace = cluster, settings, settings.namespace
        self.name, self._old, self._new = (f"{deployment}-{part}" for part in ("router", "old", "new"))

    def build(self, new: dict[str, str], target: Any) -> None:
        """Make it.

        Args:
            new: labels of the new pods.
            target: port of the API's containers, by number or name.
        """
        for name, selector in ((self._old, OLD), (self._new, {**new, **pods.REDIS_CLIENT})):
            ports = [{"name": "http", "port": self._settings.api.port, "targetPort": target}]
            self._make("Service", name, {"spec": {"selector": selector, "ports": ports}})
        tail = f"{self._namespace}.svc.cluster.local:{self._settings.api.port}"
        text = config(self._settings, f"{self._old}.{tail}", f"{self._new}.{tail}")
        self._make("ConfigMap", self.name, {"data": {"haproxy.cfg": text}})
        self._make("Deployment", self.name, {"spec": self._pods(text)})

    def _make(self, kind: str, name: str, body: dict[str, Any]) -> None:
        labels = pods.labels(self.name, "router")
        apply(self._cluster, self._namespace, kind, {"metadata": {"name": name, "labels": labels}, **body})

    def _pods(self, text: str) -> dict[str, Any]:
        # Out of the Service first, then what is under way to its end.
        stop = "sleep 4; kill -USR1 1; sleep 6"
        container = {
            "name": "haproxy",
            "image": self._settings.redis.proxy_image,
            "command": ["haproxy", "-W", "-db", "-f", f"{FOLDER}/haproxy.cfg"],
            "ports": [{"name": "http", "containerPort": self._settings.api.port}],
            "resources": pods.resources("50m", "128Mi"),
            "securityContext": CONFINED,
            "volumeMounts": [{"name": "config", "mountPath": FOLDER, "readOnly": True}],
            # Time for the first checks: before them the new pods count as up, who are not there yet.
            "readinessProbe": {"httpGet": {"path": "/", "port": HEALTH}, "initialDelaySeconds": 5, "periodSeconds": 2},
            "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", stop]}}},
        }
        user = self._settings.redis.run_as_user
        return {
            "replicas": REPLICAS,
            "selector": {"matchLabels": pods.selector(self.name)},
            "template": {
                "metadata": {
                    "labels": pods.labels(self.name, "router"),
                    "annotations": {"session-store/config": pods.fingerprint(text)},
                },
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "seccompProfile": {"type": "RuntimeDefault"},
                        **({} if user is None else {"runAsUser": user, "runAsGroup": user}),
                    },
                    "containers": [container],
                    "volumes": [{"name": "config", "configMap": {"name": self.name}}],
                },
            },
        }

    def ready(self) -> str | None:
        """What is still missing; None: it runs."""
        return pods_ready(self._cluster, self._namespace, self.name)

    def remove(self) -> None:
        """Delete all of it."""
        for kind, name in (
            ("Deployment", self.name),
            ("ConfigMap", self.name),
            ("Service", self._old),
            ("Service", self._new),
        ):
            delete(self._cluster, self._namespace, kind, name)
