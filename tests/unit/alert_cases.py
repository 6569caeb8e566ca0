"""For every alert: what makes it fire, what it then says, and what is not enough. Series beside the healthy ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from alert_series import NAMESPACE, Series, api, named, proxy, redis

FLAT = 60
CLAIM = {"namespace": NAMESPACE, "persistentvolumeclaim": "data-redis-ha-0"}
JOB = {"namespace": NAMESPACE, "cronjob": "redis-backup"}


@dataclass(frozen=True)
class Case:
    """An alert that fires.

    Attributes:
        bad: series in place of, or beside, the healthy ones.
        labels: of the alert, beside `alertname`, `severity` and `namespace`.
        shown: what the description shows for each of its templates.
        near: like `bad`, and not enough.
        at: the minute in which it fires.
        mode: the kind of stack.
        gone: metrics that nobody tells.
        alone: without the healthy series; for long histories.
        step: minutes between samples.
    """

    alert: str
    bad: Series
    labels: Mapping[str, str]
    shown: tuple[str, ...]
    near: Series = field(default_factory=dict)
    at: int = FLAT
    mode: str = "sentinel"
    gone: tuple[str, ...] = ()
    alone: bool = False
    step: int = 1


def stays(metric: str, labels: Mapping[str, str], value: float, minutes: int = FLAT, **more: str) -> Series:
    return {named(metric, labels, **more): f"{value}x{minutes}"}


def grows(metric: str, labels: Mapping[str, str], each: float, minutes: int = FLAT, **more: str) -> Series:
    """By so much a minute."""
    return {named(metric, labels, **more): f"0+{each}x{minutes}"}


def _slow(under: int) -> Series:
    """Of 600 reads a minute, so many within 0.25 s; the others within 5 s."""
    counts = {"0.005": 0, "0.25": under, "5": 600, "+Inf": 600}
    found: Series = {}
    for le, count in counts.items():
        for pod in (0, 1):
            found |= grows("session_store_operation_duration_seconds_bucket", api(pod), count, operation="get", le=le)
    return found


def _names(count: int) -> Series:
    return stays("haproxy_backend_active_servers", proxy(), count, proxy="names-0")


def _rss(late: float) -> Series:
    """Memory that is another one after six hours."""
    return {named("process_resident_memory_bytes", api()): f"80000000x360 {late}x120"}


def _certificate(days: float) -> Series:
    ends = days * 86400 + 70 * 60
    return stays("session_store_certificate_expiry_timestamp_seconds", api(1), ends, 70)


def _keys(values: str) -> Series:
    return {named("redis_db_keys_expiring", redis(pod), db="db0"): values for pod in range(3)}


def _refused(each: float) -> Series:
    return grows("http_request_duration_seconds_count", api(), each, route="/auth", status="503")


WEEK = 7 * 24 * 12
"""Of five minutes."""

REDIS = [
    Case("SessionStoreRedisDown", stays("redis_up", redis(2), 0), {}, ("2",)),
    Case("SessionStoreRedisDown", stays("redis_up", redis(0, "standalone"), 0), {}, ("0",), mode="standalone"),
    Case(
        "SessionStoreRedisRestarting",
        {named("redis_uptime_in_seconds", redis(1)): "0+60x40 5+60x4 5+60x4 5+60x9"},
        redis(1),
        ("redis-ha-1", "3"),
        near={named("redis_uptime_in_seconds", redis(1)): "0+60x40 5+60x9 5+60x9"},
    ),
    Case(
        "SessionStoreMemoryHigh",
        stays("redis_memory_used_bytes", redis(), 0.85 * 117440512),
        redis(),
        ("redis-ha-0", "85%"),
        near=stays("redis_memory_used_bytes", redis(), 0.79 * 117440512),
    ),
    Case(
        "SessionStoreMemoryAlmostFull",
        stays("redis_memory_used_bytes", redis(), 0.96 * 117440512),
        redis(),
        ("redis-ha-0", "96%"),
        near=stays("redis_memory_used_bytes", redis(), 0.94 * 117440512),
    ),
    Case(
        "SessionStoreMemoryFullTomorrow",
        {named("redis_memory_used_bytes", redis()): "40000000+80000x480"},
        redis(),
        ("redis-ha-0", "184.6Mi"),
        near={named("redis_memory_used_bytes", redis()): "40000000+10000x480"},
        at=480,
    ),
    Case(
        "SessionStoreConnectionsHigh",
        stays("redis_connected_clients", redis(), 8100),
        redis(),
        ("redis-ha-0", "8100"),
        near=stays("redis_connected_clients", redis(), 7900),
    ),
    Case(
        "SessionStoreConnectionsRejected",
        {named("redis_rejected_connections_total", redis()): "0x57 4x5"},
        redis(),
        ("redis-ha-0", "4"),
        near=stays("redis_rejected_connections_total", redis(), 4),
    ),
    Case(
        "SessionStoreEvictions",
        {named("redis_evicted_keys_total", redis()): "0x50 14x15"},
        redis(),
        ("redis-ha-0", "14"),
        near=stays("redis_evicted_keys_total", redis(), 14),
    ),
    Case(
        "SessionStoreHitRateLow",
        grows("redis_keyspace_misses_total", redis(), 6000),
        {},
        ("22.9%",),
        near=grows("redis_keyspace_misses_total", redis(), 1500),
    ),
    Case(
        "SessionStoreSessionsVanished",
        _keys("20000x55 2000x9"),
        {},
        ("17.8k",),
        near={**_keys("20000x55 2000x9"), named("redis_expired_keys_total", redis()): "0x55 18000x9"},
    ),
    Case(
        "SessionStoreSessionsUnusual",
        {named("redis_db_keys_expiring", redis(), db="db0"): f"2000x{WEEK} 2000x200 4000x10"},
        {},
        ("4k",),
        near={named("redis_db_keys_expiring", redis(), db="db0"): f"3000x{WEEK} 3000x200 4000x10"},
        at=5 * (WEEK + 208),
        alone=True,
        step=5,
    ),
    Case(
        "SessionStoreLoginsOutrunMemory",
        grows("session_store_sessions_created_total", api(), 600, 120),
        {},
        ("425.7Mi",),
        near=grows("session_store_sessions_created_total", api(), 100, 120),
        at=120,
    ),
    Case("SessionStoreAofWriteFailing", stays("redis_aof_last_write_status", redis(), 0), redis(), ("redis-ha-0",)),
    Case(
        "SessionStoreAofRewriteFailing", stays("redis_aof_last_bgrewrite_status", redis(), 0), redis(), ("redis-ha-0",)
    ),
    Case(
        "SessionStoreVolumeFilling",
        stays("kubelet_volume_stats_available_bytes", CLAIM, 1e8),
        CLAIM,
        ("10%", "data-redis-ha-0"),
        near=stays("kubelet_volume_stats_available_bytes", CLAIM, 1.6e8),
    ),
    Case(
        "SessionStoreNoMaster",
        stays("redis_instance_info", redis(), 1, role="slave"),
        {},
        ("0",),
        gone=('role="master"',),
    ),
    Case("SessionStoreTwoMasters", stays("redis_instance_info", redis(1), 1, role="master"), {}, ("2",)),
    Case("SessionStoreReplicasMissing", stays("redis_connected_slaves", redis(), 1), {}, ("1",)),
    Case("SessionStoreNoReplicas", stays("redis_connected_slaves", redis(), 0), {}, ("0",)),
    Case("SessionStoreReplicaLinkDown", stays("redis_master_link_up", redis(2), 0), redis(2), ("redis-ha-2", "0")),
    Case(
        "SessionStoreReplicaLag",
        stays("redis_connected_slave_lag_seconds", redis(), 9, slave_ip="redis-ha-1"),
        {**redis(), "slave_ip": "redis-ha-1"},
        ("redis-ha-1", "9"),
        near=stays("redis_connected_slave_lag_seconds", redis(), 3, slave_ip="redis-ha-1"),
    ),
    Case(
        "SessionStoreProxyNoMaster",
        stays("haproxy_backend_active_servers", proxy(), 0, proxy="redis-0"),
        {"pod": "redis-proxy-0"},
        ("redis-proxy-0", "0"),
    ),
    Case("SessionStoreProxyNoMaster", _names(1), {"pod": "redis-proxy-0"}, ("redis-proxy-0", "1"), near=_names(2)),
    Case(
        "SessionStoreProxyConnectionsHigh",
        stays("haproxy_frontend_current_sessions", proxy(), 3600, proxy="redis"),
        {**proxy(), "proxy": "redis"},
        ("redis-proxy-0", "90%"),
        near=stays("haproxy_frontend_current_sessions", proxy(), 3100, proxy="redis"),
    ),
]

API = [
    Case(
        "SessionStoreUnusable",
        stays("session_store_connected", api(), 0) | stays("session_store_connected", api(1), 0),
        {},
        ("0",),
        near=stays("session_store_connected", api(), 0),
    ),
    Case("SessionStoreNotConnected", stays("session_store_connected", api(), 0), api(), ("api-0", "0")),
    Case(
        "SessionStorePasswordHalfRotated",
        stays("session_store_connected", api(2, generation=2), 1),
        {},
        ("2",),
        near=stays("session_store_connected", api(2), 1),
    ),
    Case("SessionStoreRequestsFailing", _refused(200), {}, ("14.71%",), near=_refused(40)),
    Case("SessionStoreSomeRequestsFailing", _refused(20), {}, ("1.695%",), near=_refused(5)),
    Case(
        "SessionStoreErrors",
        grows("session_store_errors_total", api(), 6, operation="get", reason="timeout"),
        {"reason": "timeout"},
        ("100m", "timeout"),
        near=grows("session_store_errors_total", api(), 2, operation="get", reason="timeout"),
    ),
    Case(
        "SessionStoreRefused",
        grows("session_store_errors_total", api(), 2, operation="set", reason="oom"),
        {"reason": "oom"},
        ("10", "oom"),
        near=grows("session_store_errors_total", api(), 2, operation="set", reason="readonly"),
    ),
    Case(
        "SessionStoreRetries",
        grows("session_store_retries_total", api(), 240, operation="set", reason="timeout"),
        {},
        ("20%",),
        near=grows("session_store_retries_total", api(), 60, operation="set", reason="timeout"),
    ),
    Case("SessionStoreSlow", _slow(580), {"operation": "get"}, ("get", "3.575s"), near=_slow(595)),
    Case(
        "SessionStoreApiStalls",
        stays("nodejs_eventloop_lag_p99_seconds", api(), 0.8),
        api(),
        ("api-0", "800ms"),
        near=stays("nodejs_eventloop_lag_p99_seconds", api(), 0.3),
    ),
    Case(
        "SessionStoreLoginsUnusual",
        {named("session_store_sessions_created_total", api()): "0+2x1500 3000+1800x60"},
        {},
        ("30",),
        near={named("session_store_sessions_created_total", api()): "0+200x1500 300000+1800x60"},
        at=1555,
        alone=True,
    ),
    Case(
        "SessionStoreReplicasUnacknowledged",
        grows("session_store_wait_replicas_timeouts_total", api(), 3),
        {},
        ("15",),
        near=grows("session_store_wait_replicas_timeouts_total", api(), 0.5),
    ),
    Case("SessionStoreCertificateEnds", _certificate(20), {}, ("20d 0h 0m 0s",), near=_certificate(22), at=70),
    Case("SessionStoreCertificateEndsSoon", _certificate(5), {}, ("5d 0h 0m 0s",), near=_certificate(8), at=70),
    Case("SessionStoreCertificateExpired", _certificate(-0.01), {}, ("-14m 24s",), near=_certificate(0.01), at=70),
    Case(
        "SessionStoreApiMemoryHigh",
        stays("process_resident_memory_bytes", api(), 250e6),
        api(),
        ("api-0", "93.13%"),
        near=stays("process_resident_memory_bytes", api(), 220e6),
    ),
    Case("SessionStoreApiMemoryGrows", _rss(200e6), api(), ("api-0", "190.7Mi"), near=_rss(120e6), at=470),
]

WATCH = [
    Case("SessionStoreTargetDown", stays("up", redis(1), 0), redis(1), ("redis-ha-1", "0")),
    Case("SessionStoreTargetDown", stays("up", proxy(1), 0), proxy(1), ("redis-proxy-1", "0")),
    Case("SessionStoreTargetDown", stays("up", api(1), 0), api(1), ("api-1", "0")),
    Case(
        "SessionStoreNotWatched",
        {},
        {"part": "Redis"},
        ("Redis", "1"),
        gone=('up{namespace="session-store",app="redis"',),
    ),
    Case(
        "SessionStoreBackupTooOld",
        {named("kube_cronjob_status_last_successful_time", JOB): "0x2000"},
        {},
        ("1d 3h 20m 0s",),
        near={named("kube_cronjob_status_last_successful_time", JOB): "0x1400 86400x600"},
        at=1640,
        alone=True,
    ),
]
CASES = REDIS + API + WATCH
