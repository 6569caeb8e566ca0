"""The kubernetes plugin asked directly, against a real API server: what it checks, plans, and says about rollouts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from control_plane import ControlPlane, FakeKubelet, wait_for
from google.protobuf.json_format import MessageToDict
from programs import pod, workload
from pulumi.runtime.proto import provider_pb2 as rpc

from toolchain.plugins.kubernetes.client import Cluster, Settings
from toolchain.plugins.kubernetes.provider import KubernetesProvider
from toolchain.plugins.kubernetes.waits.loop import NotReadyError, until_ready
from toolchain.plugins.server import InitError, PluginError
from toolchain.plugins.wire import UNKNOWN, Secret, decode, encode, plain


def urn(kind: str) -> str:
    return f"urn:pulumi:s::p::kubernetes:{kind}::name"


@pytest.fixture
def kubelet(control_plane: ControlPlane) -> Iterator[FakeKubelet]:
    with FakeKubelet(control_plane) as playing:
        yield playing


@pytest.fixture
def provider(control_plane: ControlPlane, kubelet: FakeKubelet) -> KubernetesProvider:
    made = KubernetesProvider()
    settings = {"kubeconfig": control_plane.kubeconfig.read_text(), "namespace": kubelet.namespace}
    made.Configure(rpc.ConfigureRequest(args=encode(settings)), None)
    return made


def check(provider: KubernetesProvider, kind: str, inputs: dict[str, Any], **more: Any) -> Any:
    return provider.Check(rpc.CheckRequest(urn=urn(kind), name="name", news=encode(inputs), **more), None)


@pytest.mark.parametrize(
    ("kind", "inputs", "reason"),
    [
        (
            "core/v1:Secret",
            {"data": {"p": "no base64!"}},
            "v1 Secret: data.p is not base64: put plain text into stringData",
        ),
        (
            "apps/v1:Deployment",
            {"spec": workload("a") | {"replicas": "3"}},
            "spec.replicas must be integer, not string",
        ),
        ("core/v1:Service", {"spec": {"ports": [{"name": "http"}]}}, "v1 Service: spec.ports[0].port is required"),
        (
            "apps/v1:DeploymentPatch",
            {"spec": {"replicas": 1}},
            "metadata.name is required: a patch must say which object",
        ),
        ("core/v1:ConfigMap", {"metadata": {"annotations": {"pulumi.com/waitFor": "sun"}}}, "'sun' is not understood"),
        ("core/v1:ConfigMap", {"metadata": {"generateName": "a-"}}, "metadata.generateName cannot be used"),
        ("core/v1:ConfigMap", {"metadata": "name"}, "metadata must be an object"),
        ("apps/v1:Deploiment", {}, "kind is unknown: apps/v1 Deploiment: version apps/v1 has no kind Deploiment"),
        ("policy/v7:PodDisruptionBudget", {}, "the cluster has no API version policy/v7"),
    ],
)
def test_checks(provider: KubernetesProvider, kind: str, inputs: dict[str, Any], reason: str) -> None:
    assert any(reason in failure.reason for failure in check(provider, kind, inputs).failures)


@pytest.mark.parametrize("kind", ["helm.sh/v3:Release", "yaml:ConfigFile", "kustomize:Directory", "core/v1:SecretList"])
def test_types_that_are_no_objects_are_named(provider: KubernetesProvider, kind: str) -> None:
    with pytest.raises(PluginError, match=f"kubernetes:{kind}"):
        check(provider, kind, {})


def test_functions_say_that_they_are_missing(provider: KubernetesProvider) -> None:
    with pytest.raises(PluginError, match="kubernetes:yaml:decode: the kubernetes stand-in has no functions"):
        provider.Invoke(rpc.InvokeRequest(tok="kubernetes:yaml:decode"), None)


def test_inputs_are_filled_in_and_keep_their_secrets(provider: KubernetesProvider, kubelet: FakeKubelet) -> None:
    inputs = {"stringData": {"password": Secret("hush")}, "metadata": {"labels": {"a": UNKNOWN}}}
    first = check(provider, "core/v1:Secret", inputs, randomSeed=b"seed")
    tree = decode(first.inputs)
    assert isinstance(tree["data"], Secret)
    assert plain(tree)["data"] == {"password": "aHVzaA=="}
    assert "stringData" not in tree
    assert tree["metadata"]["namespace"] == kubelet.namespace
    assert tree["metadata"]["labels"] == {"a": UNKNOWN}
    assert tree["metadata"]["name"].startswith("name-")
    again = check(provider, "core/v1:Secret", inputs, olds=first.inputs, randomSeed=b"other")
    assert MessageToDict(again.inputs) == MessageToDict(first.inputs)


def created(provider: KubernetesProvider, kind: str, inputs: dict[str, Any]) -> tuple[Any, Any]:
    """Checked inputs and outputs of a new object."""
    news = check(provider, kind, inputs).inputs
    return news, provider.Create(rpc.CreateRequest(urn=urn(kind), name="name", properties=news), None)


def diff(provider: KubernetesProvider, kind: str, inputs: dict[str, Any], changed: dict[str, Any]) -> Any:
    olds, made = created(provider, kind, inputs)
    news = check(provider, kind, changed, olds=olds).inputs
    request = rpc.DiffRequest(urn=urn(kind), id=made.id, olds=made.properties, news=news, old_inputs=olds)
    return provider.Diff(request, None)


def test_the_server_decides_what_cannot_change(provider: KubernetesProvider) -> None:
    def policy(unavailable: int) -> dict[str, Any]:
        spec = {"maxUnavailable": unavailable, "selector": {"matchLabels": {"a": "b"}}}
        return {"metadata": {"name": "p"}, "spec": spec}

    assert diff(provider, "policy/v1:PodDisruptionBudget", policy(1), policy(2)).replaces == []

    def priority(value: int) -> dict[str, Any]:
        return {"metadata": {"name": f"prio-{provider.cluster.namespace}"}, "value": value}

    answer = diff(provider, "scheduling.k8s.io/v1:PriorityClass", priority(1), priority(2))
    assert answer.replaces == ["value"]
    assert answer.deleteBeforeReplace

    def role(name: str) -> dict[str, Any]:
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        return {"roleRef": reference, "subjects": [{"kind": "ServiceAccount", "name": "x", "namespace": "default"}]}

    answer = diff(provider, "rbac.authorization.k8s.io/v1:RoleBinding", role("a"), role("b"))
    assert answer.replaces == ["roleRef.name"]
    assert not answer.deleteBeforeReplace  # the name is ours to choose


def test_a_volume_that_would_shrink_is_an_error_not_a_new_volume(
    provider: KubernetesProvider, kubelet: FakeKubelet
) -> None:
    def claim(size: str) -> dict[str, Any]:
        spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": size}}}
        return {"metadata": {"name": "data", "annotations": {"pulumi.com/skipAwait": "true"}}, "spec": spec}

    kind = "core/v1:PersistentVolumeClaim"
    olds, made = created(provider, kind, claim("2Gi"))
    bound = {"status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}}
    kubelet.core.patch_namespaced_persistent_volume_claim_status("data", kubelet.namespace, bound)
    news = check(provider, kind, claim("1Gi"), olds=olds).inputs
    with pytest.raises(PluginError, match="can not be less than"):
        provider.Diff(
            rpc.DiffRequest(urn=urn(kind), id=made.id, olds=made.properties, news=news, old_inputs=olds), None
        )
    kubelet.core.delete_namespaced_persistent_volume_claim("data", kubelet.namespace)


def wait_on(provider: KubernetesProvider, kind: str, tree: dict[str, Any], seconds: float = 20) -> str:
    """Why an object does not become ready."""
    tree = {"apiVersion": kind.rpartition("/")[0].removeprefix("core/"), "kind": kind.rpartition("/")[2], **tree}
    tree["metadata"] = {"name": "w", "namespace": provider.cluster.namespace, **tree.get("metadata", {})}
    live = provider.cluster.apply(tree, "tests")
    with pytest.raises(NotReadyError) as error:
        until_ready(provider.cluster, live, tree, seconds, threading.Event(), lambda line: None)
    return str(error.value)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_STORE_GRACE_SECONDS", "0")


@pytest.mark.usefixtures("impatient")
def test_reasons_of_rollouts(provider: KubernetesProvider, kubelet: FakeKubelet) -> None:
    last = {"terminated": {"exitCode": 3, "reason": "Error", "message": "cannot open\nredis.conf"}}
    kubelet.trouble = {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": last,
        "restartCount": 4,
    }
    said = wait_on(provider, "apps/v1/StatefulSet", {"spec": {"serviceName": "w", **workload("crash")}})
    assert "pod w-0, container main keeps crashing (exit code 3, 4 restarts): it said: cannot open | redis.conf" in said
    # A new version does not help: Kubernetes leaves the broken pod alone. The message says what does.
    said = wait_on(provider, "apps/v1/StatefulSet", {"spec": {"serviceName": "w", **workload("crash", image="b")}})
    assert f"blocks the new one: kubectl -n {kubelet.namespace} delete pod w-0 (pod w-0, container main keeps" in said
    kubelet.trouble = {
        "state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}}
    }
    said = wait_on(provider, "apps/v1/Deployment", {"spec": workload("config")})
    assert 'container main: CreateContainerConfigError: secret "x" not found' in said
    kubelet.trouble = {"state": {"running": {}}}
    said = wait_on(
        provider, "apps/v1/Deployment", {"metadata": {"name": "unready"}, "spec": workload("probe")}, seconds=2
    )
    assert "not ready after 2 s: [2/2] waiting for 1 of 1 pods to be ready: pod unready-" in said
    assert "container main: not ready" in said


@pytest.mark.usefixtures("impatient")
def test_pods_that_may_not_be_made(provider: KubernetesProvider, kubelet: FakeKubelet) -> None:
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    kubelet.core.patch_namespace(kubelet.namespace, label)
    for kind in ("Deployment", "StatefulSet"):
        said = wait_on(provider, f"apps/v1/{kind}", {"spec": workload("bad")})
        assert "pods cannot be created: " in said
        assert 'violates PodSecurity "restricted:latest"' in said


@pytest.mark.usefixtures("impatient")
def test_other_objects_that_wait(provider: KubernetesProvider, kubelet: FakeKubelet) -> None:
    spec: dict[str, Any] = {"selector": {"app": "nobody"}, "ports": [{"port": 1}]}
    assert "no pod matches its selector app=nobody" in wait_on(provider, "core/v1/Service", {"spec": spec}, 1)
    claim: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    said = wait_on(provider, "core/v1/PersistentVolumeClaim", {"spec": {**claim, "storageClassName": "gold"}}, 1)
    assert "there is no storage class gold" in said
    for name in ("spec", "status"):
        notes = {"metadata": {"annotations": {"pulumi.com/waitFor": f"jsonpath={{.{name}.answer}}=42"}}, "data": {}}
        assert f"waiting for jsonpath={{.{name}.answer}}=42" in wait_on(provider, "core/v1/ConfigMap", notes, 1)
    kubelet.core.delete_namespaced_persistent_volume_claim("w", kubelet.namespace)


def test_a_job_that_fails_says_why(provider: KubernetesProvider, kubelet: FakeKubelet) -> None:
    kubelet.trouble = {"state": {"terminated": {"exitCode": 7, "message": "no such table"}}}
    template = pod("job")
    template["spec"]["restartPolicy"] = "Never"
    said = wait_on(provider, "batch/v1/Job", {"spec": {"backoffLimit": 0, "template": template}})
    assert "the job failed (BackoffLimitExceeded)" in said
    assert "exit code 7, 0 restarts): it said: no such table" in said


def test_cancel_ends_a_wait_at_once_and_keeps_the_object(provider: KubernetesProvider, kubelet: FakeKubelet) -> None:
    kubelet.idle = True
    news = check(provider, "apps/v1:Deployment", {"metadata": {"name": "slow"}, "spec": workload("slow")}).inputs
    caught: list[InitError] = []

    def create() -> None:
        try:
            provider.Create(rpc.CreateRequest(urn=urn("apps/v1:Deployment"), properties=news), None)
        except InitError as error:
            caught.append(error)

    running = threading.Thread(target=create)
    running.start()
    wait_for("the Deployment", lambda: kubelet.apps.list_namespaced_deployment(kubelet.namespace).items)
    provider.Cancel(None, None)
    running.join(timeout=10)
    assert "interrupted while" in str(caught[0])
    assert caught[0].id == f"{kubelet.namespace}/slow"
    assert plain(caught[0].state)["metadata"]["uid"]


def test_messages_hold_no_secrets(provider: KubernetesProvider) -> None:
    inputs = {"metadata": {"name": "UPPER-hush"}, "data": {"a": "b"}}
    news = encode({**inputs, "metadata": {"name": Secret("UPPER-hush")}})
    with pytest.raises(PluginError) as error:
        provider.Create(
            rpc.CreateRequest(
                urn=urn("core/v1:ConfigMap"), properties=check(provider, "core/v1:ConfigMap", decode(news)).inputs
            ),
            None,
        )
    assert "hush" not in str(error.value)
    assert "[secret]" in str(error.value)


def test_two_clusters_do_not_share_settings(control_plane: ControlPlane) -> None:
    text = control_plane.kubeconfig.read_text()
    with pytest.raises(PluginError, match=r"No usable kubeconfig: .*zz"):
        Cluster(Settings(text, context="zz")).find("v1", "Pod")
    assert Cluster(Settings(text)).find("v1", "Pod") == ("pods", True)
