"""The stream of a CUDA device: graphs in one memory pool, markers by events.

Nothing here runs without a GPU. Source of the capture rules: the CUDA graphs section of torch's
notes on CUDA semantics: warm up on a side stream, one pool for graphs that never run at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.device.stream import Graph, Marker, Work

WARM_UP_RUNS = 2
"""Before a capture: on first use libraries allocate and kernels compile, which no graph holds."""


class CudaMarker:
    """A timing event."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self.event.record(stream)

    @property
    def is_reached(self) -> bool:
        """See Marker."""
        return bool(self.event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """See Marker."""
        self.event.synchronize()

    def since(self, earlier: Marker) -> float:
        """See Marker."""
        if not isinstance(earlier, CudaMarker):
            raise TypeError(f"{type(earlier).__name__} is no marker of this stream")
        return float(earlier.event.elapsed_time(self.event)) / 1e3


class CudaGraph:
    """A captured graph; ``work`` is kept, since it owns the tensors that the graph writes."""

    def __init__(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, work: Work) -> None:
        self._graph = graph
        self._stream = stream
        self._work = work

    def replay(self) -> None:
        """See Graph."""
        with torch.cuda.stream(self._stream):
            self._graph.replay()


class CudaStream:
    """One stream of one device for all that the engine does."""

    def __init__(self, index: int = 0) -> None:
        self.device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def host_buffer(self, *shape: int) -> Tensor:
        """See Stream."""
        return torch.zeros(shape, dtype=torch.int32, pin_memory=True)

    def run(self, work: Work) -> None:
        """See Stream."""
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            work()

    def join(self) -> None:
        """See Stream."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def capture(self, work: Work) -> Graph:
        """See Stream. Waits for the device, and takes some ten milliseconds."""
        for _ in range(WARM_UP_RUNS):
            self.run(work)
        graph = torch.cuda.CUDAGraph()
        with (
            torch.inference_mode(),
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            work()
        return CudaGraph(graph, self._stream, work)

    def mark(self) -> Marker:
        """See Stream."""
        return CudaMarker(self._stream)
