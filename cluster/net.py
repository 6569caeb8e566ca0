"""The cluster's network: a bridge on the host; per node a network and a mount namespace, cabled to the bridge."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from pathlib import Path

from cluster import host
from cluster.host import run
from cluster.spec import Cluster, Node

# What components find at fixed paths is the node's own: three kubelets would otherwise fight for /var/lib/kubelet.
# Path inside the node -> True when it is data that survives `down`.
NODE_DIRS = {
    "/var/lib/kubelet": True,
    "/var/log/pods": True,
    "/var/log/containers": True,
    "/var/lib/cni": False,
    "/run/containerd": False,
}


def node_dir(node: Node, inside: str) -> Path:
    """The host's path of a directory in NODE_DIRS."""
    return (node.home if NODE_DIRS[inside] else node.run) / Path(inside).name


def links() -> set[str]:
    """Names of the host's interfaces."""
    return {entry.name for entry in Path("/sys/class/net").iterdir()}


def _addresses(device: str, netns: str | None = None) -> set[str]:
    inside = ("-n", netns) if netns else ()
    found = json.loads(run("ip", *inside, "-j", "-4", "addr", "show", "dev", device, check=False) or "[]")
    return {f"{a['local']}/{a['prefixlen']}" for link in found for a in link.get("addr_info", [])}


def host_up(cluster: Cluster) -> None:
    """Bridge, address, routes to pods and Services, and masquerading for what leaves the machine."""
    host.set_sysctls()
    if cluster.bridge not in links():
        run("ip", "link", "add", cluster.bridge, "type", "bridge")
    address = f"{cluster.host_ip}/{cluster.network.prefixlen}"
    if address not in _addresses(cluster.bridge):
        run("ip", "addr", "replace", address, "dev", cluster.bridge)
    run("ip", "link", "set", cluster.bridge, "up")
    if not run("nft", "list", "table", "ip", cluster.nft_table, check=False):
        _masquerade(cluster)
    _forward_rules(cluster, add=True)


def _masquerade(cluster: Cluster) -> None:
    table = cluster.nft_table
    inside = f"{{ {cluster.network}, {cluster.pods}, {cluster.services} }}"
    run(
        "nft",
        "-f",
        "-",
        stdin=f"""
table ip {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {{ {cluster.network}, {cluster.pods} }} ip daddr != {inside} masquerade
  }}
}}
""",
    )


def host_routes(cluster: Cluster) -> None:
    """Routes of the host: to each node's pods through that node, to Services through the first."""
    for node in cluster.nodes:
        run("ip", "route", "replace", str(node.pods), "via", str(node.ip), "dev", cluster.bridge)
    route_services(cluster)


def route_services(cluster: Cluster) -> None:
    """Lead the host to Services through the first node whose cable is up."""
    first = next((node for node in cluster.nodes if cable_is_up(node)), cluster.nodes[0])
    run("ip", "route", "replace", str(cluster.services), "via", str(first.ip), "dev", cluster.bridge)


def cable_is_up(node: Node) -> bool:
    """Whether the host's end of the node's cable is there and up."""
    with contextlib.suppress(OSError):
        return bool(int(Path("/sys/class/net", node.veth, "flags").read_text(), 16) & 1)  # IFF_UP
    return False


def set_cable(node: Node, *, up: bool) -> None:
    """Take the host's end of a node's cable up or down."""
    run("ip", "link", "set", node.veth, "up" if up else "down")


def _forward_rules(cluster: Cluster, *, add: bool) -> None:
    # Docker and firewalls set FORWARD to DROP, and bridged frames pass it too: let ours through.
    rules = run("iptables", "-w", "-S", "FORWARD", check=False) if shutil.which("iptables") else ""
    mine = [rule for rule in rules.splitlines() if f" {cluster.bridge} " in f"{rule} "]
    if add and "-P FORWARD DROP" in rules and not mine:
        for side in ("-i", "-o"):
            run("iptables", "-w", "-I", "FORWARD", side, cluster.bridge, "-j", "ACCEPT")
    if not add:
        for rule in mine:
            run("iptables", "-w", *shlex.split(rule.replace("-A", "-D", 1)), check=False)


def _is_namespace(path: Path) -> bool:
    return any(
        line.split()[4] == str(path) and " - nsfs " in line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )


def node_is_up(node: Node) -> bool:
    """Whether both namespaces of the node are there."""
    return _is_namespace(node.netns_path) and _is_namespace(node.mntns_path)


def node_up(node: Node) -> None:
    """Namespaces, cable, addresses and routes of a node; each step is skipped when it is already done."""
    cluster = node.cluster
    if not _is_namespace(node.netns_path):
        node.netns_path.unlink(missing_ok=True)  # a killed `ip netns add` leaves a plain file
        run("ip", "netns", "add", node.netns)
    if not _is_namespace(node.mntns_path):
        _make_mount_namespace(node)
    inside = json.loads(run("ip", "-n", node.netns, "-j", "link"))
    if node.veth not in links() or "eth0" not in {link["ifname"] for link in inside}:
        run("ip", "link", "del", node.veth, check=False)
        run("ip", "link", "add", node.veth, "type", "veth", "peer", "name", "eth0", "netns", node.netns)
    run("ip", "link", "set", node.veth, "master", cluster.bridge, "up")
    commands = [
        "link set lo up",
        f"addr replace {node.ip}/{cluster.network.prefixlen} dev eth0",
        "link set eth0 up",
        f"route replace default via {cluster.host_ip}",
    ]
    commands += [f"route replace {other.pods} via {other.ip}" for other in cluster.nodes if other != node]
    run("ip", "-n", node.netns, "-batch", "-", stdin="\n".join(commands))
    run("nsenter", f"--net={node.netns_path}", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")


def _make_mount_namespace(node: Node) -> None:
    """A mount namespace whose NODE_DIRS are the node's own; mounts of its pods live and die with it."""
    directory = node.mntns_path.parent
    directory.mkdir(parents=True, exist_ok=True)
    if not any(line.split()[4] == str(directory) for line in Path("/proc/self/mountinfo").read_text().splitlines()):
        run("mount", "--bind", directory, directory)
    run("mount", "--make-private", directory)  # a mount namespace can only be kept open from a private mount
    node.mntns_path.touch()
    binds = []
    for inside in NODE_DIRS:
        source = node_dir(node, inside)
        source.mkdir(parents=True, exist_ok=True)
        Path(inside).mkdir(parents=True, exist_ok=True)
        binds.append(f"mount --bind {source} {inside} && mount --make-shared {inside}")
    # Copies of namespace files would keep other nodes' namespaces alive: drop them first.
    script = " && ".join(["{ umount -a -t nsfs || true; }", *binds])
    run("unshare", f"--mount={node.mntns_path}", "--propagation", "slave", "sh", "-c", script)


def node_down(node: Node) -> None:
    """Remove a node's cable and namespaces; its processes are dead by now."""
    if node.veth in links():
        run("ip", "link", "del", node.veth, check=False)
    for path in (node.netns_path, node.mntns_path):
        while _is_namespace(path):
            run("umount", "--lazy", path)
        path.unlink(missing_ok=True)


def host_down(cluster: Cluster) -> None:
    """Remove the bridge (its routes go with it), the nft table and forward rules."""
    _forward_rules(cluster, add=False)
    run("nft", "delete", "table", "ip", cluster.nft_table, check=False)
    if cluster.bridge in links():
        run("ip", "link", "del", cluster.bridge)
    base = Path("/run/netns")
    if base.exists() and not any(base.iterdir()):  # `ip netns` made it, mounted on itself, and makes it again
        run("umount", base, check=False)
        base.rmdir()
    # A mount point that goes here takes what other clusters' nodes have mounted on it along, in their namespaces.
    others = [path for path in cluster.run.parent.glob("*/ns") if path.parent != cluster.run]
    for inside in () if others else NODE_DIRS:
        with contextlib.suppress(OSError):  # only when empty: somebody else's kubelet may live there
            Path(inside).rmdir()
