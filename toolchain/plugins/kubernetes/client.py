"""The API server over REST: discovery, server-side apply, reads and deletes, each failure as one sentence."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import yaml

from toolchain.plugins.server import PluginError

CONNECT_S, READ_S, DOWN_S = 5, 60, 3.0


class UnreachableError(PluginError):
    """No answer from the API server, or no kubeconfig that names one."""


class ApiError(PluginError):
    """The API server refused.

    Attributes:
        code: HTTP status.
        reason: Kubernetes' word for it, such as `AlreadyExists`.
        causes: `field`, `message`, `reason` of each thing that is wrong.
        about: kind of the object that the refusal is about, lower-case, as in `namespaces`.
    """

    def __init__(self, message: str, code: int, reason: str, causes: list[dict[str, str]], about: str):
        super().__init__(message)
        self.code, self.reason, self.causes, self.about = code, reason, causes, about


class NoSuchTypeError(PluginError):
    """The API server has no such type."""


@dataclass(frozen=True)
class Settings:
    """How to reach the cluster.

    Attributes:
        kubeconfig: text or path; empty: KUBECONFIG, ~/.kube/config, or the pod's own account.
        context: context of the kubeconfig; empty: its current one.
        cluster: cluster of the kubeconfig, instead of the context's.
        namespace: for objects that name none; empty: the context's.
    """

    kubeconfig: str = ""
    context: str = ""
    cluster: str = ""
    namespace: str = ""


class Cluster:
    """One API server. Methods may be called from several threads."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._lock = threading.Lock()
        self._api: Any = None
        self._down: tuple[float, UnreachableError] | None = None
        self._types: dict[str, dict[str, tuple[str, bool]]] = {}
        self._schemas: dict[str, dict[str, Any]] = {}
        self.namespace = settings.namespace or "default"

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._client().configuration.host)

    def _client(self) -> Any:
        with self._lock:
            if self._api is None:
                self._api = self._connect()
            return self._api

    def _connect(self) -> Any:
        from kubernetes import client, config
        from kubernetes.config import kube_config
        from urllib3.util import Retry

        settings, target = self._settings, client.Configuration()
        try:
            text = settings.kubeconfig
            if text and ("\n" in text or text.lstrip().startswith("{")):
                document = kube_config.ConfigNode("kubeconfig", yaml.safe_load(text))
            else:
                paths = text or kube_config.KUBE_CONFIG_DEFAULT_LOCATION
                if not text and not any(Path(path).expanduser().exists() for path in paths.split(os.pathsep)):
                    config.load_incluster_config(target)
                    return client.ApiClient(target)
                document = kube_config.KubeConfigMerger(paths).config
                if document is None:
                    raise FileNotFoundError(f"there is no file {paths}")
            name = settings.context or document["current-context"]
            entry = document["contexts"].get_with_name(name)["context"].value
            if settings.cluster:
                entry["cluster"] = settings.cluster
            self.namespace = settings.namespace or entry.get("namespace") or "default"
            kube_config.KubeConfigLoader(document, active_context=name).load_and_set(target)
        except (config.ConfigException, yaml.YAMLError, OSError, AttributeError, TypeError, KeyError) as error:
            why = " ".join(str(error).split())
            raise UnreachableError(
                f"No usable kubeconfig: {why}. Set KUBECONFIG or the provider's `kubeconfig` to a file that "
                "`kubectl` accepts."
            ) from None
        target.retries = Retry(total=2, backoff_factor=0.2, redirect=0, status=0)
        target.connection_pool_maxsize = 64
        return client.ApiClient(target)

    def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None, kind: str = ""
    ) -> Any:
        """One request.

        Args:
            method: HTTP method.
            path: path on the server.
            query: query parameters.
            body: sent as JSON.
            kind: content type of the body.

        Returns:
            The decoded JSON, or the text of an answer that is none.

        Raises:
            UnreachableError: no answer.
            ApiError: an answer that is no success.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        api = self._client()
        if self._down and time.monotonic() < self._down[0]:  # a stack of many objects must not wait for each
            raise self._down[1]
        url = f"{api.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers: dict[str, str] = {"Accept": "application/json", **api.default_headers}
        if kind:
            headers["Content-Type"] = kind
        api.update_params_for_auth(headers, [], ["BearerToken"])
        try:
            answer = api.rest_client.request(
                method, url, headers=headers, body=body, _preload_content=False, _request_timeout=(CONNECT_S, READ_S)
            )
        except ApiException as error:
            if error.status == 0:
                raise self._unreachable(error.reason) from None
            raise self._refused(error) from None
        except (HTTPError, OSError) as error:
            raise self._unreachable(str(getattr(error, "reason", None) or error)) from None
        data = answer.data.decode(errors="replace")
        try:
            return json.loads(data)
        except ValueError:
            return data

    def _unreachable(self, why: str) -> UnreachableError:
        """Remember for a moment that the server is away."""
        # urllib3: `<...object at 0x...>: Failed to establish a new connection: [Errno 111] Connection refused`
        why = re.sub(r".*\[Errno -?\d+\] |.*>: ", "", " ".join(why.split()))
        error = UnreachableError(
            f"The Kubernetes API server {self._api.configuration.host} cannot be reached ({why}). Start the cluster, "
            "or point KUBECONFIG (or the provider's `kubeconfig`) at one that runs."
        )
        self._down = (time.monotonic() + DOWN_S, error)
        return error

    def _refused(self, error: Any) -> ApiError:
        body = error.body if error.body is not None else ""
        try:
            status = json.loads(body)
            details = status.get("details") or {}
        except (ValueError, AttributeError):
            status, details = {"message": body.decode(errors="replace") if isinstance(body, bytes) else body}, {}
        message = str(status.get("message") or error.reason).strip()
        if error.status == 401:
            message = (
                f"{self._api.configuration.host} does not accept the kubeconfig's credentials (401): get new ones."
            )
        causes = [dict(cause) for cause in details.get("causes") or []]
        return ApiError(message, error.status, str(status.get("reason") or ""), causes, str(details.get("kind") or ""))

    def find(self, api_version: str, kind: str) -> tuple[str, bool]:
        """Where the objects of a type are.

        Returns:
            The plural name, and whether they are in namespaces.

        Raises:
            NoSuchTypeError: the server has no such type.
        """
        with self._lock:
            known = self._types.get(api_version, {})
        if kind not in known:
            try:
                listed = self.request("GET", root(api_version))
            except ApiError as error:
                if error.code != 404:
                    raise
                listed = {}
            known = {
                item["kind"]: (item["name"], item["namespaced"])
                for item in listed.get("resources", [])
                if "/" not in item["name"]
            }
            with self._lock:
                self._types[api_version] = known
        if kind not in known:
            why = (
                f"version {api_version} has no kind {kind}"
                if known
                else f"the cluster has no API version {api_version}"
            )
            raise NoSuchTypeError(
                f"{api_version} {kind}: {why}. Check the type, or install the CustomResourceDefinition first."
            )
        return known[kind]

    def path(self, api_version: str, kind: str, namespace: str, name: str = "") -> str:
        """URL path of an object, or of all of a type."""
        plural, namespaced = self.find(api_version, kind)
        place = f"/namespaces/{quote(namespace or self.namespace)}" if namespaced else ""
        return f"{root(api_version)}{place}/{plural}" + (f"/{quote(name)}" if name else "")

    def get(self, api_version: str, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """An object, or None when it is not there."""
        try:
            found: dict[str, Any] = self.request("GET", self.path(api_version, kind, namespace, name))
        except NoSuchTypeError:
            return None
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return found

    def list(self, api_version: str, kind: str, namespace: str, **query: str) -> list[dict[str, Any]]:
        """Objects of a type; `labelSelector` and `fieldSelector` narrow it. Empty where we may not look."""
        try:
            found = self.request("GET", self.path(api_version, kind, namespace), query)
        except ApiError as error:
            if error.code in (403, 404):
                return []
            raise
        return list(found.get("items") or [])

    def apply(
        self, tree: Mapping[str, Any], manager: str, *, force: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Server-side apply.

        Args:
            tree: the fields that the manager wants.
            manager: field manager.
            force: take fields over from other managers.
            dry_run: change nothing.

        Returns:
            The object as it is now.
        """
        meta = tree["metadata"]
        path = self.path(tree["apiVersion"], tree["kind"], meta.get("namespace", ""), meta["name"])
        query = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"}
        query |= {"dryRun": "All"} if dry_run else {}
        done: dict[str, Any] = self.request("PATCH", path, query, dict(tree), "application/apply-patch+yaml")
        return done

    def delete(self, api_version: str, kind: str, namespace: str, name: str, policy: str) -> None:
        """Ask for an object's deletion; `policy`: Foreground, Background or Orphan."""
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy}
        self.request("DELETE", self.path(api_version, kind, namespace, name), None, options, "application/json")

    def schema(self, api_version: str) -> dict[str, Any]:
        """The server's OpenAPI v3 schemas of an API version, by name; {} when it gives none."""
        with self._lock:
            found = self._schemas.get(api_version)
        if found is None:
            try:
                document = self.request("GET", f"/openapi/v3{root(api_version)}")
                found = document.get("components", {}).get("schemas", {}) if isinstance(document, dict) else {}
            except ApiError:
                found = {}
            with self._lock:
                self._schemas[api_version] = found
        return found

    def forget_types(self) -> None:
        """Look the types up anew: a CustomResourceDefinition has changed."""
        with self._lock:
            self._types.clear()
            self._schemas.clear()


def root(api_version: str) -> str:
    """URL path of an API version."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
