"""Alerts about Redis and the proxies in front of it."""

from __future__ import annotations

from collections.abc import Iterator

from infra.alerts.model import Alert, Severity
from infra.redis import conf
from infra.series import Series
from infra.settings import Settings

MAX_CLIENTS = 10_000
"""Redis's own default of maxclients; redis.conf sets no other."""


def of_redis(settings: Settings) -> Iterator[Alert]:
    """What the exporter tells of every Redis."""
    series = Series(settings.namespace)
    redis = series.redis
    pods = settings.redis.replicas if settings.redis.mode == "sentinel" else 1
    full = f"{conf.maxmemory(settings) >> 20} MiB"
    yield Alert(
        "SessionStoreRedisDown",
        "warning" if pods > 1 else "critical",
        f"sum({redis('redis_up')}) < {pods}",
        "5m" if pods > 1 else "1m",
        "Redis does not answer",
        f"{{{{ $value }}}} of {pods} Redis answer their exporter. "
        + ("Another one's death may leave no majority." if pods > 1 else "Nobody can log in, and nobody is logged in."),
    )
    yield Alert(
        "SessionStoreRedisRestarting",
        "warning",
        # Not changes of the start time: the exporter computes it anew each time, and is off by a second now and then.
        f"resets({redis('redis_uptime_in_seconds')}[30m]) >= 3",
        "0m",
        "Redis restarts again and again",
        "Redis in {{ $labels.pod }} started {{ $value }} times within 30 minutes.",
    )
    used, most = redis("redis_memory_used_bytes"), redis("redis_memory_max_bytes")
    levels: tuple[tuple[str, float, Severity, str], ...] = (
        ("SessionStoreMemoryHigh", 0.8, "warning", "10m"),
        ("SessionStoreMemoryAlmostFull", 0.95, "critical", "2m"),
    )
    for name, share, severity, hold in levels:
        yield Alert(
            name,
            severity,
            f"{used} / ({most} > 0) > {share}",
            hold,
            "Redis's memory is nearly full",
            f"Redis in {{{{ $labels.pod }}}} uses {{{{ $value | humanizePercentage }}}} of {full}. "
            "A full Redis refuses logins (503) rather than to log somebody out.",
        )
    yield Alert(
        "SessionStoreMemoryFullTomorrow",
        "warning",
        f"predict_linear({used}[6h], 86400) > ({most} > 0) and {used} > 0.5 * {most}",
        "1h",
        "Redis's memory will be full within a day",
        f"As in the last 6 hours, Redis in {{{{ $labels.pod }}}} would use {{{{ $value | humanize1024 }}}}B of {full} "
        "a day from now.",
    )
    yield Alert(
        "SessionStoreConnectionsHigh",
        "warning",
        f"{redis('redis_connected_clients')} > {int(0.8 * MAX_CLIENTS)}",
        "5m",
        "Redis is near its limit of connections",
        f"Redis in {{{{ $labels.pod }}}} has {{{{ $value }}}} connections of {MAX_CLIENTS}. Past the limit it refuses.",
    )
    yield Alert(
        "SessionStoreConnectionsRejected",
        "critical",
        f"increase({redis('redis_rejected_connections_total')}[5m]) > 0",
        "0m",
        "Redis refuses connections",
        "Redis in {{ $labels.pod }} refused {{ $value | humanize }} connections in 5 minutes: it has too many.",
    )
    yield Alert(
        "SessionStoreEvictions",
        "critical",
        f"increase({redis('redis_evicted_keys_total')}[15m]) > 0",
        "0m",
        "Redis evicts sessions",
        "Redis in {{ $labels.pod }} threw {{ $value | humanize }} sessions away in 15 minutes. It never should: "
        "maxmemory-policy is noeviction, unless somebody changed it.",
    )
    hits = f"sum(rate({redis('redis_keyspace_hits_total')}[15m]))"
    misses = f"sum(rate({redis('redis_keyspace_misses_total')}[15m]))"
    yield Alert(
        "SessionStoreHitRateLow",
        "warning",
        f"{hits} / ({hits} + {misses}) < 0.5 and {misses} > 0.1",
        "30m",
        "Most cookies lead to no session",
        "{{ $value | humanizePercentage }} of the keys that are asked for exist: people come with cookies of sessions "
        "that are gone, or another prefix or database is asked.",
    )
    yield from _sessions(settings, series)
    if settings.redis.appendonly:
        yield from _append_only(settings, series)
    if settings.redis.mode == "sentinel":
        yield from _replication(settings, series)


def _sessions(settings: Settings, series: Series) -> Iterator[Alert]:
    redis = series.redis
    keys = redis("redis_db_keys_expiring", f'db="db{settings.redis.database}"')
    count, before = f"max({keys})", f"max(max_over_time({keys}[10m]))"
    expired = f"max(increase({redis('redis_expired_keys_total')}[10m]))"
    yield Alert(
        "SessionStoreSessionsVanished",
        "critical",
        f"{before} - {count} - {expired} > 0.5 * {before} and {before} > 100",
        "1m",
        "Sessions are gone",
        "{{ $value | humanize }} sessions went within 10 minutes that did not expire: their people are logged out.",
    )
    yield Alert(
        "SessionStoreSessionsUnusual",
        "warning",
        f"{count} > 1.5 * max(max_over_time({keys}[1w] offset 1h)) and {count} > 1000 and max({keys} offset 1w) > 0",
        "15m",
        "Far more sessions than ever in the last week",
        "{{ $value | humanize }} sessions: more than half as many again as the last week's most.",
    )
    if settings.metrics.enabled:
        created = f"sum(rate({series.api('session_store_sessions_created_total')}[1h]))"
        each = f"max({redis('redis_memory_used_dataset_bytes')}) / {count}"
        yield Alert(
            "SessionStoreLoginsOutrunMemory",
            "warning",
            f"{created} * {settings.sessions.ttl_seconds} * {each} > {conf.maxmemory(settings)} and {count} > 1000",
            "30m",
            "At this rate of logins Redis will be full before sessions expire",
            "Logins of the last hour, kept for as long as sessions live "
            f"({settings.sessions.ttl_seconds} s), need {{{{ $value | humanize1024 }}}}B; "
            f"Redis may hold {conf.maxmemory(settings) >> 20} MiB.",
        )


def _append_only(settings: Settings, series: Series) -> Iterator[Alert]:
    yield Alert(
        "SessionStoreAofWriteFailing",
        "critical",
        f"{series.redis('redis_aof_last_write_status')} == 0",
        "1m",
        "Redis cannot write its append-only file",
        "The last write of Redis in {{ $labels.pod }} failed: it refuses logins (503) until one succeeds. "
        "Is its volume full?",
    )
    yield Alert(
        "SessionStoreAofRewriteFailing",
        "warning",
        f"{series.redis('redis_aof_last_bgrewrite_status')} == 0",
        "5m",
        "Redis cannot rewrite its append-only file",
        "The last rewrite of Redis in {{ $labels.pod }} failed: the file grows until the volume is full.",
    )
    claims = f"data-{conf.stateful_set(settings)}-[0-9]+|{settings.redis.app}-backup"
    free, size = (series.of(f"kubelet_volume_stats_{what}_bytes", f'persistentvolumeclaim=~"{claims}"')
                  for what in ("available", "capacity"))  # fmt: skip
    yield Alert(
        "SessionStoreVolumeFilling",
        "warning",
        f"{free} / {size} < 0.15",
        "10m",
        "A volume is nearly full",
        "{{ $value | humanizePercentage }} of claim {{ $labels.persistentvolumeclaim }} is free. Full: no logins.",
    )


def _replication(settings: Settings, series: Series) -> Iterator[Alert]:
    redis, replicas = series.redis, settings.redis.replicas - 1
    info = redis("redis_instance_info", 'role="master"')
    masters = f"count({info})"
    yield Alert(
        "SessionStoreNoMaster",
        "critical",
        f"({masters} or vector(0)) == 0 and on () count({redis('redis_up')}) > 0",
        "1m",
        "No Redis is master",
        "{{ $value }} Redis are master: requests with a session get 503. A failover takes seconds, not this long.",
    )
    yield Alert(
        "SessionStoreTwoMasters",
        "warning",
        f"{masters} > 1",
        "2m",
        "More than one Redis says it is master",
        "{{ $value }} Redis say they are master. Only the one that replicas follow takes writes; the other is cut off.",
    )
    following = f"max({redis('redis_connected_slaves')})"
    yield Alert(
        "SessionStoreReplicasMissing",
        "warning",
        f"{following} < {replicas} and {following} > 0",
        "5m",
        "A replica does not follow",
        f"{{{{ $value }}}} of {replicas} replicas follow the master. Without any it takes no logins.",
    )
    yield Alert(
        "SessionStoreNoReplicas",
        "critical",
        f"{following} == 0",
        "1m",
        "No replica follows the master, which therefore takes no writes",
        "{{ $value }} replicas follow the master: logins get 503, those who are logged in are served.",
    )
    yield Alert(
        "SessionStoreReplicaLinkDown",
        "warning",
        f"{redis('redis_master_link_up')} == 0",
        "2m",
        "A replica lost its master",
        "Redis in {{ $labels.pod }} has no connection to its master: link {{ $value }}.",
    )
    yield Alert(
        "SessionStoreReplicaLag",
        "warning",
        f"{redis('redis_connected_slave_lag_seconds')} > 5",
        "2m",
        "A replica lags behind",
        "{{ $labels.slave_ip }} was last heard of {{ $value }} s ago. The master counts no replica that lags over 3 s.",
    )


def of_proxies(settings: Settings) -> Iterator[Alert]:
    """What HAProxy tells."""
    proxy = Series(settings.namespace).proxy
    majority = settings.redis.replicas // 2 + 1
    lead = proxy("haproxy_backend_active_servers", 'proxy=~"redis-[0-9]+"')
    named = proxy("haproxy_backend_active_servers", 'proxy=~"names-[0-9]+"')
    yield Alert(
        "SessionStoreProxyNoMaster",
        "critical",
        f"max by (pod) ({lead}) < 1 or max by (pod) ({named}) < {majority}",
        "1m",
        "A proxy knows no master",
        f"{{{{ $labels.pod }}}}: {{{{ $value }}}} say or name a master; it takes one that says so and that {majority} "
        "Sentinels name. Until then it closes every connection.",
    )
    now, most = (proxy(f"haproxy_frontend_{what}_sessions", 'proxy="redis"') for what in ("current", "limit"))
    yield Alert(
        "SessionStoreProxyConnectionsHigh",
        "warning",
        f"{now} / {most} > 0.8",
        "5m",
        "A proxy is near its limit of connections",
        "{{ $labels.pod }} has {{ $value | humanizePercentage }} of the connections it may have; past that they wait.",
    )
