"""`up`: from whatever is there to a cluster that serves. Every step looks first and does only what is missing."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cluster import addons, api, cleanup, controlplane, net, node, pki, processes, tools
from cluster.processes import Component
from cluster.spec import Cluster, ClusterError

Progress = Callable[[str], None]
_PATIENCE = 90.0  # seconds for a component to serve on a busy machine
_SECOND_CHANCE = 15.0  # seconds that a component which already ran may stay deaf before it is restarted


@dataclass
class Starter:
    """Starts components and waits for them. `started` lists what this run had to start."""

    cluster: Cluster
    progress: Progress
    started: list[str] = field(default_factory=list)
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def begin(self, components: Iterable[Component]) -> None:
        """Start what does not run, restart what runs in another way than it should; does not wait."""
        running = processes.running(self.cluster)
        for component in components:
            process = running.get(component.key)
            if process and process.fingerprint != component.fingerprint:
                self.progress(f"{component.key}: settings changed, restarting")
                processes.kill([(process.pid, process.ticks)], 3)
                process = None
            if process is None:
                self._start(component)

    def _start(self, component: Component) -> None:
        self._children[component.key] = processes.start(self.cluster, component)
        self.started.append(component.key)

    def wait(self, components: Iterable[Component]) -> None:
        """Return when all serve; ClusterError with the log's end when one dies or stays deaf."""
        waiting = {c.key: c for c in components}
        begun = dict.fromkeys(waiting, time.monotonic())
        while waiting:
            for key, component in list(waiting.items()):
                why = api.unhealthy(self.cluster, key, component.node)
                if why is None:
                    del waiting[key]
                    continue
                child = self._children.get(key)
                if child and (code := child.poll()) is not None:
                    raise processes.failed_to_start(self.cluster, key, f"ended with exit status {code}")
                waited = time.monotonic() - begun[key]
                if child is None and waited > _SECOND_CHANCE:
                    self.progress(f"{key} runs but does not serve, restarting")
                    process = processes.running(self.cluster).get(key)
                    processes.kill([(process.pid, process.ticks)] if process else [], 1)
                    self._start(component)
                    begun[key] = time.monotonic()
                elif waited > _PATIENCE:
                    raise processes.failed_to_start(
                        self.cluster, key, f"does not serve after {_PATIENCE:.0f} s ({why})"
                    )
            if waiting:
                self.progress(f"waiting for {', '.join(waiting)}")
                time.sleep(0.1)


def wait(progress: Progress, what: str, problem: Callable[[], str | None], limit: float = _PATIENCE) -> None:
    """Poll `problem` until it returns None; ClusterError with its last answer after `limit` seconds."""
    deadline = time.monotonic() + limit
    while why := problem():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not after {limit:.0f} s: {why}")
        progress(f"waiting for {what}: {why}")
        time.sleep(0.2)


def up(
    cluster: Cluster, binaries: Path, images: dict[str, tools.Image], progress: Progress, done: Progress
) -> list[str]:
    """Bring the cluster up and return what had to be started or applied (nothing: it was already healthy).

    `progress` is told what is being waited for, `done` what has been reached.
    """
    done("programs and images")
    pki.issue(cluster)
    progress("network")
    for extra in cleanup.traces(cluster):
        if extra.number > cluster.node_count:
            progress(f"removing node {extra.name}")
            cleanup.stop_node(extra)
    net.host_up(cluster)
    starter = Starter(cluster, progress)
    cold: set[str] = set()
    for each in cluster.nodes:
        # Without a process, or without its namespaces, a node is a leftover: it starts like after a reboot.
        if not net.node_is_up(each) or cleanup.is_cold(each):
            cleanup.clear_node(each)
            cold.add(each.name)
        net.node_up(each)
    net.host_routes(cluster)
    done("network")

    etcd, apiserver, *controllers = controlplane.components(cluster, binaries)
    parts = [node.components(n, binaries, images["pause"].ref) for n in cluster.nodes]
    runtimes = [p[0] for p in parts]
    starter.begin([etcd])
    starter.wait([etcd])
    starter.begin([apiserver, *runtimes])
    starter.wait(runtimes)
    progress("loading images into the nodes")
    tools.load(cluster, list(images.values()))
    starter.wait([apiserver])
    done("API server")
    rest = [*controllers, *(component for p in parts for component in p[1:])]
    since = time.time()
    starter.begin(rest)
    starter.wait(rest)
    done("controllers and kubelets")
    wait(progress, "nodes", lambda: _nodes_problem(cluster, starter, since))
    done("nodes ready")
    if addons.apply(cluster, binaries / "kubectl", images):
        starter.started.append("addons")
        done("addons applied")
    if cold:
        # Their last report still says they run: whoever asks next would take it for the truth.
        with contextlib.suppress(ClusterError):
            wait(progress, "pods of before the restart", lambda: api.stale_pods(cluster, cold, since), limit=30)
    wait(progress, "addons", lambda: addons.problem(cluster), limit=180)
    done("DNS and volumes")
    return starter.started


def _nodes_problem(cluster: Cluster, starter: Starter, since: float) -> str | None:
    nodes = api.nodes(cluster)
    names = {n.name: n for n in cluster.nodes}
    for name in nodes.keys() - names.keys():
        api.request(cluster, f"/api/v1/nodes/{name}", "DELETE")
    for name, each in names.items():
        found = nodes.get(name)
        if found is None:
            return f"{name} has not registered"
        if found.problem:
            return f"{name}: {found.problem}"
        if f"kubelet-{each.number}" in starter.started and found.heartbeat < int(since):
            return f"{name}: no sign of life from its new kubelet yet"
    return None
