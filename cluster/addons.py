"""What runs inside every cluster: CoreDNS, local-path-provisioner with the default StorageClass."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import yaml

from cluster import api, host
from cluster.spec import Cluster
from cluster.tools import Image

DEPLOYMENTS = (("kube-system", "coredns"), ("local-path-storage", "local-path-provisioner"))
_MANIFESTS = Path(__file__).parent / "addons.yaml"
_STAMP = "/api/v1/namespaces/kube-system/configmaps/session-store-addons"


def manifests(cluster: Cluster, images: dict[str, Image]) -> list[dict[str, Any]]:
    """The objects of addons.yaml with this cluster's values, and a stamp that `apply` finds them by."""
    paths = [{"node": n.name, "paths": [str(n.volumes)]} for n in cluster.nodes]
    text = _MANIFESTS.read_text()
    values = {
        "DNS_IP": str(cluster.dns_ip),
        "COREDNS": images["coredns"].ref,
        "PROVISIONER": images["local-path-provisioner"].ref,
        "HELPER": images["helper"].ref,
        # A block scalar's inner JSON: quotes and braces are plain text there.
        "NODE_PATHS": json.dumps(paths),
        "FORWARD": f"forward . {' '.join(resolvers)}"
        if (resolvers := _resolvers())
        else "# no resolver outside this machine",
        "DNS_REPLICAS": str(min(2, cluster.node_count)),
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    objects = list(yaml.safe_load_all(text))
    stamp = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "session-store-addons", "namespace": "kube-system"},
        "data": {"hash": hashlib.sha256(text.encode()).hexdigest()},
    }
    return [*objects, stamp]  # last, so that it is only there when all the others are


def _resolvers() -> list[str]:
    """The machine's name servers that a pod can reach: those on a loopback address are out."""
    for path in (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf")):
        if path.exists():
            lines = [line.split() for line in path.read_text().splitlines()]
            found = [line[1] for line in lines if line[:1] == ["nameserver"] and len(line) > 1]
            return [address for address in found if ":" not in address and not address.startswith("127.")]
    return []


def apply(cluster: Cluster, kubectl: Path, images: dict[str, Image]) -> bool:
    """Apply the addons unless these very ones were; returns whether anything was sent."""
    objects = manifests(cluster, images)
    stamp = api.request(cluster, _STAMP)
    if stamp and stamp["data"] == objects[-1]["data"]:
        return False
    send(cluster, kubectl, objects)
    return True


def send(cluster: Cluster, kubectl: Path, objects: list[dict[str, Any]]) -> None:
    """Have the API server hold these objects."""
    host.run(
        kubectl.resolve(),
        f"--kubeconfig={cluster.kubeconfig}",
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=session-store-cluster",
        "-f",
        "-",
        stdin=yaml.safe_dump_all(objects),
    )


def problems(cluster: Cluster) -> dict[str, str | None]:
    """Addon -> why it does not serve, or None when it does."""
    found = api.deployments_ready(cluster, DEPLOYMENTS)
    found["DNS answers"] = _dns_problem(cluster)
    return found


def problem(cluster: Cluster) -> str | None:
    """The first addon that does not serve, with what its pods say; None when all do."""
    for name, why in problems(cluster).items():
        if why:
            namespace = name.partition("/")[0]
            detail = api.pod_trouble(cluster, namespace) if "/" in name else ""
            return f"{name}: {why}" + (f" ({detail})" if detail else "")
    return None


def _dns_problem(cluster: Cluster) -> str | None:
    """Ask CoreDNS for a Service, the whole way a pod would: Service address, kube-proxy, pod network."""
    name = b"".join(bytes([len(p)]) + p for p in b"kubernetes.default.svc.cluster.local".split(b".")) + b"\0"
    query = b"\x53\x53\x01\x00\x00\x01" + bytes(6) + name + b"\x00\x01\x00\x01"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(1)
            client.connect((str(cluster.dns_ip), 53))
            client.send(query)
            answer = client.recv(512)
    except OSError as error:
        return f"{cluster.dns_ip}:53: {error}"
    return None if answer.endswith(cluster.services[1].packed) else f"{cluster.dns_ip}:53 does not know the API server"
