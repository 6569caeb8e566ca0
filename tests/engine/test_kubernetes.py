"""`kubernetes` under the real engine and a real API server: the life of a stack."""

from __future__ import annotations

import base64

import pytest
from control_plane import FakeKubelet, wait_for
from engine import Engine
from kubernetes.client import ApiException
from programs import stack


def names(kube: FakeKubelet) -> list[str]:
    return [item.metadata.name for item in kube.core.list_namespaced_secret(kube.namespace).items]


def test_a_stack_lives(engine: Engine, kube: FakeKubelet) -> None:
    # A preview touches nothing.
    assert engine.preview(stack()) == {"create": 8}
    assert "redis-secret" not in names(kube)
    assert kube.apps.list_namespaced_deployment(kube.namespace).items == []

    # Up: everything is there, ready, and described by outputs.
    assert engine.up(stack()) == {"create": 8}
    outputs = engine.outputs()
    password = outputs["password"]
    live = kube.core.read_namespaced_secret("redis-secret", kube.namespace)
    assert base64.b64decode(live.data["password"]).decode() == password
    assert outputs["data"] == live.data
    assert outputs["address"] == kube.core.read_namespaced_service("api", kube.namespace).spec.cluster_ip
    assert outputs["name"].startswith("unnamed-")
    assert kube.apps.read_namespaced_deployment("api", kube.namespace).status.ready_replicas == 2

    # Once more: nothing to do, although the server rewrites quantities and fills in defaults.
    assert engine.up(stack()) == {}

    # A change: in place for the Deployment, a new ConfigMap for new data (the official plugin does that), same names.
    assert engine.preview(stack(colour="green")) == {"update": 1, "replace": 1}
    assert engine.up(stack(colour="green")) == {"update": 1, "replace": 1}
    container = kube.apps.read_namespaced_deployment("api", kube.namespace).spec.template.spec.containers[0]
    assert container.env[0].value == "green"

    # Somebody changes what we manage, and something else that we do not.
    by_hand = {"metadata": {"labels": {"their": "label"}}, "spec": {"replicas": 3}}
    kube.apps.patch_namespaced_deployment("api", kube.namespace, by_hand, field_manager="kubectl-scale")
    wait_for(
        "the third pod", lambda: kube.apps.read_namespaced_deployment("api", kube.namespace).status.ready_replicas == 3
    )
    assert engine.refresh() == {"update": 1}
    assert engine.resources()["api"]["inputs"]["spec"]["replicas"] == 3
    assert engine.up(stack(colour="green")) == {"update": 1}
    after = kube.apps.read_namespaced_deployment("api", kube.namespace)
    assert after.spec.replicas == 2
    assert after.metadata.labels == {"their": "label"}

    # Something deletes an object: refresh sees that, up brings it back.
    kube.core.delete_namespaced_config_map(outputs["name"], kube.namespace)
    assert engine.refresh() == {"delete": 1}
    assert engine.up(stack(colour="green")) == {"create": 1}

    # What cannot change in place is replaced, the old object first, for the name is fixed.
    uid = kube.apps.read_namespaced_stateful_set("store", kube.namespace).metadata.uid
    assert engine.up(stack(colour="green", service_name="other")) == {"replace": 1}
    assert kube.apps.read_namespaced_stateful_set("store", kube.namespace).metadata.uid != uid

    # Destroy waits until all is gone.
    engine.destroy()
    assert kube.apps.list_namespaced_deployment(kube.namespace).items == []
    assert kube.apps.list_namespaced_stateful_set(kube.namespace).items == []
    with pytest.raises(ApiException):
        kube.core.read_namespaced_secret("redis-secret", kube.namespace)

    # And nothing ever wrote the secret down.
    written = engine.written()
    assert password not in written
    assert base64.b64encode(password.encode()).decode() not in written
