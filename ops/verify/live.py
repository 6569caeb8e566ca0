"""The live stack as the checks see it: its pods, its HTTP, its Redis, and the test sessions, removed at the end."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import redis
from kubernetes.client import ApiException

from infra.redis.sentinel import proxy_name
from infra.settings import Settings
from ops import kube, tunnel
from ops.kube import TIMEOUT, Cluster, is_ready, wait_for
from ops.tunnel import Reply
from ops.verify.model import Failed, Unseen

PATIENCE = 120.0
"""Seconds a pod may take to be replaced."""


@dataclass(frozen=True)
class Session:
    """A test session.

    Attributes:
        cookie: `name=value`, as a browser sends it back.
        id: the session's id; a secret together with its signature, so only its head is ever shown.
        key: its key in Redis.
        reply: the login's reply.
    """

    cookie: str
    id: str
    key: str
    reply: Reply

    @property
    def shown(self) -> str:
        """The key, without what would let a reader take the session over."""
        return self.key[: len(self.key) - len(self.id) + 6] + "…"


class Live:
    """A deployed stack.

    Attributes:
        settings: the stack's, as it was deployed.
        outputs: the stack's outputs.
        session: the test session that most checks share; None until login, and when login fails.
        keys_before: session keys in Redis before the first login; None when there are too many to list.
    """

    def __init__(self, cluster: Cluster, settings: Settings, outputs: dict[str, Any]) -> None:
        self.cluster, self.settings, self.outputs = cluster, settings, outputs
        self.namespace: str = outputs["namespace"]
        self.session: Session | None = None
        self.errors_before: dict[str, float] = {}
        self._sessions: list[Session] = []
        self._secrets: dict[tuple[str, str], str | None] = {}

    # -- the cluster

    def secret(self, name: str, key: str) -> str | None:
        """A value of a Secret, None when there is none. It is never shown."""
        if (name, key) not in self._secrets:
            value = kube.secret(self.cluster, self.namespace, name).get(key)
            self._secrets[name, key] = None if value is None else value.decode()
        return self._secrets[name, key]

    def censor(self, text: str) -> str:
        """The text without any secret value this run has read."""
        for (name, key), value in self._secrets.items():
            if value and key != "ca.crt" and len(value) > 3:
                text = text.replace(value, f"[{name}/{key}]")
        return text

    def deployment(self) -> Any:
        """The API's Deployment."""
        name = self.outputs["api"]["deployment"]
        try:
            return self.cluster.apps.read_namespaced_deployment(name, self.namespace, _request_timeout=TIMEOUT)
        except ApiException as error:
            if error.status == 404:
                raise Failed(f"Deployment {name} is gone from namespace {self.namespace}") from None
            raise

    def pods(self, labels: dict[str, str]) -> list[Any]:
        """Pods with these labels that nobody is deleting, by name."""
        selector = kube.selector(labels)
        found = self.cluster.core.list_namespaced_pod(self.namespace, label_selector=selector, _request_timeout=TIMEOUT)
        return sorted((p for p in found.items if not p.metadata.deletion_timestamp), key=lambda p: str(p.metadata.name))

    def api_pods(self, ready_only: bool = True) -> list[Any]:
        """The API's pods."""
        pods = self.pods(self.deployment().spec.selector.match_labels)
        return [pod for pod in pods if is_ready(pod)] if ready_only else pods

    def an_api_pod(self) -> str:
        """Name of a pod of the API that serves."""
        pods = self.api_pods()
        if not pods:
            raise Failed("no pod of the API is ready")
        return str(pods[0].metadata.name)

    @property
    def sentinel(self) -> bool:
        """Whether there are several Redis, and proxies in front of them."""
        return bool(self.outputs["endpoint"]["mode"] == "sentinel")

    def redis_pods(self) -> list[Any]:
        """The pods that run Redis; [] in external mode."""
        external = self.outputs["endpoint"]["mode"] == "external"
        return [] if external else self.pods({"app": self.settings.redis.app})

    def proxy_pods(self) -> list[Any]:
        """The pods that lead to the master; [] but in sentinel mode."""
        return self.pods({"app": proxy_name(self.settings.redis.app)}) if self.sentinel else []

    def delete_pod(self, pod: Any, pods: Callable[[], list[Any]], count: int) -> None:
        """Delete a pod, as a drain or an upgrade would, and wait until `count` others are ready.

        Raises:
            Failed: they did not get ready in time.
        """
        self.cluster.core.delete_namespaced_pod(pod.metadata.name, self.namespace, _request_timeout=TIMEOUT)

        def replaced() -> bool:
            return sum(1 for p in pods() if is_ready(p) and p.metadata.uid != pod.metadata.uid) >= count

        if not wait_for(replaced, PATIENCE):
            raise Failed(f"pod {pod.metadata.name} was deleted; no new one was ready within {PATIENCE:.0f} s")

    # -- the API

    def http(self, pod: str, method: str, path: str, cookie: str | None = None, body: bytes | None = None) -> Reply:
        """One request to one pod of the API."""
        headers = {}
        if self.settings.cookie_secure:
            headers["X-Forwarded-Proto"] = "https"  # what the ingress in front says; a Secure cookie needs it
        if cookie:
            headers["Cookie"] = cookie
        if body is not None:
            headers["Content-Type"] = "application/json"
        port = tunnel.open_port(self.cluster, self.namespace, pod, self.outputs["api"]["port"])
        return tunnel.request(port, method, path, headers, body)

    def login(self, pod: str) -> Session:
        """Log in through a pod.

        Raises:
            Failed: no session came of it; the message says why.
        """
        verify = self.settings.verify
        body: str | None = "{}"
        if verify.login_secret:
            body = self.secret(verify.login_secret, "body")
            if body is None:
                raise Failed(f"Secret {verify.login_secret} (session-store:verify.loginSecret) has no key body")
        reply = self.http(pod, "POST", verify.login_path, body=(body or "").encode())
        if reply.status >= 400:
            raise Failed(f"POST {verify.login_path} answered {reply.status}{hint(reply)}")
        name = self.settings.sessions.cookie_name
        cookie = next((c.split(";")[0] for c in reply.cookies if c.startswith(f"{name}=")), None)
        if cookie is None:
            why = ""
            if self.settings.cookie_secure and not self.settings.api.trust_proxy:
                why = " (the cookie is Secure and the API trusts no proxy: set session-store:api.trustProxy)"
            raise Failed(f"POST {verify.login_path} answered {reply.status} without a cookie {name}{why}")
        identity = unquote(cookie.partition("=")[2]).removeprefix("s:").rpartition(".")[0]
        session = Session(cookie, identity, self.settings.sessions.prefix + identity, reply)
        self._sessions.append(session)
        return session

    def status(self, pod: str, session: Session) -> int:
        """What /auth_status answers for a session: 200 or 401."""
        return self.http(pod, "GET", "/auth_status", session.cookie).status

    def main_session(self) -> Session:
        """The shared test session."""
        if self.session is None:
            raise Failed("needs login")
        return self.session

    def clean_up(self) -> None:
        """Log the test sessions out."""
        for session in self._sessions:
            with contextlib.suppress(Exception):
                self.http(self.an_api_pod(), "POST", "/logout", session.cookie)
            with contextlib.suppress(Exception):
                self.redis().delete(session.key)

    # -- Redis

    def opener(self) -> tunnel.Opener:
        """Opens sockets to Redis.

        Raises:
            Unseen: an external Redis cannot be reached from here.
            Failed: our own Redis has no pod that is ready.
        """
        endpoint = self.outputs["endpoint"]
        if endpoint["mode"] == "external":
            opener = tunnel.direct(endpoint["host"], endpoint["port"])
            try:
                opener().close()
            except OSError as error:
                where = f"{endpoint['host']}:{endpoint['port']}"
                raise Unseen(f"{where} cannot be reached from here ({error}): run this where the API runs") from None
            return opener
        pods = [pod for pod in (self.proxy_pods() if self.sentinel else self.redis_pods()) if is_ready(pod)]
        if not pods:
            raise Failed(f"no pod of {'the proxy' if self.sentinel else 'Redis'} is ready")
        return self.pod_opener(pods[0].metadata.name, endpoint["port"])

    def pod_opener(self, pod: str, port: int) -> tunnel.Opener:
        """Opens sockets to a port of one pod."""
        return lambda: tunnel.open_port(self.cluster, self.namespace, pod, port)

    @property
    def server_name(self) -> str:
        """The name Redis's certificate must carry."""
        return self.settings.tls.server_name or str(self.outputs["endpoint"]["host"])

    def trust(self) -> ssl.SSLContext | None:
        """How the API trusts Redis; None: TLS is off."""
        if not self.outputs["endpoint"]["tls"]:
            return None
        name = self.outputs["secrets"].get("tls")
        ca = self.secret(name, "ca.crt") if name else None
        if name and not ca:
            raise Failed(f"Secret {name} has no ca.crt: the API cannot verify Redis")
        return tunnel.trust(ca)

    def redis(self) -> redis.Redis:
        """A client as the API is one: its user, its password, its database, its CA."""
        opener, trust = self.opener(), self.trust()
        password = self.secret(self.outputs["secrets"]["password"], "password")
        username, database = self.settings.redis.username, int(self.outputs["endpoint"]["database"])
        client = tunnel.redis_over(opener, password, username, database, trust, self.server_name)
        try:
            client.ping()
        except redis.AuthenticationError as error:
            if "without any password configured" not in str(error):
                raise Failed(
                    f"Redis refuses the password of Secret {self.outputs['secrets']['password']}: {error}"
                ) from None
            # It has no password, which a check of its own reports; the others can still look.
            client = tunnel.redis_over(opener, None, None, database, trust, self.server_name)
            client.ping()
        return client

    def raw(self, command: str, trust: ssl.SSLContext | None, opener: tunnel.Opener | None = None) -> str:
        """Redis's first words to a command on a fresh connection.

        Args:
            command: one inline command.
            trust: speak TLS with it; None: speak plaintext.
            opener: where to; None: as the API connects.

        Returns:
            The first line of the reply, "" when Redis hung up or spoke something else.
        """
        plain = (opener or self.opener())()
        plain.settimeout(5)
        try:
            talk: socket.socket = trust.wrap_socket(plain, server_hostname=self.server_name) if trust else plain
            talk.sendall(f"{command}\r\n".encode())
            if not (answer := talk.recv(1024)):
                tunnel.check(plain)
            return answer.decode(errors="replace").partition("\r\n")[0]
        except (TimeoutError, ConnectionError):
            tunnel.check(plain)
            return ""
        finally:
            plain.close()


def hint(reply: Reply) -> str:
    """The reason in a reply's body, if it is a short one."""
    text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
    return f": {' '.join(text.split())[:120]}" if text else ""
