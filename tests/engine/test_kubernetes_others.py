"""`kubernetes` under the real engine, next to others: people, Helm, runs that were killed, clusters that are away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s
from control_plane import FakeKubelet, wait_for
from engine import Engine
from programs import config_map, deployment, workload


def helm_deployment(kube: FakeKubelet, name: str = "api") -> None:
    """A Deployment that Helm made."""
    spec = workload("api", env=[{"name": "THEIRS", "value": "1"}])
    kube.apps.create_namespaced_deployment(
        kube.namespace, {"metadata": {"name": name}, "spec": spec}, field_manager="helm"
    )


def env(kube: FakeKubelet) -> dict[str, str]:
    container = kube.apps.read_namespaced_deployment("api", kube.namespace).spec.template.spec.containers[0]
    return {item.name: item.value for item in container.env or []}


def patched(value: str, annotations: dict[str, str] | None = None, **more: str) -> None:
    variables = [{"name": "OURS", "value": value}, *({"name": key, "value": text} for key, text in more.items())]
    k8s.apps.v1.DeploymentPatch(
        "wiring",
        metadata={"name": "api", "annotations": annotations or {}},
        spec={"template": {"spec": {"containers": [{"name": "main", "env": variables}]}}},
    )


def test_a_patch_leaves_the_owners_fields_alone(engine: Engine, kube: FakeKubelet) -> None:
    assert "there is no Deployment" in engine.failure(engine.up, lambda: patched("1"))
    helm_deployment(kube)
    assert engine.up(lambda: patched("1"))["create"] == 1
    assert env(kube) == {"THEIRS": "1", "OURS": "1"}
    # A field of theirs is theirs: the message names it, its owner and what can be done.
    said = engine.failure(engine.up, lambda: patched("2", THEIRS="2"))
    assert "owned by 'helm'" in said
    assert 'THEIRS"].value' in said
    assert "pulumi.com/patchForce" in said
    assert env(kube) == {"THEIRS": "1", "OURS": "1"}
    assert engine.up(lambda: patched("2")) == {"update": 1}
    engine.destroy()
    assert env(kube) == {"THEIRS": "1"}


def test_objects_of_others_are_imported_never_overwritten(engine: Engine, kube: FakeKubelet) -> None:
    theirs = {"metadata": {"name": "settings"}, "data": {"colour": "red"}}
    kube.core.create_namespaced_config_map(kube.namespace, theirs)
    said = engine.failure(engine.up, config_map(colour="blue"))
    assert f"ConfigMap {kube.namespace}/settings already exists" in said
    assert kube.core.read_namespaced_config_map("settings", kube.namespace).data == {"colour": "red"}

    def adopt() -> None:
        opts = pulumi.ResourceOptions(import_=f"{kube.namespace}/settings")
        metadata = {"name": "settings", "namespace": kube.namespace}
        k8s.core.v1.ConfigMap("settings", metadata=metadata, data={"colour": "red"}, opts=opts)

    assert engine.up(adopt)["import"] == 1
    assert engine.up(config_map(colour="red")) == {}


def test_a_failed_rollout_says_why_and_the_next_run_goes_on(engine: Engine, kube: FakeKubelet) -> None:
    kube.trouble = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}}}
    said = engine.failure(engine.up, deployment())
    assert ": pod api-" in said
    assert "image registry.invalid/app@sha256:0 cannot be pulled (ImagePullBackOff): manifest unknown" in said
    uid = kube.apps.read_namespaced_deployment("api", kube.namespace).metadata.uid
    assert engine.resources()["api"]["outputs"]["metadata"]["uid"] == uid
    # A look at the broken state is no failure, and does not hide that there is something to do.
    engine.refresh()
    kube.trouble = None
    assert engine.up(deployment()) == {"update": 1}
    assert kube.apps.read_namespaced_deployment("api", kube.namespace).metadata.uid == uid
    assert engine.up(deployment()) == {}


def test_a_killed_run_is_finished_by_the_next(engine: Engine, kube: FakeKubelet) -> None:
    kube.idle = True
    script = f"import sys; sys.path[:0] = {sys.path!r}; import killed; killed.run({str(engine.directory)!r})"
    work = {
        **os.environ,
        **engine.variables(),
        "TEST_PATH": engine.path,
        "TEST_CLI": str(engine.cli),
        "TEST_HOME": str(engine.home),
    }
    running = subprocess.Popen(
        [sys.executable, "-c", script],
        env=work,
        start_new_session=True,
        cwd=Path(__file__).parent,
        stdout=subprocess.DEVNULL,
    )
    wait_for("the Deployment", lambda: kube.apps.list_namespaced_deployment(kube.namespace).items)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    kube.idle = False
    # The file backend keeps the dead run's lock: this is what has to be done about it.
    engine.stack.cancel()
    assert engine.up(deployment())["create"] >= 1
    assert "api" in engine.resources()
    assert engine.up(deployment()) == {}


def test_without_a_cluster_a_preview_works_and_a_run_says_what_is_missing(engine: Engine) -> None:
    kubeconfig = engine.directory / "kubeconfig"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n"
        "clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: a, user: {token: t}}]\n"
    )
    engine.environment["KUBECONFIG"] = str(kubeconfig)
    assert engine.preview(config_map(colour="blue")) == {"create": 2}
    said = engine.failure(engine.up, config_map(colour="blue"))
    assert "The Kubernetes API server http://127.0.0.1:1 cannot be reached (Connection refused)" in said
    assert "point KUBECONFIG" in said


def test_bad_input_stops_a_preview(engine: Engine, kube: FakeKubelet) -> None:
    def run() -> None:
        k8s.apps.v1.Deployment("typo", metadata={"name": "typo"}, spec={**workload("typo"), "replica": 3})

    said = engine.failure(engine.preview, run)
    assert "apps/v1 Deployment: spec.replica no such field; did you mean replicas?" in said
