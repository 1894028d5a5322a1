from __future__ import annotations

import httpx
import pytest


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
