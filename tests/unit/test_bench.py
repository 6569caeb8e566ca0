"""The bench's arithmetic: a wrong judge would make every figure worthless."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from bench import plot
from bench.judge import judge, percentile, silence
from bench.load import Load, Record
from bench.variant import variant


def record(scheduled: float, wait: float = 0.01, kind: str = "read", status: int | None = 200) -> Record:
    return Record(scheduled, scheduled + wait, kind, status, None if status else "TimeoutError", "s", 1)


def test_silence_is_the_longest_time_between_successes_around_the_event() -> None:
    times = [0.0, 0.9, 1.0, 4.5, 4.6, 5.0]
    assert silence(times, 1.1, 5.0) == 3.5
    assert silence(times, 0.0, 0.95) == pytest.approx(0.9)


def test_silence_without_an_end_is_no_number() -> None:
    assert silence([0.0, 0.5, 1.0], 0.6, 30.0) is None
    assert silence([], 0.0, 1.0) is None


def test_logins_that_fail_are_not_hidden_by_reads_that_do_not() -> None:
    reads = [record(n / 10) for n in range(100)]
    logins = [record(n / 10, kind="login", status=503 if 20 <= n < 60 else 200) for n in range(100)]
    verdict = judge([*reads, *logins], 1.0, 9.0)
    assert verdict.unavailable_reads == pytest.approx(0.1)
    assert verdict.unavailable_logins == pytest.approx(4.1)
    assert verdict.unavailable == verdict.unavailable_logins
    assert verdict.failed == 40
    assert verdict.errors == {"login: 503": 40}


def test_requests_that_waited_count_from_when_they_were_due() -> None:
    held = [record(2.0 + n / 100, wait=3.0 - n / 100) for n in range(50)]
    verdict = judge(
        [*(record(n / 100) for n in range(200)), *held, *(record(5.0 + n / 100) for n in range(99))], 1.0, 6.0
    )
    assert verdict.failed == 0
    assert verdict.worst == pytest.approx(3.0)
    assert verdict.unavailable_reads == pytest.approx(3.0)


def test_percentile_is_by_nearest_rank() -> None:
    assert [percentile([1, 2, 3, 4], p) for p in (0, 50, 99, 100)] == [1, 2, 4, 4]
    assert percentile([], 50) is None


def test_variant_is_the_same_image_under_another_digest(tmp_path: Path) -> None:
    from images import oci

    layer = oci.write_layer(tmp_path / "l.layer", iter([oci.member("hello", b"world")]))
    archive = tmp_path / "a.tar"
    digest = oci.write_image(archive, "redis", oci.Config(["redis-server"], "999:999"), [layer])
    new = variant(archive, "1", tmp_path / "b.tar")
    assert new.startswith("session-store.local/redis@sha256:")
    assert not new.endswith(digest)
    from cluster import tools

    assert tools.read_archive(tmp_path / "b.tar").ref == new, "the cluster's loader takes it for that image"
    with tarfile.open(archive) as old, tarfile.open(tmp_path / "b.tar") as copy:
        blob = f"blobs/sha256/{layer.digest.removeprefix('sha256:')}"
        assert blob in old.getnames()
        assert blob in copy.getnames()
        index = json.loads(copy.extractfile("index.json").read())  # type: ignore[union-attr]
    assert index["manifests"][0]["digest"] == new.partition("@")[2]


def test_plot_is_written_also_without_values(tmp_path: Path) -> None:
    plot.dots(tmp_path / "p.png", "title", "seconds", {"kill": [1.0, 2.0], "node": []})
    assert (tmp_path / "p.png").stat().st_size > 1000


class _Nowhere:
    tries = 1

    def pick(self, tried: object) -> str | None:
        return None

    def failed(self, address: str) -> None: ...


def test_load_keeps_its_schedule_when_nobody_answers() -> None:
    import time

    with Load(_Nowhere(), rate=100) as load:
        time.sleep(1.0)
    assert len(load.records) == pytest.approx(100, abs=30)
    assert {r.error for r in load.records} == {"no pod is ready"}
    assert load.sessions == []
