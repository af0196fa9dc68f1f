"""What a trial of tokenised data is expected to cost on this machine."""

from __future__ import annotations

import math

from orchestrator.base.facts import base_facts
from orchestrator.data.prepared import PreparedData
from orchestrator.planning.cost import TrialCost
from orchestrator.planning.method_sizes import method_facts
from orchestrator.planning.speed import measured_speed
from orchestrator.planning.tokens import mean_length, prepared_facts
from orchestrator.spec.experiment import Experiment


def trial_work(experiment: Experiment, data: PreparedData) -> float | None:
    """Seconds that one worker takes for a trial's learning and scoring.

    Args:
        experiment: An experiment whose precision is decided.
        data: Its tokenised tasks and probes.

    Returns:
        Seconds, start-up excluded; None where the speed cannot be measured, or the base's sizes
        are not known.
    """
    base = base_facts(experiment.model)
    if base is None:
        return None
    tasks, epochs = prepared_facts(experiment, data)
    mean = mean_length(tasks)
    methods = method_facts(experiment, base, tokens_per_example=mean)
    speed = measured_speed(experiment, base, math.ceil(mean))
    return TrialCost(experiment, tasks, base, methods, epochs).work_seconds(speed)
