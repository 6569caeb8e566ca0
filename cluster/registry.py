"""Which clusters this machine has, and the lock that lets one command at a time change a cluster."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypedDict

from cluster.host import run, write
from cluster.spec import MAX_CLUSTERS, RUN_BASE, Cluster, ClusterError, check_name, check_nodes, home_base

# One file per machine, not per SESSION_STORE_HOME: address ranges belong to the machine.
REGISTRY = Path("/var/lib/session-store/clusters.json")


_COPY = "cluster.json"


class Entry(TypedDict):
    """One registered cluster."""

    index: int
    nodes: int
    base: str


@contextlib.contextmanager
def _flock(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting(f"waiting for pid {path.read_text().strip() or '?'}, which is changing the same cluster")
                fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held it may have unlinked the file: then this lock is on nothing, take the new file's.
            try:
                if path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                    continue
            except FileNotFoundError:
                continue
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
            return


@contextlib.contextmanager
def locked(name: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the cluster's lock; the kernel lets go of it when we die. Leaves no file when the cluster is down."""
    path = RUN_BASE / f"{name}.lock"
    with _flock(path, waiting):
        try:
            yield
        finally:
            if not (RUN_BASE / name).exists():
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    RUN_BASE.rmdir()


def _read() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for file in RUN_BASE.glob(f"*/{_COPY}"):  # running clusters are known even when their data was removed by hand
        with contextlib.suppress(OSError, ValueError):
            found[file.parent.name] = json.loads(file.read_text())
    try:
        found.update(json.loads(REGISTRY.read_text()))
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise ClusterError(
            f"{REGISTRY} is not JSON ({error}): correct it, or remove it when no cluster is running"
        ) from None
    # A cluster whose data somebody removed by hand, and which does not run, gives its index back.
    return {n: e for n, e in found.items() if Path(e["base"], n).exists() or (RUN_BASE / n).exists()}


def _cluster(name: str, entry: Entry) -> Cluster:
    return Cluster(name, entry["index"], entry["nodes"], Path(entry["base"]))


def every() -> list[Cluster]:
    """All registered clusters, running or not."""
    return [_cluster(name, entry) for name, entry in sorted(_read().items())]


def find(name: str) -> Cluster | None:
    """The registered cluster, or None when it was never started or was purged."""
    entry = _read().get(check_name(name))
    return _cluster(name, entry) if entry else None


def get(name: str) -> Cluster:
    """The registered cluster; ClusterError when there is none."""
    cluster = find(name)
    if cluster is None:
        others = ", ".join(sorted(_read())) or "none"
        raise ClusterError(
            f"there is no cluster {name!r} on this machine (known: {others}): "
            f"start it with `python -m cluster up --name {name}`"
        )
    return cluster


def register(name: str, nodes: int | None) -> Cluster:
    """Return the cluster; a new one gets the first index whose address ranges are free. `nodes` None keeps theirs."""
    check_name(name)
    base = home_base()
    with _flock(REGISTRY.with_suffix(".lock")):
        entries = _read()
        entry = entries.get(name)
        if entry and entry["base"] != str(base):
            raise ClusterError(
                f"cluster {name!r} of this machine keeps its data in {entry['base']}, not in {base}: use another "
                f"--name, set SESSION_STORE_HOME={entry['base']}, or remove it with "
                f"`python -m cluster down --name {name} --purge`"
            )
        if entry is None:
            entry = Entry(index=_free_index({e["index"] for e in entries.values()}), nodes=3, base=str(base))
        if nodes is not None:
            entry["nodes"] = check_nodes(nodes)
        entries[name] = entry
        (base / name).mkdir(parents=True, exist_ok=True)
        write(REGISTRY, json.dumps(entries, indent=1))
        write(RUN_BASE / name / _COPY, json.dumps(entry))
        return _cluster(name, entry)


def unregister(name: str) -> bool:
    """Forget a purged cluster."""
    with _flock(REGISTRY.with_suffix(".lock")):
        entries = _read()
        gone = entries.pop(name, None)
        write(REGISTRY, json.dumps(entries, indent=1))
        return gone is not None


def _free_index(taken: set[int]) -> int:
    routes = [
        (IPv4Network(r["dst"]), str(r.get("dev", "")))
        for r in json.loads(run("ip", "-j", "-4", "route"))
        if r["dst"] != "default"
    ]
    for index in sorted(set(range(MAX_CLUSTERS)) - taken):
        cluster = Cluster("new", index, 1, Path("/"))
        ranges = (cluster.network, cluster.pods, cluster.services)
        if not any(dev != cluster.bridge and net.overlaps(r) for net, dev in routes for r in ranges):
            return index
    raise ClusterError(
        f"no address range is free for one more cluster: {len(taken)} of {MAX_CLUSTERS} are taken and routes of this "
        "machine cover the rest; `python -m cluster status --all` lists the clusters, "
        "`python -m cluster down --name NAME --purge` removes one"
    )
