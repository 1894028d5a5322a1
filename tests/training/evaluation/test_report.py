"""A row beside the paper's, and plain values."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from model.config import PRESETS
from training.evaluation.published import COLUMNS, SIZES, published, size_of
from training.evaluation.report import Evaluated, Report
from training.evaluation.session import Measure, Result

GPT2_MEDIUM = Evaluated("gpt2-medium", "abc", 355_000_000, 24, 1_024, "cpu", "float32", "avx512")
RESULT = Result(
    "wikitext2",
    "paper",
    (
        Measure("perplexity per word", 1_234.567, "WikiText2 ppl"),
        Measure("perplexity per token", math.inf),
        Measure("bits per byte", 1.23456, num_decimals=4),
    ),
    {"tokens": 12_345, "words": 9},
)
REPORT = Report(GPT2_MEDIUM, (RESULT,), 1_024, 512, 3, 61.4)


def test_the_paper_s_row_of_the_same_size_stands_beside() -> None:
    assert REPORT.lines() == [
        "gpt2-medium: 355,000,000 parameters, float32 on cpu (avx512)",
        "windows of 1024, plain ones 512 apart, at most 3 windows or examples; 61 s",
        "",
        "on         protocol  measure               measured  GPT-2 345M",
        "wikitext2  paper     perplexity per word   1,234.57       22.76",
        "wikitext2  paper     perplexity per token       inf",
        "wikitext2  paper     bits per byte           1.2346",
        "",
        "wikitext2, paper: 12,345 tokens, 9 words",
    ]


def test_another_size_stands_beside_the_smallest_and_compares_with_none() -> None:
    report = replace(REPORT, evaluated=replace(GPT2_MEDIUM, num_layers=8))
    assert "GPT-2 117M" in report.lines()[3]
    assert "29.41" in report.lines()[4]
    values = report.to_dict()
    assert values["published_size"] is None
    assert values["results"][0]["measures"][0]["published"] is None


def test_values_are_json() -> None:
    values = json.loads(json.dumps(REPORT.to_dict(), allow_nan=False))
    assert values["checkpoint"] == "gpt2-medium"
    assert values["limit"] == 3
    first, second, _ = values["results"][0]["measures"]
    assert first == {"name": "perplexity per word", "value": 1_234.567, "published": 22.76}
    assert second["value"] is None
    assert values["results"][0]["counts"] == {"tokens": 12_345, "words": 9}


def test_the_paper_s_sizes_are_the_released_ones() -> None:
    names = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    shapes = [(PRESETS[name].num_layers, PRESETS[name].num_channels) for name in names]
    assert [size_of(*shape) for shape in shapes] == list(SIZES)
    assert size_of(8, 256) is None


@pytest.mark.parametrize("size", SIZES)
def test_the_figures_are_the_paper_s(shared_data: Path, size: str) -> None:
    table = json.loads((shared_data / "reference" / "published_scores.json").read_text())
    row = dict(zip(table["columns"], table["rows"][size], strict=True))
    assert [published(column, size) for column in COLUMNS] == [row[column] for column in COLUMNS]
