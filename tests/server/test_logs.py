"""What lines look like, and what none of them ever holds."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from starlette.types import Receive, Scope, Send

from engine.client import EngineClient
from engine.messages import EngineConfig
from engine.open_requests import OpenRequest
from engine.request import Request, SamplingParams
from engine.stream import RequestStream
from server import logs
from server.metrics import Metrics
from server.request_id import RequestScope
from tests.server.conftest import client_of, make_app, serving
from tests.server.fake_engine import FakeEngine

KEY = "sk-user-0123456789abcdef"
TOKEN = "hf_0123456789abcdefABCDEF"
TEXT = "the walrus confides"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging belongs to the process, so what a test sets up is taken back."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    for name in logs.OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


def written(log_format: str, level: str = "info") -> io.StringIO:
    output = io.StringIO()
    logs.configure(log_format, level, output)
    return output


def test_a_line_of_json_has_its_fields_by_name() -> None:
    output = written("json")
    logging.getLogger("engine.client").warning("it %s", "died", extra={"restarts": 2})
    (line,) = output.getvalue().splitlines()
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "level": "WARNING",
        "logger": "engine.client",
        "message": "it died",
        "restarts": 2,
    }


def test_a_traceback_is_one_line_of_json_and_several_of_text() -> None:
    for log_format, count in (("json", 1), ("text", 5)):
        output = written(log_format)
        try:
            raise ValueError("odd \ud800")
        except ValueError:
            logging.getLogger("server.x").exception("broken")
        lines = output.getvalue().splitlines()
        assert len(lines) == count
        assert "ValueError: odd" in lines[-1]


def test_a_line_of_text_is_for_people() -> None:
    output = written("text")
    extra = {"status": 200, "finish_reasons": {"stop": 2, "length": 1}, "engine_ids": [3, 4]}
    logging.getLogger("server.access").info("request", extra=extra)
    stamp, _, rest = output.getvalue().partition(" ")
    assert stamp.endswith("Z")
    assert rest == (
        "INFO    server.access: request status=200 finish_reasons=stop:2,length:1 engine_ids=3,4\n"
    )


def test_only_our_own_lines_follow_the_level() -> None:
    """An HTTP library says at level info which address it asks, with all that is in it."""
    output = written("json", "debug")
    logging.getLogger("server.x").debug("ours")
    logging.getLogger("httpx").info("theirs")
    logging.getLogger("httpx").warning("a warning")
    assert [json.loads(line)["message"] for line in output.getvalue().splitlines()] == [
        "ours",
        "a warning",
    ]


async def test_every_line_of_a_request_has_its_id() -> None:
    output = written("json")

    async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
        logging.getLogger("engine.client").warning("deep inside")
        raise ZeroDivisionError

    app = RequestScope(fail, Metrics("tiny", "1", (1.0,)))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/", headers={"X-Request-Id": "mine"})
    logging.getLogger("server.x").info("afterwards")
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert answer.status_code == 500
    assert [line["message"] for line in lines] == [
        *("deep inside", "request mine failed", "request", "afterwards")
    ]
    assert [line.get("request_id") for line in lines] == ["mine", "mine", "mine", None]
    assert (lines[2]["status"], lines[2]["error_code"]) == (500, "internal_error")


async def test_a_line_of_the_engines_supervision_has_the_id_of_the_request_it_is_about() -> None:
    output = written("json")
    client = EngineClient(EngineConfig(checkpoint="x"))
    token = logs.REQUEST_ID.set("mine")
    entry = OpenRequest(
        Request(7, (1, 2), SamplingParams()), RequestStream(7, lambda _request_id: None)
    )
    logs.REQUEST_ID.reset(token)
    client._condemn(entry)
    (line,) = (json.loads(line) for line in output.getvalue().splitlines())
    assert (line["request_id"], line["logger"]) == ("mine", "engine.client")


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_no_key_no_token_and_no_text_is_ever_logged(
    log_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    output = written(log_format, "debug")
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger("httpx").setLevel(logging.CRITICAL)  # the client of this test
    logging.getLogger("httpcore").setLevel(logging.CRITICAL)
    engine = FakeEngine(script=lambda _ids, _params: list(b" " + TEXT.encode()))
    app = make_app(engine, api_key=(KEY,))

    async def broken(*_args: Any) -> None:
        raise RuntimeError("a fault of ours")

    async with client_of(app) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        bodies: list[Any] = [
            {"prompt": TEXT},
            {"prompt": TEXT, "stream": True, "echo": True},
            {"prompt": TEXT, "stop": [TEXT], "temperature": -1},
            {"prompt": TEXT * 100},
            {TEXT: 1},
            {"model": TEXT, "prompt": TEXT},
        ]
        for body in bodies:
            await client.post(f"/v1/completions?q={TEXT}", json=body)
        await client.post("/v1/completions", content=TEXT)
        await client.get(f"/{TEXT}", headers={"Authorization": f"Bearer {KEY}wrong"})
        await client.post(
            "/tokenize", json={"prompt": TEXT}, headers={"X-Request-Id": f"{TEXT} {KEY}"}
        )
        monkeypatch.setattr("server.completions.make_plan", broken)
        assert (await client.post("/v1/completions", json={"prompt": TEXT})).status_code == 500
    told = output.getvalue()
    assert told.count("request") > len(bodies)
    assert "a fault of ours" in told
    for secret in (KEY, TOKEN, TEXT, TEXT.replace(" ", "%20"), "walrus", "Bearer"):
        assert secret not in told


async def test_over_a_real_connection_nothing_more_is_said() -> None:
    output = written("json", "info")
    app = make_app(FakeEngine(), api_key=(KEY,))
    async with serving(app) as address:
        client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)
        await client.completions.create(model="tiny", prompt=TEXT, max_tokens=3)
        await client.close()
    (line,) = (json.loads(line) for line in output.getvalue().splitlines())
    assert (line["route"], line["status"], line["completion_tokens"]) == ("/v1/completions", 200, 3)
