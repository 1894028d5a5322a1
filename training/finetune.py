"""Fine-tuning (GPT paper, section 3.2): labelled texts in, a task that the server takes out."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from training.bag_of_words import bag_of_words
from training.errors import TrainingError
from training.finetune_config import FinetuneConfig
from training.finetune_learner import FinetuneLearner
from training.finetune_preparation import FinetunePreparation, TaskSplit, prepare_finetuning
from training.finetune_report import FinetuneReport
from training.task_batches import TaskBatches
from training.task_curve import TaskCurve, TaskPoint
from training.task_scores import answers, metrics
from weights.task import TrainedTask, open_task, save_task

__all__ = ["FinetuneConfig", "FinetuneReport", "TrainingError", "finetune"]


def finetune(config: FinetuneConfig) -> FinetuneReport:
    """Train from the start, or from where the same command was interrupted.

    On a CPU the weights that come out depend on the configuration, the data, the number of threads
    and the version of torch alone, bit for bit, however often the run was interrupted. The test
    set is read for the answers of the saved task, and for nothing else. Raises TrainingError before
    anything is trained, or when the loss is no longer a number.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError(["device is cuda, but torch finds no GPU here"])
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    run = _Run(config, prepare_finetuning(config))
    run.learn()
    run.export()
    report = run.report()
    run.prepared.directory.write_json("report.json", report.to_dict())
    return report


def rate_at(step: int, num_steps: int, warmup_share: float) -> float:
    """The share of the peak learning rate that ``step`` (from 0) uses: up, and linearly to zero."""
    warmup = math.ceil(warmup_share * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    return (num_steps - step) / max(1, num_steps - warmup)


class _Run:
    """The loop, and what is saved and shown on the way."""

    def __init__(self, config: FinetuneConfig, prepared: FinetunePreparation) -> None:
        self.config = config
        self.prepared = prepared
        self.batches = TaskBatches(prepared.training.examples, config.batch_size, config.seed)
        self.num_steps = config.num_epochs * self.batches.steps_per_epoch
        self.learner = FinetuneLearner(config, prepared.task, prepared.trunk.config)
        self.learner.load_trunk(prepared.trunk.tensors, config.transfer_layers)
        self._best: dict[str, Any] = {"epoch": 0, "metric": -math.inf, "trained": {}}
        self._elapsed_s = 0.0
        if (state := prepared.directory.load_state()) is not None:
            self.learner.load_state_dict(state["learner"])
            self._best, self._elapsed_s = state["best"], state["elapsed_s"]
        path = prepared.directory.curve
        self.curve = TaskCurve(path, self.learner.num_steps_done, config.chosen_metric)
        self._started_at = self._saved_at = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds of this run, those before an interruption included."""
        return self._elapsed_s + time.perf_counter() - self._started_at

    def learn(self) -> None:
        """Take the steps that are left, and save at every interval and at the end."""
        first = self.learner.num_steps_done
        with tqdm(total=self.num_steps, initial=first, unit="step", dynamic_ncols=True) as bar:
            for step in range(first, self.num_steps):
                point = self._step(step)
                self.curve.points.append(point)
                lm_loss = "" if point.lm_loss is None else f", language model {point.lm_loss:.3f}"
                best = f", best dev {self._best['metric']:.4f}" if self._best["epoch"] else ""
                bar.set_postfix_str(f"loss {point.task_loss:.3f}{lm_loss}{best}", refresh=False)
                bar.update()
                if point.dev_metric is not None:
                    bar.write(self._epoch_line(point), file=sys.stderr)
                if point.step == self.num_steps or self._is_save_due(point.step):
                    self._save()

    def _step(self, step: int) -> TaskPoint:
        rate = self.config.learning_rate * rate_at(step, self.num_steps, self.config.warmup_share)
        task_loss, lm_loss = self.learner.step(self.batches.at(step), rate)
        if not math.isfinite(task_loss + (lm_loss or 0.0)):
            raise TrainingError(
                [f"the loss is {task_loss} at step {step + 1}: lower learning_rate"]
            )
        epoch, rest = divmod(step + 1, self.batches.steps_per_epoch)
        dev = None if rest else self._score_epoch(epoch)
        epochs = (step + 1) / self.batches.steps_per_epoch
        return TaskPoint(step + 1, epochs, task_loss, lm_loss, rate, self.elapsed_s, dev)

    def _score_epoch(self, epoch: int) -> float:
        """The metric on dev; the weights are kept where it is the best so far."""
        examples = self.prepared.dev.examples
        found = answers(self.learner.network, examples, self.learner.dtype)
        metric = metrics(self.prepared.task, found, examples)[self.config.chosen_metric]
        if metric > self._best["metric"]:
            trained = {n: p.detach().cpu().clone() for n, p in self.learner.trained.items()}
            self._best = {"epoch": epoch, "metric": metric, "trained": trained}
        return metric

    def _epoch_line(self, point: TaskPoint) -> str:
        recent = self.curve.points[-self.batches.steps_per_epoch :]
        loss = sum(p.task_loss for p in recent) / len(recent)
        metric = f"dev {self.config.chosen_metric} {point.dev_metric:.4f}"
        return f"epoch {round(point.epoch)}: loss {loss:.3f}, {metric}"

    def _is_save_due(self, num_steps_done: int) -> bool:
        if self.config.checkpoint_steps is not None:
            return num_steps_done % self.config.checkpoint_steps == 0
        return time.perf_counter() - self._saved_at >= self.config.checkpoint_s

    def _save(self) -> None:
        """The state goes last: a process that dies before redoes the interval, and all of this."""
        self.curve.save()
        self.curve.draw()
        state = {"learner": self.learner.state_dict(), "best": self._best}
        self.prepared.directory.save_state({**state, "elapsed_s": self.elapsed_s})
        self._saved_at = time.perf_counter()

    def export(self) -> None:
        """Write the task with the weights of the best epoch."""
        self.learner.load_trained(self._best["trained"])
        source: dict[str, Any] = {
            "origin": "gpt2-server finetune",
            "num_steps": self.num_steps,
            "best_epoch": self._best["epoch"],
            "dev_metric": {self.config.chosen_metric: self._best["metric"]},
            "run": {**self.config.identity(), **self.prepared.sha256},
            "started_from": self.prepared.trunk.source,
        }
        trained = self._trained_task()
        self.prepared.directory.replace_task(lambda dest: save_task(dest, trained, source))

    def _trained_task(self) -> TrainedTask:
        network, trunk = self.learner.network, self.prepared.trunk
        is_full = self.config.train == "full"
        return TrainedTask(
            name=self.config.task_name,
            config=self.prepared.task,
            train=self.config.train,
            tensors={name: p.detach().cpu() for name, p in network.task_tensors().items()},
            trunk_config=trunk.config,
            trunk_hash=trunk.weights_hash,
            lora=self.config.lora,
            trunk_tensors=self._trunk_tensors() if is_full else None,
            vocabulary=trunk.path if is_full else None,
        )

    def _trunk_tensors(self) -> dict[str, Tensor]:
        """As wide as those that they began as."""
        return {
            name: parameter.detach().cpu().to(self.prepared.trunk.tensors[name].dtype)
            for name, parameter in self.learner.network.trunk_tensors().items()
        }

    def report(self) -> FinetuneReport:
        """Let the task as it was saved answer dev, and once test."""
        path = self.prepared.directory.task
        task = open_task(path, self.prepared.trunk)
        self.learner.network.load_task(task, self.prepared.trunk)
        test = self.prepared.test
        return FinetuneReport(
            task=path,
            num_trained=sum(parameter.numel() for parameter in self.learner.trained.values()),
            num_steps=self.num_steps,
            best_epoch=self._best["epoch"],
            dev=self._metrics(self.prepared.dev),
            test=None if test is None else self._metrics(test),
            baseline=self._baseline() if self.config.baseline else {},
            elapsed_s=self.curve.points[-1].elapsed_s,
        )

    def _metrics(self, split: TaskSplit) -> dict[str, float]:
        found = answers(self.learner.network, split.examples, torch.float32)
        return dict(metrics(self.prepared.task, found, split.examples))

    def _baseline(self) -> dict[str, dict[str, float]]:
        prepared = self.prepared
        splits = {"dev": prepared.dev}
        if prepared.test is not None:
            splits["test"] = prepared.test
        found = bag_of_words(
            prepared.task, prepared.training, [*splits.values()], self.config.chosen_metric
        )
        return {name: dict(values) for name, values in zip(splits, found, strict=True)}
