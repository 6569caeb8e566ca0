"""The mirror of a stack's files: what the engine gets, what the repository keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ops import cli_tools, workspace
from ops.errors import OpsError

IMAGES = {"redis": f"local/redis@sha256:{'1' * 64}", "api": f"local/api@sha256:{'2' * 64}"}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    project = "name: session-store\nmain: infra/\nruntime: {name: python}\nconfig:\n"
    project += "  session-store:tls: {type: object, default: {enabled: false}}\n"
    (tmp_path / "Pulumi.yaml").write_text(project)
    (tmp_path / "Pulumi.dev.yaml").write_text("config:\n  session-store:sessions: {secureCookie: false}\n")
    (tmp_path / "Pulumi.staging.yaml").write_text("# keep me\nconfig:\n  session-store:redis: {image: own}")
    return tmp_path


def test_unknown_stack_names_the_known_ones(repo: Path) -> None:
    with pytest.raises(OpsError, match=r"no stack 'stagin': no Pulumi.stagin.yaml .* Known stacks: dev, staging"):
        workspace.find("stagin", repo)


def test_mirror_runs_inline_with_the_images_of_this_machine(repo: Path) -> None:
    where = workspace.find("dev", repo)
    workspace.write_mirror(where, IMAGES)
    assert "main" not in yaml.safe_load((where.directory / "Pulumi.yaml").read_text())
    config = yaml.safe_load(where.mirror.read_text())["config"]
    assert config["session-store:redis"] == {"image": IMAGES["redis"]}
    assert config["session-store:api"] == {"image": IMAGES["api"]}
    assert "image" not in (repo / "Pulumi.dev.yaml").read_text()


def test_images_of_the_stack_file_win_and_foreign_parts_get_none(repo: Path) -> None:
    config = {
        "session-store:redis": {"mode": "external", "host": "r.example.org"},
        "session-store:api": {"existingDeployment": "api"},
    }
    assert workspace.with_images(config, IMAGES) == config
    own = {"session-store:redis": {"image": "own"}, "session-store:api": {"image": "own"}}
    assert workspace.with_images(own, IMAGES) == own


def test_a_built_exporter_runs_beside_a_redis_of_ours() -> None:
    built = {"redis-exporter": f"local/redis-exporter@sha256:{'3' * 64}"}
    found = workspace.with_images({"session-store:metrics": {"scrapeNamespace": "web"}}, built)
    assert found["session-store:metrics"] == {"scrapeNamespace": "web", "exporterImage": built["redis-exporter"]}
    external: dict[str, object] = {"session-store:redis": {"mode": "external", "host": "r.example.org"}}
    assert workspace.with_images(external, built) == external


def test_salt_outlives_runs_of_dev_and_stays_out_of_the_repository(repo: Path) -> None:
    where = workspace.find("dev", repo)
    workspace.write_mirror(where, IMAGES)
    with where.mirror.open("a") as file:
        file.write("encryptionsalt: v1:abc\n")  # as the engine does
    assert workspace.publish_salt(where) is None
    workspace.write_mirror(where, IMAGES)
    assert yaml.safe_load(where.mirror.read_text())["encryptionsalt"] == "v1:abc"
    assert "encryptionsalt" not in where.source.read_text()


def test_salt_of_a_shared_stack_is_put_into_its_file_to_commit(repo: Path) -> None:
    where = workspace.find("staging", repo)
    workspace.write_mirror(where, {})
    with where.mirror.open("a") as file:
        file.write("encryptionsalt: v1:abc\n")
    line = workspace.publish_salt(where)
    assert line is not None
    assert "Pulumi.staging.yaml now holds encryptionsalt: commit it" in line
    text = where.source.read_text()
    assert text.startswith("# keep me\n")
    assert yaml.safe_load(text)["encryptionsalt"] == "v1:abc"
    assert workspace.publish_salt(where) is None


def test_committed_salt_wins_over_an_old_mirror(repo: Path) -> None:
    where = workspace.find("staging", repo)
    where.directory.mkdir(parents=True)
    where.mirror.write_text("encryptionsalt: v1:old\n")
    where.source.write_text("encryptionsalt: v1:new\n")
    workspace.write_mirror(where, {})
    assert yaml.safe_load(where.mirror.read_text())["encryptionsalt"] == "v1:new"


def test_settings_are_read_with_project_defaults_and_without_decrypting(repo: Path) -> None:
    where = workspace.find("dev", repo)
    where.source.write_text(
        "config:\n  session-store:sessions: {secureCookie: false}\n"
        "  session-store:api: {env: {TOKEN: {secure: AAAB}}, nodeEnv: development}\n"
    )
    settings = workspace.settings_of(where, workspace.configuration(where, IMAGES))
    assert settings.sessions.secure_cookie is False
    assert settings.tls.enabled is False
    assert settings.api.env == {"TOKEN": "[secret]"}


def test_missing_images_of_dev_tell_how_to_build_them(repo: Path) -> None:
    where = workspace.find("dev", repo)
    with pytest.raises(OpsError, match=r"redis: is missing(.|\n)*`python -m images build --json .*images.json`"):
        workspace.settings_of(where, workspace.configuration(where, {}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot be read \(No such file or directory\); make it with `python -m images build --json"),
        ("[]", "must look like"),
        ('{"redis": "x"}', "must look like"),
        ("not json", "must look like"),
    ],
)
def test_bad_images_file(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "images.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OpsError, match=message):
        workspace.read_images(path)


def test_images_file_as_the_builder_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    path.write_text(json.dumps({"redis": {"ref": "r@sha256:1", "archive": "/a.tar"}}))
    assert workspace.read_images(path) == {"redis": "r@sha256:1"}


@pytest.mark.parametrize(("text", "message"), [("a: [", "cannot be read as YAML"), ("- a", "not a list")])
def test_bad_stack_file(repo: Path, text: str, message: str) -> None:
    (repo / "Pulumi.dev.yaml").write_text(text)
    with pytest.raises(OpsError, match=rf"Pulumi.dev.yaml .*{message}"):
        workspace.configuration(workspace.find("dev", repo), {})


def test_dev_passphrase_is_generated_once_for_its_owner_only(repo: Path) -> None:
    where = workspace.find("dev", repo)
    path = workspace.passphrase_file(where)
    first = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(first) > 20
    assert workspace.passphrase_file(where).read_text() == first


def test_shared_stack_without_passphrase_is_refused(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE", "PULUMI_BACKEND_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PULUMI_HOME", str(repo / "home"))
    where = workspace.find("staging", repo)
    environment = cli_tools.backend(where)
    assert environment == {"PULUMI_BACKEND_URL": f"file://{repo}/.state/backend"}
    with pytest.raises(OpsError, match="Stack staging encrypts its secrets with a passphrase: set PULUMI_CONFIG_PASS"):
        cli_tools.passphrase(where, environment)
    where.source.write_text("secretsprovider: awskms://alias/x\n")
    assert cli_tools.passphrase(where, environment) == {}
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "")
    where.source.write_text("encryptionsalt: v1:x\n")
    assert cli_tools.passphrase(where, environment) == {}


def test_login_is_for_shared_stacks_and_dev_stays_local(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PULUMI_BACKEND_URL", raising=False)
    home = repo / "home"
    home.mkdir()
    (home / "credentials.json").write_text("{}")
    monkeypatch.setenv("PULUMI_HOME", str(home))
    staging, local = workspace.find("staging", repo), {"PULUMI_BACKEND_URL": f"file://{repo}/.state/backend"}
    assert cli_tools.backend(staging) == {}, "logged out: the engine says so"
    (home / "credentials.json").write_text('{"current": "file:///mnt/team"}')
    assert cli_tools.backend(staging) == {"PULUMI_BACKEND_URL": "file:///mnt/team"}
    (repo / "Pulumi.yaml").write_text((repo / "Pulumi.yaml").read_text() + "backend:\n  url: s3://team\n")
    assert cli_tools.backend(staging) == {"PULUMI_BACKEND_URL": "s3://team"}
    assert cli_tools.backend(workspace.find("dev", repo)) == local


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {text}\n")
    path.chmod(0o755)


def test_tools_prefer_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_STORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    with pytest.raises(OpsError, match=r"Pulumi CLI .* is not here: run `python -m toolchain build pulumi`"):
        cli_tools.find()
    _program(tmp_path / "bin" / "pulumi", "v1.0.0")
    with pytest.raises(OpsError, match=r"the one on PATH, .*/bin/pulumi, is 1.0.0"):
        cli_tools.find()
    _program(tmp_path / "cache" / "bin" / "pulumi", f"v{cli_tools.VERSION}")
    with pytest.raises(
        OpsError, match=r"plugin pulumi-resource-kubernetes .* is not here: run `python -m toolchain pl"
    ):
        cli_tools.find()
    for name in cli_tools.PLUGINS:
        _program(tmp_path / "cache" / "bin" / f"pulumi-resource-{name}", "1")
    tools = cli_tools.find()
    assert tools.pulumi.parent == tmp_path / "cache" / "bin"
    assert set(tools.plugins.values()) == {"stand-in"}
    assert tools.environment["PATH"].startswith(f"{tmp_path}/cache/bin:")
    assert tools.environment["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] == "true"


def test_official_plugins_keep_the_stand_ins_off_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_STORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path}/ours:/usr/bin:/bin")
    _program(tmp_path / "ours" / "pulumi", f"v{cli_tools.VERSION}")
    for name, package in cli_tools.PLUGINS.items():
        version = cli_tools.importlib.metadata.version(package)
        _program(tmp_path / "home" / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}", "1")
        _program(tmp_path / "cache" / "bin" / f"pulumi-resource-{name}", "1")
    tools = cli_tools.find()
    assert tools.pulumi == tmp_path / "ours" / "pulumi"
    assert set(tools.plugins.values()) == {"installed"}
    assert "cache" not in tools.environment["PATH"]
    assert "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION" not in tools.environment
