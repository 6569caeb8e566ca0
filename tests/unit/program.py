"""Runs the stack's program under Pulumi mocks and keeps what it declared."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi.runtime import mocks, rpc

DIGEST = "registry.example.org/{}@sha256:" + "ab" * 32
REDIS_IMAGE, API_IMAGE = DIGEST.format("redis"), DIGEST.format("api")


def config(**changes: Any) -> dict[str, Any]:
    """A small valid configuration; a dict value changes keys below the key."""
    values: dict[str, Any] = {"redis": {"image": REDIS_IMAGE}, "api": {"image": API_IMAGE}}
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return {
        key: {k: v for k, v in value.items() if v is not ...} if isinstance(value, dict) else value
        for key, value in values.items()
    }


def _plain(value: Any) -> Any:
    """The value without the engine's marks of what is secret."""
    if isinstance(value, dict):
        if rpc._special_sig_key in value:
            return _plain(value["value"])
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


@dataclass
class Declared(mocks.Mocks):
    """What the program declared: (kind, name) to plain inputs."""

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    secret: set[tuple[str, str]] = field(default_factory=set)
    """Objects with an input that the engine keeps encrypted."""
    outputs: dict[str, Any] = field(default_factory=dict)
    raw: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """(type, name, inputs) as the engine gets them, with its marks of what is secret."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        kind = args.typ.rsplit(":", 1)[-1]
        self.raw.append((args.typ, args.name, args.inputs))
        outputs = self.objects[kind, args.name] = _plain(args.inputs)
        if outputs != args.inputs:
            self.secret.add((kind, args.name))
        outputs = dict(outputs)
        if kind == "RandomPassword":
            outputs["result"] = f"{args.name}-".ljust(int(args.inputs["length"]), "x")
        return f"{args.name}-id", outputs

    def call(self, args: mocks.MockCallArgs) -> dict[str, Any]:
        raise AssertionError(f"the program reads nothing from outside, yet it called {args.token}")

    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.objects}

    def pod(self, kind: str, name: str) -> dict[str, Any]:
        """The pod template of a workload."""
        template: dict[str, Any] = self.objects[kind, name]["spec"]["template"]
        return template

    def container(self, kind: str, name: str) -> dict[str, Any]:
        (container,) = self.pod(kind, name)["spec"]["containers"]
        return dict(container)

    def env(self, kind: str = "Deployment", name: str = "api") -> dict[str, Any]:
        """Environment of the container: name to value, or to 'secret/key'."""
        found = {}
        for item in self.container(kind, name)["env"]:
            ref = item.get("valueFrom", {}).get("secretKeyRef")
            found[item["name"]] = f"{ref['name']}/{ref['key']}" if ref else item["value"]
        return found


def _inline() -> object:
    return runpy.run_module("infra", run_name="__main__")


def declare(values: dict[str, Any], run: Callable[[], object] = _inline, stack: str = "test") -> Declared:
    """Run the program with this configuration, as `ops` does unless `run` says otherwise."""
    declared = Declared()
    pulumi.runtime.set_mocks(declared, project="session-store", stack=stack, preview=False)
    texts = {
        f"session-store:{key}": value if isinstance(value, str) else json.dumps(value) for key, value in values.items()
    }
    pulumi.runtime.set_all_config(texts)
    original = pulumi.export
    try:
        pulumi.export = declared.outputs.__setitem__
        pulumi.runtime.test(lambda: run() and None)()
    finally:
        pulumi.export = original
    return declared
