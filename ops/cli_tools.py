"""The Pulumi CLI, its plugins and its environment: what is installed, what was built here, what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ops.errors import OpsError
from ops.workspace import DEV, Workspace, passphrase_file, read_yaml

VERSION = importlib.metadata.version("pulumi")
PLUGINS = {"kubernetes": "pulumi-kubernetes", "random": "pulumi-random"}
"""Provider plugins the program needs, by the Python package that pins their version."""


def cache_bin() -> Path:
    """Where `python -m toolchain` puts what it builds."""
    base = os.environ.get("SESSION_STORE_CACHE")
    if base:
        return Path(base) / "bin"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "session-store" / "bin"


def pulumi_home() -> Path:
    """The user's Pulumi folder."""
    return Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")


@dataclass(frozen=True)
class Tools:
    """What runs a stack.

    Attributes:
        pulumi: path of the CLI.
        plugins: provider name to `installed`, `stand-in` or `downloaded on first use`.
        environment: variables for the engine, on top of this process's own.
    """

    pulumi: Path
    plugins: dict[str, str]
    environment: dict[str, str]

    def __str__(self) -> str:
        plugins = ", ".join(f"{name} ({kind})" for name, kind in self.plugins.items())
        return f"pulumi {VERSION} ({self.pulumi}), plugins {plugins}"


def _version(pulumi: str) -> str | None:
    environment = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        answer = subprocess.run(
            [pulumi, "version"], capture_output=True, text=True, timeout=30, env=environment, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip().removeprefix("v")


def find() -> Tools:
    """The CLI of the pinned version and its plugins: installed ones first, then those built here.

    Raises:
        OpsError: there is no CLI of that version, or a plugin is missing and cannot be fetched.
    """
    built = cache_bin()
    installed = shutil.which("pulumi")
    if installed and Path(installed).parent == built:
        installed = None
    found = _version(installed) if installed else None
    if installed and found == VERSION:
        pulumi = Path(installed)
    elif _version(str(built / "pulumi")) == VERSION:
        pulumi = built / "pulumi"
    else:
        other = f" (the one on PATH, {installed}, is {found or 'unusable'})" if installed else ""
        raise OpsError(f"The Pulumi CLI {VERSION} is not here{other}: run `python -m toolchain build pulumi`.")
    plugins = {name: _plugin(name, package, built, pulumi) for name, package in PLUGINS.items()}
    environment = {"PULUMI_SKIP_UPDATE_CHECK": "true", "PATH": os.environ.get("PATH", os.defpath)}
    if "stand-in" in plugins.values():
        environment["PATH"] = f"{built}{os.pathsep}{environment['PATH']}"
        environment["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] = "true"
        # Their launchers are shared by clones; this run uses its own clone's.
        environment |= {"SESSION_STORE_REPO": str(Path(__file__).parents[1]), "SESSION_STORE_PYTHON": sys.executable}
    return Tools(pulumi, plugins, environment)


def _plugin(name: str, package: str, built: Path, pulumi: Path) -> str:
    program = f"pulumi-resource-{name}"
    version = importlib.metadata.version(package)
    if (pulumi_home() / "plugins" / f"resource-{name}-v{version}" / program).exists():
        return "installed"
    elsewhere = shutil.which(program)
    if elsewhere and Path(elsewhere).parent != built:
        return "installed"
    if (built / program).exists():
        return "stand-in"
    if pulumi.parent == built:
        raise OpsError(f"The plugin {program} {version} is not here: run `python -m toolchain plugins`.")
    return "downloaded on first use"


def backend(workspace: Workspace) -> dict[str, str]:
    """Where the state is kept: the user's choice, else a folder in `.state`.

    Named also where the engine would find it by itself (Pulumi.yaml, `pulumi login`): locks are looked up there.
    """
    if os.environ.get("PULUMI_BACKEND_URL"):
        return {}
    login = pulumi_home() / "credentials.json"
    declared = (read_yaml(workspace.repo / "Pulumi.yaml").get("backend") or {}).get("url")
    if workspace.stack != DEV and (declared or login.is_file()):
        url = declared or read_yaml(login).get("current")  # JSON is YAML
        return {"PULUMI_BACKEND_URL": str(url)} if url else {}
    folder = workspace.state / "backend"
    folder.mkdir(parents=True, exist_ok=True)
    return {"PULUMI_BACKEND_URL": f"file://{folder}"}


def passphrase(workspace: Workspace, backend_environment: dict[str, str]) -> dict[str, str]:
    """What opens the stack's secrets.

    Raises:
        OpsError: a shared stack with the passphrase provider, and no passphrase given.
    """
    if "PULUMI_CONFIG_PASSPHRASE" in os.environ or os.environ.get("PULUMI_CONFIG_PASSPHRASE_FILE"):
        return {}
    if workspace.stack == DEV:
        return {"PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase_file(workspace))}
    stack = read_yaml(workspace.source)
    provider = stack.get("secretsprovider", "passphrase" if "encryptionsalt" in stack else None)
    url = (backend_environment or os.environ).get("PULUMI_BACKEND_URL", "")
    if provider == "passphrase" or (provider is None and url and not url.startswith("https:")):
        raise OpsError(
            f"Stack {workspace.stack} encrypts its secrets with a passphrase: "
            "set PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE to the one your team keeps."
        )
    return {}
