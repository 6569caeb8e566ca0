"""The cluster tool itself: it starts, mends, survives kills, lives beside another one, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from embedded import REPO, EmbeddedCluster, run_cluster

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def until(what: str, condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition; the limit is generous because it only serves to end a hopeless wait."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"never saw: {what}")
        time.sleep(0.2)


def traces(name: str, index: int) -> list[str]:
    """What of a cluster is on the machine: processes, cgroups, mounts, namespaces, links, routes, tables."""

    def output(*argv: str) -> list[str]:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()

    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_bytes() + (process / "cgroup").read_bytes()
        except OSError:
            continue
        if re.search(
            rb"SESSION_STORE_CLUSTER_PROCESS=%s/|/session-store/%s[/\n]" % (name.encode(), name.encode()), text
        ):
            found.append(f"process {process.name}")
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"**/session-store/{name}")]
    found += [
        f"mount {line}"
        for line in output("findmnt", "-rno", "TARGET,SOURCE")
        if f"/{name}/" in line or f"-{name}-" in line
    ]
    found += [f"netns {line}" for line in output("ip", "netns") if line.startswith(f"session-store-{name}-")]
    found += [f"link {link.name}" for link in Path("/sys/class/net").glob(f"ss{index}[bn]*")]
    ranges = rf"10\.(200\.{index}|{208 + index}\.\d+|{96 + index}\.\d+)\."
    found += [f"route {line}" for line in output("ip", "route") if re.search(ranges, line)]
    found += [f"table {line}" for line in output("nft", "list", "tables") if line.endswith(f"session_store_{index}")]
    found += [f"directory {run}" for run in Path("/run/session-store").glob(f"{name}*")]
    return found


@pytest.fixture(scope="module")
def beside(cluster: EmbeddedCluster) -> Iterator[EmbeddedCluster]:
    """A second, small cluster to be rough with; never started when a test begins with it."""
    name = f"{cluster.name[:18]}-b"
    run_cluster("down", "--name", name, "--purge")
    home = cluster.kubeconfig.parents[1]
    yield EmbeddedCluster(name, home / name / "kubeconfig")
    run_cluster("down", "--name", name, "--purge")


def test_second_up_changes_nothing(cluster: EmbeddedCluster) -> None:
    before = cluster.pids()
    assert "nothing changed" in cluster.run("up").stdout
    assert cluster.pids() == before
    assert all(before.values())


def test_status_of_a_healthy_cluster(cluster: EmbeddedCluster) -> None:
    shown = cluster.run("status").stdout
    assert "NOT enforced" in shown  # network policies
    status = cluster.status()
    assert status["healthy"]
    assert [n["zone"] for n in status["nodes"]] == ["zone-1", "zone-2", "zone-3"]
    # What a test needs in order to kill a node or cut its cable.
    for node in status["nodes"]:
        assert Path("/sys/class/net", node["veth"]).exists()
        assert set(node["pids"].values()) < set(node["all_pids"])
    assert cluster.kubeconfig.stat().st_mode & 0o777 == 0o600


def test_restricted_stateful_workload(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    """Pods on three nodes with volumes; Service, DNS, exec, logs and port-forward reach them."""
    refs = tmp_path / "images.json"
    subprocess.run(
        [sys.executable, "-m", "images", "build", "helper", "coredns", "--json", str(refs)], cwd=REPO, check=True
    )
    images = json.loads(refs.read_text())
    manifest = (Path(__file__).parent / "workload.yaml").read_text()
    for name in ("helper", "coredns"):
        manifest = manifest.replace(f"@{name.upper()}@", images[name]["ref"])
    assert "already there" in cluster.run("load-image", images["helper"]["archive"]).stdout
    cluster.kubectl("apply", "-f", "-", stdin=manifest)
    cluster.kubectl("-n", "embedded", "rollout", "status", "statefulset/web", "--timeout=120s")

    pods = json.loads(cluster.kubectl("-n", "embedded", "get", "pods", "-o", "json"))["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 3

    def inside(script: str) -> str:
        return cluster.kubectl("-n", "embedded", "exec", "web-0", "-c", "shell", "--", "sh", "-c", script)

    assert "1234:4321" in inside("touch /data/file && stat -c %u:%g /data/file")  # the volume honours fsGroup
    assert inside("curl -s -m 5 http://web/health") == "OK"  # name, Service address, pod on any node
    for peer in ("web-0", "web-1", "web-2"):  # pod to pod, across nodes
        assert inside(f"curl -s -m 5 http://{peer}.peers:8080/health") == "OK"
    assert "ready" in cluster.kubectl("-n", "embedded", "logs", "web-0", "-c", "shell")

    service = cluster.kubectl("-n", "embedded", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{service}/health", timeout=10) as answer:  # from the host
        assert answer.read() == b"OK"

    forward = subprocess.Popen(
        [*_kubectl(cluster), "-n", "embedded", "port-forward", "service/web", ":80"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert forward.stdout
        port = re.search(r":(\d+) ->", forward.stdout.readline())
        assert port
        with direct.open(f"http://127.0.0.1:{port[1]}/health", timeout=10) as answer:
            assert answer.read() == b"OK"
    finally:
        forward.terminate()
        forward.wait()


def _kubectl(cluster: EmbeddedCluster) -> list[str]:
    return [sys.executable, "-m", "cluster", "kubectl", "--name", cluster.name, "--"]


def test_volumes_survive_down_and_up(cluster: EmbeddedCluster) -> None:
    script = ("-n", "embedded", "exec", "web-0", "-c", "shell", "--", "sh", "-c")
    cluster.kubectl(*script, "echo kept >/data/file")
    index = cluster.status()["index"]
    cluster.run("down")
    assert "is down: start it with" in cluster.run("status", check=False).stderr
    assert traces(cluster.name, index) == []
    cluster.run("up")
    cluster.kubectl("-n", "embedded", "rollout", "status", "statefulset/web", "--timeout=120s")
    assert cluster.kubectl(*script, "cat /data/file") == "kept\n"
    cluster.kubectl("delete", "namespace", "embedded")


def test_killed_component_is_named_and_mended(cluster: EmbeddedCluster) -> None:
    before = cluster.pids()
    kubelet = before["kubelet-2"]
    assert kubelet
    os.kill(kubelet, signal.SIGKILL)
    until("the kubelet is gone", lambda: not Path(f"/proc/{kubelet}/exe").exists())
    status = cluster.run("status", check=False)
    assert status.returncode == 1
    assert "kubelet-2: not running" in status.stderr
    assert "started kubelet-2 (" in cluster.run("up").stdout
    after = cluster.pids()
    assert after.pop("kubelet-2") not in (None, before.pop("kubelet-2"))
    assert after == before
    assert cluster.status()["healthy"]


def test_partitioned_node_is_mended(cluster: EmbeddedCluster) -> None:
    before = cluster.pids()
    veth = cluster.status()["nodes"][2]["veth"]
    subprocess.run(["ip", "link", "set", veth, "down"], check=True)
    assert any(problem.startswith("kubelet-3") for problem in cluster.status()["problems"])
    cluster.run("up")
    assert cluster.status()["healthy"]
    assert cluster.pids() == before


def test_kill_9_of_up_then_up_finishes(beside: EmbeddedCluster, cluster: EmbeddedCluster) -> None:
    neighbour = cluster.pids()
    for moment in ("programs and images", "network", "API server", "nodes ready"):
        command = [sys.executable, "-u", "-m", "cluster", "up", "--name", beside.name, "--nodes", "1"]
        with subprocess.Popen(
            command, cwd=REPO, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as starting:
            assert starting.stderr
            for line in starting.stderr:
                if moment in line:
                    break
            starting.kill()
    beside.run("up")
    status = beside.status()
    assert status["healthy"], status["problems"]
    assert len(status["nodes"]) == 1
    assert cluster.pids() == neighbour
    assert cluster.status()["healthy"]  # two at once


def test_up_after_a_reboot_clears_what_is_left(beside: EmbeddedCluster) -> None:
    """All processes gone at once, sockets, mounts, links and a broken namespace file left: `up` sorts it out."""
    status = beside.status()
    node = status["nodes"][0]
    for pid in [*node["all_pids"], *(row["pid"] for row in status["components"])]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    subprocess.run(["ip", "netns", "delete", node["netns"]], check=True)
    Path("/run/netns", node["netns"]).touch()  # what a killed `ip netns add` leaves
    assert beside.run("status", check=False).returncode == 1
    beside.run("up")
    assert beside.status()["healthy"]


def test_program_of_another_is_left_alone(beside: EmbeddedCluster, tmp_path: Path) -> None:
    """A stranger called etcd, running from before, survives `up` and `down`: nothing goes by name or by a stale pid."""
    stranger = tmp_path / "etcd"
    shutil.copy(shutil.which("sleep") or "", stranger)
    environment = {
        "SESSION_STORE_CLUSTER_PROCESS": f"{beside.name}x/etcd/0"
    }  # a cluster whose name only begins like ours
    with subprocess.Popen([stranger, "600"], env=environment) as process:
        try:
            pid = beside.pids()["etcd"]
            assert pid
            os.kill(pid, signal.SIGKILL)
            beside.run("up")
            beside.run("down")
            assert process.poll() is None
        finally:
            process.kill()


def test_stale_sockets_and_links_do_not_hinder(beside: EmbeddedCluster, cluster: EmbeddedCluster) -> None:
    """After `down`: leftovers of a run that was cut off are in the way of the next one."""
    containerd = Path("/run/session-store", beside.name, "nodes", f"{beside.name}-1", "containerd")
    containerd.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(containerd / "containerd.sock"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", containerd.parent], check=True)
    index = json.loads(Path("/var/lib/session-store/clusters.json").read_text())[beside.name]["index"]
    subprocess.run(["ip", "link", "add", f"ss{index}n1", "type", "bridge"], check=True)
    beside.run("up")
    assert beside.status()["healthy"]

    neighbour = cluster.pids()
    beside.run("down", "--purge")
    assert traces(beside.name, index) == []
    assert not beside.kubeconfig.parent.exists()
    assert cluster.pids() == neighbour
    assert cluster.status()["healthy"]
    assert "nothing to do" in beside.run("down").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "--name", "Upper_Case"], "cluster name 'Upper_Case': use 1 to 20 of a-z"),
        (["up", "--name", "x" * 21], "use 1 to 20 of a-z"),
        (["up", "--name", "../etc"], "use 1 to 20 of a-z"),
        (["up", "--nodes", "0"], "--nodes 0: a cluster has 1 to 9 nodes"),
        (["up", "--nodes", "10"], "--nodes 10: a cluster has 1 to 9 nodes"),
        (["status", "--name", "nowhere"], "there is no cluster 'nowhere' on this machine"),
        (["kubeconfig", "--name", "nowhere"], "start it with `python -m cluster up --name nowhere`"),
        (["kubectl", "--name", "nowhere", "--", "get", "pods"], "there is no cluster 'nowhere'"),
        (["load-image", "--name", "nowhere", "x.tar"], "there is no cluster 'nowhere'"),
    ],
)
@ROOT
def test_bad_input_is_one_clear_error(arguments: list[str], message: str) -> None:
    done = run_cluster(*arguments, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_component_and_bad_archives(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.tar"
    garbage.write_text("not an archive")
    for arguments, message in (
        (("logs", "redis"), "no component 'redis'"),
        (("logs", "kubelet", "--node", "7"), "no component 'kubelet-7'"),
        (("load-image", str(tmp_path / "missing.tar")), "missing.tar: no such file"),
        (("load-image", str(garbage)), "garbage.tar is not an OCI archive"),
    ):
        done = cluster.run(*arguments, check=False)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert cluster.run("logs", "kubelet", "--node", "2", "-n", "1").stdout


@ROOT
def test_without_root_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; os.geteuid = lambda: 65534; from cluster.cli import main; main()", "up"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the embedded cluster needs root")


def test_missing_packages_are_named_where_apt_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster import host
    from cluster.spec import ClusterError

    monkeypatch.setattr(host.shutil, "which", lambda program: None)
    with pytest.raises(ClusterError, match=r"no apt-get, install by hand .* containerd .*nftables runc util-linux"):
        host.install_packages(print)


def test_certificates_are_issued_again_only_when_they_must(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cluster import pki
    from cluster.spec import Cluster

    def files(cluster: Cluster) -> dict[str, str]:
        pki.issue(cluster)
        return {path.name: path.read_text() for path in cluster.pki.iterdir()}

    def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
        return {name.partition(".")[0] for name in after if before.get(name) != after[name]}

    one = Cluster("one", 0, 1, tmp_path)
    first = files(one)
    assert files(one) == first
    assert all(path.stat().st_mode & 0o77 == 0 for path in one.pki.glob("*.key"))
    (one.pki / "etcd.key").write_text("half a ke")  # what a full disk leaves
    assert changed(first, files(one)) == {"etcd"}
    moved = Cluster("one", 3, 1, tmp_path)  # other addresses
    assert {"apiserver", "etcd", "kubelet-1-serving"} <= changed(first, files(moved))
    before = files(moved)
    monkeypatch.setattr(pki, "_RENEW_DAYS", 366)  # all but the authorities are near their end
    assert {"apiserver", "admin", "kubelet-1"} <= changed(before, after := files(moved))
    assert "ca" not in changed(before, after)


def test_no_address_range_left(cluster: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With all sixteen indexes taken a seventeenth cluster is refused with the way out."""
    from cluster import registry
    from cluster.spec import ClusterError

    entries = {}
    for index in range(16):
        (tmp_path / f"c{index}").mkdir()
        entries[f"c{index}"] = {"index": index, "nodes": 1, "base": str(tmp_path)}
    monkeypatch.setattr(registry, "REGISTRY", tmp_path / "clusters.json")
    monkeypatch.setattr(registry, "RUN_BASE", tmp_path / "run")
    monkeypatch.setenv("SESSION_STORE_HOME", str(tmp_path))
    registry.REGISTRY.write_text(json.dumps(entries))
    with pytest.raises(ClusterError, match="no address range is free"):
        registry.register("one-more", 1)
