"""What the dashboard asks Prometheus: four questions, each a row of panels."""

from __future__ import annotations

from dataclasses import dataclass

from infra.series import PEOPLE, REFUSED, Series

RATE = "[$__rate_interval]"
_SERIES = Series("$namespace")
_of, _redis, _api = _SERIES.of, _SERIES.redis, _SERIES.api


def _quantiles(metric: str, by: str, more: str = "") -> dict[str, str]:
    buckets = f"sum by (le, {by}) (rate({_api(f'{metric}_bucket', more)}{RATE}))"
    return {f"p{share} {{{{{by}}}}}": f"histogram_quantile(0.{share}, {buckets})" for share in (50, 99)}


MASTER = 'role="master"'
BACKENDS = 'proxy=~"redis-[0-9]+"'
COMMANDS = 'cmd=~"get|set|expire|del|unlink|wait"'
REQUESTS = "http_request_duration_seconds"
OPERATIONS = "session_store_operation_duration_seconds"


@dataclass(frozen=True)
class Panel:
    """One question, answered over time.

    Attributes:
        title: what is shown.
        unit: Grafana's name of it.
        queries: legend to PromQL.
        why: what to make of it.
        limit: a value that is bad to pass, drawn as a line.
    """

    title: str
    unit: str
    queries: dict[str, str]
    why: str
    limit: float | None = None


ROWS: dict[str, list[Panel]] = {
    "Are people logged in?": [
        Panel(
            "Logins",
            "reqps",
            {"new sessions": f"sum(rate({_api('session_store_sessions_created_total')}{RATE}))"},
            "Sessions written for the first time, a second.",
        ),
        Panel(
            "Sessions",
            "short",
            {"sessions": f"max(sum by (pod) ({_redis('redis_db_keys_expiring')}))"},
            "Keys that expire. It falls at night; it never drops at once.",
        ),
        Panel(
            "Replies",
            "reqps",
            {"{{status}}": f"sum by (status) (rate({_api(f'{REQUESTS}_count', PEOPLE)}{RATE}))"},
            "401: not logged in, normal. 503: the session store is missing.",
        ),
        Panel(
            "Refused requests",
            "percentunit",
            {
                "503": f"sum(rate({_api(f'{REQUESTS}_count', REFUSED)}{RATE})) "
                f"/ sum(rate({_api(f'{REQUESTS}_count', PEOPLE)}{RATE})) "
                f"or 0 * sum(rate({_api(f'{REQUESTS}_count', PEOPLE)}{RATE}))"
            },
            "Share of requests that got 503.",
            0.05,
        ),
        Panel(
            "Session errors",
            "ops",
            {
                "{{operation}}: {{reason}}": "sum by (operation, reason) "
                f"(rate({_api('session_store_errors_total')}{RATE}))"
            },
            "Failures for good, by reason. Names the cause.",
        ),
        Panel(
            "Connected API pods",
            "short",
            {
                "connected": f"sum({_api('session_store_connected')})",
                "generations of the password": "count(count by (session_store_password_generation) "
                f"({_api('session_store_connected')}))",
            },
            "Two generations for long: a rotation that stopped.",
        ),
    ],
    "Is Redis well?": [
        Panel(
            "Redis up, master, replicas",
            "short",
            {
                "up": f"sum({_redis('redis_up')})",
                "masters": f"count({_redis('redis_instance_info', MASTER)})",
                "replicas that follow": f"max({_redis('redis_connected_slaves')})",
            },
            "Exactly one master.",
        ),
        Panel(
            "Master as the proxies see it",
            "short",
            {"{{pod}} {{proxy}}": f"max by (pod, proxy) ({_of('haproxy_backend_active_servers', BACKENDS)})"},
            "1 for the Redis that clients are led to.",
        ),
        Panel(
            "Replication lag",
            "s",
            {"{{slave_ip}}": _redis("redis_connected_slave_lag_seconds")},
            "The master takes no writes when no replica is within 3 s.",
            3,
        ),
        Panel(
            "Connections",
            "short",
            {
                "{{pod}}": _redis("redis_connected_clients"),
                "{{pod}} (proxy)": _of("haproxy_frontend_current_sessions", 'proxy="redis"'),
                "refused": f"sum(increase({_redis('redis_rejected_connections_total')}{RATE}))",
            },
            "Redis may have 10000, a proxy 4000.",
        ),
        Panel(
            "Hit rate",
            "percentunit",
            {
                "found": f"sum(rate({_redis('redis_keyspace_hits_total')}{RATE})) / "
                f"(sum(rate({_redis('redis_keyspace_hits_total')}{RATE})) + "
                f"sum(rate({_redis('redis_keyspace_misses_total')}{RATE})))"
            },
            "Cookies that lead to a session.",
        ),
        Panel(
            "Append-only file, evictions",
            "short",
            {
                "last write {{pod}}": _redis("redis_aof_last_write_status"),
                "last rewrite {{pod}}": _redis("redis_aof_last_bgrewrite_status"),
                "evicted": f"sum(increase({_redis('redis_evicted_keys_total')}{RATE}))",
            },
            "1: it worked. Nothing is ever evicted.",
        ),
    ],
    "Will it last?": [
        Panel(
            "Redis memory",
            "bytes",
            {
                "{{pod}}": _redis("redis_memory_used_bytes"),
                "maxmemory": f"min({_redis('redis_memory_max_bytes')})",
                "in a day": f"max(predict_linear({_redis('redis_memory_used_bytes')}[6h], 86400))",
            },
            "Where the last six hours lead.",
        ),
        Panel(
            "Session growth",
            "short",
            {"an hour": f"max(deriv({_redis('redis_db_keys_expiring')}[1h])) * 3600"},
            "Sessions that come and do not go, an hour.",
        ),
        Panel(
            "Volumes",
            "percentunit",
            {
                "{{persistentvolumeclaim}}": f"{_of('kubelet_volume_stats_used_bytes')} "
                f"/ {_of('kubelet_volume_stats_capacity_bytes')}"
            },
            "Of the kubelet, where its storage class tells.",
            0.85,
        ),
        Panel(
            "Append-only file",
            "bytes",
            {"{{pod}}": _redis("redis_aof_current_size_bytes")},
            "It grows until it is rewritten.",
        ),
        Panel(
            "Certificate: days left",
            "d",
            {"days": f"(min({_api('session_store_certificate_expiry_timestamp_seconds')}) - time()) / 86400"},
            "Of the one that Redis shows.",
            21,
        ),
        Panel(
            "Backup: age",
            "s",
            {"{{cronjob}}": f"time() - max by (cronjob) ({_of('kube_cronjob_status_last_successful_time')})"},
            "Of kube-state-metrics.",
        ),
        Panel(
            "API memory",
            "bytes",
            {
                "{{pod}}": _api("process_resident_memory_bytes"),
                "{{pod}} heap": _api("nodejs_heap_size_used_bytes"),
            },
            "Flat: the sessions are in Redis.",
        ),
    ],
    "Who is slow?": [
        Panel("Requests by route", "s", _quantiles(REQUESTS, "route", PEOPLE), "What people wait for."),
        Panel("Session operations", "s", _quantiles(OPERATIONS, "operation"), "The part of it that is ours."),
        Panel(
            "Retries",
            "ops",
            {
                "{{operation}}: {{reason}}": "sum by (operation, reason) "
                f"(rate({_api('session_store_retries_total')}{RATE}))",
                "too few replicas in time": f"sum(rate({_api('session_store_wait_replicas_timeouts_total')}{RATE}))",
            },
            "Tried again within the request's budget.",
        ),
        Panel(
            "Redis commands",
            "s",
            {
                "{{cmd}}": "sum by (cmd) (rate("
                + _redis("redis_commands_duration_seconds_total", COMMANDS)
                + f"{RATE})) / sum by (cmd) (rate("
                + _redis("redis_commands_total", COMMANDS)
                + f"{RATE}))"
            },
            "Mean time within Redis. WAIT waits for replicas.",
        ),
        Panel(
            "Slow log, forks",
            "short",
            {
                "entries {{pod}}": _redis("redis_slowlog_length"),
                "last fork, s {{pod}}": _redis("redis_latest_fork_seconds"),
            },
            "Commands over 10 ms that Redis remembers, at most 128.",
        ),
        Panel(
            "Proxies",
            "s",
            {"connect {{pod}}": f"max by (pod) ({_of('haproxy_backend_connect_time_average_seconds', BACKENDS)})"},
            "Mean time to connect to the master.",
        ),
        Panel(
            "Event loop of the API, p99",
            "s",
            {"{{pod}}": _api("nodejs_eventloop_lag_p99_seconds")},
            "High: the API itself is short of CPU, or blocks.",
            0.5,
        ),
    ],
}
