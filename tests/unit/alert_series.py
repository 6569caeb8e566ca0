"""Series of a healthy stack in promtool's notation, with the labels of docs/metrics.md; a sample a minute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from program import DIGEST, config

NAMESPACE = "session-store"
EXPORTER = {"metrics": {"exporterImage": DIGEST.format("exporter")}}
SENTINEL = {"mode": "sentinel", "proxyImage": DIGEST.format("haproxy")}
EXTERNAL = {"image": ..., "mode": "external", "host": "cache.example.org"}
CONFIGS: dict[str, dict[str, Any]] = {
    "standalone": config(**EXPORTER),
    "sentinel": config(
        **EXPORTER, redis=SENTINEL, sessions={"waitReplicas": 1}, backup={"schedule": "0 3 * * *"}, api={"replicas": 2}
    ),
    "no-aof": config(**EXPORTER, redis={"appendonly": False}),
    "no-tls": config(**EXPORTER, redis=SENTINEL, tls={"enabled": False}),
    "no-exporter": config(redis=SENTINEL),
    "external": config(redis=EXTERNAL),
    "helm": config(**EXPORTER, api={"image": ..., "existingDeployment": "ctmd-api"}),
    "unwatched": config(metrics={"enabled": False}),
}
"""Every kind of stack."""

Series = dict[str, str]


def named(metric: str, labels: Mapping[str, str], **more: str) -> str:
    text = ",".join(f'{key}="{value}"' for key, value in {**labels, **more}.items())
    return f"{metric}{{{text}}}"


def redis(pod: int = 0, mode: str = "sentinel") -> dict[str, str]:
    name = f"redis-ha-{pod}" if mode == "sentinel" else f"redis-{pod}"
    return {"namespace": NAMESPACE, "app": "redis", "pod": name, "session_store_mode": mode}


def proxy(pod: int = 0) -> dict[str, str]:
    return {"namespace": NAMESPACE, "app_kubernetes_io_component": "proxy", "pod": f"redis-proxy-{pod}"}


def api(pod: int = 0, generation: int = 1) -> dict[str, str]:
    labels = {"namespace": NAMESPACE, "app": "api", "pod": f"api-{pod}"}
    return {**labels, "session_store_password_generation": str(generation)}


def flat(values: Mapping[str, float | str], labels: Mapping[str, str], minutes: int) -> Series:
    """Metric to a value that stays, or to `0+n`, that grows."""
    return {named(metric, labels): f"{value}x{minutes}" for metric, value in values.items()}


def _redis(pod: int, mode: str, minutes: int) -> Series:
    labels = redis(pod, mode)
    found = flat(
        {
            "up": 1,
            "redis_up": 1,
            "redis_uptime_in_seconds": "0+60",
            "redis_memory_used_bytes": 40e6,
            "redis_memory_max_bytes": 117440512,
            "redis_memory_used_dataset_bytes": 20e6,
            "redis_connected_clients": 12,
            "redis_rejected_connections_total": 0,
            "redis_evicted_keys_total": 0,
            "redis_keyspace_hits_total": "0+600",
            "redis_keyspace_misses_total": "0+30",
            "redis_expired_keys_total": "0+20",
            "redis_aof_last_write_status": 1,
            "redis_aof_last_bgrewrite_status": 1,
        },
        labels,
        minutes,
    )
    found[named("redis_db_keys_expiring", labels, db="db0")] = f"20000x{minutes}"
    found[named("redis_instance_info", labels, role="slave" if pod else "master")] = f"1x{minutes}"
    if mode == "sentinel":
        found[named("redis_connected_slaves", labels)] = f"{0 if pod else 2}x{minutes}"
        if pod:
            found[named("redis_master_link_up", labels)] = f"1x{minutes}"
            lag = named("redis_connected_slave_lag_seconds", redis(), slave_ip=f"redis-ha-{pod}")
            found[lag] = " ".join(["0 1"] * (minutes // 2))
    return found


def _proxy(pod: int, minutes: int) -> Series:
    found = flat({"up": 1}, proxy(pod), minutes)
    for i in range(3):
        for kind, count in (("redis", 1), ("names", 3)):
            backend = named("haproxy_backend_active_servers", proxy(pod), proxy=f"{kind}-{i}")
            found[backend] = f"{0 if i else count}x{minutes}"
    found[named("haproxy_frontend_current_sessions", proxy(pod), proxy="redis")] = f"8x{minutes}"
    found[named("haproxy_frontend_limit_sessions", proxy(pod), proxy="redis")] = f"4000x{minutes}"
    return found


def _api(pod: int, tls: bool, minutes: int) -> Series:
    labels = api(pod)
    found = flat(
        {
            "up": 1,
            "session_store_connected": 1,
            "session_store_sessions_created_total": "0+20",
            "session_store_wait_replicas_timeouts_total": 0,
            "session_store_operation_duration_seconds_count": "0+600",
            "process_resident_memory_bytes": 90e6,
            "nodejs_eventloop_lag_p99_seconds": 0.012,
        },
        labels,
        minutes,
    )
    if tls:
        found[named("session_store_certificate_expiry_timestamp_seconds", labels)] = f"7776000x{minutes}"
    for le, count in (("0.005", 590), ("0.25", 600), ("+Inf", 600)):
        bucket = named("session_store_operation_duration_seconds_bucket", labels, operation="get", le=le)
        found[bucket] = f"0+{count}x{minutes}"
    for route, status, count in (("/auth", "200", 20), ("/auth_status", "200", 500), ("/auth_status", "401", 60)):
        found[named("http_request_duration_seconds_count", labels, route=route, status=status)] = f"0+{count}x{minutes}"
    # A pod that starts is not ready yet, and connects at the second try.
    found[named("http_request_duration_seconds_count", labels, route="/readyz", status="503")] = f"0 1 2 2x{minutes}"
    errors = named("session_store_errors_total", labels, operation="connect", reason="connection")
    found[errors] = f"1x{minutes}"
    found[named("session_store_retries_total", labels, operation="set", reason="readonly")] = f"0 3x{minutes}"
    return found


def healthy(mode: str = "sentinel", minutes: int = 60) -> Series:
    """All that the parts of such a stack tell while all is well."""
    kind = mode if mode in {"external", "unwatched"} else CONFIGS[mode]["redis"].get("mode", "standalone")
    found: Series = {}
    for pod in range(2):
        found |= _api(pod, mode != "no-tls", minutes)
        if kind == "sentinel":
            found |= _proxy(pod, minutes)
    if "exporterImage" in CONFIGS[mode].get("metrics", {}):
        for pod in range(3 if kind == "sentinel" else 1):
            found |= _redis(pod, kind, minutes)
    claim = {"namespace": NAMESPACE, "persistentvolumeclaim": "data-redis-ha-0"}
    found |= flat(
        {"kubelet_volume_stats_available_bytes": 8e8, "kubelet_volume_stats_capacity_bytes": 1e9}, claim, minutes
    )
    job = {"namespace": NAMESPACE, "cronjob": "redis-backup"}
    return found | flat({"kube_cronjob_created": 0, "kube_cronjob_status_last_successful_time": 0}, job, minutes)
