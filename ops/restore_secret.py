"""The old stack's cookies in this one: its session secret becomes an accepted one, in the stack file, encrypted."""

from __future__ import annotations

from infra.settings import ACCEPTED, PROJECT
from ops import progress, stacks
from ops.errors import OpsError
from ops.redis_pods import RedisPods
from ops.stacks import Target

KEY = f"{PROJECT}:{ACCEPTED}"


def accept(target: Target, pods: RedisPods, backup: str | None, yes: bool) -> None:
    """Make the backup's cookies valid here.

    Args:
        target: the stack.
        pods: its Redis, for its Secrets.
        backup: the session secrets in the backup, a comma list; None: it has none.
        yes: run `up` too.
    """
    if backup is None:
        target.say("The backup holds no session secret: its cookies work only where that secret is known already.")
        return
    name = pods.settings.credentials.session_secret
    known = _parts(pods.secret(name).get("session-secret", ""))
    missing = [part for part in _parts(backup) if part not in known]
    if not missing:
        return
    if not pods.settings.credentials.create_session_secret:
        target.say(
            f"! The backup's cookies are signed with another secret, and Secret {name} is not ours to write: ask its "
            "owner to add the backup's session-secret (a member of the tar file) to it."
        )
        return
    opened = target.engine.open(target.say, create=False)
    if opened is None:
        raise OpsError(f"Stack {target.stack} is not deployed: run `python -m ops up --stack {target.stack}`.", 2)
    before = _parts(target.engine.secret(KEY) or "")
    wanted = [*before, *(part for part in missing if part not in before)]
    if wanted != before:
        target.engine.set_secret(KEY, ",".join(wanted))
        file = target.engine.workspace.source.name
        target.say(
            f"{file} now holds the backup's session secret, encrypted ({KEY}): keep it there while old cookies live."
        )
    command = f"python -m ops up --stack {target.stack}"
    if not yes:
        target.say(f"Next: {command}   # from then on the backup's cookies log in")
        return
    stacks.preflight_or_stop(target)
    done = stacks.up(target)
    target.say(f"Stack {target.stack} is up: {progress.summary(done.changes)}; the backup's cookies log in")


def _parts(text: str) -> list[str]:
    return [part for part in (piece.strip() for piece in text.split(",")) if part]
