"""The real cluster that the tests in this directory share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from embedded import EmbeddedCluster, run_cluster


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
