"""Several Redis: one master that the Sentinels agree on, replicas in sync, proxies that lead there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ops.doctor.look import Look, is_ready, name, names
from ops.doctor.model import BROKEN, CHANGED, CLUSTER, PATH, REDIS, RISK, Finding

STOPPED = (
    "node-down",
    "scaled-down",
    "image-pull",
    "oom-killed",
    "pvc-pending",
    "secret-missing",
    "crash-loop",
    "pvc-full",
)
TLS = ("tls-name", "tls-expired", "tls-ca", "tls-key")


def quorum(look: Look) -> Iterator[Finding]:
    """A majority of the Sentinels answers and names one master."""
    if not look.sentinel:
        return
    replicas, app = look.settings.redis.replicas, look.settings.redis.app
    need, answers = replicas // 2 + 1, {pod: one.sentinel for pod, one in look.redis.items() if one.sentinel}
    named = Counter(str(lines[0]).partition(".")[0] for lines in answers.values())
    votes = max(named.values(), default=0)
    said = [f"Sentinel in {pod}: master {lines[0].partition('.')[0]}; {lines[-1]}" for pod, lines in answers.items()]
    silent = [f"Sentinel in {name(pod)}: no answer" for pod in look.redis_pods() if name(pod) not in answers]
    again = f"`{look.kubectl} delete pod {' '.join(line.split()[2].rstrip(':') for line in silent)}` starts them anew"
    if len(answers) < need:
        what = f"No quorum: {len(answers)} of {replicas} Sentinels answer, {need} are needed to name a master"
        yield Finding("sentinel-quorum", REDIS, what, (*silent, *said), again, because=STOPPED)
    elif votes < need:
        what = f"The Sentinels do not agree on a master: {', '.join(f'{n} name {who}' for who, n in named.items())}"
        fix = f"`{look.kubectl} logs -l app={app} -c sentinel --tail=20` tells what they wait for"
        yield Finding("sentinel-quorum", REDIS, what, tuple(said), fix, because=STOPPED)
    elif silent:
        what = f"{len(silent)} of {replicas} Sentinels do not answer: one more, and no master is replaced"
        yield Finding("sentinel-silent", REDIS, what, (*silent, *said[:1]), again, RISK, because=STOPPED)


def masters(look: Look) -> Iterator[Finding]:
    """There is one master, and no other."""
    if not look.sentinel:
        return
    roles = {pod: one.info["role"] for pod, one in look.redis.items() if "role" in one.info}
    found = [pod for pod, role in roles.items() if role == "master"]
    if len(found) == 1 or look.settings.redis.adoption:
        return
    seen = tuple(
        f"pod {pod}: role:{role}"
        + (f", master_host:{look.redis[pod].info.get('master_host')}" if role == "slave" else "")
        for pod, role in roles.items()
    )
    silent = tuple(f"pod {name(pod)}: Redis does not answer" for pod in look.redis_pods() if name(pod) not in roles)
    what = f"Redis has {len(found)} masters: {', '.join(found)}" if found else "Redis has no master: nobody can log in"
    fix = f"`{look.kubectl} logs -l app={look.settings.redis.app} -c sentinel --tail=20` tells why none is promoted"
    because = ("sentinel-quorum", "network-policy", *STOPPED)
    yield Finding("no-master" if not found else "two-masters", REDIS, what, (*seen, *silent), fix, because=because)


def replication(look: Look) -> Iterator[Finding]:
    """Every replica has what the master has."""
    if not look.sentinel:
        return
    down, missing = [], []
    for pod in look.redis_pods():
        info = look.redis[name(pod)].info if name(pod) in look.redis else {}
        if info.get("role") == "slave" and info.get("master_link_status") != "up":
            down.append(
                f"pod {name(pod)}: master_link_status:{info.get('master_link_status')}, master_host:"
                f"{info.get('master_host')}, down for {info.get('master_link_down_since_seconds', '?')} s"
            )
        elif not info:
            silence = look.redis[name(pod)].ping if name(pod) in look.redis else "no container runs"
            missing.append(f"pod {name(pod)}: Redis does not answer ({silence})")
    if not down and not missing:
        return
    others = look.settings.redis.replicas - 1
    alone = len(down) + len(missing) >= others
    what = f"{len(down) + len(missing)} of {look.settings.redis.replicas} Redis do not follow the master"
    what += ": it refuses writes (NOREPLICAS)" if alone else ""
    # One that is silent may have no log of use, one whose link is down does.
    worst = (down or missing)[0].split()[1].rstrip(":")
    fix = (
        f"`{look.kubectl} delete pod {worst}` starts it anew; its log tells why: `{look.kubectl} logs {worst} -c redis`"
    )
    because = (
        *STOPPED,
        *TLS,
        "no-master",
        "two-masters",
        "sentinel-quorum",
        "network-policy",
        "half-rotation",
        "loading",
    )
    severity = BROKEN if alone else RISK
    yield Finding("replica-link-down", REDIS, what, (*down, *missing), fix, severity, because=because)


def proxies(look: Look) -> Iterator[Finding]:
    """Every proxy leads to the master."""
    if not look.sentinel:
        return
    need = look.settings.redis.replicas // 2 + 1
    for pod, up in look.proxies.items():
        leads = [
            i
            for i in range(look.settings.redis.replicas)
            if up.get(f"redis-{i}", 0) >= 1 and up.get(f"names-{i}", 0) >= need
        ]
        if leads or not up:
            continue
        masters = [str(i) for i in range(look.settings.redis.replicas) if up.get(f"redis-{i}", 0) >= 1]
        most = max((up.get(f"names-{i}", 0) for i in range(look.settings.redis.replicas)), default=0)
        seen = f"HAProxy in {pod}: masters up: {', '.join(masters) or 'none'}; Sentinels naming one: {most} of {need}"
        what = "HAProxy leads nowhere: it knows no master that a majority of the Sentinels names"
        fix = f"`{look.kubectl} logs {pod} --tail=20` tells which checks fail"
        because = (
            *STOPPED,
            *TLS,
            "no-master",
            "two-masters",
            "sentinel-quorum",
            "dns-down",
            "network-policy",
            "replica-link-down",
        )
        yield Finding("proxy-no-master", PATH, what, (seen,), fix, because=because)
    idle = [pod for pod in look.proxy_pods() if not is_ready(pod)]
    if look.proxy_pods() and len(idle) == len(look.proxy_pods()):
        what, seen = "No proxy is ready: clients cannot reach the master", f"pods {names(idle)}: not ready"
        fix = f"`{look.kubectl} describe pod {name(idle[0])}` tells why"
        yield Finding("pod-not-ready", PATH, what, (seen,), fix, because=(*STOPPED, CLUSTER, CHANGED))
