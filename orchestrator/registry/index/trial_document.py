"""A trial as programs get it: a document, kept by the index for those who ask for all of them.

It says nothing of places, as a folder may be moved, nor what a verdict says of the trial.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.system.strict_json import without_nan

_LEVEL = 1
"""Of compression: settings are the same words again and again."""


def trial_document(
    state: SweepState, trial: TrialRecord, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a trial is, has done and scores, without its reports.

    Args:
        state: Its sweep; of its trials, only this one and the untouched base need be in it.
        trial: The trial.
        settings: Its settings, if they are known already.

    Returns:
        A JSON-like document; NaN may occur and is for the writer to turn into null.
    """
    matrix = state.matrix(trial)
    return {
        "trial": trial.name,
        "state": trial.state,
        "reason": trial.reason,
        "settings": state.settings(trial) if settings is None else settings,
        "overrides": trial.overrides,
        "measures": {name: trial.measures.get(name) for name in NATURAL_DIRECTIONS},
        "gain_interval": trial.gain_interval,
        "intervals": trial.intervals,
        "repeats": trial.of,
        "matrix": None if matrix is None else {"tasks": matrix.tasks, "rows": matrix.rows},
        "examples": state.examples(trial),
        "other_tasks": {
            task: {
                str(learnt): {"score": found.value, "examples": found.examples}
                for learnt, found in cells.items()
            }
            for task, cells in state.other_scores(trial).items()
        },
        "versions": trial.versions,
    }


def packed(document: Mapping[str, Any]) -> bytes:
    """A document as the index keeps it."""
    text = json.dumps(without_nan(document), default=str, allow_nan=False)
    return zlib.compress(text.encode("utf-8", "backslashreplace"), _LEVEL)
