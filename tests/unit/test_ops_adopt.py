"""`ops adopt`: what it proposes and refuses, and the door and the router as HAProxy reads them."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import yaml
from pods import eventually, free_port, server

from infra.settings import PROJECT, Settings, SettingsError, parse
from ops.adopt import door, helm, look, record, router, stackfile, steps
from ops.errors import OpsError

IMAGE = f"redis@sha256:{'a' * 64}"


def settings(**redis: Any) -> Settings:
    given = {"image": IMAGE, "proxyImage": IMAGE, "name": "session-redis", "adoption": "door", **redis}
    return parse({"redis": given, "api": {"existingDeployment": "api"}})


def without_tls() -> Settings:
    return parse({**settings().model_dump(by_alias=True, exclude={"tls"}), "tls": {"enabled": False}})


def found(env: dict[str, str | None], **more: Any) -> look.Found:
    key = SimpleNamespace(name="api-session-secret")
    source = SimpleNamespace(secret_key_ref=key)
    secret = SimpleNamespace(name="API_SESSION_SECRET", value=None, value_from=source)
    container = SimpleNamespace(name="api", env=[secret], ports=[SimpleNamespace(container_port=3030)])
    return look.Found(SimpleNamespace(), container, env, [], **more)


@pytest.mark.parametrize("what", ["door", "turned", "router"])
def test_haproxy_takes_the_configuration(tmp_path: Path, what: str) -> None:
    ca = tmp_path / "ca.crt"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=ca",
        "-keyout",
        "/dev/null",
        "-out",
    ]
    subprocess.run([*command, str(ca)], check=True, capture_output=True)
    texts = {
        "door": door.config(settings(), "old.example:6379", turned=False, ca=str(ca)),
        "turned": door.config(settings(), "old.example:6379", turned=True, ca=str(ca)),
        "router": router.config(settings(), "old.example:3030", "new.example:3030"),
    }
    file = tmp_path / "haproxy.cfg"
    file.write_text(texts[what])
    done = subprocess.run(["haproxy", "-c", "-f", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_tls_nothing_is_wrapped() -> None:
    plain = without_tls()
    assert " ssl " not in door.config(plain, "old.example:6379", turned=False)
    assert "ssl verify required verifyhost redis" in door.config(settings(), "old.example:6379", turned=False)


def test_the_door_leads_to_one_of_the_two_and_is_turned_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = without_tls()
    listen, control, trial = free_port(), free_port(), free_port()
    monkeypatch.setattr(door, "CONTROL", control)
    monkeypatch.setattr(door, "TRIAL", trial)
    monkeypatch.setattr(door.tunnel, "open_port", lambda *args: socket.create_connection(("127.0.0.1", args[-1])))
    it = door.Door(SimpleNamespace(), plain)  # type: ignore[arg-type]
    monkeypatch.setattr(it, "pods", lambda: [SimpleNamespace(metadata=SimpleNamespace(name="door-0"))])
    with server(tmp_path) as (old, old_port), server(tmp_path) as (new, new_port):
        old.set("name", "old")
        new.set("name", "new")

        @contextmanager
        def haproxy(turned: bool) -> Iterator[None]:
            text = door.config(plain, f"127.0.0.1:{old_port}", turned=turned)
            text = text.replace(f"{door.target(plain)}:6379", f"127.0.0.1:{new_port}")
            file = tmp_path / "haproxy.cfg"
            file.write_text(text.replace("bind :6379", f"bind :{listen}").replace(" resolvers cluster\n", "\n"))
            started = subprocess.Popen(["haproxy", "-W", "-db", "-f", str(file)], stdout=subprocess.DEVNULL)
            try:
                yield
            finally:
                started.terminate()
                started.wait()

        def name(port: int) -> bytes | None:
            with redis.Redis(port=port) as client, suppress(redis.ConnectionError):
                return bytes(client.get("name") or b"")
            return None

        with haproxy(turned=False):
            assert eventually(lambda: name(listen)) == b"old"
            assert name(trial) == b"new"
            with socket.create_connection(("127.0.0.1", listen)) as stays:
                stays.sendall(b"GET name\r\n")
                assert stays.recv(100) == b"$3\r\nold\r\n"
                it.turner("new")()
                assert stays.recv(100) == b"", "whoever is still with the old one is cut off"
            with socket.create_connection(("127.0.0.1", listen)) as stays:
                for _ in range(2):
                    stays.sendall(b"GET name\r\n")
                    assert stays.recv(100) == b"$3\r\nnew\r\n"
                    it.turner("new")()
            it.turner("old")()
            assert name(listen) == b"old"
        with haproxy(turned=True):
            assert eventually(lambda: name(listen)) == b"new"


@pytest.mark.parametrize(
    ("cut", "demoted", "settled"),
    [(False, "old", True), (True, "new", False), (False, None, False), (True, None, True), (True, "old", True)],
)
def test_who_was_demoted_tells_how_far_a_killed_command_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: bool, demoted: str | None, settled: bool
) -> None:
    kept = record.Record("redis", 1, {"app": "redis"}, [{"port": 6379}], cut)
    written = [kept]
    monkeypatch.setattr(record, "read", lambda *_: written[-1])
    monkeypatch.setattr(record, "write", lambda *args: written.append(args[-1]))
    anything: Any = SimpleNamespace()
    it = steps.Adoption(anything, settings(), anything, lambda _: "")
    with server(tmp_path) as (old, _), server(tmp_path) as (new, _):
        client = {"old": old, "new": new}
        if demoted:
            client[demoted].replicaof(it.door.name if demoted == "old" else "old.invalid", 6379)  # type: ignore[no-untyped-call]
        monkeypatch.setattr(it, "old", lambda: SimpleNamespace(client=lambda: nullcontext(old)))
        monkeypatch.setattr(it.new, "client", lambda: nullcontext(new))
        it.settle()
    assert written[-1].cut is settled
    assert written[-1].selector == kept.selector


def test_a_door_that_cannot_be_turned_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"No such server.\n\n")
    theirs.shutdown(socket.SHUT_WR)
    monkeypatch.setattr(door.tunnel, "open_port", lambda *_: ours)
    it = door.Door(SimpleNamespace(), settings())  # type: ignore[arg-type]
    monkeypatch.setattr(it, "pods", lambda: [SimpleNamespace(metadata=SimpleNamespace(name="door-0"))])
    with pytest.raises(OpsError, match="No such server"):
        it.turner("new")()
    theirs.close()


@pytest.mark.parametrize("image", [None, "redis:7.4.2", "redis@sha256:abc"])
def test_only_a_digest_is_taken(image: str | None) -> None:
    with pytest.raises(OpsError, match="imagetools inspect"):
        look.by_digest(image, "--redis-image")


def test_the_proposal_says_what_the_chart_says() -> None:
    seen = found(
        {"REDIS_HOST": "redis", "REDIS_SESSION_DB": "2", "AUTH_ENV": "development", "NODE_ENV": "production"},
        record=SimpleNamespace(),  # type: ignore[arg-type]
        prefix="sess:",
    )
    wish = look.Wish("ctmd", service="redis", redis_image=IMAGE, proxy_image=IMAGE)
    read = yaml.safe_load(look.stack_file(look.proposal(wish, seen), None))["config"]
    made = parse({key.removeprefix(f"{PROJECT}:"): value for key, value in read.items()})
    assert (made.redis.service, made.redis.app, made.redis.database) == ("redis", "session-redis", 2)
    assert made.redis.adoption == "beside"
    assert made.sessions.prefix == "sess:"
    assert (made.api.existing_deployment, made.api.auth_env, made.api.node_env) == ("api", "development", "production")
    assert made.credentials.create_session_secret is False


def test_an_api_without_redis_gets_one_of_its_own_name() -> None:
    wish = look.Wish("ctmd", redis_image=IMAGE, proxy_image=IMAGE)
    values = look.proposal(wish, found({}))
    assert (values["redis"]["service"], values["redis"]["name"]) == ("session-redis", "session-redis")
    assert parse(values).redis.adoption == "beside"


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"cluster_enabled": 1}, "cluster mode"),
        ({"redis_version": "6.0.16"}, "6.2 is the oldest"),
        ({"used_memory": 900 << 20}, "raise that"),
        ({}, None),
    ],
)
def test_a_redis_that_cannot_be_adopted_is_named_with_the_fix(info: dict[str, Any], words: str | None) -> None:
    whole = {"redis_version": "7.0.15", "used_memory": 2 << 20, "used_memory_startup": 1 << 20, **info}
    problems = list(look.redis_problems(whole, settings()))
    assert len(problems) == (1 if words else 0)
    assert words is None or words in problems[0]


@pytest.mark.parametrize(
    ("probe", "data", "words"),
    [
        (None, {"session-secret": "eA=="}, "Deployment api has no readiness probe"),
        (
            "/readyz",
            None,
            "api-session-secret with key session-secret, which Deployment api refers to, is missing",
        ),
        ("/readyz", {"other": "eA=="}, "Secret api-session-secret with key session-secret"),
        ("/readyz", {"session-secret": "eA=="}, None),
    ],
)
def test_an_api_that_cannot_be_adopted_is_named_with_the_fix(
    probe: str | None, data: dict[str, str] | None, words: str | None
) -> None:
    seen = found({})
    seen.container.readiness_probe = probe
    answer = SimpleNamespace(data=data) if data is not None else None
    cluster: Any = SimpleNamespace(core=SimpleNamespace(read_namespaced_secret=lambda *_, **__: answer))
    problems = list(look._api_problems(cluster, look.Wish("ctmd"), seen))
    assert len(problems) == (1 if words else 0)
    assert words is None or words in problems[0]


def test_the_stage_is_one_line_of_the_stack_file(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    text = f"# mine\nconfig:\n  {PROJECT}:redis:\n    # theirs\n    image: {IMAGE}\n"
    file.write_text(text)
    assert stackfile.set_adoption(file, "beside")
    assert not stackfile.set_adoption(file, "beside")
    assert stackfile.set_adoption(file, "door")
    assert yaml.safe_load(file.read_text())["config"][f"{PROJECT}:redis"]["adoption"] == "door"
    assert stackfile.set_adoption(file, None)
    assert file.read_text() == text


def test_a_file_of_another_shape_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_text(f"config: {{'{PROJECT}:redis': {{image: x}}}}\n")
    with pytest.raises(OpsError, match="adoption: door"):
        stackfile.set_adoption(file, "door")
    assert "door" not in file.read_text()


def test_a_door_needs_two_names() -> None:
    with pytest.raises(SettingsError, match=r"redis\.adoption"):
        settings(name="redis")


def test_helm_keeps_what_its_next_upgrade_compares_with() -> None:
    manifest = "---\nkind: Service\nmetadata: {name: redis}\n---\nkind: Deployment\nmetadata: {name: redis}\n"
    content = {"name": "dash", "chart": {"metadata": {"name": "chart", "version": "1.0.0"}}, "manifest": manifest}
    stored = base64.b64encode(gzip.compress(json.dumps(content).encode()))
    release = helm.read(stored)
    assert (release.name, release.chart) == ("dash", "chart-1.0.0")
    assert helm.owner([release], "Service", "redis") is release
    assert helm.owner([release], "Service", "api") is None
