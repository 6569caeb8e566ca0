"""The command line: `python -m cluster --help`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cluster import cleanup, faults, host, lifecycle, monitoring, processes, registry, spec, tools
from cluster import status as state
from cluster.spec import Cluster, ClusterError

app = typer.Typer(
    help="A real Kubernetes on this Linux machine (needs root): several nodes, no virtual machine, no download.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
fault_app = typer.Typer(
    help="Hurt the cluster on purpose; `cluster up` mends whatever was done.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(fault_app, name="fault")
out, err = Console(), Console(stderr=True)
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="Which cluster.")]


@app.command()
def up(
    name: Name = "dev",
    nodes: Annotated[
        int | None, typer.Option(help="How many nodes, 1 to 9; a new cluster gets 3, an old one keeps its number.")
    ] = None,
) -> None:
    """Start the cluster, or mend what is broken; changes nothing when all is healthy."""
    spec.check_name(name)
    if nodes is not None:
        spec.check_nodes(nodes)
    host.require_root()
    begun = time.monotonic()
    with err.status("starting") as spinner:

        def progress(text: str) -> None:
            spinner.update(escape(text))

        def done(text: str) -> None:
            err.print(f"[green]✓[/green] {escape(text)} [dim]{time.monotonic() - begun:.1f} s[/dim]", highlight=False)

        host.install_packages(progress)
        with registry.locked(name, progress):
            cluster = registry.register(name, nodes)
            spinner.stop()  # `toolchain` and `images` draw their own progress
            sources = tools.binaries(), tools.images(cluster)
            spinner.start()
            started = lifecycle.up(cluster, *sources, progress, done)
    changed = f"started {', '.join(started)}" if started else "already healthy, nothing changed"
    out.print(f"cluster {name}: {changed} ({time.monotonic() - begun:.1f} s)", highlight=False, soft_wrap=True)
    out.print(f"export KUBECONFIG={cluster.kubeconfig}", highlight=False, soft_wrap=True)


@app.command()
def down(
    name: Name = "dev",
    purge: Annotated[bool, typer.Option("--purge", help="Delete etcd's data, volumes and images too.")] = False,
) -> None:
    """Stop the cluster and take it off the machine; its data stays unless --purge."""
    spec.check_name(name)
    host.require_root()
    with err.status("stopping") as spinner, registry.locked(name, lambda text: spinner.update(escape(text))):
        cluster = registry.find(name)
        if cluster:
            cleanup.down(cluster, purge, lambda text: spinner.update(escape(text)))
    kept = f"its data stays in {cluster.home}" if cluster and not purge else "its data is deleted"
    out.print(
        f"cluster {name}: down, {kept}" if cluster else f"there is no cluster {name}: nothing to do", soft_wrap=True
    )


@app.command()
def status(
    name: Name = "dev",
    as_json: Annotated[
        bool, typer.Option("--json", help="For machines: also pids, cables and namespaces of each node.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Only list the clusters of this machine.")] = False,
) -> None:
    """Show components, nodes and addons; exit 1 when any is not healthy."""
    host.require_root()
    if every:
        for each in registry.every():
            print(f"{each.name}\t{each.node_count} nodes\t{each.server}\t{each.home}")
        return
    cluster = registry.get(name)
    found = state.collect(cluster)
    if as_json:
        print(json.dumps(state.as_json(cluster, found), indent=1))
    elif found.is_down:
        raise ClusterError(f"cluster {name!r} is down: start it with `python -m cluster up --name {name}`")
    else:
        state.show(cluster, found, out)
    if found.problems:
        for line in found.problems if not as_json else []:
            err.print(f"not healthy: {escape(line)}", style="red", soft_wrap=True)
        raise typer.Exit(1)


@app.command()
def kubeconfig(
    name: Name = "dev",
    path: Annotated[bool, typer.Option("--path", help="Print the file's path, not its text.")] = False,
) -> None:
    """Print the administrator's kubeconfig."""
    cluster = _started(name)
    print(cluster.kubeconfig if path else cluster.kubeconfig.read_text().rstrip())


@app.command()
def load_image(archives: Annotated[list[Path], typer.Argument(metavar="ARCHIVE...")], name: Name = "dev") -> None:
    """Put OCI archives into every node's containerd, as NAME@DIGEST; skips nodes that have them."""
    host.require_root()
    cluster = _started(name)
    images = [tools.read_archive(a) for a in archives]
    if missing := [n.name for n in cluster.nodes if f"containerd-{n.number}" not in processes.running(cluster)]:
        raise ClusterError(
            f"containerd of {', '.join(missing)} does not run: mend it with `python -m cluster up --name {name}`"
        )
    with err.status("loading"):
        done = tools.load(cluster, images)
    for image in images:
        count = sum(line.endswith(image.ref) for line in done)
        print(f"{image.ref}\t{f'loaded into {count} nodes' if count else 'already there'}")


@app.command()
def observe(name: Name = "dev") -> None:
    """Start a Prometheus inside the cluster, which scrapes every annotated pod; print its URL."""
    host.require_root()
    cluster = _started(name)
    with err.status("starting") as spinner:
        url = monitoring.start(cluster, lambda text: spinner.update(escape(text)))
    print(f"Prometheus: {url}")


@app.command()
def logs(
    component: Annotated[str, typer.Argument(help="etcd, kube-apiserver, …, kubelet (with --node) or kubelet-2.")],
    name: Name = "dev",
    node: Annotated[int | None, typer.Option(help="Which node's containerd, kubelet or kube-proxy.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines from the end.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing.")] = False,
) -> None:
    """Print a component's log."""
    cluster = registry.get(name)
    key = component if node is None else f"{component}-{node}"
    if key not in cluster.components:
        raise ClusterError(f"no component {key!r} in cluster {name!r}; there are: {', '.join(cluster.components)}")
    path = processes.log_path(cluster, key)
    if not path.exists():
        raise ClusterError(f"{key} of cluster {name!r} has no log yet ({path})")
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), str(path)])  # noqa: S606


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def kubectl(arguments: Annotated[list[str], typer.Argument(metavar="-- ARGS...")], name: Name = "dev") -> None:
    """Run kubectl as the cluster's administrator."""
    cluster = _started(name)
    program = str(tools.kubectl())
    os.execve(program, [program, *arguments], {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)})  # noqa: S606


NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name or number of a node.")]


@fault_app.command()
def partition(node: NodeName, name: Name = "dev") -> None:
    """Cut a node off: its pods run on and reach each other, nothing else reaches them nor they it."""
    with _hurting(name) as cluster:
        target = faults.find_node(cluster, node)
        done = faults.partition(target)
    print(f"{target.name}: {'cut off' if done else 'is cut off already'}")


@fault_app.command()
def heal(node: NodeName, name: Name = "dev") -> None:
    """Plug a node that was cut off in again."""
    with _hurting(name) as cluster:
        target = faults.find_node(cluster, node)
        done = faults.heal(target)
    print(f"{target.name}: {'reachable again' if done else 'was not cut off'}")


@fault_app.command()
def kill(node: NodeName, name: Name = "dev") -> None:
    """Node death: cut the node off and SIGKILL everything on it at once."""
    with _hurting(name) as cluster:
        target = faults.find_node(cluster, node)
        count = faults.kill(target)
    print(f"{target.name}: dead, {count} processes killed")


@fault_app.command()
def start(node: NodeName, name: Name = "dev") -> None:
    """Bring a dead node back: what `cluster up` does, which mends the others too."""
    host.require_root()
    faults.find_node(_started(name), node)
    up(name)


@fault_app.command()
def kill_process(
    namespace: str,
    pod: str,
    program: Annotated[str, typer.Argument(help="Name of its executable, e.g. redis-server.")],
    name: Name = "dev",
    container: Annotated[str | None, typer.Option(help="Look in this container only.")] = None,
) -> None:
    """SIGKILL a program inside a pod."""
    host.require_root()
    node, pids = faults.kill_process(_started(name), namespace, pod, program, container)
    print(f"{node}: killed {program} of {namespace}/{pod}, pid {', '.join(map(str, pids))}")


@contextlib.contextmanager
def _hurting(name: str) -> Iterator[Cluster]:
    host.require_root()
    cluster = _started(name)
    with registry.locked(name):
        yield cluster


def _started(name: str) -> Cluster:
    cluster = registry.get(name)
    if not os.access(cluster.kubeconfig, os.R_OK):
        host.require_root()
        raise ClusterError(f"cluster {name!r} was never up: start it with `python -m cluster up --name {name}`")
    return cluster


def main() -> None:
    """Run a command; an error of ours is one message on standard error and exit status 1."""
    try:
        app()
    except ClusterError as error:
        err.print(f"[bold red]error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("interrupted: run the same command again to finish")
        sys.exit(130)
