"""GET /v1/models: what is served, in OpenAI's shape and with what a user wants to know."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from engine.messages import TaskInfo
from server.openapi import KEYED, UNREAD, Schema, operation
from server.state import ServerState

MODEL: Schema = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "max_model_len", "weights_hash"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "max_model_len": {"type": "integer"},
        "weights_hash": {"type": "string"},
    },
}
MODELS: Schema = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": MODEL}},
}
# Not a parameter of the function: FastAPI would say that it answers with 422.
MODEL_ID: Schema = {
    "name": "model_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
}


def model_routes(state: ServerState) -> APIRouter:
    """The two routes, for one app."""
    router = APIRouter()

    refusals = (*UNREAD, *KEYED)

    @router.get("/v1/models", openapi_extra=operation(MODELS, refusals))
    async def list_models() -> dict[str, Any]:
        """The served decoder and every task."""
        info, _ = state.require_loaded()
        tasks = [_describe_task(state, task) for task in info.tasks]
        return {"object": "list", "data": [_describe(state), *tasks]}

    described = operation(MODEL, (*refusals, 404)) | {"parameters": [MODEL_ID]}

    @router.get("/v1/models/{model_id:path}", openapi_extra=described)
    async def get_model(request: Request) -> dict[str, Any]:
        """The served decoder by any of its names, or a task."""
        info, _ = state.require_loaded()
        model_id = request.path_params["model_id"]
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
        "num_slots_in_use": state.engine.stats.num_slots_in_use,
        "num_waiting": state.engine.stats.num_waiting,
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
