"""How a node's containerd, kubelet and kube-proxy are run, inside its namespaces."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from cluster import host, pki
from cluster.host import write
from cluster.processes import Component
from cluster.spec import Node


def components(node: Node, binaries: Path, pause_ref: str) -> list[Component]:
    """The three components of a node, in the order in which they start. Writes their configuration files."""
    return [_containerd(node, pause_ref), _kubelet(node, binaries), _kube_proxy(node, binaries)]


def _component(node: Node, name: str, argv: tuple[object, ...], inputs: tuple[Path, ...]) -> Component:
    return Component(f"{name}-{node.number}", tuple(map(str, argv)), f"{node.cgroup}/system", node=node, inputs=inputs)


def _containerd(node: Node, pause_ref: str) -> Component:
    network = {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": True,
                "hairpinMode": True,
                "ipMasq": False,  # the host masquerades what leaves the machine, nothing else is
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": str(node.pods)}]],
                    "dataDir": "/var/lib/cni/networks",
                },
            }
        ],
    }
    cni = node.home / "cni"
    write(cni / "10-pods.conflist", json.dumps(network, indent=1))
    settings = node.home / "containerd.toml"
    write(
        settings,
        f"""\
version = 2
root = "{node.home}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.restart",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[debug]
  level = "warn"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_ref}"
  restrict_oom_score_adj = {str(not _may_lower_oom_score()).lower()}
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{host.cni_bin()}"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{_snapshotter(node)}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
""",
    )
    argv = (host.which("containerd"), "--config", settings)
    return _component(node, "containerd", argv, (settings, cni / "10-pods.conflist"))


def _may_lower_oom_score() -> bool:
    """CAP_SYS_RESOURCE, bit 24 of the effective set: without it no process may be made less likely to be killed."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


def _snapshotter(node: Node) -> str:
    """overlayfs, unless the data lies on an overlay itself (inside a container): the kernel refuses to stack those."""
    node.home.mkdir(parents=True, exist_ok=True)
    kind = host.run("stat", "--file-system", "--format=%T", node.home).strip()
    return "native" if kind == "overlayfs" else "overlayfs"


def _kubelet(node: Node, binaries: Path) -> Component:
    cluster = node.cluster
    name = f"kubelet-{node.number}"
    resolved = Path("/run/systemd/resolve/resolv.conf")  # systemd's stub on 127.0.0.53 is out of a pod's reach
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": str(node.ip),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki.crt(cluster, "ca"))},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki.crt(cluster, f"{name}-serving")),
        "tlsPrivateKeyFile": str(pki.key(cluster, f"{name}-serving")),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failCgroupV1": False,
        "clusterDNS": [str(cluster.dns_ip)],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolved if resolved.exists() else "/etc/resolv.conf"),
        "failSwapOn": False,
        "oomScoreAdj": 0,  # lowering it takes a capability that the machine may not give
        "makeIPTablesUtilChains": False,
        "serializeImagePulls": False,
        "imageGCHighThresholdPercent": 100,  # loaded images cannot be pulled again
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "nodeLeaseDurationSeconds": 16,  # renewed each 4 s
        "nodeStatusUpdateFrequency": "4s",  # Ready again soon after the API server was away; posts changes only
        "shutdownGracePeriod": "0s",
        "registerWithTaints": [],
        "enableProfilingHandler": False,
    }
    settings = node.home / "kubelet.yaml"
    write(settings, yaml.safe_dump(config))
    argv = (
        (binaries / "kubelet").resolve(),
        f"--config={settings}",
        f"--kubeconfig={pki.kubeconfig(cluster, name)}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.ip}",
        f"--node-labels=topology.kubernetes.io/zone={node.zone}",
        "--housekeeping-interval=20s",
    )
    return _component(
        node, "kubelet", argv, (settings, pki.kubeconfig(cluster, name), pki.crt(cluster, f"{name}-serving"))
    )


def _kube_proxy(node: Node, binaries: Path) -> Component:
    cluster = node.cluster
    access = pki.kubeconfig(cluster, "kube-proxy")
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(access)},
        "hostnameOverride": node.name,
        "bindAddress": str(node.ip),
        "healthzBindAddress": f"{node.ip}:10256",
        "metricsBindAddress": f"{node.ip}:10249",
        "clusterCIDR": str(cluster.pods),
        "conntrack": {"maxPerCore": 0},
        "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "5m"},
        "oomScoreAdj": 0,
    }
    settings = node.home / "kube-proxy.yaml"
    write(settings, yaml.safe_dump(config))
    argv = ((binaries / "kube-proxy").resolve(), f"--config={settings}")
    return _component(node, "kube-proxy", argv, (settings, access))
