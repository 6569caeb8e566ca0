"""Changes one setting of Pulumi.<stack>.yaml as a person would: comments, order and style stay."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import yaml

from infra.settings import PROJECT
from ops.errors import OpsError
from ops.workspace import read_yaml, replace_text

CREDENTIALS = f"{PROJECT}:credentials"


def set_credentials(path: Path, changes: Mapping[str, int]) -> bool:
    """Set keys below `session-store:credentials`.

    Args:
        path: the stack file.
        changes: key (camelCase) to value.

    Returns:
        Whether the file had to change.

    Raises:
        OpsError: the file's shape leaves no safe edit; the message gives the lines to write by hand.
    """
    present = read_yaml(path)
    wanted = copy.deepcopy(present)
    config = wanted["config"] = wanted.get("config") or {}
    lines = [f"  {CREDENTIALS}:", *(f"    {key}: {value}" for key, value in changes.items())]
    by_hand = "\n".join(["put this below `config:`", *lines])
    section = config.get(CREDENTIALS)
    if not isinstance(config, dict) or not isinstance(section, dict | None) or "secure" in (section or {}):
        raise OpsError(f"{path} cannot be changed here: {by_hand}")
    config[CREDENTIALS] = {**(section or {}), **changes}
    if wanted == present:
        return False
    text = path.read_text()
    for key, value in changes.items():
        text = _set(text, key, value)
    replace_text(path, text, wanted, by_hand)
    return True


def _set(text: str, key: str, value: int) -> str:
    """The text with one key set; `set_credentials` checks what came of it."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    config = _child(root, "config")
    if config is None or not _entries(config):
        block = f"config:\n  {CREDENTIALS}:\n    {key}: {value}\n"
        if config is None:
            return _ended(text) + block
        start = text.rindex("config", 0, config.start_mark.index)
        return text[:start] + block + text[config.end_mark.index :].lstrip("\n")
    section = _child(config, CREDENTIALS)
    if section is None:
        return _add(text, config, CREDENTIALS, f"{{{key}: {value}}}")
    if not isinstance(section, yaml.MappingNode) or not section.value:
        start, end = section.start_mark.index, section.end_mark.index
        return f"{text[:start].rstrip(' ')} {{{key}: {value}}}{text[end:]}"
    old = _child(section, key)
    if old is None:
        return _add(text, section, key, str(value))
    return text[: old.start_mark.index] + str(value) + text[old.end_mark.index :]


def _add(text: str, mapping: yaml.Node, key: str, value: str) -> str:
    """A new last entry of a mapping that has others, in the mapping's own style."""
    first, last = mapping.value[0][0], mapping.value[-1][1]
    end = _content_end(last)
    if isinstance(mapping, yaml.MappingNode) and mapping.flow_style:
        return f"{text[:end]}, {key}: {value}{text[end:]}"
    newline = text.find("\n", end)
    after = len(text) if newline < 0 else newline + 1  # a comment behind the last value stays with it
    return f"{_ended(text[:after])}{' ' * first.start_mark.column}{key}: {value}\n{text[after:]}"


def _content_end(node: yaml.Node) -> int:
    """Where a value's own text ends; a block's end mark lies behind the comments that follow it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _content_end(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _content_end(node.value[-1])
    return int(node.end_mark.index)


def _entries(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return list(node.value) if isinstance(node, yaml.MappingNode) else []


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    return next((value for name, value in _entries(node) if name.value == key), None)


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"
