"""Facts that follow from single events of a journal: identity, versions, what a trial ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from orchestrator.base.precision import decided
from orchestrator.records.errors import TrackingError
from orchestrator.records.events import SweepOpened
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.plugins import what_is_missing
from orchestrator.spec.validation import ExperimentError


def versions(document: Mapping[str, Any]) -> dict[str, str]:
    """The versions that a start of a sweep was recorded with, by what they are of.

    Args:
        document: `code`, `packages`, `python` and `platform`, as far as they were recorded.

    Returns:
        Such as {"torch": "2.13.0", "python": "3.11.9", "code": "0.1.0 (4a2b...)"}.
    """
    found = {str(k): str(v) for k, v in (document.get("packages") or {}).items() if v}
    found |= {key: str(document[key]) for key in ("python", "platform") if document.get(key)}
    code = document.get("code") or {}
    if code.get("version"):
        commit = f" ({code['commit']})" if code.get("commit") else ""
        found["code"] = f"{code['version']}{commit}"
    return found


def identity_of(opening: SweepOpened) -> str:
    """What no other sweep shares; before sweeps had an identity, name and first millisecond."""
    return opening.sweep_id or f"{opening.sweep}@{milliseconds(opening.time)}"


def milliseconds(time: float | None) -> int:
    """The time of a line, in milliseconds since the epoch; 0 where it has none."""
    return round((time or 0.0) * 1000)


def effective_experiment(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> Experiment:
    """What a trial really ran.

    Args:
        document: The sweep's experiment as its journal holds it.
        overrides: The trial's dotted paths and values.

    Returns:
        The experiment with the overrides, without a search.

    Raises:
        TrackingError: If this version of the format does not know the journal's experiment.
    """
    try:
        experiment = Experiment.model_validate(document)
        # Journals name the precision since a file may leave it open; none meant bf16 before.
        return decided(experiment, "bf16").with_overrides(overrides)
    except (ValidationError, ExperimentError) as error:
        raise TrackingError(
            f"The journal holds an experiment that this version does not accept ({error})."
            f"{what_is_missing(document) or ' Use the version that wrote it.'}"
        ) from None
