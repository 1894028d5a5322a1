"""Who is measured: each library at each precision, and what it needs to be installed. No torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

OURS = "ours"
DTYPES = ("float32", "bfloat16", "int8", "int4")
INSTALL = "pip install 'gpt2-server[peers]'"


@dataclass(frozen=True, slots=True)
class System:
    """``precision`` in the library's own word, ``dtype`` in ours: the one that it is held against.

    ``adapter`` is a module of bench/adapters, ``modules`` are what that imports.
    """

    library: str
    precision: str
    dtype: str
    adapter: str
    modules: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.library} {self.precision}"

    @property
    def is_ours(self) -> bool:
        """Not a peer."""
        return self.library == OURS


def ours(dtype: str) -> System:
    """Our engine."""
    return System(OURS, dtype, dtype, "ours")


def _llama(precision: str, dtype: str) -> System:
    return System("llama.cpp", precision, dtype, "llama_cpp", ("llama_cpp", "gguf"))


def _ctranslate2(dtype: str) -> System:
    return System("CTranslate2", dtype, dtype, "ctranslate2", ("ctranslate2",))


def _transformers(dtype: str) -> System:
    return System("transformers", dtype, dtype, "transformers", ("transformers",))


PEERS = (
    _transformers("float32"),
    _transformers("bfloat16"),
    _ctranslate2("float32"),
    _ctranslate2("int8"),
    _llama("F32", "float32"),
    _llama("BF16", "bfloat16"),
    _llama("Q8_0", "int8"),
    _llama("Q4_0", "int4"),
)

DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python"}
"""Where the distribution has another name than the module."""


def missing_modules(system: System) -> list[str]:
    """Distributions that this system needs and that are not installed."""
    return [
        DISTRIBUTIONS.get(module, module)
        for module in system.modules
        if importlib.util.find_spec(module) is None
    ]


def installed(systems: Iterable[System]) -> tuple[list[System], list[str]]:
    """Those that can run here; a line for each that cannot, with how to change that."""
    present, left_out = [], []
    for system in systems:
        if missing := missing_modules(system):
            left_out.append(f"{system.name}: {' and '.join(missing)} not installed ({INSTALL})")
        else:
            present.append(system)
    return present, left_out


def versions(systems: Iterable[System]) -> dict[str, str]:
    """Of every distribution that takes part."""
    modules = {module for system in systems for module in system.modules}
    names = {"gpt2-server", "torch", *(DISTRIBUTIONS.get(module, module) for module in modules)}
    return {name: importlib.metadata.version(name) for name in sorted(names)}
