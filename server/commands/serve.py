"""gpt2-server serve: settings, a socket, the engine process, then everything else meanwhile."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from server.commands.locate import locate
from server.commands.refusal import EXIT_REFUSED, print_problems, refuse

if TYPE_CHECKING:
    import uvicorn

    from engine.client import EngineClient
    from engine.errors import EngineFailed
    from engine.messages import ModelInfo, TaskInfo
    from server.settings import Settings
    from server.state import ServerState

EXIT_ENGINE_LOST = 3
BACKLOG = 2048


@click.command("serve")
@click.argument("checkpoint", required=False)
@click.option("--revision", help="Branch, tag or commit of a name on the hub.  [default: main]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port; 0 takes a free one.  [default: 8000]")
@click.option("--device", help="auto, cpu or cuda.  [default: auto]")
@click.option("--dtype", help="auto, float32, bfloat16, int8 or int4.  [default: auto]")
@click.option("--kv-dtype", help="Of the cache: auto, float32, bfloat16 or int8.  [default: auto]")
@click.option("--kernels", help="Kernel path: auto, torch, or a native one.  [default: auto]")
@click.option("--task", multiple=True, help="NAME=DIR of a fine-tuned task; again for more.")
@click.option("--slots", type=int, help="Sequences that run at once.  [default: what fits]")
@click.option("--max-context", type=int, help="Positions of a slot.  [default: the model's]")
@click.option("--threads", type=int, help="CPU threads of the engine.  [default: the cores]")
@click.option("--served-model-name", help="Names of the model in requests, with commas between.")
@click.option("--max-queued-requests", type=int, help="Requests that may wait.  [default: 256]")
@click.option("--max-queued-tokens", type=int, help="Tokens that may wait.  [default: 131072]")
@click.option("--max-body-bytes", type=int, help="Largest request body.  [default: 4 MiB]")
@click.option("--max-header-bytes", type=int, help="Path, query and headers.  [default: 32 KiB]")
@click.option("--max-connections", type=int, help="Open at once.  [default: 2048]")
@click.option("--header-timeout-s", type=float, help="Until a header is here.  [default: 10]")
@click.option("--body-timeout-s", type=float, help="Until a body is here.  [default: 60]")
@click.option(
    "--send-timeout-s", type=float, help="For a client that takes nothing.  [default: 60]"
)
@click.option("--max-choices", type=int, help="Prompts times n of a request.  [default: 128]")
@click.option("--max-tokenize-bytes", type=int, help="Text for /tokenize.  [default: 256 KiB]")
@click.option("--max-timeout-s", type=float, help="Seconds for any request.  [default: 3600]")
@click.option("--max-unread-tokens", type=int, help="Bound for a slow reader.  [default: 16384]")
@click.option("--api-key-file", help="Keys that requests must bring.  [default: none]")
@click.option("--metrics-port", type=int, help="For /metrics alone.  [default: the same port]")
@click.option("--cors-origin", multiple=True, help="Whose pages may ask; again for more.")
@click.option("--log-format", help="text or json.  [default: text]")
@click.option("--log-level", help="debug, info, warning or error.  [default: info]")
@click.option("--ping-s", type=float, help="Seconds between pings of idle streams.  [default: 15]")
@click.option("--shutdown-s", type=int, help="Seconds to finish what runs.  [default: 30]")
@click.option("--drain-s", type=float, help="Before that, /ready says 503.  [default: 0]")
@click.option("--reuse-port", is_flag=True, default=None, help="Share the port with the next one.")
@click.option("--silence-s", type=float, help="When an engine hangs.  [default: 30]")
@click.option("--loading-s", type=float, help="The same while it loads.  [default: 300]")
@click.option("--max-restarts", type=int, help="Of a dead engine.  [default: 5]")
@click.option("--restart-window-s", type=float, help="Within so many seconds.  [default: 600]")
@click.option("--crash-dir", help="Folder for reports of engines that died.  [default: none]")
@click.option("--crash-ids", is_flag=True, default=None, help="Token ids may be in reports.")
@click.option("--latency-buckets", help="Bounds of the histograms in seconds, with commas.")
def command(**options: Any) -> None:
    """Answer HTTP requests from CHECKPOINT, or from the one that is bundled.

    CHECKPOINT is a folder, or a name on the hub: gpt2, OWNER/NAME, OWNER/NAME@REVISION.
    Every option is also an environment variable: --max-context is GPT2_SERVER_MAX_CONTEXT.
    """
    from server.logs import configure
    from server.settings import SettingsError, forget_secrets, read_settings

    try:
        settings = read_settings(options, os.environ)
    except SettingsError as error:
        refuse(error.problems)
    forget_secrets(os.environ)
    listener = listen_or_refuse(settings)  # a taken port is told before a long download
    if settings.revision is not None or not os.path.lexists(settings.checkpoint):
        listener.close()  # until it is done, nobody shall wait for an answer
        settings = located(settings)
        listener = listen_or_refuse(settings)
    metrics_listener = listen_for_metrics(settings)
    if metrics_listener is not None:
        number = metrics_listener.getsockname()[1]
        settings = settings.model_copy(update={"metrics_port": number})
    settings = prepared(settings, listener)
    configure(settings.log_format, settings.log_level)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        exit_code = runner.run(Service(settings, listener, metrics_listener).run())
    sys.exit(exit_code)


def located(settings: Settings) -> Settings:
    """The settings with a folder for a checkpoint, and the name that it was brought here by."""
    place = locate(str(settings.checkpoint), settings.revision)
    if place.repo is None:
        return settings
    names = (*settings.served_model_name, place.repo)
    return settings.model_copy(update={"checkpoint": place.path, "served_model_name": names})


def prepared(settings: Settings, listener: socket.socket) -> Settings:
    """The settings as this system allows them, and a listener that keeps to them."""
    from server.sockets import allow_connections, prepare

    prepare(listener, settings.send_timeout_s)
    count = allow_connections(settings.max_connections)
    if count < settings.max_connections:
        click.echo(f"the limit of open files (ulimit -Hn) leaves {count} connections", err=True)
    return settings.model_copy(update={"max_connections": count})


def listen_or_refuse(settings: Settings) -> socket.socket:
    """A listening socket, or one line that says why there is none."""
    try:
        return listen(settings.host, settings.port, reuse_port=settings.reuse_port)
    except OSError as error:
        code = error.errno or 0  # negative for names that cannot be resolved
        reason = os.strerror(code) if code > 0 else error.strerror
        refuse([f"cannot listen on {settings.host} port {settings.port}: {reason}"])


def listen_for_metrics(settings: Settings) -> socket.socket | None:
    """The listener of ``/metrics``, where it has one of its own; it is shared with nobody."""
    port = settings.metrics_port
    if port is None:
        return None
    return listen_or_refuse(settings.model_copy(update={"port": port, "reuse_port": False}))


def listen(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A listening socket; with ``reuse_port`` one that does not listen yet. Raises OSError."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    if not reuse_port:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """Outside of uvicorn's own handling, and after it: nothing is left to finish."""
    sys.exit(0)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


class Service:
    """One run of the server, from the start of the engine to the exit code."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        metrics_listener: socket.socket | None = None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._listeners = [one for one in (listener, metrics_listener) if one is not None]
        self._server: uvicorn.Server | None = None
        self._was_ready = False
        self._exit_code = 0

    async def run(self) -> int:
        """Serve until told to stop; the exit code."""
        from engine.client import EngineClient

        settings = self._settings
        client = EngineClient(
            settings.engine_config(), settings.supervision(), crashes=settings.crash_folder()
        )
        client.on_failure.append(self._on_engine_lost)
        client.start()
        try:
            # In a thread, so that the engine process starts while these imports take their time.
            server, state = await asyncio.to_thread(self._make_server, client)
            self._server = server
            if not settings.reuse_port or await self._joins(state):
                await server.serve(sockets=self._listeners)
        finally:
            await client.close()
        return self._exit_code

    async def _joins(self, state: ServerState) -> bool:
        """Take a share of the connections, now that there is a model; False where none will be."""
        loaded = await state.load()
        if isinstance(loaded, list):
            self._on_refused(loaded)
            return False
        self._listener.listen(BACKLOG)
        return True

    def _make_server(self, client: EngineClient) -> tuple[uvicorn.Server, ServerState]:
        import uvicorn

        from server.app import create_app
        from server.drain import Server
        from server.wire import HttpProtocol

        app = create_app(
            self._settings, client, on_ready=self._announce, on_failure=self._on_refused
        )
        config = uvicorn.Config(
            app,
            loop="none",
            http=HttpProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
        )
        config.load()
        end = partial(client.fail_all, "the server is stopping")
        state: ServerState = app.state.serving
        settings = self._settings
        server = Server(config, settings.shutdown_s, end, settings.drain_s, state.drain)
        return server, state

    def _announce(self, info: ModelInfo) -> None:
        self._was_ready = True
        # What is there by now stays: a collection that a large request sets off need not look
        # through it, which would hold up every stream for 50 ms.
        gc.collect()
        gc.freeze()
        for line in describe(self._settings, info, self._listener.getsockname()):
            click.echo(line)

    def _on_refused(self, problems: list[str]) -> None:
        """It never was ready, and never will be."""
        self._stop(problems, EXIT_REFUSED)

    def _on_engine_lost(self, failure: EngineFailed) -> None:
        """The restarts are used up. What fails before that is told by ``_on_refused``."""
        if self._was_ready:
            self._stop(failure.problems, EXIT_ENGINE_LOST)

    def _stop(self, problems: list[str], exit_code: int) -> None:
        print_problems(problems)
        self._exit_code = exit_code
        if self._server is not None:
            self._server.should_exit = True


def describe(settings: Settings, info: ModelInfo, address: tuple[Any, ...]) -> list[str]:
    """What was started, for people: four lines, and one for each task."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    threads = f", {info.num_threads} threads" if info.device == "cpu" else ""
    return [
        f"model    {settings.model_names[0]}, {info.num_parameters / 1e6:,.1f} M parameters, "
        f"context {info.context_len:,}, from {settings.checkpoint}",
        f"device   {info.device}{threads}, {info.dtype}{_cost(info)}, {info.kernels} kernels",
        f"slots    {info.num_slots} of {info.slot_bytes / 1e6:,.1f} MB, {info.kv_dtype}",
        *(f"task     {task.name}, {_kind(task)}, from {task.source}" for task in info.tasks),
        f"address  http://{host}:{address[1]}",
        *_metrics_line(settings, host),
    ]


def _metrics_line(settings: Settings, host: str) -> list[str]:
    port = settings.metrics_port
    return [] if port is None else [f"metrics  http://{host}:{port}/metrics"]


def _kind(task: TaskInfo) -> str:
    own = " on a decoder of its own" if task.train == "full" else ""
    return f"{task.config['form']}{own}"


def _cost(info: ModelInfo) -> str:
    """What int8 costs, where the engine measured it: also when that is why it was not taken."""
    if info.log_loss_rise is None:
        return ""
    return f" (int8 raises the log-loss of its own text by {info.log_loss_rise:.2%})"
