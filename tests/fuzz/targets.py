"""Every input that is fuzzed, by name."""

from __future__ import annotations

from tests.fuzz.server_targets import SERVER_TARGETS
from tests.fuzz.task_targets import TASK_TARGETS
from tests.fuzz.vocabulary_targets import VOCABULARY_TARGETS
from tests.fuzz.weight_targets import WEIGHT_TARGETS

TARGETS = {
    target.name: target
    for target in (*SERVER_TARGETS, *WEIGHT_TARGETS, *VOCABULARY_TARGETS, *TASK_TARGETS)
}
