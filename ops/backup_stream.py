"""A Redis's data set as an RDB, over the replication protocol, as `redis-cli --rdb` gets it; no file in the pod."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from ops.errors import OpsError
from ops.redis_pods import command, line

PIECE = 1 << 18
PATIENCE = 60.0
"""Redis says something every second, also while it prepares the dump."""
NO_PORT = b"65536"
"""Announced as our port: Sentinel would take us for a replica to fail over to, if the port were possible."""
MARK = 40


def rdb(talk: socket.socket) -> Iterator[bytes]:
    """The dump, piece by piece; ends without an error only when it is whole.

    Args:
        talk: a connection that has logged in.

    Raises:
        OpsError: Redis refuses, for example as a replica without a master.
        ConnectionError: it hung up in the middle.
    """
    talk.settimeout(PATIENCE)
    options = (b"listening-port", NO_PORT, b"capa", b"eof", b"rdb-only", b"1")
    talk.sendall(command(b"REPLCONF", *options))
    if not (answer := line(talk)).startswith(b"+"):
        raise OpsError(f"Redis does not give its data: {answer[1:].decode(errors='replace')}")
    talk.sendall(command(b"SYNC"))
    # Empty lines say that Redis is still at work.
    while not (answer := line(talk)):
        pass
    if not answer.startswith(b"$"):
        raise OpsError(f"Redis does not give its data: {answer[1:].decode(errors='replace')}")
    if answer.startswith(b"$EOF:"):
        yield from _until(talk, answer.removeprefix(b"$EOF:"))
    else:
        yield from _sized(talk, int(answer[1:]))


def _sized(talk: socket.socket, size: int) -> Iterator[bytes]:
    while size:
        piece = talk.recv(min(PIECE, size))
        if not piece:
            raise ConnectionError("Redis hung up in the middle of the dump")
        size -= len(piece)
        yield piece


def _until(talk: socket.socket, mark: bytes) -> Iterator[bytes]:
    if len(mark) != MARK:
        raise ConnectionError("Redis announced the dump in a way that is not known")
    held = b""
    while True:
        piece = talk.recv(PIECE)
        if not piece:
            raise ConnectionError("Redis hung up in the middle of the dump")
        held += piece
        if (end := held.find(mark)) >= 0:
            yield held[:end]
            return
        if len(held) > MARK:
            yield held[:-MARK]
            held = held[-MARK:]
