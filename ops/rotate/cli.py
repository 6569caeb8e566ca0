"""`python -m ops rotate`: the commands."""

from __future__ import annotations

from typing import Annotated

import typer

from ops import certificates as secrets
from ops import kube, stacks, workspace
from ops.console import Console, Stack
from ops.errors import OpsError
from ops.rotate import certificates as certificate_rotation
from ops.rotate import password as password_rotation
from ops.rotate import session as session_rotation
from ops.rotate.fleet import Fleet
from ops.rotate.stackfile import set_credentials
from ops.rotate.steps import Steps, up

app = typer.Typer(
    no_args_is_help=True,
    help="New password, session secret or certificate, without a failed request. Killed anywhere, run it again.",
)
console = Console()


class Rotation:
    """One run: the stack as its file says, which the run changes."""

    def __init__(self, stack: str, what: str) -> None:
        self.target = stacks.select(console, stack)
        engine = self.target.engine
        if engine.open(self.target.say, create=False) is None or "release" not in engine.outputs():
            raise OpsError(f"Stack {stack} is not deployed: `python -m ops up --stack {stack}`.", 2)
        self.fleet = Fleet(self.target.cluster, self.target.settings)
        self.steps = Steps(console, f"python -m ops rotate {what} --stack {stack}")
        self.edited = False

    def edit(self, changes: dict[str, int]) -> str:
        """Change the stack file, and go on with what it says now."""
        path = self.target.engine.workspace.source
        changed = set_credentials(path, changes)
        self.edited |= changed
        self.target = stacks.again(console, self.target.stack)
        self.fleet.settings = self.target.settings
        said = ", ".join(f"{key}: {value}" for key, value in changes.items())
        return f"{said} in {path.name}{'' if changed else ' (was there)'}"

    def up(self) -> str:
        """Make the cluster what the file says."""
        return up(self.target, self.steps, self.fleet)

    def end(self) -> None:
        """What is left for a person to do."""
        if self.edited:
            name = self.target.engine.workspace.source.name
            self.steps.say(f"{name} was changed: commit it, every other run of this stack needs it.")


@app.command()
def password(stack: Stack = workspace.DEV) -> None:
    """Have a new password made: both are valid, everybody moves, the old one is refused."""
    rotation = Rotation(stack, "password")
    password_rotation.rotate(rotation.fleet, rotation.steps, rotation.edit, rotation.up)
    rotation.end()


@app.command("session-secret")
def session_secret(
    stack: Stack = workspace.DEV,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Make no new one; drop the old ones, once no cookie of theirs is alive.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --revoke: now, which logs out whoever logged in with them.")
    ] = False,
) -> None:
    """Sign cookies with a new secret; the cookies people have stay valid until they expire."""
    rotation = Rotation(stack, f"session-secret{' --revoke' * revoke}{' --force' * force}")
    if revoke:
        session_rotation.revoke(rotation.fleet, rotation.steps, rotation.edit, rotation.up, force)
    elif force:
        raise OpsError("--force is for --revoke.", 2)
    else:
        session_rotation.rotate(rotation.fleet, rotation.steps, rotation.edit, rotation.up)
    rotation.end()


@app.command()
def certificates(
    stack: Stack = workspace.DEV,
    authority: Annotated[bool, typer.Option("--authority", help="Make a new CA too.")] = False,
    days: Annotated[int, typer.Option("--days", min=1, max=825, help="Validity of the new certificate.")] = 90,
) -> None:
    """Renew Redis's certificate, and see every pod serve it. One of somebody else's is only checked."""
    where = workspace.find(stack)
    cluster = kube.connect(stack, workspace.context(where))
    settings = workspace.declared(where)
    steps = Steps(console, f"python -m ops rotate certificates --stack {stack}{' --authority' * authority}")
    steps.say(f"Stack {stack}: cluster {cluster.context} ({cluster.server}), namespace {settings.namespace}")
    try:
        stored = secrets.ClusterSecrets(cluster, settings.namespace)
        certificate_rotation.rotate(Fleet(cluster, settings), steps, stored, days, authority)
    except kube.API_ERRORS as error:
        raise OpsError(kube.why(error, cluster)) from None
