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

    Attributes:
        host: name clients connect to, and verify in the certificate.
        port: TCP port.
        objects: what must be there before a client is started.
    """

    host: str
    port: int
    objects: list[pulumi.Resource]
