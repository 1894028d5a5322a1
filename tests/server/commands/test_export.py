"""gpt2-server export: what it says, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli import main
from server.settings import bundled_checkpoint


def test_the_bundled_checkpoint(tmp_path: Path) -> None:
    if not (bundled_checkpoint() / "config.json").exists():
        pytest.skip("no checkpoint is bundled")
    dest = tmp_path / "dest"
    told = CliRunner().invoke(main, ["export", str(bundled_checkpoint()), str(dest)])
    assert told.exit_code == 0, told.output
    assert told.stdout == f"{dest}: 8.7 M parameters for transformers\n"
    assert {file.name for file in dest.iterdir()} == {
        *("config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_problems_are_named_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    told = CliRunner().invoke(main, ["export", str(tmp_path / name), str(tmp_path / "dest")])
    assert told.exit_code == 2
    assert told.output.startswith(f"Error: {tmp_path / name}")
    assert not (tmp_path / "dest").exists()
