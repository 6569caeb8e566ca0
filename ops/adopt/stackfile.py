"""The stack file of an adoption: the proposal, and the one line in it that says how far it is."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

from infra.settings import PROJECT
from ops.errors import OpsError
from ops.workspace import read_yaml, replace_text

REDIS = f"{PROJECT}:redis"
NOTE = "# `ops adopt` writes this line, and takes it out again"


def set_adoption(path: Path, stage: str | None) -> bool:
    """Set or remove `session-store:redis: adoption`; the rest of the file stays as people wrote it.

    Returns:
        Whether the file had to change.

    Raises:
        OpsError: the file's shape leaves no safe edit; the message says what to write by hand.
    """
    present = read_yaml(path)
    wanted: dict[str, Any] = copy.deepcopy(present)
    section = (wanted.get("config") or {}).get(REDIS)
    by_hand = f"in {REDIS}, " + (f"set `adoption: {stage}`" if stage else "remove `adoption`")
    if not isinstance(section, dict):
        raise OpsError(f"{path} has no section {REDIS}: {by_hand}")
    if stage:
        section["adoption"] = stage
    else:
        section.pop("adoption", None)
    if wanted == present:
        return False
    line = f"    adoption: {stage} {NOTE}\n" if stage else ""
    text, count = re.subn(r"^ +adoption: .*\n", line, path.read_text(), flags=re.MULTILINE)
    if not count:
        text = re.sub(rf"^  {re.escape(REDIS)}:[ \t]*\n", lambda head: head[0] + line, text, flags=re.MULTILINE)
    replace_text(path, text, wanted, by_hand)
    return True
