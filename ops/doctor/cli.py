"""`python -m ops doctor`."""

from __future__ import annotations

import json

import typer
from rich.console import Console as Plain
from rich.status import Status

from ops import doctor, kube, workspace
from ops.console import Console, Json, Stack
from ops.doctor import books, gather
from ops.doctor.look import Look
from ops.doctor.model import Report
from ops.errors import OpsError


def command(
    stack: Stack = workspace.DEV,
    json_file: Json = None,
) -> None:
    """Look at the live stack and name what is wrong, with evidence and fix; exit 1 on a finding. Changes nothing."""
    console = Console()
    look, report = _look(console, stack)
    report.findings = doctor.examine(look)
    report.unseen = look.unseen
    report.show(console)
    if json_file:
        json_file.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    if report.findings:
        raise typer.Exit(1)


def _look(console: Plain, stack: str) -> tuple[Look, Report]:
    """What there is to see, and the report that it will go into.

    Raises:
        OpsError: the cluster does not answer; with exit code 2: the stack was never deployed.
    """
    settings = books.settings(stack)
    unseen: list[str] = []
    cluster = kube.connect(stack, workspace.context(workspace.find(stack)))
    head = f"Stack {stack}: cluster {cluster.context} ({cluster.server})"
    console.print(f"{head}, namespace {settings.namespace}", markup=False, highlight=False, soft_wrap=True)
    with Status("", console=console) as status:

        def tell(what: str) -> None:
            status.update(f"Looking at {what}")

        gather.reach(cluster)
        tell("the engine's state")
        engine = books.engine(stack, cluster, unseen)
        told = books.outputs(engine, unseen) if engine else None
        look = gather.look(cluster, stack, books.deployed(told, settings), tell)
        if told == {} or (told is None and not look.of("deployments") and not look.of("statefulsets")):
            raise OpsError(f"Stack {stack} is not deployed: run `python -m ops up --stack {stack}`.", 2)
        tell("what was changed by hand")
        look.books = books.read(stack, look.settings, engine if told else None, cluster, look.unseen)
    look.unseen = [*unseen, *look.unseen]
    return look, Report(stack, cluster.context, look.settings.namespace, look.now)
