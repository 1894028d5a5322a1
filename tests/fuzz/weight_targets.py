"""Checkpoints of every layout, as small as they can be, so that a damage meets what counts."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from model.config import GPTConfig
from model.decoder import parameter_shapes
from tests.fuzz.target import Folder, Part, folder_target, parts_of
from tests.support.nano_models import min_gpt, nano_gpt
from tests.weights.formats.bundle_writer import block, entry, header, raw, signed, table
from weights.checkpoint import open_checkpoint, open_source, save_checkpoint
from weights.formats.crc32c import masked_crc32c
from weights.formats.foreign import Hints
from weights.integrity import CHECKSUMS, file_crc32c
from weights.stored import CheckpointError

TINY = GPTConfig(
    vocab_size=3, num_positions=5, num_channels=2, num_layers=1, num_heads=1, num_inner=8
)
REFUSALS = (CheckpointError,)
HF_CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_layer": 1,
    "n_embd": 2,
    "n_head": 1,
    "n_positions": 5,
    "n_inner": None,
    "vocab_size": 3,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
NANO_SIZES: dict[str, Any] = {
    "n_layer": 1,
    "n_head": 1,
    "n_embd": 2,
    "block_size": 5,
    "vocab_size": 3,
}


def encoded(values: Any) -> bytes:
    """JSON."""
    return json.dumps(values).encode()


def numbered(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes, all different."""
    return {
        name: torch.arange(float(np.prod(shape))).view(shape) + index
        for index, (name, shape) in enumerate(shapes.items())
    }


def hf_tensors() -> dict[str, torch.Tensor]:
    """Those of a Hugging Face checkpoint."""
    tensors = numbered(parameter_shapes(TINY))
    return {
        name: tensor.t().contiguous() if ".c_" in name and tensor.dim() == 2 else tensor
        for name, tensor in tensors.items()
    }


@cache
def hf_folder(*fuzzed: str) -> Folder:
    """Hugging Face's layout."""
    files = {
        "config.json": encoded(HF_CONFIG),
        "generation_config.json": encoded({"eos_token_id": [0, 2]}),
        WEIGHTS: save(hf_tensors()),
    }
    length = int.from_bytes(files[WEIGHTS][:8], "little")
    numbers = files[WEIGHTS][8 + length :]
    header = Part(WEIGHTS, files[WEIGHTS][8 : 8 + length], lambda text: with_header(text, numbers))
    parts = parts_of(files, *fuzzed)
    return Folder(files, (*parts, header), open_checkpoint, REFUSALS)


def with_header(text: bytes, numbers: bytes) -> bytes:
    """A safetensors file whose header says ``text``."""
    return struct.pack("<Q", len(text)) + text + numbers


@cache
def safetensors() -> Folder:
    """The weights, and their header apart from its length."""
    return hf_folder(WEIGHTS)


@cache
def config_json() -> Folder:
    """What describes it."""
    return hf_folder("config.json", "generation_config.json")


@cache
def shards() -> Folder:
    """The same in two shards."""
    tensors = hf_tensors()
    owned = {f"model-0000{n}-of-00002.safetensors": [*tensors][n - 1 :: 2] for n in (1, 2)}
    weight_map = {name: shard for shard, names in owned.items() for name in names}
    files = {
        "config.json": encoded(HF_CONFIG),
        INDEX: encoded({"metadata": {"total_size": 1}, "weight_map": weight_map}),
        **{shard: save({name: tensors[name] for name in names}) for shard, names in owned.items()},
    }
    return Folder(files, parts_of(files, INDEX, *owned), open_checkpoint, REFUSALS)


@cache
def own_checkpoint() -> Folder:
    """Our own layout; the checksums are those of the files as they are."""
    with tempfile.TemporaryDirectory() as parent:
        path = Path(parent) / "own"
        save_checkpoint(path, TINY, numbered(parameter_shapes(TINY)), None, {"origin": "a test"})
        files = {file.name: file.read_bytes() for file in sorted(path.iterdir())}
    return Folder(files, parts_of(files), open_checkpoint, REFUSALS, with_checksums)


def with_checksums(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """``files``, with a source.json that agrees, unless it is what is fuzzed."""
    try:
        source = json.loads(files["source.json"])
        recorded = source[CHECKSUMS]
        for name in recorded:
            if name in files:
                recorded[name] = crc32c_of(files[name])
        return {**files, "source.json": encoded(source)}
    except (ValueError, TypeError, KeyError, RecursionError):
        return files


def crc32c_of(content: bytes) -> str:
    """As source.json writes it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return file_crc32c(Path(file.name))


@cache
def tf_bundle() -> Folder:
    """OpenAI's TensorFlow layout, and its table's entries and index apart from checksums."""
    tensors = {their_name(name): tensor for name, tensor in tf_tensors().items()}
    data, entries = b"", [(b"", header())]
    for name, tensor in sorted(tensors.items()):
        content = raw(tensor)
        crc = masked_crc32c(content)
        value = entry(1, tensor.shape, 0, len(data), len(content), crc)
        entries.append((name.encode(), value))
        data += content
    content = block(entries)[:-5]
    files = {
        "model.ckpt.index": table(block(entries)),
        "hparams.json": encoded({"n_vocab": 3, "n_ctx": 5, "n_embd": 2, "n_head": 1, "n_layer": 1}),
        "checkpoint": b'model_checkpoint_path: "model.ckpt"\n',
        "model.ckpt.data-00000-of-00001": data,
        "encoder.json": encoded({"<|endoftext|>": 2}),
    }
    entries_alone = Part("model.ckpt.index", content, lambda changed: table(signed(changed)))
    return Folder(files, (*parts_of(files), entries_alone), open_source, REFUSALS)


def tf_tensors() -> dict[str, torch.Tensor]:
    """Matrices as (1, in, out)."""
    tensors = numbered(parameter_shapes(TINY))
    return {
        name: tensor.t()[None].contiguous() if ".c_" in name and tensor.dim() == 2 else tensor
        for name, tensor in tensors.items()
    }


def their_name(ours: str) -> str:
    """``h.0.attn.c_attn.weight`` as model/h0/attn/c_attn/w."""
    parts = ours.replace("h.0.", "h0.").split(".")
    if parts[-2] in {"wte", "wpe"}:
        return "/".join(["model", parts[-2]])
    kind = "g" if parts[-2].startswith("ln_") and parts[-1] == "weight" else parts[-1][0]
    return "/".join(["model", *parts[:-1], kind])


@cache
def torch_zip() -> Folder:
    """nanoGPT's file of torch.save, as it lies and by its pickle."""
    whole = io.BytesIO()
    torch.save({"model": nano_gpt(**NANO_SIZES).state_dict(), "model_args": NANO_SIZES}, whole)
    archive = whole.getvalue()
    files = {"ckpt.pt": archive}
    pickle = Part("ckpt.pt", pickle_of(archive), lambda changed: with_pickle(archive, changed))
    return Folder(files, (*parts_of(files), pickle), _open_torch, REFUSALS)


@cache
def torch_old() -> Folder:
    """minGPT's bare state dict and the configuration of its run; and a file from before zips."""
    model = min_gpt(**NANO_SIZES).state_dict()
    old = io.BytesIO()
    torch.save(model, old, _use_new_zipfile_serialization=False)
    settings = {"model": {"model_type": None, "n_layer": 1, "n_head": 1, "n_embd": 2}}
    files = {"model.pt": old.getvalue(), "config.json": encoded(settings)}
    return Folder(files, parts_of(files), _open_torch, REFUSALS)


def _open_torch(path: Path) -> object:
    return open_source(path, Hints(num_heads=1, vocab_size=3, eos_token_id=0))


def pickle_of(archive: bytes) -> bytes:
    """The pickle of a file of torch.save."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return next(opened.read(n) for n in opened.namelist() if n.endswith("data.pkl"))


def with_pickle(archive: bytes, pickle: bytes) -> bytes:
    """The file with another pickle in it, and checksums that are right."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as opened, zipfile.ZipFile(written, "w") as other:
        for name in opened.namelist():
            other.writestr(name, pickle if name.endswith("data.pkl") else opened.read(name))
    return written.getvalue()


@cache
def params_npy() -> Folder:
    """The first GPT's files of numbers; the header of one of them apart from its numbers."""
    config = GPTConfig(3, 5, 2, 1, 1, 8, norm_placement="post")
    shapes = [
        (1, *shape[::-1]) if ".c_" in name and len(shape) == 2 else shape
        for name, shape in openai_shapes(config)
    ]
    count = sum(int(np.prod(shape)) for shape in shapes)
    files = {"params_shapes.json": encoded(shapes)}
    for index, part in enumerate(np.array_split(np.arange(count, dtype=np.float32), 2)):
        written = io.BytesIO()
        np.save(written, part)
        files[f"params_{index}.npy"] = written.getvalue()

    def read(path: Path) -> object:
        return open_source(path, Hints(num_heads=1))

    return Folder(files, parts_of(files), read, REFUSALS)


def openai_shapes(config: GPTConfig) -> list[tuple[str, tuple[int, ...]]]:
    """Our names and shapes in the order of OpenAI's graph."""
    ours = parameter_shapes(config)
    order = ["wpe.weight", "wte.weight"]
    for name in ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2"):
        order += [f"h.0.{name}.weight", f"h.0.{name}.bias"]
    return [(name, ours[name]) for name in order]


WEIGHT_TARGETS = (
    *map(folder_target, (safetensors, config_json, shards, own_checkpoint)),
    *map(folder_target, (tf_bundle, torch_zip, torch_old, params_npy)),
)
