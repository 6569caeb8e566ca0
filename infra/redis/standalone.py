"""One Redis: requirepass, TLS and AOF as configured."""

from __future__ import annotations

import pulumi

from infra.redis import conf
from infra.redis.members import Members
from infra.redis.store import SessionStoreArgs


class Standalone(Members):
    """One pod behind the Service `redis.service`."""

    def __init__(self, name: str, args: SessionStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args, opts)
        stateful_set = self._stateful_set()
        service = self._service(self._match, [stateful_set])
        self.host, self.port, self.objects = args.settings.redis.service, conf.PORT, [stateful_set, *service]
        self.register_outputs({"host": self.host, "port": self.port})
