"""Asking a sweep for a further trial, or to stop one: for commands and pages alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from orchestrator.records.journal import is_being_written
from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.records.requests.request_files import Request, leave
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.champions.changing import who_am_i
from orchestrator.registry.index.index import open_index
from orchestrator.registry.part import part_of
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.reach import refusal
from orchestrator.spec.validation import ExperimentError
from orchestrator.system.user_error import UsageError


def changes_of(texts: Sequence[str]) -> dict[str, Any]:
    """Settings as they are typed.

    Args:
        texts: Each `PATH=VALUE`; the value as YAML has it.

    Returns:
        Values by dotted path.

    Raises:
        UsageError: One is written otherwise.
    """
    found: dict[str, Any] = {}
    for text in texts:
        path, sign, value = text.partition("=")
        path = path.strip()
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed = value.strip()
        if not sign or not path:
            raise UsageError(
                f"A setting is written PATH=VALUE, such as method.adapter.r=8; got {text!r}."
            )
        found[path] = parsed
    return found


def ask_for_trial(
    folder: Path, like: str | None, changes: Mapping[str, Any], reason: str
) -> Request:
    """Ask a sweep for a further trial.

    Args:
        folder: The sweep's.
        like: The trial whose settings it begins with; None: those of the file.
        changes: Dotted paths and values in their place.
        reason: Why; the journal keeps it.

    Returns:
        The request, which the driver takes up: a running one within seconds, else the next.

    Raises:
        UsageError: There is no such sweep or trial, or its settings cannot be.
    """
    state = _state(folder, [like] if like is not None else [])
    overrides = {**(state.trial(like).overrides if like is not None else {}), **changes}
    try:
        experiment = Experiment.model_validate(state.experiment)
        experiment.with_overrides(overrides)
        impossible = refusal(experiment, overrides)
    except ValidationError:
        impossible = "the sweep was begun by a version with other fields"
    except ExperimentError as error:
        impossible = str(error)
    if impossible is not None:
        raise UsageError(f"This trial cannot be: {impossible}")
    return _left(folder, Request("add", who_am_i(), like, dict(changes), reason))


def ask_to_stop(folder: Path, trial: str, reason: str) -> Request:
    """Ask the driver of a running sweep to stop a trial.

    Args:
        folder: The sweep's.
        trial: Which.
        reason: Why; the journal keeps it.

    Returns:
        The request.

    Raises:
        UsageError: There is no such sweep or trial, it has ended, or nothing runs.
    """
    if _state(folder, [trial]).trial(trial).over:
        raise UsageError(f"{trial} has ended already.")
    if not is_being_written(folder):
        raise UsageError(f"The sweep {folder.name} does not run now, so that nothing is to stop.")
    return _left(folder, Request("stop", who_am_i(), trial, reason=reason))


def _state(folder: Path, trials: Sequence[str]) -> SweepState:
    if not (folder / JOURNAL_NAME).is_file():
        raise UsageError(
            f"There is no sweep in {folder} to add a trial to. Begin it without `--add`."
        )
    with open_index(folder.parent) as index:
        return part_of(index, folder.name, trials)[1]


def _left(folder: Path, request: Request) -> Request:
    try:
        leave(SweepFolder(folder), request)
    except OSError as error:
        raise UsageError(
            f"The request cannot be written to {folder}: {error.strerror or error}."
        ) from None
    return request
