"""A stream as late as a device may be and as strict as a graph is, and a small core on it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.core import EngineCore
from engine.device.build import DeviceShape, MakeDecoder, device_core
from engine.device.core import DeviceCore
from engine.device.network import device_gpt
from engine.device.stream import EagerStream, Graph, Marker, Stream, Work
from engine.device.torch_decoder import TorchDecoder
from engine.loader import build_core
from engine.messages import EngineConfig
from engine.request import FinishReason, Request, SamplingParams, TokenLogprob, TokenOutput
from engine.stream import join_outputs
from model.config import GPTConfig
from model.decoder import parameter_shapes

POISON = 0x5A5A5A5A
READ_BACK = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::repeat_interleave.Tensor",
    "aten::equal",
}
"""Operations whose result, or its shape, the host has to wait for: no graph can hold them."""


class NothingReadBack(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where an operation would have to wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._schema.name not in READ_BACK, f"{func} reads back"
        return func(*args, **(kwargs or {}))


class LateMarker:
    """Reached when its stream has done what was queued before it."""

    def __init__(self, stream: LateStream) -> None:
        self._stream = stream
        self._place = stream.num_queued

    @property
    def is_reached(self) -> bool:
        return self._stream.num_done >= self._place

    def wait(self) -> None:
        self._stream.catch_up(self._place)

    def since(self, earlier: Marker) -> float:
        assert self.is_reached
        assert isinstance(earlier, LateMarker)
        return 0.001 * (self._place - earlier._place)


class LateGraph:
    """Checks at each replay that nothing it knows has moved."""

    def __init__(self, stream: LateStream, work: Work) -> None:
        self._stream = stream
        self._work = work
        self._addresses: list[int] = []

    def replay(self) -> None:
        self._stream.num_replays += 1
        self._stream.run(self._checked)

    def _checked(self) -> None:
        self._addresses = self._addresses or self._stream.addresses()
        assert self._stream.addresses() == self._addresses, "a tensor moved"
        self._work()


class LateStream:
    """Does nothing before somebody waits, and no more than they wait for.

    ``watched`` gives the tensors whose addresses graphs rely on; set it when they are there.
    """

    def __init__(self, *, is_strict: bool = True) -> None:
        self.device = torch.device("cpu")
        self.watched: Callable[[], Iterable[Tensor]] = tuple
        self.num_done = 0
        self.num_replays = 0
        self._queue: list[Work] = []
        self._is_strict = is_strict

    @property
    def num_queued(self) -> int:
        return self.num_done + len(self._queue)

    def addresses(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.watched()]

    def host_buffer(self, *shape: int) -> Tensor:
        return torch.full(shape, POISON, dtype=torch.int32)

    def run(self, work: Work) -> None:
        self._queue.append(work)

    def join(self) -> None:
        """Nothing is queued elsewhere."""

    def capture(self, work: Work) -> Graph:
        for _ in range(2):  # as a device warms up
            self.run(work)
        return LateGraph(self, work)

    def mark(self) -> Marker:
        return LateMarker(self)

    def catch_up(self, place: int) -> None:
        while self.num_done < place:
            work = self._queue.pop(0)
            self.num_done += 1
            self._do(work)

    def _do(self, work: Work) -> None:
        with torch.inference_mode():
            if not self._is_strict:
                work()
                return
            with NothingReadBack():  # type: ignore[no-untyped-call]
                work()


CONFIG = GPTConfig(
    vocab_size=211,
    num_positions=128,
    num_channels=64,
    num_layers=2,
    num_heads=2,
    num_inner=128,
    eos_token_ids=(5,),
)
Answer = tuple[tuple[int, ...], tuple[TokenLogprob, ...], FinishReason | None]


def random_weights() -> dict[str, Tensor]:
    """Random ones with sharp logits, gains and biases random too."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * (0.5 if "wte" in name else 0.1)
        + ("ln_" in name)
        for name, shape in parameter_shapes(CONFIG).items()
    }


def make_core(
    stream: Stream | None = None,
    *,
    num_slots: int = 8,
    num_ahead: int | None = None,
    keeps_generated: bool = True,
    context_len: int = CONFIG.num_positions,
    make_decoder: MakeDecoder | None = None,
) -> DeviceCore:
    """A float32 core on CPU tensors, every cache position poisoned."""
    stream = stream or EagerStream()
    shape = DeviceShape(num_slots, context_len, torch.float32, keeps_generated, num_ahead)
    core = device_core(CONFIG, make_decoder or torch_decoder(), stream, shape)
    for slot in range(num_slots + 1):
        core.runner.cache.poison(slot)
    if isinstance(stream, LateStream):
        stream.watched = lambda: watched(core)
    return core


def torch_decoder() -> MakeDecoder:
    """The plain one, in products that keep every row's bits."""
    device = torch.device("cpu")
    gpt = device_gpt(CONFIG, random_weights(), torch.float32, device, is_strict=True)
    return partial(TorchDecoder, gpt)


def watched(core: DeviceCore) -> list[Tensor]:
    """What graphs know the addresses of."""
    cache = core.runner.cache
    return [*core.runner.state.tensors.values(), cache.keys, cache.values]


def answers(core: DeviceCore, requests: Sequence[Request]) -> dict[int, Answer]:
    """Run them, and all that is there already, to their end."""
    core.submit(requests)
    outputs: dict[int, list[TokenOutput]] = {}
    while core.has_work:
        for output in core.step()[0]:
            outputs.setdefault(output.request_id, []).append(output)
        core.scheduler.check_integrity()
    return {request_id: folded(group) for request_id, group in outputs.items()}


def folded(outputs: Sequence[TokenOutput]) -> Answer:
    """All that came for one request."""
    whole = join_outputs(outputs)
    return whole.token_ids, whole.logprobs, whole.finish_reason


def cpu_core(num_slots: int = 8) -> EngineCore:
    config = EngineConfig("random", dtype="float32", kernels="torch", num_slots=num_slots)
    return build_core(CONFIG, random_weights(), config, "hash", "source")[0]


def cpu_answers(requests: Sequence[Request]) -> dict[int, Answer]:
    core = cpu_core()
    outputs: dict[int, list[TokenOutput]] = {}
    core.submit(requests)
    while core.has_work:
        for output in core.step()[0]:
            outputs.setdefault(output.request_id, []).append(output)
    return {request_id: folded(group) for request_id, group in outputs.items()}


def prompt(seed: int) -> tuple[int, ...]:
    """A function of the seed alone; lengths differ, beginnings are shared."""
    draw = random.Random(seed)
    shared = [7] * draw.choice([0, 20, 40])
    own = draw.choice([1, 3, 30, 70])
    return (*shared, *(draw.randrange(CONFIG.vocab_size) for _ in range(own)))


def request(request_id: int, seed: int, temperature: float = 1.0, **options: Any) -> Request:
    options = {"max_tokens": 12, "num_logprobs": 3, "ignore_eos": True, **options}
    params = SamplingParams(temperature=temperature, seed=seed, **options)
    return Request(request_id, prompt(seed), params)
