"""Level `restricted` of the Pod Security Standards, on a pod's spec; and no token of the API server in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policies.manifest import Container, Workload, items, known, mapping, walk

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SECCOMP = {"RuntimeDefault", "Localhost"}
SELINUX = {"container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
Found = Iterator[tuple[str, str]]
"""(problem, fix) pairs."""


def pod(workload: Workload) -> Found:
    """What the pod and its containers do that `restricted` forbids; of a patch, only what it sets is judged."""
    spec, whole = workload.pod, not workload.resource.partial
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"the pod shares the node's {key.removeprefix('host')}", f"remove {key}"
    if spec.get("automountServiceAccountToken", whole) is not False:
        yield "the pod carries a token of the API server", "set automountServiceAccountToken: false"
    for volume in items(spec.get("volumes")):
        if any(source.get("serviceAccountToken") for source in items(walk(volume, "projected").get("sources"))):
            yield f"volume {volume.get('name')} is a token of the API server", "remove its source serviceAccountToken"
        for kind in sorted(set(volume) - {"name"} - VOLUMES):
            if known(volume[kind]):
                yield f"volume {volume.get('name')} is a {kind}", "use a claim, a Secret, a ConfigMap or an emptyDir"
    context = mapping(spec.get("securityContext"))
    for sysctl in items(context.get("sysctls")):
        if sysctl.get("name") not in SYSCTLS:
            yield f"the pod sets the sysctl {sysctl.get('name')}", "remove it: it acts on the node"
    yield from _context(context, "the pod")
    for container in workload.containers:
        yield from _container(container, context, whole)


def _context(context: Mapping[str, Any], who: str) -> Found:
    """What a securityContext, the pod's or a container's, may not set."""
    if context.get("runAsNonRoot") is False:
        yield f"{who} may run as root", "set runAsNonRoot: true"
    if context.get("runAsUser") == 0:
        yield f"{who} runs as root", "set another runAsUser"
    seccomp = walk(context, "seccompProfile").get("type")
    if known(seccomp) and seccomp not in SECCOMP:
        yield f"{who} has the seccomp profile {seccomp}", "set seccompProfile.type: RuntimeDefault"
    armor = walk(context, "appArmorProfile").get("type")
    if known(armor) and armor not in SECCOMP:
        yield f"{who} has the AppArmor profile {armor}", "set appArmorProfile.type: RuntimeDefault"
    linux = walk(context, "seLinuxOptions")
    if (linux.get("type") or "container_t") not in SELINUX or linux.get("user") or linux.get("role"):
        yield f"{who} chooses its SELinux label", "remove seLinuxOptions"
    if walk(context, "windowsOptions").get("hostProcess"):
        yield f"{who} is a process of the Windows host", "remove windowsOptions.hostProcess"


def _container(container: Container, of_pod: Mapping[str, Any], whole: bool) -> Found:
    who, context = container.path, mapping(container.spec.get("securityContext"))
    yield from _context(context, who)
    if context.get("privileged"):
        yield f"{who} is privileged", "remove securityContext.privileged"
    if context.get("allowPrivilegeEscalation", whole) is not False:
        yield f"{who} may gain privileges", "set securityContext.allowPrivilegeEscalation: false"
    capabilities = mapping(context.get("capabilities"))
    if "ALL" not in (capabilities.get("drop") or []) and (whole or capabilities):
        yield f"{who} keeps capabilities", 'set securityContext.capabilities.drop: ["ALL"]'
    if added := sorted(set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}):
        yield f"{who} adds the capabilities {', '.join(added)}", "remove securityContext.capabilities.add"
    if context.get("procMount") not in (None, "Default"):
        yield f"{who} sees all of /proc", "remove securityContext.procMount"
    for port in items(container.spec.get("ports")):
        if port.get("hostPort"):
            yield f"{who} takes port {port['hostPort']} of the node", "remove hostPort"
    # What is set to something else was told by `_context`.
    if whole and context.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is None:
        yield f"{who} is not kept from running as root", "set securityContext.runAsNonRoot: true"
    if whole and not walk(context, "seccompProfile") and not walk(of_pod, "seccompProfile"):
        yield f"{who} has no seccomp profile", "set securityContext.seccompProfile.type: RuntimeDefault"
