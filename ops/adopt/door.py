"""The door: HAProxy that for a while takes both kinds of clients on the old Redis's port.

One that speaks TLS is passed through to the new one. Plain words go to the old one until the door is turned, then to
the new one, wrapped in TLS. In both protocols the client speaks first.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from infra import pods
from infra.redis import conf
from infra.settings import Settings
from ops import kube, tunnel
from ops.errors import OpsError
from ops.kube import TIMEOUT, Cluster

CONTROL = 9999
"""Port on loopback where HAProxy tells who is connected, and is turned."""
TRIAL = 9998
"""Port on loopback where plain words go to the new one, however the door is turned."""
REPLICAS = 2
ENTRY = re.compile(r"key=(\S+) .*conn_cur=(\d+)")
FOLDER = "/usr/local/etc/haproxy"
CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""securityContext of HAProxy's container, as `infra.pods.container_security` has it for the engine."""
CA = "/run/secrets/redis-tls/ca.crt"


def target(settings: Settings) -> str:
    """DNS name of the stack's one Redis pod, ready or not."""
    return f"{conf.stateful_set(settings)}-0.{conf.domain(settings)}"


def config(settings: Settings, old: str, turned: bool, ca: str = CA) -> str:
    """haproxy.cfg. With TLS off there is nothing to wrap.

    Args:
        settings: the stack's.
        old: host:port of the old Redis.
        turned: whether plain words go to the new one.
        ca: path of the CA's certificate.
    """
    wrap = ""
    if settings.tls.enabled:
        name = conf.server_name(settings)
        wrap = f" ssl verify required verifyhost {name} sni str({name}) ca-file {ca}"
    new = f"{target(settings)}:{conf.PORT}"
    return f"""\
global
    log stdout format raw local0 notice
    stats socket ipv4@127.0.0.1:{CONTROL} level admin

defaults
    mode tcp
    log global
    timeout connect 2s
    timeout client 24h
    timeout server 24h
    retries 10
    option redispatch
    option clitcpka
    option srvtcpka
    default-server init-addr none resolvers cluster

resolvers cluster
    parse-resolv-conf
    hold valid 1s
    hold nx 2s
    timeout resolve 1s
    timeout retry 300ms

frontend door
    bind :{conf.PORT}
    # A handshake of TLS begins with byte 22, a command with a letter or an asterisk. Who says nothing speaks plain.
    tcp-request inspect-delay 5s
    acl tls req.payload(0,1) -m bin 16
    tcp-request content track-sc0 src table secured if tls
    tcp-request content track-sc1 src table plain if {{ req.len ge 1 }} !tls
    tcp-request content accept if {{ req.len ge 1 }}
    use_backend secured if tls
    default_backend plain

frontend trial
    bind 127.0.0.1:{TRIAL}
    default_backend trial

backend secured
    stick-table type ip size 10k expire 1h store conn_cur
    server new {new}

# One of the two at a time: HAProxy that runs is told which (`turner`), one that starts reads it here.
backend plain
    stick-table type ip size 10k expire 1h store conn_cur
    server old {old}{" disabled" * turned}
    server new {new}{wrap}{" disabled" * (not turned)}

backend trial
    server new {new}{wrap}
"""


class Door:
    """The door's objects in the cluster."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster, self._settings, self._namespace = cluster, settings, settings.namespace
        self.name = conf.door(settings)
        self._old = f"{self.name}-old"

    def _meta(self) -> dict[str, Any]:
        return {"name": self.name, "labels": {**pods.labels(self.name, "door"), **pods.REDIS_CLIENT}}

    def _config(self, port: int, turned: bool) -> str:
        old = f"{self._old}.{self._namespace}.svc.cluster.local:{port}"
        return config(self._settings, old, turned)

    def _deployment(self, port: int) -> dict[str, Any]:
        settings = self._settings
        # Which way it is turned is no reason for other pods.
        text = self._config(port, turned=False)
        volumes: list[dict[str, Any]] = [{"name": "config", "configMap": {"name": self.name}}]
        mounts: list[dict[str, Any]] = [{"name": "config", "mountPath": FOLDER, "readOnly": True}]
        if settings.tls_secret:
            items = [{"key": "ca.crt", "path": "ca.crt"}]
            volumes.append({"name": "ca", "secret": {"secretName": settings.tls_secret, "items": items}})
            mounts.append({"name": "ca", "mountPath": "/run/secrets/redis-tls", "readOnly": True})
        user = settings.redis.run_as_user
        container = {
            "name": "haproxy",
            "image": settings.redis.proxy_image,
            "command": ["haproxy", "-W", "-db", "-f", f"{FOLDER}/haproxy.cfg"],
            "ports": [{"name": "redis", "containerPort": conf.PORT}],
            "resources": pods.resources("50m", "128Mi"),
            "securityContext": CONFINED,
            "volumeMounts": mounts,
            "readinessProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 2},
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "3"]}}},
        }
        return {
            "metadata": self._meta(),
            "spec": {
                "replicas": REPLICAS,
                "selector": {"matchLabels": pods.selector(self.name)},
                "template": {
                    "metadata": {
                        "labels": self._meta()["labels"],
                        "annotations": {"session-store/config": pods.fingerprint(text)},
                    },
                    "spec": {
                        "automountServiceAccountToken": False,
                        "enableServiceLinks": False,
                        "terminationGracePeriodSeconds": 10,
                        "securityContext": {
                            "runAsNonRoot": True,
                            "seccompProfile": {"type": "RuntimeDefault"},
                            **({} if user is None else {"runAsUser": user, "runAsGroup": user, "fsGroup": user}),
                        },
                        "containers": [container],
                        "volumes": volumes,
                    },
                },
            },
        }

    @property
    def service(self) -> dict[str, Any]:
        """Selector and ports of a Service that leads to it."""
        ports = [{"name": "redis", "port": conf.PORT, "targetPort": conf.PORT}]
        return {"selector": pods.selector(self.name), "ports": ports}

    def policy(self, old: dict[str, str], port: int) -> None:
        """Let the new Redis reach the old one, whose pods have these labels, where policies are in force."""
        spec = {
            "podSelector": {"matchLabels": pods.selector(self._settings.redis.app)},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": old}}], "ports": [{"protocol": "TCP", "port": port}]}],
        }
        self._make("NetworkPolicy", {"metadata": self._meta(), "spec": spec})

    def build(self, old: dict[str, str], port: int, turned: bool) -> None:
        """Make the door, or bring it up to date; nobody is led to it yet.

        Args:
            old: labels of the old Redis's pod.
            port: where that listens.
            turned: whether plain words go to the new one.
        """
        name = {**self._meta(), "name": self._old}
        ports = [{"name": "redis", "port": port}]
        spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": old, "ports": ports}
        self._make("Service", {"metadata": name, "spec": spec})
        self._make("ConfigMap", {"metadata": self._meta(), "data": {"haproxy.cfg": self._config(port, turned)}})
        self._make("Deployment", self._deployment(port))
        self._make("Service", {"metadata": self._meta(), "spec": self.service})

    def _make(self, kind: str, body: dict[str, Any]) -> None:
        apply(self._cluster, self._namespace, kind, body)

    def ready(self) -> str | None:
        """What is still missing; None: it is open."""
        return pods_ready(self._cluster, self._namespace, self.name)

    def pods(self) -> list[Any]:
        """Its running pods."""
        found = self._cluster.core.list_namespaced_pod(
            self._namespace, label_selector=f"app={self.name}", _request_timeout=TIMEOUT
        )
        return [pod for pod in found.items if pod.status.phase == "Running" and not pod.metadata.deletion_timestamp]

    def opener(self, pod: Any, port: int) -> tunnel.Opener:
        """Sockets to a port of one of its pods."""
        return partial(tunnel.open_port, self._cluster, self._namespace, pod.metadata.name, port)

    def turner(self, to: str) -> Callable[[], None]:
        """What turns plain words `to` the `old` or the `new` Redis, connected already: writes are held meanwhile.

        The other one's connections are cut.
        """
        other = {"old": "new", "new": "old"}[to]
        said = [
            f"set server plain/{other} state maint",
            f"set server plain/{to} state ready",
            f"shutdown sessions server plain/{other}",
        ]
        talks = [self.opener(pod, CONTROL)() for pod in self.pods()]

        def turn() -> None:
            for talk in talks:
                talk.sendall("; ".join(said).encode() + b"\n")
            for talk in talks:
                with talk:
                    # A line for each, empty where all is well; that it hangs up after them is heard late.
                    if answer := _lines(talk, len(said)).strip():
                        raise OpsError(f"{self.name} does not turn: {answer}")

        return turn

    def clients(self, table: str) -> dict[str, int]:
        """Address to connections of those who come `plain` or `secured`."""
        found: dict[str, int] = {}
        for pod in self.pods():
            with self.opener(pod, CONTROL)() as talk:
                talk.sendall(f"show table {table}\n".encode())
                for address, count in ENTRY.findall(_lines(talk)):
                    found[address] = found.get(address, 0) + int(count)
        return {address: count for address, count in found.items() if count}

    def remove(self) -> None:
        """Delete all of it."""
        for kind in ("Deployment", "Service", "ConfigMap", "NetworkPolicy"):
            delete(self._cluster, self._namespace, kind, self.name)
        delete(self._cluster, self._namespace, "Service", self._old)


def pods_ready(cluster: Cluster, namespace: str, deployment: str) -> str | None:
    """What a Deployment of HAProxy still misses; None: its pods are ready."""
    found = kube.get(cluster.apps.read_namespaced_deployment, deployment, namespace)
    up = (found and found.status.ready_replicas) or 0
    return None if up >= REPLICAS else f"{up} of {REPLICAS} pods of {deployment} are ready"


def _lines(talk: socket.socket, count: int | None = None) -> str:
    """So many lines, or all until HAProxy hangs up."""
    found = bytearray()
    while (count is None or found.count(b"\n") < count) and (part := talk.recv(65536)):
        found += part
    return found.decode(errors="replace")


GROUPS = {
    "ConfigMap": ("/api/v1", "configmaps", "v1"),
    "Service": ("/api/v1", "services", "v1"),
    "Deployment": ("/apis/apps/v1", "deployments", "apps/v1"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies", "networking.k8s.io/v1"),
}


def apply(cluster: Cluster, namespace: str, kind: str, body: dict[str, Any]) -> None:
    """Server-side apply of an object of ours."""
    base, plural, version = GROUPS[kind]
    cluster.api.call_api(
        f"{base}/namespaces/{namespace}/{plural}/{body['metadata']['name']}",
        "PATCH",
        query_params=[("fieldManager", "session-store-ops"), ("force", "true")],
        header_params={"Content-Type": "application/apply-patch+yaml", "Accept": "application/json"},
        body={"apiVersion": version, "kind": kind, **body},
        auth_settings=["BearerToken"],
        _request_timeout=TIMEOUT,
    )


def delete(cluster: Cluster, namespace: str, kind: str, name: str) -> None:
    """Delete an object if it is there."""
    base, plural, _ = GROUPS[kind]
    kube.get(
        lambda _request_timeout: cluster.api.call_api(
            f"{base}/namespaces/{namespace}/{plural}/{name}",
            "DELETE",
            query_params=[("propagationPolicy", "Background")],
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
            _request_timeout=_request_timeout,
        )
    )
