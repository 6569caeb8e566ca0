"""What the program declares for a configuration: the contract of every resource."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import yaml
from program import API_IMAGE, REDIS_IMAGE, Declared, config, declare

from infra import release as releases
from infra.certificates import dns_names
from infra.settings import parse
from ops.promote.pins import of_stage

MODES = {
    "default": config(),
    "plain": config(tls={"enabled": False}, redis={"appendonly": False}),
    "external": config(redis={"image": ..., "mode": "external", "host": "cache.example.org", "port": 6380}),
    "patched": config(api={"image": ..., "existingDeployment": "ctmd-api", "container": "ctmd"}),
}


@pytest.fixture(scope="module")
def stacks() -> dict[str, Declared]:
    return {name: declare(values) for name, values in MODES.items()}


def pods_of(declared: Declared) -> list[dict[str, Any]]:
    return [o["spec"]["template"] for (kind, _), o in declared.objects.items() if kind in {"StatefulSet", "Deployment"}]


@pytest.mark.parametrize("mode", ["default", "plain", "external"])
def test_every_pod_fits_pod_security_restricted(stacks: dict[str, Declared], mode: str) -> None:
    pods = pods_of(stacks[mode])
    assert pods
    for pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "@sha256:" in container["image"]
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


def test_openshift_may_choose_the_user() -> None:
    declared = declare(config(redis={"runAsUser": None}, api={"runAsUser": None}))
    for pod in pods_of(declared):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["spec"]["securityContext"].keys()


@pytest.mark.parametrize("mode", MODES)
def test_generated_values_are_in_secrets_only(stacks: dict[str, Declared], mode: str) -> None:
    declared = stacks[mode]
    values = [json.dumps(o) for (kind, _), o in declared.objects.items() if kind not in {"Secret", "RandomPassword"}]
    for generated in ("redis-password-1-", "session-secret-1-"):
        for text in (generated, base64.b64encode(generated.encode()).decode()[:16]):
            assert not [v for v in values if text in v]
            assert text not in json.dumps(declared.outputs)


def test_secrets_have_the_plans_names_and_keys(stacks: dict[str, Declared]) -> None:
    secrets = {name: o["data"] for (kind, name), o in stacks["default"].objects.items() if kind == "Secret"}
    decoded = {f"{s}/{k}": base64.b64decode(v).decode() for s, data in secrets.items() for k, v in data.items()}
    assert decoded["redis-secret/password"].startswith("redis-password-1-")
    assert len(decoded["redis-secret/password"]) == 48
    assert stacks["default"].secret == {("Secret", "redis-secret"), ("Secret", "api-session-secret")}
    assert decoded["api-session-secret/session-secret"].startswith("session-secret-1-")


def test_env_is_the_plans_and_ours(stacks: dict[str, Declared]) -> None:
    assert stacks["default"].env() == {
        "NODE_ENV": "production",
        "API_PORT": "3030",
        "AUTH_ENV": "production",
        "REDIS_HOST": "redis",
        "REDIS_PORT": "6379",
        "REDIS_SESSION_DB": "0",
        "REDIS_TLS": "true",
        "REDIS_TLS_CA": "/etc/redis-tls/ca.crt",
        "REDIS_PASSWORD": "redis-secret/password",
        "API_SESSION_SECRET": "api-session-secret/session-secret",
        "SESSION_STORE": "redis",
        "SESSION_PREFIX": "ctmd:sess:",
        "SESSION_TTL_SECONDS": "43200",
        "SESSION_COOKIE_NAME": "connect.sid",
        "SESSION_COOKIE_SAMESITE": "lax",
        "SESSION_COOKIE_SECURE": "true",
        "SESSION_REQUEST_BUDGET_MS": "4000",
        "SHUTDOWN_DELAY_MS": "5000",
    }


def test_api_sees_the_ca_but_not_the_servers_key(stacks: dict[str, Declared]) -> None:
    volumes = {v["name"]: v for v in stacks["default"].pod("Deployment", "api")["spec"]["volumes"]}
    assert volumes["redis-ca"]["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


def test_append_only_redis_has_a_claim_that_can_grow(stacks: dict[str, Declared]) -> None:
    declared = stacks["default"]
    claim = declared.objects["PersistentVolumeClaim", "data-redis-0"]
    assert claim["metadata"]["name"] == "data-redis-0"
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    templates = declared.objects["StatefulSet", "redis"]["spec"]["volumeClaimTemplates"]
    assert [t["metadata"]["name"] for t in templates] == ["data"]
    assert "data" not in [v["name"] for v in declared.pod("StatefulSet", "redis")["spec"]["volumes"]]


def test_without_append_only_there_is_no_volume_claim(stacks: dict[str, Declared]) -> None:
    declared = stacks["plain"]
    assert "PersistentVolumeClaim" not in declared.kinds()
    assert "volumeClaimTemplates" not in declared.objects["StatefulSet", "redis"]["spec"]
    volumes = {v["name"]: v for v in declared.pod("StatefulSet", "redis")["spec"]["volumes"]}
    assert volumes["data"] == {"name": "data", "emptyDir": {}}


def test_without_tls_no_certificate_is_mounted(stacks: dict[str, Declared]) -> None:
    declared = stacks["plain"]
    assert declared.env()["REDIS_TLS"] == "false"
    assert "REDIS_TLS_CA" not in declared.env()
    mounted = [o for (kind, _), o in declared.objects.items() if kind in ("StatefulSet", "Deployment")]
    assert "redis-tls" not in json.dumps(mounted)


def test_external_redis_is_only_wired(stacks: dict[str, Declared]) -> None:
    declared = stacks["external"]
    assert not declared.kinds() & {"StatefulSet", "PersistentVolumeClaim", "ConfigMap"}
    assert ("Secret", "redis-secret") not in declared.objects, "its owner makes the password's Secret"
    env = declared.env()
    assert (env["REDIS_HOST"], env["REDIS_PORT"], env["REDIS_TLS"]) == ("cache.example.org", "6380", "true")
    assert "REDIS_TLS_CA" not in env, "the public CAs serve"
    assert declared.outputs["release"]["images"] == {"api": API_IMAGE}


def test_existing_deployment_gets_the_same_wiring_and_nothing_else(stacks: dict[str, Declared]) -> None:
    patched, ours = stacks["patched"], stacks["default"]
    assert "Deployment" not in patched.kinds()
    assert ("Service", "api") not in patched.objects
    patch = patched.objects["DeploymentPatch", "ctmd-api"]
    assert patch["spec"].keys() == {"template"}
    container = patched.container("DeploymentPatch", "ctmd-api")
    assert container.keys() == {"name", "env", "volumeMounts"}
    assert container["name"] == "ctmd"
    wired = patched.env("DeploymentPatch", "ctmd-api")
    assert wired == {key: value for key, value in ours.env().items() if key != "SHUTDOWN_DELAY_MS"}
    assert patch["spec"]["template"]["metadata"]["labels"] == {
        "session-store/redis-client": "true",
        "session-store/password-generation": "1",
    }


def test_a_new_generation_rolls_the_api() -> None:
    first, second = declare(config()), declare(config(credentials={"generation": 2}))
    annotations = [d.pod("Deployment", "api")["metadata"]["annotations"] for d in (first, second)]
    assert annotations[0] != annotations[1]


def test_a_changed_redis_conf_rolls_redis_only() -> None:
    first, second = declare(config()), declare(config(redis={"memory": "1Gi"}))
    annotations = [d.pod("StatefulSet", "redis")["metadata"]["annotations"] for d in (first, second)]
    assert annotations[0]["session-store/config"] != annotations[1]["session-store/config"]
    assert first.pod("Deployment", "api") == second.pod("Deployment", "api")


def test_disruption_budget_only_where_it_does_not_block_a_drain() -> None:
    assert ("PodDisruptionBudget", "api") in declare(config()).objects
    assert ("PodDisruptionBudget", "api") not in declare(config(api={"replicas": 1})).objects


def test_autoscaler_owns_the_replica_count() -> None:
    declared = declare(config(api={"autoscaling": {"minReplicas": 2, "maxReplicas": 6}}))
    assert "replicas" not in declared.objects["Deployment", "api"]["spec"]
    scaler = declared.objects["HorizontalPodAutoscaler", "api"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6)
    assert scaler["scaleTargetRef"]["name"] == "api"


def test_a_release_never_has_fewer_api_pods_and_spreads_them(stacks: dict[str, Declared]) -> None:
    spec = stacks["default"].objects["Deployment", "api"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    keys = [c["topologyKey"] for c in spec["template"]["spec"]["topologySpreadConstraints"]]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


def test_cert_manager_keeps_the_certificate() -> None:
    values = config(tls={"issuer": {"name": "internal-ca"}})
    certificate = declare(values).objects["Certificate", "redis-tls"]
    assert certificate["spec"]["secretName"] == "redis-tls"
    assert certificate["spec"]["issuerRef"]["name"] == "internal-ca"
    assert certificate["spec"]["dnsNames"] == dns_names(parse(values))
    assert "redis.session-store.svc.cluster.local" in certificate["spec"]["dnsNames"]


def test_session_secret_of_helm_is_kept() -> None:
    declared = declare(config(credentials={"createSessionSecret": False, "sessionSecret": "helm-secret"}))
    assert [name for kind, name in declared.objects if kind == "Secret"] == ["redis-secret"]
    assert declared.env()["API_SESSION_SECRET"] == "helm-secret/session-secret"


def test_outputs_say_where_and_what(stacks: dict[str, Declared]) -> None:
    outputs = stacks["default"].outputs
    assert outputs["endpoint"] == {"host": "redis", "port": 6379, "tls": True, "database": 0, "mode": "standalone"}
    assert outputs["secrets"] == {"password": "redis-secret", "session": "api-session-secret", "tls": "redis-tls"}
    assert outputs["release"]["images"] == {"redis": REDIS_IMAGE, "api": API_IMAGE}


@pytest.mark.parametrize(
    ("change", "carried"),
    [
        ({"redis": {"memory": "1Gi"}}, False),
        ({"api": {"replicas": 5}}, False),
        ({"namespace": "other"}, False),
        ({"sessions": {"ttlSeconds": 3600}}, True),
        ({"redis": {"appendonly": False}}, True),
        ({"tls": {"enabled": False}}, True),
        ({"metrics": {"enabled": False}}, True),
        ({"metrics": {"podMonitors": True, "scrapeNamespace": "observability"}}, False),
    ],
)
def test_release_hash_covers_what_promotion_carries(change: dict[str, Any], carried: bool) -> None:
    hashes = {declare(values).outputs["release"]["settings"] for values in (config(), config(**change))}
    assert (len(hashes) == 2) is carried


def test_program_runs_as_pulumi_up_runs_it(request: pytest.FixtureRequest) -> None:
    root = request.config.rootpath
    # The language host runs the folder that `main` in Pulumi.yaml names, from inside: the repository is not on the path
    script = (
        "import runpy; from program import config, declare; "
        "print(*sorted(declare(config(), lambda: runpy.run_path('.', run_name='__main__')).kinds()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(root / "tests" / "unit")}
    folder = root / yaml.safe_load((root / "Pulumi.yaml").read_text())["main"]
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"StatefulSet", "Deployment", "Secret"} <= set(done.stdout.split())


@pytest.mark.parametrize("stack", ["staging", "prod"])
def test_shipped_stacks_declare_without_a_cluster(stack: str, request: pytest.FixtureRequest) -> None:
    def read(name: str) -> dict[str, Any]:
        text = (request.config.rootpath / f"Pulumi.{name}.yaml").read_text()
        return {k.removeprefix("session-store:"): v for k, v in yaml.safe_load(text)["config"].items()}

    values = read(stack)
    if stack == "prod":  # what a promotion would write
        staging = parse(read("staging"))
        values["release"] = of_stage("staging", {"release": releases.describe(staging)}, staging, "0" * 40).as_config()
    declared = declare(values, stack=stack)
    assert declared.outputs["namespace"] == f"session-store-{stack}"
    assert declared.env()["REDIS_TLS"] == "true"
    assert declared.objects["Deployment", "api"]["spec"]["replicas"] >= 2
