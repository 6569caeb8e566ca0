"""`python -m ops promote`, `rollback` and `drift`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ops import changes, drift, foreign, kube, progress, stacks
from ops.console import Console, confirm
from ops.errors import OpsError
from ops.promote import run
from ops.promote.run import Wish

console = Console()
DRIFTED = 3
"""Exit status when a cluster was changed by hand."""
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Judge and show what would change; change nothing.")]
Override = Annotated[
    str | None, typer.Option("--override", metavar="REASON", help="An emergency: pass over refusals; it is recorded.")
]


def promote(
    source: Annotated[str, typer.Argument(help="The stage that proved its release.")],
    stage: Annotated[str, typer.Argument(help="The stage that is to run it.")],
    yes: Yes = False,
    dry_run: DryRun = False,
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help="Write pins and record; CI updates after the merge.")
    ] = False,
    pinned: Annotated[
        bool, typer.Option("--pinned", help="The release that the stack file pins, as a merged pull request left it.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only judge what the stack file pins; exit 1 when it may not run.")
    ] = False,
    override: Override = None,
) -> None:
    """Have a stage run what the one before it has run and proved: judge, show, ask, update, verify, record."""
    if sum((dry_run, pull_request, pinned, check)) > 1:
        raise OpsError("--dry-run, --pull-request, --pinned and --check exclude each other.", 2)
    run.promote(console, source, stage, Wish(yes, dry_run, check, pull_request, pinned, override))


def rollback(
    stage: Annotated[str, typer.Argument(help="The stage.")],
    to: Annotated[
        str | None, typer.Option("--to", help="A record in promotions/ or a release's id; else what ran before.")
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    override: Override = None,
) -> None:
    """Have a stage run an earlier release again. Sessions stay."""
    run.rollback(console, stage, to, Wish(yes=yes, dry_run=dry_run, override=override))


def drifted(
    stack: Annotated[str, typer.Argument(help="The stack.")],
    fix: Annotated[bool, typer.Option("--fix", help="Make the cluster what the program declares.")] = False,
    yes: Yes = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write it there too, for machines.")] = None,
) -> None:
    """Show what was changed by hand in the cluster; exit 3 when something was."""
    target = stacks.select(console, stack, deploys=fix)
    stacks.deployed(target)
    opened = target.engine.open(target.say, create=False)
    assert opened is not None  # noqa: S101 - it has outputs
    changed, added = drift.by_hand(target, opened)
    found = changed + [item.as_change() for item in added]
    if json_file:
        json_file.write_text(json.dumps([change.as_json() for change in found], indent=2) + "\n")
    if not found:
        target.say(f"Nothing of {stack} was changed by hand.")
        return
    console.print(changes.table(found, ("as declared", "as it is")))
    if not fix:
        target.say(f"{len(found)} resources of {stack} were changed by hand. `python -m ops drift {stack} --fix`")
        raise typer.Exit(DRIFTED)
    confirm(yes, "`drift --fix` changes the cluster", f"Take these {len(found)} back?")
    try:
        foreign.remove(target.cluster, added)
    except kube.API_ERRORS as error:
        raise OpsError(f"{kube.why(error, target.cluster)}; run it again.") from None
    done = stacks.up(target, refresh=True)
    target.say(f"Stack {stack} is as declared: {progress.summary(done.changes)}, {done.seconds:.0f} s")
