"""GET /v1/models: what is served, in OpenAI's shape and with what a user wants to know."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from engine.messages import TaskInfo
from server.state import ServerState


def model_routes(state: ServerState) -> APIRouter:
    """The two routes, for one app."""
    router = APIRouter()

    @router.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The served decoder and every task."""
        info, _ = state.require_loaded()
        tasks = [_describe_task(state, task) for task in info.tasks]
        return {"object": "list", "data": [_describe(state), *tasks]}

    @router.get("/v1/models/{model_id:path}")
    async def get_model(model_id: str) -> dict[str, Any]:
        """The served decoder by any of its names, or a task."""
        info, _ = state.require_loaded()
        for task in info.tasks:
            if task.name == model_id:
                return _describe_task(state, task)
        state.require_model(model_id)
        return _describe(state)

    return router


def _describe(state: ServerState) -> dict[str, Any]:
    """Raises EngineDown while the model loads."""
    info, vocabulary = state.require_loaded()
    return {
        "id": state.model_name,
        "object": "model",
        "created": state.created_s,
        "owned_by": "gpt2-server",
        "aliases": list(state.settings.model_names[1:]),
        "max_model_len": info.context_len,
        "vocab_size": info.vocab_size,
        "has_vocabulary": vocabulary.has_text,
        "num_parameters": info.num_parameters,
        "num_layers": info.num_layers,
        "num_channels": info.num_channels,
        "num_heads": info.num_heads,
        "eos_token_ids": list(info.eos_token_ids),
        "device": info.device,
        "dtype": info.dtype,
        "kv_dtype": info.kv_dtype,
        "kernels": info.kernels,
        "num_slots": info.num_slots,
        "source": info.source,
        "weights_hash": info.weights_hash,
        "system_fingerprint": info.fingerprint,
    }


def _describe_task(state: ServerState, task: TaskInfo) -> dict[str, Any]:
    return {
        "id": task.name,
        "object": "model",
        "created": state.created_s,
        "owned_by": "gpt2-server",
        "parent": state.model_name,
        "task": task.config,
        "max_model_len": task.max_len,
        "train": task.train,
        "source": task.source,
        "weights_hash": task.weights_hash,
        "system_fingerprint": task.fingerprint,
    }
