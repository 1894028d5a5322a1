"""What the interpreter cannot see: types, constants and sizes that the compiler refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from model.kernels.gpu import launch

ROOT = Path(__file__).resolve().parents[3]


def test_every_kernel_compiles_for_the_card(tmp_path: Path) -> None:
    """In a process of its own: here Triton may be the interpreter."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment = {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "TRITON_CACHE_DIR": str(tmp_path),
        "TRITON_DEFAULT_FP_FUSION": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.support.compile_kernels", "gpt2"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    compiled = {line.split()[0] for line in done.stdout.splitlines()}
    assert compiled == kernels_by_name()


def kernels_by_name() -> set[str]:
    folder = Path(launch.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*_kernels.py"))
    return {word.split("(")[0] for word in text.split("def ")[1:] if "_kernel(" in word[:40]}


def test_the_package_and_the_reference_need_no_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; import model.kernels.gpu;"
        "import model.kernels.gpu.decoder, model.kernels.gpu.reference, model.kernels.gpu.weights\n"
        "try:\n import model.kernels.gpu.launch\nexcept ImportError: print('launch alone')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "launch alone\n"


def test_the_kernels_are_listed() -> None:
    assert {"sampling_kernel", "combine_kernel", "norm_qkv_kernel"} <= kernels_by_name()
