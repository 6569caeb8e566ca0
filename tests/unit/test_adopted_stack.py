"""What the program declares while a Redis is adopted and after: one with a name of its own behind the old Service."""

from __future__ import annotations

from typing import Any

import pytest
from program import Declared, config, declare

NAME = "session-redis"


def adopted(adoption: str | None) -> Declared:
    redis: dict[str, Any] = {"name": NAME, **({"adoption": adoption} if adoption else {})}
    return declare(config(redis=redis, api={"image": ..., "existingDeployment": "api"}))


def test_beside_the_old_one_nothing_of_the_clients_is_touched() -> None:
    found = adopted("beside")
    assert ("StatefulSet", NAME) in found.objects
    assert ("Service", "redis") not in found.objects
    assert "DeploymentPatch" not in found.kinds()


@pytest.mark.parametrize(
    ("adoption", "selector"),
    [("door", {"app": f"{NAME}-door"}), (None, {"app": NAME, "session-store/mode": "standalone"})],
)
def test_the_service_is_taken_over_for_good(adoption: str | None, selector: dict[str, str]) -> None:
    found = adopted(adoption)
    service = found.objects["Service", "redis"]
    assert service["spec"]["selector"] == selector
    assert service["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert service["metadata"]["annotations"]["pulumi.com/patchForce"] == "true"
    env = found.env("DeploymentPatch", "api")
    assert env["REDIS_HOST"] == "redis"
    assert env["REDIS_USERNAME"] == "default"


def test_none_of_our_pods_is_one_that_the_charts_service_selects() -> None:
    found = adopted("beside")
    labels = [found.pod(kind, name)["metadata"]["labels"] for kind, name in found.objects if kind == "StatefulSet"]
    assert labels
    assert all(label["app"] != "redis" for label in labels)
