"""`ops top`: figures from two looks, pods that do not answer, the picture; a real Redis where one is asked."""

from __future__ import annotations

import json
import threading
import time
import types
from io import StringIO
from pathlib import Path
from typing import Any

import pods
import pytest
from kubernetes.client import ApiException, Configuration
from program import DIGEST, config
from rich.console import Console
from typer.testing import CliRunner

from infra.settings import parse
from ops import cli, deployed
from ops.kube import Cluster
from ops.top import cli as command
from ops.top import gather
from ops.top.look import Answer, Figures, Look, figures
from ops.top.metrics import Metrics, quantile, since
from ops.top.view import view

BEFORE = """# HELP x y
http_request_duration_seconds_count{method="GET",route="/auth_status",status="200"} 100
http_request_duration_seconds_count{method="GET",route="/auth_status",status="503"} 1
http_request_duration_seconds_count{method="GET",route="/readyz",status="503"} 50
session_store_sessions_created_total 10
session_store_operation_duration_seconds_bucket{le="0.001",operation="get"} 100
session_store_operation_duration_seconds_bucket{le="0.01",operation="get"} 100
session_store_operation_duration_seconds_bucket{le="+Inf",operation="get"} 100
session_store_connected 1
nodejs_heap_size_used_bytes 2.5e+07
odd NaN
broken x
"""
AFTER = """
http_request_duration_seconds_count{method="GET",route="/auth_status",status="200"} 140
http_request_duration_seconds_count{method="GET",route="/auth_status",status="503"} 3
http_request_duration_seconds_count{method="GET",route="/readyz",status="503"} 90
session_store_sessions_created_total 14
session_store_errors_total{operation="get",reason="timeout"} 6
session_store_operation_duration_seconds_bucket{le="0.001",operation="get"} 190
session_store_operation_duration_seconds_bucket{le="0.01",operation="get"} 200
session_store_operation_duration_seconds_bucket{le="+Inf",operation="get"} 200
session_store_connected 1
nodejs_heap_size_used_bytes 3e+07
"""


def info(**more: Any) -> dict[str, Any]:
    return {
        "role": "master",
        "connected_slaves": 2,
        "master_repl_offset": 5000,
        "used_memory": 90 << 20,
        "maxmemory": 100 << 20,
        "total_commands_processed": 1000,
        "keyspace_hits": 10,
        "keyspace_misses": 0,
        "connected_clients": 7,
        "evicted_keys": 0,
        "aof_enabled": 1,
        "db0": {"keys": 41, "expires": 40, "avg_ttl": 1},
        "db1": {"keys": 5, "expires": 0, "avg_ttl": 0},
        **more,
    }


def replica(**more: Any) -> dict[str, Any]:
    return info(role="slave", master_link_status="up", slave_repl_offset=4000, **more)


def seen(before: Look | None, after: Look) -> Figures:
    return figures(before, after, parse(config(redis={"mode": "sentinel", "proxyImage": DIGEST.format("haproxy")})))


# -- figures


def test_a_second_look_gives_rates_of_what_people_asked() -> None:
    was, now = (Look(api=[Answer("api-1", at, Metrics(text))]) for at, text in ((10, BEFORE), (12, AFTER)))
    found = seen(was, now)
    (api,) = found.api
    assert (api.requests, api.failures, api.logins, api.errors) == (21, 1, 2, 3)
    assert (found.requests, found.failures, found.logins, found.errors) == (21, 1, 2, 3)
    assert (api.heap, api.connected) == (3e7, True)
    assert api.p99 == found.p99 == pytest.approx(0.0091)
    first = seen(None, now)
    assert (first.requests, first.p99, first.api[0].heap) == (None, None, 3e7)


def test_a_pod_that_was_started_anew_counts_from_nothing() -> None:
    was, now = (Look(api=[Answer("api-1", at, Metrics(text))]) for at, text in ((10, AFTER), (12, BEFORE)))
    (api,) = seen(was, now).api
    assert (api.requests, api.logins) == (50.5, 5)
    assert api.p99 == pytest.approx(0.00099)


def test_an_api_of_others_that_tells_nothing_is_no_error() -> None:
    was, now = (Look(api=[Answer("api-1", at, Metrics("up 1"))]) for at in (10, 12))
    (api,) = seen(was, now).api
    assert (api.requests, api.errors, api.connected, api.trouble) == (None, None, None, None)


def test_redis_pods_against_their_master() -> None:
    was = Look(redis=[Answer("redis-0", 10, info()), Answer("redis-1", 10, replica())])
    later = info(total_commands_processed=1400, keyspace_hits=19, keyspace_misses=1)
    now = Look(redis=[Answer("redis-0", 12, later), Answer("redis-1", 12, replica()), Answer("redis-2", 12)])
    found = seen(was, now)
    master, follower, silent = found.redis
    assert (master.role, master.link, master.operations, master.hit_rate) == ("master", "2 replicas", 200, 0.9)
    assert (follower.role, follower.link, follower.behind, follower.hit_rate) == ("replica", "up", 1000, None)
    assert silent.trouble == "no answer"
    assert found.sessions == 40, "the machinery's own keys have no end"
    assert master.keys == {"0": 41, "1": 5}


@pytest.mark.parametrize(
    ("more", "aof"),
    [
        ({}, "ok"),
        ({"aof_enabled": 0}, "off"),
        ({"loading": 1}, "loading"),
        ({"aof_rewrite_in_progress": 1}, "rewriting"),
        ({"aof_last_write_status": "err"}, "write fails"),
        ({"aof_last_bgrewrite_status": "err"}, "rewrite fails"),
    ],
)
def test_the_state_of_the_append_only_file(more: dict[str, Any], aof: str) -> None:
    assert seen(None, Look(redis=[Answer("redis-0", 1, info(**more))])).redis[0].aof == aof


def test_without_one_master_nobody_counts_sessions() -> None:
    for one, other in ((info(), info()), (replica(), replica(master_sync_in_progress=1))):
        found = seen(None, Look(redis=[Answer("redis-0", 1, one), Answer("redis-1", 1, other)]))
        assert (found.sessions, found.redis[0].behind) == (None, None)
    assert found.redis[1].link == "copying"


def test_a_proxy_leads_to_whom_the_majority_names() -> None:
    up = {"redis-0": 1, "redis-1": 1, "redis-2": 0, "names-0": 3, "names-1": 1, "names-2": 3, "nobody": 0}
    found = seen(None, Look(proxies=[Answer("p-1", 1, up), Answer("p-2", 1, trouble="no answer")]))
    leads, silent = found.proxies
    assert (leads.leads_to, leads.masters, leads.named) == (
        ["redis-ha-0"],
        ["redis-ha-0", "redis-ha-1"],
        {"redis-ha-0": 3, "redis-ha-1": 1, "redis-ha-2": 3},
    )
    assert (silent.leads_to, silent.trouble) == ([], "no answer")


def test_counters_and_quantiles() -> None:
    assert (since(1, 3), since(3, 1), since(None, 1), since(1, None)) == (2, 1, None, None)
    assert quantile(0.5, {}, {1.0: 10, 2.0: 10, float("inf"): 10}) == 0.5
    assert quantile(0.99, {}, {1.0: 0, float("inf"): 10}) == 1.0, "beyond the last bound: that bound"
    assert quantile(0.99, {1.0: 5}, {1.0: 5}) is None
    assert quantile(0.99, {}, {}) is None


def test_labels_may_hold_anything() -> None:
    found = Metrics('a{route="/x}{\\"y\\"",status="200"} 3\na{route="/z",status="500"} 4\n')
    assert found.value("a") == 7
    assert found.value("a", lambda labels: labels["route"] == "/z") == 4
    assert found.value("b") is None


# -- asking


class Api:
    """An API server with these pods."""

    def __init__(self, *pods_: Any) -> None:
        self.items = list(pods_)
        self.broken = False
        self.configuration = Configuration()

    def list_namespaced_pod(self, *_: Any, **__: Any) -> Any:
        if self.broken:
            raise ApiException(503, "down")
        return types.SimpleNamespace(items=self.items)

    def read_namespaced_deployment(self, *_: Any, **__: Any) -> Any:
        raise ApiException(404, "gone")


class Fake(Cluster):
    """A cluster with that API server."""

    @property
    def core(self) -> Any:
        return self.api

    @property
    def apps(self) -> Any:
        return self.api


def a_pod(name: str, app: str, phase: str = "Running", ready: bool = True) -> Any:
    conditions = [types.SimpleNamespace(type="Ready", status=str(ready))]
    metadata = types.SimpleNamespace(name=name, uid=f"uid-{name}", labels={"app": app}, deletion_timestamp=None)
    return types.SimpleNamespace(metadata=metadata, status=types.SimpleNamespace(phase=phase, conditions=conditions))


def found(api: Api, **changes: Any) -> deployed.Deployed:
    return deployed.Deployed("prod", Fake("config", "a-cluster", "https://there", api), parse(config(**changes)))


@pytest.fixture
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pods whose Redis is a real one, and whose API says AFTER."""
    with pods.standalone(tmp_path, "pw") as pod:
        pod.client().set("ctmd:sess:one", "{}", ex=60)
        monkeypatch.setattr(gather.RedisPods, "client", lambda self, name: pod.client(decode_responses=True))
        monkeypatch.setattr(gather, "_metrics", lambda *_: Metrics(AFTER))
        monkeypatch.setattr(gather, "PATIENCE", 60.0)
        yield pod


def test_pods_are_told_apart_and_asked(answering: pods.Pod) -> None:
    api = Api(
        a_pod("redis-0", "redis"),
        a_pod("api-1", "api"),
        a_pod("api-2", "api", ready=False),
        a_pod("api-3", "api", "Pending"),
        a_pod("api-4", "api", "Failed"),
        a_pod("another", "x"),
    )
    sources = gather.Sources(found(api))
    was, now = sources.look(), sources.look()
    told = seen(was, now)
    assert [(one.pod, one.role, one.keys) for one in told.redis] == [("redis-0", "master", {"0": 1})]
    assert [(one.pod, one.ready, one.trouble) for one in told.api] == [
        ("api-1", True, None),
        ("api-2", False, None),
        ("api-3", False, "Pending"),
    ]
    assert (told.sessions, told.proxies, told.unseen) == (1, [], [])
    assert told.redis[0].operations is not None
    assert answering.client().info("clients")["connected_clients"] <= 3, "one connection is kept"


def test_a_redis_that_dies_is_told_and_the_others_go_on(answering: pods.Pod) -> None:
    sources = gather.Sources(found(Api(a_pod("redis-0", "redis"), a_pod("api-1", "api"))))
    assert seen(None, sources.look()).redis[0].trouble is None
    answering.kill()
    told = seen(None, sources.look())
    assert told.redis[0].trouble
    assert told.api[0].heap == 3e7


def test_who_does_not_answer_holds_nobody_up_and_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    hold, asked = threading.Event(), list[int]()

    def silent(*_: Any) -> Any:
        asked.append(1)
        hold.wait(60)
        return Metrics(AFTER)

    monkeypatch.setattr(gather, "_metrics", silent)
    monkeypatch.setattr(gather, "PATIENCE", 0.01)
    sources = gather.Sources(found(Api(a_pod("api-1", "api"))))
    for _ in range(3):
        assert "no answer within" in str(seen(None, sources.look()).api[0].trouble)
    assert asked == [1]
    hold.set()
    pods.eventually(lambda: seen(None, sources.look()).api[0].heap)


def test_an_api_server_that_went_away_is_told(answering: pods.Pod) -> None:
    api = Api(a_pod("redis-0", "redis"))
    sources = gather.Sources(found(api))
    sources.look()
    api.broken = True
    told = seen(None, sources.look())
    assert "answered 503" in told.unseen[0]
    assert told.redis[0].role == "master"


# -- the picture


def drawn(told: Figures, store: str = "redis") -> str:
    out = Console(file=StringIO(), width=160)
    out.print(view("Stack prod", told, store))
    assert isinstance(out.file, StringIO)
    return out.file.getvalue()


def test_the_picture_tells_it_all() -> None:
    was = Look(redis=[Answer("redis-0", 10, info())], api=[Answer("api-1", 10, Metrics(BEFORE))])
    now = Look(
        redis=[Answer("redis-0", 12, info()), Answer("redis-1", 12, replica()), Answer("redis-2", 12, trouble="gone")],
        api=[Answer("api-1", 12, Metrics(AFTER), ready=False)],
        proxies=[Answer("p-1", 12, {"redis-0": 1, "names-0": 3})],
        unseen=["the pods"],
    )
    text = drawn(seen(was, now))
    for part in (
        "sessions 40 · logins/s 2.0 · requests/s 21.0 · 5xx/s 1.0 · session errors/s 3.0",
        "p99 of a session operation 9.1 ms",
        "90 MiB, 90%",
        "up, 1000 B behind",
        "not seen: redis-2: gone",
        "0: 41, 1: 5",
        "not ready",
        "redis-ha-0: master, named by 3",
        "not seen: the pods",
    ):
        assert part in text
    assert "in the API's memory" in drawn(Figures(), "memory")


def test_without_a_terminal_it_is_two_looks_and_one_picture(
    answering: pods.Pod, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paused: list[float] = []
    monkeypatch.setattr(command, "time", types.SimpleNamespace(strftime=time.strftime, sleep=paused.append))
    monkeypatch.setattr(
        command.deployed, "find", lambda *_: found(Api(a_pod("redis-0", "redis"), a_pod("api-1", "api")))
    )
    file = tmp_path / "top.json"
    done = CliRunner().invoke(cli.app, ["top", "--stack", "prod", "--interval", "5", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert paused == [5]
    assert "redis-0" in done.output
    told = json.loads(file.read_text())
    assert (told["stack"], told["sessions"], told["api"][0]["requests"]) == ("prod", 1, 0)


def test_ctrl_c_ends_the_live_view(answering: pods.Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[float] = []

    def press(seconds: float) -> None:
        frames.append(seconds)
        if len(frames) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "time", types.SimpleNamespace(strftime=time.strftime, sleep=press))
    monkeypatch.setattr(command, "Console", lambda: Console(file=StringIO(), force_terminal=True, width=160))
    monkeypatch.setattr(command.deployed, "find", lambda *_: found(Api(a_pod("redis-0", "redis"))))
    command.top("prod", 2.0, False, None)
    assert frames == [2.0, 2.0, 2.0]
