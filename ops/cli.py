"""`python -m ops`: the commands."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ops import certificates, changes, kube, observe, progress, stacks, tls, workspace
from ops.adopt import cli as adoption
from ops.console import Console, Json, Stack, confirm
from ops.doctor import cli as doctor
from ops.errors import OpsError
from ops.promote import cli as promotion
from ops.rotate import cli as rotate
from ops.sessions import cli as sessions
from ops.top import cli as top

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
certificates_app = typer.Typer(no_args_is_help=True, help="Redis's certificate, where no cert-manager makes it.")
app.add_typer(certificates_app, name="certificates")
app.add_typer(rotate.app, name="rotate")
app.add_typer(adoption.app, name="adopt")
app.add_typer(sessions.app, name="sessions")
app.command()(promotion.promote)
app.command()(promotion.rollback)
app.command("drift")(promotion.drifted)
app.command("doctor")(doctor.command)
app.command()(top.top)
app.command()(observe.alerts)
app.command()(observe.dashboard)
console = Console()

Images = Annotated[
    Path | None,
    typer.Option("--images", help="JSON of `python -m images build`; dev reads .state/images.json by itself."),
]
Skip = Annotated[bool, typer.Option("--skip-preflight", help="Start the engine without checking the cluster first.")]


@app.command()
def up(
    stack: Stack = workspace.DEV,
    images: Images = None,
    skip_preflight: Skip = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Look at the cluster first and mend what drifted.")
    ] = False,
) -> None:
    """Make the cluster what the program declares, and say how to log in."""
    target = stacks.select(console, stack, images)
    if not skip_preflight:
        stacks.preflight_or_stop(target)
    done = stacks.up(target, refresh)
    target.say(f"Stack {stack} is up: {progress.summary(done.changes)}, {done.seconds:.0f} s")
    for line in stacks.how_to_log_in(target):
        target.say(line)


@app.command()
def preview(
    stack: Stack = workspace.DEV,
    images: Images = None,
    json_file: Json = None,
    expect_no_changes: Annotated[
        bool, typer.Option("--expect-no-changes", help="Exit 1 when anything would change.")
    ] = False,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write it there too, as a comment for a pull request.")
    ] = None,
    skip_preflight: Skip = False,
) -> None:
    """Show what `up` would change, property by property. Changes nothing."""
    collected = changes.Collector()
    with changes.commented(markdown, f"Preview of {stack}", collected):
        target = stacks.select(console, stack, images)
        if not skip_preflight:
            stacks.preflight_or_stop(target, blocking=False)
        opened = target.engine.open(target.say)
        assert opened is not None  # noqa: S101 - made when it was missing
        done, broken = stacks.preview(target, opened, collected.event)
        if collected.changes:
            console.print(changes.table(collected.changes))
        target.say(f"Preview of {stack}: {progress.summary(done.changes)} (would be), {done.seconds:.0f} s")
        if json_file:
            content = {
                "stack": stack,
                "changes": [change.as_json() for change in collected.changes],
                "counts": done.changes,
            }
            json_file.write_text(json.dumps(content, indent=2) + "\n")
        if expect_no_changes and collected.changes:
            raise OpsError(f"{len(collected.changes)} resources of {stack} would change; none was expected to.")
        stacks.refuse(stack, broken)


@app.command()
def down(
    stack: Stack = workspace.DEV,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete what the stack declared; say what stays."""
    target = stacks.select(console, stack, deploys=False)
    opened = target.engine.open(target.say, create=False)
    if opened is None:
        target.say(f"Stack {stack} was never deployed: nothing to delete.")
        return
    question = f"Delete the session store of stack {stack} on {target.cluster.context}?"
    confirm(yes, "`down` deletes a running session store", question)
    target.engine.settle(target.say)
    done = stacks.run(target, "destroy", partial(_destroy, opened))
    target.say(f"Stack {stack} is down: {progress.summary(done.changes)}, {done.seconds:.0f} s")
    for line in stacks.leftovers(target):
        target.say(line)


def _destroy(stack: Any, **shown: Any) -> None:
    stack.destroy(show_secrets=False, suppress_outputs=True, **shown)


@app.command()
def outputs(stack: Stack = workspace.DEV) -> None:
    """Print the stack's outputs as JSON."""
    where = Console(stderr=True)
    target = stacks.select(where, stack, deploys=False)
    found = stacks.deployed(target)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


@app.command()
def verify(
    stack: Stack = workspace.DEV,
    read_only: Annotated[bool, typer.Option("--read-only", help="Leave the pods alone.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Kill pods too, without a warning.")] = False,
    json_file: Json = None,
) -> None:
    """Prove the plan's promises against the live stack; exit 1 when one does not hold.

    What a stage proved is kept beside it, as the evidence on which `promote` stands.
    """
    from ops import verify as checks

    if deep and read_only:
        raise OpsError("--deep kills pods, and --read-only leaves them alone: choose one.", 2)
    # The program of everybody's own stack needs images that may be gone; nothing is promoted from there.
    target = stacks.select(console, stack, deploys=stack != workspace.DEV)
    report = checks.verify(target, stacks.deployed(target), read_only, deep)
    if json_file:
        json_file.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    if report.failed:
        raise typer.Exit(1)


@app.command()
def backup(
    stack: Stack = workspace.DEV,
    to: Annotated[Path | None, typer.Option("--to", help="File or folder; a name of its own in this folder.")] = None,
    to_claim: Annotated[bool, typer.Option("--to-claim", help="Run the backup CronJob's job once instead.")] = False,
    without_session_secret: Annotated[
        bool, typer.Option("--without-session-secret", help="Leave out what signs the cookies.")
    ] = False,
) -> None:
    """Take the sessions from a replica into one file. It is as secret as the store itself."""
    from ops import backup as backups
    from ops import backup_claim, redis_pods

    target = stacks.select(console, stack, deploys=False)
    found = stacks.deployed(target)
    pods = redis_pods.of(target, found)
    if to_claim:
        backup_claim.to_claim(target, pods)
    else:
        backups.to_file(target, pods, found["release"], to, not without_session_secret)


@app.command()
def restore(
    file: Annotated[Path | None, typer.Argument(help="What `ops backup` wrote.")] = None,
    stack: Stack = workspace.DEV,
    from_claim: Annotated[
        str | None, typer.Option("--from-claim", help="A backup in the CronJob's claim; `latest`: the newest.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Where both have a key, the backup wins.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Make the store the backup; what is newer goes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; run `up` too where it is needed.")] = False,
) -> None:
    """Bring a backup's sessions into the running stack: the missing ones, unless told otherwise."""
    from ops import redis_pods
    from ops import restore as restores

    target = stacks.select(console, stack, deploys=False)
    how = restores.Wish(dry_run, overwrite, replace, yes)
    restores.restore(target, redis_pods.of(target, stacks.deployed(target)), file, from_claim, how)


@certificates_app.command()
def issue(
    stack: Stack = workspace.DEV,
    renew: Annotated[bool, typer.Option("--renew", help="Make a new one although the present one is good.")] = False,
    days: Annotated[int, typer.Option("--days", min=1, max=825, help="Validity of a new certificate.")] = 90,
) -> None:
    """Make the certificate of a stack without cert-manager: our own CA, one Secret for Redis."""
    where = workspace.find(stack)
    cluster = kube.connect(stack, workspace.context(where))
    settings = workspace.declared(where)
    head = f"Stack {stack}: cluster {cluster.context} ({cluster.server}), namespace {settings.namespace}"
    console.print(head, highlight=False, soft_wrap=True)
    certificates.name_of(settings)
    try:
        secrets = certificates.ClusterSecrets(cluster, settings.namespace)
        if settings.create_namespace and secrets.ensure_namespace():
            console.print(f"Made namespace {settings.namespace}.", highlight=False)
        said = certificates.issue(secrets, settings, tls.utc_now(), days, renew)
    except kube.API_ERRORS as error:
        raise OpsError(kube.why(error, cluster)) from None
    console.print(said, highlight=False, soft_wrap=True)


def main() -> None:
    """Run a command; every error an operator can meet is one message and an exit code."""
    try:
        app()
    except OpsError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.code)
    except kube.API_ERRORS as error:
        reason = getattr(error, "reason", None) or error
        Console(stderr=True).print(
            f"The cluster did not answer as it should: {reason}", style="red", markup=False, soft_wrap=True
        )
        sys.exit(1)
