"""How etcd, the API server, the controller manager and the scheduler are run, on the host."""

from __future__ import annotations

from pathlib import Path

from cluster import pki
from cluster.host import write
from cluster.processes import Component
from cluster.spec import Cluster

# Controllers that have nothing to do here: clouds, bootstrap tokens, address ranges that we hand out ourselves.
_IDLE_CONTROLLERS = (
    "bootstrap-signer-controller",
    "token-cleaner-controller",
    "node-ipam-controller",
    "node-route-controller",
    "service-lb-controller",
    "cloud-node-lifecycle-controller",
    "ttl-controller",
)


def _flags(**flags: object) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in flags.items())


def _component(
    cluster: Cluster, binaries: Path, name: str, flags: tuple[str, ...], inputs: tuple[Path, ...]
) -> Component:
    return Component(name, (str((binaries / name).resolve()), *flags), f"{cluster.cgroup}/system", inputs=inputs)


def components(cluster: Cluster, binaries: Path) -> list[Component]:
    """The four components, in the order in which they start."""
    return [
        _etcd(cluster, binaries),
        _apiserver(cluster, binaries),
        _controller_manager(cluster, binaries),
        _scheduler(cluster, binaries),
    ]


def _etcd(cluster: Cluster, binaries: Path) -> Component:
    url = f"https://{cluster.host_ip}"
    cert, key, ca = pki.crt(cluster, "etcd"), pki.key(cluster, "etcd"), pki.crt(cluster, "etcd-ca")
    flags = _flags(
        name="main",
        data_dir=cluster.home / "etcd",
        listen_client_urls=f"{url}:2379",
        advertise_client_urls=f"{url}:2379",
        listen_peer_urls=f"{url}:2380",
        initial_advertise_peer_urls=f"{url}:2380",
        initial_cluster=f"main={url}:2380",
        # Pods reach the bridge address too: only holders of a certificate of etcd's own authority get in.
        cert_file=cert,
        key_file=key,
        client_cert_auth=True,
        trusted_ca_file=ca,
        peer_cert_file=cert,
        peer_key_file=key,
        peer_client_cert_auth=True,
        peer_trusted_ca_file=ca,
        # One member on one disk: no election to wait for, and the page cache outlives a killed process.
        unsafe_no_fsync=True,
        heartbeat_interval=100,
        election_timeout=500,
        log_level="warn",
    )
    return _component(cluster, binaries, "etcd", flags, (cert, ca))


def _apiserver(cluster: Cluster, binaries: Path) -> Component:
    def crt(name: str) -> Path:
        return pki.crt(cluster, name)

    def key(name: str) -> Path:
        return pki.key(cluster, name)

    flags = _flags(
        advertise_address=cluster.host_ip,
        bind_address=cluster.host_ip,
        secure_port=6443,
        service_cluster_ip_range=cluster.services,
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        etcd_servers=f"https://{cluster.host_ip}:2379",
        etcd_cafile=crt("etcd-ca"),
        etcd_certfile=crt("apiserver-etcd-client"),
        etcd_keyfile=key("apiserver-etcd-client"),
        client_ca_file=crt("ca"),
        tls_cert_file=crt("apiserver"),
        tls_private_key_file=key("apiserver"),
        kubelet_certificate_authority=crt("ca"),
        kubelet_client_certificate=crt("apiserver-kubelet-client"),
        kubelet_client_key=key("apiserver-kubelet-client"),
        kubelet_preferred_address_types="InternalIP",
        service_account_issuer="https://kubernetes.default.svc.cluster.local",
        service_account_key_file=key("service-accounts"),
        service_account_signing_key_file=key("service-accounts"),
        requestheader_client_ca_file=crt("front-proxy-ca"),
        requestheader_allowed_names="front-proxy-client",
        requestheader_extra_headers_prefix="X-Remote-Extra-",
        requestheader_group_headers="X-Remote-Group",
        requestheader_username_headers="X-Remote-User",
        proxy_client_cert_file=crt("front-proxy-client"),
        proxy_client_key_file=key("front-proxy-client"),
        enable_aggregator_routing=True,
        # Pods of a dead node move after half a minute (Kubernetes waits five): people watch this cluster.
        default_not_ready_toleration_seconds=30,
        default_unreachable_toleration_seconds=30,
        enable_priority_and_fairness=False,
        profiling=False,
    )
    inputs = tuple(
        crt(n) for n in ("ca", "apiserver", "apiserver-kubelet-client", "apiserver-etcd-client", "front-proxy-client")
    )
    return _component(cluster, binaries, "kube-apiserver", flags, (*inputs, key("service-accounts")))


def _controller_manager(cluster: Cluster, binaries: Path) -> Component:
    config = pki.kubeconfig(cluster, "kube-controller-manager")
    flags = _flags(
        kubeconfig=config,
        authentication_kubeconfig=config,
        authorization_kubeconfig=config,
        bind_address=cluster.host_ip,
        leader_elect=False,
        use_service_account_credentials=True,
        service_account_private_key_file=pki.key(cluster, "service-accounts"),
        root_ca_file=pki.crt(cluster, "ca"),
        cluster_signing_cert_file=pki.crt(cluster, "ca"),
        cluster_signing_key_file=pki.key(cluster, "ca"),
        allocate_node_cidrs=False,
        # kubelets renew their lease every 4 s: five missed renewals and the node is down.
        node_monitor_period="2s",
        node_monitor_grace_period="20s",
        controllers=",".join(["*", *(f"-{c}" for c in _IDLE_CONTROLLERS)]),
        profiling=False,
    )
    return _component(cluster, binaries, "kube-controller-manager", flags, (config, pki.crt(cluster, "ca")))


def _scheduler(cluster: Cluster, binaries: Path) -> Component:
    config = pki.kubeconfig(cluster, "kube-scheduler")
    settings = cluster.home / "kube-scheduler.yaml"
    write(
        settings,
        f"""\
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {{kubeconfig: {config}}}
leaderElection: {{leaderElect: false}}
enableProfiling: false
""",
    )
    flags = _flags(
        config=settings, authentication_kubeconfig=config, authorization_kubeconfig=config, bind_address=cluster.host_ip
    )
    return _component(cluster, binaries, "kube-scheduler", flags, (config, settings))
