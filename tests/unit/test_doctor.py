"""`doctor`: every cause from its facts, causes before what follows, probes against a real Redis, no secrets."""

from __future__ import annotations

import copy
import hashlib
import json
import socket
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pods
import pytest
import redis as redis_py
from program import config, declare
from rich.console import Console

from infra.credentials import internal_keys
from infra.redis import conf
from infra.release import Release
from infra.settings import parse
from ops import doctor, kube, tls
from ops.doctor import gather, inside, policy
from ops.doctor.look import Look, Object, Redis, Secret
from ops.doctor.model import BROKEN, RISK, Finding, Report, sort
from ops.errors import OpsError
from ops.foreign import Field, Touched
from ops.locks import Lock
from ops.promote.records import Record

NOW = datetime(2026, 11, 25, 8, tzinfo=UTC)
SPACE = "session-store"
LIMIT = conf.maxmemory(parse(config()))
PASSWORD, SESSION = "the-password-of-redis", "signs-the-cookies,signs-them-next"
CA = tls.make_ca(NOW - timedelta(days=9))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def leaf(names: tuple[str, ...] = (), days: int = 90, begin: datetime = NOW) -> dict[str, bytes]:
    pair = tls.make_leaf(CA, names or tls.issued_names("redis", SPACE), begin, days)
    return {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": CA.certificate}


def a_pod(name: str, template: Object, owner: str, **status: Any) -> dict[str, Any]:
    spec = copy.deepcopy(dict(template["spec"]))
    spec["nodeName"] = "node-1"
    containers = [
        {"name": c["name"], "ready": True, "restartCount": 0, "state": {"running": {}}} for c in spec["containers"]
    ]
    return {
        "metadata": {
            "name": name,
            "namespace": SPACE,
            "labels": dict(template["metadata"]["labels"]),
            "annotations": {"session-store/secrets": "one"},
            "ownerReferences": [{"kind": owner, "name": name.rpartition("-")[0]}],
        },
        "spec": spec,
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": containers,
            **status,
        },
    }


def a_slice(service: str, pods_: list[dict[str, Any]]) -> dict[str, Any]:
    endpoints = [{"targetRef": {"name": p["metadata"]["name"]}, "conditions": {"ready": True}} for p in pods_]
    labels = {"kubernetes.io/service-name": service}
    return {"metadata": {"name": f"{service}-x", "labels": labels}, "ports": [{"port": 6379}], "endpoints": endpoints}


def named(name: str, **rest: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **rest}


def an_api() -> dict[str, Any]:
    """What `probe.js` says in a pod that is well."""
    env = {"REDIS_HOST": "redis", "REDIS_PORT": "6379", "REDIS_TLS": "true", "SESSION_COOKIE_SECURE": "false"}
    return {
        "now": 0,
        "env": env,
        "password": sha(PASSWORD),
        "sessionSecrets": [sha(part) for part in SESSION.split(",")],
        "readyz": {"status": 200, "body": '{"status": "ready"}'},
        "dns": {"address": "10.96.0.7"},
        "nameServers": ["nameserver 10.96.0.10"],
        "tcp": {"ok": True},
        "tls": {"ok": True, "servername": "redis"},
        "auth": "+OK",
        "write": ":0",
    }


def a_redis(**info: str) -> Redis:
    told = {"role": "master", "loading": "0", "used_memory": "2000000", "aof_last_write_status": "ok", **info}
    limits = {"maxmemory": str(LIMIT), "maxmemory-policy": "noeviction"}
    known = [sha(PASSWORD)]
    return Redis("NOAUTH", "", ["PONG"], told, limits, known, list(known), (800, 1000), [], [])


def healthy(**changes: Any) -> Look:
    """A stack that is well, its objects as the program declares them."""
    changes = {"sessions": {"secureCookie": False}, **changes}
    declared = declare(config(**changes))
    look = Look("dev", parse(config(**changes)), NOW)
    redis = look.settings.redis
    lists: dict[str, list[Any]] = {}
    kinds = {"Service": "services", "Deployment": "deployments", "StatefulSet": "statefulsets"}
    kinds |= {"NetworkPolicy": "policies", "PodDisruptionBudget": "budgets", "HorizontalPodAutoscaler": "scalers"}
    for (kind, _), made in declared.objects.items():
        if kind in kinds:
            item = copy.deepcopy(made)
            item["metadata"].setdefault("namespace", SPACE)
            if kind == "Deployment":
                item["spec"].setdefault("replicas", 2)  # what an autoscaler put there
            lists.setdefault(kinds[kind], []).append(item)
            look.books.declared.append((kind, item["metadata"]["name"]))
    for service in lists["services"]:
        service["spec"].setdefault("clusterIP", "10.96.0.7")
    api = [a_pod(f"api-{i}", declared.pod("Deployment", "api"), "ReplicaSet") for i in (1, 2)]
    stateful = "redis-ha" if look.sentinel else "redis"
    count = redis.replicas if look.sentinel else 1
    members = [a_pod(f"{stateful}-{i}", declared.pod("StatefulSet", stateful), "StatefulSet") for i in range(count)]
    for pod in members:
        claim = f"data-{pod['metadata']['name']}"
        pod["spec"]["volumes"].append({"name": "data", "persistentVolumeClaim": {"claimName": claim}})
        lists.setdefault("claims", []).append(
            named(claim, spec={"storageClassName": "fast"}, status={"phase": "Bound"})
        )
    servers = members
    if look.sentinel:
        servers = [a_pod(f"redis-proxy-{i}", declared.pod("Deployment", "redis-proxy"), "ReplicaSet") for i in (1, 2)]
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    dns = named("coredns-1", spec={"containers": []}, status={"phase": "Running"})
    dns["metadata"] |= {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    lists |= {
        "pods": [*api, *members, *(servers if look.sentinel else [])],
        "slices": [a_slice("redis", servers), a_slice("api", api)],
        "events": [],
        "classes": [named("fast")],
        "nodes": [named("node-1", status=ready)],
        "namespaces": [named("kube-system"), named(SPACE)],
        "dns services": [named("kube-dns")],
        "dns pods": [dns],
        "dns slices": [a_slice("kube-dns", [dns])],
    }
    look.lists = lists
    look.secrets = {
        "redis-secret": Secret({"password": PASSWORD.encode()}, {"password": "pulumi-1, 2026-11-24 08:00 UTC"}),
        "api-session-secret": Secret({"session-secret": SESSION.encode()}),
        "redis-tls": Secret(leaf()),
    }
    if keys := internal_keys(look.settings):
        look.secrets["redis-internal"] = Secret(dict.fromkeys(keys, b"among-themselves"))
    look.api = {pod["metadata"]["name"]: an_api() for pod in api}
    look.redis = {pod["metadata"]["name"]: a_redis() for pod in members}
    look.clocks = {"node node-1": 0.0, "pod api-1": 0.0, "pod api-2": 0.1}
    if look.sentinel:
        for pod in list(look.redis)[1:]:
            look.redis[pod].info |= {"role": "slave", "master_link_status": "up", "master_host": "redis-ha-0.x"}
        for one in look.redis.values():
            one.sentinel = ["redis-ha-0.redis-headless", "6379", "OK 3 usable Sentinels."]
        up = {"redis-0": 1, "names-0": 3, "redis-1": 0, "names-1": 0}
        look.proxies = {pod["metadata"]["name"]: dict(up) for pod in servers}
    return look


SENTINEL = {"redis": {"mode": "sentinel", "proxyImage": f"haproxy@sha256:{'1' * 64}"}}


@pytest.mark.parametrize(
    "changes", [{}, SENTINEL, {"tls": {"enabled": False}}, {"api": {"autoscaling": {"maxReplicas": 4}}}]
)
def test_a_healthy_stack_has_no_finding(changes: dict[str, Any]) -> None:
    look = healthy(**changes)
    if not look.settings.tls.enabled:
        for answer in look.api.values():
            answer["env"]["REDIS_TLS"] = "false"
    assert doctor.examine(look) == []


# -- one cause each

Break = Callable[[Look], Any]


def item(look: Look, kind: str, name: str) -> Any:
    found = look.named(kind, name)
    assert found is not None
    return found


def remove(kind: str, name: str) -> Break:
    def change(look: Look) -> None:
        look.lists[kind] = [one for one in look.of(kind) if one["metadata"]["name"] != name]

    return change


def put(kind: str, name: str, *path: Any) -> Break:
    """path: keys, the last of them the value."""

    def change(look: Look) -> None:
        value = item(look, kind, name)
        for key in path[:-2]:
            value = value[key]
        value[path[-2]] = path[-1]

    return change


def answers(step: str, value: Any, *pods_: str) -> Break:
    def change(look: Look) -> None:
        for name in pods_ or list(look.api):
            look.api[name][step] = value

    return change


def env(**values: str) -> Break:
    return lambda look: [answer["env"].update(values) for answer in look.api.values()]


def state(pod: str, **states: Any) -> Break:
    """The first container of a pod is in that state, and the pod is not ready."""

    def change(look: Look) -> None:
        found = item(look, "pods", pod)
        found["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
        found["status"]["containerStatuses"][0] |= {"ready": False, **states}
        look.api.pop(pod, None)
        look.redis.pop(pod, None)

    return change


def redis(pod: str = "redis-0", **fields: Any) -> Break:
    def change(look: Look) -> None:
        for name, value in fields.items():
            old = getattr(look.redis[pod], name)
            setattr(look.redis[pod], name, {**old, **value} if isinstance(old, dict) else value)

    return change


def secret(name: str, by: str = "kubectl-patch", **values: bytes) -> Break:
    def change(look: Look) -> None:
        keys = {
            key.replace("_", "-") if key.startswith("session") else key.replace("_", "."): v
            for key, v in values.items()
        }
        look.secrets[name].data.update(keys)
        look.secrets[name].managers.update(dict.fromkeys(keys, f"{by}, 2026-11-25 07:00 UTC"))

    return change


def both(*breaks: Break) -> Break:
    return lambda look: [change(look) for change in breaks]


NO_NAME = {"code": "ENOTFOUND", "message": "getaddrinfo ENOTFOUND redis"}
REFUSED = {"code": "ECONNREFUSED", "message": "connect ECONNREFUSED"}
PULL = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
KILLED = {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-11-25T07:59:00Z"}}
DNS_DOWN = both(
    lambda look: look.lists["dns slices"].clear(),
    answers("dns", {"code": "EAI_AGAIN", "message": ""}),
    lambda look: [answer.pop("tcp") for answer in look.api.values()],
)
UNTOLD = {
    "type": "ScalingActive",
    "status": "False",
    "reason": "FailedGetResourceMetric",
    "message": "no metrics known",
}
CAUSES: list[tuple[str, Break, str, str]] = [
    # id, what is broken, a part of the evidence, a part of the fix
    ("namespace-missing", lambda look: setattr(look, "namespace", None), "not found", "ops up --stack dev --refresh"),
    (
        "node-down",
        put("nodes", "node-1", "status", "conditions", [{"type": "Ready", "status": "Unknown"}]),
        "Ready is Unk",
        "drain",
    ),
    ("workload-missing", remove("statefulsets", "redis"), "no redis", "ops up"),
    (
        "scaled-down",
        put("deployments", "api", "spec", "replicas", 0),
        "spec.replicas 0",
        "scale deployment/api --replicas=2",
    ),
    ("image-pull", state("api-1", state=PULL), "ImagePullBackOff", "ops up --stack dev"),
    ("secret-missing", lambda look: look.secrets.pop("api-session-secret"), "not found", "ops up"),
    ("pvc-pending", put("claims", "data-redis-0", "status", "phase", "Pending"), "storageClassName fast", "delete pvc"),
    ("pvc-missing", remove("claims", "data-redis-0"), "no data-redis-0", "ops restore"),
    ("oom-killed", state("api-1", state=KILLED), "terminated.reason OOMKilled", "api.memory"),
    (
        "oom-killed",
        lambda look: look.logs.update({"redis-0 redis": "redis-server ended with code 137"}),
        "137",
        "redis.memory",
    ),
    (
        "pod-evicted",
        lambda look: item(look, "pods", "redis-0")["status"].update(phase="Failed", reason="Evicted"),
        "Evicted",
        "delete",
    ),
    (
        "pvc-full",
        redis(info={"aof_last_write_status": "err"}, disk=(1, 1000)),
        "aof_last_write_status:err",
        "redis.storage.size",
    ),
    ("aof-damaged", redis(refused="appendonly.aof.1 is damaged at offset 9", info={}), "offset 9", "ops restore"),
    (
        "api-wiring",
        both(env(REDIS_HOST="nowhere"), answers("dns", NO_NAME)),
        "REDIS_HOST=nowhere, declared redis",
        "ops drift",
    ),
    ("dns-down", DNS_DOWN, "0 ready endpoints", "rollout restart deployment/coredns"),
    ("service-missing", both(remove("services", "redis"), answers("dns", NO_NAME)), "no redis", "ops up"),
    (
        "service-selector",
        both(put("services", "redis", "spec", "selector", "app", "no"), put("slices", "redis-x", "endpoints", [])),
        "app=no",
        "ops drift",
    ),
    (
        "service-wrong-pods",
        lambda look: look.lists.update(slices=[a_slice("redis", look.api_pods())]),
        "api-1, api-2",
        "ops drift",
    ),
    ("service-port", put("services", "redis", "spec", "ports", 0, "targetPort", 6380), "targetPort 6380", "ops drift"),
    ("service-port", put("services", "redis", "spec", "ports", 0, "port", 1234), "port 1234", "ops drift"),
    ("dns-wrong-answer", answers("dns", {"address": "10.1.2.3"}), "clusterIP 10.96.0.7", "rollout restart"),
    ("network-policy", put("policies", "redis", "spec", "ingress", []), "redis allows nothing", "ops drift"),
    (
        "network-policy",
        put("policies", "api", "spec", "egress", 1, "to", 0, "podSelector", "matchLabels", {"app": "x"}),
        "api (Egress)",
        "ops",
    ),
    (
        "dns-lookup",
        answers("dns", {"code": "EAI_AGAIN", "message": ""}, "api-1"),
        "nameserver 10.96.0.10",
        "kube-system",
    ),
    (
        "tls-name",
        secret("redis-tls", **{k.replace(".", "_"): v for k, v in leaf(("other",)).items()}),
        "does not cover redis",
        "--renew",
    ),
    (
        "tls-expired",
        secret("redis-tls", **{k.replace(".", "_"): v for k, v in leaf(begin=NOW - timedelta(99)).items()}),
        "expired on",
        "--renew",
    ),
    ("tls-ca", secret("redis-tls", ca_crt=tls.make_ca(NOW).certificate), "not issued by ca.crt", "--renew"),
    ("tls-ca", answers("tls", {"code": "SELF_SIGNED_CERT_IN_CHAIN", "servername": "redis"}), "SELF_SIGNED", "--renew"),
    ("tls-key", secret("redis-tls", tls_key=leaf()["tls.key"]), "does not belong", "--renew"),
    (
        "tls-expiring",
        secret("redis-tls", **{k.replace(".", "_"): v for k, v in leaf(days=5).items()}),
        "expires in",
        "--renew",
    ),
    ("tls-not-reloaded", answers("ca", "AB:CD"), "its CA is abcd", "ops rotate certificates"),
    ("wrong-password", secret("redis-secret", password=b"edited"), "kubectl-patch", "ops up --stack dev --refresh"),
    (
        "wrong-password",
        both(
            redis(logins=["NOAUTH Authentication required."], passwords=[]),
            lambda look: look.redis["redis-0"].info.clear(),
        ),
        "none of its files",
        "delete pod redis-0",
    ),
    (
        "half-rotation",
        answers("password", sha("the-one-before"), "api-2"),
        "api-2: its REDIS_PASSWORD is another",
        "ops rotate password",
    ),
    ("loading", redis(info={"loading": "1", "loading_eta_seconds": "40"}), "loading:1 loading_eta", "wait"),
    ("maxmemory", redis(info={"used_memory": str(LIMIT)}), f"used_memory:{LIMIT}", "redis.memory"),
    ("maxmemory", redis(config={"maxmemory": "1000000"}), f"{LIMIT} is declared", "delete pod redis-0"),
    ("eviction", redis(config={"maxmemory-policy": "allkeys-lru"}), "allkeys-lru", "delete pod redis-0"),
    (
        "crash-loop",
        both(
            state("api-1", state={"waiting": {"reason": "CrashLoopBackOff"}}, restartCount=4),
            lambda look: look.logs.update({"api-1 api": "Cannot start: 1 of"}),
        ),
        "log: Cannot start",
        "--previous",
    ),
    ("memory-store", env(SESSION_STORE="memory"), "SESSION_STORE=memory", "ops drift"),
    ("cookie-secure", env(SESSION_COOKIE_SECURE="true"), "TRUST_PROXY not set", "ops drift"),
    (
        "session-secret-mismatch",
        answers("sessionSecrets", [sha("another")], "api-2"),
        "does not accept the cookies",
        "rollout restart",
    ),
    ("session-secret-mismatch", secret("api-session-secret", session_secret=b"new"), "signs with a secret", "ops up"),
    (
        "session-without-end",
        redis(sessions=[("ctmd:sess:abcdefghij", -1, '{"user": 1}')]),
        "as ctmd:sess:abcdef…",
        "ops sessions drop --without-end",
    ),
    (
        "save-uninitialized",
        redis(sessions=[("ctmd:sess:abcdefghij", 60, '{"cookie": {}}')]),
        "only a cookie",
        "saveUninitialized",
    ),
    ("clock-skew", lambda look: look.clocks.update({"node node-1": 600.0}), "node node-1: +600 s", "timedatectl"),
    ("no-connection", both(answers("tcp", REFUSED)), "ECONNREFUSED", "endpointslices"),
    ("api-not-ready", both(state("api-1"), state("api-2")), "condition Ready False", "logs api-1"),
    ("changed-by-hand", remove("budgets", "api"), "no api", "ops drift dev --fix"),
    (
        "autoscaler-no-metrics",
        lambda look: look.lists.update(
            scalers=[named("api", spec={"scaleTargetRef": {"name": "api"}}, status={"conditions": [UNTOLD]})]
        ),
        "no metrics known",
        "metrics-server",
    ),
]


@pytest.mark.parametrize(("cause", "change", "evidence", "fix"), CAUSES)
def test_every_cause_is_named_with_its_evidence_and_its_fix(cause: str, change: Break, evidence: str, fix: str) -> None:
    look = healthy()
    change(look)
    found = doctor.examine(look)
    assert [one.id for one in found] == [cause]
    assert evidence in "\n".join(found[0].evidence)
    assert fix in found[0].fix


def silent(*members: int) -> Break:
    return lambda look: [setattr(look.redis[f"redis-ha-{i}"], "sentinel", []) for i in members]


SENTINEL_CAUSES: list[tuple[str, Break, str]] = [
    ("sentinel-quorum", silent(1, 2), "redis-ha-1: no answer"),
    (
        "sentinel-quorum",
        both(redis("redis-ha-1", sentinel=["redis-ha-1"]), redis("redis-ha-2", sentinel=["redis-ha-2"])),
        "master redis-ha-2",
    ),
    ("sentinel-silent", silent(2), "redis-ha-2: no answer"),
    ("no-master", redis("redis-ha-0", info={"role": "slave", "master_link_status": "up"}), "redis-ha-0: role:slave"),
    ("two-masters", redis("redis-ha-1", info={"role": "master"}), "redis-ha-1: role:master"),
    ("replica-link-down", redis("redis-ha-1", info={"master_link_status": "down"}), "master_link_status:down"),
    (
        "proxy-no-master",
        lambda look: look.proxies.update({"redis-proxy-1": {"redis-0": 0, "names-0": 3}}),
        "masters up: none",
    ),
    ("scaled-down", put("statefulsets", "redis-ha", "spec", "replicas", 1), "spec.replicas 1"),
    ("network-policy", put("policies", "redis", "spec", "ingress", 1, "ports", []), ""),
]


@pytest.mark.parametrize(("cause", "change", "evidence"), SENTINEL_CAUSES[:-1])
def test_every_cause_in_sentinel_mode(cause: str, change: Break, evidence: str) -> None:
    look = healthy(**SENTINEL)
    change(look)
    found = doctor.examine(look)
    assert [one.id for one in found] == [cause]
    assert evidence in "\n".join(found[0].evidence)


def test_what_follows_is_told_under_its_cause() -> None:
    look = healthy()
    both(remove("services", "redis"), answers("dns", NO_NAME), state("api-1", state={"running": {}}))(look)
    (found,) = doctor.examine(look)
    assert (found.id, found.severity) == ("service-missing", BROKEN)
    assert [one.id for one in found.follows] == ["dns-lookup", "changed-by-hand", "api-not-ready"]
    out = StringIO()
    report = Report("dev", "c", SPACE, NOW, [found], ["nodes: lacks a right"])
    report.show(Console(file=out, width=300))
    text = out.getvalue()
    assert text.index("✗ Service redis is missing") < text.index("so:   The API's pod cannot resolve redis")
    assert "Next: `python -m ops up --stack dev --refresh`" in text
    assert "not seen: nodes: lacks a right" in text


def test_a_broken_stack_is_one_finding_per_cause_however_much_follows() -> None:
    look = healthy()
    both(
        answers("auth", "-WRONGPASS invalid username-password pair"),
        answers("readyz", {"status": 503, "body": '{"reason": "WRONGPASS: Redis refuses"}'}),
        secret("redis-secret", password=b"edited"),
        redis(passwords=[sha("edited")], mounted=[sha("edited")]),
        state("redis-0"),
    )(look)
    touched = Touched(
        "urn", "v1", "Secret", SPACE, "redis-secret", "1", (Field("/data/password", "ZWRpdGVk", "kubectl", True),)
    )
    look.books.touched = [touched]
    (found,) = doctor.examine(look)
    assert found.id == "wrong-password"
    assert {one.id for one in found.follows} == {"changed-by-hand", "pod-not-ready", "no-connection"}
    shown = json.dumps(found.as_json())
    assert "ZWRpdGVk" not in shown
    assert "edited by hand" in found.what
    assert PASSWORD not in shown
    assert sha(PASSWORD) not in shown


def test_a_change_by_hand_explains_what_it_broke() -> None:
    look = healthy()
    answers("tcp", REFUSED)(look)
    fields = (Field("/spec/template/spec/containers/0/env/9", {"name": "A", "value": "b"}, "kubectl-edit"),)
    look.books.touched = [Touched("urn", "apps/v1", "Deployment", SPACE, "api", "1", fields)]
    (found,) = doctor.examine(look)
    assert (found.id, found.severity) == ("changed-by-hand", BROKEN)
    assert found.evidence == ("spec.template.spec.containers.0.env.9: A=b (set by kubectl-edit)",)


@pytest.mark.parametrize(
    ("changes", "key"),
    [(SENTINEL, "internal"), ({"metrics": {"exporterImage": f"exporter@sha256:{'1' * 64}"}}, "monitor")],
)
def test_the_secret_of_the_pods_among_themselves_is_wanted(changes: Any, key: str) -> None:
    look = healthy(**changes)
    assert doctor.examine(look) == []
    look.secrets["redis-internal"].data.pop(key)
    (found,) = doctor.examine(look)
    assert (found.id, found.what) == ("secret-missing", f"Secret redis-internal has no {key}")


def test_without_its_namespace_nothing_is_there_and_that_is_one_finding() -> None:
    look = healthy(**SENTINEL)
    look.namespace, look.lists, look.secrets = None, {kind: [] for kind in look.lists}, {}
    look.api, look.redis, look.proxies, look.books.declared = {}, {}, {}, []
    (found,) = doctor.examine(look)
    assert found.id == "namespace-missing"
    assert len(found.follows) > 3


def test_a_pod_that_does_not_end_and_the_stack_without_it() -> None:
    look = healthy()
    item(look, "pods", "redis-0")["metadata"]["deletionTimestamp"] = "2026-11-25T07:50:00Z"
    look.redis.clear()
    (found,) = doctor.examine(look)
    assert found.id == "pod-stuck"
    assert "Redis has no pod" in [one.what for one in found.follows]


def test_locks_and_overrides_are_told(tmp_path: Path) -> None:
    look = healthy()
    ended = subprocess.Popen(["true"])
    ended.wait()
    look.books.locks = [Lock(tmp_path / "lock", ended.pid, socket.gethostname(), "ada", "today")]
    release = Release.model_validate(
        {"from": "dev", "program": "1", "commit": "ab" * 20, "images": {}, "settings_hash": "cd" * 8}
    )
    record = Record("staging", "promotion", release, None, override="login was down", refusals=["no evidence"])
    look.books.unproven = [record]
    lock, override = doctor.examine(look)
    assert (lock.id, override.id) == ("stale-lock", "override-unproven")
    assert "ada" in lock.evidence[0]
    assert "login was down" in override.what


def test_a_rotation_that_was_left_is_told() -> None:
    look = healthy(credentials={"passwordGeneration": 3, "oldestPassword": 2})
    (found,) = doctor.examine(look)
    assert (found.id, found.severity) == ("rotation-unfinished", RISK)


def test_what_could_not_be_seen_is_no_finding() -> None:
    look = healthy()
    look.lists = {"pods": look.lists["pods"]}
    look.api, look.redis, look.clocks, look.books.declared = {}, {}, {}, []
    assert doctor.examine(look) == []
    assert "as far as can be seen from here" in Report("dev", "c", SPACE, NOW, [], ["services: no right"]).verdict


def test_nothing_follows_from_what_comes_after_it() -> None:
    late = Finding("late", "redis", "late", (), "fix")
    early = Finding("early", "api", "early", (), "fix", because=("late",))
    assert [one.id for one in sort([early, late])] == ["early", "late"]
    assert [[each.id for each in one.follows] for one in sort([late, early])] == [["early"]]
    again = Finding("late", "redis", "late", ("seen",), "fix", RISK)
    assert [one.severity for one in sort([again, early])] == [BROKEN], "users notice what follows"


# -- policies


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {"a": "1"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "2"}}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {}, True),
    ],
)
def test_selectors(selector: dict[str, Any], labels: dict[str, str], expected: bool) -> None:
    assert policy.matches(selector, labels) is expected


CLIENT = {"metadata": {"name": "c", "namespace": "a", "labels": {"app": "c"}}, "status": {"podIP": "10.1.0.9"}}
SERVER = {
    "metadata": {"name": "s", "namespace": "a", "labels": {"app": "s"}},
    "spec": {"containers": [{"ports": [{"name": "redis", "containerPort": 6379}]}]},
}


@pytest.mark.parametrize(
    ("rule", "admits"),
    [
        ({}, True),
        ({"from": [{"podSelector": {"matchLabels": {"app": "c"}}}]}, True),
        ({"from": [{"podSelector": {"matchLabels": {"app": "x"}}}]}, False),
        ({"from": [{"namespaceSelector": {"matchLabels": {"team": "x"}}}]}, True),
        ({"from": [{"namespaceSelector": {"matchLabels": {"team": "y"}}}]}, False),
        ({"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}, True),
        ({"from": [{"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.0.0/24"]}}]}, False),
        ({"ports": [{"port": 6000, "endPort": 6400}]}, True),
        ({"ports": [{"port": 6000}]}, False),
        ({"ports": [{"port": "redis"}]}, True),
        ({"ports": [{"protocol": "UDP", "port": 6379}]}, False),
    ],
)
def test_policies_by_the_rules_of_the_api(rule: dict[str, Any], admits: bool) -> None:
    spec = {"podSelector": {"matchLabels": {"app": "s"}}, "ingress": [rule]}
    one = {"metadata": {"name": "p", "namespace": "a"}, "spec": spec}
    flow = policy.Flow(policy.End(CLIENT, {"team": "x"}), policy.End(SERVER, {"team": "x"}), 6379)
    assert (policy.refusals([one], flow) == []) is admits
    assert policy.refusals([], flow) == []


# -- the probes


def test_the_probe_in_a_redis_pod_says_what_redis_is(tmp_path: Path) -> None:
    with pods.standalone(tmp_path, "a-password") as pod:
        client = pod.client()
        client.set("ctmd:sess:for-ever", '{"user": 1}')
        client.set("ctmd:sess:visitor", '{"cookie": {}}', ex=1000)
        client.set("other:key", "x")
        with pytest.raises(redis_py.AuthenticationError):
            pod.client("wrong").ping()  # counted by INFO
        script = Path(inside.__file__).with_name("probe.sh").read_text()
        (Path(pod.place.conf) / "doctor.sh").write_text(script)
        told = pod.run("doctor.sh", "0", "ctmd:sess:")
        found, clock = inside.parse(told.stdout)
        pod.kill()
        dead, _ = inside.parse(pod.run("doctor.sh", "0", "ctmd:sess:").stdout)
    assert "a-password" not in told.stdout
    assert found.ping.startswith("NOAUTH")
    assert found.logins == ["PONG", "PONG"]
    assert found.info["role"] == "master"
    assert found.config["maxmemory-policy"] == "noeviction"
    assert found.passwords == found.mounted == [sha("a-password")]
    assert found.disk is not None
    (forever, visitor) = sorted(found.sessions)
    assert forever == ("ctmd:sess:for-ever", -1, '{"user": 1}')
    assert (visitor[0], visitor[2]) == ("ctmd:sess:visitor", '{"cookie": {}}')
    assert 0 < visitor[1] <= 1000
    assert clock is not None
    assert "Could not connect" in dead.ping
    assert dead.info == {}


def ask(port: int, ca: Path | None, **changes: str) -> dict[str, Any]:
    """What the probe says on this machine, in a process with a pod's environment."""
    given = {"REDIS_HOST": "localhost", "REDIS_PORT": str(port), "REDIS_PASSWORD": "a-password", "API_PORT": "1"}
    given |= {"REDIS_TLS": "true", "REDIS_TLS_CA": str(ca)} if ca else {}
    given |= {"API_SESSION_SECRET": "x,y", "PATH": "/usr/bin:/bin:/usr/local/bin", **changes}
    script = Path(inside.__file__).with_name("probe.js").read_text()
    done = subprocess.run(["node", "-e", script], env=given, capture_output=True, text=True, timeout=60, check=True)
    assert "a-password" not in done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_probe_in_an_api_pod_goes_as_far_as_it_gets(tmp_path: Path) -> None:
    with pods.standalone(tmp_path, "a-password") as pod:
        ca, port = Path(pod.place.secrets) / "redis-tls" / "ca.crt", pod.place.port
        well = ask(port, ca, REDIS_HOST="127.0.0.1")
        assert (well["auth"], well["write"]) == ("+OK", ":0")
        assert well["password"] == sha("a-password")
        assert well["sessionSecrets"] == [sha("x"), sha("y")]
        assert ask(port, ca, REDIS_HOST="127.0.0.1", REDIS_PASSWORD="wrong")["auth"].startswith("-WRONGPASS")
        assert ask(port, ca, REDIS_TLS_SERVERNAME="elsewhere")["tls"]["code"] == "ERR_TLS_CERT_ALTNAME_INVALID"
        other = tmp_path / "other.crt"
        other.write_bytes(tls.make_ca(NOW).certificate)
        assert ask(port, other, REDIS_HOST="127.0.0.1")["tls"]["code"] == "DEPTH_ZERO_SELF_SIGNED_CERT"
        plain = ask(port, None, REDIS_HOST="127.0.0.1")
        assert plain["auth"]["code"] == "CLOSED"
    assert ask(port, ca, REDIS_HOST="127.0.0.1")["tcp"]["code"] == "ECONNREFUSED"
    assert ask(port, ca, REDIS_HOST="no-such-host.invalid")["dns"]["code"] in ("ENOTFOUND", "EAI_AGAIN")
    assert "dns" not in ask(port, ca, SESSION_STORE="memory")


def test_proxies_are_read_from_their_metrics() -> None:
    lines = [f'haproxy_backend_active_servers{{proxy="{name}"}} {up}' for name, up in (("redis-0", 1), ("names-0", 3))]
    assert dict(inside.ACTIVE.findall("\n".join(["# TYPE x gauge", *lines]))) == {"redis-0": "1", "names-0": "3"}


# -- looking


class Api:
    """As much of a client as is cloned."""

    configuration = None


def test_a_question_that_fails_is_told_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather.kubernetes.client, "ApiClient", lambda _configuration: Api())
    monkeypatch.setattr(gather, "PATIENCE", 0.5)
    look = Look("dev", parse(config()))
    never = pytest.importorskip("threading").Event()

    def fails(_cluster: Any) -> None:
        raise ZeroDivisionError("odd\nthing")

    asked = {"good": lambda _cluster: 1, "bad": fails, "slow": lambda _cluster: never.wait(20)}
    cluster = kube.Cluster("k", "c", "https://x", Api())
    assert gather._together(cluster, asked, look) == {"good": 1}
    assert sorted(look.unseen) == ["bad: odd thing", "slow: no answer within 0 s"]
    never.set()


def test_clocks_are_compared_with_how_long_the_answer_took() -> None:
    assert gather._difference(100.0, 99.0, 101.0) == 0
    assert gather._difference(160.0, 99.0, 101.0) == 59
    assert gather._difference(90.0, 99.0, 101.0) == -9


def test_a_cluster_that_cannot_be_reached_is_one_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    configuration = gather.kubernetes.client.Configuration(host=f"https://127.0.0.1:{port}")
    configuration.retries = False
    api = gather.kubernetes.client.ApiClient(configuration)
    with pytest.raises(OpsError, match=r"https://127.0.0.1:\d+ \(context c\) cannot be reached"):
        gather.reach(kube.Cluster("k", "c", f"https://127.0.0.1:{port}", api))


def test_every_finding_is_explained_in_the_documentation() -> None:
    repo = Path(__file__).parents[2]
    source = "".join(path.read_text() for path in sorted((repo / "ops" / "doctor").glob("*.py")))
    text = (repo / "docs" / "doctor.md").read_text()
    ids = {cause for cause, *_ in CAUSES} | {cause for cause, *_ in SENTINEL_CAUSES}
    assert {one for one in ids if f'"{one}"' not in source} == set()
    assert {one for one in ids if f"### {one}" not in text} == set()
