"""The builder: what it would build, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain import gobuild, installed, paths
from toolchain.errors import ToolchainError
from toolchain.tools import all_tools, parse, select

TARGET = "go1.26.8 linux amd64 v1"


def copy(tmp_path: Path, name: str = "etcd") -> Path:
    return Path(shutil.copytree(paths.TOOLCHAIN / name, tmp_path / name))


def test_every_pinned_tool_is_known_with_its_version() -> None:
    tools = all_tools()
    assert {"pulumi", "kubectl", "kubelet", "kube-apiserver", "etcd", "coredns"} <= tools.keys()
    assert tools["kubelet"].version == tools["kubectl"].version
    assert tools["kubelet"].version in tools["kubelet"].stamp


def test_cli_and_sdk_of_pulumi_are_the_same_version() -> None:
    pins = (paths.REPO / "requirements.txt").read_text()
    assert f"\npulumi=={all_tools()['pulumi'].version.removeprefix('v')} " in pins


def test_a_folders_name_stands_for_all_its_tools() -> None:
    assert {tool.name for tool in select(["kubernetes"])} >= {"kubelet", "kube-proxy", "kubectl"}
    assert [tool.name for tool in select(["etcd"])] == ["etcd"]


@pytest.mark.parametrize("changed", ["go.mod", "go.sum"])
def test_changed_pins_give_another_build(tmp_path: Path, changed: str) -> None:
    folder = copy(tmp_path)
    (before,) = parse(folder / "go.mod")
    key = gobuild.cache_key(before, TARGET)
    with (folder / changed).open("a") as file:
        file.write("\n// changed\n")
    assert gobuild.cache_key(before, TARGET) != key


def test_another_go_platform_or_flag_gives_another_build() -> None:
    tool = all_tools()["etcd"]
    keys = {
        gobuild.cache_key(tool, TARGET),
        gobuild.cache_key(tool, "go1.27.3 linux amd64 v1"),
        gobuild.cache_key(tool, "go1.26.8 linux arm64 v8.0"),
        gobuild.cache_key(dataclasses.replace(tool, stamp="-X main.v=1"), TARGET),
    }
    assert len(keys) == 4


def test_unknown_tool_is_told_with_what_there_is() -> None:
    with pytest.raises(ToolchainError, match=r"unknown tool 'terraform'; there are: pulumi, etcd"):
        select(["terraform"])


def test_missing_go_is_told_with_the_version_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    tool = all_tools()["etcd"]
    with pytest.raises(ToolchainError, match=rf"building etcd {tool.version} needs Go {tool.go} or newer, and no `go`"):
        gobuild.go_target(tool)


def test_a_pulumi_of_the_pinned_version_is_used_and_another_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, program = all_tools()["pulumi"], tmp_path / "pulumi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for version, expected in ((tool.version, program), ("v3.1.0", None)):
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(0o755)
        assert installed.installed(tool) == expected


def test_a_stand_in_runs_the_code_of_the_clone_that_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_STORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "home"))
    launcher = installed.install_plugin("random").path
    clone = tmp_path / "clone" / "toolchain" / "plugins" / "random"
    clone.mkdir(parents=True)
    (clone / "__main__.py").write_text("print('this clone')")
    monkeypatch.setenv("SESSION_STORE_REPO", str(tmp_path / "clone"))
    monkeypatch.setenv("SESSION_STORE_PYTHON", sys.executable)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert subprocess.run([launcher], capture_output=True, text=True, cwd="/").stdout == "this clone\n"


def test_command_line_says_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", "path", "terraform"], cwd=paths.REPO, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown tool 'terraform'")
    assert "Traceback" not in done.stderr
