"""A deployed stack that is only asked: where it runs and with which settings. Takes no lock, starts no update."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from infra.settings import Settings
from ops import kube, workspace
from ops.doctor import books, gather
from ops.errors import OpsError


@dataclass(frozen=True)
class Deployed:
    """A stack's cluster, and its settings as deployed."""

    stack: str
    cluster: kube.Cluster
    settings: Settings


def find(console: Console, stack: str) -> Deployed:
    """A stack, and say where it is. Without the engine's state its file has to do, which is said.

    Raises:
        OpsError: the cluster does not answer; with exit code 2: the stack was never deployed.
    """
    settings, unseen = books.settings(stack), list[str]()
    cluster = kube.connect(stack, workspace.context(workspace.find(stack)))
    gather.reach(cluster)
    engine = books.engine(stack, cluster, unseen)
    told = books.outputs(engine, unseen) if engine else None
    if told is not None and "settings" not in told:
        raise OpsError(f"Stack {stack} is not deployed: run `python -m ops up --stack {stack}`.", 2)
    settings = books.deployed(told, settings)
    head = f"Stack {stack}: cluster {cluster.context} ({cluster.server}), namespace {settings.namespace}"
    for line in (head, *(f"! Going by Pulumi.{stack}.yaml, for the rest was not seen: {one}" for one in unseen)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return Deployed(stack, cluster, settings)
