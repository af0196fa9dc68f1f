"""What an extension has come to: gained on the further tasks, lost on the earlier ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from orchestrator.measures.intervals import Interval, joint_intervals
from orchestrator.records.event_values import ExtensionSide
from orchestrator.records.events import ExtensionMeasured
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.sweep.baselines import bounds
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.measuring import Measuring

Examples = Mapping[str, Sequence[float]]
"""By task, the score of each example."""


def extension_measured(ledger: Ledger) -> ExtensionMeasured | None:
    """Compare every whole trial with the trial that this sweep goes on from, as it was.

    Args:
        ledger: The sweep's.

    Returns:
        The comparison, to be written; None where the sweep goes on from none, or nothing is known
        of it yet.
    """
    experiment = ledger.experiment
    extends, was = experiment.extends, ledger.inherited_report()
    if extends is None or was is None:
        return None
    measuring, counts = Measuring(ledger), ledger.every_example()
    reference = ledger.controls().reference_examples
    whole = [
        trial
        for trial in ledger.trials.values()
        if trial.name != BASE_TRIAL and ledger.last_report(trial) is not None
    ]
    scored = {t.name: measuring.examples(t, counts) for t in whole if t.record.is_searched}
    controls = {t.name: measuring.examples(t, counts) for t in whole if t.name not in scored}
    earlier = experiment.tasks[: extends.learnt]
    further = experiment.tasks[extends.learnt :]
    sides: dict[str, ExtensionSide] = {}
    for group in (scored, *({name: own} for name, own in controls.items() if own)):
        # Among several that were tried the intervals of all hold at once.
        gained = _intervals(group, reference, further)
        kept = _intervals(group, reference, earlier)
        single = {task: _intervals(group, reference, [task]) for task in experiment.tasks}
        sides |= {
            name: ExtensionSide(
                scores={task: statistics.fmean(scores) for task, scores in own.items() if scores},
                further=_difference(own, reference, further),
                further_interval=bounds(gained.get(name)),
                earlier=_difference(own, reference, earlier),
                earlier_interval=bounds(kept.get(name)),
                intervals={task: bounds(found.get(name)) for task, found in single.items()},
            )
            for name, own in group.items()
        }
    return ExtensionMeasured(
        parent=extends.model_dump(mode="json", exclude={"begin"}),
        earlier=list(earlier),
        further=list(further),
        as_it_was={t: statistics.fmean(scores) for t, scores in reference.items() if scores},
        sides=sides,
    )


def _difference(own: Examples, reference: Examples, tasks: Sequence[str]) -> float | None:
    """The mean over tasks of one side's score minus the other's; None where one is missing."""
    if not all(own.get(task) and reference.get(task) for task in tasks):
        return None
    return statistics.fmean(
        statistics.fmean(own[task]) - statistics.fmean(reference[task]) for task in tasks
    )


def _intervals(
    group: Mapping[str, Examples], reference: Examples, tasks: Sequence[str]
) -> dict[str, Interval]:
    """The paired intervals of these differences, which hold all at once."""
    base = [reference.get(task, ()) for task in tasks]
    finals = {name: [own.get(task, ()) for task in tasks] for name, own in group.items()}
    known = {name: final for name, final in finals.items() if all(final)}
    if not all(base):
        return {}
    return joint_intervals(known, base, others=len(finals) - len(known))
