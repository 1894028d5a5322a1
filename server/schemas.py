"""What each route takes, field by field, with every bound that needs no model to check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from engine.admission import MAX_BIASES
from server.errors import short
from server.response_format import ResponseFormat
from server.validation import RequestSchema

MAX_ID = 2**31 - 1
MAX_INPUTS = 4_096
"""Prompts, or other inputs, that are looked at; ``max_choices`` says how many are taken."""
MAX_STOPS = 16
MAX_STOP_LEN = 1_024
MAX_SEED = 2**53 - 1
MAX_REGEX_LEN = 4_096
MAX_CHOICES = 1_000
MAX_CHOICES_LEN = 4_096
"""Characters of all texts to choose from: each may take nine in the grammar made of them."""
MAX_PRIORITY = 100
MIN_TEMPERATURE = 1e-6
MAX_TEMPERATURE = 100

Prompts = tuple[str, ...] | tuple[tuple[int, ...], ...]
"""One entry a prompt: all of them texts, or all of them token ids."""

NOT_BUILT: Mapping[str, tuple[object, ...]] = {
    "suffix": (None,),
    "typical_p": (None, 1, 1.0),
    "allowed_token_ids": (None,),
    "context_overflow": (None, "reject"),
}
"""Fields of /v1/completions that are known and refused, with the values that ask for nothing."""


def _check_temperature(value: float) -> float:
    """Logits are divided by it in float32, where less would be 0 or make them infinite."""
    if 0 < value < MIN_TEMPERATURE:
        raise ValueError(f"must be 0, or from {MIN_TEMPERATURE} to {MAX_TEMPERATURE}")
    return value


def _check_truncation(value: int | None) -> int | None:
    if value == 0:
        raise ValueError("must be at least 1, or -1 for what the context has room for")
    return value


def _check_text(text: str) -> str:
    """Refuse what has no UTF-8 form, and NUL, which C programs downstream cut at."""
    if "\0" in text:
        raise ValueError(f"must not contain NUL (U+0000), there is one at {text.index(chr(0))}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"must not contain a lone surrogate, one is at {error.start}") from None
    return text


def _check_choices(choices: list[str]) -> list[str]:
    length = sum(map(len, choices))
    if not all(choices):
        raise ValueError("must hold no empty string")
    if length > MAX_CHOICES_LEN:
        raise ValueError(f"must hold at most {MAX_CHOICES_LEN} characters, there are {length}")
    return choices


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_ID


def _check_ids(value: list[Any], where: str) -> tuple[int, ...]:
    for index, token_id in enumerate(value):
        if not _is_id(token_id):
            rule = f"must hold token ids from 0 to {MAX_ID}"
            raise ValueError(f"{rule}; {where}[{index}] is {short(token_id)}")
    return tuple(value)


def _check_num_inputs(value: list[Any]) -> None:
    if len(value) > MAX_INPUTS:
        raise ValueError(f"must hold at most {MAX_INPUTS} items, there are {len(value)}")


def _parse_prompt(value: object) -> Prompts:
    """The four forms as two: texts or lists of ids."""
    if isinstance(value, str):
        return (_check_text(value),)
    if not isinstance(value, list):
        raise ValueError("must be a string, a list of strings, token ids, or lists of token ids")
    if not value or type(value[0]) is int:
        return (_check_ids(value, "prompt"),)
    _check_num_inputs(value)
    if all(isinstance(item, str) for item in value):
        return tuple(_check_text(item) for item in value)
    if all(isinstance(item, list) for item in value):
        return tuple(_check_ids(item, f"prompt[{i}]") for i, item in enumerate(value))
    raise ValueError("must hold strings only, token ids only, or lists of token ids only")


def _parse_text_or_ids(value: object) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return _check_text(value)
    if not isinstance(value, list):
        raise ValueError("must be a string or a list of token ids")
    return _check_ids(value, "it")


def _parse_stop(value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError("must be a string or a list of strings")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"must hold at most {MAX_STOPS} strings, there are {len(stops)}")
    if not all(stops):
        raise ValueError("must hold no empty string")
    if max(map(len, stops), default=0) > MAX_STOP_LEN:
        raise ValueError(f"must hold strings of at most {MAX_STOP_LEN} characters")
    return tuple(dict.fromkeys(_check_text(stop) for stop in stops))


def _parse_bias(value: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, dict):
        raise ValueError("must be an object of token id to bias")
    if len(value) > MAX_BIASES:
        raise ValueError(f"must have at most {MAX_BIASES} tokens, there are {len(value)}")
    return tuple(_parse_bias_item(key, bias) for key, bias in value.items())


def _parse_bias_item(key: str, bias: Any) -> tuple[int, float]:
    is_id = key.isascii() and key.isdigit() and len(key) < 10 and str(int(key)) == key
    if not is_id:
        raise ValueError(f"must have token ids as its names, one is {key[:20]!r}")
    is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
    if not is_number or not -100 <= bias <= 100:
        raise ValueError(f"must have biases from -100 to 100, that of {key} is {short(bias)}")
    return int(key), float(bias)


_TEXT_SCHEMA = {"type": "string"}
_IDS_SCHEMA = {"type": "array", "items": {"type": "integer", "minimum": 0}}

Prompt = Annotated[
    Prompts,
    PlainValidator(_parse_prompt),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT_SCHEMA,
                {"type": "array", "items": _TEXT_SCHEMA},
                _IDS_SCHEMA,
                {"type": "array", "items": _IDS_SCHEMA},
            ]
        }
    ),
]
OneText = Annotated[
    str | tuple[int, ...],
    PlainValidator(_parse_text_or_ids),
    WithJsonSchema({"anyOf": [_TEXT_SCHEMA, _IDS_SCHEMA]}),
]
Stops = Annotated[
    tuple[str, ...],
    PlainValidator(_parse_stop),
    WithJsonSchema(
        {"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _TEXT_SCHEMA, "maxItems": MAX_STOPS}]}
    ),
]
Bias = Annotated[
    tuple[tuple[int, float], ...],
    PlainValidator(_parse_bias),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": MAX_BIASES,
        }
    ),
]
Temperature = Annotated[float, Field(ge=0, le=MAX_TEMPERATURE), AfterValidator(_check_temperature)]
Text = Annotated[str, AfterValidator(_check_text)]
Regex = Annotated[Text, Field(min_length=1, max_length=MAX_REGEX_LEN)]
Choices = Annotated[
    list[Text], Field(min_length=1, max_length=MAX_CHOICES), AfterValidator(_check_choices)
]
TokenId = Annotated[int, Field(ge=0, le=MAX_ID)]
Timeout = Annotated[float | None, Field(gt=0)]
"""Seconds for waiting and computing; the server has a bound for it (``max_timeout_s``)."""
Truncation = Annotated[int | None, Field(ge=-1), AfterValidator(_check_truncation)]


class StreamOptions(RequestSchema):
    """``include_usage`` adds a last event that carries the usage and no choice."""

    include_usage: bool = False


class CompletionRequest(RequestSchema):
    """``POST /v1/completions``. A null means the default, here as with OpenAI."""

    model: Text | None = None
    prompt: Prompt
    max_tokens: int = Field(default=16, ge=0)
    echo: bool = False
    temperature: Temperature = 1.0
    top_k: int = Field(default=0, ge=-1)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    n: int = Field(default=1, ge=1)
    best_of: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    stop: Stops = ()
    stop_token_ids: list[TokenId] = Field(default=[], max_length=128)
    include_stop_str_in_output: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    logit_bias: Bias = ()
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=10)
    min_tokens: int = Field(default=0, ge=0)
    ignore_eos: bool = False
    return_token_ids: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)
    prompt_logprobs: int | None = Field(default=None, ge=0, le=20)
    truncate_prompt_tokens: Truncation = None
    priority: int = Field(default=0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    timeout: Timeout = None
    response_format: ResponseFormat | None = None
    regex: Regex | None = None
    choice: Choices | None = None
    user: Text | None = None


class ScoreInput(RequestSchema):
    """A continuation, and what stands before it; an empty context is the end-of-text token."""

    context: OneText = ""
    continuation: OneText


def _as_list(value: object) -> object:
    if isinstance(value, list):
        _check_num_inputs(value)
    return [value] if isinstance(value, dict) else value


_INPUT_SCHEMA = ScoreInput.model_json_schema()

ScoreInputs = Annotated[
    list[ScoreInput],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [_INPUT_SCHEMA, {"type": "array", "items": _INPUT_SCHEMA}]}),
]


class ScoreRequest(RequestSchema):
    """``POST /v1/score``: one input, or a list of them."""

    model: Text | None = None
    input: ScoreInputs
    truncate_prompt_tokens: Truncation = None
    timeout: Timeout = None
    user: Text | None = None


class ClassifyInput(RequestSchema):
    """One input: the parts that the form of the task has, and no others."""

    text: OneText | None = None
    premise: OneText | None = None
    hypothesis: OneText | None = None
    text_a: OneText | None = None
    text_b: OneText | None = None
    context: OneText | None = None
    choices: list[OneText] | None = None


def _as_inputs(value: object) -> object:
    """A text alone is an input with that text."""
    values = value if isinstance(value, list) else [value]
    _check_num_inputs(values)
    return [{"text": one} if isinstance(one, str) else one for one in values]


_CLASSIFY_SCHEMA = {"anyOf": [_TEXT_SCHEMA, ClassifyInput.model_json_schema()]}

ClassifyInputs = Annotated[
    list[ClassifyInput],
    BeforeValidator(_as_inputs),
    WithJsonSchema({"anyOf": [_CLASSIFY_SCHEMA, {"type": "array", "items": _CLASSIFY_SCHEMA}]}),
]


class ClassifyRequest(RequestSchema):
    """``POST /v1/classify``: one input, or a list of them."""

    model: Text | None = None
    input: ClassifyInputs
    timeout: Timeout = None
    user: Text | None = None


class TokenizeRequest(RequestSchema):
    """``POST /tokenize``."""

    model: Text | None = None
    prompt: Text


class DetokenizeRequest(RequestSchema):
    """``POST /detokenize``."""

    model: Text | None = None
    tokens: list[TokenId]
