"""Text of the files a Redis pod runs with. Pure: settings in, text out; tests feed it to the real redis-server."""

from __future__ import annotations

from dataclasses import dataclass

from kubernetes.utils.quantity import parse_quantity

from infra.settings import Settings
from infra.values import MIB

CONF_DIR = "/etc/redis"
AUTH_FILE = "/run/redis/auth.conf"
PASSWORD_FILE = "/run/secrets/redis/password"  # noqa: S105 - a path
TLS_DIR = "/run/secrets/redis-tls"
DATA_DIR = "/data"
PORT = 6379


@dataclass(frozen=True)
class Place:
    """Where a Redis finds its files and listens; tests give it folders and a port of their own."""

    conf: str = f"{CONF_DIR}/redis.conf"
    auth: str = AUTH_FILE
    password: str = PASSWORD_FILE
    tls: str = TLS_DIR
    data: str = DATA_DIR
    port: int = PORT


POD = Place()


def maxmemory(settings: Settings) -> int:
    """Bytes of data Redis may hold, from the container's memory limit (docs/adr/0002-memory.md).

    A tenth and 16 MiB go to the process, client buffers and fragmentation. With AOF on, rewrites fork, and every page
    that is written meanwhile exists twice: then half of the limit stays free.
    """
    limit = int(parse_quantity(settings.redis.memory))
    share = 0.5 if settings.redis.appendonly else 0.9
    return max(int(limit * share) - 16 * MIB, 16 * MIB) // MIB * MIB


def redis_conf(settings: Settings, place: Place = POD) -> str:
    """redis.conf. The password is not in it: start.sh renders it into the included file on a memory volume."""
    lines = [
        "bind * -::*",
        f"port {0 if settings.tls.enabled else place.port}",
        f"dir {place.data}",
        "tcp-keepalive 60",
        f"maxmemory {maxmemory(settings)}",
        "# A login is never evicted silently: a full Redis refuses writes, which the API answers with 503.",
        "maxmemory-policy noeviction",
    ]
    if settings.redis.appendonly:
        lines += ["appendonly yes", "appendfsync everysec", "save 3600 1 300 100 60 10000"]
    else:
        lines += ["appendonly no", 'save ""']
    if settings.tls.enabled:
        lines += [
            f"tls-port {place.port}",
            f"tls-cert-file {place.tls}/tls.crt",
            f"tls-key-file {place.tls}/tls.key",
            f"tls-ca-cert-file {place.tls}/ca.crt",
            'tls-protocols "TLSv1.2 TLSv1.3"',
            "# Clients prove themselves by password, not by certificate.",
            "tls-auth-clients no",
        ]
    return "\n".join([*lines, f"include {place.auth}", ""])


def start_script(place: Place = POD) -> str:
    """start.sh: render the password from the Secret's file to the memory volume, then become redis-server.

    printf is built into sh, so the password is in no process's arguments or environment.
    """
    return f"""#!/bin/sh
set -eu
umask 077
if [ ! -s {place.password} ]; then
  echo 'session-store: {place.password} is empty or missing: the password Secret has no key "password"' >&2
  exit 1
fi
password=$(sed 's/[\\\\"]/\\\\&/g' {place.password})
printf 'requirepass "%s"\\n' "$password" > {place.auth}
unset password
exec redis-server {place.conf}
"""


def probe_script(settings: Settings, place: Place = POD) -> str:
    """probe.sh liveness|readiness.

    Ready is PONG. Alive is any answer of Redis's own (LOADING, a refused password, too many clients): a restart would
    only make it load again. The password travels in the environment of one short redis-cli.
    """
    # --insecure: this is loopback inside the pod, and an expired certificate must not have Redis restarted.
    tls = " --tls --insecure" if settings.tls.enabled else ""
    return f"""#!/bin/sh
REDISCLI_AUTH=$(cat {place.password}) || exit 1
export REDISCLI_AUTH
reply=$(redis-cli --no-auth-warning -h 127.0.0.1 -p {place.port}{tls} PING 2>&1)
case "$1/$reply" in
  */PONG) exit 0 ;;
  liveness/|liveness/Could*|liveness/Error*) ;;
  liveness/*) exit 0 ;;
esac
echo "$reply" | head -n 1
exit 1
"""
