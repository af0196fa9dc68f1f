"""The part of the portfolio that a base can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.base.config import context_length
from orchestrator.planning.base_problems import adapter_problems
from orchestrator.selection.portfolio import PORTFOLIO, PRESET, RANK
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment, complete_experiment
from orchestrator.spec.validation import ExperimentError


def within_context(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """An experiment whose texts are no longer than what its base reads.

    Args:
        document: The experiment, without a search.
        folder: From where its base is found.

    Returns:
        The same, with `training.max_length` and `data.probe_context` lowered where need be.
    """
    experiment = loaded_for(document, {}, folder, None).experiment
    limit = context_length(experiment.model)
    if limit is None:
        return dict(document)
    training, data = dict(document.get("training", {})), dict(document.get("data", {}))
    training["max_length"] = min(experiment.training.max_length, limit)
    data["probe_context"] = min(experiment.data.probe_context, limit)
    return {**document, "training": training, "data": data}


def fitting(
    document: Mapping[str, Any], names: Sequence[str], folder: Path, data_root: Path | None
) -> tuple[list[str], dict[str, list[int]], dict[str, str]]:
    """Which methods a base can hold, and with which ranks.

    Args:
        document: The experiment, without a search.
        names: Of `PORTFOLIO`.
        folder: From where its base and tasks are found.
        data_root: See `load_experiment`.

    Returns:
        The methods that fit, the ranks that do by method, and why each other method does not.

    Raises:
        ExperimentError: If the experiment is wrong, or no method fits.
    """
    fit: list[str] = []
    ranks: dict[str, list[int]] = {}
    left_out: dict[str, str] = {}
    for name in names:
        if name not in PORTFOLIO:
            fit.append(name)  # refused with the names that there are
            continue
        choices: Sequence[int | None] = PORTFOLIO[name].knobs.get(RANK, {}).get("choice", (None,))
        why = {rank: _why_not(document, name, rank, folder, data_root) for rank in choices}
        kept = [rank for rank, reason in why.items() if reason is None]
        if not kept:
            left_out[name] = next(reason for reason in why.values() if reason is not None)
            continue
        fit.append(name)
        if len(kept) < len(choices):
            ranks[name] = [rank for rank in kept if rank is not None]
    if not fit:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ExperimentError(f"No method of the portfolio fits this base. {reasons}")
    return fit, ranks, left_out


def _why_not(
    document: Mapping[str, Any], name: str, rank: int | None, folder: Path, data_root: Path | None
) -> str | None:
    """Why a method cannot be had on this base; None where it can."""
    overrides = {PRESET: name} | ({} if rank is None else {RANK: rank})
    experiment = loaded_for(document, overrides, folder, data_root).experiment
    return next(adapter_problems(experiment, ask_hub=False), None)


def loaded_for(
    document: Mapping[str, Any], overrides: Mapping[str, Any], folder: Path, data_root: Path | None
) -> LoadedExperiment:
    """An experiment before it has a search, with some overrides, and its tasks."""
    whole = {"method": {"preset": "seq"}, **document}
    whole.pop("selection", None)
    probes = {} if "champion" in document else {"champion": {"subject_to": {}}}
    objectives = {} if "objectives" in document else {"objectives": {"gain": "max"}}
    experiment = Experiment.model_validate({**whole, **probes, **objectives})
    found = experiment.with_overrides(overrides) if overrides else experiment
    return complete_experiment(found, folder, data_root)
