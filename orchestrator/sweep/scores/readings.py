"""Scoring models that trials have saved: on the test data, or on cells of their matrix.

The test data are read once a verdict is made, of its champion, runner-up and base; nothing is
chosen by what comes out. The scores are computed from the adapters that the trials have
saved, by whoever computes for the sweep: this process (`executor: local`), or processes on the
cluster.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.data.prepared import PreparedData, PreparedTask
from orchestrator.loop.scoring import Score, score
from orchestrator.records.cards.pruned import pruned_words
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.task_kinds import GenerationTask
from orchestrator.sweep.scores.shared_base import SharedBase
from orchestrator.system.strict_json import without_nan


class ReadingError(RuntimeError):
    """The test data could not be read; the message says why. Nothing was recorded of it."""


@dataclass(frozen=True)
class Side:
    """A model that is to be scored."""

    experiment: Experiment
    """With the trial's overrides applied."""
    adapter: Path | None
    """Its saved adapter; None: the untouched base."""
    cells: Mapping[str, int] | None = None
    """By task or probe, the first validation example that is scored, from 0; None: the test data of
    the experiment's tasks are."""


def read_sides(
    sides: Mapping[str, Side], data: PreparedData, base: SharedBase | None = None
) -> dict[str, dict[str, Any]]:
    """Score some models, in this process.

    Args:
        sides: The models by name.
        data: The tokenised data.
        base: Theirs, where it has been loaded for others already.

    Returns:
        By name either `row` (a score by task, None where a task has no test examples), `metrics`
        and `per_example`, of the base also `head_only` and `head_only_per_example`; or `unread`,
        why it could not be scored.
    """
    return read_each(sides, data, partial(_plain_engine, base or SharedBase()))


def read_each(
    sides: Mapping[str, Side],
    data: PreparedData,
    engine_of: Callable[[Side, list[PreparedTask]], AbstractContextManager[Any]],
) -> dict[str, dict[str, Any]]:
    """Score models one after another; one that cannot be scored says why."""
    found: dict[str, dict[str, Any]] = {}
    gc.freeze()  # what is there by now is not looked through after each model (half a second each)
    try:
        for name, side in sides.items():
            try:
                found[name] = without_nan(_scores(side, data, engine_of))
            except Exception as error:  # noqa: BLE001 (a broken adapter costs no other its scores)
                said = " ".join(str(error).split()) or type(error).__name__
                found[name] = {"unread": said}
            gc.collect()  # the next one may load as much again
    finally:
        gc.unfreeze()
    return found


def _scores(
    side: Side,
    data: PreparedData,
    engine_of: Callable[[Side, list[PreparedTask]], AbstractContextManager[Any]],
) -> dict[str, Any]:
    names = side.experiment.tasks if side.cells is None else list(side.cells)
    tasks = [data.tasks[name] for name in names]
    if side.cells is None and not any(task.test for task in tasks):
        raise ValueError("no task has test examples")
    if side.adapter is not None and not side.adapter.is_dir():
        why = pruned_words(side.adapter) or f"there is no {side.adapter}"
        raise FileNotFoundError(f"its adapter is gone: {why}")
    with engine_of(side, tasks) as engine:
        if side.cells is not None:
            asked = {task.name: task.validation[side.cells[task.name] :] for task in tasks}
            return _document(tasks, {t.name: score(asked[t.name], t.spec, engine) for t in tasks})
        headed = engine.scored.heads is not None
        scores = {
            task.name: score(task.test, task.spec, engine)
            for task in tasks
            if task.test and (headed or not task.has_head)
        }
        document = _document(tasks, scores)
        if side.adapter is None:
            document |= _head_only(tasks, engine)
    return document


@contextmanager
def _plain_engine(base: SharedBase, side: Side, tasks: list[PreparedTask]) -> Iterator[Any]:
    """The model of a side in this process."""
    import torch

    from orchestrator.engines.plain import PlainEngine

    experiment = side.experiment
    torch.set_num_threads(experiment.resources.cpus_per_worker)
    yield PlainEngine(
        base.model(experiment, side.adapter),
        experiment.training,
        batch_tokens=experiment.data.batch_tokens,
        heads=saved_heads(side),
        tokenizer=writing_tokenizer(experiment, tasks),
    )


def saved_heads(side: Side) -> Any:
    """The linear heads beside a side's adapter; None where it has none."""
    from orchestrator.engines.linear_heads import HEADS_FILE, LinearHeads

    kept = side.adapter / HEADS_FILE if side.adapter is not None else None
    return LinearHeads.from_file(kept) if kept is not None and kept.is_file() else None


def writing_tokenizer(experiment: Experiment, tasks: list[PreparedTask]) -> Any:
    """The tokenizer where a task's answers are written; None elsewhere."""
    from orchestrator.base.loading import load_tokenizer

    writes = any(isinstance(task.spec, GenerationTask) for task in tasks)
    return load_tokenizer(experiment.model) if writes else None


def _document(tasks: list[PreparedTask], scores: Mapping[str, Score]) -> dict[str, Any]:
    return {
        "row": [scores[t.name].value if t.name in scores else None for t in tasks],
        "metrics": {name: scored.metrics for name, scored in scores.items()},
        "per_example": {name: scored.per_example for name, scored in scores.items()},
    }


def _head_only(tasks: list[PreparedTask], engine: Any) -> dict[str, Any]:
    """The control on the test examples, fitted to the training examples as with row 0."""
    from orchestrator.loop.head_only import head_only

    fitted = {
        task.name: head_only(task, engine.hidden_states, task.test)
        for task in tasks
        if task.test and task.labels
    }
    return {
        "head_only": {name: scored.metrics for name, scored in fitted.items()},
        "head_only_per_example": {name: scored.per_example for name, scored in fitted.items()},
    }
