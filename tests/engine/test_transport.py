from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable

import msgspec
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.messages import (
    Abort,
    EngineConfig,
    EngineStats,
    FromEngine,
    Heartbeat,
    Loading,
    Outputs,
    Refused,
    Shutdown,
    Submit,
    ToEngine,
)
from engine.request import FinishReason, Request, SamplingParams, TokenOutput
from engine.transport import (
    HEADER,
    MAX_FRAME_BYTES,
    ChannelClosed,
    EngineChannel,
    EngineConnection,
    FrameError,
    FrameReader,
    encode_frame,
)

REQUEST = Request(7, (1, 2), SamplingParams(seed=2**53 - 1, logit_bias=((3, -1.5),)), (4,))
TO_ENGINE: list[ToEngine] = [
    EngineConfig("x"),
    Submit((REQUEST, REQUEST)),
    Abort((1, 2)),
    Shutdown(),
]
OUTPUT = TokenOutput(7, (1,), finish_reason=FinishReason.STOP)
FROM_ENGINE: list[FromEngine] = [
    Loading("x"),
    Refused(("a", "b")),
    Heartbeat(EngineStats(step_s=0.25)),
    Outputs((OUTPUT,), EngineStats()),
    Outputs((), EngineStats()),
]
LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])


def to_engine_reader() -> FrameReader[ToEngine]:
    return FrameReader(msgspec.msgpack.Decoder(ToEngine))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(TO_ENGINE), max_size=6),
    st.lists(st.integers(0, 1000), max_size=12),
)
def test_frames_survive_any_cuts(messages: list[ToEngine], cuts: list[int]) -> None:
    """A stream socket keeps bytes, not messages: it may deliver them in any pieces."""
    wire = b"".join(map(encode_frame, messages))
    places = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    reader = to_engine_reader()
    found: list[ToEngine] = []
    for start, end in itertools.pairwise(places):
        found += reader.feed(wire[start:end])
    assert found == messages


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        (HEADER.pack(MAX_FRAME_BYTES + 1), "at most"),
        (HEADER.pack(1) + b"\xc1", "no message"),
        (encode_frame(Loading("x")), "no message"),
    ],
    ids=["too long", "no MessagePack", "of the other direction"],
)
def test_garbage_is_refused(wire: bytes, problem: str) -> None:
    with pytest.raises(FrameError, match=problem):
        to_engine_reader().feed(wire)


def test_channel_receives_what_is_there_and_does_not_wait_for_more() -> None:
    ours, theirs = socket.socketpair()
    channel = EngineChannel(theirs)
    with ours:
        assert channel.receive(0) == []
        assert channel.receive(0.001) == []
        ours.sendall(b"".join(map(encode_frame, TO_ENGINE)))
        assert channel.receive(None) == TO_ENGINE
    channel.close()


def test_channel_notices_that_the_other_end_is_gone() -> None:
    ours, theirs = socket.socketpair()
    channel = EngineChannel(theirs)
    ours.close()
    with pytest.raises(ChannelClosed):
        channel.receive(None)
    with pytest.raises(ChannelClosed):
        channel.send(Loading("x"))
    channel.close()


def on_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    test: Callable[[EngineConnection, socket.socket, list[FromEngine]], object],
) -> list[FromEngine]:
    """Run an asynchronous ``test`` with an open connection; the messages that it heard."""
    heard: list[FromEngine] = []

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            connection = await EngineConnection.open(ours, heard.append)
            try:
                await test(connection, theirs, heard)  # type: ignore[misc]
            finally:
                connection.close()
                await asyncio.sleep(0)  # the loop closes the socket in its next round

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    return heard


@LOOPS
def test_connection_carries_messages_both_ways(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def test(
        connection: EngineConnection, theirs: socket.socket, _heard: list[FromEngine]
    ) -> None:
        for message in TO_ENGINE:
            connection.send(message)
        wire = b"".join(map(encode_frame, TO_ENGINE))
        received = await asyncio.to_thread(theirs.recv, len(wire), socket.MSG_WAITALL)
        assert received == wire
        theirs.sendall(b"".join(map(encode_frame, FROM_ENGINE)))
        theirs.shutdown(socket.SHUT_RDWR)
        await connection.closed.wait()
        connection.send(Shutdown())  # nobody is there: dropped

    assert on_loop(new_loop, test) == FROM_ENGINE


@LOOPS
def test_connection_gives_up_on_garbage(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def test(
        connection: EngineConnection, theirs: socket.socket, _heard: list[FromEngine]
    ) -> None:
        theirs.sendall(HEADER.pack(3) + b"abc")
        await connection.closed.wait()
        assert connection.problem is not None

    assert on_loop(new_loop, test) == []


async def test_connection_is_silent_after_close() -> None:
    """A reader that closes on the first message must not be handed the second."""
    heard: list[FromEngine] = []

    def on_message(message: FromEngine) -> None:
        heard.append(message)
        connection.close()

    ours, theirs = socket.socketpair()
    with theirs:
        connection = await EngineConnection.open(ours, on_message)
        theirs.sendall(b"".join(map(encode_frame, FROM_ENGINE)))
        await connection.closed.wait()
        await asyncio.to_thread(theirs.recv, 1)
    assert heard == FROM_ENGINE[:1]
