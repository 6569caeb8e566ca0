"""The rules before staging and prod: our own program keeps them; who breaks one is told which, where, and the fix."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from program import DIGEST, config, declare

from ops.changes import mask
from policies.rules import RULES, Resource, Violation, check

HA: dict[str, Any] = {"redis": {"mode": "sentinel", "proxyImage": DIGEST.format("haproxy")}}
STACKS: dict[str, dict[str, Any]] = {
    "staging": config(**HA, api={"replicas": 2}, sessions={"waitReplicas": 1}, network={"apiEgressPorts": [443]}),
    "prod": config(
        **HA, api={"replicas": 3}, tls={"issuer": {"name": "ca"}}, backup={"schedule": "0 3 * * *"}, namespace="prod"
    ),
    "scaled": config(**HA, api={"autoscaling": {"minReplicas": 2, "maxReplicas": 6}}),
    "without TLS, in memory": config(
        redis={**HA["redis"], "appendonly": False}, tls={"enabled": False}, createNamespace=False
    ),
    "a managed Redis": config(redis={"image": ..., "mode": "external", "host": "cache.example.org"}),
    "an API of Helm's": config(**HA, api={"image": ..., "existingDeployment": "ctmd-api", "container": "ctmd"}),
    "OpenShift": config(redis={**HA["redis"], "runAsUser": None}, api={"runAsUser": None}),
}


def resources_of(values: dict[str, Any]) -> list[Resource]:
    return [Resource(kind, name, mask(inputs)) for kind, name, inputs in declare(values).raw]


def broken(found: list[Violation]) -> set[tuple[str, str]]:
    return {(one.rule, one.resource) for one in found}


@pytest.mark.parametrize("stack", STACKS)
def test_our_own_program_keeps_every_rule(stack: str) -> None:
    declared = resources_of(STACKS[stack])
    assert len(declared) > 8
    assert [str(one) for one in check(declared, several=True)] == []


def test_one_redis_is_enough_for_staging_only() -> None:
    declared = resources_of(config())
    assert check(declared, several=False) == []
    assert broken(check(declared, several=True)) == {("several", "StatefulSet redis")}


@pytest.mark.parametrize(
    ("change", "rule", "resource", "fix"),
    [
        ({"api": {"nodePort": 30030}}, "public", "Service api", "remove api.nodePort"),
        ({"api": {"replicas": 1}}, "several", "Deployment api", "replicas"),
        ({"api": {"autoscaling": {"minReplicas": 1, "maxReplicas": 3}}}, "several", "HorizontalPodAutoscaler api", "2"),
        ({"redis": {"mode": "standalone"}}, "several", "StatefulSet redis", "redis.mode: sentinel"),
        ({"redis": {"proxyReplicas": 1}}, "several", "Deployment redis-proxy", "replicas"),
        ({"api": {"env": {"MAIL_PASSWORD": "hunter22"}}}, "plaintext", "Deployment api", "secretKeyRef"),
        ({"api": {"env": {"DB": "postgres://api:hunter22@db/ctmd"}}}, "plaintext", "Deployment api", "secretKeyRef"),
    ],
)
def test_a_setting_that_breaks_a_rule_is_named_with_its_fix(
    change: dict[str, Any], rule: str, resource: str, fix: str
) -> None:
    values = copy.deepcopy(STACKS["prod"])
    for section, keys in change.items():
        values[section].update(keys)
        if "autoscaling" in keys:
            del values[section]["replicas"]
    found = check(resources_of(values), several=True)
    assert (rule, resource) in broken(found)
    (line,) = [str(one) for one in found if (one.rule, one.resource) == (rule, resource)][:1]
    assert resource in line
    assert fix in line
    assert "\n" not in line
    assert {one.rule for one in found} == {rule}


def test_a_secret_that_the_engine_does_not_know_as_one() -> None:
    declared = [one for one in resources_of(config()) if one.kind == "Secret"]
    plain = [Resource(one.type, one.name, {**one.props, "data": {"password": "aHVudGVyMg=="}}) for one in declared]
    assert {one.rule for one in check(plain, several=False)} == {"plaintext"}
    assert check(plain, several=False, masked=False) == []


# -- somebody else's manifests, one rule broken in each -------------------------------------------------------------

GOOD_CONTAINER: dict[str, Any] = {
    "name": "app",
    "image": DIGEST.format("app"),
    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "16Mi"}},
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    "readinessProbe": {"tcpSocket": {"port": 80}},
    "livenessProbe": {"tcpSocket": {"port": 80}},
}
GOOD_POD: dict[str, Any] = {
    "automountServiceAccountToken": False,
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
}
BUDGET = Resource(
    "kubernetes:policy/v1:PodDisruptionBudget",
    "app",
    {"spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "app"}}}},
)


def workload(
    kind: str = "apps/v1:Deployment",
    pod: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    **container: Any,
) -> Resource:
    """A workload that keeps every rule, but for what is given; `...` takes a key away."""

    def changed(good: dict[str, Any], change: dict[str, Any] | None) -> dict[str, Any]:
        return {key: value for key, value in {**good, **(change or {})}.items() if value is not ...}

    template = {
        "metadata": {"labels": {"app": "app"}},
        "spec": changed({**GOOD_POD, "containers": [changed(GOOD_CONTAINER, container)]}, pod),
    }
    if kind.endswith("CronJob"):
        inputs: dict[str, Any] = {"spec": {"jobTemplate": {"spec": {"template": template}}}}
    elif kind.endswith(":Pod"):
        inputs = template
    else:
        inputs = {"spec": {"replicas": 2, "template": template, **(spec or {})}}
    return Resource(f"kubernetes:{kind}", "app", {"metadata": {"name": "app"}, **inputs})


def config_map(**data: str) -> Resource:
    return Resource("kubernetes:core/v1:ConfigMap", "app", {"data": data})


def service(**spec: Any) -> Resource:
    return Resource("kubernetes:core/v1:Service", "app", {"spec": spec})


def env(name: str, value: str) -> Resource:
    return workload(env=[{"name": name, "value": value}])


def security(**context: Any) -> Resource:
    return workload(securityContext={**GOOD_CONTAINER["securityContext"], **context})


KEY = "-----BEGIN " + "EC PRIVATE KEY-----\nMHcCAQEE\n"
BROKEN: dict[str, list[tuple[Resource, str]]] = {
    "plaintext": [
        (env("REDIS_PASSWORD", "hunter22"), "REDIS_PASSWORD"),
        (env("SESSION_SECRET", "0123456789"), "SESSION_SECRET"),
        (env("SSH_KEY", KEY), "SSH_KEY"),
        (env("TLS_MATERIAL", KEY), "a private key"),
        (env("REDIS_URL", "rediss://:hunter22@redis:6379"), "a URL with a password"),
        (env("GREETING", "[secret]"), "env[0].value"),
        (workload(pod={"initContainers": [{**GOOD_CONTAINER, "args": ["--password=hunter22"]}]}), "init container app"),
        (workload(command=["redis-server", "--requirepass", "hunter22"]), "command"),
        (workload(command=["sh", "-c", "REDISCLI_AUTH=hunter22 redis-cli ping"]), "command"),
        (workload(livenessProbe={"exec": {"command": ["redis-cli", "-a", "hunter22", "ping"]}}), "livenessProbe"),
        (workload(lifecycle={"preStop": {"exec": {"command": ["redis-cli", "-a", "hunter22"]}}}), "preStop"),
        (workload("batch/v1:CronJob", args=["--token", "hunter22"]), "a password"),
        (config_map(**{"redis.conf": "port 0\nrequirepass hunter22\n"}), "redis.conf"),
        (config_map(**{"redis.conf": 'masterauth "hunter22"\n'}), "a password of Redis"),
        (config_map(**{"users.acl": "user api on >hunter22 ~* +@all\n"}), "a Redis user"),
        (config_map(**{"sentinel.conf": "sentinel auth-pass redis hunter22\n"}), "Sentinel"),
        (config_map(**{"app.json": '{\n  "password": "hunter22"\n}'}), "app.json"),
        (config_map(password="hunter22"), "`password`"),
        (config_map(greeting="[secret]"), "data.greeting"),
        (config_map(tls=KEY), "a private key"),
        (Resource("kubernetes:core/v1:Secret", "app", {"stringData": {"password": "hunter22"}}), "`password`"),
        (Resource("kubernetes:core/v1:SecretPatch", "app", {"data": {"password": "aHVudGVy"}}), "`password`"),
    ],
    "digest": [
        (workload(image="redis:7.4.2"), "redis:7.4.2"),
        (workload(image="redis@sha256:abc"), "without a digest"),
        (workload(image="redis:7@sha256:" + "0" * 64), "placeholder"),
        (workload(image=...), "no image"),
        (workload("batch/v1:CronJob", image="redis"), "the image redis"),
        (workload("apps/v1:DeploymentPatch", image="redis:7"), "redis:7"),
        (workload(pod={"initContainers": [{**GOOD_CONTAINER, "image": "redis"}]}), "init container app"),
    ],
    "eviction": [
        (config_map(**{"redis.conf": "maxmemory 100mb\nmaxmemory-policy allkeys-lru\n"}), "allkeys-lru"),
        (config_map(**{"redis.conf": "maxmemory 100mb\n"}), "no policy"),
        (config_map(**{"start.sh": 'redis-cli CONFIG SET maxmemory-policy "volatile-ttl"'}), "volatile-ttl"),
        (workload(args=["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"]), "volatile-lru"),
        (workload("apps/v1:StatefulSet", args=["--maxmemory 100mb"]), "no policy"),
    ],
    "several": [
        (workload(spec={"replicas": 1}), "one pod"),
        (workload(spec={"replicas": None}), "one pod"),
        (workload(spec={"replicas": 0}), "no pod"),
        (workload("core/v1:Pod"), "nobody's"),
        (workload("apps/v1:DeploymentPatch", spec={"replicas": 1}), "one pod"),
        (workload("apps/v1:StatefulSet", spec={"replicas": 1}), "one pod"),
        (workload("apps/v1:StatefulSet", name="sentinel"), "2 pods with a Sentinel"),
    ],
    "public": [
        (service(type="LoadBalancer"), "LoadBalancer"),
        (service(type="NodePort"), "NodePort"),
        (service(type="ClusterIP", externalIPs=["192.0.2.1"]), "externalIPs"),
        (Resource("kubernetes:networking.k8s.io/v1:Ingress", "app", {"spec": {}}), "publishes"),
    ],
    "resources": [
        (workload(resources=...), "requests.cpu, requests.memory, limits.memory"),
        (workload(resources={"requests": {"cpu": "1", "memory": "1Gi"}}), "no limits.memory"),
        (workload("batch/v1:CronJob", resources={"limits": {"memory": "1Gi"}}), "requests.cpu"),
        (workload(pod={"initContainers": [{**GOOD_CONTAINER, "resources": {}}]}), "init container app"),
    ],
    "probes": [
        (workload(readinessProbe=...), "no readinessProbe"),
        (workload("apps/v1:StatefulSet", livenessProbe=...), "no livenessProbe"),
        (
            workload(pod={"initContainers": [{**GOOD_CONTAINER, "restartPolicy": "Always", "livenessProbe": None}]}),
            "init container app",
        ),
    ],
    "restricted": [
        (workload(pod={"hostNetwork": True}), "Network"),
        (workload(pod={"hostPID": True}), "PID"),
        (workload(pod={"hostIPC": True}), "IPC"),
        (workload(pod={"volumes": [{"name": "node", "hostPath": {"path": "/"}}]}), "hostPath"),
        (workload(pod={"automountServiceAccountToken": ...}), "token"),
        (
            workload(
                pod={"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}
            ),
            "volume t is a token",
        ),
        (workload(pod={"securityContext": {"runAsNonRoot": True}}), "no seccomp profile"),
        (workload(pod={"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}), "running as root"),
        (workload(pod={"securityContext": {**GOOD_POD["securityContext"], "runAsUser": 0}}), "runs as root"),
        (
            workload(pod={"securityContext": {**GOOD_POD["securityContext"], "sysctls": [{"name": "kernel.x"}]}}),
            "kernel.x",
        ),
        (security(runAsNonRoot=False), "may run as root"),
        (security(seccompProfile={"type": "Unconfined"}), "Unconfined"),
        (security(appArmorProfile={"type": "Unconfined"}), "AppArmor"),
        (security(seLinuxOptions={"type": "spc_t"}), "SELinux"),
        (security(privileged=True), "privileged"),
        (security(allowPrivilegeEscalation=...), "may gain privileges"),
        (security(capabilities={}), "keeps capabilities"),
        (security(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}), "NET_ADMIN"),
        (security(procMount="Unmasked"), "/proc"),
        (workload(ports=[{"containerPort": 80, "hostPort": 80}]), "port 80"),
        (workload(securityContext=...), "may gain privileges"),
        (workload("apps/v1:DeploymentPatch", securityContext={"privileged": True}), "privileged"),
        (
            Resource(
                "kubernetes:core/v1:Namespace",
                "app",
                {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}},
            ),
            "baseline",
        ),
    ],
}
CASES = [(rule, resource, says) for rule, cases in BROKEN.items() for resource, says in cases]


def test_a_good_manifest_keeps_every_rule() -> None:
    for kind in ("apps/v1:Deployment", "apps/v1:StatefulSet", "apps/v1:DaemonSet", "batch/v1:CronJob"):
        assert check([workload(kind), BUDGET], several=True) == []


def test_every_rule_is_tried() -> None:
    assert BROKEN.keys() == RULES.keys()
    assert all(rule.why for rule in RULES.values())


@pytest.mark.parametrize(("rule", "resource", "says"), CASES, ids=[f"{rule}-{says}" for rule, _, says in CASES])
def test_who_breaks_a_rule_is_told_where_and_how_to_mend_it(rule: str, resource: Resource, says: str) -> None:
    found = check([resource, BUDGET], several=True)
    assert {one.rule for one in found} == {rule}
    assert {one.resource for one in found} == {str(resource)}
    assert any(says in one.problem for one in found), [str(one) for one in found]
    assert all(one.fix for one in found)
    assert "hunter22" not in " ".join(map(str, found)), "the message is no new place for the secret"


@pytest.mark.parametrize(
    "harmless",
    [
        env("REDIS_PASSWORD_FILE", "/run/secrets/redis/password"),
        env("KEYS", "/run/secrets/keys/internal /run/secrets/keys/internal-previous"),
        env("CACHE_PASSWORD", "$(REDIS_PASSWORD)"),
        env("SECRET_ROTATION", "true"),
        env("OAUTH_TOKEN_URL", "https://login.example.org/token"),
        env("JWT_PUBLIC_KEY", "anything"),
        env("REDIS_PASSWORD", "04da6b54-80e4-46f7-96ec-b56ff0331ba9"),
        workload(env=[{"name": "REDIS_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "p"}}}]),
        workload(command=["sh", "-c", 'REDISCLI_AUTH="$(cat /run/p)" redis-cli --pass "$P" ping']),
        config_map(**{"start.sh": 'echo "requirepass $(cat /run/p)"\nmasterauth $KEY\n'}),
        config_map(**{"haproxy.cfg": "tcp-check send '@AUTH@PING'\n"}),
        config_map(**{"redis.conf": "maxmemory 100mb\nmaxmemory-policy noeviction\n"}),
        Resource("kubernetes:core/v1:Secret", "app", {"data": {"password": "[secret]", "ca.crt": "LS0t", "empty": ""}}),
        Resource("kubernetes:cert-manager.io/v1:Certificate", "app", {"spec": {"secretName": "[secret]"}}),
        Resource("random:index/randomPassword:RandomPassword", "app", {"length": 40}),
        service(type="ClusterIP"),
        service(type="ExternalName", externalName="cache.example.org"),
        workload(image="04da6b54-80e4-46f7-96ec-b56ff0331ba9"),
        security(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
        workload("apps/v1:StatefulSet", name="sentinel", spec={"replicas": 3}, livenessProbe=..., readinessProbe=...),
        workload(pod={"initContainers": [{**GOOD_CONTAINER, "readinessProbe": None, "livenessProbe": None}]}),
        Resource(
            "kubernetes:apps/v1:DeploymentPatch",
            "theirs",
            {"spec": {"template": {"spec": {"containers": [{"name": "api", "env": [{"name": "A", "value": "b"}]}]}}}},
        ),
    ],
    ids=lambda resource: str(resource.props)[:60],
)
def test_what_is_no_violation_passes(harmless: Resource) -> None:
    assert [str(one) for one in check([harmless, BUDGET], several=True)] == []


@pytest.mark.parametrize(
    ("spec", "covered"),
    [
        ({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "app"}}}, True),
        ({"minAvailable": 1, "selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}, True),
        (
            {
                "maxUnavailable": 1,
                "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["app", "b"]}]},
            },
            True,
        ),
        ({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "other"}}}, False),
        ({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "app", "tier": "web"}}}, False),
        ({"maxUnavailable": "100%", "selector": {"matchLabels": {"app": "app"}}}, False),
        ({"minAvailable": 0, "selector": {"matchLabels": {"app": "app"}}}, False),
        ({"maxUnavailable": 1}, False),
    ],
)
def test_a_budget_must_select_the_pods_and_leave_one(spec: dict[str, Any], covered: bool) -> None:
    budget = Resource(BUDGET.type, "budget", {"spec": spec})
    found = check([workload(), budget], several=True)
    assert ([one.rule for one in found] == []) is covered
    assert check([workload(), budget], several=False) == []


def test_an_autoscaler_answers_for_the_replicas() -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "app"}

    def scaler(**spec: Any) -> Resource:
        kind = "kubernetes:autoscaling/v2:HorizontalPodAutoscaler"
        return Resource(kind, "app", {"spec": {"scaleTargetRef": target, **spec}})

    one = workload(spec={"replicas": 1})
    assert check([one, BUDGET, scaler(minReplicas=2)], several=True) == []
    unknown = "3eeb2bf0-c639-47a8-9e75-3b44932eb421"
    assert check([one, BUDGET, scaler(minReplicas=unknown)], several=True) == []
    for enough in (scaler(minReplicas=1), scaler(), scaler(minReplicas=None)):
        found = check([workload(), BUDGET, enough], several=True)
        assert [(v.rule, v.resource) for v in found] == [("several", "HorizontalPodAutoscaler app")]
