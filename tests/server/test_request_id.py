from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from server.metrics import Metrics
from server.request_id import RequestScope


@pytest.mark.parametrize("given", ["abc-123", "a" * 128, "7f/3:x.y_z=@+"])
@pytest.mark.parametrize("path", ["/health", "/nope", "/v1/completions"])
async def test_a_valid_id_is_echoed_on_every_answer(
    client: httpx.AsyncClient, path: str, given: str
) -> None:
    answer = await client.get(path, headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "with space", 'quote"', "tab\tbed", "é"])
async def test_an_invalid_one_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/health", headers={b"X-Request-Id": given.encode()})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] not in {"", given}


async def test_every_request_without_one_gets_its_own(client: httpx.AsyncClient) -> None:
    ids = {(await client.get("/health")).headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


async def test_a_request_cut_by_a_stopping_server_is_told_so() -> None:
    """uvicorn would print the cancellation's traceback, and answer 500."""
    sent: list[Message] = []

    async def wait(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.get_running_loop().create_future()

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": []}
    request = RequestScope(wait, Metrics("tiny", "1", (1.0,)))(scope, receive, send)
    task = asyncio.ensure_future(request)
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert sent[0]["status"] == 503
    assert b"the server is stopping" in sent[1]["body"]
