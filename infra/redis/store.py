"""The one type behind which every Redis mode stands."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.settings import Settings


@dataclass(frozen=True)
class SessionStoreArgs:
    """What every mode needs."""

    settings: Settings


class SessionStore(pulumi.ComponentResource):
    """A Redis that the API can be wired to.

    Every mode has the same type: what two modes both declare, the Services, stays when the mode changes.

    Attributes:
        host: name clients connect to, and verify in the certificate.
        port: TCP port.
        objects: what must be there before a client is started.
    """

    host: str
    port: int
    objects: list[pulumi.Resource]

    def __init__(self, name: str, args: SessionStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("sessionstore:redis:SessionStore", name, None, opts)
        self._settings = args.settings
