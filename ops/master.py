"""The running store's master, found again when it is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from kubernetes.client import ApiException

from ops.errors import OpsError

TRANSIENT = ("You can't write against a read only", "NOREPLICAS", "Link with MASTER", "MASTERDOWN", "READONLY")
"""What a store says that is about to have a master again."""
OURS = b"session-store:"
"""Keys of the machinery itself (the agent's heartbeat): not sessions, and never brought back."""
Answer = TypeVar("Answer")


class Store:
    """One database of the running store's master, found again when it is lost."""

    def __init__(self, connect: Callable[[], redis.Redis]) -> None:
        self._connect, self._client = connect, None  # type: tuple[Callable[[], redis.Redis], redis.Redis | None]

    def client(self) -> redis.Redis:
        """Of the present master."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def lost(self) -> None:
        """It does not answer, or is no master any more."""
        self._client = None


def persist(
    work: Callable[[Any], Answer], live: Store, patience: float, failed: str = "The store does not take the backup"
) -> Answer:
    """Do one step that may be done again, through a failover if need be.

    Args:
        work: the step; gets a client of the master.
        live: the store.
        patience: seconds that it may be without a master.
        failed: what did not work, for people.

    Raises:
        OpsError: the store does not do it.
    """
    end = time.monotonic() + patience
    while True:
        try:
            return work(live.client())
        except redis.OutOfMemoryError:
            raise OpsError(
                "The store is full (maxmemory): raise session-store:redis.memory, run `ops up`, and run this again."
            ) from None
        except (redis.RedisError, OSError, ApiException, OpsError) as error:
            live.lost()
            refused = isinstance(error, redis.ResponseError) and not str(error).startswith(TRANSIENT)
            if refused or time.monotonic() > end:
                raise OpsError(f"{failed}: {error}. Running this again goes on from here.") from None
            time.sleep(0.5)
