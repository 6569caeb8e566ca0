"""Redis and its volume: claims that wait, a disk or a memory that is full, data that is being loaded or is damaged."""

from __future__ import annotations

from collections.abc import Iterator

from kubernetes.utils.quantity import parse_quantity

from infra.redis import conf
from ops.doctor.look import Look, name
from ops.doctor.model import BROKEN, REDIS, RISK, Finding
from ops.preflight import DEFAULT_CLASS

FULL, NEARLY = 0.03, 0.10
"""Part of a volume that is free when it is as good as full, and when it soon will be."""
ALMOST = 0.9
"""Part of maxmemory from which on it is told."""
MIB = 1024 * 1024


def claims(look: Look) -> Iterator[Finding]:
    """Every claim has a volume."""
    classes = {name(item): item for item in look.of("classes")}
    for pod in look.redis_pods():
        for volume in pod["spec"].get("volumes") or []:
            called = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            claim = look.named("claims", called) if called else None
            if called is None or not look.saw("claims"):
                continue
            if claim is None:
                what, seen = f"Claim {called} of pod {name(pod)} is gone", f"persistentvolumeclaims: no {called}"
                fix = f"`python -m ops up --stack {look.stack} --refresh`, then `python -m ops restore FILE`"
                yield Finding("pvc-missing", REDIS, what, (seen,), fix, about=(f"PersistentVolumeClaim {called}",))
                continue
            if claim["status"].get("phase") == "Bound":
                continue
            wanted = claim["spec"].get("storageClassName")
            events = [
                f"event {e.get('reason')}: {e.get('message', '')}"
                for e in look.of("events")
                if e["involvedObject"].get("name") == called
            ]
            seen = f"claim {called}: phase {claim['status'].get('phase')}, storageClassName {wanted or 'none'}"
            there = f"storage classes: {', '.join(_shown(item) for item in classes.values()) or 'none'}"
            if wanted and look.saw("classes") and wanted not in classes:
                what = f"Claim {called} waits for storage class {wanted}, which does not exist"
                fix = "correct session-store:redis.storage.className"
            elif not wanted and look.saw("classes"):
                what = f"Claim {called} waits: the cluster has no default storage class"
                fix = "set session-store:redis.storage.className"
            else:
                what = f"Claim {called} gets no volume from storage class {wanted}"
                fix = "mend the provisioner, see the event; or set another session-store:redis.storage.className"
            again = (
                f"`{look.kubectl} delete pvc {called} --wait=false`, `{look.kubectl} delete pod {name(pod)}`, "
                f"`python -m ops up --stack {look.stack} --refresh`"
            )
            about = (f"PersistentVolumeClaim {called}",)
            yield Finding("pvc-pending", REDIS, what, (seen, there, *events[:1]), f"{fix}; then {again}", about=about)


def _shown(item: object) -> str:
    meta = item["metadata"]  # type: ignore[index]
    default = (meta.get("annotations") or {}).get(DEFAULT_CLASS) == "true"
    return f"{meta['name']}{' (default)' if default else ''}"


def disk(look: Look) -> Iterator[Finding]:
    """The append-only file can be written."""
    for pod, redis in look.redis.items():
        log = look.logs.get(f"{pod} redis", "")
        failed = (
            redis.info.get("aof_last_write_status") == "err" or redis.info.get("aof_last_bgrewrite_status") == "err"
        )
        no_room = "No space left on device" in log and not redis.info
        free, total = redis.disk or (1, 1)
        full = bool(redis.disk) and free < total * FULL
        refused = [
            f"pod {p}: Redis answers {a['write']}"
            for p, a in look.api.items()
            if str(a.get("write")).startswith("-MISCONF")
        ]
        # On a volume that others use too, what the claim asked for may still be there.
        little = free < total * NEARLY and free * 1024 < int(parse_quantity(look.settings.redis.storage.size))
        if failed or no_room or refused or (redis.disk and little and look.settings.redis.appendonly):
            seen = [f"pod {pod}: /data has {free // 1024} of {total // 1024} MiB free"] if redis.disk else []
            if failed:
                status = ("aof_last_write_status", "aof_last_bgrewrite_status")
                seen.append(f"pod {pod}: INFO {', '.join(f'{key}:{redis.info.get(key)}' for key in status)}")
            seen += [f"log of {pod}: {line[-160:]}" for line in log.splitlines() if "No space left" in line][-1:]
            broken = bool(failed or no_room or refused)
            if full or no_room or not broken:
                what = f"The volume of {pod} is {'full' if broken else 'nearly full'}"
                what += ": Redis cannot write its append-only file and refuses logins (MISCONF)" if broken else ""
                fix = f"raise session-store:redis.storage.size, then `python -m ops up --stack {look.stack}`"
                fix += " (where the storage class cannot grow volumes: delete what else is in /data)"
            else:
                what = f"Redis in {pod} cannot write its append-only file and refuses logins (MISCONF)"
                fix = f"`{look.kubectl} logs {pod} -c redis` tells which error its volume gives: mend or replace it"
            about = (f"PersistentVolumeClaim data-{pod}",)
            yield Finding("pvc-full", REDIS, what, (*seen, *refused), fix, BROKEN if broken else RISK, about)


def damaged(look: Look) -> Iterator[Finding]:
    """The append-only file is sound."""
    for pod, redis in look.redis.items():
        if redis.refused:
            what = f"The append-only file of {pod} is damaged, and Redis waits for a person to decide"
            fix = f"`python -m ops restore FILE --stack {look.stack}`, or what the log of {pod} says"
            yield Finding("aof-damaged", REDIS, what, (f"{pod}: {redis.refused}",), fix, because=("pvc-full",))


def loading(look: Look) -> Iterator[Finding]:
    """Redis is done with loading its data."""
    for pod, redis in look.redis.items():
        said = [f"pod {p}: Redis answers {a['write']}" for p, a in look.api.items() if "LOADING" in str(a.get("write"))]
        if redis.info.get("loading", "0") != "1" and not any("LOADING" in answer for answer in redis.logins):
            continue
        told = [
            f"{key}:{redis.info[key]}" for key in ("loading_loaded_perc", "loading_eta_seconds") if key in redis.info
        ]
        seen = f"pod {pod}: INFO loading:1 {' '.join(told)}".rstrip()
        what = f"Redis in {pod} is loading its data: logins wait until it is done"
        eta = f" (it says {redis.info['loading_eta_seconds']} s)" if "loading_eta_seconds" in redis.info else ""
        fix = f"wait{eta}; a restart begins anew: `{look.kubectl} wait --for=condition=Ready pod/{pod} --timeout=600s`"
        yield Finding("loading", REDIS, what, (seen, *said), fix)


def memory(look: Look) -> Iterator[Finding]:
    """There is room for more sessions, and none is thrown away."""
    for pod, redis in look.redis.items():
        limit = int(redis.config.get("maxmemory", "0") or 0)
        used, policy = redis.number("used_memory"), redis.config.get("maxmemory-policy", "")
        evicted = redis.number("evicted_keys")
        seen = (
            f"pod {pod}: INFO used_memory:{used} ({used // MIB} MiB), maxmemory {limit} ({limit // MIB} MiB), {policy}"
        )
        anew = f"`{look.kubectl} delete pod {pod}` starts it with what is declared"
        grow = f"raise session-store:redis.memory, then `python -m ops up --stack {look.stack}`"
        if limit != (declared := conf.maxmemory(look.settings)):
            seen, grow = f"{seen}; {declared} is declared", anew
        about = (f"StatefulSet {pod.rpartition('-')[0]}",)
        if limit and used >= limit * ALMOST:
            full = used >= limit
            what = f"Redis in {pod} {'has reached' if full else 'is near'} its maxmemory"
            what += ": it refuses new logins (OOM)" if full and policy == "noeviction" else ""
            yield Finding("maxmemory", REDIS, what, (seen,), grow, BROKEN if full else RISK, about)
        if redis.config and (not limit or policy != "noeviction"):
            what = (
                f"Redis in {pod} throws sessions away when it is full" if limit else f"Redis in {pod} has no maxmemory"
            )
            lines = (f"pod {pod}: CONFIG maxmemory {limit}, maxmemory-policy {policy}; INFO evicted_keys:{evicted}",)
            severity = BROKEN if evicted else RISK
            yield Finding("eviction", REDIS, what, lines, anew, severity, (f"ConfigMap {about[0].split()[1]}-config",))
