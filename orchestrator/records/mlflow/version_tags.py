"""The tags of a registered version: what made it, and what the verdict and the test data say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.records.cards.card import adapter_key
from orchestrator.records.events import SweepEnded
from orchestrator.records.mlflow.client import TAG
from orchestrator.records.model_folder import model_document
from orchestrator.records.redaction import redacted_document
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.strict_json import without_nan


def version_tags(state: SweepState, trial: str, sweep_folder: Path, learnt: int) -> dict[str, str]:
    """What made a version, and what is known of its trial, as tags.

    Args:
        state: The sweep.
        trial: The trial.
        sweep_folder: The sweep's folder.
        learnt: After how many tasks its adapter was kept.

    Returns:
        Tags and their values; without who chose it, which `verdict_tags` says.
    """
    record, provenance = state.trial(trial), state.provenance
    document = model_document(state, trial, learnt)
    key = adapter_key(state, record, learnt)
    experiment = document["experiment"]
    adapter = experiment["method"]["adapter"]
    seeds = {
        "training": experiment["training"]["seed"],
        "search": (state.experiment.get("search") or {}).get("seed"),
        "selection": adapter.get("selection_seed"),
    }
    details = {
        "base": document["base"] | provenance.get("base", {}),
        "data": provenance.get("data", {}),
        "code": provenance.get("code", {}),
        "packages": {
            name: version
            for name, version in state.versions_of(record).items()
            if name not in {"code", "python", "platform"}
        },
        "seeds": {key: seed for key, seed in seeds.items() if seed is not None},
        "overrides": document["overrides"],
        "measures": document["measures"],
        "gain_interval": record.gain_interval if key.task is None else None,
        TEST_TAG.removeprefix(TAG): test_scores(state, trial) if key.task is None else None,
    }
    if experiment.get("extends"):
        details["extends"] = experiment["extends"]
    return {
        f"{TAG}sweep": state.identity,
        f"{TAG}trial": trial,
        # What tells which adapter it is, see `AdapterKey`.
        f"{TAG}name": state.name,
        f"{TAG}learnt": str(learnt),
        f"{TAG}task": key.task or "",
        f"{TAG}adapter_sha256": key.adapter_sha256 or "",
        f"{TAG}folder": str(sweep_folder.resolve()),
        f"{TAG}base_name": str(details["base"].get("name") or details["base"].get("gguf")),
        f"{TAG}base_sha256": str(details["base"].get("sha256")),
        f"{TAG}code_version": str(details["code"].get("version")),
        **{f"{TAG}{key}": json.dumps(redacted_document(v)) for key, v in details.items()},
    }


def verdict_tags(verdict: SweepEnded | None) -> dict[str, str]:
    """The verdict that chose a version, as tags."""
    chosen = verdict or SweepEnded(n=0)
    return {
        f"{TAG}reason": chosen.reason,
        f"{TAG}decided": str(chosen.time or 0.0),
        DECIDED_TAG: str(chosen.n),
    }


TEST_TAG = f"{TAG}test"
"""Tag of a version: what `test_scores` gave."""
DECIDED_TAG = f"{TAG}decided_n"
"""Tag of a version: the line of its verdict, by which verdicts of one sweep follow each other."""


def test_scores(state: SweepState, champion: str) -> dict[str, Any] | None:
    """What the first reading of the test data said of a champion.

    Args:
        state: The sweep.
        champion: The trial.

    Returns:
        `reading`, `examples`, `accuracy`, `gain` and its interval, the score of each task, the
        intervals over each control and over the runner-up; None when they were not read.
    """
    found = [one for one in state.readings if one.reading and one.champion == champion]
    if not found:
        return None
    first = found[0]
    return {
        "reading": first.reading,
        "examples": sum(first.examples.values()),
        "accuracy": first.accuracy[champion],
        "gain": first.gain[champion],
        "gain_interval": first.gain_intervals[champion],
        "scores": without_nan(dict(zip(state.tasks, first.sides[champion].row, strict=True))),
        "minus": {**first.intervals[champion], "runner_up": first.runner_up_interval},
        "runner_up": first.runner_up,
    }
