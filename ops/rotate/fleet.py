"""The running stack as a rotation sees it: what each pod accepts and serves, and a nudge that makes it look again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from kubernetes import stream
from kubernetes.client import ApiException

from infra import api, wiring
from infra.redis.conf import PORT, SECRETS_DIR
from infra.settings import Settings
from ops import kube, tunnel
from ops.certificates import MANAGER
from ops.kube import TIMEOUT, Cluster, get

REFRESH = "session-store/refresh"
"""An annotation of a pod; changing it makes kubelet fetch the pod's Secrets at once, not within a minute."""
SECONDS = 5.0
"""No pod may keep a look at all the others waiting for longer."""


class Fleet:
    """The pods of a stack.

    Attributes:
        settings: the stack's, as its file says now.
    """

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self.settings = settings
        self._cluster, self._namespace = cluster, settings.namespace

    # -- Secrets

    def secret(self, name: str) -> dict[str, str]:
        """A Secret's content; {}: there is none."""
        found = kube.secret(self._cluster, self._namespace, name)
        return {key: value.decode(errors="replace") for key, value in found.items()}

    def note(self, secret: str, key: str) -> dict[str, Any]:
        """What an earlier run noted on a Secret; {}: nothing."""
        found = get(self._cluster.core.read_namespaced_secret, secret, self._namespace)
        try:
            return dict(json.loads((found.metadata.annotations or {})[key]))
        except (AttributeError, KeyError, TypeError, ValueError):
            return {}

    def write_note(self, secret: str, key: str, value: dict[str, Any]) -> None:
        """Note something on a Secret, under a field manager of our own: the engine leaves it alone."""
        body = {"metadata": {"annotations": {key: json.dumps(value, sort_keys=True)}}}
        self._cluster.core.patch_namespaced_secret(
            secret, self._namespace, body, field_manager=MANAGER, _request_timeout=TIMEOUT
        )

    # -- pods

    def redis_pods(self) -> list[str]:
        """Names of the pods that run Redis, whether they are well or not."""
        return self._pods(self.settings.redis.app)

    def proxy_pods(self) -> list[str]:
        """Names of the proxy's pods; sentinel mode only."""
        return self._pods(f"{self.settings.redis.app}-proxy") if self.settings.redis.mode == "sentinel" else []

    def api_pods(self) -> list[str]:
        """Names of the API's pods, those that are going included: they still serve."""
        return [pod.metadata.name for pod in self._list(self._selector(self._deployment()))]

    def nudge(self, now: datetime, api_too: bool = False) -> None:
        """Have kubelet fetch the pods' Secrets at once. A pod that is just going is no reason to fail."""
        for name in [*self.redis_pods(), *self.proxy_pods(), *(self.api_pods() if api_too else [])]:
            body = {"metadata": {"annotations": {REFRESH: now.isoformat(timespec="milliseconds")}}}
            with contextlib.suppress(ApiException):
                self._cluster.core.patch_namespaced_pod(
                    name, self._namespace, body, field_manager=MANAGER, _request_timeout=TIMEOUT
                )

    def rolled_out(self) -> str | None:
        """What the API's rollout still waits for; None: every pod is of the newest kind, ready, and connected."""
        deployment = self._deployment()
        wanted, status = deployment.spec.replicas, deployment.status
        if (status.observed_generation or 0) < deployment.metadata.generation:
            return "the API's rollout has not begun"
        if (fresh := status.updated_replicas or 0) < wanted:
            return f"{fresh} of {wanted} API pods are new"
        if (ready := status.available_replicas or 0) < wanted:
            return f"{ready} of {wanted} API pods are ready"
        names = self.api_pods()
        if len(names) > wanted:
            return f"{len(names) - wanted} old API pods are still going"
        for name in names:
            connection = tunnel.open_port(self._cluster, self._namespace, name, self.settings.api.port)
            status_code = tunnel.request(connection, "GET", "/readyz", {}, None).status
            if status_code not in (200, 404):
                return f"{name} answers {status_code} to /readyz"
        return None

    # -- Redis

    def accepts(self, pod: str, password: str, port: int | None = None) -> bool:
        """Whether Redis (or what listens on the port) in a pod lets the default user in with a password.

        Raises:
            OSError, RedisError, ApiException: the pod gives no answer.
        """
        with self._client(pod, password, port) as client:
            try:
                client.ping()
            except redis.AuthenticationError:
                return False
        return True

    def only(self, pod: str, password: str) -> bool:
        """Whether Redis in a pod lets the default user in with this password and no other.

        Redis tells its users' passwords as SHA-256, so this also answers after a run that was killed, when nobody
        knows the old password any more.
        """
        with self._client(pod, password, None) as client:
            user: Any = client.acl_getuser("default")
        return list(user["passwords"]) == [hashlib.sha256(password.encode()).hexdigest()]

    def served(self, pod: str, port: int) -> str:
        """The fingerprint of the certificate that a port of a pod shows.

        Raises:
            OSError, ApiException: the pod gives no answer, or speaks no TLS.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the caller compares it byte for byte
        plain = self._open(pod, port)
        try:
            with context.wrap_socket(plain, server_hostname=self.settings.redis.service) as talk:
                shown = talk.getpeercert(binary_form=True)
        except OSError:
            tunnel.check(plain)
            raise
        finally:
            plain.close()
        return hashlib.sha256(shown or b"").hexdigest()

    def trusted(self) -> list[tuple[str, str | None]]:
        """(pod, the ca.crt in it) of every pod; None: it has no `cat` to look with."""
        ours, theirs = f"{SECRETS_DIR}/redis-tls/ca.crt", f"{wiring.CA_DIR}/ca.crt"
        places = [(pod, "redis", ours) for pod in self.redis_pods()]
        places += [(pod, "haproxy", ours) for pod in self.proxy_pods()]
        places += [(pod, self.settings.api.container, theirs) for pod in self.api_pods()]
        return [(pod, self._file(pod, container, path)) for pod, container, path in places]

    # -- inside

    def _file(self, pod: str, container: str, path: str) -> str | None:
        channel = stream.stream(
            self._cluster.core.connect_get_namespaced_pod_exec,
            pod,
            self._namespace,
            container=container,
            command=["cat", path],
            stdout=True,
            stderr=True,
            stdin=False,
            tty=False,
            _preload_content=False,
        )
        channel.run_forever(timeout=SECONDS)
        if channel.is_open():
            channel.close()
            raise TimeoutError(f"cat in {pod} did not end")
        return str(channel.read_stdout()) if channel.returncode == 0 else None

    def _open(self, pod: str, port: int) -> socket.socket:
        plain = tunnel.open_port(self._cluster, self._namespace, pod, port)
        plain.settimeout(SECONDS)
        return plain

    @contextlib.contextmanager
    def _client(self, pod: str, password: str, port: int | None) -> Iterator[redis.Redis]:
        where = port or PORT
        service, trust = self.settings.redis.service, None
        if self.settings.tls_secret:
            trust = tunnel.trust(self.secret(self.settings.tls_secret).get("ca.crt"))
        client = tunnel.redis_over(lambda: self._open(pod, where), password, tls=trust, server_name=service)
        try:
            yield client
        finally:
            client.close()

    def _deployment(self) -> Any:
        name = self.settings.api.existing_deployment or api.APP
        return self._cluster.apps.read_namespaced_deployment(name, self._namespace, _request_timeout=TIMEOUT)

    @staticmethod
    def _selector(deployment: Any) -> str:
        return kube.selector(deployment.spec.selector.match_labels)

    def _list(self, selector: str) -> list[Any]:
        found = self._cluster.core.list_namespaced_pod(
            self._namespace, label_selector=selector, _request_timeout=TIMEOUT
        )
        return sorted(found.items, key=lambda pod: str(pod.metadata.name))

    def _pods(self, app: str) -> list[str]:
        return [pod.metadata.name for pod in self._list(f"app={app}") if not pod.metadata.deletion_timestamp]


def fingerprint(pem: str) -> str:
    """The first certificate of a PEM text, to compare with what a port shows."""
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()
