"""What stands between two stages: every reason not to promote, each with what to do about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra import release as releases
from infra.settings import Settings
from ops import drift, evidence, kube, locks, preflight, tls
from ops.changes import Change
from ops.errors import OpsError
from ops.evidence import Evidence
from ops.promote import records
from ops.stacks import Target

STATEFUL = ("PersistentVolumeClaim", "StatefulSet", "Secret", "RandomPassword")
DESTROYS = ("delete", "replace", "delete-replaced")


@dataclass(frozen=True)
class Refusal:
    """One reason.

    Attributes:
        text: names the thing and the fix.
        firm: no `--override` passes over it.
    """

    text: str
    firm: bool = False

    def __str__(self) -> str:
        return self.text


def stages(known: list[str], source: str, target: str) -> None:
    """Whether one stage follows the other in the list of them.

    Raises:
        OpsError: with exit code 2: unknown, or not the next one.
    """
    where = f"(session-store:stages in Pulumi.yaml: {', '.join(known)})"
    for name in (source, target):
        if name not in known:
            raise OpsError(f"{name} is no stage {where}.", 2)
    if known.index(target) < 2:
        raise OpsError(f"Nothing is promoted to {target}: change its stack file and run `up` {where}.", 2)
    before = known[known.index(target) - 1]
    if source != before:
        raise OpsError(f"{target} runs what {before} proved: `python -m ops promote {before} {target}` {where}.", 2)


def in_use(target: Target) -> Iterator[Refusal]:
    """Somebody is updating the stack at this moment."""
    environment = {**os.environ, **target.engine.environment}
    for lock in locks.read(environment, target.stack):
        if not lock.abandoned:
            yield Refusal(f"{target.stack} has an update in progress, of {lock}: wait until it ends", firm=True)


def proof(stage: str, settings: Settings, found: Evidence, release: str) -> Iterator[Refusal]:
    """The evidence of a stage for a release.

    Args:
        stage: the stage that ran it.
        settings: whose evidenceHours count.
        found: what is stored beside the stage.
        release: its id.
    """
    again = f"run `python -m ops verify --stack {stage}`"
    last = found.last
    when = found.time_of(release)
    if when:
        limit = timedelta(hours=settings.evidence_hours)
        if datetime.now(UTC) - when > limit:
            yield Refusal(
                f"the evidence of {stage} for release {release} is {evidence.age(when)} old, older than "
                f"session-store:evidenceHours ({settings.evidence_hours}): {again}"
            )
    elif not last:
        yield Refusal(f"{stage} has no evidence that release {release} works: {again}")
    elif last["release"].get("id") != release:
        other = last["release"].get("id")
        yield Refusal(
            f"the evidence of {stage} is of release {other}, not of {release}, which is to be promoted: {again}"
        )
    elif not last["ok"]:
        red = "; ".join(f"{line['title']}: {line['evidence']}" for line in last["lines"] if line["status"] == "fail")
        yield Refusal(f"the evidence of {stage} for release {release} is red ({red}): mend that, then {again}")
    else:
        yield Refusal(f"the evidence of {stage} for release {release} is of a --read-only run: {again} without it")


def by_hand(target: Target) -> Iterator[Refusal]:
    """The stage's cluster is not as its last update left it: what was proved is not what is declared."""
    opened = target.engine.open(target.say, create=False)
    if opened is None:
        return
    changed, added = drift.by_hand(target, opened)
    if found := changed + [item.as_change() for item in added]:
        yield Refusal(
            f"{target.stack} was changed by hand: {drift.brief(found)}: `python -m ops drift {target.stack}` shows it, "
            "--fix takes it back; then verify again"
        )


def working_tree(target: Target, outputs: dict[str, object], commit: Callable[[], str]) -> Iterator[Refusal]:
    """What is checked out is not what the stage runs, or no commit holds it."""
    runs, tree = dict(outputs["release"]), releases.describe(target.settings)  # type: ignore[call-overload]
    file = target.engine.workspace.source.name
    names = {"images": f"images in {file}", "settings": f"settings in {file}", "program": "infra/"}
    if other := [text for key, text in names.items() if runs.get(key) != tree[key]]:
        yield Refusal(
            f"{target.stack} does not run what is checked out ({', '.join(other)} changed since): "
            f"`python -m ops up --stack {target.stack}` and verify, or check out what it runs",
            firm=True,
        )
        return
    try:
        commit()
    except OpsError as error:
        yield Refusal(str(error), firm=True)


def before_update(target: Target) -> Iterator[Refusal]:
    """What `up` would stop at."""
    errors, warnings = preflight.check(target.cluster, target.settings, target.stack, tls.utc_now())
    for warning in warnings:
        target.say(f"! {warning}")
    for error in errors:
        yield Refusal(f"{target.stack}: {error}", firm=True)


def keeps_data(stack: str, found: list[Change]) -> Iterator[Refusal]:
    """No step may replace or delete what holds sessions or secrets."""
    for change in found:
        kind = change.resource.split()[0]
        if kind in STATEFUL and change.op in DESTROYS:
            why = ", ".join(item.path for item in change.properties if item.kind.endswith("replace"))
            yield Refusal(
                f"{change.resource} of {stack} would be {'replaced' if 'replace' in change.op else 'deleted'}"
                f"{f' ({why})' if why else ''}, and with it what it holds: take a backup "
                f"(`python -m ops backup --stack {stack}`), then promote with --override"
            )


def overridden(target: Target, proved: Evidence) -> Iterator[str]:
    """Warnings about releases that went past the gate and that nobody has proved since."""
    for record in records.unproven(records.of(target.engine.workspace.repo), proved.proved):
        yield (
            f"{record.stage} got release {record.release.id} past {len(record.refusals)} refusals on "
            f"{record.started[:10]} ({record.override}), and {record.release.source} has not proved it since: "
            f"run it there and verify"
        )


def evidence_of(target: Target) -> Evidence:
    """What is stored beside a stage.

    Raises:
        OpsError: its cluster does not answer.
    """
    try:
        return evidence.read(target.cluster, target.settings.namespace)
    except kube.API_ERRORS as error:
        raise OpsError(kube.why(error, target.cluster)) from None
