"""The rehearsal: a change goes from staging to prod, the next one fails there and is taken back; nobody notices."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import plot
from bench.changes import AFTER
from bench.judge import judge
from bench.load import Load
from bench.routes import ServiceRoute
from bench.stack import REPO, BenchError, Stack
from bench.stages import Stages
from bench.variant import variant
from ops.promote import records

API_PORT = 3030


@dataclass
class Rehearsal:
    """The stages, and what was seen of them.

    Attributes:
        stack: the cluster and its images; its own stack is never made.
        stages: staging and prod.
        acts: (what was done, when it began, seconds it took, what was seen).
    """

    stack: Stack
    stages: Stages
    archive: Path
    acts: list[tuple[str, float, float, str]] = field(default_factory=list)

    def act(self, what: str, run: Callable[[], str]) -> None:
        """Do something, and say what came of it."""
        self.stack.say(f"{what} …")
        begin = time.monotonic()
        seen = run()
        took = time.monotonic() - begin
        self.acts.append((what, begin, took, seen))
        self.stack.say(f"  {seen} ({took:.0f} s)")

    def image(self, note: str, **env: str) -> str:
        """An API image under another digest, loaded into the nodes."""
        target = self.stages.folder.parent / "api-variant.tar"
        reference = variant(self.archive, f"{note}-{time.time():.0f}", target, **env)
        self.stack.load_images(str(target))
        target.unlink()
        return reference

    def promote(self, code: int = 0) -> str:
        """`ops promote staging prod --yes`; what it printed."""
        return self.stages.ops("promote", "staging", "prod", "--yes", code=code)

    def last_record(self) -> records.Record:
        """The newest record in promotions/."""
        return records.of(self.stages.folder, "prod")[-1]


def prepare(stack: Stack) -> Rehearsal:
    """Cluster, images and an empty repository; the namespaces of an earlier rehearsal go."""
    folder = REPO / ".state" / "rehearsal" / stack.cluster
    images = folder / "images.json"
    folder.mkdir(parents=True, exist_ok=True)
    stack.create_cluster(images)
    built = json.loads(images.read_text())
    stages = Stages(
        folder / "repository",
        Path(stack.embedded("kubeconfig", "--path").strip()),
        stack.namespace,
        {name: image["ref"] for name, image in built.items()},
    )
    clean_up(stack, stages)
    stages.create()
    return Rehearsal(stack, stages, Path(built["api"]["archive"]))


def clean_up(stack: Stack, stages: Stages) -> None:
    """Delete the stages: their namespaces and their repository."""
    names = [f"{stages.namespace}-{stage}" for stage in ("staging", "prod")]
    stack.kubectl("delete", "namespace", *names, "--ignore-not-found", "--timeout=180s")
    shutil.rmtree(stages.folder, ignore_errors=True)


def rehearse(it: Rehearsal, rate: float, picture: Path) -> dict[str, Any]:
    """The whole of it, and a picture of it.

    Returns:
        What `bench.results.write` takes: acts, requests, failed, sessions, logged_out.

    Raises:
        BenchError: something did not go as it should.
    """
    stages = it.stages
    it.act("staging and prod, the first release", lambda: _first(it))
    address = it.stack.service_address("api", f"{stages.namespace}-prod")
    with Load(ServiceRoute(address, API_PORT), rate) as load:
        begin = time.monotonic()
        it.act("another API image and another session lifetime in staging", lambda: _change(it))
        it.act("promote without evidence", lambda: _refused(it))
        it.act("verify staging", lambda: _last_line(stages.ops("verify", "--stack", "staging")))
        it.act("promote", lambda: _promoted(it))
        good = stages.release("prod")["id"]
        it.act("an API image in staging that never gets ready in prod", lambda: _break(it))
        it.act("promote it: prod fails, and goes back by itself", lambda: _undone(it, good))
        time.sleep(AFTER)
        end = time.monotonic()
        load.pause()
        verdict, check = judge(list(load.records), begin, end), load.check(load.sessions, 300)
    seen = [record for record in load.records if begin <= record.scheduled <= end]
    plot.timeline(
        picture,
        f"Requests to prod while staging is changed, promoted, and a promotion fails ({rate:.0f} requests/s)",
        [(r.scheduled - begin, r.end - r.scheduled) for r in seen if r.good],
        [r.scheduled - begin for r in seen if not r.good],
        [(what, start - begin, start - begin + took) for what, start, took, _ in it.acts if start >= begin],
    )
    return {
        "acts": [{"what": what, "seconds": took, "seen": said} for what, _, took, said in it.acts],
        **asdict(verdict),
        "sessions": check.asked,
        "logged_out": len(check.lost),
        "unanswered": len(check.unanswered),
    }


def _first(it: Rehearsal) -> str:
    stages = it.stages
    for stage in ("staging", "prod"):
        stages.ops("certificates", "issue", "--stack", stage)
    stages.ops("up", "--stack", "staging")
    stages.commit("staging has its salt")
    stages.ops("verify", "--stack", "staging")
    it.promote()
    stages.commit("First promotion")
    return f"prod runs {it.last_record().release.id}"


def _change(it: Rehearsal) -> str:
    it.stages.change("staging", "api", image=it.image("good"))
    it.stages.change("staging", "sessions", ttlSeconds=6 * 60 * 60)
    it.stages.commit("Another image, another lifetime")
    it.stages.ops("up", "--stack", "staging")
    return f"staging runs {it.stages.release('staging')['id']}"


def _refused(it: Rehearsal) -> str:
    said = it.promote(code=1)
    reason = next((line for line in said.splitlines() if "the evidence of staging is of release" in line), None)
    if reason is None:
        raise BenchError(f"an unverified release should be refused for lack of evidence:\n{said}")
    return f"refused: {reason.strip(' -')}"


def _promoted(it: Rehearsal) -> str:
    it.promote()
    it.stages.commit("Second promotion")
    record, runs = it.last_record(), it.stages.release("prod")
    if record.status != records.DONE or runs["id"] != it.stages.release("staging")["id"]:
        raise BenchError(f"prod should run what staging runs, and runs {runs['id']}; the record is {record.status}")
    return f"prod runs {runs['id']}; record {record.name}"


def _break(it: Rehearsal) -> str:
    # Works in staging, whose own setting takes away what breaks it: a difference between stages that nobody thought of.
    image = it.image("broken", NODE_OPTIONS="--require=/not/in/this/image.js")
    it.stages.change("staging", "api", image=image, env={"NODE_OPTIONS": "--no-warnings"})
    it.stages.commit("An image that needs an environment of staging's own")
    it.stages.ops("up", "--stack", "staging")
    return _last_line(it.stages.ops("verify", "--stack", "staging"))


def _undone(it: Rehearsal, good: str) -> str:
    said = it.promote(code=1)
    record, runs = it.last_record(), it.stages.release("prod")
    if record.status != records.UNDONE or runs["id"] != good:
        raise BenchError(
            f"prod should be back at {good}, and runs {runs['id']}; the record is {record.status}:\n{said}"
        )
    it.stages.commit("A promotion that was taken back")
    return f"prod runs {good} again; record {record.name}: {record.status}"


def _last_line(text: str) -> str:
    return next(line for line in reversed(text.splitlines()) if "promises" in line)
