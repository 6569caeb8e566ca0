"""The real engine, the plugins that `python -m toolchain plugins` installs, and a real API server without nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(REPO)]

from control_plane import ControlPlane, FakeKubelet  # noqa: E402
from engine import Engine  # noqa: E402


@cache
def tool(name: str) -> Path:
    """Path of a built tool; builds it when needed."""
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", "path", name], cwd=REPO, stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(done.stdout.split()[-1])


@pytest.fixture(scope="session")
def path_variable() -> str:
    """PATH with the CLI and the plugins first."""
    tool("pulumi")
    subprocess.run([sys.executable, "-m", "toolchain", "plugins"], cwd=REPO, stdout=subprocess.DEVNULL, check=True)
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "session-store"
    bin_dir = Path(os.environ.get("SESSION_STORE_CACHE") or default) / "bin"
    return f"{tool('pulumi').parent}{os.pathsep}{bin_dir}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="session")
def pulumi_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pulumi-home")


@pytest.fixture
def engine(tmp_path: Path, path_variable: str, pulumi_home: Path) -> Engine:
    """An empty stack with its state in tmp_path; no cluster."""
    return Engine(tmp_path, path_variable, pulumi_home, tool("pulumi"))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd, kube-apiserver and kube-controller-manager on loopback."""
    tools = {name: tool(name) for name in ("etcd", "kube-apiserver", "kube-controller-manager")}
    with ControlPlane(tmp_path_factory.mktemp("control-plane"), tools) as plane:
        yield plane


@pytest.fixture
def kube(engine: Engine, control_plane: ControlPlane) -> Iterator[FakeKubelet]:
    """A namespace of its own, the engine pointed at it, and something that plays kubelet there."""
    with FakeKubelet(control_plane) as kubelet:
        engine.environment["KUBECONFIG"] = str(control_plane.kubeconfig_for(kubelet.namespace, engine.directory))
        yield kubelet
