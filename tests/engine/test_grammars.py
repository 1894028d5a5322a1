"""Constrained decoding by the whole engine, with the checkpoint that comes with the server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import msgspec
import pytest

from engine.core import EngineCore
from engine.grammars import CheckpointGrammars
from engine.local import Generation, LocalEngine
from engine.messages import EngineConfig
from engine.request import FinishReason, Request, SamplingParams
from model.grammar import GrammarError, choice_grammar, json_grammar, regex_grammar
from model.tokenizer import Tokenizer, VocabularyMissing
from tests.support.random_schemas import random_schema

BUNDLED = Path(__file__).resolve().parents[2] / "weights" / "bundled"
NUM_SCHEMAS = int(os.environ.get("NUM_SCHEMAS", "60"))  # `make test-schemas` asks for 500
TOKENIZER = Tokenizer.from_directory(BUNDLED)
PROMPT = tuple(TOKENIZER.encode("Once upon a time there was a"))


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return LocalEngine(EngineConfig(str(BUNDLED), dtype="int8", num_slots=8, num_threads=1))


def text_of(engine: LocalEngine, found: Generation) -> str:
    """Without the end-of-text token, as the server shows it."""
    ids = [one for one in found.token_ids if one not in engine.info.eos_token_ids]
    return TOKENIZER.decode_bytes(ids).decode()


def test_what_ends_by_stop_is_valid_for_random_schemas(engine: LocalEngine) -> None:
    schemas = [random_schema(seed) for seed in range(NUM_SCHEMAS)]
    items = [
        (PROMPT, SamplingParams(max_tokens=200, seed=seed, grammar=json_grammar(schema)))
        for seed, schema in enumerate(schemas)
    ]
    num_ended = 0
    for schema, found in zip(schemas, engine.generate(items), strict=True):
        if found.finish_reason is FinishReason.STOP:
            jsonschema.validate(json.loads(text_of(engine, found)), schema)
            num_ended += 1
    # The others write a fraction whose digits never end, which a schema lets them.
    assert num_ended >= 0.8 * NUM_SCHEMAS


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.5}, {}])
def test_every_way_to_draw_keeps_to_the_grammar(
    engine: LocalEngine, options: dict[str, float]
) -> None:
    choices = ["yes", "no", "perhaps so"]
    params = SamplingParams(seed=3, grammar=choice_grammar(choices), **options)  # type: ignore[arg-type]
    (found,) = engine.generate([(PROMPT, params)])
    assert text_of(engine, found) in choices
    assert engine.info.eos_token_ids[0] not in found.token_ids  # it need not be drawn
    assert found.finish_reason is FinishReason.STOP


def test_seeds_choose_and_bias_does(engine: LocalEngine) -> None:
    grammar = choice_grammar(["a", "b"])
    drawn = engine.generate([(PROMPT, SamplingParams(seed=s, grammar=grammar)) for s in range(30)])
    assert {text_of(engine, one) for one in drawn} == {"a", "b"}
    (b,) = TOKENIZER.encode("b")
    params = SamplingParams(temperature=0, grammar=grammar, logit_bias=((b, 100.0),))
    (biased,) = engine.generate([(PROMPT, params)])
    assert text_of(engine, biased) == "b"


def test_too_few_tokens_end_with_length(engine: LocalEngine) -> None:
    params = SamplingParams(max_tokens=3, seed=1, grammar=json_grammar({"type": "object"}))
    (found,) = engine.generate([(PROMPT, params)])
    assert found.finish_reason is FinishReason.LENGTH
    assert len(found.token_ids) == 3


def test_a_grammar_that_outgrows_its_limits_ends_with_length(engine: LocalEngine) -> None:
    branches = [{"type": "object", "properties": {f"k{i}": {"type": "string"}}} for i in range(300)]
    params = SamplingParams(grammar=json_grammar({"anyOf": branches}))
    (found,) = engine.generate([(PROMPT, params)])
    assert found.finish_reason is FinishReason.LENGTH
    assert len(found.token_ids) == 1  # what is not followed any more is not gone on with


def test_min_tokens_hold_the_end_back_while_anything_else_is_possible(engine: LocalEngine) -> None:
    wanted = SamplingParams(
        max_tokens=40,
        grammar=regex_grammar("[a-z]{0,400}"),
        logit_bias=((engine.info.eos_token_ids[0], 100.0),),
    )
    longer = msgspec.structs.replace(wanted, min_tokens=7)
    lens = [len(one.token_ids) for one in engine.generate([(PROMPT, wanted), (PROMPT, longer)])]
    assert lens == [1, 8]
    only = SamplingParams(min_tokens=10, grammar=choice_grammar(["x"]))
    (ended,) = engine.generate([(PROMPT, only)])
    assert text_of(engine, ended) == "x"


def crowd() -> list[tuple[tuple[int, ...], SamplingParams]]:
    """Free and constrained ones, of different lengths, with log probabilities."""
    grammars = (
        "",
        json_grammar(random_schema(5)),
        regex_grammar("([a-z]{1,9} ){9}"),
        json_grammar({"type": "object"}),
    )
    return [
        (
            PROMPT[: 2 + i % 5],
            SamplingParams(max_tokens=24, seed=i, num_logprobs=2, grammar=grammar),
        )
        for i, grammar in enumerate(grammars * 3)
    ]


def test_alone_and_in_a_batch_are_the_same_bits(engine: LocalEngine) -> None:
    items = crowd()
    together = engine.generate(items)
    for item, one in zip(items[:6], together, strict=False):
        assert engine.generate([item]) == [one]


def test_a_resumed_request_goes_on_as_if_nothing_had_been(engine: LocalEngine) -> None:
    """After an engine's death the matcher is made again from what was emitted."""
    (prompt_ids, params), *_ = crowd()[1:]
    (whole,) = engine.generate([(prompt_ids, params)])
    assert len(whole.token_ids) > 6
    core = engine.core
    assert isinstance(core, EngineCore)
    request = Request(10_000, prompt_ids, params, emitted_ids=whole.token_ids[:5])
    core.submit([request])
    rest: list[int] = []
    while core.has_work:
        rest += [one for output in core.step()[0] for one in output.token_ids]
    assert tuple(rest) == whole.token_ids[5:]


def test_without_a_vocabulary_the_first_grammar_says_so(tmp_path: Path) -> None:
    grammars = CheckpointGrammars(tmp_path, 10, ())
    with pytest.raises(VocabularyMissing):
        grammars.matcher(regex_grammar("a"))


def test_a_scheduler_without_a_compiler_refuses(engine: LocalEngine) -> None:
    core = engine.core
    assert isinstance(core, EngineCore)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.scheduler, "matcher_of", None)
        with pytest.raises(GrammarError, match="no vocabulary"):
            core.submit([Request(20_000, PROMPT, SamplingParams(grammar="x"))])
    core.abort([20_000])
