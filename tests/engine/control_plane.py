"""etcd, kube-apiserver and kube-controller-manager on loopback, and a stand-in for nodes that tells how pods do."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from kubernetes import client, config
from urllib3.exceptions import HTTPError

HOST, NODE = "127.0.0.1", "node-1"
# No nodes: nothing that looks after them. With garbage collection deletes are those of a real cluster.
CONTROLLERS = (
    "deployment,replicaset,statefulset,daemonset,job,endpointslice,garbage-collector-controller,namespace-controller,"
    "serviceaccount-controller,persistentvolumeclaim-protection-controller"
)


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    """The condition's first true value.

    Raises:
        AssertionError: not within the time.
    """
    end = time.monotonic() + seconds
    pause = threading.Event()
    last: Exception | None = None
    while time.monotonic() < end:
        try:
            if value := condition():
                return value
        except (client.ApiException, HTTPError, OSError) as error:
            last = error
        pause.wait(0.1)
    raise AssertionError(f"{what}: not within {seconds} s ({last})")


def free_ports(count: int) -> list[int]:
    held = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in held]
    for taken in held:
        taken.close()
    return ports


class ControlPlane:
    """A context: its programs run inside."""

    def __init__(self, directory: Path, tools: dict[str, Path]):
        self.directory, self.tools = directory, tools
        self.kubeconfig = directory / "kubeconfig"
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> ControlPlane:
        try:
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _boot(self) -> None:
        peer, store, api = free_ports(3)
        token = secrets.token_hex(16)
        (self.directory / "tokens.csv").write_text(f'{token},tester,1,"system:masters"\n')
        self._certificate()
        self._kubeconfig(self.kubeconfig, api, token, "default")
        urls = f"http://{HOST}:{store}"
        self._start(
            "etcd", f"--data-dir={self.directory}/etcd", f"--listen-client-urls={urls}",
            f"--advertise-client-urls={urls}",
            f"--listen-peer-urls=http://{HOST}:{peer}", f"--initial-advertise-peer-urls=http://{HOST}:{peer}",
            f"--initial-cluster=default=http://{HOST}:{peer}", "--unsafe-no-fsync", "--log-level=error",
        )  # fmt: skip
        key = self.directory / "key.pem"
        self._start(
            "kube-apiserver", f"--etcd-servers={urls}", f"--secure-port={api}", f"--bind-address={HOST}",
            f"--tls-cert-file={self.directory}/cert.pem", f"--tls-private-key-file={key}",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://tests.invalid", "--service-cluster-ip-range=10.222.0.0/24",
            f"--token-auth-file={self.directory}/tokens.csv", "--authorization-mode=RBAC",
            "--endpoint-reconciler-type=none",
            f"--advertise-address={HOST}", "--disable-admission-plugins=TaintNodesByCondition",
            f"--cert-dir={self.directory}",
            "--shutdown-delay-duration=0s",
        )  # fmt: skip
        self._start(
            "kube-controller-manager", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0",
            f"--controllers={CONTROLLERS}", f"--service-account-private-key-file={key}", f"--cert-dir={self.directory}",
        )  # fmt: skip
        self.api = config.new_client_from_config(str(self.kubeconfig))
        core = client.CoreV1Api(self.api)
        wait_for("the API server", lambda: core.read_namespace("default"))
        wait_for("the controllers", lambda: core.read_namespaced_service_account("default", "default"))
        core.create_node({"metadata": {"name": NODE}})
        self.server = f"https://{HOST}:{api}"

    def _start(self, name: str, *arguments: str) -> None:
        log = (self.directory / f"{name}.log").open("wb")
        self._running.append(subprocess.Popen([self.tools[name], *arguments], stdout=log, stderr=log))

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            process.kill()
            process.wait()

    def _certificate(self) -> None:
        key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), False)
            .add_extension(x509.BasicConstraints(True, None), True)
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        pem = serialization.Encoding.PEM
        (self.directory / "cert.pem").write_bytes(certificate.public_bytes(pem))
        private = key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        (self.directory / "key.pem").write_bytes(private)

    def _kubeconfig(self, path: Path, port: int, token: str, namespace: str) -> None:
        cluster = {"server": f"https://{HOST}:{port}", "certificate-authority": str(self.directory / "cert.pem")}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tester", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tester", "namespace": namespace}}],
            "current-context": "tests",
        }
        path.write_text(yaml.safe_dump(document))

    def kubeconfig_for(self, namespace: str, directory: Path) -> Path:
        """A kubeconfig whose default namespace is this one."""
        document = yaml.safe_load(self.kubeconfig.read_text())
        document["contexts"][0]["context"]["namespace"] = namespace
        path = directory / "kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path


class FakeKubelet:
    """A context with a new namespace, whose pods become ready, or fail as `trouble` says.

    Attributes:
        namespace: its name.
        trouble: a container status (`state`, `restartCount`, ...) that new pods get instead of being ready.
    """

    def __init__(self, plane: ControlPlane):
        self.core, self.apps = client.CoreV1Api(plane.api), client.AppsV1Api(plane.api)
        self.custom = client.CustomObjectsApi(plane.api)
        self.namespace = f"t{secrets.token_hex(4)}"
        self.trouble: dict[str, Any] | None = None
        self.idle = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)

    def __enter__(self) -> FakeKubelet:
        self.core.create_namespace({"metadata": {"name": self.namespace}})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.core.delete_namespace(self.namespace)

    def _play(self) -> None:
        while not self._stop.wait(0.1):
            for pod in self.core.list_namespaced_pod(self.namespace).items:
                try:
                    self._tend(pod)
                except client.ApiException as error:
                    if error.status not in (404, 409):
                        raise

    def _tend(self, pod: Any) -> None:
        name = pod.metadata.name
        if pod.metadata.deletion_timestamp:
            self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)
            return
        if not pod.spec.node_name:
            binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}}
            self.core.create_namespaced_pod_binding(name, self.namespace, binding, _preload_content=False)
        ready = any(entry.type == "Ready" and entry.status == "True" for entry in pod.status.conditions or [])
        if self.idle or (ready and not self.trouble) or (self.trouble and pod.status.container_statuses):
            return
        status = (
            {"ready": True, "restartCount": 0, "state": {"running": {}}}
            if not self.trouble
            else {"ready": False, "restartCount": 0}
        )
        status |= self.trouble or {}
        containers = [{"name": item.name, "image": item.image, "imageID": "", **status} for item in pod.spec.containers]
        flag = "False" if self.trouble else "True"
        ended = "terminated" in (self.trouble or {}).get("state", {})
        phase = "Failed" if ended else "Pending" if self.trouble else "Running"
        body = {
            "status": {
                "phase": phase,
                "podIP": "10.223.0.1",
                "podIPs": [{"ip": "10.223.0.1"}],
                "conditions": [{"type": kind, "status": flag} for kind in ("Ready", "ContainersReady")],
                "containerStatuses": containers,
            }
        }
        self.core.patch_namespaced_pod_status(name, self.namespace, body)
