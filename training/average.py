"""Weights between two checkpoints: what was learned last, without what was forgotten meanwhile.

    python -m training.average FIRST SECOND SHARE DEST

SECOND began where FIRST ended; SHARE, 0 to 1, is how far DEST is on the way (Wortsman et al. 2022,
Robust fine-tuning of zero-shot models, section 3).
"""

from __future__ import annotations

import sys
from pathlib import Path

from model.tokenizer import VOCABULARY_FILES
from training.errors import TrainingError
from weights.checkpoint import Checkpoint, open_plain_checkpoint, save_checkpoint


def average(first: Path, second: Path, share: float, dest: Path) -> Checkpoint:
    """Write the checkpoint ``dest``, in the dtypes of ``first``, averaged in float32.

    Raises TrainingError where the two are not of one shape, share is not from 0 to 1, or the
    vocabularies differ; CheckpointError where one of them is no checkpoint or ``dest`` exists.
    """
    a, b = open_plain_checkpoint(first), open_plain_checkpoint(second)
    problems = []
    if not 0 <= share <= 1:
        problems.append(f"share must be from 0 to 1, got {share}")
    if a.config != b.config:
        problems.append(f"{first} and {second} are not of one shape")
    if _vocabulary(first) != _vocabulary(second):
        problems.append(f"{first} and {second} have different vocabularies")
    if problems:
        raise TrainingError(problems)
    tensors = {
        name: tensor.float().lerp(b.tensors[name].float(), share).to(tensor.dtype)
        for name, tensor in a.tensors.items()
    }
    source = {
        "origin": "training.average",
        "format": "gpt2-server",
        "share": share,
        "first": a.source,
        "second": b.source,
    }
    return save_checkpoint(dest, a.config, tensors, first, source)


def _vocabulary(path: Path) -> dict[str, bytes]:
    files = (path / name for name in VOCABULARY_FILES)
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def main(first: str, second: str, share: str, dest: str) -> None:
    """See the module."""
    average(Path(first), Path(second), float(share), Path(dest))


if __name__ == "__main__":
    main(*sys.argv[1:])
