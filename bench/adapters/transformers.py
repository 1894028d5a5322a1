"""transformers: one static batch of ``generate``, as most people call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from bench.adapters import Setting, Unavailable
from bench.arrays import unusual
from bench.timing import Stopwatch, Timing
from weights.checkpoint import Checkpoint, open_checkpoint


class Peer:
    """GPT2LMHeadModel."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def prepare(self, num_streams: int, total_len: int) -> None:
        """Nothing to do: its cache grows by itself."""

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> Timing:
        """Continue prompts. The clock is a stopping criterion, asked once a step."""
        ids = torch.tensor(prompts)
        watch = Stopwatch()
        go_on = torch.zeros(len(prompts), dtype=torch.bool)

        def look(_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
            watch.lap()
            return go_on

        out = self._network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=transformers.StoppingCriteriaList([look]),
        )
        return watch.timing(out[:, ids.shape[1] :].tolist())


def network_of(checkpoint: Checkpoint) -> Any:
    """The same weights in transformers' own network, float32."""
    config = checkpoint.config
    network = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.num_positions,
            n_embd=config.num_channels,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_inner=config.num_inner,
            layer_norm_epsilon=config.norm_epsilon,
            tie_word_embeddings=config.is_head_tied,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    state = {}
    for name, tensor in checkpoint.tensors.items():
        is_matrix = ".c_" in name and name.endswith("weight")
        prefix = "" if name.startswith("lm_head") else "transformer."
        state[prefix + name] = (tensor.T if is_matrix else tensor).float().contiguous()
    state.setdefault("lm_head.weight", state["transformer.wte.weight"])
    network.load_state_dict(state)
    return network


def load(setting: Setting) -> Peer:
    """Load the checkpoint."""
    torch.set_num_threads(setting.num_threads)
    transformers.utils.logging.set_verbosity_error()
    checkpoint = open_checkpoint(setting.folder)
    if found := unusual(checkpoint.config):
        raise Unavailable(f"no GPT-2 with {' and '.join(found)}")
    network = network_of(checkpoint)
    return Peer(network.to(getattr(torch, setting.precision)).eval())
