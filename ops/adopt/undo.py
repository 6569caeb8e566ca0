"""The way back: the same steps from the other end. The old Redis gets all that the new one has, then the clients."""

from __future__ import annotations

import time

from infra.redis import conf
from ops import kube
from ops.adopt import record as records
from ops.adopt.redises import PAUSE_MS, in_sync, level, replication, tell, version
from ops.adopt.steps import Adoption
from ops.errors import OpsError


def undo(adoption: Adoption) -> None:
    """Give everything back to the chart. The stack's Redis stays beside, a replica of the old one.

    Raises:
        OpsError: a step failed; running it again goes on.
    """
    steps = adoption.steps
    if records.read(adoption.cluster, adoption.namespace, adoption.app) is None:
        raise OpsError("No adoption was begun here, or it was finished: there is nothing to undo.")
    adoption.settle()
    if adoption.cut:
        steps.step("The old Redis runs again", lambda: _awake(adoption))
        steps.step("The door is open", lambda: _open(adoption))
        steps.step("The old one gets all that the new one has", lambda: _fed(adoption))
        steps.step("Everybody goes through the door", lambda: adoption.declare("door"))
        steps.step("The API is as its chart has it", lambda: _unwired(adoption))
        steps.step("Writes go to the old one", lambda: _back(adoption))
    steps.step("The Service leads to the old one", lambda: _led(adoption))
    steps.step("The stack's Redis is nobody's", lambda: _apart(adoption))


def _awake(adoption: Adoption) -> str:
    kept = adoption.record()
    found = kube.get(adoption.cluster.apps.read_namespaced_deployment, kept.deployment, adoption.namespace)
    if found is None:
        raise OpsError(
            f"Deployment {kept.deployment} is gone: bring its template back into the chart, `helm upgrade`, and run "
            "this again."
        )
    if not found.spec.replicas:
        adoption.scale(kept.deployment, kept.replicas)

    def left() -> str | None:
        try:
            with adoption.old().client():
                return None
        except OpsError as error:
            return str(error)

    adoption.steps.wait(left)
    return f"{adoption.old().pod.metadata.name} answers"


def _open(adoption: Adoption) -> str:
    kept = adoption.record()
    adoption.door.policy(kept.selector, kept.port)
    return adoption.stand_open()


def _fed(adoption: Adoption) -> str:
    old = adoption.old()
    with old.client() as there, adoption.new.client() as here:
        ours, theirs = version(here.info("server")), version(there.info("server"))
        if theirs < ours and in_sync(there):
            raise OpsError(
                f"Redis {theirs[0]}.{theirs[1]} cannot copy from the newer {ours[0]}.{ours[1]}: going back would lose "
                "what was written since; `ops backup` keeps it."
            )
        if replication(there).get("master_host") != adoption.door.name:
            tell(there, "REPLICAOF", adoption.door.name, str(conf.PORT))
        adoption.steps.wait(lambda: in_sync(there))
    return f"{old.pod.metadata.name} is in sync"


def _unwired(adoption: Adoption) -> str:
    changed = adoption.declare("beside")
    adoption.steps.wait(adoption.rolled_out)
    return changed


def _back(adoption: Adoption) -> str:
    old, kept = adoption.old(), adoption.record()
    with old.client() as there, adoption.new.client() as here:
        turn, begin = adoption.door.turner("old"), time.monotonic()
        tell(here, "CLIENT", "PAUSE", str(PAUSE_MS), "WRITE")
        level(here, there)
        tell(there, "REPLICAOF", "NO", "ONE")
        adoption.new.follow(here, old.address, old.port)
        adoption.note(kept, cut=False)
        turn()
        tell(here, "CLIENT", "UNPAUSE")
        held = time.monotonic() - begin
    return f"writes were held for {held:.2f} s"


def _led(adoption: Adoption) -> str:
    kept = adoption.record()
    if adoption.leads_to() == kept.selector:
        return "it does"
    if adoption.door.pods():
        adoption.door.turner("old")()
    adoption.lead(kept.selector, kept.ports)
    adoption.steps.wait(adoption.led)
    return f"to {adoption.old().pod.metadata.name}"


def _apart(adoption: Adoption) -> str:
    adoption.declare("beside")
    with adoption.new.client() as here:
        if replication(here)["role"] != "master":
            adoption.new.lead(here)
    adoption.new.shut()
    adoption.door.remove()
    records.forget(adoption.cluster, adoption.namespace, adoption.app)
    return "`ops down` deletes it, `ops adopt run` begins again"
