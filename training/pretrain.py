"""Pretraining (GPT paper, section 3.1): text in, a checkpoint that the server takes out."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from model.decoder import GPT
from training.config import PretrainConfig
from training.curve import Curve, Point
from training.errors import TrainingError
from training.held_out import Score
from training.learner import Learner
from training.preparation import Preparation, prepare
from weights.checkpoint import open_checkpoint, save_checkpoint

__all__ = ["PretrainConfig", "PretrainReport", "TrainingError", "pretrain"]

_SAMPLE_WINDOWS = 8
"""Windows of each held-out text that are scored in the course of a run."""


@dataclass(frozen=True, slots=True)
class PretrainReport:
    """What came out. ``scores`` are of the saved checkpoint, one for each held-out text."""

    checkpoint: Path
    num_parameters: int
    num_steps: int
    num_tokens: int
    loss: float
    """Mean training loss of the last twentieth of the steps, in nats per token."""
    elapsed_s: float
    scores: tuple[Score, ...]

    @property
    def bits_per_byte(self) -> float | None:
        """Over all held-out texts; None without any."""
        return Score.total(self.scores).bits_per_byte if self.scores else None

    def lines(self) -> list[str]:
        """For people."""
        rate = self.num_tokens / self.elapsed_s if self.elapsed_s else 0.0
        return [
            f"{self.checkpoint}: {self.num_parameters:,} parameters",
            f"{self.num_tokens:,} tokens in {self.num_steps:,} steps, "
            f"{self.elapsed_s / 60:.1f} minutes, {rate:,.0f} tokens/s, loss {self.loss:.3f}",
            *_score_lines(self.scores),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as report.json has them."""
        scores = [{**asdict(s), "bits_per_byte": s.bits_per_byte} for s in self.scores]
        values = asdict(self) | {"scores": scores, "bits_per_byte": self.bits_per_byte}
        return values | {"checkpoint": str(self.checkpoint)}


def _score_lines(scores: tuple[Score, ...]) -> list[str]:
    rows = [*scores, Score.total(scores)] if scores else []
    return [f"{score.bits_per_byte:.4f} bits per byte  {score.name}" for score in rows]


def pretrain(config: PretrainConfig) -> PretrainReport:
    """Train from the start, or from where the same command was interrupted.

    On a CPU the weights that come out depend on the configuration, the data, the number of threads
    and the version of torch alone, bit for bit, however often the run was interrupted. Raises
    TrainingError before anything is trained, or when the loss is no longer a number.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError(["device is cuda, but torch finds no GPU here"])
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    run = _Run(config, prepare(config))
    run.learn()
    run.curve.draw()
    report = run.report()
    run.prepared.directory.write_json("report.json", report.to_dict())
    return report


class _Run:
    """The loop, and what is saved and shown on the way."""

    def __init__(self, config: PretrainConfig, prepared: Preparation) -> None:
        self.config = config
        self.prepared = prepared
        self.learner = Learner(config, prepared.decoder)
        if prepared.start is not None:
            self.learner.load_parameters(prepared.start.tensors)
        state = prepared.directory.load_state()
        self._elapsed_s = 0.0
        if state is not None:
            self.learner.load_state_dict(state["learner"])
            self._elapsed_s = state["elapsed_s"]
        self.curve = Curve(prepared.directory.curve, self.learner.num_steps_done)
        self._started_at = time.perf_counter()
        self._saved_at = self._started_at

    @property
    def elapsed_s(self) -> float:
        """Seconds of this run, those before an interruption included."""
        return self._elapsed_s + time.perf_counter() - self._started_at

    def learn(self) -> None:
        """Take the steps that are left, and save at every interval and at the end."""
        num_steps = self.prepared.schedule.num_steps
        first = self.learner.num_steps_done
        with tqdm(total=num_steps, initial=first, unit="step", dynamic_ncols=True) as bar:
            for step in range(first, num_steps):
                point = self._step(step)
                self.curve.points.append(point)
                rate = self.config.batch_tokens * (step + 1 - first) / self._session_s
                bar.set_postfix_str(f"loss {point.loss:.3f}, {rate:,.0f} tokens/s", refresh=False)
                bar.update()
                if point.held_out_bits_per_byte is not None:
                    self.curve.draw()
                    bar.write(f"step {point.step}: {_held_out_line(point)}", file=sys.stderr)
                if point.step == num_steps or self._is_save_due(point.step):
                    self._save()

    @property
    def _session_s(self) -> float:
        return time.perf_counter() - self._started_at

    def _step(self, step: int) -> Point:
        schedule = self.prepared.schedule
        rate = self.config.learning_rate * schedule.rate_at(step)
        batch = self.prepared.batches.at(step, schedule.window_len_at(step))
        loss = self.learner.step(batch, rate)
        if not math.isfinite(loss):
            raise TrainingError([f"the loss is {loss} at step {step + 1}: lower learning_rate"])
        bits = None
        if (step + 1) % self.config.held_out_steps == 0:
            scores = self.prepared.held_out.score(
                self.learner.model, self.learner.dtype, _SAMPLE_WINDOWS
            )
            bits = Score.total(scores).bits_per_byte if scores else None
        num_tokens = (step + 1) * self.config.batch_tokens
        return Point(step + 1, num_tokens, loss, rate, self.elapsed_s, bits)

    def _is_save_due(self, num_steps_done: int) -> bool:
        if self.config.checkpoint_steps is not None:
            return num_steps_done % self.config.checkpoint_steps == 0
        return time.perf_counter() - self._saved_at >= self.config.checkpoint_s

    def _save(self) -> None:
        """The state goes last: a process that dies before redoes the interval, and all of this."""
        directory = self.prepared.directory
        self.curve.save()
        directory.replace_checkpoint(self._export)
        directory.save_state({"learner": self.learner.state_dict(), "elapsed_s": self.elapsed_s})
        self._saved_at = time.perf_counter()

    def _export(self, dest: Path) -> None:
        tensors: dict[str, Tensor] = {
            name: parameter.detach().cpu().to(torch.bfloat16)
            for name, parameter in self.learner.model.named_parameters()
        }
        source: dict[str, Any] = {
            "origin": "gpt2-server pretrain",
            "format": "gpt2-server",
            "num_steps_done": self.learner.num_steps_done,
            "num_steps": self.prepared.schedule.num_steps,
            "data_sha256": self.prepared.data_sha256,
            "run": self.config.identity(),
        }
        if self.prepared.start is not None:
            source["started_from"] = self.prepared.start.source
        vocabulary = self.prepared.directory.vocabulary
        save_checkpoint(dest, self.prepared.decoder, tensors, vocabulary, source)

    def report(self) -> PretrainReport:
        """Score the checkpoint as it was saved, on the whole of every held-out text."""
        elapsed_s = self.curve.points[-1].elapsed_s
        checkpoint = open_checkpoint(self.prepared.directory.checkpoint)
        model = GPT(checkpoint.config)
        model.load_state_dict(dict(checkpoint.tensors), strict=False)  # a tied head is not listed
        model.to(self.learner.device)
        last = self.curve.points[-max(1, len(self.curve.points) // 20) :]
        return PretrainReport(
            checkpoint=checkpoint.path,
            num_parameters=checkpoint.num_parameters,
            num_steps=self.prepared.schedule.num_steps,
            num_tokens=self.curve.points[-1].num_tokens,
            loss=sum(point.loss for point in last) / len(last),
            elapsed_s=elapsed_s,
            scores=self.prepared.held_out.score(model, self.learner.dtype),
        )


def _held_out_line(point: Point) -> str:
    return (
        f"training loss {point.loss:.3f}, "
        f"{point.held_out_bits_per_byte:.3f} bits per byte on the start of the held-out texts"
    )
