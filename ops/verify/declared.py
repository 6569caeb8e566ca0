"""The check that ties a report to a release: the cluster is what the program declares, with nothing changed by hand."""

from __future__ import annotations

import contextlib
import importlib.metadata
from typing import Any

import kubernetes

from infra import release as releases
from ops import drift
from ops.kube import TIMEOUT
from ops.stacks import Target
from ops.verify.live import Live
from ops.verify.model import Check, Failed

ID = "as-declared"


def check(target: Target) -> Check:
    """The check for a stack whose program can be run."""

    def run(live: Live) -> str:
        opened = target.engine.open(target.say, create=False)
        assert opened is not None  # noqa: S101 - its outputs were read
        if found := drift.differences(target, opened):
            raise Failed(
                f"{drift.brief(found)}: `python -m ops drift {target.stack}` tells what was changed by hand, "
                f"`python -m ops up --stack {target.stack} --refresh` makes it so"
            )
        return f"release {live.outputs['release']['id']}, nothing to change"

    return Check(ID, "The cluster is what the program declares", "design: evidence is of a release", run)


def versions(live: Live) -> dict[str, str]:
    """What the evidence was seen with."""
    found = {"program": str(releases.program()), "pulumi": importlib.metadata.version("pulumi")}
    with contextlib.suppress(Exception):
        code = kubernetes.client.VersionApi(live.cluster.api).get_code(_request_timeout=TIMEOUT)
        found["kubernetes"] = str(code.git_version)
    with contextlib.suppress(Exception):
        info: Any = live.redis().info("server")
        found["redis"] = str(info["redis_version"])
    return found
