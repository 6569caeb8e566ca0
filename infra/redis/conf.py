"""Text of the files that Redis, Sentinel and HAProxy run with. Pure: settings in, text out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from kubernetes.utils.quantity import parse_quantity

from infra.settings import Settings
from infra.values import MIB

CONF_DIR = "/etc/redis"
SECRETS_DIR = "/run/secrets"
RUN_DIR = "/run/redis"
DATA_DIR = "/data"
PORT = 6379
SENTINEL_PORT = 26379
PROXY_HEALTH_PORT = 8404
PROXY_METRICS_PORT = 8405
EXPORTER_PORT = 9121
MOST = 7
"""The most Redis pods that sentinel mode may have (`sections.Redis.replicas`)."""
REDIS_SCRIPTS = ("lib.sh", "redis.sh", "aof.sh", "probe.sh")
SENTINEL_SCRIPTS = ("sentinel.sh", "handover.sh")
PROXY_SCRIPTS = ("proxy.sh", "fence.lua")
EXPORTER_SCRIPTS = ("exporter.sh",)


@dataclass(frozen=True)
class Place:
    """Where a pod finds its files and listens; tests give it folders, ports and addresses of their own.

    Attributes:
        conf: scripts and configuration, read-only.
        run: a memory volume for rendered passwords and the socket.
        secrets: folders `redis`, `internal` and `redis-tls`, each a mounted Secret.
        data: the volume.
        bind: addresses to listen on.
        hosts: the file of known addresses.
        address: how pod $1 of the StatefulSet is reached, as the body of a shell function; None: by its DNS name.
    """

    conf: str = CONF_DIR
    run: str = RUN_DIR
    secrets: str = SECRETS_DIR
    data: str = DATA_DIR
    port: int = PORT
    sentinel_port: int = SENTINEL_PORT
    bind: str = "* -::*"
    address: str | None = None
    hosts: str = "/etc/hosts"


POD = Place()


def stateful_set(settings: Settings) -> str:
    """Name of the StatefulSet; each mode has its own, so that going from one to the other copies the sessions."""
    return f"{settings.redis.app}-ha" if settings.redis.mode == "sentinel" else settings.redis.app


def door(settings: Settings) -> str:
    """Name of the pods that take the clients of an adopted Redis and ours until all are ours (`ops adopt`)."""
    return f"{settings.redis.app}-door"


def domain(settings: Settings) -> str:
    """What follows a pod's name in its DNS name."""
    return f"{settings.redis.app}-headless.{settings.namespace}.svc.cluster.local"


def server_name(settings: Settings) -> str:
    """The name that clients verify in the certificate."""
    return settings.tls.server_name or settings.redis.service


def maxmemory(settings: Settings) -> int:
    """Bytes of data Redis may hold, from the container's memory limit (docs/adr/0002-memory.md).

    A tenth and 16 MiB go to the process, client buffers and fragmentation. With AOF on, rewrites fork, and every page
    that is written meanwhile exists twice: then half of the limit stays free.
    """
    limit = int(parse_quantity(settings.redis.memory))
    share = 0.5 if settings.redis.appendonly else 0.9
    return max(int(limit * share) - 16 * MIB, 16 * MIB) // MIB * MIB


def scripts(*names: str) -> dict[str, str]:
    """Files of `scripts/` by name."""
    folder = resources.files("infra.redis") / "scripts"
    return {name: (folder / name).read_text() for name in names}


def _tls(settings: Settings, place: Place, port: int) -> list[str]:
    if not settings.tls.enabled:
        return [f"port {port}"]
    folder = f"{place.secrets}/redis-tls"
    return [
        "port 0",
        f"tls-port {port}",
        f"tls-cert-file {folder}/tls.crt",
        f"tls-key-file {folder}/tls.key",
        f"tls-ca-cert-file {folder}/ca.crt",
        'tls-protocols "TLSv1.2 TLSv1.3"',
        "# Clients prove themselves by password, not by certificate.",
        "tls-auth-clients no",
        "tls-replication yes",
    ]


def redis_conf(settings: Settings, place: Place = POD) -> str:
    """redis.conf. No password is in it: redis.sh renders them into the included file on a memory volume."""
    lines = [
        f"bind {place.bind}",
        *_tls(settings, place, place.port),
        "# For the scripts in the pod: no TLS handshake for each look.",
        f"unixsocket {place.run}/redis.sock",
        "unixsocketperm 700",
        f"dir {place.data}",
        "tcp-keepalive 60",
        f"maxmemory {maxmemory(settings)}",
        "# A login is never evicted silently: a full Redis refuses writes, which the API answers with 503.",
        "maxmemory-policy noeviction",
    ]
    if settings.redis.appendonly:
        lines += ["appendonly yes", "appendfsync everysec"]
    else:
        lines += ["appendonly no"]
    lines += [
        "# Nothing reads a snapshot: Redis starts from its append-only file, backups come by replication.",
        'save ""',
    ]
    if settings.redis.mode == "sentinel":
        lines += [
            "# A master that no replica follows takes no writes: on the wrong side of a partition it stops by itself.",
            "min-replicas-to-write 1",
            "min-replicas-max-lag 3",
            "# A dead peer is noticed in seconds, and one that was away briefly gets only what it missed.",
            "repl-ping-replica-period 1",
            "repl-timeout 10",
            "repl-backlog-size 16mb",
            "repl-diskless-sync yes",
            "repl-diskless-sync-delay 0",
        ]
    return "\n".join([*lines, f"include {place.run}/auth.conf", ""])


def sentinel_conf(settings: Settings, place: Place = POD) -> str:
    """The part of sentinel.conf that is no secret and the same in every pod; sentinel.sh adds the rest."""
    lines = [
        f"bind {place.bind}",
        *_tls(settings, place, place.sentinel_port),
        f"dir {place.run}",
        "# Pods keep their names, not their addresses.",
        "sentinel resolve-hostnames yes",
        "sentinel announce-hostnames yes",
        "",
    ]
    return "\n".join(lines)


def topology(settings: Settings, place: Place = POD) -> str:
    """topology.sh: who is who, for the scripts."""
    redis = settings.redis
    sentinel, tail, standalone = redis.mode == "sentinel", domain(settings), redis.app
    keys = f"{place.secrets}/internal/internal" if sentinel else f"{place.secrets}/redis/password"
    previous = f"{place.secrets}/internal/internal-previous" if sentinel else f"{place.secrets}/redis/previous"
    before = [f"{standalone}-0.{tail}"] if sentinel else [f"{standalone}-ha-{i}.{tail}" for i in range(MOST)]
    address = place.address or f'echo "{stateful_set(settings)}-$1.{tail}"'
    values: dict[str, object] = {
        "SERVICE": redis.app,
        "REPLICAS": redis.replicas if sentinel else 1,
        "MAJORITY": redis.replicas // 2 + 1 if sentinel else 1,
        "SELF": "${HOSTNAME##*-}",
        "PORT": place.port,
        "SENTINEL_PORT": place.sentinel_port if sentinel else "",
        "TLS": "yes" if settings.tls.enabled else "",
        "SECRETS": place.secrets,
        "RUN": place.run,
        "DATA": place.data,
        "SOCKET": f"{place.run}/redis.sock",
        "HOSTS": place.hosts,
        "AGENT": "agent" if sentinel else "default",
        "KEYS": keys,
        "KEYS_PREVIOUS": previous,
        "PREDECESSORS": "" if place.address else " ".join(before),
    }
    lines = ["# shellcheck shell=sh disable=SC2034", *(f'{key}="{value}"' for key, value in values.items())]
    return "\n".join([*lines, f"address() {{ {address}; }}", ""])


def haproxy_cfg(settings: Settings) -> str:
    """haproxy.cfg: one backend for each Redis, another that counts the Sentinels naming it; proxy.sh fills in @AUTH@.

    A check logs in, asks and quits in one go. With `min-recv` an answer without the wanted text is a verdict, too:
    without it a check of every replica would wait for its timeout, and see a promotion only after that.
    """
    redis, tail, group = settings.redis, domain(settings), settings.redis.app
    majority = redis.replicas // 2 + 1
    name = server_name(settings)
    ssl = (
        f" check-ssl verify required verifyhost {name} check-sni {name} ca-file {SECRETS_DIR}/redis-tls/ca.crt"
        if settings.tls.enabled
        else ""
    )
    pods = [f"{stateful_set(settings)}-{i}" for i in range(redis.replicas)]
    routes = [
        f"    use_backend redis-{i} if {{ nbsrv(names-{i}) ge {majority} }} {{ nbsrv(redis-{i}) ge 1 }}"
        for i in range(redis.replicas)
    ]
    text = f"""\
global
    log stdout format raw local0 notice
    maxconn 4000
    # After a reload the old worker keeps its connections for a while; then clients connect again.
    hard-stop-after 30s
    spread-checks 0
    lua-load {{conf}}/fence.lua

defaults
    mode tcp
    log global
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    timeout check 1s
    option clitcpka
    option srvtcpka
    default-server check rise 1 on-marked-down shutdown-sessions init-addr none resolvers cluster{ssl}

# Pods by their own addresses: a Service lets go of a pod that is deleted a second before it really stops.
resolvers cluster
    parse-resolv-conf
    resolve_retries 3
    timeout resolve 1s
    timeout retry 300ms
    hold valid 1s
    hold nx 2s
    hold obsolete 2s
    hold other 30s
    hold refused 30s
    hold timeout 30s

frontend redis
    bind :{PORT}
{chr(10).join(routes)}
    # No master: closed at once, so that clients try again.
    default_backend nobody

backend nobody

frontend health
    mode http
    bind :{PROXY_HEALTH_PORT}
    http-request return status 200 if {{ path /healthz }}
    http-request return status 404

frontend metrics
    mode http
    bind :{PROXY_METRICS_PORT}
    http-request use-service prometheus-exporter if {{ path /metrics }}
    http-request return status 404
"""
    for i, pod in enumerate(pods):
        text += f"""
backend redis-{i}
    option tcp-check
    tcp-check send "@AUTH@INFO replication\\r\\nQUIT\\r\\n"
    tcp-check expect min-recv 100 string role:master
    server redis-{i} {pod}.{tail}:{PORT} inter 300ms fastinter 150ms fall 2

backend names-{i}
    option tcp-check
    tcp-check send "@AUTH@SENTINEL get-master-addr-by-name {group}\\r\\nQUIT\\r\\n"
    tcp-check expect min-recv {len(pod) + len(tail) + 10} string {pod}.{tail}
"""
        for j, other in enumerate(pods):
            text += f"    server sentinel-{j} {other}.{tail}:{SENTINEL_PORT} inter 500ms fastinter 200ms fall 2\n"
    return text.replace("{conf}", "/etc/haproxy")
