"""What an extension has gained and lost, for people: in a sentence and in rows of tables."""

from __future__ import annotations

from orchestrator.records.events import ExtensionMeasured
from orchestrator.records.scores import number
from orchestrator.system.formatting import show, show_interval

COMPARED_WORDS = {
    "joint": "joint, all tasks at once from nothing",
    "fresh": "fresh adapter, the further tasks alone",
}
"""The trials beside which an extension is read, and their names for people."""


def parent_words(event: ExtensionMeasured) -> str:
    """The trial that a sweep goes on from, as `SWEEP/TRIAL`."""
    return f"{event.parent.get('sweep')}/{event.parent.get('trial')}"


def extension_words(event: ExtensionMeasured, trial: str) -> str:
    """What a trial has gained and lost, a sentence for people.

    Args:
        event: The comparison.
        trial: One that it holds.

    Returns:
        The differences on the further and on the earlier tasks, with their intervals.
    """
    side = event.sides[trial]
    return (
        f"Against {parent_words(event)} as it was: {trial} "
        f"{show(number(side.further), signed=True)} {show_interval(side.further_interval)} on "
        f"{', '.join(event.further)}, {show(number(side.earlier), signed=True)} "
        f"{show_interval(side.earlier_interval)} on {', '.join(event.earlier)}."
    )


def extension_rows(event: ExtensionMeasured) -> list[tuple[str, list[str]]]:
    """Every trial minus the one that the sweep goes on from, as it was.

    Args:
        event: The comparison.

    Returns:
        A label, and the difference with its interval on the further and on the earlier tasks.
    """
    return [
        (
            COMPARED_WORDS.get(name, name),
            [
                show(number(side.further), signed=True),
                show_interval(side.further_interval),
                show(number(side.earlier), signed=True),
                show_interval(side.earlier_interval),
            ],
        )
        for name, side in event.sides.items()
    ]


def extension_scores(event: ExtensionMeasured) -> dict[str, list[float]]:
    """What each of them scores, by label, one number a task in the order of the sequence."""
    tasks = [*event.earlier, *event.further]
    rows = {f"{parent_words(event)} as it was": event.as_it_was}
    rows |= {COMPARED_WORDS.get(name, name): side.scores for name, side in event.sides.items()}
    return {label: [number(scores.get(task)) for task in tasks] for label, scores in rows.items()}
