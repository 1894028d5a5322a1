"""A pickle that runs a command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Trap:
    """Makes the file ``canary`` when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.canary}",))
