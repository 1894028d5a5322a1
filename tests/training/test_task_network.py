"""A decoder with a task in it: names, embeddings, LoRA, padding, and the objective."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.attention import CausalAttention
from model.config import GPTConfig
from model.decoder import GPT, parameter_shapes
from model.lora import LoraConfig
from model.tasks import TaskConfig
from tests.support.lora import adapted
from training.finetune_config import FinetuneConfig
from training.finetune_learner import FinetuneLearner, task_objective, text_targets
from training.task_batches import TaskBatch, TaskExample
from training.task_network import TaskNetwork, last_hidden
from training.task_scores import answers
from weights.task_description import TaskDescription

SMALL = GPTConfig(
    vocab_size=30, num_positions=16, num_channels=32, num_layers=2, num_heads=2, num_inner=64
)
PLAIN = TaskConfig("classification", max_len=16, labels=("a", "b"))
PAIR = TaskConfig("similarity", max_len=16, labels=("a", "b"), join="sum")
LORA = LoraConfig(2, 6.0, ("attn.c_attn", "mlp.c_proj", "wte"))


def network(task: TaskConfig = PLAIN, lora: LoraConfig | None = None) -> TaskNetwork:
    return TaskNetwork(SMALL, task, lora, dropout=0.0, seed=1)


def batch(*examples: tuple[tuple[int, ...], ...]) -> TaskBatch:
    return TaskBatch.of([TaskExample(sequences, 1.0) for sequences in examples])


@pytest.mark.parametrize("lora", [None, LORA])
def test_parameters_have_the_names_and_shapes_they_are_stored_by(lora: LoraConfig | None) -> None:
    made = network(lora=lora)
    train: Any = "full" if lora is None else "lora"
    wanted = TaskDescription("t", PLAIN, train, "", SMALL, lora).shapes()
    assert {name: tuple(p.shape) for name, p in made.task_tensors().items()} == wanted
    trunk = {name: tuple(p.shape) for name, p in made.trunk_tensors().items()}
    assert trunk == parameter_shapes(SMALL)
    both = [*made.task_tensors().values(), *made.trunk_tensors().values()]
    assert {id(p) for p in both} == {id(p) for p in made.parameters()}


def test_ids_behind_the_vocabulary_have_embeddings_of_their_own() -> None:
    made = network()
    found = made.gpt.wte(torch.tensor([29, 30, 32, 0]))
    words, special = made.gpt.wte.weight, made.task_tensors()["special.weight"]
    assert torch.equal(found, torch.stack([words[29], special[0], special[2], words[0]]))


def test_word_dropout_hides_words_in_training_alone() -> None:
    """The new ids are never hidden: start, delimiter and extract say where a text is."""
    made = TaskNetwork(SMALL, PLAIN, LORA, dropout=0.0, seed=1, word_dropout=0.5)
    ids = torch.tensor([5, 30, 6, 31] * 100)
    torch.manual_seed(3)
    read = made.train().gpt.wte(ids).detach().view(100, 4, -1)
    whole = made.eval().gpt.wte(ids).detach().view(100, 4, -1)
    hidden = (read == 0).all(dim=-1)  # (100, 4, C) -> (100, 4)
    assert not hidden[:, 1::2].any()
    assert 70 < hidden[:, ::2].sum() < 130
    assert torch.equal(read[~hidden], whole[~hidden])


def test_hidden_states_are_those_of_the_decoder_and_padding_changes_nothing() -> None:
    made = network()
    trunk = {name: p.detach() for name, p in made.trunk_tensors().items()}
    gpt = GPT(SMALL)
    gpt.load_state_dict(trunk | {"lm_head.weight": trunk["wte.weight"]})
    ids = torch.tensor([3, 7, 11])
    expected = gpt(ids, torch.arange(3), CausalAttention(SMALL, 3))
    mixed = batch(((3, 7, 11),), ((1, 2, 3, 4, 5, 6),))
    last = last_hidden(made.hidden(mixed, torch.float32), mixed)
    torch.testing.assert_close(last[0, 0], expected[-1])


def test_lora_begins_as_the_decoder_and_is_then_the_adapted_matrix() -> None:
    one = batch(((3, 7, 11),))
    plain, made = network(), network(lora=LORA)
    before = made.hidden(one, torch.float32)
    torch.testing.assert_close(before, plain.hidden(one, torch.float32))
    thin = {n: p for n, p in made.task_tensors().items() if "lora" in n}
    with torch.no_grad():
        for parameter in thin.values():
            parameter.normal_(std=0.3)
        for name, parameter in plain.trunk_tensors().items():
            stem = name.removesuffix("weight")
            if f"{stem}lora_a" in thin:
                a, b = thin[f"{stem}lora_a"], thin[f"{stem}lora_b"]
                parameter.copy_(adapted(parameter, a, b, LORA.scale))
    after = made.hidden(one, torch.float32)
    assert not torch.allclose(after, before, atol=1e-2)
    torch.testing.assert_close(after, plain.hidden(one, torch.float32), rtol=1e-4, atol=1e-5)


def test_answers_are_in_the_order_of_the_examples_whatever_their_lengths() -> None:
    made = network(PAIR)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    ids = [(1, 2, 3, 4, 5), (7,), (9, 4), (3,) * 9]
    examples = [TaskExample((x, x[::-1]), 0.0) for x in ids]
    together = answers(made, examples, torch.float32)
    alone = [answers(made, [example], torch.float32)[0] for example in examples]
    assert [found.score for found in together] == pytest.approx([found.score for found in alone])
    assert len({found.score for found in together}) > 1


@pytest.mark.parametrize("join", ["sum", "concatenate"])
def test_answers_are_what_was_trained(join: Any) -> None:
    """Each sequence's own share, added up, is the joined form of the objective."""
    made = network(replace(PAIR, join=join))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    example = TaskExample(((1, 2, 3, 4), (9, 8)), 0.0)
    one = TaskBatch.of([example])
    trained = made.head().joined(last_hidden(made.hidden(one, torch.float32), one)).softmax(1)
    (answer,) = answers(made, [example], torch.float32)
    assert [*answer.probabilities.values()] == pytest.approx(trained[0].tolist(), rel=1e-4)


def test_l1_predicts_the_tokens_of_the_texts_alone() -> None:
    """Start 30, delimiter 31 and extract 32 are read, and never predicted."""
    mixed = batch(((30, 5, 31, 6, 32), (30, 6, 31, 5, 32)), ((30, 7, 8, 32), (30, 8, 32)))
    rows, targets = text_targets(mixed, 30)
    assert rows.tolist() == [0, 2, 5, 7, 10, 11, 15]
    assert targets.tolist() == [5, 6, 6, 5, 7, 8, 8]


def test_objectives() -> None:
    outputs = torch.tensor([[1.0, 3.0], [2.0, 0.5]])
    given = TaskBatch(torch.zeros(2, 1, 1), torch.ones(2, 1), torch.tensor([1.0, 0.0]))
    expected = F.cross_entropy(outputs, torch.tensor([1, 0]))
    assert torch.equal(task_objective(PLAIN, outputs, given), expected)
    regression = TaskConfig("classification", max_len=9, is_regression=True, score_range=(0.0, 5.0))
    assert task_objective(regression, outputs[:, :1], given).item() == pytest.approx(2.0)


def learner(**changes: Any) -> FinetuneLearner:
    values: dict[str, Any] = {
        "form": "classification",
        "dtype": "float32",
        "dropout": 0.0,
        "dev_share": 0.5,
        "data": Path("d"),
        "out": Path("o"),
        "start_from": Path("s"),
    }
    return FinetuneLearner(FinetuneConfig(**values | changes), PLAIN, SMALL)


ONE = batch(((30, 5, 6, 7, 32),), ((30, 8, 9, 32),))


def moved(made: FinetuneLearner) -> set[str]:
    """The parameters that a step changes."""
    before = {n: p.detach().clone() for n, p in made.network.named_parameters()}
    made.step(ONE, 0.1)
    after = made.network.named_parameters()
    return {name for name, p in after if not torch.equal(p, before[name])}


def test_what_is_trained() -> None:
    own = {"head_weight", "head_bias", "gpt.wte.special"}
    assert moved(learner(train="head")) == own
    # A is moved only once B is no longer zero.
    targets = {f"gpt.h.{i}.attn.c_attn.lora_b" for i in range(2)}
    found = moved(learner(train="lora", lora_targets=("attn.c_attn",)))
    assert own | targets <= found <= own | targets | {t[:-1] + "a" for t in targets}
    whole = learner(train="full")
    assert moved(whole) == {name for name, _ in whole.network.named_parameters()}


def test_the_loss_is_l2_and_lambda_l1() -> None:
    task_loss, lm_loss = learner(lm_coef=0.5).step(ONE, 0.0)
    assert lm_loss == pytest.approx(3.4, abs=0.2)  # log 30: nothing known
    assert learner(lm_coef=0.0).step(ONE, 0.0)[0] == pytest.approx(task_loss)
    assert learner(lm_coef=0.0).step(ONE, 0.0)[1] is None
    grads = []
    for coefficient in (0.0, 0.5, 1.0):
        made = learner(lm_coef=coefficient, grad_clip=1e9)
        found: dict[str, torch.Tensor] = {}

        def keep(*_: object, made: FinetuneLearner = made, found: Any = found) -> None:
            found.update({n: p.grad.clone() for n, p in made.trained.items() if p.grad is not None})

        made._optimizer.step = keep  # type: ignore[method-assign,assignment]
        made.step(ONE, 0.0)
        grads.append(found["gpt.h.0.mlp.c_fc.weight"])
    torch.testing.assert_close(grads[1], (grads[0] + grads[2]) / 2, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(grads[0], grads[2])


def test_only_the_lowest_layers_are_transferred() -> None:
    shapes = parameter_shapes(SMALL)
    trunk = {name: torch.full(shape, 7.0) for name, shape in shapes.items()}
    for lowest, absent in ((0, ("h.0.", "h.1.", "ln_f.")), (1, ("h.1.", "ln_f.")), (None, ())):
        made = learner()
        made.load_trunk(trunk, lowest)
        drawn = {n for n, p in made.network.trunk_tensors().items() if not bool((p == 7.0).all())}
        assert (
            drawn == {name for name in shapes if name.startswith(absent)} if absent else not drawn
        )
