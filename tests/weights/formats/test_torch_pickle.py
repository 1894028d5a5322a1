"""Files of torch.save: read without executing anything, and only if they are whole."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.support.trap import Trap
from weights.formats.torch_pickle import PickledTensors, read_pickled_tensors, read_torch_file
from weights.stored import CheckpointError

Tensors = dict[str, torch.Tensor]


def save(path: Path, values: object, *, as_zip: bool = True) -> Path:
    torch.save(values, path, _use_new_zipfile_serialization=as_zip)
    return path


@pytest.fixture
def tensors() -> Tensors:
    torch.manual_seed(0)
    return {"a": torch.randn(7, 5), "b": torch.randn(300).bfloat16(), "c": torch.randn(3).half()}


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def as_zip(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def problem_of(call: Callable[[], object]) -> str:
    """The one problem, on one line, without torch's advice to execute the pickle."""
    with pytest.raises(CheckpointError) as caught:
        call()
    assert len(caught.value.problems) == 1
    problem = caught.value.problems[0]
    assert "\n" not in problem
    assert "weights_only" not in problem
    return problem


def test_tensors_and_plain_values(tmp_path: Path, tensors: Tensors, as_zip: bool) -> None:
    path = save(tmp_path / "a.pt", {"model": tensors, "step": 3, "name": "x"}, as_zip=as_zip)
    values: Any = read_torch_file(path)
    assert (values["step"], values["name"]) == (3, "x")
    assert all(torch.equal(values["model"][name], tensors[name]) for name in tensors)


def test_a_zip_is_memory_mapped(tmp_path: Path, tensors: Tensors) -> None:
    values = read_torch_file(save(tmp_path / "mapped-here.pt", tensors))
    assert "mapped-here.pt" in Path("/proc/self/maps").read_text()
    del values


def test_a_malicious_pickle_does_not_run(tmp_path: Path, tensors: Tensors, as_zip: bool) -> None:
    canary = tmp_path / "canary"
    path = save(tmp_path / "a.pt", {**tensors, "trap": Trap(canary)}, as_zip=as_zip)
    assert "names posix.system" in problem_of(lambda: read_torch_file(path))
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "the trap would have sprung"


def test_a_harmless_class_is_named_too(tmp_path: Path, as_zip: bool) -> None:
    path = save(tmp_path / "a.pt", {"learning_rate": Fraction(1, 3)}, as_zip=as_zip)
    assert "names fractions.Fraction, which" in problem_of(lambda: read_torch_file(path))


# --- damage ----------------------------------------------------------------------------------


def test_truncation_at_every_boundary(tmp_path: Path, tensors: Tensors) -> None:
    path = save(tmp_path / "a.pt", tensors)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [record.header_offset for record in archive.infolist()]
        starts.append(archive.start_dir)
    for cut in {0, 1, 4, *starts, *(start - 1 for start in starts[1:]), len(content) - 1}:
        path.write_bytes(content[:cut])
        assert "a.pt is truncated" in problem_of(lambda: read_torch_file(path)), cut


@pytest.mark.parametrize("kept", [0, 1, 30, 200, 700, -700, -1])
def test_a_truncated_legacy_file(kept: int, tmp_path: Path, tensors: Tensors) -> None:
    path = save(tmp_path / "a.pt", tensors, as_zip=False)
    path.write_bytes(path.read_bytes()[:kept])
    assert "a.pt is truncated" in problem_of(lambda: read_torch_file(path))


def test_a_flipped_bit_of_a_weight(tmp_path: Path, tensors: Tensors) -> None:
    """torch takes the changed number: it does not look at the checksums of what it maps."""
    path = save(tmp_path / "a.pt", tensors)
    content = bytearray(path.read_bytes())
    content[content.find(tensors["b"].view(torch.uint8).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, mmap=True)["b"], tensors["b"])
    problem = problem_of(lambda: read_torch_file(path))
    assert problem == "a.pt is damaged: record 'a/data/1' differs from its checksum"


def test_a_compressed_record_is_not_taken_for_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"a": torch.zeros(1_000), "b": torch.randn(9_999)})
    with zipfile.ZipFile(path) as before:
        records = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(path, "w") as after:
        for name, content in records.items():
            after.writestr(name, content, zipfile.ZIP_DEFLATED if name == "a/data/0" else None)
    assert torch.load(path, mmap=True)["a"].any(), "torch itself takes what lies there"
    assert "is compressed" in problem_of(lambda: read_torch_file(path))


def test_records_that_share_their_bytes_are_not_read_again_and_again(tmp_path: Path) -> None:
    """Compared with its checksum for each of 60,000 entries, 100 MB would take hours."""
    path = save(tmp_path / "a.pt", {"a": torch.randn(1_000)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.filelist += archive.filelist * 9
        archive.writestr("a/end", b"")
    assert "the whole file" in problem_of(lambda: read_torch_file(path))


@pytest.mark.parametrize(
    "content", [b"", b"hello world", b"\x80\x02.", b"PK\x03\x04", b"\x00" * 99]
)
def test_another_kind_of_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    assert problem_of(lambda: read_torch_file(tmp_path / "a.pt")).startswith("a.pt is truncated")


def test_no_file(tmp_path: Path) -> None:
    assert problem_of(lambda: read_torch_file(tmp_path / "a.pt")) == "a.pt is missing"
    assert "cannot be read: Is a directory" in problem_of(lambda: read_torch_file(tmp_path))


def test_a_name_does_not_make_it_safetensors(tmp_path: Path, tensors: Tensors) -> None:
    """torch.load of a path that ends so would open it as such."""
    path = save(tmp_path / "a.safetensors", tensors, as_zip=False)
    values: Any = read_torch_file(path)
    assert values.keys() == tensors.keys()


edits = st.lists(
    st.tuples(st.sampled_from(["flip", "set", "cut", "insert"]), st.floats(0, 1), st.binary()),
    min_size=1,
    max_size=4,
)


def mutated(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, more in changes:
        at = int(place * (len(content) - 1)) if content else 0
        if kind == "flip":
            content = (
                content[:at] + bytes(b ^ 0x10 for b in content[at : at + 1]) + content[at + 1 :]
            )
        elif kind == "set":
            content = content[:at] + more + content[at + len(more) :]
        elif kind == "cut":
            content = content[:at]
        else:
            content = content[:at] + more + content[at:]
    return content


@settings(max_examples=200, deadline=None)
@given(changes=edits, as_zip=st.booleans())
def test_any_damage_is_told_or_harmless(
    changes: list[tuple[str, float, bytes]], as_zip: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A zip gives the same tensors or none. A legacy file can lie, but not break anything."""
    values = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(5).bfloat16(), "n": 7}
    path = save(tmp_path_factory.getbasetemp() / "mutated.pt", values, as_zip=as_zip)
    path.write_bytes(mutated(path.read_bytes(), changes))
    found: Any = None
    problems: list[str] = []
    try:
        found = read_torch_file(path)
    except CheckpointError as error:
        problems = error.problems
    assert [len(problem.splitlines()) for problem in problems] in ([], [1])
    if as_zip and not problems:
        assert found.keys() == values.keys()
        assert all(
            torch.equal(torch.as_tensor(found[n]), torch.as_tensor(values[n])) for n in found
        )


# --- tensors by name -------------------------------------------------------------------------


def test_views_and_shared_storage(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    values = {
        "base": base,
        "same": base,
        "turned": base.t(),
        "column": base[:, 1],
        "parameter": nn.Parameter(base[1:]),
        "negated": torch._neg_view(base),
    }
    stored = read_pickled_tensors([save(tmp_path / "a.bin", values)])
    assert stored.problems == []
    for name, value in values.items():
        loaded = stored.load(name)
        assert loaded.is_contiguous()
        assert not loaded.requires_grad
        assert stored.shape(name) == tuple(value.shape)
        assert torch.equal(loaded, value)
        assert loaded.numpy().tobytes() == value.detach().resolve_neg().numpy().tobytes()
    assert stored.load("base").data_ptr() == stored.load("same").data_ptr()


def test_dtypes_as_safetensors_spells_them(tmp_path: Path, tensors: Tensors) -> None:
    more = {"d": torch.ones(2).double(), "e": torch.ones(2, dtype=torch.bool)}
    stored = read_pickled_tensors([save(tmp_path / "a.bin", {**tensors, **more})])
    found = {name: stored.dtype(name) for name in stored.owners}
    assert found == {"a": "F32", "b": "BF16", "c": "F16", "d": "torch.float64", "e": "torch.bool"}


def quantised() -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def nested() -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


ODD: dict[str, tuple[Callable[[], object], str]] = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "dense tensor but Tensor, torch.sparse_coo"),
    "quantised": (quantised, "dense tensor but Tensor, torch.strided, torch.qint8"),
    "nested": (nested, "dense tensor but Tensor, nested"),
    "meta": (lambda: torch.ones(3, device="meta"), "on device meta"),
    "expanded": (lambda: torch.ones(1).expand(10**15), "larger than what is stored"),
    "number": (lambda: 0.5, "is no tensor but float"),
    "list": (lambda: [torch.ones(3)], "is no tensor but list"),
    "nothing": (lambda: None, "is no tensor but NoneType"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_plain_tensor_is_named(kind: str, tmp_path: Path, tensors: Tensors) -> None:
    make, message = ODD[kind]
    stored = read_pickled_tensors([save(tmp_path / "a.bin", {**tensors, "odd.one": make()})])
    assert len(stored.problems) == 1
    assert stored.problems[0].startswith("a.bin: odd.one ")
    assert message in stored.problems[0]
    assert stored.owners.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("values", "message"),
    [([1], "a.bin must hold tensors by name, not list"), ({3: torch.ones(1)}, "an entry 3")],
)
def test_what_is_no_state_dict(values: object, message: str, tmp_path: Path) -> None:
    (problem,) = read_pickled_tensors([save(tmp_path / "a.bin", values)]).problems
    assert message in problem


def test_every_file_is_looked_at(tmp_path: Path, tensors: Tensors) -> None:
    save(tmp_path / "a.bin", tensors)
    save(tmp_path / "c.bin", {"b": torch.ones(1), "d": torch.ones(1)})
    stored = read_pickled_tensors(tmp_path / f"{name}.bin" for name in "abc")
    assert stored.problems == ["b.bin is missing", "tensor b is in both a.bin and c.bin"]
    assert stored.owners == {"a": "a.bin", "b": "a.bin", "c": "a.bin", "d": "c.bin"}


def test_a_subclass_is_named() -> None:
    class Odd(torch.Tensor):
        pass

    stored = PickledTensors()
    stored.add("a.bin", {"x": torch.ones(2).as_subclass(Odd)})
    assert stored.problems == [
        "a.bin: x is no plain dense tensor but Odd, torch.strided, torch.float32"
    ]
