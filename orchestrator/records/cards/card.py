"""The card of an adapter: a JSON document, and a function of its sweep's journal alone.

docs/cards.md says what each field means. A card can be read without this package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.records.cards.lineage import parent_of, same_as
from orchestrator.records.cards.matrix import matrix_so_far, task_scores
from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.journal_facts import effective_experiment, versions
from orchestrator.records.redaction import redacted_document
from orchestrator.records.stage_report import DONE
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.spec.experiment import Experiment
from orchestrator.system.strict_json import without_nan

SCHEMA = "orchestrator/adapter-card/1"
"""The form of the cards that are written now; the number rises when an old reader would misread."""


def carded(state: SweepState, trial: TrialRecord) -> list[int]:
    """After how many tasks there is a card of a trial.

    Args:
        state: The sweep.
        trial: One of its trials.

    Returns:
        Numbers of tasks, ascending: each task that the trial has learnt, the last once it is
        complete. Nothing of the untouched base, nor of what it began with.
    """
    if trial.name == BASE_TRIAL:
        return []
    count, begun = len(state.tasks), inherited(state)
    ends = [
        index + 1
        for (index, fraction), report in trial.by_stage.items()
        if fraction == DONE and report.row is not None and begun <= index < count - 1
    ]
    if trial.state == "COMPLETE" and trial.adapter:
        ends.append(count)
    return sorted(ends)


def inherited(state: SweepState) -> int:
    """How many tasks the trials of a sweep do not learn: those of the trial it goes on from."""
    return int((state.experiment.get("extends") or {}).get("learnt") or 0)


def adapter_key(state: SweepState, trial: TrialRecord, learnt: int) -> AdapterKey:
    """Which adapter a trial's is after so many tasks."""
    last = learnt == len(state.tasks)
    _, sha256 = adapter_of(state, trial, learnt)
    task = None if last else state.order_of(trial)[learnt - 1]
    return AdapterKey(state.name, state.identity, trial.name, learnt, task, sha256)


def adapter_of(state: SweepState, trial: TrialRecord, learnt: int) -> tuple[str | None, str | None]:
    """Where the adapter of a trial after so many tasks lies in the sweep's folder, and its hash."""
    if learnt == len(state.tasks):
        return trial.adapter, trial.adapter_sha256
    return trial.task_adapters.get(learnt, (None, None))


def adapter_card(
    state: SweepState, trial: TrialRecord, learnt: int, experiment: Experiment | None = None
) -> dict[str, Any]:
    """The card of the adapter of a trial after so many tasks.

    Args:
        state: The sweep.
        trial: One of its trials.
        learnt: One of `carded`.
        experiment: What the trial ran, if that is known already.

    Returns:
        The document; the same journal gives the same one.
    """
    run = experiment or effective_experiment(state.experiment, trial.overrides)
    last, key = learnt == len(state.tasks), adapter_key(state, trial, learnt)
    place, sha256 = adapter_of(state, trial, learnt)
    order, provenance = state.order_of(trial), state.provenance
    report = trial.by_stage.get((learnt - 1, DONE))
    whole = run.model_dump(mode="json", include={"method", "training", "seed"})
    document = {
        "schema": SCHEMA,
        "name": key.reference,
        "sweep": state.name,
        "sweep_id": state.identity,
        "trial": trial.name,
        "learnt": learnt,
        "tasks": order[:learnt],
        "to_come": order[learnt:],
        "adapter": {"place": place, "sha256": sha256},
        "parent": parent_of(state, trial, learnt, run),
        "same_as": same_as(state, trial, learnt),
        "base": base_of_trial(state, run),
        "method": whole["method"],
        "training": whole["training"],
        "overrides": trial.overrides,
        "proposed_by": trial.by,
        "repeats": trial.of,
        "seeds": seeds_of(state, run),
        "data": {name: provenance.get("data", {}).get(name) for name in [*run.tasks, *run.probes]},
        "code": provenance.get("code", {}),
        "packages": trial.versions[-1] if trial.versions else versions(provenance),
        "matrix": matrix_so_far(state, trial, learnt),
        "cost": {
            "steps": sum(n for index, n in trial.task_steps.items() if 0 <= index < learnt),
            "tokens": None if report is None else report.tokens,
            "seconds": None if report is None else report.seconds,
        },
        "measures": trial.measures if last else {},
        "gain_interval": trial.gain_interval if last else None,
        "minus_controls": trial.intervals if last else {},
        "test": test_of(state, trial.name) if last else None,
        "ended": trial.ended if last else None,
        "journal_line": trial.lines.get((learnt - 1, DONE)),
    }
    # Where addresses may stand; a journal holds settings without secrets.
    for part in ("base", "overrides", "code"):
        document[part] = redacted_document(document[part])
    return without_nan(document)


def base_of_trial(state: SweepState, run: Experiment) -> dict[str, Any]:
    """The base that a trial trained on: name, revision, hashes, quantisation."""
    base, model = state.provenance.get("base", {}), run.model
    return {
        "name": base.get("name", model.name),
        "revision": base.get("revision", model.revision),
        "gguf": base.get("gguf", model.gguf),
        "quantization": model.quantization,
        "sha256": base.get("sha256"),
        "setup_sha256": base.get("setup_sha256"),
    }


def seeds_of(state: SweepState, run: Experiment) -> dict[str, Any]:
    """The seeds that a trial's numbers follow from, those that it has."""
    seeds = {
        "training": run.training.seed,
        "search": (state.experiment.get("search") or {}).get("seed"),
        "selection": getattr(run.method.adapter, "selection_seed", None),
    }
    return {name: seed for name, seed in seeds.items() if seed is not None}


def test_of(state: SweepState, trial: str) -> dict[str, Any] | None:
    """What the first reading of the test data in which a trial stands says of it.

    Args:
        state: The sweep.
        trial: The trial.

    Returns:
        `reading`, `purpose`, `scores` by task with intervals, `accuracy`, `gain`, `gain_interval`;
        None where none was made.
    """
    found = next((r for r in state.readings if r.reading and trial in r.sides), None)
    if found is None:
        return None
    row = dict(zip(state.tasks, found.sides[trial].row, strict=False))
    return {
        "reading": found.reading,
        "purpose": found.purpose,
        "scores": {t: task_scores(value, found.examples.get(t)) for t, value in row.items()},
        "accuracy": found.accuracy.get(trial),
        "gain": found.gain.get(trial),
        "gain_interval": found.gain_intervals.get(trial),
    }


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def card_text(document: Mapping[str, Any]) -> str:
    """A card as its file has it: a field a line."""
    # Indented throughout it would be written in Python, which takes as long as all the rest.
    encode = _ENCODER.encode
    fields = (f" {encode(name)}: {encode(value)}" for name, value in document.items())
    return "{\n" + ",\n".join(fields) + "\n}\n"
