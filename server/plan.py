"""From a checked body to what the engine is asked: token ids, and parameters for each choice."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import msgspec

from engine.admission import MAX_BIASES, max_prompt_len
from engine.messages import ModelInfo
from engine.request import SamplingParams
from server.errors import ApiError, short
from server.prompts import Prompt, PromptReader, check_id, num_kept_of
from server.schemas import MAX_SEED, CompletionRequest
from server.text import StopPattern, compile_stops
from server.vocabulary import Vocabulary, no_vocabulary

MAX_ALL_BIASES = 16 * MAX_BIASES


@dataclass(frozen=True, slots=True)
class ChoicePlan:
    """One choice of the answer, and the engine's request for it."""

    index: int
    prompt_index: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Plan:
    """All choices of one request, prompt by prompt, and how they are to be written."""

    request: CompletionRequest
    prompts: tuple[Prompt, ...]
    choices: tuple[ChoicePlan, ...]
    stops: tuple[StopPattern, ...]
    has_token_ids: bool
    ending_ids: frozenset[int]
    """Tokens that end a choice and are no part of its text."""


async def make_plan(
    request: CompletionRequest,
    info: ModelInfo,
    vocabulary: Vocabulary,
    max_choices: int,
    grammar: str = "",
) -> Plan:
    """Check what needs the model, and encode; texts are to follow ``grammar``.

    Raises ApiError and PromptTooLong.
    """
    _check_pairs(request)
    _check_num_choices(request, max_choices)
    _check_num_biases(request)
    _check_vocabulary(request, info, vocabulary)
    reader = _reader(request, info, vocabulary)
    prompts = [
        await reader.read(request.prompt[index], f"prompt {index}", "prompt")
        for index in range(len(request.prompt))
    ]
    seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
    choices = tuple(
        ChoicePlan(
            index=prompt_index * request.n + choice_index,
            prompt_index=prompt_index,
            prompt_ids=prompt.ids,
            params=msgspec.structs.replace(
                _params(request, info, seed, choice_index, len(prompt.ids)), grammar=grammar
            ),
        )
        for prompt_index, prompt in enumerate(prompts)
        for choice_index in range(request.n)
    )
    return Plan(
        request=request,
        prompts=tuple(prompts),
        choices=choices,
        stops=compile_stops(request.stop),
        has_token_ids=request.return_token_ids or not vocabulary.has_text,
        ending_ids=frozenset((*info.eos_token_ids, *request.stop_token_ids)),
    )


def _invalid(param: str, message: str) -> ApiError:
    return ApiError(400, f"{param} {message}", param=param, code="invalid_value")


def _reader(request: CompletionRequest, info: ModelInfo, vocabulary: Vocabulary) -> PromptReader:
    max_len = max_prompt_len(info, request.max_tokens)
    num_kept = num_kept_of(request.truncate_prompt_tokens, max_len)
    return PromptReader(info, vocabulary, max_len, num_kept)


def _check_pairs(request: CompletionRequest) -> None:
    """Fields that only make sense together."""
    if request.max_tokens == 0 and not request.echo:
        raise _invalid("max_tokens", "must be at least 1, or 0 with echo, got 0")
    if request.best_of is not None and request.best_of != request.n:
        rule = f"must equal n, which is {short(request.n)}, or be left out"
        raise _invalid("best_of", f"{rule}, got {short(request.best_of)}")
    if request.min_tokens > request.max_tokens:
        rule = f"must be at most max_tokens, which is {short(request.max_tokens)}"
        raise _invalid("min_tokens", f"{rule}, got {short(request.min_tokens)}")
    if request.stream_options is not None and not request.stream:
        raise _invalid("stream_options", "needs stream to be true")


def _check_num_choices(request: CompletionRequest, max_choices: int) -> None:
    num_prompts = len(request.prompt)
    if request.n > max_choices or num_prompts * request.n > max_choices:
        rule = f"asks for too many choices: prompts times n must be at most {max_choices}"
        found = f"got {num_prompts} prompts and n {short(request.n)}"
        raise _invalid("n" if num_prompts == 1 else "prompt", f"{rule}, {found}")


def _check_num_biases(request: CompletionRequest) -> None:
    """Each choice is a request to the engine with all biases in it, and they are sent at once."""
    num_choices = len(request.prompt) * request.n
    most = MAX_ALL_BIASES // num_choices
    if len(request.logit_bias) > most:
        rule = f"must have at most {most} tokens where there are {num_choices} choices"
        raise _invalid("logit_bias", f"{rule}, got {len(request.logit_bias)}")


def _check_vocabulary(request: CompletionRequest, info: ModelInfo, vocabulary: Vocabulary) -> None:
    """Ids that the model does not have, and texts where there are only ids."""
    if request.stop and not vocabulary.has_text:
        raise no_vocabulary("stop")
    for index, token_id in enumerate(request.stop_token_ids):
        check_id(f"stop_token_ids[{index}]", token_id, "stop_token_ids", info)
    for token_id, _ in request.logit_bias:
        check_id("the name", token_id, "logit_bias", info)


def _params(
    request: CompletionRequest, info: ModelInfo, seed: int, choice_index: int, prompt_len: int
) -> SamplingParams:
    """``max_tokens`` is clipped to what fits: the last token drawn needs no position."""
    max_tokens = min(request.max_tokens, info.context_len + 1 - prompt_len)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=request.temperature,
        top_k=min(max(request.top_k, 0), info.vocab_size),
        top_p=request.top_p,
        min_p=request.min_p,
        seed=seed,
        choice_index=choice_index,
        stop_token_ids=tuple(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        min_tokens=min(request.min_tokens, max_tokens),
        logit_bias=request.logit_bias,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        num_logprobs=request.logprobs,
        num_prompt_logprobs=_num_prompt_logprobs(request),
    )


def _num_prompt_logprobs(request: CompletionRequest) -> int | None:
    """The most that an echo with ``logprobs``, or ``prompt_logprobs``, needs of each token."""
    echoed = request.logprobs if request.echo else None
    wanted = [count for count in (echoed, request.prompt_logprobs) if count is not None]
    return max(wanted, default=None)
