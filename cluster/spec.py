"""What a cluster is made of: its names, addresses and paths. Pure arithmetic, nothing here touches the machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

MAX_CLUSTERS = 16
MAX_NODES = 9
RUN_BASE = Path("/run/session-store")
REPO = Path(__file__).resolve().parent.parent
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE_COMPONENTS = ("containerd", "kubelet", "kube-proxy")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,18}[a-z0-9])?")


class ClusterError(Exception):
    """A failure whose message names the thing and the fix; printed without a traceback."""


def home_base() -> Path:
    """The directory that holds every cluster's data, HOME_DIR in the docs."""
    return Path(os.environ.get("SESSION_STORE_HOME") or "/var/lib/session-store").resolve()


def check_name(name: str) -> str:
    """Return `name` when it can name a cluster (it becomes node names, paths and cgroups), else raise ClusterError."""
    if not _NAME.fullmatch(name):
        raise ClusterError(
            f"cluster name {name!r}: use 1 to 20 of a-z, 0-9 and '-', starting with a letter and not ending in '-'"
        )
    return name


def check_nodes(count: int) -> int:
    """Return `count` when a cluster can have that many nodes, else raise ClusterError."""
    if not 1 <= count <= MAX_NODES:
        raise ClusterError(f"--nodes {count}: a cluster has 1 to {MAX_NODES} nodes")
    return count


@dataclass(frozen=True)
class Node:
    """One node of a cluster: `number` counts from 1."""

    cluster: Cluster
    number: int

    @property
    def name(self) -> str:
        """The Kubernetes node name, `dev-1`."""
        return f"{self.cluster.name}-{self.number}"

    @property
    def zone(self) -> str:
        """Value of the label topology.kubernetes.io/zone."""
        return f"zone-{self.number}"

    @property
    def ip(self) -> IPv4Address:
        """The node's address on the cluster's bridge."""
        return self.cluster.network[10 + self.number]

    @property
    def pods(self) -> IPv4Network:
        """The node's /24 of pod addresses."""
        return list(self.cluster.pods.subnets(new_prefix=24))[self.number]

    @property
    def netns(self) -> str:
        """Name of the network namespace, as `ip netns` shows it."""
        return f"session-store-{self.name}"

    @property
    def netns_path(self) -> Path:
        """The file that holds the network namespace open."""
        return Path("/run/netns") / self.netns

    @property
    def mntns_path(self) -> Path:
        """The file that holds the mount namespace open."""
        return self.cluster.run / "ns" / self.name

    @property
    def veth(self) -> str:
        """The host's end of the node's network cable: setting it down partitions the node."""
        return f"ss{self.cluster.index}n{self.number}"

    @property
    def home(self) -> Path:
        """Data that survives `down`: containerd's images, kubelet's state, volumes."""
        return self.cluster.home / "nodes" / self.name

    @property
    def run(self) -> Path:
        """State that does not survive `down`: sockets, containers, address leases."""
        return self.cluster.run / "nodes" / self.name

    @property
    def volumes(self) -> Path:
        """Where local-path-provisioner keeps this node's persistent volumes."""
        return self.home / "volumes"

    @property
    def containerd_socket(self) -> Path:
        """The socket that kubelet and `ctr` use; the same file is /run/containerd/containerd.sock inside the node."""
        return self.run / "containerd" / "containerd.sock"

    @property
    def cgroup(self) -> str:
        """The node's cgroup below the root of each hierarchy; kubelet puts pods under it."""
        return f"{self.cluster.cgroup}/{self.name}"


@dataclass(frozen=True)
class Cluster:
    """One embedded cluster. `index` (0 to 15) picks every address range, so that clusters never meet."""

    name: str
    index: int
    node_count: int
    base: Path

    @property
    def home(self) -> Path:
        """Data that survives `down`."""
        return self.base / self.name

    @property
    def run(self) -> Path:
        """State of the running cluster; gone after `down` and after a reboot."""
        return RUN_BASE / self.name

    @property
    def logs(self) -> Path:
        """One file per component."""
        return self.home / "logs"

    @property
    def pki(self) -> Path:
        """Keys, certificates and the components' kubeconfig files."""
        return self.home / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, mode 0600."""
        return self.home / "kubeconfig"

    @property
    def network(self) -> IPv4Network:
        """The bridge's /24: the host is .1, node N is .10+N."""
        return IPv4Network(f"10.200.{self.index}.0/24")

    @property
    def pods(self) -> IPv4Network:
        """All pod addresses."""
        return IPv4Network(f"10.{208 + self.index}.0.0/16")

    @property
    def services(self) -> IPv4Network:
        """All Service addresses."""
        return IPv4Network(f"10.{96 + self.index}.0.0/16")

    @property
    def host_ip(self) -> IPv4Address:
        """The host's address on the bridge; the control plane binds it, so clusters' ports do not clash."""
        return self.network[1]

    @property
    def dns_ip(self) -> IPv4Address:
        """Service address of CoreDNS."""
        return self.services[10]

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{self.host_ip}:6443"

    @property
    def bridge(self) -> str:
        """The bridge's interface name, at most 15 characters."""
        return f"ss{self.index}br"

    @property
    def nft_table(self) -> str:
        """The nft table (family ip) on the host."""
        return f"session_store_{self.index}"

    @property
    def cgroup(self) -> str:
        """The cluster's cgroup below the root of each hierarchy."""
        return f"session-store/{self.name}"

    def node(self, number: int) -> Node:
        """Node `number`, whether or not it is one of the current ones."""
        return Node(self, number)

    @property
    def nodes(self) -> list[Node]:
        """The current nodes."""
        return [Node(self, n) for n in range(1, self.node_count + 1)]

    @property
    def components(self) -> list[str]:
        """Keys of all processes: `etcd`, …, `kubelet-1`, …."""
        return [*CONTROL_PLANE, *(f"{c}-{n.number}" for n in self.nodes for c in NODE_COMPONENTS)]
