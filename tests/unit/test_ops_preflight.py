"""What stops a run before the engine starts, against a small HTTP server that answers as the API server does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from program import config

from infra.settings import parse
from ops import cli, kube, preflight, tls, workspace
from ops.errors import OpsError

NOW = datetime(2026, 11, 24, tzinfo=UTC)
NAMESPACE = "/api/v1/namespaces/session-store"


class Api:
    """Answers by path; what is not there is 404."""

    def __init__(self) -> None:
        self.version = {"major": "1", "minor": "34", "gitVersion": "v1.34.4", "gitCommit": "", "gitTreeState": ""}
        self.version |= {"buildDate": "", "goVersion": "", "compiler": "", "platform": ""}
        self.status = 200
        default = {"name": "local-path", "annotations": {preflight.DEFAULT_CLASS: "true"}}
        self.objects: dict[str, Any] = {
            "/apis/storage.k8s.io/v1/storageclasses": {"items": [{"metadata": default, "provisioner": "x"}]}
        }
        ca = tls.make_ca(NOW)
        leaf = tls.make_leaf(ca, tls.issued_names("redis", "session-store"), NOW, 90)
        self.secret("redis-tls", {"tls.crt": leaf.certificate, "tls.key": leaf.key, "ca.crt": ca.certificate})

    def secret(self, name: str, data: dict[str, bytes]) -> None:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self.objects[f"{NAMESPACE}/secrets/{name}"] = {"data": encoded}

    def answer(self, path: str) -> tuple[int, Any]:
        if path == "/version/":
            return 200, self.version
        if self.status != 200:
            return self.status, {"kind": "Status", "message": "no"}
        if path.endswith("/selfsubjectrulesreviews"):
            return 201, {"spec": {}, "status": {"incomplete": False, "nonResourceRules": [], "resourceRules": []}}
        found = self.objects.get(path)
        return (200, found) if found is not None else (404, {"kind": "Status", "message": "not found"})


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    answers = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            status, content = answers.answer(self.path.partition("?")[0])
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _kubeconfig(tmp_path / "kubeconfig", server.server_port)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield answers
        server.shutdown()


def _kubeconfig(path: Path, port: int) -> None:
    content = {
        "current-context": "test",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(json.dumps(content))


def check(**changes: Any) -> tuple[list[str], list[str]]:
    return preflight.check(kube.connect("dev"), parse(config(**changes)), "dev", NOW)


def test_a_good_cluster_passes(api: Api) -> None:
    assert check() == ([], [])


def test_missing_things_are_all_named_at_once(api: Api) -> None:
    api.objects.clear()
    api.objects["/apis/storage.k8s.io/v1/storageclasses"] = {"items": []}
    errors, warnings = check(
        createNamespace=False,
        credentials={"createSessionSecret": False},
        verify={"loginSecret": "verify-login"},
        api={"image": ..., "existingDeployment": "ctmd-api"},
    )
    text = "\n".join(errors)
    assert "namespace session-store is missing and session-store:createNamespace is false" in text
    assert "Secret api-session-secret (the secret that signs cookies) is missing" in text
    (login,) = warnings  # only `verify` needs it
    assert "Secret verify-login (the JSON body with which `verify` logs in) is missing" in login
    assert "create secret generic verify-login --from-file=body=FILE" in login
    assert "Deployment ctmd-api is missing in namespace session-store" in text
    assert "the cluster has no default StorageClass" in text
    assert "TLS Secret redis-tls is missing in namespace session-store: `python -m ops certificates issue" in text
    assert len(errors) == 5


def test_placeholder_image(api: Api) -> None:
    errors, _ = check(api={"image": f"registry.example.org/api@sha256:{'0' * 64}"})
    assert errors == [
        "session-store:api.image is a placeholder (digest all zeros): "
        "put the digest your registry gave registry.example.org/api"
    ]


def test_storage_class_that_does_not_exist(api: Api) -> None:
    assert check(redis={"storage": {"className": "fast"}})[0] == [
        "StorageClass fast (session-store:redis.storage.className) does not exist; there are: local-path"
    ]
    assert check(redis={"storage": {"className": "local-path"}})[0] == []
    api.objects["/apis/storage.k8s.io/v1/storageclasses"] = {"items": []}
    assert check(redis={"appendonly": False})[0] == [], "no volume, no class"


def test_deployment_without_the_container(api: Api) -> None:
    pod = {"spec": {"containers": [{"name": "web"}, {"name": "proxy"}]}}
    api.objects["/apis/apps/v1/namespaces/session-store/deployments/ctmd"] = {"spec": {"selector": {}, "template": pod}}
    errors, _ = check(api={"image": ..., "existingDeployment": "ctmd"})
    assert errors == ["Deployment ctmd has no container api (it has web, proxy): set session-store:api.container"]


def test_deployment_that_the_wiring_cannot_be_patched_onto(api: Api) -> None:
    env = [{"name": "API_SESSION_SECRET", "value": "in the clear"}, {"name": "REDIS_HOST", "value": "old"}]
    pod = {"spec": {"containers": [{"name": "api", "env": env}]}}
    api.objects["/apis/apps/v1/namespaces/session-store/deployments/ctmd"] = {"spec": {"selector": {}, "template": pod}}
    helms = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}, "data": {}}
    api.objects["/api/v1/namespaces/session-store/secrets/api-session-secret"] = helms
    errors, _ = check(api={"image": ..., "existingDeployment": "ctmd"})
    assert errors[0].startswith("Deployment ctmd sets API_SESSION_SECRET as plain text")
    assert errors[1].startswith(
        "Secret api-session-secret exists and is not this stack's: set session-store:credentials"
    )
    assert len(errors) == 2


def test_changes_that_the_running_pods_cannot_make_together_are_refused(api: Api) -> None:
    base, core = "/apis/apps/v1/namespaces/session-store/statefulsets", "/api/v1/namespaces/session-store/configmaps"
    running = {
        "replicas": 3,
        "selector": {},
        "serviceName": "redis-headless",
        "template": {},
        "volumeClaimTemplates": [{}],
    }
    api.objects[f"{base}/redis-ha"] = {"spec": running}
    api.objects[f"{core}/redis-ha-config"] = {"data": {"redis.conf": "port 0\ntls-port 6379"}}
    sentinel = {"mode": "sentinel", "proxyImage": f"haproxy@sha256:{'1' * 64}"}
    assert check(redis=sentinel)[0] == []
    (aof,) = check(redis={**sentinel, "appendonly": False})[0]
    assert "redis.appendonly cannot change on StatefulSet redis-ha" in aof
    assert "set redis.mode to standalone in the same `up`" in aof
    (tls,) = check(redis=sentinel, tls={"enabled": False})[0]
    assert "tls.enabled cannot change on StatefulSet redis-ha" in tls
    (replicas,) = check(redis={**sentinel, "replicas": 5})[0]
    assert "redis.replicas cannot change from 3 to 5" in replicas
    assert check(redis={"appendonly": False})[0] == [], "another mode has pods of its own"


def test_certificate_content_is_looked_at_unless_cert_manager_makes_it(api: Api) -> None:
    api.secret("redis-tls", {"tls.crt": b"x"})
    assert "TLS Secret redis-tls: lacks tls.key, ca.crt" in check()[0][0]
    assert check(tls={"issuer": {"name": "ca"}})[0] == []
    assert check(tls={"enabled": False})[0] == []


def test_external_redis(api: Api) -> None:
    external = {"mode": "external", "host": "127.0.0.1", "port": 1, "image": ...}
    errors, warnings = check(redis=external, tls={"secretName": "their-ca"})
    assert "Secret redis-secret (the external Redis's password) is missing in namespace session-store" in errors[0]
    assert "Secret their-ca with ca.crt, the CA of 127.0.0.1, is missing" in errors[1]
    assert "127.0.0.1:1 does not answer from here" in warnings[0]
    api.secret("redis-secret", {"passwort": b"x"})
    assert "lacks key password" in check(redis=external, tls={"enabled": False})[0][0]


def test_namespace_that_is_going_away(api: Api) -> None:
    api.objects[NAMESPACE] = {"metadata": {"name": "session-store"}, "status": {"phase": "Terminating"}}
    assert check()[0] == ["namespace session-store is being deleted: wait until it is gone"]


@pytest.mark.parametrize(
    ("minor", "kind", "message"),
    [("27", 0, "1.28 is the oldest that serves: upgrade it"), ("99+", 1, "this was tried up to 1.35")],
)
def test_server_version(api: Api, minor: str, kind: int, message: str) -> None:
    api.version |= {"minor": minor, "gitVersion": f"v1.{minor}.0"}
    (line,) = check()[kind]
    assert f"runs Kubernetes v1.{minor}.0; {message}" in line


def test_refused_credentials_and_missing_rights(api: Api) -> None:
    api.status = 401
    (line,) = check()[0]
    assert "refuses the credentials of context test: log in again" in line
    api.status = 403
    assert check()[0] == ["context test lacks a right: no"]


def test_a_cluster_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _kubeconfig(tmp_path / "kubeconfig", 1)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    (line,) = check()[0]
    assert line.startswith("http://127.0.0.1:1 (context test) cannot be reached: ")
    assert "Connection refused" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"KUBECONFIG is .*/kubeconfig, which does not exist: correct it, or unset it"),
        ("clusters: []", r"The kubeconfig .*/kubeconfig cannot be used"),
        ("- a", r"The kubeconfig .*/kubeconfig cannot be used"),
    ],
)
def test_bad_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(OpsError, match=message):
        kube.connect("dev")


def test_which_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SESSION_STORE_HOME", str(tmp_path / "clusters"))
    with pytest.raises(OpsError, match="No cluster for stack dev: start the embedded cluster with `python -m cluster"):
        kube.find_kubeconfig("dev")
    with pytest.raises(OpsError, match="No cluster for stack staging: set KUBECONFIG"):
        kube.find_kubeconfig("staging")
    home, embedded = tmp_path / ".kube" / "config", tmp_path / "clusters" / "dev" / "kubeconfig"
    for path in (home, embedded):
        path.parent.mkdir(parents=True)
        path.touch()
    assert kube.find_kubeconfig("dev") == str(embedded)
    assert kube.find_kubeconfig("staging") == str(home)


def test_an_operator_sees_one_message_and_no_traceback(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ops", "verify", "--stack", "nowhere"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 1
    assert capsys.readouterr().err.startswith("There is no stack 'nowhere'")
    api.objects["/api/v1/namespaces/session-store"] = {"metadata": {"name": "session-store"}}
    api.status = 401
    monkeypatch.setattr("sys.argv", ["ops", "certificates", "issue"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 1
    assert "refuses the credentials of context test" in capsys.readouterr().err


def test_the_three_stacks_are_known() -> None:
    assert {"dev", "staging", "prod"} <= {path.name.split(".")[1] for path in workspace.REPO.glob("Pulumi.*.yaml")}


def test_a_service_that_leads_to_another_redis_is_left_to_adopt(api: Api) -> None:
    service = {"metadata": {"labels": {"app": "redis"}}, "spec": {"selector": {"app": "redis"}, "ports": []}}
    api.objects[f"{NAMESPACE}/services/redis"] = service
    assert check()[0] == [
        "Service redis exists and leads to another Redis: `python -m ops adopt` takes it over with its data"
    ]
    assert check(redis={"name": "session-redis", "adoption": "beside"})[0] == []
    ours = {"app.kubernetes.io/part-of": "session-store", "app.kubernetes.io/managed-by": "Helm"}
    service["metadata"]["labels"] = ours
    assert check()[0] == []


def test_pod_monitors_need_the_prometheus_operator(api: Api) -> None:
    (error,) = check(metrics={"podMonitors": True})[0]
    assert "does not know PodMonitor (monitoring.coreos.com/v1): install the Prometheus Operator" in error
    kind = {"name": "podmonitors", "singularName": "podmonitor", "namespaced": True, "kind": "PodMonitor", "verbs": []}
    listed = {"groupVersion": "monitoring.coreos.com/v1", "resources": [kind]}
    api.objects["/apis/monitoring.coreos.com/v1"] = listed
    assert check(metrics={"podMonitors": True})[0] == []
