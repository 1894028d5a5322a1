from __future__ import annotations

from pathlib import Path

import pytest

from engine.messages import EngineConfig
from server.settings import SettingsError, read_settings


def test_an_option_wins_over_a_variable_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GPT2_SERVER_PORT", "9000")
    monkeypatch.setenv("GPT2_SERVER_SLOTS", "7")
    settings = read_settings({"port": 9001, "slots": None}, {})
    assert (settings.port, settings.slots, settings.max_context) == (9001, 7, None)


def test_an_unknown_variable_is_an_error_that_names_the_closest() -> None:
    environ = {"GPT2_SERVER_DTYP": "x", "GPT2_SERVER_PORTS": "1", "GPT2_OTHER": "", "PATH": "/"}
    with pytest.raises(SettingsError) as refused:
        read_settings({}, environ)
    assert refused.value.problems == [
        "unknown environment variable GPT2_SERVER_DTYP; did you mean GPT2_SERVER_DTYPE?",
        "unknown environment variable GPT2_SERVER_PORTS; did you mean GPT2_SERVER_PORT?",
    ]


def test_every_wrong_value_is_named_in_one_message() -> None:
    options = {"port": 99_999, "dtype": "int3", "slots": 0, "latency_buckets": "1,0.5"}
    with pytest.raises(SettingsError) as refused:
        read_settings(options, {})
    assert [line.split(":")[0] for line in refused.value.problems] == [
        "port",
        "dtype",
        "slots",
        "latency_buckets",
    ]


@pytest.mark.parametrize("bounds", ["nan", "1,nan", "1,inf", "0,1", ""])
def test_bounds_that_no_histogram_can_have_are_refused(bounds: str) -> None:
    with pytest.raises(SettingsError, match="latency_buckets"):
        read_settings({"latency_buckets": bounds}, {})


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_SERVER_SERVED_MODEL_NAME", "a,b")
    monkeypatch.setenv("GPT2_SERVER_LATENCY_BUCKETS", "0.001,0.1")
    settings = read_settings({"checkpoint": Path("/some/folder")}, {})
    assert settings.model_names == ("a", "b", "folder")
    assert settings.latency_buckets == (0.001, 0.1)


@pytest.mark.parametrize("text", ["./gpt2", "gpt2/", "owner//name", "./owner/name"])
def test_what_is_written_as_a_folder_is_none_of_the_names(text: str) -> None:
    assert read_settings({"checkpoint": text}, {}).checkpoint == Path(text).absolute()


def test_a_name_and_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_SERVER_CHECKPOINT", "owner/name@v1")
    monkeypatch.setenv("GPT2_SERVER_REVISION", "v2")
    settings = read_settings({}, {})
    assert (str(settings.checkpoint), settings.revision) == ("owner/name@v1", "v2")
    assert read_settings({"checkpoint": "gpt2"}, {}).checkpoint == Path("gpt2")


def test_the_bundled_checkpoint_is_the_default() -> None:
    assert read_settings({}, {}).checkpoint.parts[-2:] == ("weights", "bundled")


def test_the_engine_gets_its_share() -> None:
    options = {
        "checkpoint": Path("c"),
        "slots": 3,
        "threads": 2,
        "kernels": "torch",
        "dtype": "float32",
        "kv_dtype": "int8",
    }
    assert read_settings(options, {}).engine_config() == EngineConfig(
        checkpoint="c",
        num_slots=3,
        num_threads=2,
        kernels="torch",
        dtype="float32",
        kv_dtype="int8",
    )


def test_tasks_are_those_named_or_those_of_the_bundled_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("mood", "nli"):
        (tmp_path / "bundled_tasks" / name).mkdir(parents=True)
        (tmp_path / "bundled_tasks" / name / "task.json").touch()
    (tmp_path / "bundled_tasks" / "unfinished").mkdir()
    monkeypatch.setattr("server.settings.bundled_checkpoint", lambda: tmp_path / "bundled")

    def tasks(**options: object) -> list[tuple[str, str, bool]]:
        found = read_settings(options, {}).engine_config().tasks
        return [(task.name, task.path, task.is_optional) for task in found]

    folder = tmp_path / "bundled_tasks"
    bundled = [(name, str(folder / name), True) for name in ("mood", "nli")]
    assert tasks(checkpoint=tmp_path / "bundled") == bundled
    assert tasks(checkpoint=tmp_path / "bundled", task=("x=a/b",)) == [("x", "a/b", False)]
    assert tasks(checkpoint=Path("other")) == []
    assert tasks(checkpoint=Path("other"), task="x=a,y=b=c") == [
        ("x", "a", False),
        ("y", "b=c", False),
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [("x", "must be NAME=DIR, got 'x'"), ("=a", "got '=a'"), ("x=a,x=b", "different names")],
)
def test_an_impossible_task_is_named(given: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_settings({"task": given}, {})
