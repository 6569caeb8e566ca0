"""The engine's working directory of a stack: a mirror of the repository's Pulumi files under `.state/<stack>/`.

The engine writes into the directory it works in (a salt, encrypted values). A mirror keeps a newcomer's repository
clean, and lets dev run the images that were built on this machine without naming them in a committed file.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.release import KEY
from infra.settings import ACCEPTED, PROJECT, Settings, SettingsError, parse
from ops.errors import OpsError

REPO = Path(os.environ.get("SESSION_STORE_PROJECT") or Path(__file__).resolve().parent.parent)
"""The folder of Pulumi.yaml; tests bring one of their own."""
DEV = "dev"
ANY_IMAGES = dict.fromkeys(("redis", "api", "haproxy"), f"any@sha256:{'0' * 64}")
"""For what needs settings but runs no program: dev's images may be gone, or not built yet."""
SECRETS_KEYS = ("secretsprovider", "encryptedkey", "encryptionsalt")


@dataclass(frozen=True)
class Workspace:
    """Where a stack's files are.

    Attributes:
        stack: the stack's name, as in Pulumi.<stack>.yaml.
        repo: the repository with Pulumi.yaml.
    """

    stack: str
    repo: Path = REPO

    @property
    def state(self) -> Path:
        """`.state`, which git ignores."""
        return self.repo / ".state"

    @property
    def directory(self) -> Path:
        """The engine's working directory."""
        return self.state / self.stack

    @property
    def logs(self) -> Path:
        """Raw engine logs of past runs."""
        return self.directory / "logs"

    @property
    def source(self) -> Path:
        """The committed stack file."""
        return self.repo / f"Pulumi.{self.stack}.yaml"

    @property
    def mirror(self) -> Path:
        """The stack file that the engine reads and writes."""
        return self.directory / self.source.name


def find(stack: str, repo: Path = REPO) -> Workspace:
    """The workspace of a stack that the repository declares.

    Raises:
        OpsError: no Pulumi.<stack>.yaml; the message lists the stacks there are.
    """
    workspace = Workspace(stack, repo)
    if not workspace.source.is_file():
        known = sorted(path.name.split(".")[1] for path in repo.glob("Pulumi.*.yaml"))
        there = f"Known stacks: {', '.join(known) or 'none'}."
        raise OpsError(f"There is no stack {stack!r}: no {workspace.source.name} in {repo}. {there}")
    return workspace


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, {} for an empty file.

    Raises:
        OpsError: not readable as a mapping.
    """
    try:
        value = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise OpsError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise OpsError(f"{path} must hold a YAML mapping, not a {type(value).__name__}.")
    return value


def read_images(path: Path) -> dict[str, str]:
    """Image references by name, from what `python -m images build --json FILE` wrote.

    Raises:
        OpsError: the file is missing or has another shape.
    """
    try:
        return {name: str(entry["ref"]) for name, entry in json.loads(path.read_text()).items()}
    except OSError as error:
        raise OpsError(
            f"{path} cannot be read ({error.strerror}); make it with `python -m images build --json {path}`."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise OpsError(f'{path} must look like {{"redis": {{"ref": "NAME@sha256:..."}}, "api": {{...}}}}.') from None


def with_images(config: Mapping[str, Any], images: Mapping[str, str]) -> dict[str, Any]:
    """The configuration with the images filled in that it leaves open.

    Args:
        config: `session-store:<key>` to value.
        images: `redis`, `api`, `haproxy` and, where metrics are wanted, `redis-exporter` to a reference by digest.
    """
    filled = dict(config)
    if f"{PROJECT}:{KEY}" in filled:
        return filled  # a release pins its own
    external = (filled.get(f"{PROJECT}:redis") or {}).get("mode") == "external"
    for name, part, key in (
        ("redis", "redis", "image"),
        ("haproxy", "redis", "proxyImage"),
        ("api", "api", "image"),
        ("redis-exporter", "metrics", "exporterImage"),
    ):
        value = filled.get(f"{PROJECT}:{part}") or {}
        if name not in images or not isinstance(value, dict) or value.get(key):
            continue
        if (
            value.get("host")
            or value.get("existingDeployment")
            or (name == "haproxy" and value.get("mode") != "sentinel")
            or (name == "redis-exporter" and external)
        ):
            continue  # nothing of ours runs there
        filled[f"{PROJECT}:{part}"] = {**value, key: images[name]}
    return filled


def configuration(
    workspace: Workspace, images: Mapping[str, str], pins: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The configuration in force, `session-store:<key>` to value: project defaults, stack file, pins, images."""
    declared = read_yaml(workspace.repo / "Pulumi.yaml").get("config") or {}
    defaults = {key: value["default"] for key, value in declared.items() if "default" in value}
    return with_images({**defaults, **_pinned(read_yaml(workspace.source).get("config") or {}, pins)}, images)


def stages() -> list[str]:
    """The stages in the order of promotion, as Pulumi.yaml lists them."""
    declared = read_yaml(REPO / "Pulumi.yaml").get("config") or {}
    return [str(name) for name in (declared.get(f"{PROJECT}:stages") or {}).get("default") or []]


def context(workspace: Workspace) -> str | None:
    """The kubeconfig's context that the stack file names, for us and for the provider; None: the current one."""
    found = (read_yaml(workspace.source).get("config") or {}).get("kubernetes:context")
    return str(found) if found else None


def _pinned(config: Mapping[str, Any], pins: Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration with other pins than its own, where there are any."""
    return {**config, f"{PROJECT}:{KEY}": dict(pins)} if pins else dict(config)


def write_mirror(workspace: Workspace, images: Mapping[str, str], pins: Mapping[str, Any] | None = None) -> None:
    """Write the mirror; the secrets salt of an earlier run stays valid. pins: what a promotion would write."""
    workspace.directory.mkdir(parents=True, exist_ok=True)
    project = read_yaml(workspace.repo / "Pulumi.yaml")
    project.pop("main", None)  # the program runs inline, from this process
    project["runtime"] = "python"
    (workspace.directory / "Pulumi.yaml").write_text(yaml.safe_dump(project, sort_keys=False))
    kept = read_yaml(workspace.mirror) if workspace.mirror.exists() else {}
    stack = read_yaml(workspace.source)
    if not any(key in stack for key in SECRETS_KEYS):
        stack |= {key: kept[key] for key in SECRETS_KEYS if key in kept}
    config = _pinned(stack.get("config") or {}, pins)
    if workspace.stack == DEV and not kept and "encryptionsalt" not in stack:
        # `.state` was deleted, and with it what would decrypt these: dev starts anew.
        config = {key: value for key, value in config.items() if not _encrypted(value)}
    stack["config"] = with_images(config, images)
    partial = workspace.mirror.with_suffix(".new")
    partial.write_text(yaml.safe_dump(stack, sort_keys=False))
    partial.replace(workspace.mirror)


def publish_salt(workspace: Workspace) -> str | None:
    """Copy what the engine needs to decrypt a shared stack's secrets from the mirror into the committed file.

    Returns:
        A line that tells to commit it; None: nothing to do (dev keeps its salt to itself).
    """
    if workspace.stack == DEV:
        return None
    committed = read_yaml(workspace.source)
    made = {
        key: value for key, value in read_yaml(workspace.mirror).items() if key in SECRETS_KEYS and key not in committed
    }
    if not made:
        return None
    text = workspace.source.read_text()
    # Appended as text: the file's comments and order belong to its authors.
    workspace.source.write_text(text + ("" if text.endswith("\n") or not text else "\n") + yaml.safe_dump(made))
    return f"{workspace.source.name} now holds {', '.join(made)}: commit it, every other run of this stack needs it."


def publish_secret(workspace: Workspace, key: str) -> None:
    """Copy an encrypted value that the engine wrote into the mirror to the stack file, whose text stays otherwise.

    Raises:
        OpsError: the file's shape leaves no safe edit; the message gives the lines to write by hand.
    """
    value = read_yaml(workspace.mirror)["config"][key]
    wanted = read_yaml(workspace.source)
    wanted["config"] = {**(wanted.get("config") or {}), key: value}
    text = workspace.source.read_text()
    block = f"  {key}:\n    secure: {value['secure']}\n"
    text = re.sub(rf"^  {re.escape(key)}:\n    secure: .*\n", "", text, flags=re.MULTILINE)
    text, count = re.subn(r"^config:[ \t]*(#.*)?\n", lambda head: head[0] + block, text, flags=re.MULTILINE)
    if not count:
        text = f"{text.rstrip()}\nconfig:\n{block}"
    replace_text(workspace.source, text, wanted, f"put this below `config:`\n{block}")


def replace_text(path: Path, text: str, wanted: Mapping[str, Any], by_hand: str) -> None:
    """Replace a YAML file whose text was edited, if the edit says what is wanted and nothing else.

    Args:
        path: the file.
        text: its new text.
        wanted: what that must say.
        by_hand: what a person would do instead.

    Raises:
        OpsError: the file's shape left no safe edit; it is as it was.
    """
    try:
        same = yaml.safe_load(text) == wanted
    except yaml.YAMLError:
        same = False
    if not same:
        raise OpsError(f"{path} cannot be changed here without touching the rest of it: {by_hand}")
    replace_file(path, text)


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all; its mode stays.

    Raises:
        OpsError: it cannot be written (a full disk, no right); it is as it was.
    """
    partial = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(exist_ok=True)
        partial.write_text(text)
        if path.exists():
            partial.chmod(path.stat().st_mode)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OpsError(f"{path} cannot be written ({error.strerror}): mend that and run it again.") from None


def _encrypted(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"secure"} and isinstance(value["secure"], str)


def settings_of(workspace: Workspace, config: Mapping[str, Any], deploys: bool = True) -> Settings:
    """The stack's settings, read without the engine; encrypted values read as `[secret]`.

    Args:
        workspace: the stack's files.
        config: as `configuration` gives it.
        deploys: they are to be run, so that a stage that is promoted to must have a release.

    Raises:
        OpsError: naming every wrong key at once.
    """
    values: dict[str, Any] = {}
    for full, value in config.items():
        project, _, key = full.partition(":")
        if project == PROJECT and key != ACCEPTED:
            values[key] = _plain(value)
    try:
        return parse(values, workspace.stack if deploys or KEY in values else None)
    except SettingsError as error:
        built = f"\n`python -m images build --json {workspace.state}/images.json` makes dev's images."
        hint = (
            built
            if workspace.stack == DEV and re.search(r"(redis|api)(\.image|\.proxyImage)?: is missing", str(error))
            else ""
        )
        raise OpsError(f"{error}\nFile: {workspace.source}{hint}") from None


def declared(workspace: Workspace, images: Mapping[str, str] | None = None) -> Settings:
    """`settings_of` for a look: where the file names no image, and `images` none, any will do."""
    return settings_of(workspace, configuration(workspace, {**ANY_IMAGES, **(images or {})}), False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if _encrypted(value):
            return "[secret]"
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def passphrase_file(workspace: Workspace) -> Path:
    """The generated passphrase of dev's secrets, mode 0600; made when missing."""
    path = workspace.state / "passphrase"
    if not path.exists():
        workspace.state.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(32))
    return path
