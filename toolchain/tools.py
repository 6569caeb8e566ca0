"""What can be built: read from the go.mod files beside this module, so no version is written twice."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ToolchainError
from toolchain.paths import TOOLCHAIN

# Modules that the main job needs; a module outside this tuple is built only when it is asked for by name.
MAIN_JOB = ("pulumi", "etcd", "kubernetes", "coredns", "local-path-provisioner")

# Seconds of a first build on 2 cores with nothing cached, until CACHE/timings.json knows better.
FIRST_TIME: Mapping[str, float] = {
    "pulumi": 344,
    "kube-apiserver": 374,
    "kube-controller-manager": 174,
    "kube-scheduler": 10,
    "kubelet": 50,
    "kube-proxy": 19,
    "kubectl": 37,
    "etcd": 37,
    "coredns": 198,
    "local-path-provisioner": 112,
    "helm": 258,
}


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One program.

    Attributes:
        name: File name of the built program.
        directory: Folder with the go.mod that pins it.
        package: Go import path of its main package.
        version: Version of the module that holds the package, such as `v1.34.4`.
        go: Lowest Go version that go.mod accepts, such as `1.26.8`.
        tags: Build tags, comma-separated.
        stamp: Linker flags that write the version into the program.
    """

    name: str
    directory: Path
    package: str
    version: str
    go: str
    tags: str = ""
    stamp: str = ""

    @property
    def first_time(self) -> float:
        """Seconds that a first build takes, roughly."""
        return FIRST_TIME.get(self.name, 120)


def _options(module: str, version: str) -> dict[str, str]:
    """Build tags and version stamp of a module, as its own release build sets them."""
    if module == "github.com/pulumi/pulumi/pkg/v3":
        stamp = f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={version}"
        return {"tags": "osusergo,grpcnotrace", "stamp": stamp}
    if module == "k8s.io/kubernetes":
        major, minor, _ = version.removeprefix("v").split(".", 2)
        values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        stamp = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items())
        return {"stamp": stamp}
    return {}


def parse(go_mod: Path) -> list[Tool]:
    """Read the tools that one go.mod pins.

    Args:
        go_mod: Path of a go.mod with a `go` line and `tool` lines.

    Returns:
        One Tool per `tool` line, in the file's order.

    Raises:
        ToolchainError: A tool's module is not required by the file.
    """
    text = re.sub(r"//.*", "", go_mod.read_text())
    packages = re.findall(r"^tool\s+([^\s(]+)", text, re.M)
    for block in re.findall(r"^tool\s*\(([^)]*)\)", text, re.M):
        packages += block.split()
    versions = dict(re.findall(r"^(?:require)?\s+([^\s()]+)\s+(v[^\s]+)\s*$", text, re.M))
    go = re.search(r"^go\s+(\S+)", text, re.M)
    tools = []
    for package in packages:
        module = max((m for m in versions if f"{package}/".startswith(f"{m}/")), key=len, default="")
        if not module or not go:
            raise ToolchainError(f"{go_mod}: tool {package} has no `require` line; run `go get -tool {package}`")
        # A main package at the root of its module is called as our folder is (etcd, coredns, …).
        name = go_mod.parent.name if package == module else package.rsplit("/", 1)[-1]
        version = versions[module]
        options = _options(module, version)
        tools.append(Tool(name=name, directory=go_mod.parent, package=package, version=version, go=go[1], **options))
    return tools


@functools.cache
def all_tools() -> dict[str, Tool]:
    """Every tool by name, the main job's first."""
    rank = {name: place for place, name in enumerate(MAIN_JOB)}
    mods = sorted(TOOLCHAIN.glob("*/go.mod"), key=lambda path: (rank.get(path.parent.name, 99), path))
    return {tool.name: tool for mod in mods for tool in parse(mod)}


def select(names: list[str]) -> list[Tool]:
    """The tools asked for; a folder's name stands for all its tools, no name for the main job's.

    Raises:
        ToolchainError: A name is unknown.
    """
    known = all_tools()
    chosen: dict[str, Tool] = {}
    for name in names or MAIN_JOB:
        matches = [tool for tool in known.values() if name in (tool.name, tool.directory.name)]
        if name in known:
            matches = [known[name]]
        if not matches:
            raise ToolchainError(f"unknown tool {name!r}; there are: {', '.join(known)}", exit_code=2)
        chosen |= {tool.name: tool for tool in matches}
    return list(chosen.values())
