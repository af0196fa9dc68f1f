"""The events of a journal: what its lines hold.

Every line holds `n` (its number), `time` (seconds since the epoch) and `event`, one of:

========================  ==========================================================================
`sweep_opened`            `sweep`, `sweep_id`, `experiment`, `tasks`, `yaml`, `origin`,
                          `provenance`, `controls`
`sweep_continued`         `trials` (how many there are to be), `code`, `packages`, `python`,
                          `platform`, `base` (where it is now), `retried` (trials that start over);
                          `sweep_id` where the opening has none
`trial_proposed`          `trial`, `overrides`, `by` (the searcher)
`trial_started`           `trial`, `attempt` (from 1; a continued sweep starts a trial again),
                          `versions` (of packages, by name)
`stage_report`            `trial`, `report`: a rung of a task, or its end
`trial_ended`             `trial`, `state` (COMPLETE, FAILED, STOPPED), `reason`, `measures`,
                          `gain_interval`, `adapter` and `log` (relative to the sweep's folder),
                          `adapter_sha256`
`set_aside`               `trial`, `what`, `kept_as` (both relative to the sweep), `because`: nobody
                          uses it any more
`sweep_stopped`           `reason`, `trials` (those that failed): it was given up for now
`sweep_ended`             `front`, `champion` (a trial or null), `reason`, `runner_up`,
                          `finalists`, `intervals` (of the gain, by trial; all hold at once),
                          `compared` (for the choice among how many trials they allow)
`test_read`               `reading` (1, 2, ...; null where the champion could not be scored),
                          `purpose`, `champion`, `runner_up`, `sides` (by trial, and the base:
                          `row`, `metrics`, `per_example`), `unread` (why, by trial), `examples`,
                          `controls`, `accuracy`, `gain` and intervals
`champion_registered`     `trial`, `model`, `version`
========================  ==========================================================================

NaN and infinity are written as null: JSON has neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

Line: TypeAlias = dict[str, Any]


SERIES = ("losses", "learning_rates", "per_example", "head_only_per_example")
"""What of a report grows with steps and examples, and is seldom read again."""


def without_nan(value: Any) -> Any:
    """The same document with every NaN and infinity replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): without_nan(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in cast("list[Any]", value)]
    return value


_OF_TRIALS = {"trial_proposed", "trial_started", "stage_report", "trial_ended"}


def standing_verdict(lines: Sequence[Line]) -> Line | None:
    """The last verdict of a sweep, unless trials went on after it.

    Args:
        lines: The journal.

    Returns:
        The line of `sweep_ended`, or None.
    """
    for line in reversed(lines):
        if line["event"] == "sweep_ended":
            return line
        if line["event"] in _OF_TRIALS:
            return None
    return None


def reading_due(lines: Sequence[Line]) -> bool:
    """Whether the verdict that stands has a champion whose test scores were never asked for.

    Args:
        lines: The journal.

    Returns:
        False, too, where it was tried and could not be done.
    """
    verdict = standing_verdict(lines)
    if verdict is None or verdict["champion"] is None:
        return False
    pair = (verdict["champion"], verdict.get("runner_up"))
    asked = [line for line in lines if line["event"] == "test_read"]
    return all((line["champion"], line["runner_up"]) != pair for line in asked)


def without_series(line: Line) -> Line:
    """The same line; a report without its `SERIES`."""
    if line["event"] != "stage_report":
        return line
    report = {key: value for key, value in line["report"].items() if key not in SERIES}
    return {**line, "report": report}
