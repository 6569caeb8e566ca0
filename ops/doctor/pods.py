"""Why pods do not run: nodes, images, Secrets, room, memory, crashes; and pods that are not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from infra.credentials import internal_keys, internal_secret
from infra.redis import conf
from infra.redis.sentinel import proxy_name
from ops.doctor.look import Look, Object, is_ready, labels, moment, name, names, pairs, statuses
from ops.doctor.model import API, BROKEN, CLUSTER, NAMESPACE, PATH, REDIS, RISK, Finding

PULL = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
RECENT = timedelta(hours=24)
"""A container that was killed longer ago and runs since is history."""
LATE = timedelta(minutes=2)
"""So long after its time a deleted pod is stuck."""
KILLED = "redis-server ended with code 137"


def namespace(look: Look) -> Iterator[Finding]:
    """It is there to stay."""
    space = look.settings.namespace
    if look.namespace is None:
        what = f"Namespace {space} is gone, and with it all that stack {look.stack} had in it"
        again = f"`python -m ops up --stack {look.stack} --refresh` makes it anew (then `python -m ops restore FILE`)"
        yield Finding(NAMESPACE, CLUSTER, what, (f"namespaces {space!r} not found",), again)
    elif look.namespace["status"].get("phase") == "Terminating":
        since = look.namespace["metadata"].get("deletionTimestamp")
        what = f"Namespace {space} is being deleted"
        seen = f"metadata.deletionTimestamp {since}"
        again = f"when it is gone: `python -m ops up --stack {look.stack} --refresh`, then `python -m ops restore FILE`"
        yield Finding(NAMESPACE, CLUSTER, what, (seen,), again)


def nodes(look: Look) -> Iterator[Finding]:
    """Nodes that have pods of ours are well."""
    used = {pod["spec"].get("nodeName") for _, pod in look.all_pods()}
    for node in look.of("nodes"):
        if name(node) not in used:
            continue
        conditions = {c["type"]: c for c in node["status"].get("conditions") or []}
        ready = conditions.get("Ready", {"status": "Unknown"})
        on_it = names(pod for _, pod in look.all_pods() if pod["spec"].get("nodeName") == name(node))
        if ready["status"] != "True":
            seen = f"node {name(node)}: condition Ready is {ready['status']}: {ready.get('message', '')}"
            fix = f"mend the node, or move its pods: `kubectl drain {name(node)} --ignore-daemonsets --force`"
            what = f"Node {name(node)} is down, and {on_it} with it"
            yield Finding("node-down", CLUSTER, what, (seen,), fix, about=(f"Node {name(node)}",))
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure"):
            if conditions.get(kind, {}).get("status") == "True":
                what = f"Node {name(node)} is short of {kind.removesuffix('Pressure')} and will evict pods ({on_it})"
                seen = f"node {name(node)}: condition {kind}: {conditions[kind].get('message', '')}"
                fix = f"make room there: `kubectl describe node {name(node)}` tells who uses it"
                yield Finding("node-pressure", CLUSTER, what, (seen,), fix, RISK, (f"Node {name(node)}",))


def missing(look: Look) -> Iterator[Finding]:
    """The workloads are there, with as many pods as declared."""
    redis, api, wanted = look.settings.redis, look.settings.api, []
    if not look.external:
        count = redis.replicas if look.sentinel else 1
        wanted.append((REDIS, "StatefulSet", "statefulsets", conf.stateful_set(look.settings), count))
    if look.sentinel:
        wanted.append((PATH, "Deployment", "deployments", proxy_name(redis.app), redis.proxy_replicas))
    if redis.adoption != "beside":
        least = api.autoscaling.min_replicas if api.autoscaling else api.replicas
        wanted.append((API, "Deployment", "deployments", look.deployment, 1 if api.existing_deployment else least))
    for part, kind, listed, called, count in wanted:
        if not look.saw(listed):
            continue
        found, about = look.named(listed, called), (f"{kind} {called}",)
        if found is None:
            what, seen = f"{kind} {called} is gone", f"{listed} in namespace {look.settings.namespace}: no {called}"
            fix = f"`python -m ops up --stack {look.stack} --refresh`"
            yield Finding("workload-missing", part, what, (seen,), fix, about=about)
            continue
        has = found["spec"].get("replicas", 1)
        if has < count:
            what = f"{kind} {called} was scaled down: {has} of {count} pods"
            seen = f"spec.replicas {has}, the stack declares {count}"
            back = f"`{look.kubectl} scale {kind.lower()}/{called} --replicas={count}`"
            # A majority of the Redis pods, or one of the others, and everything goes on.
            enough = has > count // 2 if part == REDIS else has > 0
            yield Finding("scaled-down", part, what, (seen,), back, RISK if enough else BROKEN, about)
        if message := _refused(look, found):
            what = f"The cluster refuses pods of {kind} {called}"
            fix = f"give it what the message asks for (quota, Pod Security level), or take it back: {look.mend}"
            yield Finding("pods-refused", part, what, (message,), fix, about=about)


def _refused(look: Look, workload: Object) -> str | None:
    for condition in (workload.get("status") or {}).get("conditions") or []:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition.get("message"))
    if workload["spec"].get("replicas", 1) <= (workload.get("status") or {}).get("replicas", 0):
        return None
    for event in look.of("events"):
        what = event["involvedObject"]
        if event.get("reason") == "FailedCreate" and what.get("uid") == workload["metadata"].get("uid"):
            return f"event FailedCreate: {event.get('message')}"
    return None


def images(look: Look) -> Iterator[Finding]:
    """Nodes can get the images."""
    for part, pod in look.all_pods():
        for status in statuses(pod):
            waiting = (status.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") not in PULL:
                continue
            image = next((c["image"] for c in _containers(pod) if c["name"] == status["name"]), status.get("image"))
            event = next(
                (
                    e["message"]
                    for e in look.of("events")
                    if e["involvedObject"].get("name") == name(pod) and "ull" in e.get("message", "")
                ),
                None,
            )
            seen = f"pod {name(pod)}, container {status['name']}: {waiting['reason']}: {waiting.get('message', '')}"
            about = _owner(look, pod)
            fix = f"correct the image or the registry's credentials, then `python -m ops up --stack {look.stack}`"
            fix = look.mend if look.by_hand(about) else fix
            what = f"The image of {status['name']} cannot be pulled: {image}"
            yield Finding("image-pull", part, what, tuple(filter(None, (seen, event))), fix, about=about)
            break


def secrets(look: Look) -> Iterator[Finding]:
    """Every Secret is there, with the keys that pods read."""
    names_, wanted = look.settings.credentials, {}
    wanted[names_.password_secret] = ["password"]
    wanted[names_.session_secret] = ["session-secret"]
    if look.settings.tls_secret:
        wanted[look.settings.tls_secret] = ["ca.crt"] if look.external else ["tls.crt", "tls.key", "ca.crt"]
    if passwords := internal_keys(look.settings):
        wanted[internal_secret(look.settings)] = list(passwords)
    for secret, keys in wanted.items():
        if any(line.startswith(f"{secret}:") for line in look.unseen):
            continue
        content = look.secrets.get(secret)
        lacks = [key for key in keys if not (content and content.data.get(key))]
        if not lacks:
            continue
        state = "is missing" if content is None else f"has no {', '.join(lacks)}"
        what = f"Secret {secret} {state}"
        waiting = [
            f"pod {name(pod)}: {w['reason']}: {w.get('message', '')}"
            for _, pod in look.all_pods()
            for status in statuses(pod)
            if secret in (w := (status.get("state") or {}).get("waiting") or {}).get("message", "")
        ]
        mounts = [str(e.get("message")) for e in look.of("events") if e.get("reason") == "FailedMount"]
        there = "not found" if content is None else f"keys {', '.join(sorted(content.data))}"
        seen = (f"Secret {secret}: {there}",)
        tls = secret == look.settings.tls_secret and not look.settings.tls.issuer
        fix = (
            f"`python -m ops {'certificates issue' if tls else 'up'} --stack {look.stack}{'' if tls else ' --refresh'}`"
        )
        mounted = [message for message in mounts if f'"{secret}"' in message][:1]
        yield Finding("secret-missing", PATH, what, (*seen, *waiting[:1], *mounted), fix, about=(f"Secret {secret}",))


def room(look: Look) -> Iterator[Finding]:
    """Every pod has a node."""
    for part, pod in look.all_pods():
        for condition in pod["status"].get("conditions") or []:
            if condition["type"] != "PodScheduled" or condition["status"] == "True":
                continue
            seen = f"pod {name(pod)}: {condition.get('reason')}: {condition.get('message', '')}"
            fix = "add a node or free one, or ask for less (session-store:redis.memory, api.memory, api.replicas)"
            what, about = f"No node takes pod {name(pod)}", _owner(look, pod)
            yield Finding("pod-unschedulable", part, what, (seen,), fix, about=about, because=("pvc-pending",))


def memory(look: Look) -> Iterator[Finding]:
    """No container was killed for its memory, no pod evicted."""
    for part, pod in look.all_pods():
        if pod["status"].get("reason") == "Evicted":
            seen = f"pod {name(pod)}: status.reason Evicted: {pod['status'].get('message', '')}"
            what = f"Pod {name(pod)} was evicted from node {pod['spec'].get('nodeName')}"
            fix = f"make room on that node, then `{look.kubectl} delete pod {name(pod)}`"
            replaced = part == API and any(is_ready(other) for other in look.api_pods())
            yield Finding("pod-evicted", part, what, (seen,), fix, RISK if replaced else BROKEN)
            continue
        for status in statuses(pod):
            states = ((status.get(key) or {}).get("terminated") or {} for key in ("state", "lastState"))
            last = next((state for state in states if state.get("reason") == "OOMKilled"), None)
            log = look.logs.get(f"{name(pod)} {status['name']}", "")
            if last is None and not (status["name"] == "redis" and KILLED in log):
                continue
            ended = moment(last.get("finishedAt")) if last else None
            if ended and look.now - ended > RECENT and status.get("ready"):
                continue
            limit = next(
                (
                    (c.get("resources") or {}).get("limits", {}).get("memory")
                    for c in _containers(pod)
                    if c["name"] == status["name"]
                ),
                None,
            )
            seen = (
                f"pod {name(pod)}: containerStatuses[{status['name']}] terminated.reason OOMKilled at "
                f"{last.get('finishedAt')}, restartCount {status.get('restartCount')}, limit {limit}"
                if last
                else f"log of {name(pod)}: {KILLED}: the kernel killed it, limit {limit}"
            )
            key = "redis.memory" if part == REDIS else "api.memory"
            about = _owner(look, pod)
            fix = f"raise session-store:{key} in Pulumi.{look.stack}.yaml, then `python -m ops up --stack {look.stack}`"
            fix = look.mend if look.by_hand(about) else fix
            what = f"Container {status['name']} of {name(pod)} was killed for its memory (OOMKilled), limit {limit}"
            severity = RISK if status.get("ready") else BROKEN
            yield Finding("oom-killed", part, what, (seen,), fix, severity, about)


def ending(look: Look) -> Iterator[Finding]:
    """A pod that is deleted goes."""
    ours = {look.settings.redis.app: REDIS, proxy_name(look.settings.redis.app): PATH, look.deployment: API}
    for pod in look.of("pods"):
        part, due = ours.get(labels(pod).get("app", "")), moment(pod["metadata"].get("deletionTimestamp"))
        if part is None or due is None or look.now - due < LATE:
            continue
        node = pod["spec"].get("nodeName")
        what = f"Pod {name(pod)} was deleted and does not end: its node {node} does not stop it"
        seen = f"pod {name(pod)}: metadata.deletionTimestamp {pod['metadata']['deletionTimestamp']}"
        force = f"`{look.kubectl} delete pod {name(pod)} --force --grace-period=0`"
        fix = f"look at the node's container runtime; when the pod is sure to be dead: {force}"
        severity = RISK if part == API else BROKEN
        yield Finding("pod-stuck", part, what, (seen,), fix, severity, because=("node-down",))


def crashes(look: Look) -> Iterator[Finding]:
    """No container ends again and again for a reason not yet told."""
    for part, pod in look.all_pods():
        for status in statuses(pod):
            state = status.get("state") or {}
            waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
            code = ((status.get("lastState") or {}).get("terminated") or ended).get("exitCode")
            if waiting.get("reason") not in ("CrashLoopBackOff", "RunContainerError", "CreateContainerError") and not (
                ended and code
            ):
                continue
            log = look.logs.get(f"{name(pod)} {status['name']}", "").strip().splitlines()[-4:]
            seen = (
                f"pod {name(pod)}, container {status['name']}: {waiting.get('reason') or 'ended'}, exit code {code}, "
            )
            seen += f"restartCount {status.get('restartCount')} {waiting.get('message', '')}".rstrip()
            what = f"Container {status['name']} of {name(pod)} ends right after its start"
            about = _owner(look, pod)
            more = f"`{look.kubectl} logs {name(pod)} -c {status['name']} --previous` tells why"
            more = look.mend if look.by_hand(about) else more
            explained = ("oom-killed", "secret-missing", "pvc-full", CLUSTER)
            lines = tuple(f"log: {line}" for line in log)
            yield Finding("crash-loop", part, what, (seen, *lines), more, about=about, because=explained)
            break


def _containers(pod: Object) -> list[Object]:
    return [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]


def _owner(look: Look, pod: Object) -> tuple[str, ...]:
    """What a change by hand would be told about: the workload that made the pod."""
    for owner in pod["metadata"].get("ownerReferences") or []:
        if owner["kind"] == "StatefulSet":
            return (f"StatefulSet {owner['name']}",)
    for deployment in look.of("deployments"):
        match = deployment["spec"]["selector"].get("matchLabels") or {}
        if match and match.items() <= (pod["metadata"].get("labels") or {}).items():
            return (f"Deployment {name(deployment)}",)
    return (f"pods {pairs(pod['metadata'].get('labels') or {})}",)
