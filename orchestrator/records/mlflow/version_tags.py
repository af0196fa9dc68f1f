"""The tags of a registered version: what made it, and what the verdict and the test data say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.records.events import Line
from orchestrator.records.journal_facts import sweep_id, versions_of
from orchestrator.records.journal_lines import last_line
from orchestrator.records.mlflow.client import TAG
from orchestrator.records.model_folder import model_document
from orchestrator.records.redaction import redacted_document


def version_tags(lines: Sequence[Line], trial: str, sweep_folder: Path) -> dict[str, str]:
    """What made a version, and what is known of its trial, as tags."""
    opening, document = lines[0], model_document(lines, trial)
    verdict, ended = (
        last_line(lines, "sweep_ended") or {},
        last_line(lines, "trial_ended", trial) or {},
    )
    provenance = opening.get("provenance", {})
    experiment = document["experiment"]
    adapter = experiment["method"]["adapter"]
    seeds = {
        "training": experiment["training"]["seed"],
        "search": (opening["experiment"].get("search") or {}).get("seed"),
        "selection": adapter.get("selection_seed"),
    }
    details = {
        "base": document["base"] | provenance.get("base", {}),
        "data": provenance.get("data", {}),
        "code": provenance.get("code", {}),
        "packages": {
            name: version
            for name, version in versions_of(lines, trial).items()
            if name not in {"code", "python", "platform"}
        },
        "seeds": {key: seed for key, seed in seeds.items() if seed is not None},
        "overrides": document["overrides"],
        "measures": document["measures"],
        "gain_interval": ended.get("gain_interval"),
        TEST_TAG.removeprefix(TAG): test_scores(lines, trial),
    }
    return {
        f"{TAG}sweep": sweep_id(lines),
        f"{TAG}trial": trial,
        f"{TAG}folder": str(sweep_folder.resolve()),
        **verdict_tags(verdict),
        f"{TAG}base_name": str(details["base"].get("name") or details["base"].get("gguf")),
        f"{TAG}base_sha256": str(details["base"].get("sha256")),
        f"{TAG}code_version": str(details["code"].get("version")),
        **{f"{TAG}{key}": json.dumps(redacted_document(v)) for key, v in details.items()},
    }


def verdict_tags(verdict: Mapping[str, Any]) -> dict[str, str]:
    """The verdict that chose a version, as tags."""
    return {
        f"{TAG}reason": verdict.get("reason", ""),
        f"{TAG}decided": str(verdict.get("time", 0.0)),
        DECIDED_TAG: str(verdict.get("n", 0)),
    }


TEST_TAG = f"{TAG}test"
"""Tag of a version: what `test_scores` gave."""
DECIDED_TAG = f"{TAG}decided_n"
"""Tag of a version: the line of its verdict, by which verdicts of one sweep follow each other."""


def test_scores(lines: Sequence[Line], champion: str) -> dict[str, Any] | None:
    """What the first reading of the test data said of a champion.

    Args:
        lines: The sweep's journal.
        champion: The trial.

    Returns:
        `reading`, `examples`, `accuracy`, `gain` and its interval, the score of each task, the
        intervals over each control and over the runner-up; None when they were not read.
    """
    for line in lines:
        if line["event"] == "test_read" and line["reading"] and line["champion"] == champion:
            tasks = lines[0]["experiment"]["tasks"]
            return {
                "reading": line["reading"],
                "examples": sum(line["examples"].values()),
                "accuracy": line["accuracy"][champion],
                "gain": line["gain"][champion],
                "gain_interval": line["gain_intervals"][champion],
                "scores": dict(zip(tasks, line["sides"][champion]["row"], strict=True)),
                "minus": {**line["intervals"][champion], "runner_up": line["runner_up_interval"]},
                "runner_up": line["runner_up"],
            }
    return None
