"""Which cluster, and a client for it."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes
import urllib3
from kubernetes.client import ApiException
from kubernetes.config import ConfigException

from ops.errors import OpsError
from ops.workspace import DEV

TIMEOUT = (3.0, 7.0)
"""Seconds to connect and to wait for an answer: no call may hang."""


@dataclass(frozen=True)
class Cluster:
    """A Kubernetes cluster as the operator's kubeconfig names it.

    Attributes:
        kubeconfig: path, or several joined by the path separator.
        context: the current context.
        server: the API server's URL.
        api: the client.
    """

    kubeconfig: str
    context: str
    server: str
    api: Any

    @property
    def core(self) -> Any:
        """CoreV1Api."""
        return kubernetes.client.CoreV1Api(self.api)

    @property
    def apps(self) -> Any:
        """AppsV1Api."""
        return kubernetes.client.AppsV1Api(self.api)

    @property
    def discovery(self) -> Any:
        """DiscoveryV1Api."""
        return kubernetes.client.DiscoveryV1Api(self.api)


def find_kubeconfig(stack: str) -> str:
    """KUBECONFIG wins; dev falls back to the embedded cluster's; then ~/.kube/config.

    Raises:
        OpsError: there is none.
    """
    if chosen := os.environ.get("KUBECONFIG"):
        if not any(Path(part).is_file() for part in chosen.split(os.pathsep)):
            raise OpsError(
                f"KUBECONFIG is {chosen}, which does not exist: correct it, or unset it to use the default cluster."
            )
        return chosen
    embedded = Path(os.environ.get("SESSION_STORE_HOME") or "/var/lib/session-store") / DEV / "kubeconfig"
    default = Path.home() / ".kube" / "config"
    for path in [embedded] * (stack == DEV) + [default]:
        if path.is_file():
            return str(path)
    start = "start the embedded cluster with `python -m cluster up`, or " if stack == DEV else ""
    raise OpsError(f"No cluster for stack {stack}: {start}set KUBECONFIG to a cluster's kubeconfig.")


def connect(stack: str, context: str | None = None) -> Cluster:
    """The stack's cluster. Reads the kubeconfig only; sends nothing.

    Args:
        stack: the stack's name.
        context: of the kubeconfig; None: its current one.

    Raises:
        OpsError: the kubeconfig is missing or unusable.
    """
    path = find_kubeconfig(stack)
    try:
        known, active = kubernetes.config.list_kube_config_contexts(path)
        if context:
            active = next((entry for entry in known if entry["name"] == context), None)
            if active is None:
                names = ", ".join(entry["name"] for entry in known)
                raise OpsError(f"kubernetes:context of stack {stack} is {context}; {path} has: {names}.")
        api = kubernetes.config.new_client_from_config(path, context=context)
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise OpsError(f"The kubeconfig {path} cannot be used: {error}") from None
    if not api.configuration.verify_ssl:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the kubeconfig says so: once is enough
    api.configuration.retries = False  # one attempt, so that the timeouts bound the whole call
    api = kubernetes.client.ApiClient(api.configuration)
    return Cluster(path, active["name"], api.configuration.host, api)


def why(error: Exception, cluster: Cluster) -> str:
    """One line for a failed API call, naming the server and the fix."""
    if isinstance(error, ApiException):
        if error.status == 401:
            user = f"the credentials of context {cluster.context}"
            return f"{cluster.server} refuses {user}: log in again, or check {cluster.kubeconfig}"
        if error.status == 403:
            return f"context {cluster.context} lacks a right: {message_of(error)}"
        return f"{cluster.server} answered {error.status or 'nothing'}: {message_of(error)}"
    reason = getattr(error, "reason", None) or error
    return f"{cluster.server} (context {cluster.context}) cannot be reached: {' '.join(str(reason).split())[:200]}"


def message_of(error: ApiException) -> str:
    """The Status message in an API error, else its reason."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


API_ERRORS = (ApiException, urllib3.exceptions.HTTPError, OSError)
"""What a call of the client may raise."""


def identity(cluster: Cluster, namespace: str) -> list[str]:
    """What tells one place from another: the UIDs of kube-system and of the namespace, and the server for people."""
    spaces = [get(cluster.core.read_namespace, name) for name in ("kube-system", namespace)]
    return [*(space.metadata.uid if space else "none" for space in spaces), cluster.server]


def get(read: Callable[..., Any], *args: Any) -> Any:
    """Call a `read_*` method; None when the object does not exist."""
    try:
        return read(*args, _request_timeout=TIMEOUT)
    except ApiException as error:
        if error.status == 404:
            return None
        raise


def secret(cluster: Cluster, namespace: str, name: str) -> dict[str, bytes]:
    """A Secret's values, {} when there is none. They are never shown."""
    found = get(cluster.core.read_namespaced_secret, name, namespace)
    return {key: base64.b64decode(value) for key, value in ((found and found.data) or {}).items()}


def selector(labels: Mapping[str, str]) -> str:
    """Labels as a `label_selector` takes them."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def is_ready(item: Any) -> bool:
    """Whether a pod serves, or a node takes pods."""
    return any(c.type == "Ready" and c.status == "True" for c in item.status.conditions or [])


def wait_for(probe: Callable[[], Any], seconds: float, every: float = 0.3) -> Any:
    """Ask until the answer is true or the time is over.

    Returns:
        The last answer, which may be false.
    """
    end = time.monotonic() + seconds
    while not (answer := probe()) and time.monotonic() < end:
        time.sleep(every)
    return answer
