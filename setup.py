"""Builds the optional native kernels; everything declarative is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("model/kernels")

setup(
    ext_modules=[
        Extension(
            "model.kernels._native",
            [str(KERNELS / "native.cpp")],
            depends=sorted(str(header) for header in KERNELS.glob("*.h")),
            # -fopenmp only when compiling: the symbols come from torch's own OpenMP library.
            extra_compile_args=["-O3", "-std=gnu++17", "-fopenmp", "-Wno-psabi"],
            optional=True,  # without a compiler the plain torch path serves, and says so
        )
    ]
)
