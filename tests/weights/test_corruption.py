"""Checkpoints of every layout, damaged at random: refused by name, or what they were before.

The layouts differ in what they can notice. Our own has a checksum for every file, TensorFlow's for
its tables and tensors, torch's archives for each member. Safetensors have none: there, damage is
done to all but the values, which are then looked at for NaN only.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model.tokenizer import Tokenizer
from tests.support.nano_models import nano_gpt, nano_values
from tests.support.vocabularies import saved, trained
from weights.checkpoint import Checkpoint
from weights.convert import convert
from weights.stored import CheckpointError

RELEASED = Path(__file__).resolve().parents[1] / "fixtures" / "tf_gpt2" / "released"


@dataclass(frozen=True)
class Sound:
    """A checkpoint that converts, and what came out.

    ``checked`` are the files in which any changed byte must be noticed or mean nothing; in the
    others bytes are only taken away from the end.
    """

    source: Path
    folder: Path
    checked: tuple[str, ...]
    converted: Checkpoint

    @property
    def files(self) -> list[Path]:
        return sorted(file for file in self.folder.iterdir() if file.is_file())


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sound]:
    """One checkpoint of each layout, with every parameter random."""
    from tests.weights.conftest import write_hf

    folder = tmp_path_factory.mktemp("sound")
    whole = write_hf(folder / "whole", vocab_size=300)
    sharded = write_hf(folder / "sharded", max_shard_size="8KB")
    pickled = write_hf(folder / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    nano = folder / "nano"
    nano.mkdir()
    torch.save(nano_values(nano_gpt()), nano / "ckpt.pt")
    tf = folder / "tf"
    shutil.copytree(RELEASED, tf)
    saved(trained(["<|endoftext|>"], 290), whole)
    own = convert(whole, folder / "own").path
    wide = write_hf(folder / "wide", vocab_size=300, n_embd=32)
    quantised = convert(wide, folder / "quantised", vocabulary=whole, quantization="int4").path
    (whole / "tokenizer.json").unlink()
    every = {
        "own": (own, _with_checksums(own)),
        "quantised": (quantised, _with_checksums(quantised)),
        "whole": (whole, ()),
        "sharded": (sharded, ()),
        "pickled": (pickled, ("pytorch_model.bin",)),
        "nano": (nano / "ckpt.pt", ("ckpt.pt",)),
        "tf": (tf, tuple(file.name for file in tf.glob("model.ckpt.*"))),
    }
    return {
        name: Sound(
            source,
            source if source.is_dir() else source.parent,
            checked,
            convert(source, folder / f"{name}.converted"),
        )
        for name, (source, checked) in every.items()
    }


def _with_checksums(folder: Path) -> tuple[str, ...]:
    return tuple(file.name for file in folder.iterdir() if file.name != "source.json")


LAYOUTS = ("own", "quantised", "whole", "sharded", "pickled", "nano", "tf")
COUNT = itertools.count()


def converts_equal_or_is_refused(sound: Sound, damage: Callable[[Path], None]) -> bool:
    """Damage a copy and convert it; whether it was refused. Anything else fails."""
    scene = sound.folder.parent / f"scene.{next(COUNT)}"
    shutil.copytree(sound.folder, scene / "copy")
    try:
        damage(scene / "copy")
        source = scene / "copy"
        if sound.source != sound.folder:
            source /= sound.source.name
        try:
            found = convert(source, scene / "dest")
        except CheckpointError as error:
            problems = error.problems
        else:
            assert_same(found, sound.converted)
            return False
        assert problems
        assert all(problem and "\n" not in problem for problem in problems)
        assert [path.name for path in scene.iterdir()] == ["copy"], "something was left behind"
        return True
    finally:
        shutil.rmtree(scene)


def assert_same(found: Checkpoint, meant: Checkpoint) -> None:
    assert found.config == meant.config
    assert found.tensors.keys() == meant.tensors.keys()
    for name, tensor in meant.tensors.items():
        assert torch.equal(found.tensors[name], tensor), name
    assert found.quantization == meant.quantization
    assert found.matrices.keys() == meant.matrices.keys()
    for name, matrix in meant.matrices.items():
        assert torch.equal(found.matrices[name].packed, matrix.packed), name
        assert torch.equal(found.matrices[name].scales, matrix.scales), name
    vocabularies = [
        Tokenizer.from_directory(one.path).encode("the cat thought <|endoftext|>")
        for one in (found, meant)
        if (one.path / "tokenizer.json").exists()
    ]
    assert len(vocabularies) in (0, 2)
    assert vocabularies[:1] == vocabularies[1:]


def header_len(file: Path) -> int:
    """Bytes of a safetensors file before its values."""
    return 8 + int.from_bytes(file.read_bytes()[:8], "little")


def damage_one(data: st.DataObject, sound: Sound) -> Callable[[Path], None]:
    """One damage to one file, chosen by hypothesis."""
    name = data.draw(st.sampled_from([file.name for file in sound.files]))
    content = (sound.folder / name).read_bytes()
    kinds = ["cut", "remove"]
    changeable = len(content) if name in sound.checked else 0
    if name.endswith(".safetensors") and name not in sound.checked:
        changeable = header_len(sound.folder / name)
    if changeable:
        kinds += ["flip", "overwrite", "insert"]
    kind = data.draw(st.sampled_from(kinds))
    if kind == "remove":
        return lambda folder: (folder / name).unlink()
    if kind == "cut":
        end = data.draw(st.integers(0, len(content) - 1))
        return lambda folder: _write(folder / name, content[:end])
    at = data.draw(st.integers(0, changeable - 1))
    if kind == "flip":
        changed = content[at] ^ (1 << data.draw(st.integers(0, 7)))
        return lambda folder: _write(
            folder / name, content[:at] + bytes([changed]) + content[at + 1 :]
        )
    noise = data.draw(st.binary(min_size=1, max_size=8))
    rest = content[at + len(noise) :] if kind == "overwrite" else content[at:]
    return lambda folder: _write(folder / name, content[:at] + noise + rest)


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), layout=st.sampled_from(LAYOUTS))
def test_damage_is_noticed_or_means_nothing(
    sounds: dict[str, Sound], data: st.DataObject, layout: str
) -> None:
    sound = sounds[layout]
    converts_equal_or_is_refused(sound, damage_one(data, sound))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_sound_ones_convert(sounds: dict[str, Sound], layout: str) -> None:
    assert not converts_equal_or_is_refused(sounds[layout], lambda _: None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_short_at_every_boundary(sounds: dict[str, Sound], layout: str) -> None:
    """Empty, a byte missing, half; and for safetensors the header's length and the header."""
    sound = sounds[layout]
    for file in sound.files:
        content = file.read_bytes()
        ends = {0, 1, len(content) // 2, len(content) - 1}
        if file.suffix == ".safetensors":
            ends |= {7, 8, header_len(file) - 1, header_len(file)}
        for end in sorted(ends):
            refused = converts_equal_or_is_refused(
                sound,
                lambda folder, name=file.name, cut=content[:end]: _write(folder / name, cut),  # type: ignore[misc]
            )
            is_needed = file.name not in {"generation_config.json", "checkpoint"}
            assert refused or not is_needed or content[:end].strip() == content.strip(), file.name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_file_is_named(sounds: dict[str, Sound], layout: str) -> None:
    sound = sounds[layout]
    optional = {"generation_config.json", "checkpoint"}
    for file in sound.files:
        refused = converts_equal_or_is_refused(
            sound,
            lambda folder, name=file.name: (folder / name).unlink(),  # type: ignore[misc]
        )
        assert refused or file.name in optional, file.name


@pytest.mark.parametrize("layout", ["whole", "sharded"])
def test_two_tensors_swapped_in_shape_are_both_named(
    sounds: dict[str, Sound], layout: str, tmp_path: Path
) -> None:
    sound = sounds[layout]
    copy = tmp_path / "copy"
    shutil.copytree(sound.folder, copy)
    one, other = "transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.c_fc.weight"
    files = {name: file for file in copy.glob("*.safetensors") for name in load_file(file)}
    loaded = {name: load_file(files[name]) for name in (one, other)}
    swapped = {one: loaded[other][other].clone(), other: loaded[one][one].clone()}
    for file in {files[one], files[other]}:
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        tensors |= {name: swapped[name] for name in tensors if name in swapped}
        save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        convert(copy, tmp_path / "dest")
    told = [problem.split("tensor ")[1].split()[0] for problem in caught.value.problems]
    assert told == ["h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight"]
    assert not (tmp_path / "dest").exists()


def test_a_changed_configuration_of_ours_is_noticed(
    sounds: dict[str, Sound], tmp_path: Path
) -> None:
    """Another number of heads fits every shape: it would be another model, and nobody would see."""
    copy = tmp_path / "copy"
    shutil.copytree(sounds["own"].folder, copy)
    values = json.loads((copy / "config.json").read_text())
    values["config"]["num_heads"] = 4
    (copy / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged: its CRC-32C is"):
        convert(copy, tmp_path / "dest")
