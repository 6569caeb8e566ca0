"""Where two property trees differ, in the engine's paths: `spec.containers[0].env`, `metadata.labels["a.b/c"]`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from toolchain.plugins.wire import UNKNOWN

Path = tuple[str | int, ...]
ADD, DELETE, UPDATE = "ADD", "DELETE", "UPDATE"
_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$]*")
_STEP = re.compile(r'\.?([^.\["\]]+)|\[(\d+|\*)\]|\["((?:[^"\\]|\\.)*)"\]')


def differences(old: Any, new: Any, path: Path = ()) -> dict[Path, str]:
    """Paths of the smallest parts that differ, each with ADD, DELETE or UPDATE. Trees must hold no secret marks."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[Path, str] = {}
        for key in sorted({*old, *new}):
            found |= _item(old, new, key, key in old, key in new, path)
        return found
    if isinstance(old, list) and isinstance(new, list):
        found = {}
        for index in range(max(len(old), len(new))):
            found |= _item(old, new, index, index < len(old), index < len(new), path)
        return found
    # True == 1 in Python, not in a manifest.
    same = old == new and isinstance(old, bool) == isinstance(new, bool) and new is not UNKNOWN
    return {} if same else {path: UPDATE}


def _item(old: Any, new: Any, key: Any, in_old: bool, in_new: bool, path: Path) -> dict[Path, str]:
    here = (*path, key)
    if not in_old:
        return {here: ADD}
    if not in_new:
        return {here: DELETE}
    return differences(old[key], new[key], here)


def text(path: Path) -> str:
    """A path as the engine writes it."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            out += f".{step}" if out else step
        else:
            out += f"[{json.dumps(step)}]"
    return out


def parse(written: str) -> Path:
    """The steps of a written path; Kubernetes' own form, with a leading dot, too."""
    steps: list[str | int] = []
    for key, index, quoted in _STEP.findall(written):
        if key:
            steps.append(key)
        elif index:
            steps.append(int(index) if index.isdigit() else index)
        else:
            steps.append(json.loads(f'"{quoted}"'))
    return tuple(steps)


def within(path: Path, area: Path) -> bool:
    """Whether a path is this area or lies inside it; `*` in the area stands for any step."""
    return len(path) >= len(area) and all(want in ("*", got) for want, got in zip(area, path, strict=False))


def lookup(tree: Any, path: Path) -> Any:
    """The part at a path, or None."""
    for step in path:
        if isinstance(tree, Mapping):
            tree = tree.get(step)
        elif isinstance(tree, list) and isinstance(step, int) and step < len(tree):
            tree = tree[step]
        else:
            return None
    return tree
