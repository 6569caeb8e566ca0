"""Redis, one component per mode behind the type `SessionStore`."""

from __future__ import annotations

import pulumi

from infra.redis.external import External
from infra.redis.sentinel import Sentinel
from infra.redis.standalone import Standalone
from infra.redis.store import SessionStore, SessionStoreArgs

__all__ = ["External", "Sentinel", "SessionStore", "SessionStoreArgs", "Standalone", "session_store"]

MODES: dict[str, type[External] | type[Sentinel] | type[Standalone]] = {
    "standalone": Standalone,
    "sentinel": Sentinel,
    "external": External,
}


def session_store(name: str, args: SessionStoreArgs, opts: pulumi.ResourceOptions | None = None) -> SessionStore:
    """The component that `redis.mode` asks for."""
    return MODES[args.settings.redis.mode](name, args, opts)
