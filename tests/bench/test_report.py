"""The table and the JSON line."""

from __future__ import annotations

import json
import math

import pytest

from bench.machine import circumstances
from bench.report import json_line, shown, table


def test_a_table() -> None:
    told = table(("name", "tok/s", "ratio"), [("ours", 1234.5, 1.25), ("theirs", 9.0, None)])
    assert told.splitlines() == [
        "name    tok/s  ratio",
        "ours    1,234   1.25",
        "theirs   9.00",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (math.nan, ""), (12.34, "12.3"), (3, "3"), ("x", "x")]
)
def test_values(value: object, text: str) -> None:
    assert shown(value) == text


def test_one_line_without_nan() -> None:
    line = json_line({"a": math.nan, "b": [1.0, {"c": math.inf}], "d": ("x", 2)})
    assert "\n" not in line
    assert json.loads(line) == {"a": None, "b": [1.0, {"c": None}], "d": ["x", 2]}


def test_circumstances_name_the_run() -> None:
    found = circumstances("offline", 2, {"torch": "2"})
    assert {"bench", "date", "machine", "num_threads", "versions", "command"} == found.keys()
    assert found["machine"]
    assert found["versions"]["torch"] == "2"
