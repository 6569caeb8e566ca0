"""A new password: both are valid, everybody moves, the old one is refused. Nobody is cut off on the way.

Where a rotation stands is read from the stack file and the pods, never from memory:

- `oldestPassword` one below `passwordGeneration`: under way, everybody moves;
- `oldestPassword` equal to it: the old one is being revoked, until every pod of Redis refuses it;
- neither, or all of that done: a new rotation begins.
"""

from __future__ import annotations

from collections.abc import Callable

from infra.credentials import internal_secret
from infra.redis.conf import SENTINEL_PORT
from infra.sections import Credentials
from infra.settings import Settings
from ops.errors import OpsError
from ops.rotate.steps import NO_ANSWER, Pods, Steps

Edit = Callable[[dict[str, int]], str]
"""Changes `credentials` in the stack file and everybody's view of it; returns what was done."""


def rotate(fleet: Pods, steps: Steps, edit: Edit, up: Callable[[], str]) -> None:
    """Rotate the password, or finish the rotation that was begun.

    Args:
        fleet: the running stack.
        steps: shows the steps.
        edit: changes the stack file.
        up: makes the cluster what the file says.

    Raises:
        OpsError: the stack's password is somebody else's, or a step failed.
    """
    refuse(fleet.settings)
    names = fleet.settings.credentials
    newest = names.passwords[0]
    moving = _moving(names)
    if moving:
        steps.say(f"Password {newest} was begun before: going on with it.")
    elif _revoking(fleet):
        steps.say(f"Password {newest - 1} was about to be revoked: going on with that.")
    else:
        if len(names.passwords) > 1:
            # Raised by hand, and perhaps not up yet: whoever still has the older one must move before it goes.
            steps.step(f"Password {newest} is in use everywhere", lambda: f"{up()}; {_moved(fleet, steps)}")
        newest, moving = newest + 1, True
        steps.step(
            f"Password {newest} is declared", lambda: edit({"passwordGeneration": newest, "oldestPassword": newest - 1})
        )
    if moving:
        steps.step(f"Passwords {newest} and {newest - 1} are both valid", up)
        steps.step("Redis accepts the new one", lambda: _accepted(fleet, steps))
        steps.step("The API uses the new one", lambda: _moved(fleet, steps))
    old = fleet.secret(names.password_secret).get("previous")
    steps.step(f"Password {newest - 1} is declared revoked", lambda: edit({"oldestPassword": newest}))
    steps.step("Only the new one is valid", up)
    steps.step("Redis refuses the old one", lambda: _refused(fleet, steps, old))
    steps.step("The API is connected", lambda: _moved(fleet, steps))


def refuse(settings: Settings) -> None:
    """Stop where the password is not ours.

    Raises:
        OpsError: it is not.
    """
    if settings.redis.mode == "external":
        secret = settings.credentials.password_secret
        raise OpsError(
            "An external Redis's password is its owner's to change: have the new one accepted there, put it into "
            f"Secret {secret} (key password), then `kubectl -n {settings.namespace} rollout restart deployment/"
            f"{settings.api.existing_deployment or 'api'}`."
        )


def _moving(names: Credentials) -> bool:
    return names.oldest_password is not None and names.oldest_password == names.passwords[0] - 1


def _revoking(fleet: Pods) -> bool:
    """Whether the stack file has one password and the pods, or the Secret, still have another."""
    names = fleet.settings.credentials
    if len(names.passwords) > 1 or names.passwords[0] == 1:
        return False
    secret = fleet.secret(names.password_secret)
    if "previous" in secret:
        return True
    try:
        return not all(fleet.only(pod, secret["password"]) for pod in fleet.redis_pods())
    except NO_ANSWER as error:
        raise OpsError(
            f"Redis does not answer with the password of Secret {names.password_secret} ({error}): bring the stack up "
            "before its password is changed."
        ) from None


def _accepted(fleet: Pods, steps: Steps) -> str:
    secret = fleet.secret(fleet.settings.credentials.password_secret)
    internal = fleet.secret(internal_secret(fleet.settings)) if fleet.settings.redis.mode == "sentinel" else {}

    def left() -> str | None:
        pods = fleet.redis_pods()
        if not pods:
            return "Redis has no pod"
        for pod in [*pods, *fleet.proxy_pods()]:
            if not fleet.accepts(pod, secret["password"]):
                return f"{pod} does not accept it yet"
        for pod in pods if internal else []:
            if not fleet.accepts(pod, internal["internal"], SENTINEL_PORT):
                return f"the Sentinel of {pod} does not accept it yet"
        return None

    steps.wait(left, fleet)
    return f"AUTH ok: {', '.join([*fleet.redis_pods(), *fleet.proxy_pods()])}"


def _moved(fleet: Pods, steps: Steps) -> str:
    steps.wait(fleet.rolled_out)
    return "every API pod is new, ready and connected"


def _refused(fleet: Pods, steps: Steps, old: str | None) -> str:
    password = fleet.secret(fleet.settings.credentials.password_secret)["password"]

    def left() -> str | None:
        for pod in fleet.redis_pods():
            if old and fleet.accepts(pod, old):
                return f"{pod} still accepts it"
            if not fleet.only(pod, password):
                return f"{pod} still has another password"
        return None

    steps.wait(left, fleet)
    return f"{'WRONGPASS' if old else 'one password'} at {', '.join(fleet.redis_pods())}"
