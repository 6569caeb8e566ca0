"""`python -m ops adopt`: from a Helm chart with a bare Redis, or none, to a stack. docs/adopt.md tells it whole."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.settings import parse
from ops import kube, progress, stacks, tls, workspace
from ops.adopt import finish as ending
from ops.adopt import look as looking
from ops.adopt import memory, stackfile
from ops.adopt.steps import Adoption
from ops.adopt.undo import undo as undo_all
from ops.console import Console
from ops.errors import OpsError
from ops.rotate.steps import Steps

app = typer.Typer(
    no_args_is_help=True, help="A Helm chart's Redis, or an API's memory, becomes a stack (docs/adopt.md)."
)
console = Console()
Stack = Annotated[str, typer.Option("--stack", "-s", help="The stack that it becomes: Pulumi.<stack>.yaml.")]


class Run:
    """One run on a stack file that exists."""

    def __init__(self, stack: str, what: str) -> None:
        self.target = stacks.select(console, stack)
        self.steps = Steps(console, f"python -m ops adopt {what} --stack {stack}")
        self.adoption = Adoption(self.target.cluster, self.target.settings, self.steps, self.declare)

    def declare(self, stage: str | None) -> str:
        """Write how far it is into the stack file, and bring the stack up."""
        workspace_of = self.target.engine.workspace
        changed = stackfile.set_adoption(workspace_of.source, stage)
        self.target = stacks.again(console, self.target.stack)
        self.adoption.settings = self.target.settings
        stacks.preflight_or_stop(self.target)
        done = stacks.up(self.target)
        said = f"adoption: {stage or 'none'} in {workspace_of.source.name}; " if changed else ""
        return f"{said}{progress.summary(done.changes)}"


@app.command()
def look(
    stack: Stack,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Where the chart is installed.")],
    deployment: Annotated[str, typer.Option("--deployment", help="The API's.")] = "api",
    container: Annotated[str | None, typer.Option("--container", help="The API's, in its pods.")] = None,
    service: Annotated[str | None, typer.Option("--service", help="Redis's; default: the API's REDIS_HOST.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What the stack's Redis is called beside it.")] = None,
    redis_image: Annotated[str | None, typer.Option("--redis-image", help="NAME@sha256:… for the new Redis.")] = None,
    proxy_image: Annotated[str | None, typer.Option("--proxy-image", help="HAProxy, NAME@sha256:…")] = None,
) -> None:
    """Say what is there and what is in the way; write the stack file. Changes nothing in the cluster."""
    where = workspace.Workspace(stack)
    if where.source.exists():
        raise OpsError(
            f"{where.source} exists: `python -m ops adopt run --stack {stack}` goes by it; move it away to look anew.",
            2,
        )
    wish = looking.Wish(namespace, deployment, container, service, name, redis_image, proxy_image)
    looking.by_digest(redis_image, "--redis-image")
    looking.by_digest(proxy_image, "--proxy-image")
    cluster = kube.connect(stack)
    console.print(f"Cluster {cluster.context} ({cluster.server}), namespace {namespace}", highlight=False)
    try:
        found = looking.look(cluster, wish)
    except kube.API_ERRORS as error:
        raise OpsError(kube.why(error, cluster)) from None
    for line in looking.describe(found, wish):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if found.problems:
        lines = "\n".join(f"  - {problem}" for problem in found.problems)
        raise OpsError(f"To mend before the adoption; no file was written:\n{lines}")
    values = looking.proposal(wish, found)
    parse(values)
    stages = workspace.stages()
    where.source.write_text(looking.stack_file(values, stack if stack in stages[2:] else None))
    console.print(f"Wrote {where.source}. Read it, then:", highlight=False, soft_wrap=True)
    console.print(f"  python -m ops certificates issue --stack {stack}   # or tls.issuer in it", highlight=False)
    console.print(f"  python -m ops adopt run --stack {stack}", highlight=False)


@app.command()
def run(
    stack: Stack,
    shut_out: Annotated[
        bool, typer.Option("--shut-out", help="Demand the password although others than the API come without.")
    ] = False,
    end_now: Annotated[
        bool, typer.Option("--end-now", help="From memory: do not wait for the old cookies; logs those people out.")
    ] = False,
    api_image: Annotated[
        str | None, typer.Option("--api-image", help="From memory: the API with session-store.js, NAME@sha256:…")
    ] = None,
) -> None:
    """Carry it out. Killed anywhere, run it again."""
    running = Run(stack, f"run{' --shut-out' * shut_out}")
    settings = running.target.settings
    if api_image:
        looking.by_digest(api_image, "--api-image")
    name = settings.api.existing_deployment
    if name is None or settings.redis.mode != "standalone":
        raise OpsError(
            "An adoption is of an API with api.existingDeployment and into redis.mode standalone (sentinel afterwards: "
            "change redis.mode and `ops up`, which copies the sessions)."
        )
    if settings.redis.proxy_image is None:
        raise OpsError("session-store:redis.proxyImage is missing: HAProxy by digest, for the time of the change.")
    if settings.redis.app == settings.redis.service:
        memory.BlueGreen(running.target.cluster, settings, running.steps, running.declare, api_image).run(
            tls.utc_now(), end_now
        )
    else:
        running.adoption.run(shut_out)
    for line in ending.what_next(running.target.cluster, running.target.settings, stack):
        running.steps.say(line)


@app.command()
def undo(stack: Stack) -> None:
    """Give it all back to the chart, with what was written since; the stack's Redis stays beside."""
    running = Run(stack, "undo")
    undo_all(running.adoption)
    running.steps.say("The API and Redis are as their chart has them.")


@app.command()
def finish(stack: Stack) -> None:
    """Once its template is out of the chart: delete the old Redis. There is no way back after this."""
    running = Run(stack, "finish")
    ending.finish(running.adoption)
