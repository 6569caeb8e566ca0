"""Connections to pods through the API server's port-forward. Nothing listens on a local port."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import redis
import websocket
from kubernetes import stream
from redis.connection import Connection, ConnectionPool

from ops.kube import Cluster, wait_for

SECONDS = 10.0
"""No answer takes longer than this."""
Opener = Callable[[], socket.socket]


FORWARDER = "Kubernetes port forward proxy"
_report = threading.excepthook


def _quiet(failure: threading.ExceptHookArgs) -> None:
    """Keep the client's forwarding threads from printing a traceback when our end of a forward hangs up."""
    if not (failure.thread and failure.thread.name.startswith(FORWARDER) and issubclass(failure.exc_type, OSError)):
        _report(failure)


threading.excepthook = _quiet


def open_port(cluster: Cluster, namespace: str, pod: str, port: int) -> socket.socket:
    """A connected socket to a port of a pod.

    Raises:
        ApiException: the API server refuses, or there is no such pod.
    """
    websocket.setdefaulttimeout(SECONDS)
    forward = stream.portforward(cluster.core.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port))
    # The client wraps its end in an object that ssl and http.client do not take for a socket.
    plain: socket.socket = forward.socket(port)._socket
    plain.settimeout(SECONDS)
    _forwards[plain] = lambda: forward.error(port)
    return plain


_forwards: WeakKeyDictionary[socket.socket, Callable[[], str | None]] = WeakKeyDictionary()
HUNG_UP = re.compile(r"reset by peer|broken pipe|lost connection", re.IGNORECASE)


def check(plain: socket.socket) -> None:
    """Tell a port-forward that broke from a program in the pod that hung up.

    Raises:
        ConnectionError: the node could not reach the port; the message is the node's.
    """
    ask = _forwards.get(plain)
    reason = wait_for(ask, 0.5, every=0.05) if ask else None
    if reason and not HUNG_UP.search(reason):
        raise ConnectionError(f"the node cannot reach the pod: {reason.strip()}")


def direct(host: str, port: int) -> Opener:
    """Sockets straight to a host, for a Redis outside the cluster."""
    return lambda: socket.create_connection((host, port), timeout=SECONDS)


@dataclass(frozen=True)
class Reply:
    """An HTTP reply.

    Attributes:
        status: the code.
        headers: as sent; `set-cookie` may occur several times.
        body: decoded JSON, or text when it is none.
    """

    status: int
    headers: http.client.HTTPMessage
    body: Any

    @property
    def cookies(self) -> list[str]:
        """The Set-Cookie lines."""
        return self.headers.get_all("set-cookie") or []


def request(connection: socket.socket, method: str, path: str, headers: dict[str, str], body: bytes | None) -> Reply:
    """One HTTP request over an open socket, which is closed after it."""
    client = http.client.HTTPConnection("localhost", timeout=SECONDS)
    client.sock = connection
    try:
        client.request(method, path, body, {"Connection": "close", **headers})
        answer = client.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        check(connection)
        raise
    finally:
        client.close()
    try:
        content = json.loads(text)
    except ValueError:
        content = text
    return Reply(answer.status, answer.headers, content)


class _Through(Connection):
    """A redis-py connection over a socket that somebody else opens."""

    def __init__(self, opener: Opener, tls: ssl.SSLContext | None, server_name: str | None, **options: Any) -> None:
        self._opener, self._tls, self._server_name = opener, tls, server_name
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def _connect(self) -> socket.socket:
        plain = self._opener()
        if self._tls is None:
            return plain
        try:
            return self._tls.wrap_socket(plain, server_hostname=self._server_name)
        except OSError:
            check(plain)
            plain.close()
            raise


def redis_over(
    opener: Opener,
    password: str | None,
    username: str | None = None,
    database: int = 0,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    binary: bool = False,
) -> redis.Redis:
    """A client over sockets that `opener` makes; TLS with `tls`, where given, verifying `server_name`.

    binary: keys and values are bytes, as they are; else text.
    """
    pool = ConnectionPool(
        connection_class=_Through,
        host=server_name or "Redis",
        opener=opener,
        tls=tls,
        server_name=server_name,
        username=username,
        password=password,
        db=database,
        protocol=2,  # every Redis and every proxy speaks it
        driver_info=None,
        decode_responses=not binary,
        socket_timeout=SECONDS,
    )
    return redis.Redis(connection_pool=pool)


def trust(ca: str | None) -> ssl.SSLContext:
    """A client context of TLS 1.2 or later that trusts `ca` (PEM) only; None: the public CAs."""
    context = ssl.create_default_context(cadata=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
