"""The pins in a stack file, and what a release differs in from another."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import yaml
from pydantic import ValidationError

from infra import release as releases
from infra.release import KEY, Release
from infra.settings import PROJECT, Settings
from ops import workspace
from ops.errors import OpsError
from ops.workspace import Workspace

FULL = f"{PROJECT}:{KEY}"


def read(where: Workspace) -> Release | None:
    """What a stack file pins; None: nothing.

    Raises:
        OpsError: pins that no promotion wrote.
    """
    found = (workspace.read_yaml(where.source).get("config") or {}).get(FULL)
    try:
        return Release.model_validate(found) if found else None
    except ValidationError as error:
        what = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise OpsError(f"{where.source}: {FULL} was not written by a promotion ({what}): `git checkout` it.") from None


def write(where: Workspace, release: Release) -> None:
    """Pin a release in a stack file, whose text stays otherwise.

    Raises:
        OpsError: the file's shape leaves no safe edit; the message gives the lines to write by hand.
    """
    present = workspace.read_yaml(where.source)
    wanted = copy.deepcopy(present)
    config = wanted["config"] = wanted.get("config") or {}
    config[FULL] = release.as_config()
    body = yaml.safe_dump(release.as_config(), sort_keys=False, width=1000)
    block = f"  {FULL}: # written by `ops promote`\n" + "".join(f"    {line}\n" for line in body.splitlines())
    if wanted == present:
        return
    text = where.source.read_text()
    text = text if text.endswith("\n") or not text else f"{text}\n"
    old = re.compile(rf"^  {re.escape(FULL)}:.*\n(?:    .*\n)*", re.MULTILINE)
    if old.search(text):
        text = old.sub(lambda _: block, text, count=1)
    else:
        # At the end of `config`, before the next key at the left margin.
        head = re.search(r"^config:.*\n(?:(?:[ #].*)?\n)*", text, re.MULTILINE)
        at = head.end() if head else len(text)
        text = f"{text[:at]}{'' if head else 'config:' + chr(10)}{block}{text[at:]}"
    workspace.replace_text(where.source, text, wanted, f"put this below `config:`\n{block}")


def of_stage(stage: str, outputs: dict[str, Any], settings: Settings, commit: str) -> Release:
    """The release that a stage runs.

    Args:
        stage: its name.
        outputs: of the stack.
        settings: the stack's, as it was deployed.
        commit: that holds its program.
    """
    runs = outputs["release"]
    return Release.model_validate(
        {
            "from": stage,
            "program": runs["program"],
            "commit": commit,
            "images": runs["images"],
            "settings": releases.carried(settings),
            "settingsHash": runs["settings"],
        }
    )


def differences(old: Release | None, new: Release) -> list[tuple[str, str, str]]:
    """(what, before, after) of images, settings and program; "" where there is nothing."""
    before, after = (_flat(release) if release else {} for release in (old, new))
    return [
        (key, before.get(key, ""), after.get(key, ""))
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _flat(release: Release) -> dict[str, str]:
    found = {f"image {name}": image for name, image in release.images.items()}
    found["program"] = release.program
    for section, values in release.settings.items():
        for key, value in values.items():
            found[f"{section}.{key}"] = value if isinstance(value, str) else json.dumps(value)
    return found
