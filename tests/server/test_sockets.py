from __future__ import annotations

import resource
import socket
from collections.abc import Iterator

import pytest

from server.sockets import OTHER_DESCRIPTORS, SEND_BUFFER_BYTES, allow_connections, prepare


def test_accepted_connections_have_what_the_listener_was_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        prepare(listener, 60.0)
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
                probes_s = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) + sum(
                    [accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)]
                    * accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
                )
                assert probes_s == 60
                size = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                assert 0 < size <= 2 * SEND_BUFFER_BYTES  # Linux counts its own part too


@pytest.fixture
def soft_limit() -> Iterator[int]:
    """A limit that is well below the hard one, until the test is over."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = 512
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    yield low
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_raised_as_far_as_needed(soft_limit: int) -> None:
    assert allow_connections(10) == 10
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft_limit
    assert allow_connections(soft_limit) == soft_limit
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft_limit + OTHER_DESCRIPTORS


def test_what_the_system_does_not_allow_is_not_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (400, 600))
    monkeypatch.setattr(resource, "setrlimit", lambda _which, limits: None)
    assert allow_connections(2_048) == 600 - OTHER_DESCRIPTORS
