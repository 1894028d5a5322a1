"""Tensor bundles: what TensorFlow wrote is read, and nothing else is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.weights.formats import bundle_writer as bundles
from weights.formats.tensor_bundle import open_bundle
from weights.stored import CheckpointError

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "tf_gpt2"
INDEX = FIXTURES / "released" / "model.ckpt.index"
SHARDS = tuple(INDEX.with_suffix(f".data-0000{i}-of-00002") for i in range(2))

BIG = 1 << 62


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The index of a copy of the bundle that TensorFlow wrote, in two shards."""
    shutil.copytree(INDEX.parent, tmp_path / "copy")
    return tmp_path / "copy" / INDEX.name


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Where a test writes an index of its own; the one shard has 8 bytes."""
    (tmp_path / "odd.data-00000-of-00001").write_bytes(bytes(8))
    return tmp_path / "odd.index"


def load_all(index: Path) -> dict[str, torch.Tensor]:
    bundle = open_bundle(index)
    return bundle.load(bundle.entries)


def refusal(index: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        load_all(index)
    return caught.value.problems


def test_what_tensorflow_wrote() -> None:
    bundle = open_bundle(INDEX)
    assert [shard.name for shard in bundle.shards] == [shard.name for shard in SHARDS]
    assert len(bundle.entries) == 28
    assert bundle.entries["model/h1/attn/c_attn/w"].shape == (1, 8, 24)
    assert {entry.shard_id for entry in bundle.entries.values()} == {0, 1}
    assert bundle.entries["model/wte"].dtype == "F32"


def test_numbers_that_tensorflow_computed() -> None:
    """Adam's powers after seven steps; they lie beside a whole number, which is no weight."""
    bundle = open_bundle(FIXTURES / "fine_tuned" / "model-7.index")
    powers = bundle.load(["beta1_power", "beta2_power"])
    assert powers["beta1_power"].item() == pytest.approx(0.9**8)
    assert powers["beta2_power"].item() == pytest.approx(0.999**8)
    with pytest.raises(CheckpointError, match="global_step is I64, which is not supported"):
        bundle.load(["global_step"])


@pytest.mark.parametrize(("num_shards", "gap"), [(1, 0), (3, 0), (1, 1), (2, 3)])
def test_any_dtype_shape_and_place(num_shards: int, gap: int, tmp_path: Path) -> None:
    """With a gap, values lie in the file where no float should lie in memory."""
    tensors = {
        f"{dtype}/{len(shape)}": torch.randn(shape).to(dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
        for shape in ((), (3,), (1, 2, 3), (0, 4))
    }
    written = bundles.write_bundle(tmp_path / "a.b.index", tensors, num_shards=num_shards, gap=gap)
    loaded = load_all(written)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].data_ptr() % tensor.itemsize == 0
        assert torch.equal(loaded[name], tensor)


def test_the_files_are_not_written_through_the_tensors(index: Path) -> None:
    load_all(index)["model/wte"].fill_(1)
    assert not load_all(index)["model/wte"].eq(1).any()


# --- damaged files ---------------------------------------------------------------------------


def changed(content: bytes, at: int, mask: int) -> bytes:
    return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


@pytest.mark.parametrize("shard", SHARDS, ids=["first", "second"])
def test_every_byte_of_a_shard_is_guarded(shard: Path, index: Path) -> None:
    bundle = open_bundle(index)
    content = shard.read_bytes()
    for at in range(0, len(content), 31):
        (index.parent / shard.name).write_bytes(changed(content, at, 1 << at % 8))
        with pytest.raises(CheckpointError) as caught:
            bundle.load(bundle.entries)
        [problem] = caught.value.problems
        assert problem.startswith(f"{shard.name} is damaged: the checksum of tensor model/")


def test_damaged_tensors_are_all_named(index: Path) -> None:
    for shard in SHARDS:
        (index.parent / shard.name).write_bytes(bytes(shard.stat().st_size))
    assert len(refusal(index)) == 28


def test_a_truncated_index(index: Path) -> None:
    content = INDEX.read_bytes()
    for length in (0, 47, 48, 900, len(content) - 1):
        index.write_bytes(content[:length])
        [problem] = refusal(index)
        assert problem.startswith("model.ckpt.index is truncated")


@pytest.mark.parametrize("shard", SHARDS, ids=["first", "second"])
def test_a_truncated_shard(shard: Path, index: Path) -> None:
    content = shard.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        (index.parent / shard.name).write_bytes(content[:length])
        [problem] = refusal(index)
        assert problem.startswith(f"{shard.name} is truncated: {length:,} bytes, tensor model/")


def test_missing_files(index: Path) -> None:
    for shard in SHARDS:
        (index.parent / shard.name).unlink()
    (index.parent / SHARDS[1].name).mkdir()
    assert refusal(index) == [f"{shard.name} is missing" for shard in SHARDS]
    index.unlink()
    assert refusal(index) == ["model.ckpt.index is missing"]
    index.mkdir()
    assert refusal(index) == ["model.ckpt.index cannot be read: Is a directory"]


def test_a_shard_that_shrinks_after_it_was_looked_at(index: Path) -> None:
    bundle = open_bundle(index)
    for length, number in ((0, 0), (9, 1)):
        (index.parent / SHARDS[number].name).write_bytes(bytes(length))
    with pytest.raises(CheckpointError) as caught:
        bundle.load(bundle.entries)
    assert len(caught.value.problems) == 28
    (index.parent / SHARDS[0].name).unlink()
    with pytest.raises(CheckpointError, match="cannot be mapped"):
        bundle.load(bundle.entries)


# --- indexes that are signed and wrong -------------------------------------------------------

HEADER = (b"", bundles.header())
GOOD = bundles.entry(1, (2,), 0, 0, 8)


def test_a_table_that_is_no_index(odd: Path) -> None:
    odd.write_bytes(bundles.table(bundles.block([(b"a", GOOD)])))
    assert refusal(odd) == ["odd.index has no header"]
    odd.write_bytes(bundles.table(bundles.block([HEADER], 1)))
    assert refusal(odd) == [
        "odd.index is compressed with Snappy, only uncompressed blocks are supported"
    ]


def test_a_file_larger_than_any_index(odd: Path) -> None:
    with odd.open("wb") as file:
        file.truncate((8 << 20) + 1)
    assert refusal(odd) == ["odd.index has over 8,388,608 bytes, more than any index"]


HEADERS: Mapping[str, tuple[bytes, str]] = {
    "big-endian": (bundles.header(endianness=1), "is big-endian"),
    "version": (bundles.header(min_consumer=2), "is for readers of version 2, this one knows 1"),
    "no shards": (bundles.header(0), "has 0 shards"),
    "negative": (bundles.header(-1), "has -1 shards"),
    "many shards": (bundles.header(10**9), "has 1,000,000,000 shards, from 1 to 1,024"),
    "bytes": (bundles.field(1, b"x"), "has bytes in field 1, where a number belongs"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_refused(name: str, odd: Path) -> None:
    content, message = HEADERS[name]
    odd.write_bytes(bundles.table(bundles.block([(b"", content)])))
    [problem] = refusal(odd)
    assert message in problem


SLICE = bundles.field(7, bundles.field(1, bundles.field(1, 0)))
ENTRIES: Mapping[str, tuple[bytes, str]] = {
    "partitioned": (GOOD + SLICE, "tensor 'a' is partitioned into slices"),
    "another shard": (bundles.entry(1, (2,), 1, 0, 8), "lies in shard 1, there are 1"),
    "no shard": (bundles.entry(1, (2,), -1, 0, 8), "lies in shard -1, there are 1"),
    "before": (bundles.entry(1, (2,), 0, -4, 8), "has 8 bytes at -4"),
    "negative size": (bundles.entry(9, (2,), 0, 0, -8), "has -8 bytes at 0"),
    "behind": (bundles.entry(1, (2,), 0, 1, 8), "is truncated: 8 bytes, tensor a ends at 9"),
    "far behind": (bundles.entry(1, (2,), 0, BIG, 8), f"tensor a ends at {BIG + 8:,}"),
    "vast": (bundles.entry(1, (BIG // 8,), 0, 0, BIG // 2), f"tensor a ends at {BIG // 2:,}"),
    "small": (bundles.entry(1, (3,), 0, 0, 8), "has 8 bytes, which its shape (3,) has not"),
    "large": (bundles.entry(19, (3,), 0, 0, 8), "has 8 bytes, which its shape (3,) has not"),
    "negative dims": (bundles.entry(1, (-1, -2), 0, 0, 8), "the impossible shape (-1, -2)"),
    "vast dims": (bundles.entry(1, (BIG, 4), 0, 0, 8), "the impossible shape"),
    "vast and empty": (bundles.entry(1, (BIG, BIG, 0), 0, 0, 0), "the impossible shape"),
    "many dims": (bundles.entry(1, (1,) * 9, 0, 0, 4), "has 9 dimensions, at most 8"),
    "unknown rank": (
        bundles.field(1, 1) + bundles.field(2, bundles.field(3, 1)),
        "has a shape of unknown rank",
    ),
    "damaged": (GOOD, "the checksum of tensor a is wrong"),
    "a string": (bundles.entry(7, (2,), 0, 0, 8), "tensor a is DataType 7, which is not supported"),
    "dims of numbers": (bundles.field(2, bundles.field(2, 3)), "has a number in field 2"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_refused(name: str, odd: Path) -> None:
    content, message = ENTRIES[name]
    odd.write_bytes(bundles.table(bundles.block([HEADER, (b"a", content)])))
    [problem] = refusal(odd)
    assert message in problem
    assert "odd." in problem or "not supported" in problem


@pytest.mark.parametrize("key", [b"\0\1\2a\0\1", b"a\nb", b"\xff\xfe"])
def test_a_key_that_is_no_name(key: bytes, odd: Path) -> None:
    """The slices of a partitioned variable lie under binary keys."""
    odd.write_bytes(bundles.table(bundles.block([HEADER, (key, GOOD)])))
    [problem] = refusal(odd)
    assert "is no variable's name" in problem
    assert problem.isprintable()


def test_every_problem_is_in_one_message(odd: Path) -> None:
    wrong = {
        b"a": bundles.entry(1, (2,), 0, 0, 8),
        b"b": bundles.entry(1, (1,), 0, 4, 4),
        b"c": GOOD + SLICE,
        b"d": bundles.entry(1, (1,), 1, 20, 4),
    }
    entries = [(b"", bundles.header(3)), *wrong.items()]
    odd.write_bytes(bundles.table(bundles.block(entries)))
    assert refusal(odd) == [
        "odd.index: tensor 'c' is partitioned into slices, which is not supported",
        *(f"odd.data-0000{i}-of-00003 is missing" for i in range(3)),
        "odd.data-00000-of-00003: tensors a and b overlap",
    ]


# --- any bytes at all ------------------------------------------------------------------------

FILES_OF_BUNDLE = (INDEX, *SHARDS)
EDITS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 40),
        st.binary(max_size=12),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@settings(max_examples=300, deadline=None)
@given(EDITS)
def test_damage_is_refused_or_harmless(
    scratch: Path, edits: list[tuple[int, float, int, bytes]]
) -> None:
    contents = [file.read_bytes() for file in FILES_OF_BUNDLE]
    for number, where, num_removed, put in edits:
        at = int(where * len(contents[number]))
        contents[number] = contents[number][:at] + put + contents[number][at + num_removed :]
    for file, content in zip(FILES_OF_BUNDLE, contents, strict=True):
        (scratch / file.name).write_bytes(content)
    if problems_of(scratch / INDEX.name):
        return
    loaded, original = load_all(scratch / INDEX.name), load_all(INDEX)
    assert loaded.keys() == original.keys()
    assert all(torch.equal(loaded[name], original[name]) for name in original)


NUMBERS = st.one_of(st.integers(-9, 9), st.integers(-(1 << 63), (1 << 64) - 1))
FIELDS = st.builds(bundles.field, st.integers(0, 8), NUMBERS | st.binary(max_size=9))
VALUES = st.one_of(
    st.binary(max_size=30),
    st.lists(FIELDS, max_size=6).map(b"".join),
    st.builds(
        bundles.entry,
        st.integers(0, 25),
        st.lists(NUMBERS, max_size=3),
        *(NUMBERS, NUMBERS, NUMBERS),
    ),
)


@settings(max_examples=200, deadline=None)
@given(header=VALUES | st.just(bundles.header()), values=st.lists(VALUES, max_size=4))
def test_signed_nonsense_is_refused(scratch: Path, header: bytes, values: list[bytes]) -> None:
    """Behind a right checksum too, no bytes lead to another exception."""
    index = scratch / "signed.index"
    (scratch / "signed.data-00000-of-00001").write_bytes(bytes(16))
    keys = [(bytes([97 + i]), value) for i, value in enumerate(values)]
    index.write_bytes(bundles.table(bundles.block([(b"", header), *keys])))
    problems = problems_of(index)
    assert all(problem.isprintable() and len(problem) < 300 for problem in problems)


def problems_of(index: Path) -> list[str]:
    try:
        load_all(index)
    except CheckpointError as error:
        return error.problems
    return []
