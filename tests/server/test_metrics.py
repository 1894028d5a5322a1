from __future__ import annotations

import shutil
import subprocess

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.messages import EngineStats
from server.metrics import Metrics
from server.settings import LATENCY_BUCKETS
from tests.server.conftest import client_of, make_app
from tests.server.fake_engine import INFO, FakeEngine

NAMES = (
    "requests_total completions_total prompt_tokens_total generation_tokens_total "
    "prefix_cached_tokens_total admission_rejections_total client_disconnects_total "
    "engine_restarts_total http_errors_total requests_running requests_waiting slots "
    "slots_in_use slots_warm engine_up build_info model_info time_to_first_token_seconds "
    "inter_token_latency_seconds request_duration_seconds request_queue_seconds "
    "request_prefill_seconds request_decode_seconds step_duration_seconds step_batch_rows "
    "request_prompt_tokens request_generation_tokens overrun_tokens_total "
    "refusal_duration_seconds slots_free "
)


def make_metrics() -> Metrics:
    return Metrics("tiny", "1", LATENCY_BUCKETS)


async def scrape(client: httpx.AsyncClient) -> dict[str, float]:
    """Sample lines without their labels, summed."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families((await client.get("/metrics")).text):
        for sample in family.samples:
            assert sample.labels["model_name"] == "tiny"
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


async def test_a_request_is_counted_in_every_place() -> None:
    engine = FakeEngine()
    async with client_of(make_app(engine)) as client:
        body = {"prompt": ["abc", "d"], "max_tokens": 5, "n": 2}
        await client.post("/v1/completions", json=body)
        await client.post("/v1/completions", json={"prompt": 5})
        engine.num_restarts = 2
        await scrape(client)
        seen = await scrape(client)
    assert seen["gpt2_prompt_tokens_total"] == 4
    assert seen["gpt2_generation_tokens_total"] == 20
    assert seen["gpt2_completions_total"] == 4
    assert seen["gpt2_time_to_first_token_seconds_count"] == 4
    assert seen["gpt2_inter_token_latency_seconds_count"] == 16
    assert seen["gpt2_request_duration_seconds_count"] == 1
    assert seen["gpt2_request_queue_seconds_sum"] == pytest.approx(0.004)
    assert seen["gpt2_request_generation_tokens_sum"] == 20
    assert seen["gpt2_prefix_cached_tokens_total"] == 3
    assert seen["gpt2_http_errors_total"] >= 1
    assert seen["gpt2_refusal_duration_seconds_count"] == seen["gpt2_http_errors_total"]
    assert 0 < seen["gpt2_refusal_duration_seconds_sum"] < 10
    assert seen["gpt2_engine_restarts_total"] == 2
    assert seen["gpt2_engine_up"] == 1
    assert seen["gpt2_slots"] == INFO.num_slots
    assert seen["gpt2_step_duration_seconds_count"] == 20


async def test_gauges_follow_the_heartbeat_of_an_idle_engine(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    """Set at each step only, they would show the last step's rows for as long as it is quiet."""
    await client.post("/v1/completions", json={"prompt": "a"})
    engine.stats = EngineStats(
        num_running=3, num_waiting=2, num_slots_free=2, num_slots_in_use=3, num_slots_warm=1
    )
    seen = await scrape(client)
    engine.stats = EngineStats(num_slots_warm=4, num_slots_free=2)
    quiet = await scrape(client)
    names = ("requests_running", "requests_waiting", "slots_in_use", "slots_warm", "slots_free")
    assert [seen[f"gpt2_{name}"] for name in names] == [3, 2, 3, 1, 2]
    assert [quiet[f"gpt2_{name}"] for name in names] == [0, 0, 0, 4, 2]


async def test_routes_are_templates_and_never_what_a_client_made_up(
    client: httpx.AsyncClient,
) -> None:
    await client.get("/made/up")
    await client.get("/v1/models/made-up")
    text = (await client.get("/metrics")).text
    assert "made" not in text
    assert 'route="unmatched",status="404"' in text
    assert 'route="/v1/models/{model_id:path}",status="404"' in text


def test_every_name_of_the_contract_is_there_and_resolves_a_small_model() -> None:
    metrics = make_metrics()
    metrics.on_output(0.00015, 1, is_first=True)
    metrics.on_output(0.00015, 1, is_first=False)
    metrics.on_stats(EngineStats(step_s=0.0002, num_rows=3))
    text = metrics.render(FakeEngine()).decode()
    assert [name for name in NAMES.split() if f"# TYPE gpt2_{name} " not in text] == []
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds"):
        assert f'gpt2_{name}_bucket{{le="0.0001",model_name="tiny"}} 0.0' in text
        assert f'gpt2_{name}_bucket{{le="0.0002",model_name="tiny"}} 1.0' in text


def test_two_apps_have_metrics_of_their_own() -> None:
    first, second = make_metrics(), make_metrics()
    first.on_disconnect()
    line = b'gpt2_client_disconnects_total{model_name="tiny"} 0.0'
    assert line in second.render(FakeEngine())


async def test_promtool_has_nothing_to_say(client: httpx.AsyncClient) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's prometheus package) is not installed")
    await client.post("/v1/completions", json={"prompt": "a", "n": 3})
    await client.post("/v1/completions", json={})
    text = (await client.get("/metrics")).content
    told = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")
