"""What is checked before a request is admitted: its own values, then the room in the queue."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.errors import InvalidParams, PromptTooLong, QueueFull
from engine.messages import EngineConfig, EngineStats, ModelInfo
from engine.request import Request, SamplingParams, TaskParams
from model.tasks import NUM_SPECIAL

MAX_LOGPROBS = 20
MAX_SEED = 2**53
# Beyond these float32 logits over- or underflow and a row would have no likeliest token.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-6, 100.0
MAX_REPETITION = 100.0
MAX_PENALTY = 2.0
MAX_BIAS = 100.0
MAX_BIASES = 1_024
MAX_STOP_IDS = 128
MAX_GRAMMAR_LEN = 65_536
THROUGHPUT_MEMORY_S = 30.0
MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0
SHOWN_LEN = 40

_DECODER = msgspec.msgpack.Decoder(SamplingParams)


@dataclass(frozen=True)
class Rule:
    """A field of SamplingParams, the request's name for it, and what it must be."""

    field: str
    param: str
    text: str
    holds: Callable[[Any], bool]


RULES = (
    Rule("max_tokens", "max_tokens", "must be at least 0", lambda v: v >= 0),
    Rule("min_tokens", "min_tokens", "must be at least 0", lambda v: v >= 0),
    Rule(
        "temperature",
        "temperature",
        f"must be 0 or from {MIN_TEMPERATURE} to {MAX_TEMPERATURE:g}",
        lambda v: v == 0 or MIN_TEMPERATURE <= v <= MAX_TEMPERATURE,
    ),
    Rule("top_k", "top_k", "must be at least 0", lambda v: v >= 0),
    Rule("top_p", "top_p", "must be greater than 0 and at most 1", lambda v: 0 < v <= 1),
    Rule("min_p", "min_p", "must be from 0 to 1", lambda v: 0 <= v <= 1),
    Rule("seed", "seed", "must be from 0 to 2^53 - 1", lambda v: 0 <= v < MAX_SEED),
    Rule("choice_index", "n", "must be from 0 to 2^31 - 1", lambda v: 0 <= v < 2**31),
    Rule(
        "repetition_penalty",
        "repetition_penalty",
        f"must be from {1 / MAX_REPETITION:g} to {MAX_REPETITION:g}",
        lambda v: 1 / MAX_REPETITION <= v <= MAX_REPETITION,
    ),
    Rule(
        "presence_penalty",
        "presence_penalty",
        f"must be from -{MAX_PENALTY:g} to {MAX_PENALTY:g}",
        lambda v: abs(v) <= MAX_PENALTY,
    ),
    Rule(
        "frequency_penalty",
        "frequency_penalty",
        f"must be from -{MAX_PENALTY:g} to {MAX_PENALTY:g}",
        lambda v: abs(v) <= MAX_PENALTY,
    ),
    Rule(
        "num_logprobs",
        "logprobs",
        f"must be from 0 to {MAX_LOGPROBS}",
        lambda v: v is None or 0 <= v <= MAX_LOGPROBS,
    ),
    Rule(
        "num_prompt_logprobs",
        "prompt_logprobs",
        f"must be from 0 to {MAX_LOGPROBS}",
        lambda v: v is None or 0 <= v <= MAX_LOGPROBS,
    ),
    Rule("scored_from", "scored_from", "must be at least 1", lambda v: v >= 1),
    Rule(
        "logit_bias",
        "logit_bias",
        f"must have values from -{MAX_BIAS:g} to {MAX_BIAS:g}",
        lambda pairs: all(abs(bias) <= MAX_BIAS for _, bias in pairs),
    ),
    Rule(
        "logit_bias",
        "logit_bias",
        f"must have at most {MAX_BIASES} tokens",
        lambda pairs: len(pairs) <= MAX_BIASES,
    ),
    Rule(
        "stop_token_ids",
        "stop_token_ids",
        f"must have at most {MAX_STOP_IDS} ids",
        lambda ids: len(ids) <= MAX_STOP_IDS,
    ),
    Rule(
        "grammar",
        "grammar",
        f"must have at most {MAX_GRAMMAR_LEN} characters",
        lambda text: len(text) <= MAX_GRAMMAR_LEN,
    ),
)


def shown(value: object) -> str:
    """A value for an error message: short, whatever it was."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= SHOWN_LEN else text[:SHOWN_LEN] + "..."


def check_request(
    info: ModelInfo,
    request_id: int,
    prompt_ids: Sequence[int],
    params: SamplingParams,
    priority: int = 0,
) -> Request:
    """The request as the engine may have it: every type and value right, ``max_tokens`` clipped.

    The last token needs no position, so prompt + max_tokens <= context + 1.
    Raises InvalidParams or PromptTooLong, with the name that the HTTP API has for the field.
    """
    ids = tuple(prompt_ids)
    if not ids:
        raise InvalidParams("prompt must have at least 1 token; it has none", "prompt")
    typed = _with_right_types(params)
    most = max_prompt_len(info, typed.max_tokens)
    if len(ids) > most:
        raise PromptTooLong(f"prompt must have at most {most} tokens; it has {len(ids)}", "prompt")
    for rule in RULES:
        value = getattr(typed, rule.field)
        if not rule.holds(value):
            raise InvalidParams(f"{rule.param} {rule.text}; it was {shown(value)}", rule.param)
    if typed.grammar and info.device != "cpu":
        told = "grammar must be empty where the engine runs on a GPU"
        raise InvalidParams(f"{told}; it was {shown(typed.grammar)}", "grammar")
    _check_ids("prompt", ids, info.vocab_size)
    _check_ids("stop_token_ids", typed.stop_token_ids, info.vocab_size)
    _check_ids("logit_bias", [token_id for token_id, _ in typed.logit_bias], info.vocab_size)
    max_tokens = min(typed.max_tokens, info.context_len + 1 - len(ids))
    clipped = msgspec.structs.replace(typed, max_tokens=max_tokens)
    return Request(request_id, ids, clipped, priority=priority)


def check_task_request(
    info: ModelInfo, request_id: int, ids: Sequence[int], params: TaskParams, priority: int = 0
) -> Request:
    """A request for a task's head, as the engine may have it.

    Raises InvalidParams or PromptTooLong, with the name that the HTTP API has for the field.
    """
    task = next((task for task in info.tasks if task.name == params.name), None)
    if task is None:
        known = ", ".join(task.name for task in info.tasks) or "none"
        rule = f"model must be a task that is served ({known})"
        raise InvalidParams(f"{rule}; it was {shown(params.name)}", "model")
    if not 1 <= len(ids) <= task.max_len:
        rule = f"input must have 1 to {task.max_len} tokens"
        raise PromptTooLong(f"{rule}; it has {len(ids)}", "input")
    special = range(task.first_special_id, task.first_special_id + NUM_SPECIAL)
    plain = [token_id for token_id in ids if token_id not in special]
    _check_ids("input", plain, info.vocab_size)
    is_private = task.config["pooling"] == "last"  # without a start token of its own
    checked = msgspec.structs.replace(params, is_prefix_private=is_private)
    asked = SamplingParams(max_tokens=0)
    return Request(request_id, tuple(ids), asked, priority=priority, task=checked)


def max_prompt_len(info: ModelInfo, max_tokens: int) -> int:
    """Tokens that a prompt may have: one more than the context where nothing is drawn after it."""
    return info.context_len + (max_tokens == 0)


def _with_right_types(params: SamplingParams) -> SamplingParams:
    """Through the codec and back: what the engine process would reject is rejected here."""
    try:
        return _DECODER.decode(msgspec.msgpack.encode(params))
    except msgspec.ValidationError as error:
        # "Expected `int`, got `float` - at `$.max_tokens`"
        text, _, place = str(error).partition(" - at `$.")
        param = place.rstrip("`").partition("[")[0]
        raise InvalidParams(f"{param}: {text}", param or None) from error
    except (TypeError, OverflowError, ValueError) as error:
        raise InvalidParams(f"a sampling parameter has an impossible value: {error}") from error


def _check_ids(param: str, token_ids: Sequence[int], vocab_size: int) -> None:
    """Whole collections at a time: this runs over a thousand ids on the event loop."""
    if not token_ids:
        return
    rule = f"{param} must have token ids from 0 to {vocab_size - 1}"
    if set(map(type, token_ids)) != {int}:
        wrong = next(token_id for token_id in token_ids if type(token_id) is not int)
        raise InvalidParams(f"{rule}; one was {shown(wrong)}", param)
    for extreme in (min(token_ids), max(token_ids)):
        if not 0 <= extreme < vocab_size:
            raise InvalidParams(f"{rule}; one was {shown(extreme)}", param)


def num_tokens_at_most(request: Request) -> int:
    """The room that a request may come to need."""
    return len(request.prompt_ids) + request.params.max_tokens


class Throughput:
    """Requests and tokens a second of busy time, the last half minute counting most."""

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._num_finished = 0.0
        self._num_tokens = 0.0

    def observe(self, stats: EngineStats, num_finished: int) -> None:
        """Take in one step."""
        keep = math.exp(-stats.step_s / THROUGHPUT_MEMORY_S)
        self._busy_s = self._busy_s * keep + stats.step_s
        self._num_finished = self._num_finished * keep + num_finished
        self._num_tokens = self._num_tokens * keep + stats.num_step_tokens

    def retry_after_s(self, num_requests: int, num_tokens: int) -> float:
        """When that much has probably gone through, from one second to a minute.

        Tokens are an upper bound, as sequences may end early; requests may be unlike those before.
        The longer of the two estimates counts.
        """
        wait_s = max(
            num_requests * self._busy_s / self._num_finished if self._num_finished else 0.0,
            num_tokens * self._busy_s / self._num_tokens if self._num_tokens else 0.0,
        )
        return min(max(wait_s, MIN_RETRY_S), MAX_RETRY_S)


def check_queue(
    config: EngineConfig,
    num_slots: int,
    num_open: int,
    open_requests: Iterable[Request],
    throughput: Throughput,
) -> None:
    """Whether one more could join at all, which needs none of it; see :func:`check_room`.

    The ``num_open`` open requests are looked at only where it could not. Raises QueueFull.
    """
    if num_open >= num_slots + config.max_queued_requests:
        rule = f"at most {config.max_queued_requests} requests may wait"
        in_line = list(open_requests)[num_slots:]
        raise QueueFull(f"{rule}, and as many do", _retry_after_s(in_line, throughput))


def check_room(
    config: EngineConfig,
    num_slots: int,
    open_requests: Iterable[Request],
    new_requests: Sequence[Request],
    throughput: Throughput,
) -> None:
    """Whether all of ``new_requests`` may join ``open_requests`` (oldest first); all or none.

    Those beyond the slots wait, and what waits is bounded in requests and in tokens. When
    nothing waits yet, tokens do not matter: otherwise a large request could never come in.
    Raises QueueFull, which says when those that wait now will have gone through, or InvalidParams
    for what would not fit into an empty queue either.
    """
    most = num_slots + config.max_queued_requests
    if len(new_requests) > most:
        rule = f"prompt must ask for at most {most} sequences at once, the slots and the queue"
        raise InvalidParams(f"{rule}; it asks for {len(new_requests)}", "prompt")
    open_list = list(open_requests)
    waiting = (open_list + list(new_requests))[num_slots:]
    num_tokens = sum(map(num_tokens_at_most, waiting))
    excess = len(waiting) - config.max_queued_requests
    excess_tokens = num_tokens - config.max_queued_tokens
    if excess > 0:
        rule = f"at most {config.max_queued_requests} requests may wait"
        found = f"there would be {len(waiting)}"
    elif excess_tokens > 0 and len(open_list) > num_slots:
        rule = f"at most {config.max_queued_tokens} tokens may wait"
        found = f"there would be {num_tokens}"
    else:
        return
    raise QueueFull(f"{rule}; {found}", _retry_after_s(open_list[num_slots:], throughput))


def _retry_after_s(in_line: Collection[Request], throughput: Throughput) -> float:
    return throughput.retry_after_s(len(in_line), sum(map(num_tokens_at_most, in_line)))
