"""Every fault and every routine change once, in sentinel mode under load: short runs of what `bench/` measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded import REPO, EmbeddedCluster

Bench = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def bench(cluster: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A function that runs one round of `python -m bench ARGS` and gives the rows of its result."""
    folder = tmp_path_factory.mktemp("results")

    def run(*args: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "bench", *args, "--rounds", "1", "--rate", "50", "--cluster", cluster.name]
        environment = {**os.environ, "SESSION_STORE_BENCH_RESULTS": str(folder), "COLUMNS": "200"}
        done = subprocess.run(
            command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (path,) = (line for line in done.stdout.splitlines() if line.endswith(".json"))
        rows: list[dict[str, Any]] = json.loads(Path(path).read_text())["rows"]
        return rows

    yield run
    down = [sys.executable, "-m", "bench", "down", "--cluster", cluster.name]
    subprocess.run(down, cwd=REPO, capture_output=True, timeout=300, check=False)


@pytest.mark.timeout(1200)
def test_the_master_dies_in_every_way_and_nobody_is_logged_out(bench: Bench) -> None:
    rows = bench("failover")
    assert {row["kind"] for row in rows} == {"kill", "delete", "partition", "node"}
    for row in rows:
        assert row["came_back"], row
        assert row["sessions_asked"] > 0
        assert (row["sessions_lost"], row["sessions_unanswered"]) == (0, 0), row
        if row["kind"] in ("kill", "delete"):
            assert row["failed"] == 0, f"requests are held, not refused: {row}"


@pytest.mark.timeout(900)
def test_a_cut_off_master_acknowledges_nothing_that_is_lost(bench: Bench) -> None:
    (row,) = bench("failover", "--split-brain")
    assert row["inside_acknowledged"] > 0
    assert row["inside_refused"] + row["inside_unacknowledged"] > 0, "clients wrote to it after the cut"
    assert (row["inside_lost"], row["outside_lost"]) == (0, 0)


@pytest.mark.timeout(900)
def test_an_upgrade_a_release_and_drains_fail_no_request_and_log_nobody_out(bench: Bench) -> None:
    kinds = ("redis-upgrade", "api-rollout", "drain")  # rotations have tests of their own
    rows = bench("changes", "--requests", "300", *(part for kind in kinds for part in ("--kind", kind)))
    assert Counter(row["kind"] for row in rows) == {"redis-upgrade": 1, "api-rollout": 1, "drain": 3}
    for row in rows:
        assert row["requests"] >= 300
        assert (row["failed"], row["sessions_lost"]) == (0, 0), row
