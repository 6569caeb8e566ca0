"""`python -m bench`: the commands."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console

from bench import changes as routine
from bench import cli_performance, plot, results, splitbrain
from bench import failover as deaths
from bench import rehearse as rehearsal
from bench.load import WARM_UP, Load
from bench.routes import Balancer, ServiceRoute
from bench.stack import AHEAD, ERRORS, BenchError, Stack

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
cli_performance.register(app)
console = Console()
API_PORT = 3030

Cluster = Annotated[str, typer.Option(help="Embedded cluster; it is started when it does not run (3 nodes).")]
Namespace = Annotated[str, typer.Option(help="Namespace of the bench's own stack; made when missing.")]
Mode = Annotated[str, typer.Option(help="redis.mode: sentinel or standalone.")]
Wait = Annotated[int, typer.Option(help="sessions.waitReplicas, in sentinel mode.")]
Rate = Annotated[float, typer.Option(help="Requests per second.")]
Kinds = Annotated[list[str] | None, typer.Option("--kind", help="Only this kind; may be repeated.")]

CHANGE_COLUMNS = {
    "rounds": "rounds",
    "requests": "requests",
    "failed": "failed",
    "sessions": "sessions",
    "sessions_lost": "lost",
    "latency_p50": "latency p50",
    "latency_p99": "p99",
    "latency_worst": "worst",
    "longest_gap": "longest gap",
    "seconds": "takes (p50)",
}


@app.command()
def failover(
    rounds: Annotated[int, typer.Option(min=1, help="Of each kind.")] = 20,
    kind: Kinds = None,
    cluster: Cluster = "bench",
    namespace: Namespace = "bench",
    mode: Mode = "sentinel",
    wait_replicas: Wait = 1,
    rate: Rate = 200.0,
    hold: Annotated[float, typer.Option(help="Seconds that a cut or a dead node lasts at least.")] = 8.0,
    split_brain: Annotated[
        bool, typer.Option("--split-brain", help="Instead: cut the master off while clients write on both sides.")
    ] = False,
) -> None:
    """Kill the master again and again under load: how long is nobody served, who is logged out?

    Kinds: kill (SIGKILL of redis-server), delete (its pod, grace 0), partition (its node's cable), node (its death),
    and, only when asked for, all (SIGKILL of every redis-server at once).
    """
    kinds = _chosen(kind or list(deaths.USUAL), deaths.KINDS)
    stack = Stack(cluster, namespace, mode, wait_replicas, console)
    stack.create()
    route = Balancer(stack.api, namespace)
    if split_brain:
        _split_brain(stack, route, rate, rounds, hold)
        return
    rows: list[dict[str, Any]] = []
    summaries: dict[str, dict[str, Any]] = {}
    wait = f"wait{wait_replicas if mode == 'sentinel' else 0}"
    name = "-".join(["failover", *_named(kinds, deaths.USUAL), mode, wait])
    for each in kinds:
        with Load(route, rate) as load:
            time.sleep(WARM_UP)
            try:
                events = deaths.rounds(stack, load, each, range(1, rounds + 1), hold)
            finally:
                stack.embedded("up")  # leaves no cut and no dead node behind, whatever happened
            load.pause()
            patience = 10.0 if events[-1].error else 600.0  # nobody may be there to answer
            summaries[each] = deaths.summary(events, load.check(load.sessions, patience))
        rows += [event.row() for event in events]
        # After each kind: a run that is broken off later keeps what it has.
        path = results.write(name, {**results.about(stack, rate), "summary": summaries, "rows": rows})
    series = {deaths.KINDS[k]: [r["unavailable"] for r in rows if r["kind"] == k and r["unavailable"]] for k in kinds}
    picture = path.with_suffix(".png")
    title = f"Nobody served after the death of the master ({mode}, waitReplicas {wait_replicas}, {rate:.0f} requests/s)"
    plot.dots(picture, title, "seconds from the last success to the first", series)
    results.show(console, title, summaries, deaths.COLUMNS)
    console.print(f"{path}\n{picture}", soft_wrap=True, highlight=False)
    if any(s["came_back"] < s["rounds"] or s["rounds"] < rounds for s in summaries.values()):
        raise BenchError("the service did not come back by itself after one of the events; the rows say which")


def _split_brain(stack: Stack, route: Balancer, rate: float, rounds: int, hold: float) -> None:
    found = []
    for number in range(1, rounds + 1):
        with Load(route, rate) as load:
            time.sleep(WARM_UP)
            found.append(splitbrain.attempt(stack, load, number, hold))
    path = results.write(f"split-brain-{stack.mode}", {**results.about(stack, rate), "rows": found})
    labels = {f"round {row['round']}": row for row in found}
    results.show(console, "Split brain: clients on both sides of a cut", labels, splitbrain.COLUMNS)
    console.print(f"{path}", soft_wrap=True, highlight=False)


@app.command()
def changes(
    rounds: Annotated[int, typer.Option(min=1, help="Of each kind.")] = 5,
    kind: Kinds = None,
    cluster: Cluster = "bench",
    namespace: Namespace = "bench",
    mode: Mode = "sentinel",
    wait_replicas: Wait = 1,
    rate: Rate = 200.0,
    requests: Annotated[int, typer.Option(min=1, help="At least so many in each round.")] = 2000,
) -> None:
    """Do every routine change under load: what does it cost the people using the API?"""
    kinds = _chosen(kind, routine.KINDS)
    name = "-".join(["changes", *_named(kinds, routine.KINDS), mode])
    stack = Stack(cluster, namespace, mode, wait_replicas, console)
    stack.create()
    rows: list[dict[str, Any]] = []
    summaries: dict[str, dict[str, Any]] = {}
    for each in kinds:
        with Load(ServiceRoute(stack.service_address("api"), API_PORT), rate) as load:
            time.sleep(WARM_UP)
            done = routine.rounds(stack, load, each, rounds, requests)
            load.pause()
            summaries[each] = routine.summary(done, load.check(load.sessions, 600.0))
        rows += [change.row() for change in done]
        path = results.write(name, {**results.about(stack, rate), "summary": summaries, "rows": rows})
    title = f"Routine changes under {rate:.0f} requests/s ({mode})"
    series = {routine.KINDS[k]: [r["worst"] for r in rows if r["kind"] == k and r["worst"]] for k in kinds}
    picture = path.with_suffix(".png")
    plot.dots(picture, title, "slowest request of a round, seconds", series)
    results.show(console, title, summaries, CHANGE_COLUMNS)
    console.print(f"{path}\n{picture}", soft_wrap=True, highlight=False)


@app.command()
def rehearse(
    cluster: Cluster = "bench",
    namespace: Annotated[str, typer.Option(help="The namespaces are <this>-staging and <this>-prod.")] = "rehearsal",
    rate: Rate = 50.0,
) -> None:
    """Promote a change from staging to prod, then one that fails there: does anybody in prod notice?"""
    stack = Stack(cluster, namespace, "sentinel", 1, console)
    it = rehearsal.prepare(stack)
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    found = rehearsal.rehearse(it, rate, results.FOLDER / "rehearsal.png")
    path = results.write("rehearsal", {**results.about(stack, rate), **found})
    record = it.last_record()
    rehearsal.clean_up(stack, it.stages)
    console.print(
        f"{found['requests']} requests to prod meanwhile: {found['failed']} failed; "
        f"{found['sessions']} sessions, {found['logged_out']} logged out; slowest request {found['worst']:.2f} s. "
        f"The last record said: {record.status}. {path}",
        highlight=False,
        soft_wrap=True,
    )
    if found["failed"] or found["logged_out"] or found["unanswered"]:
        raise BenchError(f"people in prod noticed: {found['errors'] or 'sessions are gone'}")


@app.command()
def down(cluster: Cluster = "bench", namespace: Namespace = "bench") -> None:
    """Delete the bench's stack; the cluster stays (`python -m cluster down --name bench --purge`)."""
    Stack(cluster, namespace, "sentinel", 0, console).destroy()


def _named(kinds: list[str], usual: Iterable[str]) -> list[str]:
    """The kinds that a result's name holds: a run of some does not overwrite the one of all."""
    return [] if set(kinds) == set(usual) else kinds


def _chosen(kinds: list[str] | None, known: dict[str, str]) -> list[str]:
    if unknown := sorted(set(kinds or ()) - set(known)):
        raise BenchError(f"there is no kind {', '.join(unknown)}; there are: {', '.join(known)}")
    return kinds or list(known)


def main() -> None:
    """Run a command; what can go wrong is one message and exit status 1."""
    # Clients are other machines: a busy cluster must not slow them down, nor a thread that holds what they wait for.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -AHEAD)
    try:
        app()
    except ERRORS as error:
        console.print(str(error) or type(error).__name__, style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
