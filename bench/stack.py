"""The stack under test: its own project folder, namespace and cluster, driven by the commands a person would use."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import redis
import yaml
from rich.console import Console

from ops import kube, tunnel
from ops.errors import OpsError

REPO = Path(__file__).resolve().parent.parent
STACK = "dev"
REDIS_PORT = 6379
IMAGES = ("redis", "api", "haproxy")
AHEAD, BEHIND = 5, 10
"""Levels of `nice`: the bench is ahead of the cluster, what a person runs is behind it; both are other machines."""


class BenchError(Exception):
    """The bench cannot go on; the message says why."""


@dataclass
class Stack:
    """A session store for the bench alone.

    Attributes:
        cluster: name of the embedded cluster.
        namespace: of the stack.
        mode: redis.mode.
        wait_replicas: sessions.waitReplicas.
        console: where people read.
        changes: settings on top, `redis` -> {key: value}.
    """

    cluster: str
    namespace: str
    mode: str
    wait_replicas: int
    console: Console
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Its project folder: Pulumi files and state."""
        return REPO / ".state" / "bench" / f"{self.cluster}-{self.namespace}"

    def say(self, text: str) -> None:
        """One line for people."""
        self.console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {text}", highlight=False, soft_wrap=True)

    # --- commands

    def embedded(self, *arguments: str) -> str:
        """What `python -m cluster ARGUMENTS --name CLUSTER` printed."""
        return _run([sys.executable, "-m", "cluster", *arguments, "--name", self.cluster], behind=0)

    def ops(self, *arguments: str) -> str:
        """What `python -m ops ARGUMENTS --stack dev` printed, for this stack."""
        return _run([sys.executable, "-m", "ops", *arguments, "--stack", STACK], self.environment)

    def kubectl(self, *arguments: str) -> str:
        """What kubectl printed, in the stack's namespace."""
        return self.tool("kubectl", "--namespace", self.namespace, *arguments)

    def tool(self, name: str, *arguments: str) -> str:
        """What a program of the toolchain printed."""
        return _run([_program(name), *arguments], self.environment)

    @cached_property
    def _kubeconfig(self) -> str:
        return self.embedded("kubeconfig", "--path").strip()

    @property
    def environment(self) -> dict[str, str]:
        """What `ops` and `kubectl` need."""
        own = {"SESSION_STORE_PROJECT": str(self.folder), "KUBECONFIG": self._kubeconfig, "PYTHONPATH": str(REPO)}
        return {**os.environ, **own, "COLUMNS": "200"}

    # --- making it

    def create_cluster(self, images: Path) -> None:
        """Cluster and images, whatever of it is missing; `images`: where to write which they are."""
        self.say(f"cluster {self.cluster}")
        self.embedded("up")
        self.say("images")
        _run([sys.executable, "-m", "images", "build", *IMAGES, "--json", str(images)])
        self.load_images(*(image["archive"] for image in json.loads(images.read_text()).values()))

    def create(self) -> None:
        """Cluster, images, certificate, stack: whatever of it is missing."""
        self.create_cluster(self.images)
        self.deploy()

    @property
    def images(self) -> Path:
        """Where it says which images there are."""
        folder = self.folder / ".state"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "images.json"

    def deploy(self) -> None:
        """Certificate and stack, on a cluster that has the images."""
        self.configure()
        self.say(f"stack in namespace {self.namespace}, mode {self.mode}")
        if self.tls:
            self.ops("certificates", "issue")
        self.ops("up")
        self.wait_ready()
        with self.client(self.master().metadata.name) as client:
            client.flushall()  # sessions of an earlier run would make this one slower

    @property
    def tls(self) -> bool:
        """Whether Redis speaks TLS."""
        return bool(self.changes.get("tls", {}).get("enabled", True))

    def load_images(self, *archives: str) -> None:
        """Put images into the cluster's nodes."""
        self.embedded("load-image", *archives)

    def configure(self, part: str | None = None, **changes: Any) -> None:
        """Write the stack file: the bench's settings, and these changes below key `part` (they add up)."""
        if part:
            self.changes[part] = {**self.changes.get(part, {}), **changes}
        settings: dict[str, dict[str, Any]] = {
            # Memory for every session of a long run: none of them ends before it.
            "redis": {"mode": self.mode, "appendonly": True, "memory": "512Mi", "cpu": "50m"},
            "tls": {"enabled": True},
            "sessions": {"secureCookie": False, "waitReplicas": self.wait_replicas if self.mode == "sentinel" else 0},
            "api": {"replicas": 3, "authEnv": "development", "cpu": "50m"},
        }
        settings["redis"]["storage"] = {"size": "1Gi", "retain": False}
        for key, values in self.changes.items():
            settings[key] = {**settings.get(key, {}), **values}
        config: dict[str, Any] = {f"session-store:{key}": value for key, value in settings.items()}
        config["session-store:namespace"] = self.namespace
        shutil.copy(REPO / "Pulumi.yaml", self.folder)
        path = self.folder / f"Pulumi.{STACK}.yaml"
        # What `ops rotate` wrote (generations) is its own.
        old = (yaml.safe_load(path.read_text()) or {}).get("config", {}) if path.exists() else {}
        kept = {key: value for key, value in old.items() if key == "session-store:credentials"}
        path.write_text(yaml.safe_dump({"config": {**kept, **config}}))

    def destroy(self) -> None:
        """Delete the stack and its folder; the cluster stays."""
        self.ops("down", "--yes")
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found")
        shutil.rmtree(self.folder)

    # --- looking at it

    def addresses(self, app: str) -> list[str]:
        """Addresses of the pods with this label `app`; the host has a route to them."""
        return [pod.status.pod_ip for pod in self.pods(app)]

    @cached_property
    def api(self) -> kube.Cluster:
        """A client of the cluster's API server."""
        os.environ["KUBECONFIG"] = self._kubeconfig
        return kube.connect(STACK)

    def placement(self) -> dict[str, str]:
        """Pod to node."""
        pods = self.api.core.list_namespaced_pod(self.namespace).items
        return {pod.metadata.name: pod.spec.node_name for pod in pods}

    def service_address(self, name: str, namespace: str | None = None) -> str:
        """ClusterIP of a Service, of the stack's namespace or another; the host has a route to it."""
        return str(self.api.core.read_namespaced_service(name, namespace or self.namespace).spec.cluster_ip)

    def secret(self, name: str, key: str) -> str:
        """One value of a Secret."""
        data = self.api.core.read_namespaced_secret(name, self.namespace).data
        return base64.b64decode(data[key]).decode()

    def pods(self, app: str) -> list[Any]:
        """The pods with this label `app`, as the API server knows them, but for those that end."""
        pods = self.api.core.list_namespaced_pod(self.namespace, label_selector=f"app={app}").items
        return [pod for pod in pods if pod.metadata.deletion_timestamp is None]

    def redis_pods(self) -> list[Any]:
        """The Redis pods."""
        return self.pods("redis")

    def proxy_pods(self) -> list[Any]:
        """The pods that lead to the master."""
        return self.pods("redis-proxy")

    def client(self, pod: str) -> redis.Redis:
        """A client of one Redis pod, through the API server."""
        tls = tunnel.trust(self.secret("redis-tls", "ca.crt")) if self.tls else None
        password = self.secret("redis-secret", "password")
        return tunnel.redis_over(
            lambda: tunnel.open_port(self.api, self.namespace, pod, REDIS_PORT), password, tls=tls, server_name="redis"
        )

    def info(self, pod: str) -> dict[str, Any] | None:
        """INFO of a Redis pod; None: it does not answer."""
        try:
            with self.client(pod) as client:
                return {**client.info("server"), **client.info("replication")}
        except (redis.RedisError, *kube.API_ERRORS):
            return None

    def master(self) -> Any:
        """The pod that is master, once no other thinks so too."""
        found: list[Any] = []

        def one() -> bool:
            infos = {pod.metadata.name: (pod, self.info(pod.metadata.name)) for pod in self.redis_pods()}
            found[:] = [pod for pod, info in infos.values() if info and info["role"] == "master"]
            return len(found) == 1

        if not kube.wait_for(one, 60):
            names = ", ".join(pod.metadata.name for pod in found) or "none"
            raise BenchError(f"namespace {self.namespace} should have one master; these say that they are: {names}")
        return found[0]

    def unready(self) -> str | None:
        """What is not Ready yet, of nodes, controllers and pods; None: all is."""
        try:
            return self._unready()
        except kube.API_ERRORS as error:
            return f"the API server: {error}"

    def _unready(self) -> str | None:
        for node in self.api.core.list_node().items:
            if node.spec.unschedulable or not kube.is_ready(node):
                return f"node {node.metadata.name}"
        apps = self.api.apps
        for item in apps.list_namespaced_stateful_set(self.namespace).items:
            if item.status.observed_generation != item.metadata.generation or (
                item.spec.replicas != (item.status.ready_replicas or 0)
                or item.spec.replicas != (item.status.updated_replicas or 0)
            ):
                return f"statefulset {item.metadata.name}"
        for item in apps.list_namespaced_deployment(self.namespace).items:
            counts = (item.status.replicas, item.status.ready_replicas, item.status.updated_replicas)
            if item.status.observed_generation != item.metadata.generation or set(counts) != {item.spec.replicas}:
                return f"deployment {item.metadata.name}"
        for pod in self.api.core.list_namespaced_pod(self.namespace).items:
            if pod.status.phase != "Succeeded" and (pod.metadata.deletion_timestamp or not kube.is_ready(pod)):
                return f"pod {pod.metadata.name}"
        return None

    def wait_ready(self, seconds: float = 300) -> None:
        """Until all is Ready."""
        if not kube.wait_for(lambda: self.unready() is None, seconds):
            raise BenchError(f"not Ready after {seconds:.0f} s: {self.unready()}")


@cache
def _program(name: str) -> str:
    return _run([sys.executable, "-m", "toolchain", "path", name]).split()[-1]


def _run(command: list[str], environment: dict[str, str] | None = None, behind: int = BEHIND) -> str:
    nicely = ["nice", f"-n{AHEAD + behind}", *command]
    done = subprocess.run(nicely, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        shown = " ".join(Path(word).name if word == command[0] else word for word in command[:8])
        raise BenchError(f"`{shown}` failed (exit {done.returncode}):\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


ERRORS = (BenchError, OpsError, *kube.API_ERRORS)
"""What a person at the bench may meet."""
