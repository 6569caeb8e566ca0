"""Ways to break a stack, each a context that mends it again.

`BREAKAGES`, `SLOW` and `SENTINEL_BREAKAGES`: id of the finding, a part of its fix, what breaks.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from embedded import kubectl_path
from project import Project

from infra.release import Release
from ops import tls
from ops.kube import wait_for
from ops.promote.records import FAILED, Record

Breakage = Callable[[Project], AbstractContextManager[Any]]
SECONDS = 90
ENGINE = "--field-manager=pulumi-test"
"""What mends a stack is no change by hand."""


def eventually(probe: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """The first true answer."""
    answer = wait_for(probe, seconds)
    assert answer, f"not within {seconds:.0f} s"
    return answer


# -- the API


def settled(project: Project) -> None:
    """The API's rollout is over, and what it replaced is gone."""
    project.kubectl("rollout", "status", "deployment/api", f"--timeout={SECONDS}s")
    eventually(lambda: len(project.get("pods", "-l", "app=api")["items"]) == 2)


def pods_wait(project: Project, *reasons: str) -> bool:
    """Whether a container of the API waits, or has ended, for one of these reasons."""
    for pod in project.get("pods", "-l", "app=api")["items"]:
        for status in pod["status"].get("containerStatuses", []):
            states = [*status.get("state", {}).values(), *status.get("lastState", {}).values()]
            if any(state.get("reason") in reasons for state in states):
                return True
    return False


@contextmanager
def rollout(project: Project, *change: str, until: Callable[[], Any]) -> Iterator[None]:
    """The API's Deployment changed by hand."""
    template = project.get("deployment", "api")["spec"]["template"]
    project.kubectl(*change)
    eventually(until)
    yield
    put(project, "deployment", "api", "/spec/template", template, ENGINE)
    settled(project)


def put(project: Project, kind: str, name: str, path: str, value: Any, *how: str) -> None:
    """Set one field."""
    step = json.dumps([{"op": "replace", "path": path, "value": value}])
    project.kubectl("patch", kind, name, "--type=json", "--patch", step, *how)


def env(*values: str, serves: bool = True) -> Breakage:
    """Environment of the API set by hand; the new pods serve, or only run."""
    name, _, value = values[0].partition("=")

    def change(project: Project) -> AbstractContextManager[None]:
        def begun() -> bool:
            found = project.get("pods", "-l", "app=api", "--field-selector=status.phase=Running")["items"]
            if serves:
                settled(project)
            return serves or any({"name": name, "value": value} in pod["spec"]["containers"][0]["env"] for pod in found)

        return rollout(project, "set", "env", "deployment/api", *values, until=begun)

    return change


def bad_image(project: Project) -> AbstractContextManager[None]:
    image = project.get("deployment", "api")["spec"]["template"]["spec"]["containers"][0]["image"]
    change = ("set", "image", "deployment/api", f"api={image[:-4]}dead")
    return rollout(project, *change, until=lambda: pods_wait(project, "ImagePullBackOff", "ErrImagePull"))


def little_memory(project: Project) -> AbstractContextManager[None]:
    change = ("set", "resources", "deployment/api", "--requests=memory=32Mi", "--limits=memory=32Mi")
    return rollout(project, *change, until=lambda: pods_wait(project, "OOMKilled"))


def dead_name_server(project: Project) -> AbstractContextManager[None]:
    spec = {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}
    patch = json.dumps({"spec": {"template": {"spec": spec}}})

    def runs() -> bool:
        pods = project.get("pods", "-l", "app=api", "--field-selector=status.phase=Running")["items"]
        return any(pod["spec"]["dnsPolicy"] == "None" for pod in pods)

    return rollout(project, "patch", "deployment/api", "--patch", patch, until=runs)


@contextmanager
def scaled(project: Project, workload: str, count: int, back: int) -> Iterator[None]:
    project.kubectl("scale", workload, f"--replicas={count}")
    yield
    project.kubectl("scale", workload, f"--replicas={back}")
    project.kubectl("rollout", "status", workload, f"--timeout={SECONDS}s")


@contextmanager
def no_dns(project: Project) -> Iterator[None]:
    """Only on a cluster of one's own."""
    system = ("--namespace", "kube-system")
    dns = json.loads(project.kubectl("get", "deployment", "coredns", *system, "--output", "json"))
    project.kubectl("scale", "deployment/coredns", "--replicas=0", *system)
    yield
    project.kubectl("scale", "deployment/coredns", f"--replicas={dns['spec']['replicas']}", *system)
    project.kubectl("rollout", "status", "deployment/coredns", *system, f"--timeout={SECONDS}s")


@contextmanager
def autoscaled(project: Project) -> Iterator[None]:
    """Where no metrics-server runs."""
    project.kubectl("autoscale", "deployment/api", "--min=2", "--max=3", "--cpu-percent=70")

    def judged() -> bool:
        conditions = project.get("hpa", "api").get("status", {}).get("conditions", [])
        return any(c["type"] == "ScalingActive" and c["status"] == "False" for c in conditions)

    eventually(judged)
    yield
    project.kubectl("delete", "hpa", "api")


# -- objects


@contextmanager
def deleted(project: Project, kind: str, name: str) -> Iterator[None]:
    kept = project.get(kind, name)
    project.kubectl("delete", kind, name)
    yield
    for key in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
        kept["metadata"].pop(key, None)
    project.kubectl("create", ENGINE, "-f", "-", stdin=json.dumps(kept))
    if kind == "service":
        endpoints(project)


def endpoints(project: Project) -> None:
    """Until the Service leads to Redis again."""
    eventually(lambda: any(s.get("addresses") for s in project.get("endpoints", "redis").get("subsets") or []))


@contextmanager
def patched(project: Project, kind: str, name: str, path: str, value: Any) -> Iterator[None]:
    """One field changed by hand, and put back."""
    before: Any = project.get(kind, name)
    for key in path.strip("/").split("/"):
        before = before[int(key) if isinstance(before, list) else key]

    put(project, kind, name, path, value)
    yield
    put(project, kind, name, path, before, ENGINE)
    if kind == "service":
        endpoints(project)


@contextmanager
def secret(project: Project, name: str, values: dict[str, str], restart: bool = False) -> Iterator[None]:
    """Values of a Secret replaced by hand; restart: one pod of the API starts with them."""
    kept = {key: project.get("secret", name)["data"].get(key) for key in values}

    def write(data: dict[str, Any], *how: str) -> None:
        project.kubectl("patch", "secret", name, "--patch", json.dumps({"data": data}), *how)
        if restart:
            pod = sorted(p["metadata"]["name"] for p in project.get("pods", "-l", "app=api")["items"])[0]
            project.kubectl("delete", "pod", pod, "--wait=false")
            nudge(project)

    def renewed() -> bool:
        found = [p for p in project.get("pods", "-l", "app=api")["items"] if "deletionTimestamp" not in p["metadata"]]
        states = [s["state"] for p in found for s in p["status"].get("containerStatuses", [])]
        return len(found) == 2 and sum("running" in state for state in states) == 2

    write({key: base64.b64encode(value.encode()).decode() for key, value in values.items()})
    if restart:
        eventually(renewed)
    yield
    write(kept, ENGINE)
    nudge(project)
    if restart:
        project.kubectl("delete", "pods", "-l", "app=api")
        settled(project)


def nudge(project: Project) -> None:
    """Kubelet brings the pods their Secrets at once, not within a minute."""
    project.kubectl("annotate", "pods", "--all", "--overwrite", f"test/refresh={time.monotonic()}")


def certificate(names: list[str] | None = None, days: int = 90, ago: int = 0, other_ca: bool = False) -> Breakage:
    """Another certificate in Secret redis-tls, of the stack's own CA."""

    def change(project: Project) -> AbstractContextManager[None]:
        made = tls.Pair(*(project.secret("redis-ca", key).encode() for key in ("tls.crt", "tls.key")))
        good = tls.issued_names("redis", project.namespace)
        begin = tls.utc_now() - timedelta(days=ago)
        leaf = tls.make_leaf(made, names or good, begin, days)
        values = {"tls.crt": leaf.certificate.decode(), "tls.key": leaf.key.decode()}
        if other_ca:
            values = {"ca.crt": tls.make_ca(tls.utc_now()).certificate.decode()}
        return secret(project, "redis-tls", values)

    return change


# -- Redis


def redis_cli(project: Project, commands: str) -> str:
    """What Redis in redis-0 answers."""
    script = '. /etc/redis/topology.sh; . /etc/redis/lib.sh; LIMIT=10; here "$(cat)"'
    process = subprocess.run(
        project_exec(project, "redis-0", "redis", f"CONF=/etc/redis; {script}"),
        env=project.environment,
        input=commands,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return process.stdout


def project_exec(project: Project, pod: str, container: str, script: str) -> list[str]:
    where = ("--namespace", project.namespace, "exec", "-i", pod, "-c", container)
    return [kubectl_path(), *where, "--", "sh", "-c", script]


@contextmanager
def redis_said(project: Project, commands: str, back: str) -> Iterator[None]:
    answer = redis_cli(project, commands)
    assert "ERR" not in answer, answer
    yield
    redis_cli(project, back)


def full_memory(project: Project) -> AbstractContextManager[None]:
    limit = redis_cli(project, "CONFIG GET maxmemory").split()[-1]
    return redis_said(project, "CONFIG SET maxmemory 1mb", f"CONFIG SET maxmemory {limit}")


def restart_redis(project: Project, between: Callable[[], Any], ready: bool = True) -> None:
    """Redis stopped, something done, Redis started."""
    project.kubectl("scale", "statefulset/redis", "--replicas=0")
    project.kubectl("wait", "--for=delete", "pod/redis-0", f"--timeout={SECONDS}s")
    between()
    project.kubectl("scale", "statefulset/redis", "--replicas=1")
    project.wait_for("pod/redis-0")
    if ready:
        project.kubectl("wait", "--for=condition=Ready", "pod/redis-0", f"--timeout={SECONDS}s")


@contextmanager
def no_class(project: Project) -> Iterator[None]:
    """A claim of a storage class that does not exist."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-redis-0"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "nowhere",
            "resources": {"requests": {"storage": "256Mi"}},
        },
    }

    def replace() -> None:
        project.kubectl("delete", "pvc", "data-redis-0")
        project.kubectl("create", ENGINE, "-f", "-", stdin=json.dumps(claim))

    restart_redis(project, replace, ready=False)
    yield
    # The StatefulSet makes the claim anew, of the default class.
    restart_redis(project, lambda: project.kubectl("delete", "pvc", "data-redis-0"))


@contextmanager
def full_disk(project: Project) -> Iterator[None]:
    """A volume of eight megabytes laid over the one there is, in the mount namespace of its node."""
    claim = project.get("pvc", "data-redis-0")
    volume = json.loads(project.kubectl("get", "pv", claim["spec"]["volumeName"], "--output", "json"))
    path = (volume["spec"].get("local") or volume["spec"].get("hostPath"))["path"]
    cluster, _, node = Path(path).parts[4:7]
    within = ["nsenter", f"--mount=/run/session-store/{cluster}/ns/{node}"]
    mount = [*within, "mount", "-t", "tmpfs", "-o", "size=8m,mode=0777", "tmpfs", path]
    restart_redis(project, lambda: subprocess.run(mount, check=True))
    fill = project_exec(project, "redis-0", "redis", "dd if=/dev/zero of=/data/filler bs=1M count=16 2>/dev/null; true")
    subprocess.run(fill, env=project.environment, check=True, timeout=60, stdin=subprocess.DEVNULL)

    def refused() -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            redis_cli(project, f"SET doctor:filler {'x' * 5000}")
        return "aof_last_write_status:err" in redis_cli(project, "INFO persistence")

    eventually(refused)
    yield
    restart_redis(project, lambda: subprocess.run([*within, "umount", path], check=True))


@contextmanager
def slow_start(project: Project) -> Iterator[None]:
    """Redis takes a minute to load what it has."""
    config = project.get("configmap", "redis-config")["data"]["redis.conf"]
    slow = f"{config}key-load-delay 5000\nloading-process-events-interval-bytes 1024\n"
    each = "for i=1,30000 do redis.call('{}', 'load:' .. i{}) end"
    redis_cli(project, 'EVAL "' + each.format("set", ", string.rep('x', 200)") + '" 0')
    redis_cli(project, "BGREWRITEAOF")
    eventually(lambda: "aof_rewrite_in_progress:0" in redis_cli(project, "INFO persistence"))
    with patched(project, "configmap", "redis-config", "/data/redis.conf", slow):
        project.kubectl("delete", "pod", "redis-0")
        project.wait_for("pod/redis-0")
        eventually(lambda: "loading:1" in redis_cli_or_nothing(project, "INFO persistence"))
        yield
    project.kubectl("delete", "pod", "redis-0", "--grace-period=1")
    project.wait_for("pod/redis-0")
    project.kubectl("wait", "--for=condition=Ready", "pod/redis-0", f"--timeout={SECONDS}s")
    redis_cli(project, 'EVAL "' + each.format("del", "") + '" 0')


def redis_cli_or_nothing(project: Project, commands: str) -> str:
    with contextlib.suppress(subprocess.CalledProcessError):
        return redis_cli(project, commands)
    return ""


# -- the books


@contextmanager
def left_lock(project: Project) -> Iterator[None]:
    ended = subprocess.Popen(["true"])
    ended.wait()
    folder = project.folder / ".state" / "backend" / ".pulumi" / "locks" / "organization" / "session-store" / "dev"
    folder.mkdir(parents=True, exist_ok=True)
    held = {"pid": ended.pid, "hostname": socket.gethostname(), "username": "ada", "timestamp": "2026-11-25T08:00:00Z"}
    (folder / "left.json").write_text(json.dumps(held))
    yield
    (folder / "left.json").unlink()


@contextmanager
def overridden(project: Project) -> Iterator[None]:
    release = Release.model_validate(
        {"from": "dev", "program": "1", "commit": "ab" * 20, "images": {}, "settings_hash": "cd" * 8}
    )
    record = Record("staging", "promotion", release, None, override="login was down", refusals=["dev has no evidence"])
    record.begin(project.folder)
    yield
    record.end(FAILED, "was a test")


def say(project: Project, key: str, value: str) -> AbstractContextManager[None]:
    return redis_said(project, f"SET ctmd:sess:{key} {value}", f"DEL ctmd:sess:{key}")


NODE_SKEW = "NODE_OPTIONS=--import=data:text/javascript,globalThis.Date.now=(n=>()=>n()+6e5)(Date.now)"
BREAKAGES: list[tuple[str, str, Breakage]] = [
    ("service-missing", "ops up", lambda p: deleted(p, "service", "redis")),
    ("service-selector", "ops drift", lambda p: patched(p, "service", "redis", "/spec/selector/app", "nobody")),
    ("service-wrong-pods", "ops drift", lambda p: patched(p, "service", "redis", "/spec/selector", {"app": "api"})),
    ("service-port", "ops drift", lambda p: patched(p, "service", "redis", "/spec/ports/0/targetPort", 6380)),
    (
        "network-policy",
        "ops drift",
        lambda p: patched(
            p, "networkpolicy", "redis", "/spec/ingress/0/from/0/podSelector/matchLabels", {"app": "somebody-else"}
        ),
    ),
    ("wrong-password", "ops up", lambda p: secret(p, "redis-secret", {"password": "edited-by-hand"})),
    ("half-rotation", "ops up", lambda p: secret(p, "redis-secret", {"password": "edited-by-hand"}, restart=True)),
    ("secret-missing", "ops up", lambda p: deleted(p, "secret", "api-session-secret")),
    ("tls-name", "certificates issue", certificate(names=["elsewhere", "localhost"])),
    ("tls-expired", "certificates issue", certificate(days=5, ago=100)),
    ("tls-expiring", "certificates issue", certificate(days=5)),
    ("tls-ca", "certificates issue", certificate(other_ca=True)),
    ("image-pull", "ops drift", bad_image),
    ("oom-killed", "ops drift", little_memory),
    ("cookie-secure", "ops drift", env("SESSION_COOKIE_SECURE=true")),
    ("scaled-down", "kubectl", lambda p: scaled(p, "deployment/api", 1, 2)),
    ("changed-by-hand", "ops drift", lambda p: deleted(p, "poddisruptionbudget", "api")),
    ("maxmemory", "delete pod", full_memory),
    (
        "eviction",
        "delete pod",
        lambda p: redis_said(p, "CONFIG SET maxmemory-policy allkeys-lru", "CONFIG SET maxmemory-policy noeviction"),
    ),
    ("session-without-end", "ops sessions drop", lambda p: say(p, "forever", "{}")),
    ("save-uninitialized", "saveUninitialized", lambda p: say(p, "visitor", "'{\"cookie\":{}}' EX 600")),
    ("stale-lock", "ops up", left_lock),
    ("override-unproven", "ops verify", overridden),
]
SLOW: list[tuple[str, str, Breakage]] = [
    (
        "session-secret-mismatch",
        "ops up",
        lambda p: secret(
            p, "api-session-secret", {"session-secret": "a-secret-of-32-characters-for-you"}, restart=True
        ),
    ),
    ("dns-lookup", "ops drift", dead_name_server),
    ("api-wiring", "ops drift", env("REDIS_HOST=nowhere", serves=False)),
    ("memory-store", "ops drift", env("SESSION_STORE=memory")),
    ("clock-skew", "ops drift", env(NODE_SKEW)),
    ("autoscaler-no-metrics", "metrics", autoscaled),
    ("loading", "wait", slow_start),
    ("pvc-full", "redis.storage.size", full_disk),
    ("pvc-pending", "redis.storage.className", no_class),
    ("dns-down", "coredns", no_dns),
]
"""Those that replace pods and wait for them."""


# -- several Redis


@contextmanager
def stopped_sentinels(project: Project) -> Iterator[None]:
    """Two of three Sentinels stand still."""

    def signal(name: str) -> None:
        for pod in ("redis-ha-1", "redis-ha-2"):
            case = f"redis-server*|redis-sentinel*) kill -{name} ${{p#/proc/}} ;; esac"
            script = f"for p in /proc/[0-9]*; do case $(tr '\\0' ' ' 2>/dev/null <$p/cmdline) in {case}; done"
            command = project_exec(project, pod, "sentinel", script)
            subprocess.run(command, env=project.environment, check=True, timeout=60, stdin=subprocess.DEVNULL)

    signal("STOP")
    yield
    signal("CONT")


SENTINEL_BREAKAGES: list[tuple[str, str, Breakage]] = [
    ("sentinel-quorum", "delete pod redis-ha-1 redis-ha-2", stopped_sentinels),
    ("scaled-down", "scale deployment/redis-proxy --replicas=2", lambda p: scaled(p, "deployment/redis-proxy", 0, 2)),
]
