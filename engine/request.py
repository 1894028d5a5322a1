"""What a request is, from the moment it is admitted until its last token. Imports no torch."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class FinishReason(StrEnum):
    """Why a sequence ended. ``STOP``: an end-of-text or stop token, a complete grammar, or
    (server) a stop string."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    TIMEOUT = "timeout"


class SamplingParams(msgspec.Struct, frozen=True):
    """How the next token is chosen; the order in which these apply is model/sampler.py's.

    ``temperature`` 0 is greedy; ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 are off.
    A draw is keyed by (``seed``, ``choice_index``, index of the token among the new ones).
    ``stop_token_ids`` end the sequence, as the model's own end-of-text ids do unless
    ``ignore_eos``; neither may be drawn before ``min_tokens`` tokens are. The token that ends
    a sequence is part of the output. ``num_logprobs``: None for none, 0 for the drawn
    token's alone, k for the k likeliest as well. ``num_prompt_logprobs`` asks the same for the
    prompt's tokens from index ``scored_from`` on, at least 1: nothing predicts the first.
    ``max_tokens`` 0 draws nothing. The text follows ``grammar`` (model/grammar.py), if given, and
    ends where nothing can follow.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice_index: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    scored_from: int = 1
    grammar: str = ""


class TaskParams(msgspec.Struct, frozen=True):
    """A task to classify by; ``part`` counts the sequences of one input (model.tasks.sequences).

    Where ``is_prefix_private`` keys and values are of use to no other request: the ids do not show
    that they are not the served decoder's.
    """

    name: str
    part: int = 0
    is_prefix_private: bool = False


class Request(msgspec.Struct, frozen=True):
    """One sequence to generate.

    ``emitted_ids`` are tokens that an earlier engine had drawn already: they are computed like
    the prompt but counted as output, so that a resumed request goes on where it stopped.
    A lower ``priority`` is served first; equals are served in the order of ``request_id``.
    With a ``task`` nothing is generated: what that task's head says of the last token's hidden
    state is the answer. Its start, delimiter and extract have ids beyond the vocabulary
    (messages.TaskInfo).
    """

    request_id: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    emitted_ids: tuple[int, ...] = ()
    priority: int = 0
    task: TaskParams | None = None


# Without gc: they cannot refer to themselves, and where readers fall behind there are millions,
# through which each collection would go while every stream waits.


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """Natural log probabilities of the raw distribution at one token.

    ``top`` holds (token id, log probability), likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class RequestTimes(msgspec.Struct, frozen=True, gc=False):
    """Seconds a request spent, sent with its last output."""

    queue_s: float
    prefill_s: float
    decode_s: float


class TokenOutput(msgspec.Struct, frozen=True, gc=False):
    """What one step (or several, joined) brought one request.

    ``prompt_logprobs`` go on where those of the output before ended. ``finish_reason`` is set on
    the last output, and only there. ``num_cached_tokens`` is the number of prompt tokens that
    were copied from a known prefix instead of computed. ``logits`` are a task head's.
    """

    request_id: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0
    times: RequestTimes | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    logits: tuple[float, ...] = ()
