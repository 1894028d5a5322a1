"""A path or a name, as written, and what is done for each. The real child is in end_to_end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from huggingface_hub import close_session, constants

from server.cli import main
from server.commands.locate import Located, hub_name, locate
from server.commands.serve import located
from server.settings import Settings, read_settings
from tests.support.fake_hub import FakeHub, fake_hub
from tests.support.small_hf import small_files
from weights.checkpoint import open_checkpoint
from weights.hub.transfer import Hub

Outcome = Callable[[int, object], None]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Decide what the process that brings names here would say, and its exit code."""

    def end(returncode: int, outcome: object) -> None:
        stdout = b"a line of something else\n" + json.dumps(outcome).encode() + b"\n"

        def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[bytes]:
            return subprocess.CompletedProcess(command, returncode, stdout)

        monkeypatch.setattr(subprocess, "run", run)

    return end


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(subprocess, "run", run)


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> list[str]:
    with pytest.raises(click.exceptions.Exit) as caught:
        locate(*arguments)
    assert caught.value.exit_code == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.usefixtures("no_child")
def test_what_lies_here_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "gpt2").write_text("a file")
    (tmp_path / "gone").symlink_to("nowhere")
    for text in ("owner/name", "gpt2", "gone", str(tmp_path / "owner")):
        assert locate(text) == Located(Path(text))


@pytest.mark.usefixtures("no_child")
@pytest.mark.parametrize("text", ["/no/such", "./gpt2", "../gpt2", "a/b/c", "a b", "~/x", "a@../x"])
def test_what_cannot_be_a_name_is_left_to_whoever_opens_it(text: str) -> None:
    assert locate(text) == Located(Path(text))


def test_a_revision_of_what_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, str(tmp_path), "v1") == [
        f"Error: --revision v1: {tmp_path} lies here, only names on the hub have any"
    ]
    assert refused(capsys, "/no/such", "v1") == ["Error: /no/such does not exist"]
    assert "has a revision already" in refused(capsys, "a/b@v2", "v1")[0]
    assert hub_name("a/b", "v1") == ("a/b", "v1")


def test_a_name_is_where_the_child_says(child: Outcome) -> None:
    child(0, {"path": "/kept/gpt2"})
    assert locate("openai-community/gpt2") == Located(Path("/kept/gpt2"), "openai-community/gpt2")
    assert locate("gpt2@v1") == Located(Path("/kept/gpt2"), "gpt2")


def test_its_problems_are_told(child: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    child(2, {"problems": ["no such name", "no room"]})
    assert refused(capsys, "gpt2") == ["Error: no such name", "Error: no room"]


@pytest.mark.parametrize(
    ("returncode", "end"), [(-9, "was killed by SIGKILL"), (1, "ended with exit code 1")]
)
def test_a_child_that_dies(
    returncode: int, end: str, child: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    child(returncode, {})
    assert refused(capsys, "gpt2") == [f"Error: gpt2 is not here: its download {end}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_is_one_line(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    # A shell starts what goes to its background with SIGINT ignored.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_o: signal.raise_signal(number))
    try:
        told = refused(capsys, "gpt2")
    finally:
        signal.signal(signal.SIGINT, ours)
    assert told == [
        "Error: interrupted: the same command goes on with the download where it stopped"
    ]
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_model_is_called_by_its_name(child: Outcome) -> None:
    child(0, {"path": "/kept/openai-community--gpt2-xl/0123/gpt2-xl"})
    settings = located(Settings(checkpoint=Path("openai-community/gpt2-xl")))
    assert settings.checkpoint == Path("/kept/openai-community--gpt2-xl/0123/gpt2-xl")
    assert settings.model_names == ("openai-community/gpt2-xl", "gpt2-xl")
    named = Settings(checkpoint=Path("openai-community/gpt2-xl"), served_model_name=("mine",))
    assert located(named).model_names == ("mine", "openai-community/gpt2-xl", "gpt2-xl")


def test_a_name_from_the_environment(child: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_SERVER_CHECKPOINT", "gpt2")
    monkeypatch.setenv("GPT2_SERVER_REVISION", "v1")
    settings = read_settings({}, {})
    assert hub_name(str(settings.checkpoint), settings.revision) == ("gpt2", "v1")
    child(0, {"path": "/kept/gpt2"})
    assert located(settings).model_names == ("gpt2",)


def test_a_folder_costs_no_import() -> None:
    code = (
        "import sys\nfrom server.commands.locate import locate\nlocate('.')\n"
        "from weights.hub.names import parse_name\nparse_name('gpt2')\n"
        "print([n for n in ('torch', 'huggingface_hub', 'httpx2', 'tiktoken') if n in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert told.stdout.strip() == b"[]"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as server:
        hub = Hub(server.url, tmp_path / "cache")
        monkeypatch.setattr(Hub, "from_environment", lambda: hub)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        yield server
    close_session()


def test_convert_takes_a_name(server: FakeHub, tmp_path: Path) -> None:
    server.add("owner/name", small_files(1))
    commit = server.add("owner/name", small_files(), "v1")
    dest = tmp_path / "dest"
    arguments = ["convert", "owner/name", str(dest), "--revision", "v1", "--dtype", "bfloat16"]
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 0, told.output
    assert told.stderr == f"downloading 0.1 MB of owner/name@{commit}\n"
    assert told.stdout.startswith(f"{dest}: 0.0 M parameters, weights ")
    checkpoint = open_checkpoint(dest)
    assert checkpoint.source["origin"] == f"owner/name@{commit}"
    assert str(checkpoint.tensors["wte.weight"].dtype) == "torch.bfloat16"


def test_convert_looks_at_the_destination_before_it_asks(server: FakeHub, tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["convert", "owner/name", str(tmp_path)])
    assert told.exit_code == 2
    assert told.output == f"Error: {tmp_path}: exists already\n"
    assert server.asked == []


def test_convert_refuses_what_is_nowhere(server: FakeHub, tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["convert", "owner/name", str(tmp_path / "dest")])
    assert told.exit_code == 2
    assert told.output.startswith("Error: owner/name does not exist, neither here nor at http://")
    assert not (tmp_path / "dest").exists()
