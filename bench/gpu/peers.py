"""transformers on the same card in the same run: four ways to call it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from bench.gpu.plan import HasTime, Part, Plan, released
from engine.device.network import DTYPES

WARM_TOKENS = 4
Way = Callable[[Plan, Any, Tensor], float]


def measure(plan: Plan, ours: dict[int, float], has_time: HasTime) -> Part:
    """Tokens a second while decoding, and how many times that ``ours`` is, by batch."""
    transformers.utils.logging.set_verbosity_error()
    rows: list[tuple[object, ...]] = []
    values: dict[str, Any] = {}
    for batch in plan.peer_batches:
        for way in (eager, compiled_loop, continuous, compiled_generate):
            name = f"{way.__name__.replace('_', ' ')} B={batch}"
            with released(plan):
                rate, problem = attempt(plan, way, batch) if has_time() else (None, "no time left")
            times = ours[batch] / rate if rate and batch in ours else None
            values[name] = {"rate": rate, "ours_is_times": times, "problem": problem}
            rows.append((name, rate, times, problem))
    return Part(("transformers", "tokens/s", "ours is times", ""), rows, values)


def attempt(plan: Plan, way: Way, batch: int) -> tuple[float | None, str]:
    """A rate, or why there is none: a peer that fails stops nobody."""
    try:
        ids = torch.randint(plan.main_config.vocab_size, (batch, plan.prompt_len))
        return way(plan, network(plan), ids.to(plan.device)), ""
    except Exception as error:  # noqa: BLE001  # whatever foreign code raises is its result
        return None, f"{type(error).__name__}: {error}".splitlines()[0][:70]


def network(plan: Plan) -> Any:
    """GPT2LMHeadModel of the main size, its weights random."""
    config = plan.main_config
    shape = transformers.GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.num_positions,
        n_embd=config.num_channels,
        n_layer=config.num_layers,
        n_head=config.num_heads,
        n_inner=config.num_inner,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.device(plan.device):
        made = transformers.GPT2LMHeadModel(shape)
    return made.to(DTYPES[plan.dtype]).eval()


def rate_of(plan: Plan, batch: int, generate: Callable[[int], object]) -> float:
    """From the times of a short and a long answer: what lies between is decoding alone."""
    generate(WARM_TOKENS)
    times = []
    for num_new in (WARM_TOKENS, plan.num_new):
        plan.synchronize()
        started_s = time.perf_counter()
        generate(num_new)
        plan.synchronize()
        times.append(time.perf_counter() - started_s)
    return batch * (plan.num_new - WARM_TOKENS) / max(times[1] - times[0], 1e-9)


def eager(plan: Plan, model: Any, ids: Tensor) -> float:
    """``generate`` as most people call it."""
    return rate_of(plan, len(ids), partial(_generate, model, ids))


def compiled_generate(plan: Plan, model: Any, ids: Tensor) -> float:
    """``generate`` with a static cache, which compiles its decode step."""
    if plan.is_dry:
        raise RuntimeError("nothing is compiled in a dry run")
    model.generation_config.cache_implementation = "static"
    _generate(model, ids, plan.num_new)
    return rate_of(plan, len(ids), partial(_generate, model, ids))


def _generate(model: Any, ids: Tensor, num_new: int) -> None:
    mask = torch.ones_like(ids)
    lengths = {"min_new_tokens": num_new, "max_new_tokens": num_new}
    with torch.inference_mode():
        model.generate(ids, attention_mask=mask, do_sample=False, **lengths)


def continuous(plan: Plan, model: Any, ids: Tensor) -> float:
    """Continuous batching; prefill is part of both times."""
    prompts = ids.tolist()

    def generate(num_new: int) -> None:
        settings = transformers.GenerationConfig(
            max_new_tokens=num_new, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        with torch.inference_mode():
            model.generate_batch(inputs=prompts, generation_config=settings, progress_bar=False)

    if plan.is_dry:
        raise RuntimeError("needs a GPU")
    return rate_of(plan, len(ids), generate)


def compiled_loop(plan: Plan, model: Any, ids: Tensor) -> float:
    """A loop over a compiled forward pass with a static cache, in graphs, as gpt-fast does."""
    total = plan.prompt_len + plan.num_new + 1
    cache = transformers.StaticCache(config=model.config, max_cache_len=total)

    def forward(token: Tensor, place: Tensor) -> Tensor:
        out = model(
            token, past_key_values=cache, cache_position=place, position_ids=place.unsqueeze(0)
        )
        best: Tensor = out.logits[:, -1:].argmax(-1)
        return best

    step = forward if plan.is_dry else torch.compile(forward, mode="reduce-overhead")

    def generate(num_new: int) -> None:
        with torch.inference_mode():
            token = forward(ids, torch.arange(plan.prompt_len, device=plan.device))
            for i in range(num_new):
                place = torch.tensor([plan.prompt_len + i], device=plan.device)
                token = step(token, place).clone()
            token.tolist()
            cache.reset()

    return rate_of(plan, len(ids), generate)
