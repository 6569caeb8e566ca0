"""Taking a cluster off the machine, and clearing what a killed or rebooted one left."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from cluster import cgroups, host, net, processes, registry
from cluster.spec import MAX_NODES, NODE_COMPONENTS, Cluster, ClusterError, Node


def _kill(cluster: Cluster, keys: tuple[str, ...], grace: float) -> None:
    """End the components whose name starts with one of `keys`."""
    found = [p for p in processes.running(cluster).values() if p.key.startswith(keys)]
    processes.kill([(p.pid, p.ticks) for p in found], grace)


def _node_processes(node: Node) -> set[int]:
    keys = {f"{component}-{node.number}" for component in NODE_COMPONENTS}
    return {p.pid for p in processes.marked(node.cluster) if p.key in keys} | cgroups.pids(node.cgroup)


def _sweep(find: Callable[[], set[int]], what: str) -> None:
    """SIGKILL what `find` returns until it returns nothing."""
    for _ in range(20):
        left = processes.with_ticks(find())
        if not left:
            return
        processes.kill(left, 0)
        time.sleep(0.02)
    raise ClusterError(f"{what}: processes {sorted(p for p, _ in left)} do not die; is one of them waiting for a disk?")


def unmount_below(path: Path) -> None:
    """Unmount everything mounted at or below `path`, deepest first."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((m for m in mounts if Path(m).is_relative_to(path)), reverse=True):
        host.run("umount", "--lazy", point)


def stop_pods(nodes: list[Node], grace: float = 5) -> None:
    """Ask every container to stop (Redis then writes its data), and kill what has not after `grace` seconds."""
    pods = {pid for node in nodes for pid in cgroups.pids(f"{node.cgroup}/kubepods")}
    processes.kill(processes.with_ticks(pods), grace)


def is_cold(node: Node) -> bool:
    """Whether nothing of the node runs, so that whatever is there is a leftover."""
    return not _node_processes(node)


def kill_node(node: Node) -> int:
    """SIGKILL everything of a node, and leave all else as it is; how many processes that were."""
    count = len(_node_processes(node))
    _sweep(lambda: _node_processes(node), node.name)
    return count


def clear_node(node: Node) -> None:
    """Remove everything of a node but its data: processes, namespaces, cable, mounts, sockets, cgroups."""
    _sweep(lambda: _node_processes(node), node.name)
    net.node_down(node)
    unmount_below(node.run)
    shutil.rmtree(node.run, ignore_errors=True)
    cgroups.remove(node.cgroup)


def stop_node(node: Node) -> None:
    """Stop a node's kubelet and pods in good order, then clear it."""
    _kill(node.cluster, (f"kubelet-{node.number}", f"kube-proxy-{node.number}"), 3)
    stop_pods([node])
    clear_node(node)


def traces(cluster: Cluster) -> list[Node]:
    """Nodes, current or not, of which something is on the machine."""
    links = net.links()
    nodes = [cluster.node(n) for n in range(1, MAX_NODES + 1)]
    return [n for n in nodes if n.run.exists() or n.netns_path.exists() or n.mntns_path.exists() or n.veth in links]


def down(cluster: Cluster, purge: bool, progress: Callable[[str], None]) -> None:
    """Take the cluster off the machine; `purge` deletes its data too. Finishes what an interrupted `down` began."""
    cgroups.thaw(cluster)
    progress("stopping kubelets and controllers")
    _kill(cluster, ("kubelet", "kube-proxy", "kube-controller-manager", "kube-scheduler"), 3)
    nodes = traces(cluster)
    progress("stopping pods")
    stop_pods(nodes)
    progress("stopping the API server, etcd and containerd")
    _kill(cluster, ("kube-apiserver",), 0.5)  # asked politely it may take a minute, waiting for watches to end
    _kill(cluster, ("etcd", "containerd"), 5)
    progress("removing processes, mounts, interfaces and cgroups")
    _sweep(lambda: {p.pid for p in processes.marked(cluster)} | cgroups.pids(cluster.cgroup), f"cluster {cluster.name}")
    for node in nodes:
        net.node_down(node)
    net.host_down(cluster)
    unmount_below(cluster.run)
    unmount_below(cluster.home)
    shutil.rmtree(cluster.run, ignore_errors=True)
    if left := cgroups.remove(cluster.cgroup):
        raise ClusterError(
            f"cgroups in use: {', '.join(map(str, left))}: end the processes in their cgroup.procs, run `down` again"
        )
    host.restore_sysctls()
    if purge:
        progress("deleting data")
        shutil.rmtree(cluster.home, ignore_errors=True)
        registry.unregister(cluster.name)
        with contextlib.suppress(OSError):
            cluster.base.rmdir()
