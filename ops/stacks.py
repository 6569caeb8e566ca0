"""A stack with everything an operation on it needs, and the operations that change it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pulumi import automation as auto
from rich.console import Console

from infra.release import Release
from infra.settings import Settings
from ops import kube, preflight, progress, report, tls, workspace
from ops.engine import Engine
from ops.errors import InUseError, OpsError
from ops.guard import Guard


@dataclass(frozen=True)
class Target:
    """A stack, its cluster, its engine and its settings.

    Attributes:
        console: where people read.
    """

    console: Console
    cluster: kube.Cluster
    engine: Engine
    settings: Settings

    @property
    def stack(self) -> str:
        """The stack's name."""
        return self.engine.workspace.stack

    def say(self, line: str) -> None:
        """One line for people."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def select(
    console: Console,
    stack: str,
    images: Path | None = None,
    deploys: bool = True,
    pins: Mapping[str, Any] | None = None,
) -> Target:
    """Find a stack's files, tools and cluster, and say which they are. Changes nothing but the mirror.

    Args:
        console: where people read.
        stack: the stack's name.
        deploys: the program will run, so that it needs images.
        images: what `python -m images build --json FILE` wrote; None: `.state/images.json`, for dev, when there is one.
        pins: a release in place of the one in the stack file.

    Raises:
        OpsError: something is missing or wrong.
    """
    where = workspace.find(stack)
    usual = where.state / "images.json"
    if images is None and stack == workspace.DEV and usual.exists():
        images = usual
    cluster = kube.connect(stack, workspace.context(where))
    references = workspace.read_images(images) if images else {}
    given = references if deploys else {**workspace.ANY_IMAGES, **references}
    settings = workspace.settings_of(where, workspace.configuration(where, given, pins), deploys)
    engine = Engine(where, cluster.kubeconfig, references, settings.release if deploys else None, pins)
    target = Target(console, cluster, engine, settings)
    target.say(f"Stack {stack}: cluster {cluster.context} ({cluster.server}), namespace {settings.namespace}")
    target.say(f"Engine: {engine.tools}")
    if "stand-in" in engine.tools.plugins.values() and stack != workspace.DEV:
        target.say("! The stand-in plugins are for development and CI: people's stacks need the official Pulumi.")
    return target


def again(console: Console, stack: str) -> Target:
    """Read a stack's files again, in the middle of a run: what `select` says was said before."""
    return replace(select(Console(quiet=True), stack), console=console)


def deployed(target: Target) -> dict[str, Any]:
    """The outputs of a deployed stack.

    Raises:
        OpsError: with exit code 2, when it is not deployed.
    """
    opened = target.engine.open(target.say, create=False)
    found = target.engine.outputs() if opened else {}
    if "release" not in found:
        raise OpsError(f"Stack {target.stack} is not deployed: run `python -m ops up --stack {target.stack}`.", 2)
    return found


def running(outputs: dict[str, Any]) -> Release | None:
    """The release that a stack runs, by its outputs; None: none was promoted to it."""
    found = (outputs.get("settings") or {}).get("release")
    return Release.model_validate(found) if found else None


def preflight_or_stop(target: Target, blocking: bool = True) -> None:
    """Run the checks that come before the engine.

    Args:
        target: the stack.
        blocking: an error stops the run; else it is only shown.

    Raises:
        OpsError: listing every problem.
    """
    errors, warnings = preflight.check(target.cluster, target.settings, target.stack, tls.utc_now())
    for warning in warnings:
        target.say(f"! {warning}")
    if errors and blocking:
        lines = "\n".join(f"  - {error}" for error in errors)
        count = "This must be mended" if len(errors) == 1 else f"These {len(errors)} things must be mended"
        raise OpsError(f"{count} first:\n{lines}\n(--skip-preflight starts anyway)")
    for error in errors:
        target.say(f"! `up` would stop here: {error}")


def run(
    target: Target, verb: str, call: Callable[..., Any], listen: Callable[[auto.EngineEvent], None] | None = None
) -> progress.Progress:
    """Run one engine operation with live progress.

    Args:
        target: the stack.
        verb: `up`, `preview` or `destroy`; names the log file and the next step.
        call: the Automation API's method, with its own arguments bound.
        listen: gets every engine event too.

    Raises:
        OpsError: it failed or was stopped; the message says what, why and what to do.
    """
    log = target.engine.workspace.logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{verb}.log"
    with progress.Progress(target.console, log, dry=verb == "preview") as shown, target.engine.cancellable():

        def on_event(event: auto.EngineEvent) -> None:
            shown.event(event)
            if listen:
                listen(event)

        try:
            call(on_event=on_event, on_output=shown.output, on_error=shown.output, color="never")
        except auto.ConcurrentUpdateError as error:
            raise InUseError(_failure(target, verb, shown, error)) from None
        except (auto.CommandError, RuntimeError) as error:
            raise OpsError(_failure(target, verb, shown, error)) from None
    return shown


def _failure(target: Target, verb: str, shown: progress.Progress, error: Exception) -> str:
    command = {"destroy": "down"}.get(verb, verb)
    again = f"`python -m ops {command} --stack {target.stack}`"
    if target.engine.interrupted:
        done = progress.summary(shown.changes) if shown.changes else "nothing changed"
        return f"Stopped on request; what was done is saved ({done}). {again} goes on from here."
    failures = shown.failures or [progress.Failure("the engine", report.reduce_text(str(error)))]
    lines = []
    for failure in failures:
        first, *more = failure.reason.splitlines() or ["failed"]
        lines += [f"✗ {failure.resource}: {first}", *(f"    {line}" for line in more)]
        if failure.fix:
            lines.append(f"    fix: {failure.fix}")
    after = f"{again} shows it again" if verb == "preview" else f"{again} goes on from here"
    return "\n".join([*lines, f"The engine's log: {shown.log}", f"When it is mended, {after}."])


def preview(
    target: Target, opened: auto.Stack, listen: Callable[[auto.EngineEvent], None]
) -> tuple[progress.Progress, list[str]]:
    """Preview the stack, and judge what it would declare by the rules for stages.

    Args:
        target: the stack.
        opened: its engine's.
        listen: gets every engine event.

    Returns:
        (what the engine said, the rules that are broken, one line each: none for a stack that is everybody's own)
    """
    stages, guard = target.settings.stages, Guard()

    def on_event(event: auto.EngineEvent) -> None:
        guard.event(event)
        listen(event)

    done = run(target, "preview", partial(_preview, opened), on_event)
    if target.stack not in stages[1:]:
        return done, []
    return done, [str(found) for found in guard.violations(several=target.stack in stages[2:])]


def _preview(stack: auto.Stack, **shown: Any) -> None:
    stack.preview(suppress_outputs=True, **shown)


def refuse(stack: str, broken: list[str]) -> None:
    """Stop where rules are broken.

    Raises:
        OpsError: listing them.
    """
    if broken:
        lines = "\n".join(f"  - {line}" for line in broken)
        raise OpsError(f"{stack} would break rules for stages (docs/policies.md); nothing was applied:\n{lines}")


def up(
    target: Target,
    refresh: bool = False,
    listen: Callable[[auto.EngineEvent], None] | None = None,
    promoting: bool = False,
) -> progress.Progress:
    """Make the cluster what the program declares.

    Args:
        target: the stack.
        refresh: look at the cluster first.
        listen: gets every engine event.
        promoting: the gate has judged what would be applied; the pins may be other ones than what runs.
    """
    stack = target.engine.open(target.say)
    assert stack is not None  # noqa: S101 - made when it was missing
    pins = target.settings.release
    if pins and not promoting:
        runs = running(target.engine.outputs())
        if runs is None or runs.id != pins.id:
            raise OpsError(
                f"Pulumi.{target.stack}.yaml pins release {pins.id}, which {target.stack} does not run: "
                f"`python -m ops promote {pins.source} {target.stack} --pinned` judges and applies it."
            )
    if target.stack in target.settings.stages[1:] and not promoting:
        refuse(target.stack, preview(target, stack, lambda _: None)[1])
    resources = target.engine.settle(target.say)
    record = target.engine.workspace.directory / "cluster"
    before = record.read_text().split() if record.exists() else []
    now = kube.identity(target.cluster, target.settings.namespace)
    if resources > 1 and before != now and not refresh:
        moved = before[:1] != now[:1]
        if moved and before and target.stack != workspace.DEV:
            raise OpsError(
                f"Stack {target.stack} was last deployed to another cluster ({before[2]}), not to {now[2]}: "
                "correct KUBECONFIG, or add --refresh when the stack has moved."
            )
        if target.stack == workspace.DEV or (before and not moved):
            target.say("The cluster or the namespace is not the last run's: reading what there is first.")
            refresh = True
    if resources <= 1:
        record.write_text(" ".join(now))  # before the first object is made: a killed run is no stranger to its cluster
    done = run(target, "up", partial(_up, stack, refresh), listen)
    record.write_text(" ".join(kube.identity(target.cluster, target.settings.namespace)))
    return done


def _up(stack: auto.Stack, refresh: bool, **shown: Any) -> None:
    stack.up(show_secrets=False, suppress_outputs=True, refresh=refresh, **shown)


def address(target: Target) -> tuple[str, str | None]:
    """(URL of the API, the command that must run for it to work or None)."""
    api, namespace = target.settings.api, target.settings.namespace
    if api.node_port:
        for node in target.cluster.core.list_node(_request_timeout=kube.TIMEOUT).items:
            for item in node.status.addresses or []:
                if item.type == "InternalIP":
                    return f"http://{item.address}:{api.node_port}", None
    what = f"deployment/{api.existing_deployment}" if api.existing_deployment else "service/api"
    return f"http://localhost:{api.port}", f"kubectl -n {namespace} port-forward {what} {api.port}"


def how_to_log_in(target: Target) -> list[str]:
    """The lines that end `up`: the URL, the curl commands, what to do next."""
    url, forward = address(target)
    settings, lines = target.settings, [f"The API: {url}"]
    if target.cluster.kubeconfig != str(Path.home() / ".kube" / "config"):
        prefix = f"KUBECONFIG={target.cluster.kubeconfig} "
    else:
        prefix = ""
    if forward:
        lines.append(f"  {prefix}{forward} &")
    https = "-H 'X-Forwarded-Proto: https' " if settings.cookie_secure else ""
    body = (
        "" if settings.api.auth_env == "development" else "-H 'Content-Type: application/json' -d '{\"code\": \"…\"}' "
    )
    login, jar = settings.verify.login_path, "/tmp/session-store.cookies"  # noqa: S108 - for the reader to type
    lines.append(f"Log in:  curl -c {jar} {https}{body}-X POST {url}{login}")
    if settings.cookie_secure:
        lines.append("         (the cookie is Secure: curl sends it back only over https or to localhost)")
    lines.append(f"Then:    curl -b {jar} {https}{url}/auth_status")
    lines.append(f"Next:    python -m ops verify --stack {target.stack}")
    return lines


def leftovers(target: Target) -> list[str]:
    """What a destroyed stack left on the cluster on purpose, and the command that deletes it."""
    namespace, core = target.settings.namespace, target.cluster.core
    if kube.get(core.read_namespace, namespace) is None:
        return []
    selector = "app.kubernetes.io/part-of=session-store"
    claims = core.list_namespaced_persistent_volume_claim(
        namespace, label_selector=selector, _request_timeout=kube.TIMEOUT
    ).items
    stays = {f"pvc/{item.metadata.name}": "the sessions" for item in claims if not item.metadata.deletion_timestamp}
    names = {target.settings.tls_secret: "the certificate"} if target.settings.tls_secret else {}
    names["redis-ca"] = "its CA"
    for name, what in names.items():
        if kube.get(core.read_namespaced_secret, name, namespace):
            stays[f"secret/{name}"] = what
    lines = [f"Kept: namespace {namespace}"]
    if stays:
        lines[0] += f", in it {', '.join(f'{name} ({what})' for name, what in stays.items())}"
        lines.append(f"Delete those:  kubectl -n {namespace} delete {' '.join(stays)}")
    lines.append(f"Delete it all: kubectl delete namespace {namespace}")
    return lines
