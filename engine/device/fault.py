"""DeviceFault: what a broken device is called in the process that owned it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

DEVICE_ERRORS = ("OutOfMemoryError", "AcceleratorError")
"""Names of torch's errors after which nothing on the device can be trusted."""

DEVICE_MESSAGES = ("CUDA error", "CUDA driver error", "cuDNN error", "Triton Error [CUDA]")
"""How other errors of the device begin."""


class DeviceFault(Exception):
    """The device failed; this process can compute no more. ``str()`` is one line for people."""


@contextmanager
def device_errors() -> Iterator[None]:
    """Turns whatever the device reports into a DeviceFault."""
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        is_known = type(error).__name__ in DEVICE_ERRORS or first_line.startswith(DEVICE_MESSAGES)
        if not is_known:
            raise
        raise DeviceFault(f"the device failed: {first_line}") from error
