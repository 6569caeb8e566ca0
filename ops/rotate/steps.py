"""A rotation as people see it: a numbered list of steps, each done, or waiting for something it names."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from redis.exceptions import RedisError
from rich.console import Console

from infra.settings import Settings
from ops import kube, progress, stacks, tls
from ops.engine import Event
from ops.errors import OpsError

PATIENCE = 180.0
"""Seconds that all pods may take to follow a change; kubelet alone, without a nudge, takes up to about 90."""
NUDGE_EVERY = 15.0
NO_ANSWER = (OSError, RedisError, *kube.API_ERRORS)


class Pods(Protocol):
    """What a rotation needs of the running stack; `fleet.Fleet` is it, tests bring their own."""

    settings: Settings

    def secret(self, name: str) -> dict[str, str]: ...  # noqa: D102
    def note(self, secret: str, key: str) -> dict[str, Any]: ...  # noqa: D102
    def write_note(self, secret: str, key: str, value: dict[str, Any]) -> None: ...  # noqa: D102
    def redis_pods(self) -> list[str]: ...  # noqa: D102
    def proxy_pods(self) -> list[str]: ...  # noqa: D102
    def nudge(self, now: datetime, api_too: bool = False) -> None: ...  # noqa: D102
    def rolled_out(self) -> str | None: ...  # noqa: D102
    def accepts(self, pod: str, password: str, port: int | None = None) -> bool: ...  # noqa: D102
    def only(self, pod: str, password: str) -> bool: ...  # noqa: D102
    def served(self, pod: str, port: int) -> str: ...  # noqa: D102
    def trusted(self) -> list[tuple[str, str | None]]: ...  # noqa: D102


class Steps:
    """Runs steps one after the other and shows them."""

    def __init__(self, console: Console, again: str, now: Callable[[], datetime] = tls.utc_now) -> None:
        self._console, self._again, self.now = console, again, now
        self._number = 0

    def say(self, line: str) -> None:
        """One line for people."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def step(self, title: str, run: Callable[[], str]) -> None:
        """Do one step; `run` returns what came of it.

        Raises:
            OpsError: it failed; the message ends with the command that goes on from here.
        """
        self._number += 1
        self._console.print(f"{self._number}. {title}", style="bold", markup=False, highlight=False, soft_wrap=True)
        begin = time.monotonic()
        try:
            outcome = run()
        except OpsError as error:
            raise OpsError(f"✗ {title}: {error}\n`{self._again}` goes on from here.", error.code) from None
        self.say(f"   ✓ {outcome} ({time.monotonic() - begin:.1f} s)")

    def wait(self, left: Callable[[], str | None], fleet: Pods | None = None, api_too: bool = False) -> None:
        """Until nothing is left to wait for, nudging the pods now and then.

        Args:
            left: what is still waited for; None: nothing.
            fleet: whose pods to nudge; None: nobody's.
            api_too: nudge the API's pods too.

        Raises:
            OpsError: the time is over; the message says what was waited for.
        """
        end, nudged = time.monotonic() + PATIENCE, 0.0
        with self._console.status("…") as status:
            while True:
                if fleet and time.monotonic() - nudged > NUDGE_EVERY:
                    fleet.nudge(self.now(), api_too)
                    nudged = time.monotonic()
                try:
                    reason = left()
                except NO_ANSWER as error:
                    reason = f"no answer ({' '.join(str(getattr(error, 'reason', None) or error).split())[:160]})"
                if reason is None:
                    return
                if time.monotonic() > end:
                    raise OpsError(f"after {PATIENCE:.0f} s still: {reason}")
                status.update(reason)
                time.sleep(0.5)


def nudging(fleet: Pods, now: Callable[[], datetime]) -> Callable[[Event], None]:
    """A listener of the engine that nudges the pods whenever a Secret was written.

    The API's rollout, later in the same `up`, waits for Redis to accept the new password.
    """

    def listen(event: Event) -> None:
        done = event.res_outputs_event
        if done and done.metadata.type == "kubernetes:core/v1:Secret" and str(done.metadata.op.value) != "same":
            with contextlib.suppress(*NO_ANSWER):  # kubelet comes by itself, within a minute or so
                fleet.nudge(now())

    return listen


def up(target: stacks.Target, steps: Steps, fleet: Pods) -> str:
    """`ops up`, with the pods nudged; what changed."""
    done = stacks.up(target, listen=nudging(fleet, steps.now))
    return progress.summary(done.changes)
