"""EleutherAI's lm-evaluation-harness, as a user runs it, against a live server.

Its ``local-completions`` backend scores through ``POST /v1/completions``; its ``hf`` backend scores
the same weights, exported, with transformers. Run by ``make test-clients``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model.tokenizer import Tokenizer
from tests.support.live_server import ROOT, live_server
from weights.export import export

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

BUNDLED = ROOT / "weights" / "bundled"

CONTEXT_LEN = 1_024

QUESTIONS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("The sun rises in the", (" east", " kitchen", " drawer", " north"), 0),
    ("She opened the door and", (" went in", " under of", " eleven"), 0),
    ("He drew his sword and", (" the of", " struck at his enemy", " a but"), 1),
    ("The captain of the ship gave the", (" orders", " purple", " he"), 0),
    ("It rained all night, and in the morning the streets were", (" dry", " wet", " loud"), 1),
    ("\u201cHow do you do?\u201d said the", (" young lady", " of the", " and not"), 0),
    ("The old man lit his pipe and began to", (" smoke", " fly", " the"), 0),
    ("They had not gone far when they heard a", (" noise", " are", " na\u00efve caf\u00e9"), 0),
    ("Two and two make", (" four", " five hundred", " were"), 0),
    ("My dear", (" Watson", " sir, I am", " \u2014"), 1),
)

TEXTS = ("docs/architecture.md", "README.md", "LICENSE")
"""Some longer than the context, so that they are cut into windows."""

CHOICES_TASK = """
task: local_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""

PERPLEXITY_TASK = """
task: local_perplexity
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}, {{metric: byte_perplexity}}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two tasks and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    names = ("context", "choices", "answer")
    rows: dict[str, list[dict[str, Any]]] = {
        "choices": [dict(zip(names, question, strict=True)) for question in QUESTIONS],
        "perplexity": [{"text": (ROOT / name).read_text()} for name in TEXTS],
    }
    for (name, lines), task in zip(rows.items(), (CHOICES_TASK, PERPLEXITY_TASK), strict=True):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / f"{name}.yaml").write_text(task.format(file=file))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "hf"
    export(BUNDLED, path)
    return path


def evaluate(tasks: Path, out: Path, backend: str, **model_args: object) -> dict[str, list[float]]:
    """Task -> the log-likelihood of every request, in the order of documents and choices."""
    args = ",".join(f"{name}={value}" for name, value in model_args.items())
    command = [sys.executable, "-m", "lm_eval", "--model", backend, "--model_args", args]
    command += ["--tasks", "local_choices,local_perplexity", "--include_path", str(tasks)]
    command += ["--output_path", str(out), "--log_samples", "--batch_size", "4", "--device", "cpu"]
    home = str(tasks / "home")
    offline = {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        command, env={**os.environ, **offline}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return {name: list(_likelihoods(out, name)) for name in ("local_choices", "local_perplexity")}


def _likelihoods(out: Path, task: str) -> Iterator[float]:
    (file,) = out.rglob(f"samples_{task}_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    for sample in sorted(samples, key=lambda sample: int(sample["doc_id"])):
        for (answer,) in sample["resps"]:
            yield float(answer[0] if isinstance(answer, list) else answer)


def num_tokens() -> dict[str, list[int]]:
    """Tokens that each log-likelihood is the sum of."""
    tokenizer = Tokenizer.from_directory(BUNDLED)
    choices = [len(tokenizer.encode(c)) for _, choices, _ in QUESTIONS for c in choices]
    texts = [len(tokenizer.encode((ROOT / name).read_text())) for name in TEXTS]
    return {"local_choices": choices, "local_perplexity": texts}


def test_the_harness_scores_here_as_with_transformers(
    tasks: Path, exported: Path, tmp_path: Path
) -> None:
    with live_server(BUNDLED, "--dtype", "float32") as server:
        ours = evaluate(
            tasks,
            tmp_path / "ours",
            "local-completions",
            model="bundled",
            base_url=f"{server.url}/v1/completions",
            tokenizer=exported,
            tokenizer_backend="huggingface",
            num_concurrent=3,
            max_length=CONTEXT_LEN,
        )
    theirs = evaluate(
        tasks,
        tmp_path / "theirs",
        "hf",
        pretrained=exported,
        dtype="float32",
        max_length=CONTEXT_LEN - 2,  # what the other backend's windows come to
    )
    assert max(num_tokens()["local_perplexity"]) > 2 * CONTEXT_LEN
    for task, counts in num_tokens().items():
        assert len(ours[task]) == len(counts) > 0
        apart = [
            abs(a - b) / count for a, b, count in zip(ours[task], theirs[task], counts, strict=True)
        ]
        print(f"{task}: {len(apart)} likelihoods, at most {max(apart):.1e} nats a token apart")
        assert max(apart) <= 1e-4
        assert max(ours[task]) < 0
