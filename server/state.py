"""ServerState: what the routes of one app share. Made in server/app.py, changed only here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.errors import EngineDown, EngineFailed
from engine.messages import ModelInfo
from engine.request import SamplingParams, TaskParams
from model.tokenizer import TokenizerError
from server.constraint import Constraints
from server.errors import ApiError, short
from server.metrics import Metrics
from server.seams import Engine, OutputStream
from server.settings import Settings
from server.vocabulary import Tokenizer, Vocabulary

LoadTokenizer = Callable[[Path], Tokenizer | None]


class ServerState:
    """The settings, the engine, the vocabulary once it is loaded, and the metrics of one app."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        load_tokenizer: LoadTokenizer,
        metrics: Metrics,
        version: str,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.version = version
        self.created_s = int(time.time())
        self.vocabulary: Vocabulary | None = None
        self.constraints = Constraints(None)
        self.is_draining = False
        self._load_tokenizer = load_tokenizer

    async def load(self) -> ModelInfo | list[str]:
        """Wait for the engine, and read the vocabulary meanwhile. The model, or all problems.

        Once it is loaded, this says so again at once.
        """
        if self.vocabulary is not None and self.engine.info is not None:
            return self.engine.info
        vocabulary, info = await asyncio.gather(
            asyncio.to_thread(self._load_tokenizer, self.settings.checkpoint),
            self.engine.ready(),
            return_exceptions=True,
        )
        if isinstance(vocabulary, BaseException) or isinstance(info, BaseException):
            return list(dict.fromkeys(_problems(vocabulary) + _problems(info)))
        self.vocabulary = Vocabulary(vocabulary)
        self.constraints = Constraints(vocabulary)
        self.metrics.describe_model(info)
        return info

    def drain(self) -> None:
        """The server is about to end: whoever asks should go elsewhere."""
        self.is_draining = True

    @property
    def is_ready(self) -> bool:
        """Whether a request would start now, and should come here."""
        return self.engine.is_ready and self.vocabulary is not None and not self.is_draining

    @property
    def model_name(self) -> str:
        """What answers call the model."""
        return self.settings.model_names[0]

    def require_loaded(self) -> tuple[ModelInfo, Vocabulary]:
        """The model and its vocabulary. Raises EngineFailed, or EngineDown while they load."""
        if self.engine.failure is not None:
            raise EngineFailed(self.engine.failure.problems)
        if self.engine.info is None or self.vocabulary is None:
            raise EngineDown("the model is still loading", retry_after_s=2.0)
        return self.engine.info, self.vocabulary

    def admit(
        self,
        items: Sequence[tuple[Sequence[int], SamplingParams | TaskParams]],
        prompt_lens: Sequence[int],
        priority: int = 0,
    ) -> Sequence[OutputStream]:
        """Submit all of these to the engine or none; a plain call. Raises EngineError."""
        streams = self.engine.submit_all(items, priority)
        self.metrics.on_admitted(prompt_lens)
        return streams

    def require_model(self, name: str | None) -> None:
        """Raise ApiError (404) unless ``name`` is the served model's, or None."""
        names = self.settings.model_names
        if name is not None and name not in names:
            raise ApiError(
                404,
                f"the model must be {short(names[0])}, got {short(name)}",
                param="model",
                code="model_not_found",
            )


def _problems(outcome: object) -> list[str]:
    """What went wrong, one line each; nothing if nothing did."""
    if isinstance(outcome, EngineFailed | TokenizerError):
        return list(outcome.problems)
    return [str(outcome) or repr(outcome)] if isinstance(outcome, BaseException) else []
