"""The same image under another digest: what a Redis upgrade looks like to everything but Redis."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any


def variant(archive: Path, note: str, target: Path, **env: str) -> str:
    """Copy an OCI archive, with an environment variable added to its configuration.

    Args:
        archive: as `python -m images build` writes it.
        note: value of the variable, which makes the digest another one.
        target: the new archive.
        env: further variables.

    Returns:
        The new image's `name@digest`.
    """
    with tarfile.open(archive) as source:
        files = {m.name: m for m in source.getmembers() if m.isfile()}

        def load(name: str) -> Any:
            content = source.extractfile(files.pop(name))
            return json.load(content) if content else None

        index = load("index.json")
        entry = index["manifests"][0]
        manifest = load(_blob(entry["digest"]))
        config = load(_blob(manifest["config"]["digest"]))
        config["config"]["Env"] = [
            *config["config"].get("Env", []),
            *(f"{key}={value}" for key, value in {"SESSION_STORE_BENCH": note, **env}.items()),
        ]
        changed = _add(manifest["config"], config)
        changed |= _add(entry, manifest)
        for key, value in entry.get("annotations", {}).items():
            entry["annotations"][key] = f"{value.rpartition(':')[0]}:{entry['digest'][7:19]}" if ":" in value else value
        changed["index.json"] = json.dumps(index).encode()
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as copy:
            for member in files.values():
                copy.addfile(member, source.extractfile(member))
            for name, content in changed.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(content), 0o644
                copy.addfile(info, io.BytesIO(content))
    name = entry["annotations"]["io.containerd.image.name"].rpartition(":")[0]
    return f"{name}@{entry['digest']}"


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _add(descriptor: dict[str, Any], content: Any) -> dict[str, bytes]:
    """Point a descriptor at new content: file name -> content."""
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    descriptor.update(digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size=len(data))
    return {_blob(descriptor["digest"]): data}
