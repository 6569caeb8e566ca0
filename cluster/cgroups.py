"""The cluster's cgroups: `session-store/<cluster>/…` in every hierarchy of cgroup v1, or in the one of v2."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from cluster.spec import Cluster, ClusterError


@cache
def _mounted(kind: str) -> tuple[Path, ...]:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return tuple(sorted({Path(m[1]) for m in mounts if m[2] == kind}))


def hierarchies() -> tuple[Path, ...]:
    """Mount points of the cgroup v1 controllers, or of v2 when there are none."""
    v1, v2 = _mounted("cgroup"), _mounted("cgroup2")
    if not v1 and not v2:
        raise ClusterError(
            "no cgroup hierarchy is mounted below /sys/fs/cgroup: mount cgroup v2, or the v1 controllers"
        )
    return v1 or v2[:1]


def _everywhere() -> tuple[Path, ...]:
    # On hybrid systems (v1 and a `unified` v2 without controllers) runc makes cgroups in both.
    return _mounted("cgroup") + _mounted("cgroup2")


def is_v2() -> bool:
    """Whether the machine has the unified hierarchy only."""
    return (hierarchies()[0] / "cgroup.controllers").exists()


def make(name: str) -> None:
    """Create cgroup `name` in every hierarchy, usable at once (cpuset filled in, v2 controllers passed down)."""
    for root in hierarchies():
        directory = root
        for part in Path(name).parts:
            parent, directory = directory, directory / part
            if is_v2():
                for controller in (parent / "cgroup.controllers").read_text().split():
                    with contextlib.suppress(OSError):
                        (parent / "cgroup.subtree_control").write_text(f"+{controller}")
            directory.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):
                target = directory / file
                if not is_v2() and target.exists() and not target.read_text().strip():
                    target.write_text((parent / file).read_text())


def joins(name: str) -> list[Path]:
    """The files a process writes its pid to in order to join cgroup `name`."""
    return [root / name / "cgroup.procs" for root in hierarchies()]


def pids(name: str) -> set[int]:
    """Processes in cgroup `name` and below."""
    found: set[int] = set()
    for root in _everywhere():
        for file in [root / name / "cgroup.procs", *(root / name).glob("**/cgroup.procs")]:
            with contextlib.suppress(OSError):
                found |= {int(pid) for pid in file.read_text().split()}
    return found - {0}


def below(name: str, last: str) -> list[str]:
    """Names of the cgroups below `name` whose own name is `last`."""
    found = {str(path.relative_to(root)) for root in _everywhere() for path in (root / name).glob(f"**/{last}")}
    return sorted(found)


def remove(name: str) -> list[Path]:
    """Remove cgroup `name` with everything below; returns what would not go (a process is still in it)."""
    left: list[Path] = []
    for root in _everywhere():
        for directory in _bottom_up(root / name):
            for _ in range(20):  # a cgroup stays busy for a moment after its last process is gone
                with contextlib.suppress(FileNotFoundError):
                    try:
                        directory.rmdir()
                    except OSError:
                        time.sleep(0.05)
                        continue
                break
            else:
                left.append(directory)
        with contextlib.suppress(OSError):
            if Path(name).parent != Path():
                (root / name).parent.rmdir()  # `session-store` itself, when this was the last cluster
    return left


def _bottom_up(top: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for child in top.iterdir():
            if child.is_dir():
                yield from _bottom_up(child)
    if top.exists():
        yield top


def thaw(cluster: Cluster) -> None:
    """Let frozen processes run again, so that signals reach them (a test may have frozen a node)."""
    for root in _everywhere():
        top = root / cluster.cgroup
        for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            for path in [top / file, *top.glob(f"**/{file}")]:
                with contextlib.suppress(OSError):
                    if path.read_text().strip() != value:
                        path.write_text(value)
