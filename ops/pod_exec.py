"""Commands in a container, through the API server's exec."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import websocket
from kubernetes import stream

from ops.kube import Cluster

QUIET = 60.0
"""Seconds a command may go without a word."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def run(
    cluster: Cluster, namespace: str, pod: str, container: str, command: list[str], stdin: Iterable[bytes] | None = None
) -> Done:
    """Run a command to its end.

    Args:
        cluster: where.
        namespace: of the pod.
        pod: its name.
        container: in the pod.
        command: program and arguments; everybody on the node can read them.
        stdin: sent to the command, which must know by itself where it ends: exec cannot close it.

    Raises:
        ApiException: the API server refuses.
        TimeoutError: the command went quiet.
    """
    websocket.setdefaulttimeout(QUIET)
    shell = stream.stream(
        cluster.core.connect_get_namespaced_pod_exec,
        pod,
        namespace,
        container=container,
        command=command,
        stdin=stdin is not None,
        stdout=True,
        stderr=True,
        tty=False,
        binary=True,
        _preload_content=False,
    )
    try:
        out, err = bytearray(), bytearray()
        for part in stdin or ():
            shell.write_stdin(part)
        heard = time.monotonic()
        while shell.is_open():
            shell.update(timeout=1)
            for channel, kept in ((1, out), (2, err)):
                if text := shell.read_channel(channel):
                    kept += text
                    heard = time.monotonic()
            if time.monotonic() > heard + QUIET:
                raise TimeoutError(f"{' '.join(command)[:60]} in {pod} said nothing for {QUIET:.0f} s")
        for channel, kept in ((1, out), (2, err)):
            kept += shell.read_channel(channel) or b""
        code = shell.returncode
        return Done(0 if code is None else code, out.decode(errors="replace"), err.decode(errors="replace"))
    finally:
        shell.close()
