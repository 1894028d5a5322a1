"""Settings: what the command line and ``GPT2_SERVER_*`` variables decide, read once, at start."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, MutableMapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from engine.crash_report import CrashFolder
from engine.messages import EngineConfig, TaskSource
from engine.supervision import Supervision
from server.keys import KeyProblems, Keys, hash_key, joined, read_key_file

ENV_PREFIX = "GPT2_SERVER_"

SECRETS = frozenset({"api_key", "admin_key"})
"""What a message about them must not repeat, and no command line may show to others."""

_TASK_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

LATENCY_BUCKETS = (
    *(1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2),
    *(5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Seconds. A small model's step is under a millisecond, so the scale starts at 100 us."""


class SettingsError(ValueError):
    """Settings that cannot be used. ``problems`` names each of them, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def bundled_checkpoint() -> Path:
    """Where the checkpoint that comes with the project lies: beside the ``weights`` package."""
    spec = find_spec("weights")
    if spec is None or spec.origin is None:
        return Path("weights/bundled")
    return Path(spec.origin).parent / "bundled"


def bundled_tasks() -> tuple[TaskSource, ...]:
    """The tasks that come with the bundled checkpoint; a GPU, which serves none yet, omits them."""
    folder = bundled_checkpoint().parent / "bundled_tasks"
    return tuple(
        TaskSource(path.parent.name, str(path.parent), is_optional=True)
        for path in sorted(folder.glob("*/task.json"))
    )


class Settings(BaseSettings):
    """Everything that can be chosen for one server. None leaves the choice to the engine.

    Every field is an option of ``serve`` or a variable: ``max_context`` is ``--max-context``
    and ``GPT2_SERVER_MAX_CONTEXT``; the option wins. Raises pydantic's ValidationError;
    :func:`read_settings` words it for people.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    checkpoint: Path = Field(default_factory=bundled_checkpoint)
    """A folder; a name on the hub, as long as ``serve`` has not brought it here."""
    revision: str | None = None
    """Branch, tag or commit of a name that does not say it itself."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "int4"] = "auto"
    kv_dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    """Of the cache; ``auto`` is that of the weights, int8 beside int4."""
    kernels: str = "auto"
    slots: int | None = Field(default=None, ge=1)
    max_context: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    served_model_name: Annotated[tuple[str, ...], NoDecode] = ()
    """Names that requests may use, the first one being what answers carry; in the environment
    separated by commas. Without any, the checkpoint's folder gives the name."""
    task: Annotated[tuple[str, ...], NoDecode] = ()
    """``NAME=DIR`` of each fine-tuned task that is served beside the decoder; in the environment
    separated by commas. Without any the bundled checkpoint has those that come with it."""
    max_queued_requests: int = Field(default=256, ge=1)
    max_queued_tokens: int = Field(default=131_072, ge=1)
    max_body_bytes: int = Field(default=4 * 2**20, ge=1_024)
    max_header_bytes: int = Field(default=32_768, ge=1_024)
    max_connections: int = Field(default=2_048, ge=1)
    header_timeout_s: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Until the header of a request is complete, from the connection or from its first byte on."""
    body_timeout_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    send_timeout_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """How long a client may take nothing of an answer that waits for it, or be silent when the
    kernel asks whether it is there."""
    max_choices: int = Field(default=128, ge=1)
    """Prompts times n of one request."""
    max_tokenize_bytes: int = Field(default=2**18, ge=1)
    """Text for ``/tokenize``, whose answer is some 35 times as large, and from ``/detokenize``."""
    max_unread_tokens: int = Field(default=8_192, ge=1)
    """Tokens, and log probabilities, that the reader of a stream may leave unread."""
    max_timeout_s: float = Field(default=3_600.0, gt=0, allow_inf_nan=False)
    """Seconds for any request, in the queue and after it; its own ``timeout`` may be shorter."""
    api_key_file: Path | None = None
    """Keys, or their hashes; ``server/keys.py`` says how they are written."""
    api_key: Annotated[tuple[str, ...], NoDecode] = Field(default=(), repr=False)
    """More of them, by the environment only and with commas between; kept as hashes."""
    admin_key: str | None = Field(default=None, repr=False)
    """Likewise, the one for administration."""
    metrics_port: int | None = Field(default=None, ge=0, le=65_535)
    """Where ``/metrics`` is; without it, where everything else is."""
    cors_origin: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may ask, or ``*``; in the environment separated by commas."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    ping_s: float = Field(default=15.0, gt=0)
    shutdown_s: int = Field(default=30, ge=0)
    drain_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """After SIGTERM, seconds in which all but ``/ready`` is as before, for a proxy to see."""
    reuse_port: bool = False
    """Share the port with another server that does, and listen when the model is loaded."""
    silence_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """An engine that says nothing for so long, or for 20 times what its step should take, hangs."""
    loading_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    max_restarts: int = Field(default=5, ge=0)
    restart_window_s: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    crash_dir: Path | None = None
    """Where each death of the engine is described; without it, nowhere."""
    crash_ids: bool = False
    """Whether the token ids of the requests that ran may be in there."""
    latency_buckets: Annotated[tuple[float, ...], NoDecode] = LATENCY_BUCKETS

    @field_validator("checkpoint", mode="before")
    @classmethod
    def _keep_as_written(cls, value: object) -> object:
        """``./gpt2`` and ``gpt2/`` are folders only, but Path makes the name ``gpt2`` of them."""
        if isinstance(value, str) and str(Path(value)) != value:
            return Path(value).absolute()
        return value

    @field_validator("served_model_name", "task", "cors_origin", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @field_validator("task")
    @classmethod
    def _check_tasks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        pairs = [one.partition("=") for one in value]
        for one, (name, _, folder) in zip(value, pairs, strict=True):
            if not name or not folder:
                raise ValueError(f"must be NAME=DIR, got {one!r}")
            if not _TASK_NAME.fullmatch(name):
                rule = "must begin with a name of 1 to 64 letters, digits and inner . _ -"
                raise ValueError(f"{rule}, got {name[:80]!r}")
        names = [name for name, _, _ in pairs]
        if len(set(names)) != len(names):
            raise ValueError(f"must have different names, got {', '.join(names)}")
        return value

    @field_validator("api_key")
    @classmethod
    def _hash_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(hash_key, value))

    @field_validator("admin_key")
    @classmethod
    def _hash_admin_key(cls, value: str | None) -> str | None:
        return None if value is None else hash_key(value)

    @field_validator("cors_origin")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"must be * or SCHEME://HOST[:PORT], got {origin!r}")
        return value

    @field_validator("latency_buckets", "api_key", mode="before")
    @classmethod
    def _split_all(cls, value: object) -> object:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("latency_buckets")
    @classmethod
    def _check_buckets(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        is_usable = value and value[0] > 0 and all(map(math.isfinite, value))
        if not is_usable or list(value) != sorted(set(value)):
            raise ValueError("must be positive numbers of seconds, each larger than the one before")
        return value

    @property
    def model_names(self) -> tuple[str, ...]:
        """What the model is called; the folder's name is always understood."""
        return tuple(dict.fromkeys((*self.served_model_name, self.checkpoint.resolve().name)))

    @property
    def keys(self) -> Keys:
        """The hashes of all keys, from wherever they were read."""
        return Keys(self.api_key, self.admin_key)

    @property
    def tasks(self) -> tuple[TaskSource, ...]:
        """Those named; without any, what is bundled with the checkpoint."""
        pairs = [one.partition("=") for one in self.task]
        if not pairs and self.checkpoint == bundled_checkpoint():
            return bundled_tasks()
        return tuple(TaskSource(name, folder) for name, _, folder in pairs)

    def supervision(self) -> Supervision:
        """How patient the client is with its engine."""
        return Supervision(
            heartbeat_s=min(Supervision.heartbeat_s, self.silence_s / 4),
            silence_s=self.silence_s,
            loading_s=self.loading_s,
            max_restarts=self.max_restarts,
            restart_window_s=self.restart_window_s,
        )

    def crash_folder(self) -> CrashFolder | None:
        """Where crash reports go."""
        return CrashFolder(self.crash_dir, self.crash_ids) if self.crash_dir is not None else None

    def engine_config(self) -> EngineConfig:
        """The engine's share of the settings."""
        return EngineConfig(
            checkpoint=str(self.checkpoint),
            device=self.device,
            dtype=self.dtype,
            kv_dtype=self.kv_dtype,
            num_slots=self.slots,
            max_context=self.max_context,
            num_threads=self.threads,
            kernels=self.kernels,
            tasks=self.tasks,
            max_queued_requests=self.max_queued_requests,
            max_queued_tokens=self.max_queued_tokens,
        )


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """One line for each ``GPT2_SERVER_*`` variable that is not a setting."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    lines = []
    for name in sorted(environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"unknown environment variable {name}{hint}")
    return lines


def read_settings(options: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Settings from ``options`` (None stands for not given), then ``environ``, then defaults.

    The keys of ``api_key_file`` are read now. Raises SettingsError listing every problem.
    """
    problems = unknown_variables(environ)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    try:
        settings = with_all_keys(Settings(**given))
    except ValidationError as error:
        problems += [_told(line) for line in error.errors()]
        raise SettingsError(problems) from None
    except KeyProblems as error:
        raise SettingsError([*problems, *error.problems]) from None
    if problems:
        raise SettingsError(problems)
    return settings


def forget_secrets(environ: MutableMapping[str, str]) -> None:
    """Take the keys out of ``environ``, which every child process would get."""
    for name in SECRETS:
        environ.pop(ENV_PREFIX + name.upper(), None)


def with_all_keys(settings: Settings) -> Settings:
    """The settings with the keys of their file. Raises KeyProblems."""
    file = settings.api_key_file
    keys = joined(settings.keys, [] if file is None else [read_key_file(file)])
    return settings.model_copy(update={"api_key": keys.users, "admin_key": keys.admin})


def _told(line: Mapping[str, Any]) -> str:
    """One problem, with what was given where that is no secret."""
    name = ".".join(map(str, line["loc"]))
    found = "" if name.partition(".")[0] in SECRETS else f", got {line['input']!r}"
    return f"{name}: {line['msg']}{found}"
