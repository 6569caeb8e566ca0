"""The arithmetic of the performance benches, and their client against a server that answers in pieces."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import engine, overhead, peers, plot, sessions, soak, throughput, wire
from bench.load import Check
from bench.stack import BenchError
from ops import progress

METRICS = """\
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 104857600
nodejs_heap_size_used_bytes 2.5e+7
nodejs_gc_duration_seconds_count{kind="major"} 3
nodejs_gc_duration_seconds_count{kind="minor"} 40
session_store_operation_duration_seconds_sum{operation="get"} 1.5
session_store_operation_duration_seconds_count{operation="get"} 1000
session_store_operation_duration_seconds_sum{operation="set"} 0.2
session_store_operation_duration_seconds_count{operation="set"} 100
"""


def test_metrics_are_read_as_the_api_writes_them() -> None:
    metrics = sessions.Metrics(METRICS)
    assert metrics.resident == pytest.approx(104.8576)
    assert metrics.heap == 25
    assert metrics.collections == 3
    assert metrics.value("nodejs_gc_duration_seconds_count") == 43
    assert metrics.value("nothing_of_the_kind") == 0


def test_operations_are_those_since_the_look_before() -> None:
    later = METRICS.replace('sum{operation="get"} 1.5', 'sum{operation="get"} 2.1').replace(
        'count{operation="get"} 1000', 'count{operation="get"} 1200'
    )
    assert sessions.Metrics(later).operations(sessions.Metrics(METRICS)) == {
        "get": {"count": 200, "mean_ms": pytest.approx(3.0)}
    }


def test_growth_is_along_the_line_of_least_squares() -> None:
    assert sessions.growth([(x, 100 + x) for x in range(11)]) == pytest.approx(0.1)
    assert sessions.growth([(x, 100 + (-1) ** x) for x in range(100)]) == pytest.approx(0, abs=0.001)
    with pytest.raises(BenchError, match="run longer"):
        sessions.growth([(1.0, 1.0)])


def test_a_soak_is_judged_by_what_comes_after_its_warm_up() -> None:
    looks = [soak.Look(minute, 100, 0, 50.0 + min(minute, 10) * 5, 20, 4, 2000) for minute in range(31)]
    found = soak.summary(looks, warm_up=10)
    assert found["steady_minutes"] == 20
    assert found["api_resident_growth_percent"] == pytest.approx(0)
    assert soak.summary(looks, warm_up=0)["api_resident_growth_percent"] > 20


def test_bytes_per_session_leave_out_the_empty_redis() -> None:
    found = sessions.per_session({"used_memory": 51_000_000}, {"used_memory": 1_000_000}, 100_000)
    assert found == {"bytes_per_session": 500, "sessions_per_100_mb": 200_000}


def samples(extra: float) -> overhead.Samples:
    times = [1 + n / 1000 for n in range(1000)]
    return overhead.Samples([t + extra for t in times], [t + 2 * extra for t in times])


def test_overhead_is_what_a_variant_takes_more_than_memory() -> None:
    found = overhead.summary({"memory": samples(0), "haproxy-tls": samples(0.5)})
    read, write = found["haproxy-tls"]["read"], found["haproxy-tls"]["write"]
    assert read["added_p50"] == read["added_p99"] == pytest.approx(0.5)
    assert write["added_p99"] == pytest.approx(1.0)
    low, high = read["added_p99_interval"]
    assert low <= 0.5 <= high
    assert "added_p99" not in found["memory"]["read"]


def test_the_steps_of_the_overhead_add_up_to_all_of_it() -> None:
    extra = {"memory": 0.0, "direct": 0.3, "direct-tls": 0.4, "haproxy": 0.4, "haproxy-tls": 0.6}
    found = overhead.summary({key: samples(value) for key, value in extra.items()})
    steps = overhead.steps(found, "read")
    assert list(steps.values()) == pytest.approx([0.3, 0.1, 0.2])
    assert sum(steps.values()) == pytest.approx(found["haproxy-tls"]["read"]["added_mean"])


def test_redis_benchmarks_figures_are_read() -> None:
    assert throughput.parse('"test","rps","avg_latency_ms"\n"SET","41000.50","0.6"\n') == 41000.5
    with pytest.raises(BenchError, match="NOAUTH"):
        throughput.parse("Error: NOAUTH Authentication required.")


def test_both_sides_get_the_same_command_but_for_where_they_are() -> None:
    point = throughput.POINTS[0]
    bare = throughput.command(point, "SET", "127.0.0.1", 7000, None, tls=True)
    whole = throughput.command(point, "SET", "redis", 6379, "secret", tls=True)
    assert [word for word in whole if word not in ("redis", "6379", "-a", "secret")] == [
        word for word in bare if word not in ("127.0.0.1", "7000", "redis")
    ]
    assert "--tls" in bare
    assert "--tls" not in throughput.command(point, "SET", "127.0.0.1", 7000, None, tls=False)


def test_shares_are_of_the_same_round() -> None:
    label = throughput.POINTS[0].label
    rows = [
        {"round": number, "point": label, "way": way, "SET": rate * number, "GET": 1.0}
        for number in (1, 2)
        for way, rate in ((throughput.BARE, 100.0), (throughput.WHOLE, 90.0))
    ]
    assert throughput.shares(rows, label, throughput.WHOLE, "SET") == [90, 90]


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("cpuacct/session-store/c/n/kubepods/burstable/poduid-1/cpuacct.usage", "2500000000\n"),
        ("session-store/c/n/kubepods/burstable/poduid-1/cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
    ],
)
def test_cpu_is_that_of_the_pods_and_the_bare_redis_is_no_client(tmp_path: Path, place: str, content: str) -> None:
    proc, usage = tmp_path / "proc", tmp_path / place
    usage.parent.mkdir(parents=True)
    usage.write_text(content)
    (proc / "7").mkdir(parents=True)
    (proc / "stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n")
    (proc / "uptime").write_text("12.5 20.0\n")
    fields = " ".join(["S", *("0" for _ in range(10)), "50", "25", "0"])
    (proc / "7" / "stat").write_text(f"7 (redis-server) {fields}\n")
    (proc / "7" / "cgroup").write_text("4:memory:/session-store/c/n/kubepods/burstable/poduid-1/x\n")
    found = throughput.cpu_seconds({"client": ["uid-1"], "master": ["uid-2"]}, proc, tmp_path)
    assert found == pytest.approx({"client": 1.75, "bare": 0.75, "master": 0, "busy": 2.0, "seconds": 12.5})


def test_an_up_that_changes_nothing_tells_how_many_resources_there_are() -> None:
    assert engine.resources(f"Stack dev is up: {progress.summary({'same': 19})}, 5 s") == 19
    with pytest.raises(BenchError, match="should change nothing"):
        engine.resources(f"Stack dev is up: {progress.summary({'create': 1, 'same': 18})}, 5 s")


@contextmanager
def server(*pieces: bytes) -> Iterator[int]:
    """Answers each request with these pieces."""

    def serve() -> None:
        peer, _ = listening.accept()
        with peer:
            while peer.recv(65536):
                for piece in pieces:
                    peer.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]


HEAD = b"HTTP/1.1 200 OK\r\nSet-Cookie: connect.sid=s%3Aone.two; Path=/\r\ncontent-length: 5\r\n\r\n"


def test_a_reply_is_whole_however_it_comes() -> None:
    with server(HEAD[:20], HEAD[20:] + b"hel", b"lo") as port:
        connection = wire.Connection("127.0.0.1", port)
        replies = [connection.ask(wire.read("s")) for _ in range(3)]
        connection.close()
    assert [(reply.status, reply.body, reply.session) for reply in replies] == [(200, b"hello", "s%3Aone.two")] * 3


def test_people_of_a_fixed_number_keep_their_number() -> None:
    with server(HEAD + b"hello") as port:
        connection = wire.Connection("127.0.0.1", port)
        people = sessions.Population([connection], sessions.log_in([connection], [f"user{n}" for n in range(20)]))
        for _ in range(200):
            people.act()
        connection.close()
    assert len(people.sessions) == 20
    assert people.requests > 200, "a logout is followed by a login"


def test_who_gets_no_answer_comes_back() -> None:
    chunks = b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfull\r\n"
    with server(chunks, b"0\r\n\r\n") as port:
        connection = wire.Connection("127.0.0.1", port)
        people = sessions.Population([connection], ["one", "two"])
        for _ in range(5):
            people.act()
        connection.close()
    assert people.failed == 5
    assert sorted(people.sessions) in (["", "one"], ["", "two"]), "the same one tries again"


def test_a_login_without_a_session_is_told() -> None:
    with server(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull") as port:
        connection = wire.Connection("127.0.0.1", port)
        with pytest.raises(BenchError, match="full"):
            sessions.log_in([connection], ["user"])
        connection.close()


def test_curves_are_drawn(tmp_path: Path) -> None:
    panels = {"read": {"MemoryStore": ([1, 2], [50, 100])}, "write": {"MemoryStore": ([1, 2], [50, 100])}}
    plot.curves(tmp_path / "p.png", "title", panels, "ms", "per cent", log=True)
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_a_chart_gets_our_images_by_digest_though_it_joins_name_and_tag() -> None:
    digest = "ab" * 32
    values = peers.values_of({name: {"ref": f"local/{name}@sha256:{digest}"} for name in ("redis", "haproxy")})
    for part, name in ((values, "redis"), (values["haproxy"], "haproxy")):
        image = part["image"]
        assert f"{image['repository']}:{image['tag']}" == f"local/{name}@sha256:{digest}"


def test_what_became_of_the_sessions_of_several_loads_adds_up() -> None:
    one, other = Check(10, frozenset("a"), frozenset()), Check(5, frozenset("b"), frozenset("c"))
    assert peers.merged([one, other]) == Check(15, frozenset("ab"), frozenset("c"))
    assert peers.merged([]) == Check(0, frozenset(), frozenset())


def test_a_chart_starts_what_our_images_do_not_start_by_themselves() -> None:
    def of(kind: str, name: str) -> dict[str, Any]:
        container = {"name": name, "command": ["theirs"], "args": ["theirs"]}
        return {"kind": kind, "spec": {"template": {"spec": {"containers": [container]}}}}

    made = peers.started([of("StatefulSet", "sentinel"), None, of("Deployment", "haproxy"), of("StatefulSet", "redis")])
    first, second, third = (one["spec"]["template"]["spec"]["containers"][0] for one in made)
    assert first["command"] == ["redis-server", "/data/conf/sentinel.conf", "--sentinel"]
    assert second["command"][0] == "haproxy"
    assert (first["args"], third["command"]) == ([], ["theirs"])
