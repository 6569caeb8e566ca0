"""Hurting a cluster on purpose: cut a node off, kill a node, kill one program in a pod. `lifecycle.up` mends it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster import api, cgroups, cleanup, net, processes
from cluster.spec import Cluster, ClusterError, Node


def find_node(cluster: Cluster, name: str) -> Node:
    """A node by its name (`dev-2`) or its number; ClusterError when there is none."""
    for node in cluster.nodes:
        if name in (node.name, str(node.number)):
            return node
    known = ", ".join(node.name for node in cluster.nodes)
    raise ClusterError(f"there is no node {name!r} in cluster {cluster.name!r}; there are: {known}")


def partition(node: Node) -> bool:
    """Cut a node off from everything: the host's end of its cable goes down.

    Its addresses and routes stay, so that taking the cable up again heals it. Its pods reach each other and nothing
    else; whoever talks to them from outside hears nothing at all, no refusal either.

    Returns:
        False: it was cut off already.
    """
    _require(node)
    if not net.cable_is_up(node):
        return False
    net.set_cable(node, up=False)
    net.route_services(node.cluster)
    return True


def heal(node: Node) -> bool:
    """Undo `partition`; False: it was not cut off."""
    _require(node)
    if net.cable_is_up(node):
        return False
    if cleanup.is_cold(node):
        raise ClusterError(
            f"node {node.name} is dead, not only cut off: `python -m cluster fault start {node.name}` brings it back"
        )
    net.set_cable(node, up=True)
    net.route_services(node.cluster)
    return True


def kill(node: Node) -> int:
    """Node death: everything on the node gets SIGKILL at once; how many processes that were.

    The cable goes first: a dead machine sends no FIN and no RST, so neither may the kernel on its behalf.
    """
    if net.node_is_up(node):
        net.set_cable(node, up=False)
        net.route_services(node.cluster)
    return cleanup.kill_node(node)


def _require(node: Node) -> None:
    if not net.node_is_up(node) or node.veth not in net.links():
        name = node.cluster.name
        raise ClusterError(f"node {node.name} is not up: `python -m cluster up --name {name}` mends it")


def kill_process(
    cluster: Cluster, namespace: str, pod: str, program: str, container: str | None = None
) -> tuple[str, list[int]]:
    """SIGKILL a program in a pod, like the kernel short of memory does: the node's name and the pids killed.

    Args:
        cluster: where.
        namespace: of the pod.
        pod: its name.
        program: name of its executable, e.g. `redis-server`.
        container: look in this container only.
    """
    found = api.request(cluster, f"/api/v1/namespaces/{namespace}/pods/{pod}")
    if found is None:
        pods = [p["metadata"]["name"] for p in api.request(cluster, f"/api/v1/namespaces/{namespace}/pods")["items"]]
        raise ClusterError(
            f"there is no pod {pod!r} in namespace {namespace!r}; there are: {', '.join(pods) or 'none'}"
        )
    node = next((n for n in cluster.nodes if n.name == found["spec"].get("nodeName")), None)
    if node is None:
        raise ClusterError(f"pod {namespace}/{pod} is not on a node yet")
    there = {pid: names for pid in _pids(node, found, container) if (names := _names(pid))}
    wanted = [pid for pid, names in there.items() if program[:15] in names or program in names]
    if not wanted:
        programs = sorted({names[0] for names in there.values()})
        where = f"pod {namespace}/{pod}" + (f", container {container}" if container else "")
        raise ClusterError(f"no {program!r} runs in {where}; there run: {', '.join(programs) or 'nothing'}")
    processes.kill(processes.with_ticks(wanted), 0)
    return node.name, wanted


def _pids(node: Node, pod: dict[str, Any], container: str | None) -> set[int]:
    """Processes of a pod, found by its cgroup, whose name holds the pod's UID; or of one of its containers."""
    # The pause process holds the pod's namespaces and is in no container that the API knows.
    inside = pods = cgroups.below(f"{node.cgroup}/kubepods", f"pod{pod['metadata']['uid']}")
    if container:
        statuses = pod["status"].get("containerStatuses", [])
        ids = {s["name"]: s.get("containerID", "").removeprefix("containerd://") for s in statuses}
        if container not in ids:
            name = pod["metadata"]["name"]
            raise ClusterError(f"pod {name} has no container {container!r}; it has: {', '.join(ids) or 'none yet'}")
        inside = [f"{path}/{ids[container]}" for path in pods] if ids[container] else []
    return {pid for path in inside for pid in cgroups.pids(path)}


def _names(pid: int) -> list[str]:
    """What a process may be called: as it was started, by its file (Debian's redis-server is a link), by itself."""
    process = Path("/proc", str(pid))
    try:
        argument = (process / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace").split(" ")[0]
        names = [(process / "comm").read_text().strip(), Path((process / "exe").readlink()).name, Path(argument).name]
    except OSError:
        return []  # it has ended
    return [name for name in names if name]
