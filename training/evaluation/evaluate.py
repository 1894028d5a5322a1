"""Evaluation: subjects that were read, a network, a report."""

from __future__ import annotations

import time
from collections.abc import Sequence

from model.tokenizer import Tokenizer
from training.errors import TrainingError
from training.evaluation.config import EvaluationConfig, read_subjects
from training.evaluation.likelihood import Item, Scorer, TokenScore
from training.evaluation.report import Evaluated, Report
from training.evaluation.session import Session, Subject

__all__ = [
    "Evaluated",
    "EvaluationConfig",
    "Item",
    "TokenScore",
    "TrainingError",
    "evaluate",
    "read_subjects",
]


def evaluate(
    config: EvaluationConfig,
    subjects: Sequence[Subject],
    scorer: Scorer,
    tokenizer: Tokenizer,
    start_id: int | None,
    evaluated: Evaluated,
) -> Report:
    """Measure ``scorer`` on ``subjects``, which :func:`read_subjects` read.

    ``start_id`` is the end-of-text id, which stood before each text in training. Raises
    TrainingError for a window that is longer than the context, and for an example that is.
    """
    started_at = time.perf_counter()
    window_len, stride = config.windows_within(scorer.context_len)
    session = Session(
        scorer, tokenizer, start_id, window_len, stride, config.limit, config.protocols
    )
    results = tuple(result for subject in subjects for result in subject.results(session))
    elapsed_s = time.perf_counter() - started_at
    return Report(evaluated, results, window_len, stride, config.limit, elapsed_s)
