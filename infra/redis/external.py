"""A Redis that somebody else runs (a managed service): only the wiring is ours."""

from __future__ import annotations

import pulumi

from infra.redis.store import SessionStore, SessionStoreArgs


class External(SessionStore):
    """Declares nothing in the cluster; carries the endpoint."""

    def __init__(self, name: str, args: SessionStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args, opts)
        redis = args.settings.redis
        if redis.host is None:
            raise ValueError("settings of mode external carry a host; infra.settings checks it")
        self.host, self.port, self.objects = redis.host, redis.port, []
        self.register_outputs({"host": self.host, "port": self.port})
