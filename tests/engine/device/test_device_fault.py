"""A broken device ends the engine process with one line; other errors stay what they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import process
from engine.device.fault import DeviceFault, device_errors
from engine.process import EXIT_DEVICE_LOST, run
from engine.transport import EngineChannel


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublas`\nmore"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    ],
)
def test_what_a_device_reports_is_a_fault(error: RuntimeError) -> None:
    first_line = str(error).partition("\n")[0]
    with pytest.raises(DeviceFault) as found, device_errors():
        raise error
    assert str(found.value) == f"the device failed: {first_line}"
    assert found.value.__cause__ is error


def test_our_own_mistakes_are_none() -> None:
    with pytest.raises(RuntimeError, match="request 3 was put to rest"), device_errors():
        raise RuntimeError("request 3 was put to rest")


class Broken:
    """A core that has work and cannot do it."""

    has_work = True

    def step(self) -> Any:
        raise DeviceFault("the device failed: CUDA out of memory.")


class Silent:
    """A channel to nobody."""

    is_closed = False

    def receive(self, _timeout_s: float | None) -> list[Any]:
        return []

    def close(self) -> None:
        self.is_closed = True


def test_the_process_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "load", lambda *_: Broken())
    channel: Any = Silent()
    typed: EngineChannel = channel
    assert run(typed, "a factory", 1.0) == EXIT_DEVICE_LOST
    assert capsys.readouterr().err == "engine: the device failed: CUDA out of memory.\n"
    assert channel.is_closed
