"""Statistics become Prometheus here, and only here: one registry an app, names from api.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from engine.messages import EngineStats, ModelInfo
from engine.request import RequestTimes
from server.seams import Engine

ROW_BUCKETS = tuple(float(2**i) for i in range(11))
TOKEN_BUCKETS = tuple(float(2**i) for i in range(12))
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

REJECTIONS = (
    *("queue_full", "engine_down", "engine_failed", "engine_unavailable", "request_failed"),
    *("context_length_exceeded", "invalid_value", "invalid_request", "request_kills_engine"),
    *("body_too_large", "header_too_large", "request_timeout", "send_timeout"),
    *("too_many_connections", "invalid_http", "method_not_allowed"),
)
"""Why a request may be turned away before it is computed. Each one is there from the start, since
a rate needs the zero before the first."""

Instrument = TypeVar("Instrument", Counter, Gauge, Histogram)


class Metrics:
    """Every number that ``/metrics`` shows. Times are in seconds."""

    def __init__(self, model_name: str, version: str, latency_buckets: Sequence[float]) -> None:
        self._registry = CollectorRegistry()
        self._model_name = model_name
        self._num_restarts_seen = 0
        self._make_request_metrics(latency_buckets)
        self._make_token_metrics()
        self._make_engine_metrics(latency_buckets)
        self._labelled(Gauge, "build_info", "Version of the server.", "version").labels(
            model_name, version
        ).set(1)

    def _labelled(
        self, kind: type[Instrument], name: str, text: str, *labels: str, **options: Any
    ) -> Instrument:
        """A metric with labels of its own after ``model_name``."""
        names = ("model_name", *labels)
        return kind(f"gpt2_{name}", text, names, registry=self._registry, **options)

    def _plain(self, kind: type[Instrument], name: str, text: str, **options: Any) -> Instrument:
        """A metric with no label but ``model_name``."""
        return self._labelled(kind, name, text, **options).labels(self._model_name)

    def _make_request_metrics(self, buckets: Sequence[float]) -> None:
        seconds = {"buckets": buckets}
        self._requests = self._labelled(
            Counter, "requests_total", "HTTP requests answered.", "route", "status"
        )
        self._http_errors = self._labelled(
            Counter, "http_errors_total", "Answers with a status of 400 or more.", "status"
        )
        self._refusal = self._labelled(
            Histogram,
            "refusal_duration_seconds",
            "From the arrival of a request to the end of an answer with a status of 400 or more.",
            "status",
            **seconds,
        )
        self._rejections = self._labelled(
            Counter, "admission_rejections_total", "Requests not admitted.", "reason"
        )
        for reason in REJECTIONS:
            self._rejections.labels(self._model_name, reason)
        self._disconnects = self._plain(
            Counter, "client_disconnects_total", "Clients that left before their answer ended."
        )
        self._first_token = self._plain(
            Histogram,
            "time_to_first_token_seconds",
            "From the arrival of a request to the first token of a choice.",
            **seconds,
        )
        self._inter_token = self._plain(
            Histogram, "inter_token_latency_seconds", "Between tokens of a choice.", **seconds
        )
        self._duration = self._plain(
            Histogram,
            "request_duration_seconds",
            "From the arrival of a completion request to the end of its answer.",
            **seconds,
        )
        self._classify_duration = self._plain(
            Histogram,
            "classify_duration_seconds",
            "From the arrival of a classification request to the end of its answer.",
            **seconds,
        )
        self._queue = self._plain(
            Histogram, "request_queue_seconds", "Wait of a sequence for a slot.", **seconds
        )
        self._prefill = self._plain(
            Histogram, "request_prefill_seconds", "From a slot to the first token.", **seconds
        )
        self._decode = self._plain(
            Histogram, "request_decode_seconds", "From the first token to the last.", **seconds
        )

    def _make_token_metrics(self) -> None:
        self._completions = self._labelled(
            Counter, "completions_total", "Choices that ended.", "finish_reason"
        )
        self._classifications = self._labelled(
            Counter, "classifications_total", "Inputs that a task's head answered.", "head"
        )
        self._prompt_tokens = self._plain(
            Counter, "prompt_tokens_total", "Tokens of admitted prompts."
        )
        self._generation_tokens = self._plain(
            Counter, "generation_tokens_total", "Tokens generated, up to a stop string's last one."
        )
        self._overrun_tokens = self._plain(
            Counter, "overrun_tokens_total", "Tokens drawn past a stop string, in no usage."
        )
        self._cached_tokens = self._plain(
            Counter, "prefix_cached_tokens_total", "Prompt tokens copied from a known prefix."
        )
        self._scored_tokens = self._plain(
            Counter, "scored_tokens_total", "Prompt tokens whose log probability was given."
        )
        self._prompt_sizes = self._plain(
            Histogram, "request_prompt_tokens", "Tokens of a prompt.", buckets=TOKEN_BUCKETS
        )
        self._generation_sizes = self._plain(
            Histogram, "request_generation_tokens", "Tokens of a choice.", buckets=TOKEN_BUCKETS
        )

    def _make_engine_metrics(self, buckets: Sequence[float]) -> None:
        self._running = self._plain(Gauge, "requests_running", "Sequences that have a slot.")
        self._waiting = self._plain(Gauge, "requests_waiting", "Sequences that wait for a slot.")
        self._slots = self._plain(Gauge, "slots", "Sequences that can run at once.")
        self._slots_in_use = self._plain(Gauge, "slots_in_use", "Slots of running sequences.")
        self._slots_warm = self._plain(
            Gauge, "slots_warm", "Slots of nobody that keep a prefix for reuse."
        )
        self._slots_free = self._plain(Gauge, "slots_free", "Slots with nothing in them.")
        self._engine_up = self._plain(Gauge, "engine_up", "1 while the engine makes progress.")
        self._restarts = self._plain(
            Counter, "engine_restarts_total", "Engine processes started after the first."
        )
        self._model = self._labelled(
            Gauge,
            "model_info",
            "The served model.",
            *("device", "dtype", "kv_dtype", "kernels", "weights_hash", "fingerprint"),
        )
        self._step = self._labelled(
            Histogram, "step_duration_seconds", "One engine step.", "phase", buckets=buckets
        )
        self._step_rows = self._plain(
            Histogram, "step_batch_rows", "Sequences in one engine step.", buckets=ROW_BUCKETS
        )

    # -- HTTP ------------------------------------------------------------------------------

    def on_response(self, route: str, status: int, duration_s: float) -> None:
        """An answer ended. ``route`` is a template, never a path that a client made up."""
        self._requests.labels(self._model_name, route, str(status)).inc()
        if status >= 400:
            self._http_errors.labels(self._model_name, str(status)).inc()
            self._refusal.labels(self._model_name, str(status)).observe(duration_s)

    def on_rejection(self, reason: str) -> None:
        """A completion request was refused."""
        self._rejections.labels(self._model_name, reason).inc()

    def on_disconnect(self) -> None:
        """A client left."""
        self._disconnects.inc()

    # -- completions -----------------------------------------------------------------------

    def on_admitted(self, prompt_lens: Sequence[int]) -> None:
        """A completion request was admitted, with prompts of these lengths."""
        self._prompt_tokens.inc(sum(prompt_lens))
        for prompt_len in prompt_lens:
            self._prompt_sizes.observe(prompt_len)

    def on_output(self, since_last_s: float, num_tokens: int, *, is_first: bool) -> None:
        """A choice grew; the time is since its last growth, or since the request came."""
        if is_first:
            self._first_token.observe(since_last_s)
            return
        for _ in range(num_tokens):
            self._inter_token.observe(since_last_s / num_tokens)

    def on_tokens(self, num_kept: int, num_overrun: int) -> None:
        """Tokens of a choice; those past its stop string are counted by themselves."""
        self._generation_tokens.inc(num_kept)
        self._overrun_tokens.inc(num_overrun)

    def on_scored(self, num_tokens: int) -> None:
        """Log probabilities of tokens of a prompt were given."""
        self._scored_tokens.inc(num_tokens)

    def on_times(self, times: RequestTimes) -> None:
        """A sequence ended in the engine."""
        self._queue.observe(times.queue_s)
        self._prefill.observe(times.prefill_s)
        self._decode.observe(times.decode_s)

    def on_finish(self, finish_reason: str, num_tokens: int) -> None:
        """A choice ended."""
        self._completions.labels(self._model_name, finish_reason).inc()
        self._generation_sizes.observe(num_tokens)

    def on_completion(self, duration_s: float, num_cached_tokens: int) -> None:
        """All choices of a request ended, or its client left."""
        self._duration.observe(duration_s)
        self._cached_tokens.inc(num_cached_tokens)

    def on_classified(self, head: str, num_inputs: int, duration_s: float) -> None:
        """All inputs of a request are answered, or its client left."""
        self._classifications.labels(self._model_name, head).inc(num_inputs)
        self._classify_duration.observe(duration_s)

    # -- engine ----------------------------------------------------------------------------

    def on_stats(self, stats: EngineStats) -> None:
        """The engine made a step."""
        if stats.num_rows:
            self._step.labels(self._model_name, stats.phase).observe(stats.step_s)
            self._step_rows.observe(stats.num_rows)

    def describe_model(self, info: ModelInfo) -> None:
        """The model is loaded."""
        self._slots.set(info.num_slots)
        self._model.labels(
            self._model_name,
            *(
                info.device,
                info.dtype,
                info.kv_dtype,
                info.kernels,
                info.weights_hash,
                info.fingerprint,
            ),
        ).set(1)

    def render(self, engine: Engine) -> bytes:
        """The text that Prometheus reads; what is a state and no event is looked up now."""
        stats = engine.stats
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._slots_in_use.set(stats.num_slots_in_use)
        self._slots_warm.set(stats.num_slots_warm)
        self._slots_free.set(stats.num_slots_free)
        self._engine_up.set(engine.is_up)
        self._restarts.inc(engine.num_restarts - self._num_restarts_seen)
        self._num_restarts_seen = engine.num_restarts
        return generate_latest(self._registry)
