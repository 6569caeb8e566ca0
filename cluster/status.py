"""What runs, and whether it serves: the data behind `cluster status`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster import addons, api, cgroups, net, processes
from cluster.spec import Cluster, ClusterError

POLICY_NOTE = (
    "NetworkPolicy: accepted by the API server but NOT enforced, no enforcer runs in this cluster; "
    "policies are proved statically by the tests"
)


@dataclass(frozen=True)
class Row:
    """One component or addon. `problem` None means healthy; pid and uptime (seconds) None means it does not run."""

    name: str
    problem: str | None
    pid: int | None = None
    uptime: float | None = None


@dataclass(frozen=True)
class Status:
    """The cluster at one moment."""

    components: list[Row]
    nodes: list[Row]
    addons: list[Row]

    @property
    def is_down(self) -> bool:
        """Whether nothing at all runs."""
        return all(row.pid is None for row in self.components)

    @property
    def problems(self) -> list[str]:
        """`name: problem` of everything unhealthy."""
        return [f"{row.name}: {row.problem}" for row in (*self.components, *self.nodes, *self.addons) if row.problem]


def collect(cluster: Cluster) -> Status:
    """Look at every process, node and addon."""
    running = processes.running(cluster)
    owners = {f"{c}-{n.number}": n for n in cluster.nodes for c in ("containerd", "kubelet", "kube-proxy")}

    def row(key: str) -> Row:
        process = running.get(key)
        if process is None:
            return Row(key, "not running")
        return Row(key, api.unhealthy(cluster, key, owners.get(key)), process.pid, round(process.uptime, 1))

    with ThreadPoolExecutor(8) as pool:
        components = list(pool.map(row, cluster.components))
    try:
        nodes, extra = _ask_api(cluster, "kube-apiserver" in running)
    except ClusterError as error:
        nodes = [Row(n.name, f"unknown: {error}") for n in cluster.nodes]
        extra = [Row("addons", f"unknown: {error}")]
    for index, node in enumerate(cluster.nodes):
        if not net.node_is_up(node):
            nodes[index] = Row(node.name, "its namespaces are gone")
        elif not net.cable_is_up(node):
            nodes[index] = Row(node.name, f"cut off: its cable {node.veth} is down")
    return Status(components, nodes, extra)


def _ask_api(cluster: Cluster, runs: bool) -> tuple[list[Row], list[Row]]:
    if not runs:  # do not ask its address then: it may belong to somebody else by now
        raise ClusterError("the API server does not run")
    found = api.nodes(cluster)
    nodes = [Row(n.name, found[n.name].problem if n.name in found else "not registered") for n in cluster.nodes]
    return nodes, [Row(name, problem) for name, problem in addons.problems(cluster).items()]


def as_json(cluster: Cluster, status: Status) -> dict[str, Any]:
    """Everything in `status`, and what it takes to hurt a node from outside: its pids, cable, namespaces, cgroup."""
    pids = {row.name: row.pid for row in status.components}
    details = {
        node.name: {
            "number": node.number,
            "zone": node.zone,
            "ip": str(node.ip),
            "pods": str(node.pods),
            "veth": node.veth,
            "netns": node.netns,
            "mntns": str(node.mntns_path),
            "cgroup": node.cgroup,
            "containerd": str(node.containerd_socket),
            "volumes": str(node.volumes),
            "all_pids": sorted(cgroups.pids(node.cgroup)),
            "pids": {c: pids[f"{c}-{node.number}"] for c in ("containerd", "kubelet", "kube-proxy")},
        }
        for node in cluster.nodes
    }
    return {
        "cluster": cluster.name,
        "index": cluster.index,
        "healthy": not status.problems,
        "problems": status.problems,
        "server": cluster.server,
        "kubeconfig": str(cluster.kubeconfig),
        "bridge": cluster.bridge,
        "services": str(cluster.services),
        "components": [asdict(row) for row in status.components],
        "nodes": [{**asdict(row), **details[row.name]} for row in status.nodes],
        "addons": [asdict(row) for row in status.addons],
        "network_policy_enforced": False,
    }


def show(cluster: Cluster, status: Status, console: Console) -> None:
    """Print the tables for people."""
    table = Table(
        "component", "pid", "up for", "state", title=f"cluster {cluster.name}  {cluster.server}", title_justify="left"
    )
    for row in status.components:
        uptime = "" if row.uptime is None else _duration(row.uptime)
        table.add_row(row.name, str(row.pid or ""), uptime, _state(row.problem))
    table.add_section()
    for row in (*status.nodes, *status.addons):
        table.add_row(row.name, "", "", _state(row.problem))
    console.print(table)
    console.print(f"kubeconfig: {cluster.kubeconfig}", soft_wrap=True, highlight=False)
    console.print(POLICY_NOTE, style="yellow")


def _state(problem: str | None) -> str:
    return f"[red]{problem}[/red]" if problem else "[green]healthy[/green]"


def _duration(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours} h {minute} min" if hours else f"{minute} min {second} s" if minute else f"{second} s"
