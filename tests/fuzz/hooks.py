"""What schemathesis is told of this server: loaded by it, see tests/fuzz/test_api.py.

Most good requests are made to meet what no schema can say: few options, because many contradict
each other, and ids that the model has. Streams are read event by event.
"""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema_rs
import schemathesis

NUM_IDS = 8_000
"""A few less than the bundled vocabulary has."""

DONE = "data: [DONE]"


def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Ask what the served model can answer, where the request is meant to be good."""
    is_good = case.meta is not None and case.meta.generation.mode.is_positive
    if not is_good or not isinstance(case.body, dict):
        return
    draw = random.Random(repr(case.body))
    if draw.random() < 0.2:
        return
    for name in sorted({*case.body} - {"prompt", "tokens", "input"}):
        if draw.random() < 0.7:
            del case.body[name]
    if case.path == "/v1/completions" and draw.random() < 0.4:
        case.body["stream"] = True
    for name in ("prompt", "tokens", "input", "stop_token_ids"):
        if name in case.body:
            case.body[name] = with_known_ids(case.body[name])


def with_known_ids(value: Any) -> Any:
    """``value`` with every whole number in it below NUM_IDS."""
    if isinstance(value, dict):
        return {name: with_known_ids(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_known_ids(item) for item in value]
    return value % NUM_IDS if type(value) is int else value


def promised_server_errors(context: Any, response: Any, case: Any) -> None:
    """No input makes a 5xx but 503 and 504."""
    assert response.status_code in {503, 504} or response.status_code < 500


def stream_conformance(context: Any, response: Any, case: Any) -> None:
    """A stream is events, each of them an answer as documented or an error, and then its end."""
    content_type = "".join(response.headers.get("content-type", []))
    if not content_type.startswith("text/event-stream"):
        return
    responses = case.operation.definition.raw["responses"]
    validators = [
        jsonschema_rs.validator_for(responses[status]["content"]["application/json"]["schema"])
        for status in ("200", "400")
    ]
    *events, done, end = response.content.decode().split("\n\n")
    assert (done, end) == (DONE, ""), f"a stream ended with {done!r:.200}"
    for event in events:
        if not event.startswith(":"):
            value = json.loads(event.removeprefix("data: "))
            assert any(one.is_valid(value) for one in validators), f"{event:.200} is no answer"


schemathesis.hook(before_call)
for check in (promised_server_errors, stream_conformance):
    schemathesis.check(check)
