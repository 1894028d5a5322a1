"""The frozen message types that cross between the API process and the engine process.

To the engine: EngineConfig once, then Submit, Abort, Shutdown. From it: Loading while it
starts, then Ready or Refused, then one Outputs a step and a Heartbeat while idle; StepBegins
before a step that is not like the one before it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engine.request import Request, TokenOutput


class TaskSource(msgspec.Struct, frozen=True):
    """A fine-tuned task and where it lies; an optional one is left out where none is served."""

    name: str
    path: str
    is_optional: bool = False


class TaskInfo(msgspec.Struct, frozen=True):
    """A task that is served. ``config`` are the plain values of a model.tasks.TaskConfig.

    Its start, delimiter and extract have the ids from ``first_special_id`` on; a sequence takes at
    most ``max_len`` positions. ``train`` says what it brought beside its head: ``head`` for
    nothing, ``lora`` or ``full``.
    """

    name: str
    config: dict[str, Any]
    first_special_id: int
    max_len: int
    train: str
    weights_hash: str
    fingerprint: str
    source: str


class EngineConfig(msgspec.Struct, frozen=True, tag=True):
    """How to run one checkpoint. None leaves the choice to the engine.

    ``dtype``: ``auto``, ``float32``, ``bfloat16``, ``int8`` or ``int4``; ``kv_dtype``, that of
    the cache: ``auto``, ``float32``, ``bfloat16`` or ``int8``; on a GPU both are ``auto``,
    ``bfloat16``, ``float16`` or ``float32``. ``device``: ``auto``, ``cpu`` or ``cuda``.
    ``num_slots``: sequences that run at once. ``max_context``: positions of a slot, at most the
    checkpoint's. ``kernels``: ``auto``, or one of ``torch``, ``plain``, ``avx2``, ``avx512vnni``,
    ``avx512``; on a GPU ``torch``, ``triton`` or ``triton-fast``. ``tasks`` are served beside the
    decoder.
    """

    checkpoint: str
    device: str = "auto"
    dtype: str = "auto"
    kv_dtype: str = "auto"
    num_slots: int | None = None
    max_context: int | None = None
    num_threads: int | None = None
    kernels: str = "auto"
    max_queued_requests: int = 256
    max_queued_tokens: int = 131_072
    tasks: tuple[TaskSource, ...] = ()


class ModelInfo(msgspec.Struct, frozen=True):
    """What is being served, decided once the checkpoint is loaded.

    ``fingerprint`` names everything that a seeded answer depends on: weights, dtypes,
    kernel path, threads, version. ``log_loss_rise`` is what int8 costs, as a share of the log-loss
    of the model's own text, where that was measured to decide the dtype.
    """

    vocab_size: int
    context_len: int
    num_parameters: int
    num_layers: int
    num_channels: int
    num_heads: int
    eos_token_ids: tuple[int, ...]
    weights_hash: str
    device: str
    dtype: str
    kv_dtype: str
    kernels: str
    num_slots: int
    slot_bytes: int
    num_threads: int
    fingerprint: str
    source: str
    log_loss_rise: float | None = None
    tasks: tuple[TaskInfo, ...] = ()


class EngineStats(msgspec.Struct, frozen=True, gc=False):
    """A step, and the state after it. ``phase``: ``prefill``, ``decode`` or ``mixed``."""

    step_s: float = 0.0
    phase: str = "decode"
    num_rows: int = 0
    num_step_tokens: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_slots_in_use: int = 0
    num_slots_warm: int = 0
    num_slots_free: int = 0


class StepBegins(msgspec.Struct, frozen=True, tag=True):
    """What is computed from now on, sent when that changes: who ran, should this be the last word.

    ``request_ids`` are the rows of the step, in order; on a GPU, of all steps that are queued.
    """

    request_ids: tuple[int, ...]
    num_tokens: int
    phase: str


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Requests that are admitted together."""

    requests: tuple[Request, ...]


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Requests whose reader is gone. Unknown ids are ignored: they may just have ended."""

    request_ids: tuple[int, ...]


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Finish nothing, leave now, with exit code 0."""


class Loading(msgspec.Struct, frozen=True, tag=True):
    """Still starting; proof of life."""

    what: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Loaded; requests are served from here on."""

    info: ModelInfo


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It cannot start, and trying again would not help. One problem a line."""

    problems: tuple[str, ...]


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """Sent by the idle loop itself, so it proves progress and not merely a live thread."""

    stats: EngineStats


class Outputs(msgspec.Struct, frozen=True, tag=True):
    """Everything one step brought."""

    outputs: tuple[TokenOutput, ...]
    stats: EngineStats


ToEngine = EngineConfig | Submit | Abort | Shutdown
FromEngine = Loading | Ready | Refused | Heartbeat | StepBegins | Outputs
