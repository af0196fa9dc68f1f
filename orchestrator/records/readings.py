"""What the readings of the test data say, for people: the champion against its controls."""

from __future__ import annotations

import math

from orchestrator.records.events import TestRead
from orchestrator.records.scores import mean, number
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.system.formatting import show, show_interval

CONTROLS = {
    "zero_shot": "zero-shot (untouched base)",
    "majority": "majority class",
    "head_only": "head only (base frozen)",
}
"""What a trial is compared with, and its name for people; `chance` is a number without examples."""


def reading_words(reading: TestRead) -> str:
    """The headline of a reading of the test data, a sentence for people.

    Args:
        reading: One with a number.

    Returns:
        What the champion, or the trial of another preference, scored, on how many examples, and
        which reading it is.
    """
    champion, count = _champion_of(reading), sum(reading.examples.values())
    chose = "which had no part in any choice"
    if (reading.reading or 0) > 1:
        chose = f"in their reading {reading.reading}: they had been looked at before"
    if reading.preference is not None:
        chose += f"; by the preference {reading.preference}"
    words = (
        f"On {count} test examples, {chose}: gain of {champion} "
        f"{show(reading.gain[champion], signed=True)} "
        f"{show_interval(reading.gain_intervals[champion])} over {reading.reference}"
    )
    other = reading.runner_up
    if other is not None and other in reading.gain:
        means = reading.accuracy
        ahead = number(means[champion]) - number(means[other])
        words += f", {show(ahead, signed=True)} {show_interval(reading.runner_up_interval)}"
        words += f" over the runner-up {other}"
    return f"{words}."


def reading_comparisons(
    reading: TestRead,
) -> list[tuple[str, float, float, list[float] | None]]:
    """The champion of a reading of the test data against each control and the runner-up.

    Args:
        reading: One with a number.

    Returns:
        What it is compared with, that one's mean over tasks, the champion's minus it, and the
        paired interval of the difference; without controls that have no score.
    """
    champion = _champion_of(reading)
    own, rows = number(reading.accuracy[champion]), reading_scores(reading)
    found = [
        (CONTROLS[control], mean(rows[control]), reading.intervals[champion].get(control))
        for control in CONTROLS
        if control in rows
    ]
    other = reading.runner_up
    if other is not None and other in reading.accuracy:
        score = number(reading.accuracy[other])
        found.append((f"{other}, the runner-up", score, reading.runner_up_interval))
    return [
        (name, score, own - score, interval)
        for name, score, interval in found
        if not math.isnan(score)
    ]


def reading_scores(reading: TestRead) -> dict[str, list[float]]:
    """The scores of a reading of the test data, by task in their order.

    Args:
        reading: One with a number.

    Returns:
        By control (a key of `CONTROLS`) and trial; without rows of which nothing was measured.
    """
    sides, controls = reading.sides, reading.controls
    rows = {
        "zero_shot": sides[BASE_TRIAL].row,
        **controls,
        **{name: sides[name].row for name in (reading.runner_up, reading.champion)
           if name is not None and name in sides},
    }  # fmt: skip
    numbers = {name: [number(score) for score in row] for name, row in rows.items()}
    return {n: row for n, row in numbers.items() if not all(math.isnan(x) for x in row)}


def _champion_of(reading: TestRead) -> str:
    """Whose scores it shows; that of a reading without a number shows nobody's."""
    assert reading.champion is not None, "a reading with a number shows a champion"
    return reading.champion
