"""`python -m ops sessions`: the commands."""

from __future__ import annotations

import contextlib
import heapq
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ops import backup, deployed, workspace
from ops.console import Console, Json, Stack, confirm
from ops.errors import OpsError
from ops.sessions import find, store
from ops.sessions.session import FOR_EVER, Session, duration, masked, outline, printable
from ops.sessions.store import Dropped, Sessions

app = typer.Typer(
    no_args_is_help=True,
    help="Who is logged in, and logging out: by session, user, pattern, or all. No session id is ever shown.",
)
console = Console()

User = Annotated[str | None, typer.Option("--user", help="Only who is logged in under this very name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class Work:
    """One run of a command on a stack's sessions."""

    def __init__(self, stack: str) -> None:
        self.found = deployed.find(console, stack)
        self.sessions: Sessions = store.of(self.found.cluster, self.found.settings, stack)

    @property
    def lifetime(self) -> int:
        """Seconds that a session lives after its last use."""
        return self.found.settings.sessions.ttl_seconds

    @property
    def where(self) -> str:
        """Prefix and database, for people."""
        return f"{self.found.settings.sessions.prefix}* in database {self.found.settings.redis.database}"

    def again(self, command: str) -> str:
        """A command of ours on this stack."""
        return f"`python -m ops sessions {command} --stack {self.found.stack}`"


def say(line: str) -> None:
    """One line for people."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[find.Moved]:
    """How far it is, while it lasts."""
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


def _write(json_file: Path | None, content: dict[str, Any]) -> None:
    if json_file:
        json_file.write_text(json.dumps(content, indent=2) + "\n")


@app.command()
def count(stack: Stack = workspace.DEV, user: User = None, json_file: Json = None) -> None:
    """Count the sessions, or a user's."""
    work = Work(stack)
    total = endless = 0
    with backup.stoppable("Stopped on request; nothing was counted to its end."), progress("Sessions") as moved:
        for some in find.batches(work.sessions, user, moved):
            total += len(some)
            endless += sum(one.left == FOR_EVER for one in some)
    _write(json_file, {"stack": stack, "user": user, "sessions": total, "without_end": endless})
    say(f"{sessions_of(total, user)}: {work.where}")
    if endless:
        say(f"! {endless} of them have no end: {work.again('drop --without-end')}")


def sessions_of(count: int, user: str | None = None) -> str:
    """A count, for people."""
    return f"{count} session{'s' * (count != 1)}" + ("" if user is None else f" of user {printable(user)}")


@app.command("list")
def listed(
    stack: Stack = workspace.DEV,
    user: User = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, those used last first.")] = 50,
    json_file: Json = None,
) -> None:
    """List sessions, those used last first: who, idle since when, until when, how large."""
    work = Work(stack)
    total, last = 0, list[Session]()
    with backup.stoppable("Stopped on request."), progress("Sessions") as moved:
        for some in find.batches(work.sessions, user, moved):
            total += len(some)
            last = heapq.nlargest(limit, [*last, *some], key=lambda one: one.left)
        shown = work.sessions.read([one.key for one in last], contents=True)
    rows = [_row(one, work.lifetime) for one in shown]
    _write(json_file, {"stack": stack, "user": user, "sessions": total, "listed": rows})
    if rows:
        console.print(_table(rows))
    more = f"; {total - len(rows)} more: --limit {total}, or --user NAME" if total > len(rows) else ""
    say(f"{sessions_of(total, user)}: {work.where}{more}")


def _row(one: Session, lifetime: int) -> dict[str, Any]:
    """A session as a row, for people and machines."""
    return {
        "session": one.name,
        "user": one.user,
        "valid": isinstance(one.data, dict),
        "idle": one.idle(lifetime),
        "ends_in": None if one.left == FOR_EVER else one.left / 1000,
        "bytes": None if one.content is None else len(one.content),
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    shown = Table("session", "user", "idle", "ends in", "bytes")
    for column in shown.columns[2:]:
        column.justify = "right"
    for row in rows:
        ends = "never" if row["ends_in"] is None else duration(row["ends_in"])
        idle = "" if row["idle"] is None else duration(row["idle"])
        size = "" if row["bytes"] is None else str(row["bytes"])
        shown.add_row(row["session"], who(row["user"], row["valid"]), idle, ends, size)
    return shown


def who(user: str | None, valid: bool) -> Text:
    """A user, for people."""
    if user is None:
        return Text("nobody logged in" if valid else "no JSON: session-store.js ignores it", style="dim")
    return Text(printable(user)[:80])


@app.command()
def show(
    session: Annotated[str, typer.Argument(help="Its name, as `list` shows it, or the beginning.")],
    stack: Stack = workspace.DEV,
) -> None:
    """Show one session: whose, until when, and what it holds, masked: names, kinds and lengths, no values."""
    work = Work(stack)
    with backup.stoppable("Stopped on request."), progress("Looking for it") as moved:
        (key,) = find.named(work.sessions, (session,), moved)
        found = work.sessions.read([key], contents=True)
        if not found:
            raise OpsError(f"Session {masked(session)} has just ended.")
        kind, memory = work.sessions.facts(key)
    (one,) = found
    ends = "never" if one.left == FOR_EVER else f"in {duration(one.left / 1000)}"
    idle = one.idle(work.lifetime)
    say(f"Session {one.name}: {one.shown} in database {work.found.settings.redis.database}")
    say(f"  user: {who(one.user, isinstance(one.data, dict))}")
    say(f"  ends: {ends}" + ("" if idle is None else f", idle for {duration(idle)}"))
    if one.written:
        say(f"  written: {one.written:%Y-%m-%d %H:%M:%S} UTC")
    size = kind if one.content is None else f"{len(one.content)} bytes"
    say(f"  size: {size}" + ("" if memory is None else f", {memory} bytes of memory"))
    say("It holds (masked):")
    for line in outline(one.data):
        say(line)


@app.command()
def drop(
    session: Annotated[list[str] | None, typer.Argument(help="Names, as `list` shows them.")] = None,
    stack: Stack = workspace.DEV,
    user: Annotated[str | None, typer.Option("--user", help="All sessions of this very user.")] = None,
    pattern: Annotated[str | None, typer.Option("--pattern", help="Ids that match, in Redis's `*?[]` pattern.")] = None,
    without_end: Annotated[bool, typer.Option("--without-end", help="Those that would stay for ever.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    yes: Yes = False,
) -> None:
    """Log out: delete sessions by name, user or pattern, after saying how many. Run again, it finishes."""
    wish = find.Wish(tuple(session or ()), user, pattern, without_end)
    work = Work(stack)
    with backup.stoppable("Stopped on request; nothing was dropped."):
        with progress("Sessions") as moved:
            keys = find.keys(work.sessions, wish, moved)
        if not keys:
            say(f"There are no sessions {wish}: nothing to do.")
            return
        many = sessions_of(len(keys))
        if dry_run:
            say(f"Would drop {many} {wish}: {work.where}. Nothing was dropped.")
            return
        say(f"{many} {wish}: {work.where}")
        question = f"Drop {many} of stack {stack} on {work.found.cluster.context}?"
        confirm(yes, "`sessions drop` logs people out", question)
    _drop(work, [keys], len(keys), "drop")
    say("Whoever used them has to log in again.")


@app.command()
def flush(
    stack: Stack = workspace.DEV,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Answers the first question.")] = False,
    confirmed: Annotated[
        str | None, typer.Option("--confirm", help="Answers the second one: the stack's name.")
    ] = None,
) -> None:
    """Log everybody out: delete every session of the stack, and no other key. Asks twice."""
    if confirmed not in (None, stack):
        raise OpsError(f"--confirm {confirmed} is not the stack that --stack names ({stack}): nothing was dropped.", 2)
    work = Work(stack)
    with backup.stoppable("Stopped on request; nothing was dropped."):
        with progress("Sessions") as moved:
            total = sum(len(some) for some in _counted(work.sessions, moved))
        if not total:
            say(f"There are no sessions: {work.where}. Nothing to do.")
            return
        say(f"{sessions_of(total)}: {work.where}")
        _ask_twice(work, total, yes, confirmed)
    _drop(work, work.sessions.scan(), total, "flush")
    say("Everybody has to log in again.")


def _counted(sessions: Sessions, moved: find.Moved) -> Iterator[list[bytes]]:
    for some in sessions.scan():
        moved(len(some))
        yield some


def _ask_twice(work: Work, total: int, yes: bool, confirmed: str | None) -> None:
    stack, context = work.found.stack, work.found.cluster.context
    if not sys.stdin.isatty() and not (yes and confirmed):
        raise OpsError(
            f"`sessions flush` logs everybody out: repeat it with --yes --confirm {stack} when nobody is there to ask."
        )
    if not yes:
        typer.confirm(f"Drop all {sessions_of(total)} of stack {stack} on {context}?", abort=True)
    if confirmed is None and typer.prompt("The stack's name, to be sure") != stack:
        raise OpsError(f"That is not {stack}: nothing was dropped.")


def _drop(work: Work, keys: Any, total: int, command: str) -> None:
    """Drop sessions, and say how far it came, whatever ends it."""
    done = Dropped()
    again = f"Run it again: it drops the rest ({work.again(command + ' …' * (command == 'drop'))})."
    with backup.stoppable(""):
        try:
            with progress("Dropped", total) as moved:
                work.sessions.drop(keys, done, moved)
        except KeyboardInterrupt:
            raise OpsError(f"Stopped on request: {done.gone} of {sessions_of(total)} dropped. {again}", 130) from None
        except OpsError as error:
            raise OpsError(f"{done.gone} of {sessions_of(total)} dropped. {error}", error.code) from None
    ended = f"; {total - done.gone} were gone by then" if done.gone < total else ""
    say(f"Dropped {sessions_of(done.gone)}{ended}.")
    if done.unconfirmed:
        say(
            f"! No replica confirmed {done.unconfirmed} batches of them: if the master dies now, they may come back. "
            f"`python -m ops sessions count --stack {work.found.stack}` tells."
        )
