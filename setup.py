"""Builds the optional native kernels; everything declarative is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "model.kernels._native",
            ["model/kernels/native.cpp"],
            depends=["model/kernels/attention_paths.h"],
            # -fopenmp only when compiling: the symbols come from torch's own OpenMP library.
            extra_compile_args=["-O3", "-std=gnu++17", "-fopenmp", "-Wno-psabi"],
            optional=True,  # without a compiler the plain torch path serves, and says so
        )
    ]
)
