"""What a stack runs, as data: images by digest, the program, the settings that promotion carries.

A stage behind the second one (prod) runs what `session-store:release` in its stack file pins; `ops promote` writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from infra import VERSION
from infra.sections import Model
from infra.values import Image, Name

if TYPE_CHECKING:
    from infra.settings import Settings

KEY = "release"
IMAGES = {
    "redis": ("redis", "image"),
    "proxy": ("redis", "proxyImage"),
    "exporter": ("metrics", "exporterImage"),
    "api": ("api", "image"),
}
"""Name of an image in a release: where the settings have it."""
OWN: dict[str, set[str]] = {
    "redis": {
        "replicas",
        "proxyReplicas",
        "host",
        "port",
        "service",
        "name",
        "adoption",
        "memory",
        "cpu",
        "storage",
        "runAsUser",
    },
    "backup": {"schedule", "claimSize", "keep"},
    "api": {
        "replicas",
        "autoscaling",
        "nodePort",
        "memory",
        "cpu",
        "runAsUser",
        "existingDeployment",
        "container",
        "env",
        "trustProxy",
    },
    "tls": {"secretName", "issuer", "serverName"},
    "verify": {"loginSecret"},
    "metrics": {"scrapeNamespace", "podMonitors", "rules", "dashboard", "runbook"},
}
"""Settings that are each stack's own: sizes, hosts, replicas, names. Images are in the release itself."""
OWN_SECTIONS = {"namespace", "createNamespace", "credentials", "stages", "evidenceHours", KEY}


class Release(Model):
    """The pins in a stack file."""

    source: Name = Field(alias="from")
    """The stage that ran and proved it."""
    program: str
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    """Holds that program, for when another one is checked out."""
    images: dict[str, Image]
    settings: dict[str, dict[str, Any]] = {}
    """What promotion carries, as far as it is not the default."""
    settings_hash: str

    @property
    def id(self) -> str:
        """Names what is run; see `identity`."""
        return identity(self.images, self.settings_hash, self.program)

    def as_config(self) -> dict[str, Any]:
        """As the stack file holds it; the same release is the same text wherever it comes from."""
        dumped = self.model_dump(mode="json", by_alias=True)
        settings = {section: dict(sorted(values.items())) for section, values in sorted(dumped["settings"].items())}
        return {**dumped, "images": dict(sorted(dumped["images"].items())), "settings": settings}


def program(folder: Path = Path(__file__).parent) -> str:
    """Version and hash of a program's files: `0.1.0+<12 hex digits>`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".sh")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return f"{VERSION}+{digest.hexdigest()[:12]}"


def identity(images: Mapping[str, str], settings: str, program: str) -> str:
    """Twelve hex digits that name a release: the same images, carried settings and program, the same name."""
    text = json.dumps([dict(images), settings, program], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def images(settings: Settings) -> dict[str, str]:
    """Image by name; only where pods of the stack run it."""
    redis, mode = settings.redis, settings.redis.mode
    found = {
        "redis": redis.image,
        "proxy": redis.proxy_image if mode == "sentinel" else None,
        "exporter": settings.metrics.exporter if mode != "external" else None,
        "api": settings.api.image,
    }
    return {name: image for name, image in found.items() if image}


def carried(settings: Settings, defaults: bool = False) -> dict[str, dict[str, Any]]:
    """Section to key to value of the settings that a promotion carries. defaults: those too that have their default."""
    dumped = settings.model_dump(mode="json", by_alias=True, exclude_defaults=not defaults)
    found = {
        section: {key: value for key, value in values.items() if is_carried(section, key)}
        for section, values in dumped.items()
        if section not in OWN_SECTIONS
    }
    return {section: values for section, values in found.items() if values}


def is_carried(section: str, key: str) -> bool:
    """Whether a setting travels with the release (images are pins of their own)."""
    return section not in OWN_SECTIONS and key not in OWN.get(section, ()) and (section, key) not in IMAGES.values()


def settings_hash(settings: Settings) -> str:
    """Hash of the settings that a promotion carries: twelve hex digits."""
    return hashlib.sha256(json.dumps(carried(settings, True), sort_keys=True).encode()).hexdigest()[:12]


def describe(settings: Settings) -> dict[str, Any]:
    """{id, images: {redis, proxy, exporter, api}, settings: hash, program}."""
    found, digest, version = images(settings), settings_hash(settings), program()
    return {"id": identity(found, digest, version), "images": found, "settings": digest, "program": version}


def own_file_problems(values: Mapping[str, Any], known: Mapping[str, Collection[str]]) -> Iterator[str]:
    """What a stack file with a release may not say itself, one line per key.

    Args:
        values: of the file.
        known: section to the keys there are in it; what else is in the file is no setting.
    """
    for section, keys in values.items():
        for key in keys if isinstance(keys, Mapping) and section not in OWN_SECTIONS else ():
            if key not in known.get(section, ()):
                continue
            if is_carried(section, key) or (section, key) in IMAGES.values():
                yield f"{section}.{key}: comes with the release: remove it, change it where changes enter, and promote"


def pinned(values: Mapping[str, Any], release: Release) -> dict[str, Any]:
    """The values of a stack file with what its release pins."""
    found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for section, carried_values in release.settings.items():
        found[section] = {**found.get(section, {}), **carried_values}
    for name, (section, key) in IMAGES.items():
        part = found.get(section, {})
        if name in release.images and not part.get("existingDeployment"):
            found[section] = {**part, key: release.images[name]}
    return found
