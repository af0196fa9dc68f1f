"""Training that trials of a search share, as far as the file tells which trials there will be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.data.prepared import PreparedData
from orchestrator.loop.task_keys import TaskKeys, task_keys
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.space.assignments import active, ordered_space
from orchestrator.spec.space.search_space import SearchSpec
from orchestrator.spec.validation import ExperimentError

MOST_TRIALS = 1000
"""Trials beyond which it is not worked out."""


@dataclass(frozen=True)
class SharedSteps:
    """Training that is done once, of the trials that are known ahead."""

    trials: int
    """Those that are known."""
    all_steps: int
    """Optimiser steps of all of them."""
    steps: int
    """Of these, the ones that an earlier trial of them takes alike."""

    @property
    def words(self) -> str:
        """All of it in a sentence; empty where nothing is shared."""
        if not self.steps:
            return ""
        share = self.steps / self.all_steps
        return (
            f"of {self.all_steps:,} training steps of the {self.trials} trials that the file "
            f"names, {self.steps:,} ({share:.0%}) are those of another trial's first tasks, and "
            "are not repeated"
        )


def shared_steps(experiment: Experiment, data: PreparedData) -> SharedSteps | None:
    """Which training steps of a search are not repeated.

    Args:
        experiment: With a search or without.
        data: Its tokenised data.

    Returns:
        What a grid that is walked whole shares, or else the entries of `search.first` that leave
        nothing open; None where no two trials are known ahead. A trial that the verdict asks for
        later (another seed) shares nothing.
    """
    search = experiment.search
    points = [] if search is None else list(_known(search))
    if len(points) < 2 or len(points) > MOST_TRIALS:
        return None
    earlier: list[TaskKeys] = []
    steps = all_steps = 0
    for point in points:
        try:
            own = experiment.with_overrides(point)
        except ExperimentError:  # a point that cannot be is not proposed
            continue
        sequence = task_sequence(own, data)
        each = [
            own.training.epochs * math.ceil(len(sequence.examples(stage)) / sequence.batch_size)
            for stage in sequence.stages
        ]
        keys = task_keys(own, data, {})
        taken = max((keys.shared_with(other) for other in earlier), default=0)
        earlier.append(keys)
        all_steps += sum(each)
        steps += sum(each[:taken])
    return SharedSteps(len(earlier), all_steps, steps)


def _known(search: SearchSpec) -> Iterator[Mapping[str, Any]]:
    """The trials that a file names."""
    if search.points and search.count >= len(search.points):
        yield from search.points
        return
    for entry in search.first[: search.count]:
        paths = {path for path, domain in ordered_space(search.space) if active(domain, entry)}
        if paths <= {*entry}:
            yield entry
