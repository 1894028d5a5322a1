"""The directory of a fine-tuned task, and the labelled examples that one is trained on."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from model.decoder import parameter_shapes
from model.lora import LoraConfig
from model.tasks import TaskConfig
from tests.fuzz.target import Folder, Target, folder_target, parts_of
from tests.fuzz.weight_targets import REFUSALS, TINY, numbered, with_checksums
from training.task_data import Layout, read_examples
from weights.checkpoint import Checkpoint, save_checkpoint
from weights.task import TrainedTask, open_task, save_task

LORA = LoraConfig(1, 2.0, ("attn.c_attn", "wte"))
TASK = TaskConfig("classification", max_len=5, labels=("bad", "good"))
TRUNK = TINY
LAYOUTS = (
    Layout((("text",),), "label"),
    Layout((("text",), ("more",)), "label", ("label", "text", "more")),
    Layout((("text", "more"),), "label"),
)
TABLES = {
    "a.tsv": b"label\ttext\tmore\n0\tone\tx\n1\ttwo\ty\r\n",
    "b.csv": b'label,text,more\n0,"a ""b""\nc",x\n1,two,y\n',
    "c.jsonl": b'{"label": 0, "text": "one", "more": "x"}\n{"label": "1", "text": "\\u00e9"}\n',
}


@cache
def trunk() -> tuple[Checkpoint, tempfile.TemporaryDirectory[str]]:
    """The decoder that the task needs, and the folder that it lies in as long as it lives."""
    parent = tempfile.TemporaryDirectory(prefix="fuzz")
    tensors = numbered(parameter_shapes(TRUNK))
    path = Path(parent.name) / "trunk"
    return save_checkpoint(path, TRUNK, tensors, None, {"origin": "a test"}), parent


@cache
def task() -> Folder:
    """A task by LoRA; the checksums are those of the files as they are."""
    checkpoint, _ = trunk()
    with tempfile.TemporaryDirectory(prefix="fuzz") as parent:
        path = Path(parent) / "task"
        made = TrainedTask("t", TASK, "lora", {}, TRUNK, checkpoint.weights_hash, LORA)
        shapes = made.description(checkpoint.weights_hash).shapes()
        save_task(path, replace(made, tensors=numbered(shapes)), {"origin": "a test"})
        files = {file.name: file.read_bytes() for file in sorted(path.iterdir())}

    def read(path: Path) -> object:
        return open_task(path, checkpoint)

    return Folder(files, parts_of(files), read, REFUSALS, with_checksums)


def read_table(data: bytes) -> bool:
    """A byte for the layout, a byte for the kind of file, and the file."""
    layout, names = LAYOUTS[data[0] % len(LAYOUTS)], [*TABLES]
    with tempfile.TemporaryDirectory(prefix="fuzz") as parent:
        path = Path(parent) / names[data[1] % len(names)]
        path.write_bytes(data[2:])
        problems: list[str] = []
        read_examples(path, layout, problems)
        assert all(problems)
    return not problems


def table_seeds() -> list[bytes]:
    """Each file in the layout that it is for."""
    return [bytes([0, index]) + content for index, content in enumerate(TABLES.values())]


TASK_TARGETS = (
    folder_target(task),
    Target("task_data", table_seeds, lambda data: len(data) > 2 and read_table(data)),
)
