"""Starting components and finding them again.

There are no pid files, so none can be stale: every process we start carries a marker in its environment that names
cluster, component and a fingerprint of how it was started. /proc is the only record; the kernel removes it when a
process dies, and no other program can be taken for ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import cgroups
from cluster.spec import Cluster, ClusterError, Node

MARKER = "SESSION_STORE_CLUSTER_PROCESS"
_LOG_LIMIT = 20_000_000  # bytes; a longer log is set aside when its component starts
# Joins the cgroups, enters the node's namespaces if any, and becomes the component: one pid all the way.
_WRAPPER = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ >"$1" || exit 111; shift; n=$((n-1)); done; exec "$@"'


@dataclass(frozen=True)
class Component:
    """How one process is run. `inputs` are files whose content is part of how: when one changes, `up` restarts it."""

    key: str
    argv: tuple[str, ...]
    cgroup: str
    node: Node | None = None
    inputs: tuple[Path, ...] = ()
    env: tuple[tuple[str, str], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that differ when the process would be started differently."""
        parts = ["\0".join(self.argv), repr(self.env), *(p.read_text() for p in self.inputs)]
        return hashlib.sha256("\1".join(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Process:
    """A running component. `ticks` is its start time in clock ticks since boot; pid and ticks are never reused."""

    key: str
    fingerprint: str
    pid: int
    ticks: int
    exe: str

    @property
    def uptime(self) -> float:
        """Seconds since it was started."""
        return float(Path("/proc/uptime").read_text().split()[0]) - self.ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start ticks of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19])


def marked(cluster: Cluster) -> list[Process]:
    """All processes that carry the cluster's marker: components, the shims and helpers they started."""
    wanted = f"{MARKER}={cluster.name}/".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes()
            if wanted not in environment:
                continue
            exe = str(Path(entry.path, "exe").readlink()).removesuffix(" (deleted)")
        except OSError:
            continue
        value = next((v for v in environment.split(b"\0") if v.startswith(wanted)), None)
        stat = _stat(int(entry.name))
        if value and stat:
            _, key, fingerprint = value.decode().partition("=")[2].split("/")
            found.append(Process(key, fingerprint, int(entry.name), stat[1], exe))
    return sorted(found, key=lambda p: p.ticks)


def running(cluster: Cluster) -> dict[str, Process]:
    """The components that run, by key. What they started in turn (shims, mount, CNI plugins) is not among them."""
    found: dict[str, Process] = {}
    for process in marked(cluster):
        if (
            Path(process.exe).name.startswith(process.key.rstrip("0123456789").rstrip("-"))
            and "shim" not in process.exe
        ):
            found.setdefault(process.key, process)  # the oldest: a child between fork and exec looks the same
    return found


def log_path(cluster: Cluster, key: str) -> Path:
    """The component's log."""
    return cluster.logs / f"{key}.log"


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        return "\n".join(line[:400] for line in file.read().decode(errors="replace").splitlines()[-lines:])
    return "(no log)"


def start(cluster: Cluster, component: Component) -> subprocess.Popen[bytes]:
    """Start a component detached from us; its output goes to its log."""
    log = log_path(cluster, component.key)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
    cgroups.make(component.cgroup)
    joins = [str(p) for p in cgroups.joins(component.cgroup)]
    enter: list[str] = []
    if component.node:
        enter = ["nsenter", f"--net={component.node.netns_path}", f"--mount={component.node.mntns_path}", "--"]
    argv = ["sh", "-c", _WRAPPER, "sh", str(len(joins)), *joins, *enter, *component.argv]
    with log.open("ab") as output:
        output.write(f"--- {time.strftime('%F %T')} {' '.join(component.argv)}\n".encode())
        output.flush()
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
            env=_environment(cluster, component),
        )


def _environment(cluster: Cluster, component: Component) -> Mapping[str, str]:
    # Nothing of the caller's environment (proxies, KUBECONFIG, GOMAXPROCS) may change how a component runs.
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "GOGC": "200",  # garbage collection less often: idle processor time is dearer here than memory
        **dict(component.env),
        MARKER: f"{cluster.name}/{component.key}/{component.fingerprint}",
    }


def failed_to_start(cluster: Cluster, key: str, why: str) -> ClusterError:
    """The one error for a component that does not come up: what, why, the log's end and where the rest is."""
    path = log_path(cluster, key)
    if key == "etcd":  # it does not wait for the disk, so a power cut may damage its data
        why += f" (if its data is damaged, `python -m cluster down --name {cluster.name} --purge` starts afresh)"
    return ClusterError(f"{key} {why}; the last lines of its log:\n{tail(path)}\nthe whole log: {path}")


def kill(processes: Iterable[tuple[int, int]], grace: float) -> None:
    """End processes given as (pid, start ticks): SIGTERM, then SIGKILL to what is left after `grace` seconds.

    A pidfd is opened before the start time is checked, so a pid that was reused in between is never hit.
    """
    opened: list[int] = []
    try:
        for pid, ticks in processes:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                opened.append(descriptor)
                stat = _stat(pid)
                if stat is None or stat[1] != ticks:
                    opened.remove(descriptor)
                    os.close(descriptor)
        alive = list(opened)
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
            if number == signal.SIGTERM and grace <= 0:
                continue
            for descriptor in alive:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
            alive = _wait_gone(alive, patience)
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _wait_gone(descriptors: list[int], patience: float) -> list[int]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    alive, deadline = set(descriptors), time.monotonic() + patience
    while alive and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            poll.unregister(descriptor)
            alive.discard(descriptor)
    return list(alive)


def with_ticks(pids: Iterable[int]) -> list[tuple[int, int]]:
    """Pids with the start times that make them unmistakable; the dead and the zombies left out."""
    found = ((pid, _stat(pid)) for pid in pids)
    return [(pid, stat[1]) for pid, stat in found if stat and stat[0] != "Z"]
