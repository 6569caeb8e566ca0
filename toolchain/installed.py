"""Pulumi programs that the machine already has: the CLI and plugins, used when their version is the pinned one."""

import importlib.metadata
import os
import select
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.tools import Tool

PLUGIN_TIMEOUT_S = 20.0
PLUGINS = ("kubernetes", "random")


@dataclass(frozen=True)
class Plugin:
    """A resource plugin: its short name, pinned version (no leading v), program, and whether it is official."""

    name: str
    version: str
    path: Path
    official: bool


def _elsewhere(program: str) -> Path | None:
    """A program on PATH, or in Pulumi's own folder, that is not one of ours."""
    own = paths.cache().resolve()
    folders = [*os.environ.get("PATH", "").split(os.pathsep), str(_pulumi_home() / "bin")]
    for folder in folders:
        found = shutil.which(program, path=folder) if folder else None
        if found and not Path(found).resolve().is_relative_to(own):
            return Path(found)
    return None


def _pulumi_home() -> Path:
    return Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=PLUGIN_TIMEOUT_S,
            env=os.environ | {"PULUMI_SKIP_UPDATE_CHECK": "true"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""


def _reported_version(program: Path) -> str:
    """Version that a plugin answers over gRPC, the one way all plugins share; empty when it does not."""
    command = [str(program), "127.0.0.1:1"]  # the engine's address, which a plugin needs for its logs only
    import grpc  # these three take a second to load, and are rarely needed
    from google.protobuf import empty_pb2
    from pulumi.runtime.proto import provider_pb2_grpc

    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return ""
    try:
        assert process.stdout is not None  # noqa: S101  (PIPE above)
        ready = select.select([process.stdout], [], [], PLUGIN_TIMEOUT_S)[0]
        port = process.stdout.readline().strip() if ready else ""
        if not port.isdigit():
            return ""
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = provider_pb2_grpc.ResourceProviderStub(channel)
            answer = stub.GetPluginInfo(empty_pb2.Empty(), timeout=PLUGIN_TIMEOUT_S)
        return str(answer.version).removeprefix("v")
    except grpc.RpcError:
        return ""
    finally:
        process.kill()
        process.wait()


def installed(tool: Tool) -> Path | None:
    """A `pulumi` of the pinned version that is already here; None for any other tool or version."""
    found = _elsewhere("pulumi") if tool.name == "pulumi" else None
    return found if found and _first_line([str(found), "version"]) == tool.version else None


def plugin_version(name: str) -> str:
    """Version of plugin `name` that the program asks for: the one of its Python SDK, as requirements.txt pins it.

    Raises:
        ToolchainError: The SDK is not installed in this Python.
    """
    package = f"pulumi-{name}"
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ToolchainError(
            f"{package} is not installed in {sys.executable}: run `pip install -r requirements.txt` with it"
        ) from None


def official_plugin(name: str) -> Path | None:
    """The official plugin at the pinned version: in Pulumi's plugin folder, or on PATH if it says so itself."""
    version, program = plugin_version(name), f"pulumi-resource-{name}"
    path = _pulumi_home() / "plugins" / f"resource-{name}-v{version}" / program
    if os.access(path, os.X_OK):
        return path
    found = _elsewhere(program)
    return found if found and _reported_version(found) == version else None


def plugin(name: str) -> Plugin:
    """Which program serves plugin `name`: the official one if it is here, else our stand-in's launcher."""
    path = official_plugin(name)
    ours = paths.bin_dir() / f"pulumi-resource-{name}"
    return Plugin(name, plugin_version(name), path or ours, official=path is not None)


def install_plugin(name: str) -> Plugin:
    """Make the engine find plugin `name`: write the stand-in's launcher, or take it away if there is an official one.

    A program of that name on PATH beats the plugin folder, so a launcher left from before must go.
    """
    chosen = plugin(name)
    launcher = paths.bin_dir() / f"pulumi-resource-{name}"
    if chosen.official:
        launcher.unlink(missing_ok=True)
        return chosen
    launcher.parent.mkdir(parents=True, exist_ok=True)
    temp = launcher.with_name(f".{launcher.name}.{os.getpid()}")
    temp.write_text(
        "#!/bin/sh\n# Stand-in for development and CI; written by `python -m toolchain plugins`.\n"
        # Clones share the cache: `ops` says whose code to run, since the clone that wrote this may be gone.
        f': "${{SESSION_STORE_REPO:={paths.REPO}}}" "${{SESSION_STORE_PYTHON:={sys.executable}}}"\n'
        'export PYTHONPATH="$SESSION_STORE_REPO${PYTHONPATH:+:$PYTHONPATH}"\n'
        f'exec "$SESSION_STORE_PYTHON" -m toolchain.plugins.{name} "$@"\n'
    )
    temp.chmod(0o755)
    temp.replace(launcher)
    return chosen
