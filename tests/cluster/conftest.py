"""The real cluster that the tests in this directory share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from embedded import REPO, EmbeddedCluster, run_cluster
from project import Project, ProjectMaker


@pytest.fixture(scope="session")
def start_cluster() -> Iterator[Callable[..., EmbeddedCluster]]:
    """A function that starts a cluster (name, nodes); every cluster it started is purged at the end of the session."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("the embedded cluster needs root and Linux")
    names: list[str] = []

    def start(name: str, nodes: int) -> EmbeddedCluster:
        names.append(name)
        run_cluster("up", "--name", name, "--nodes", str(nodes))
        return EmbeddedCluster(name, Path(run_cluster("kubeconfig", "--name", name, "--path").stdout.strip()))

    yield start
    for name in names:
        run_cluster("down", "--name", name, "--purge")


@pytest.fixture(scope="session")
def cluster(start_cluster: Callable[..., EmbeddedCluster]) -> EmbeddedCluster:
    """A cluster of three nodes, named by SESSION_STORE_TEST_CLUSTER (default `test`), shared by the whole session."""
    return start_cluster(os.environ.get("SESSION_STORE_TEST_CLUSTER", "test"), 3)


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing(cluster: EmbeddedCluster) -> Iterator[None]:
    """What a file's tests made is deleted at its end: it would slow down the next and block drains."""
    before = set(cluster.kubectl("get", "namespaces", "--output", "name").split())
    yield
    if made := set(cluster.kubectl("get", "namespaces", "--output", "name").split()) - before:
        cluster.kubectl("delete", "--wait=false", *made)


@pytest.fixture(scope="session")
def make_project(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> ProjectMaker:
    """A function that makes a project folder for a namespace of the test's, with the images loaded into the cluster."""
    images = tmp_path_factory.mktemp("images") / "images.json"
    build = [sys.executable, "-m", "images", "build", "redis", "api", "haproxy", "--json", str(images)]
    subprocess.run(build, cwd=REPO, check=True)
    cluster.run("load-image", *(image["archive"] for image in json.loads(images.read_text()).values()))

    def make(namespace: str) -> Project:
        folder = tmp_path_factory.mktemp(namespace)
        (folder / ".state").mkdir()
        (folder / ".state" / "images.json").write_text(images.read_text())
        return Project(folder, cluster.kubeconfig, namespace)

    return make
