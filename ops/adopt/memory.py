"""From sessions in a pod's memory to Redis."""

from __future__ import annotations

from infra.settings import Settings
from ops.adopt.steps import Declare
from ops.kube import Cluster
from ops.rotate.steps import Steps


class BlueGreen:
    """To be written."""

    def __init__(self, cluster: Cluster, settings: Settings, steps: Steps, declare: Declare) -> None:
        pass

    def run(self) -> None:
        """All of it."""
        raise NotImplementedError
