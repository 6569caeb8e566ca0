"""A promotion from the gate to the record, and the way back. Stopped anywhere, the same command goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from infra.release import Release
from infra.settings import parse
from ops import programs, stacks, verify, workspace
from ops.console import confirm
from ops.errors import InUseError, OpsError
from ops.promote import gate, pins, records
from ops.promote.prospect import Prospect, judge, prospect
from ops.promote.records import Record
from ops.stacks import Target


@dataclass(frozen=True)
class Wish:
    """How far to go: `dry_run` shows, `check` judges, `pull_request` writes pins and record, else all of it.

    Attributes:
        pinned: the release is the one that the stack file pins already.
        override: why to pass over refusals.
    """

    yes: bool = False
    dry_run: bool = False
    check: bool = False
    pull_request: bool = False
    pinned: bool = False
    override: str | None = None


def promote(console: Console, source: str, stage: str, wish: Wish) -> None:
    """See the module.

    Raises:
        OpsError: refused (every reason), or failed (what was done about it).
    """
    gate.stages(workspace.stages(), source, stage)
    before = stacks.select(console, source)
    judge(list(gate.in_use(before)), None, f"{source} to {stage}")
    outputs = stacks.deployed(before)
    known = records.of(before.engine.workspace.repo, stage)
    last = known[-1] if known else None
    if wish.pinned or wish.check:
        release = pins.read(workspace.find(stage))
        if release is None:
            if wish.check:
                before.say(f"{stage} pins no release yet: nothing to check.")
                return
            raise OpsError(f"Pulumi.{stage}.yaml pins no release: `python -m ops promote {source} {stage}`.")
    else:
        release = _release(before, outputs)
    found = gate.evidence_of(before)
    for warning in gate.overridden(before, found):
        before.say(f"! {warning}")
    plan = prospect(console, stage, release)
    interrupted = last is not None and last.status == records.STARTED
    same = plan.previous is not None and plan.previous.id == release.id
    if same and not interrupted and (wish.pinned or wish.check or not plan.refusals):
        before.say(f"{stage} runs release {release.id} already: nothing to promote.")
        return
    if wish.check and any(r.release.id == release.id and r.status == records.DONE for r in known):
        before.say(f"{stage} pins release {release.id}, which it ran before: going back needs no new evidence.")
        return
    reasons = list(gate.proof(source, before.settings, found, release.id))
    if not wish.pinned and not wish.check:
        reasons += gate.working_tree(before, outputs, programs.commit)
        if not any(r.firm for r in reasons):
            reasons += gate.by_hand(before)
    reasons += plan.refusals
    plan.show(console, stage)
    override = wish.override
    if (wish.pinned or wish.check) and last and last.release.id == release.id:
        override = override or last.override  # its reviewers read the reason
    passed = judge(reasons, override, f"{source} to {stage}")
    if wish.check:
        before.say(f"{stage} may run release {release.id}: {source} has proved it.")
        return
    if wish.dry_run:
        before.say("That is what would be done; nothing was changed.")
        return
    confirm(wish.yes, "`promote` changes a stage", f"Promote release {release.id} from {source} to {stage}?")
    record = _record(stage, last, plan, "promotion", override, passed)
    record.evidence = found.proved.get(release.id, {})
    if record.path:
        before.say(f"Going on with {record.name}.")
    record.begin(before.engine.workspace.repo)
    pins.write(workspace.find(stage), release)
    assert record.path is not None  # noqa: S101 - it was written
    if wish.pull_request:
        record.end(records.PROPOSED, "the update is left to CI")
        before.say(f"Pins are in Pulumi.{stage}.yaml, the record is {record.path}.")
        before.say(f"Next: commit both, open a pull request; after it, `ops promote {source} {stage} --pinned --yes`.")
        return
    _apply(console, stage, record)


def rollback(console: Console, stage: str, to: str | None, wish: Wish) -> None:
    """Have a stage run an earlier promotion's release again; data stays.

    Args:
        console: where people read.
        stage: its name.
        to: a record's name or the head of a release's id; None: what ran before the present one.
        wish: yes, dry_run, override.

    Raises:
        OpsError: there is nothing to go back to, or it failed.
    """
    if stage not in workspace.stages()[2:]:
        raise OpsError(f"Nothing is promoted to {stage}: `git revert` its stack file and run `up`.", 2)
    present = stacks.select(console, stage, deploys=False)
    runs = stacks.running(stacks.deployed(present))
    known = records.of(present.engine.workspace.repo, stage)
    last = known[-1] if known else None
    release = _earlier(stage, known, runs, to)
    plan = prospect(console, stage, release)
    plan.show(console, stage)
    passed = judge(plan.refusals, wish.override, f"{stage} back to {release.id}")
    if wish.dry_run:
        present.say("That is what would be done; nothing was changed.")
        return
    confirm(wish.yes, "`rollback` changes a stage", f"Take {stage} back to release {release.id}?")
    record = _record(stage, last, plan, "rollback", wish.override, passed)
    record.begin(present.engine.workspace.repo)
    pins.write(workspace.find(stage), release)
    _apply(console, stage, record)


def _release(before: Target, outputs: dict[str, Any]) -> Release:
    """What the stage before runs, pinned to the commit that holds its program."""
    deployed = parse(outputs["settings"])
    if deployed.release:
        commit = deployed.release.commit
    else:
        try:
            commit = programs.commit()
        except OpsError:
            commit = "0" * 40  # the gate says why, and nothing is written
    if "id" not in outputs["release"]:
        raise OpsError(f"{before.stack} was last updated by an older program: `python -m ops up -s {before.stack}`.")
    return pins.of_stage(before.stack, outputs, deployed, commit)


def _earlier(stage: str, known: list[Record], running: Release | None, to: str | None) -> Release:
    last = known[-1] if known else None
    if to is None and last and last.status in (records.STARTED, records.FAILED) and last.previous:
        return last.previous
    done = [r for r in known if r.status == records.DONE]
    if to is not None:
        done = [r for r in done if to in (r.name, f"{r.name}.md") or r.release.id.startswith(to)]
    elif running:
        done = [r for r in done if r.release.id != running.id]
    if not done:
        names = ", ".join(f"{r.name} ({r.release.id})" for r in known if r.status == records.DONE) or "none"
        raise OpsError(f"There is no earlier promotion of {stage}{f' like {to}' if to else ''}; there are: {names}.")
    return done[-1].release


def _record(
    stage: str, last: Record | None, plan: Prospect, kind: str, override: str | None, passed: list[str]
) -> Record:
    """A new record; or the one of a run that was stopped, when it was for the same."""
    previous = plan.previous
    if last and last.status in (records.STARTED, records.PROPOSED):
        if last.release.id == plan.release.id and last.kind == kind:
            last.status = records.STARTED
            last.override, last.refusals = last.override or (override if passed else None), last.refusals or passed
            return last
        if last.status == records.STARTED:
            last.end(records.LEFT, f"stopped, and replaced by release {plan.release.id}")
            # The stage may run a part of that one: what it ran before is what can be gone back to.
            previous = last.previous if previous and previous.id == last.release.id else previous
    record = Record(stage, kind, plan.release, previous, differences=plan.rows)
    record.override, record.refusals = (override, passed) if passed else (None, [])
    return record


def _apply(console: Console, stage: str, record: Record) -> None:
    """Update the stage to its pins, verify it, record it; go back when it fails."""
    again = f"the same command goes on, `python -m ops rollback {stage}` undoes it"
    target = stacks.again(console, stage)
    try:
        _update(target)
    except OpsError as error:
        # Nothing was begun where somebody else holds the stack: there is nothing to take back.
        if target.engine.interrupted or isinstance(error, InUseError):
            raise OpsError(f"{error}\nThe promotion is recorded as started ({record.path}): {again}.") from None
        _undo(console, stage, record, error)
    record.end(records.DONE, f"release {record.release.id} runs, and verify is green")
    target.say(f"{stage} runs release {record.release.id}. The record: {record.path}")
    target.say(f"Next: commit Pulumi.{stage}.yaml and {records.FOLDER}/. Back: `python -m ops rollback {stage}`")


def _update(target: Target) -> None:
    stacks.up(target, promoting=True)
    report = verify.verify(target, stacks.deployed(target), read_only=True)
    if report.failed:
        red = "; ".join(f"{line.title}: {line.evidence}" for line in report.lines if line.status == "fail")
        raise OpsError(f"{target.stack} was updated and does not keep its promises: {red}")


def _undo(console: Console, stage: str, record: Record, error: OpsError) -> None:
    """Go back to what the stage ran; ends in an error in any case."""
    reason = " ".join(str(error).split())[:500]
    previous = record.previous
    if previous is None:
        record.end(records.FAILED, reason)
        raise OpsError(f"{error}\n{stage} ran nothing before: there is nothing to go back to. Mend it, and run again.")
    console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Going back to release {previous.id}.", style="yellow", highlight=False)
    pins.write(workspace.find(stage), previous)
    target = stacks.select(console, stage)
    try:
        _update(target)
    except OpsError as second:
        record.end(records.FAILED, f"{reason}; going back failed too: {' '.join(str(second).split())[:300]}")
        raise OpsError(
            f"{second}\nGoing back failed too: {stage} is between two releases. "
            f"`python -m ops rollback {stage}` tries again."
        ) from None
    record.end(records.UNDONE, reason)
    raise OpsError(
        f"The {record.kind} failed; {stage} runs release {previous.id} again, verified. The record: {record.path}"
    )
