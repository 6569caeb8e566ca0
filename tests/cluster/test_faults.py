"""`cluster fault`: what it breaks is really broken, nothing else is, and healing or `up` mends it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from subprocess import CompletedProcess
from typing import Any

import pytest
from embedded import EmbeddedCluster, run_cluster


def until(what: str, condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never saw: {what}"
        time.sleep(0.2)


@pytest.fixture(autouse=True)
def _mended(cluster: EmbeddedCluster) -> Iterator[None]:
    yield
    cluster.run("up")


def fault(cluster: EmbeddedCluster, action: str, *arguments: str, check: bool = True) -> CompletedProcess[str]:
    return run_cluster("fault", action, "--name", cluster.name, *arguments, check=check)


def dns_pods(cluster: EmbeddedCluster) -> list[dict[str, Any]]:
    """CoreDNS, the pods that every cluster has; they answer HTTP on port 8080."""
    pods = cluster.kubectl("-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "json")
    return [pod for pod in json.loads(pods)["items"] if "deletionTimestamp" not in pod["metadata"]]


def ready(cluster: EmbeddedCluster, node: str) -> bool:
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return cluster.kubectl("get", "node", node, "-o", f"jsonpath={path}") == "True"


def healthy_from(netns: str | None, address: str) -> bool:
    """Whether a CoreDNS pod answers, asked from a node's network or (None) from the host."""
    enter = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    url = f"http://{address}:8080/health"
    command = [*enter, "curl", "--noproxy", "*", "--silent", "--fail", "--max-time", "2", url]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_dns_pods_are_on_different_nodes(cluster: EmbeddedCluster) -> None:
    assert len({pod["spec"]["nodeName"] for pod in dns_pods(cluster)}) == 2


def test_partition_cuts_a_node_off_and_heal_brings_it_back(cluster: EmbeddedCluster) -> None:
    pod = dns_pods(cluster)[0]
    name, address = pod["spec"]["nodeName"], pod["status"]["podIP"]
    nodes = {node["name"]: node["netns"] for node in cluster.status()["nodes"]}
    other = next(netns for node, netns in nodes.items() if node != name)
    everywhere = (None, other, nodes[name])
    assert [healthy_from(netns, address) for netns in everywhere] == [True, True, True]

    fault(cluster, "partition", name)
    assert [healthy_from(netns, address) for netns in everywhere] == [False, False, True], "its own node reaches it"
    problems = "".join(cluster.status()["problems"])
    assert f"{name}: cut off" in problems
    assert "already" in fault(cluster, "partition", name).stdout

    fault(cluster, "heal", name)
    until("the pod answers everywhere", lambda: all(healthy_from(netns, address) for netns in everywhere))
    until("the node is Ready", lambda: ready(cluster, name))
    assert "was not cut off" in fault(cluster, "heal", name).stdout
    assert dns_pods(cluster)[0]["metadata"]["uid"] == pod["metadata"]["uid"], "a short cut moves no pod"


def test_host_reaches_services_without_the_first_node(cluster: EmbeddedCluster) -> None:
    status = cluster.status()
    api_service = str(IPv4Network(status["services"])[1])
    first = status["nodes"][0]["name"]

    def reachable() -> bool:
        try:
            socket.create_connection((api_service, 443), timeout=2).close()
        except OSError:
            return False
        return True

    assert reachable()
    fault(cluster, "partition", first)
    assert reachable()
    fault(cluster, "heal", first)
    until("Services again through the first node", reachable)


def test_killed_node_is_dead_until_it_is_started(cluster: EmbeddedCluster) -> None:
    name, number = f"{cluster.name}-3", "3"
    assert "dead" in fault(cluster, "kill", number).stdout
    node = cluster.status()["nodes"][2]
    assert node["all_pids"] == []
    assert "is dead" in fault(cluster, "heal", name, check=False).stderr
    fault(cluster, "start", name)
    assert cluster.status()["healthy"]


def test_killed_program_is_another_process_afterwards(cluster: EmbeddedCluster) -> None:
    pod = dns_pods(cluster)[0]["metadata"]["name"]

    def container() -> dict[str, Any]:
        (found,) = (p["status"]["containerStatuses"] for p in dns_pods(cluster) if p["metadata"]["name"] == pod)
        return dict(found[0])

    before = container()["restartCount"]
    said = fault(cluster, "kill-process", "kube-system", pod, "coredns", "--container", "coredns").stdout
    assert "killed coredns" in said
    until("the container runs again", lambda: (now := container())["ready"] and now["restartCount"] > before)
    again = fault(cluster, "kill-process", "kube-system", pod, "coredns").stdout
    assert said.rpartition(" ")[2] != again.rpartition(" ")[2], "another pid"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("partition", "9"), "there is no node '9'"),
        (("kill", "nobody"), "there is no node 'nobody'"),
        (("kill-process", "kube-system", "nobody", "coredns"), "there is no pod 'nobody'"),
    ],
)
def test_unknown_targets_are_one_clear_error(
    cluster: EmbeddedCluster, arguments: tuple[str, ...], message: str
) -> None:
    done = fault(cluster, *arguments, check=False)
    assert done.returncode == 1
    assert message in done.stderr


def test_unknown_program_and_container_list_what_there_is(cluster: EmbeddedCluster) -> None:
    pod = dns_pods(cluster)[0]["metadata"]["name"]
    target = ("kill-process", "kube-system", pod)
    assert "there run: catatonit, coredns" in fault(cluster, *target, "redis-server", check=False).stderr
    assert "it has: coredns" in fault(cluster, *target, "coredns", "--container", "shell", check=False).stderr
