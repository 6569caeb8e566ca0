"""A client on a node that is cut off: writes sessions straight to the Redis there, until its input ends.

Run in the node's network. Reads one line of JSON (host, port, password, ca, prefix), writes one for each attempt.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from itertools import count
from typing import Any

import redis

from ops import tunnel

EVERY = 0.02
WAIT_MS = 200
SESSION = json.dumps({"cookie": {"originalMaxAge": None}, "auth_info": {"authenticated": True, "username": "bench"}})


def main() -> None:
    """See the module."""
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    over = threading.Event()
    threading.Thread(target=_until_closed, args=(over,), daemon=True).start()
    client = tunnel.redis_over(
        tunnel.direct(told["host"], told["port"]),
        told["password"],
        tls=tunnel.trust(told["ca"]) if told["ca"] else None,
        server_name="redis",
    )
    for number in count():
        if over.wait(EVERY):
            break
        key, replicas, error = f"{told['prefix']}{number}", 0, None
        try:
            client.set(key, SESSION, ex=3600)
            replicas = int(client.wait(1, WAIT_MS))
        except (redis.RedisError, OSError) as failure:
            error = str(failure)[:80] or type(failure).__name__
        line = {"at": time.monotonic(), "key": key, "replicas": replicas, "error": error}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _until_closed(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


if __name__ == "__main__":
    main()
