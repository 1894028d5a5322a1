"""What the kernel is asked for: dead peers told apart from silent ones, buffers, descriptors."""

from __future__ import annotations

import socket
import sys

SEND_BUFFER_BYTES = 2**18
"""Linux lets it grow to megabytes for a client that does not read; this much fills any line."""

PROBE_INTERVAL_S = 10
NUM_PROBES = 3
OTHER_DESCRIPTORS = 256
"""Of everything that is no client's connection."""


def prepare(listener: socket.socket, send_timeout_s: float) -> None:
    """Set up the connections that ``listener`` will accept; on Linux they take it from there.

    A peer that is gone without a word is noticed within ``send_timeout_s`` seconds: by probes
    while nothing is sent, by what it does not acknowledge otherwise.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        idle_s = max(1, round(send_timeout_s) - NUM_PROBES * PROBE_INTERVAL_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, NUM_PROBES)
        timeout_ms = max(1, round(send_timeout_s * 1_000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)


def allow_connections(count: int) -> int:
    """Raise this process's limit of open files for ``count`` connections; how many it allows."""
    if sys.platform == "win32":
        return count
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return count if soft == resource.RLIM_INFINITY else max(1, min(count, soft - OTHER_DESCRIPTORS))
