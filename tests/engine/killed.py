"""A run in a process of its own, for a test that kills it."""

import os
from pathlib import Path

from engine import Engine
from programs import deployment


def run(directory: str) -> None:
    engine = Engine(
        Path(directory), os.environ["TEST_PATH"], Path(os.environ["TEST_HOME"]), Path(os.environ["TEST_CLI"]),
        {"KUBECONFIG": os.environ["KUBECONFIG"]},
    )  # fmt: skip
    engine.up(deployment())
