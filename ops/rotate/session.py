"""A new session secret: cookies are signed with it, those of the old one stay valid as long as they live.

One rolling update moves the signing: its secret was known to every pod beforehand (`infra/credentials.py`). When each
generation began to sign is noted on the Secret; it says how long the one before it can still be needed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from infra.settings import Settings
from ops.errors import OpsError
from ops.rotate.password import Edit
from ops.rotate.steps import Pods, Steps

NOTE = "session-store/sessions-signed"
"""Annotation of the session secret's Secret: {"since": {generation: when no pod signed with an older one any more},
"rotating": the generation that a run is moving to}."""


class Times:
    """When which generation began to be the only one that signs."""

    def __init__(self, fleet: Pods, now: datetime) -> None:
        self._fleet, self._secret = fleet, fleet.settings.credentials.session_secret
        note = fleet.note(self._secret, NOTE)
        self.rotating: int | None = note.get("rotating")
        self.since = {int(key): datetime.fromisoformat(value) for key, value in (note.get("since") or {}).items()}
        present = fleet.settings.credentials.session_secrets[0]
        if present > 1 and present not in self.since and present != self.rotating:
            self.since[present] = now  # it was changed by hand; that was before now

    def needed_until(self, generation: int, now: datetime) -> datetime:
        """When the last cookie that this generation signed is over."""
        return self.since.get(generation + 1, now) + timedelta(seconds=self._fleet.settings.sessions.ttl_seconds)

    def write(self) -> None:
        """Keep the note."""
        since = {str(key): value.isoformat(timespec="seconds") for key, value in sorted(self.since.items())}
        note: dict[str, Any] = {"since": since}
        if self.rotating:
            note["rotating"] = self.rotating
        self._fleet.write_note(self._secret, NOTE, note)


def rotate(fleet: Pods, steps: Steps, edit: Edit, up: Callable[[], str]) -> None:
    """Rotate the session secret, or finish the rotation that was begun.

    Raises:
        OpsError: the Secret is somebody else's, or a step failed.
    """
    refuse(fleet.settings)
    times, present = Times(fleet, steps.now()), fleet.settings.credentials.session_secrets
    if times.rotating == present[0]:
        newest = present[0]
        steps.say(f"Session secret {newest} was begun before: going on with it.")
    else:
        newest = present[0] + 1

        def declare() -> str:
            alive = [g for g in present if g == present[0] or times.needed_until(g, steps.now()) > steps.now()]
            times.rotating = newest
            times.write()
            return edit({"sessionGeneration": newest, "oldestSession": min(alive)})

        # An update that is half done could leave pods that do not know the next secret yet.
        steps.step("Every API pod knows the next session secret", lambda: f"{up()}; {_moved(fleet, steps)}")
        steps.step(f"Session secret {newest} is declared", declare)
    steps.step("The API is updated, pod by pod", up)
    steps.step(f"Every pod signs with session secret {newest}", lambda: _moved(fleet, steps))
    times.since[newest], times.rotating = steps.now(), None
    times.since = {key: value for key, value in times.since.items() if key > min(_listed(fleet.settings))}
    times.write()
    ends = times.needed_until(newest - 1, steps.now())
    steps.say(
        f"Nobody was logged out. Cookies that session secret {newest - 1} signed stay valid until they expire, at the "
        f"latest {_at(ends)}.\nAfter that, `python -m ops rotate session-secret --revoke` drops it; the next rotation "
        "does so by itself.\nIf the old secret has leaked: --revoke --force, which logs out whoever logged in with it."
    )


def revoke(fleet: Pods, steps: Steps, edit: Edit, up: Callable[[], str], force: bool) -> None:
    """Drop every session secret but the present one.

    Args:
        fleet: the running stack.
        steps: shows the steps.
        edit: changes the stack file.
        up: makes the cluster what the file says.
        force: although cookies that it signed can still be alive.

    Raises:
        OpsError: people would be logged out and `force` is not given, or a step failed.
    """
    refuse(fleet.settings)
    now = steps.now()
    times, (newest, *older) = Times(fleet, now), fleet.settings.credentials.session_secrets
    times.write()
    if times.rotating == newest:
        raise OpsError("a rotation of the session secret is under way: finish it first, without --revoke.")
    ends = times.needed_until(newest - 1, now)
    if older and ends > now and not force:
        raise OpsError(
            f"session secret {newest - 1} signed cookies that are valid until {_at(ends)}: whoever has one would be "
            "logged out. Revoke it after that, or now with --force."
        )
    listed = ", ".join(map(str, older)) or "none"
    steps.step(f"Session secret {newest} is declared the only one", lambda: edit({"oldestSession": newest}))
    steps.step("The API is updated, pod by pod", up)
    steps.step("Every pod refuses the old ones", lambda: _moved(fleet, steps))
    steps.say(f"Revoked: {listed}.")


def refuse(settings: Settings) -> None:
    """Stop where the session secret is not ours.

    Raises:
        OpsError: it is not.
    """
    names = settings.credentials
    if not names.create_session_secret:
        raise OpsError(
            f"Secret {names.session_secret} is its owner's to change (credentials.createSessionSecret is false). "
            "Without logging anybody out: append `,NEW` to its key session-secret and restart the API, then write "
            "`NEW,OLD` and restart it again."
        )


def _moved(fleet: Pods, steps: Steps) -> str:
    steps.wait(fleet.rolled_out)
    return "all new, ready and connected"


def _listed(settings: Settings) -> list[int]:
    return settings.credentials.session_secrets


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
