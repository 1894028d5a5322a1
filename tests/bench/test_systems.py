"""Who takes part, and how it is told who does not."""

from __future__ import annotations

import importlib.util

import pytest

from bench.systems import DTYPES, PEERS, installed, ours, versions


def test_a_missing_peer_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    absent = {"llama_cpp", "ctranslate2"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    present, left_out = installed([ours("float32"), *PEERS])
    assert [system.name for system in present][:2] == ["ours float32", "transformers float32"]
    assert not any(system.library in {"llama.cpp", "CTranslate2"} for system in present)
    assert len(left_out) == 6
    line = next(line for line in left_out if line.startswith("llama.cpp Q8_0: llama-cpp-python"))
    assert "pip install 'gpt2-server[peers]'" in line


def test_every_peer_is_held_against_a_dtype_of_ours() -> None:
    assert {peer.dtype for peer in PEERS} == set(DTYPES)


def test_versions_of_who_takes_part() -> None:
    assert versions([PEERS[0]]).keys() == {"gpt2-server", "torch", "transformers"}
