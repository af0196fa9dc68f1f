"""From task files to batches: splits, limits, facts, optimiser steps. Done once, by the driver.

Workers receive numbers, not text: every trial of a sweep trains and is scored on exactly the same
tokens, and no trial pays for reading or tokenising again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.data.formats.placed_row import DataError
from orchestrator.data.held_out import held_by_others
from orchestrator.data.items import token_ids
from orchestrator.data.prepared import (
    PreparedData,
    PreparedTask,
    task_as_document,
    task_from_document,
)
from orchestrator.data.prompt_tokens import refuse_unknown_ids
from orchestrator.data.sources.reading import naming_file, read_split, source_sha256
from orchestrator.data.task_preparation import prepare_task
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.reach import possible_methods
from orchestrator.spec.sections import DataLimits
from orchestrator.spec.task_kinds import TaskSpec, plugin_sha256
from orchestrator.system.content_cache import ContentCache
from orchestrator.system.strict_json import fingerprint


def prepare(
    loaded: LoadedExperiment,
    tokenizer: Any,
    *,
    note: Callable[[str], None] | None = None,
    cache: ContentCache | None = None,
    tokenizer_sha256: str | None = None,
    vocabulary: int | None = None,
) -> PreparedData:
    """Read, split, limit and tokenise every task and probe of an experiment.

    Args:
        loaded: The experiment and its tasks.
        tokenizer: The base model's tokenizer.
        note: Told what is being done.
        cache: Where tasks are kept that were prepared before from the same files in the same way.
        tokenizer_sha256: What tells the tokenizer from others; None: nothing is kept.
        vocabulary: Rows of the base's embedding; None where they are not known.

    Returns:
        The data for the workers.

    Raises:
        DataError: If a task's data are missing or wrong, or have tokens that the base lacks.
    """
    tasks: dict[str, PreparedTask] = {}
    held = held_by_others(loaded.tasks, read_split)
    sources = {name for m in possible_methods(loaded.experiment) for name in m.sources}
    for name, spec in loaded.tasks.items():
        manner: dict[str, Any] = {
            "max_length": loaded.experiment.training.max_length,
            "learnt": name in loaded.experiment.tasks,
            "source": name in sources,
        }
        if name in held:
            manner["held"] = held[name]
        key = _cache_key(spec, loaded.experiment.data, manner, tokenizer_sha256) if cache else None
        kept = cache.read("task", key) if cache is not None and key is not None else None
        if kept is not None:
            if note is not None:
                note(f"{name} was tokenised before")
            tasks[name] = task_from_document(kept, spec)
            continue
        if note is not None:
            note(f"tokenising {name}")
        with naming_file(loaded.task_files.get(name)):
            tasks[name] = prepare_task(spec, tokenizer, loaded.experiment.data, **manner)
        if cache is not None and key is not None:
            cache.write("task", key, task_as_document(tasks[name]))
    for name, task in tasks.items():
        ids = (i for item in (*task.train, *task.validation, *task.test) for i in token_ids(item))
        with naming_file(loaded.task_files.get(name)):
            refuse_unknown_ids(task.name, ids, tokenizer, vocabulary)
        if note is not None:
            for text in _to_be_said(task, learnt=name in loaded.experiment.tasks):
                note(f"{name}: {text}")
    _check_held_out(loaded.experiment, tasks)
    return PreparedData(
        tasks=tasks,
        hashes={name: _tokens_sha256(task) for name, task in tasks.items()},
        controls={name: task.facts for name, task in tasks.items()},
    )


def prepare_measured(
    spec: TaskSpec, experiment: Experiment, tokenizer: Any, *, vocabulary: int | None = None
) -> PreparedData:
    """A task that an experiment does not name, as one that is measured and never learnt.

    Args:
        spec: The task.
        experiment: The experiment, whose limits and lengths hold.
        tokenizer: The base model's tokenizer.
        vocabulary: Rows of the base's embedding; None where they are not known.

    Returns:
        The task alone.

    Raises:
        DataError: If its data are missing or wrong, or have tokens that the base lacks.
    """
    task = prepare_task(
        spec, tokenizer, experiment.data, max_length=experiment.training.max_length, learnt=False
    )
    ids = (i for item in (*task.validation, *task.test) for i in token_ids(item))
    refuse_unknown_ids(task.name, ids, tokenizer, vocabulary)
    return PreparedData({spec.name: task}, {spec.name: _tokens_sha256(task)}, {})


def _to_be_said(task: PreparedTask, *, learnt: bool) -> Iterator[str]:
    """What is missing of a task though it can be learnt."""
    if task.facts.get("held_by_others"):
        yield (
            f"{task.facts['held_by_others']} rows of train are held out by another task over the "
            "same source, and are not learnt"
        )
    if learnt and "head_only" in task.facts:
        yield f"the control head-only {task.facts['head_only']}"


def _check_held_out(experiment: Experiment, tasks: Mapping[str, PreparedTask]) -> None:
    """Refuse to stop early on examples that were held out, where there are none to hold out."""
    if all(method.early_stopping is None for method in possible_methods(experiment)):
        return
    for name in experiment.tasks:
        if len(tasks[name].train) < 2:
            raise DataError(
                f"Task {name!r} has {len(tasks[name].train)} training example, and "
                "`method.early_stopping` needs two at least: one to learn and one to hold out. "
                "Bring more (`data.train_examples` may limit them), or set `early_stopping: null`."
            )


def _cache_key(
    spec: TaskSpec, limits: DataLimits, manner: dict[str, Any], tokenizer_sha256: str | None
) -> dict[str, Any] | None:
    """Everything that a prepared task follows from; None where that cannot be known."""
    rows = source_sha256(spec.data)
    if rows is None or tokenizer_sha256 is None:
        return None
    places = {"hub", "config", "revision", "files", "local_name"}
    if "held" in manner:
        manner = manner | {"held": fingerprint(sorted(manner["held"]))}
    return {
        "task": spec.model_dump(
            mode="json", exclude={"data": places, "description": True, "source": True}
        )
        | plugin_sha256(spec),
        "rows": rows,
        "tokenizer": tokenizer_sha256,
        "limits": limits.model_dump(
            mode="json", exclude={"rung_examples", "batch_tokens", "probe_after"}
        ),
        **manner,
    }


def _tokens_sha256(task: PreparedTask) -> str:
    tokens = hashlib.sha256()
    for part in (task.train, task.validation, task.test):
        tokens.update(repr(part).encode())
    return tokens.hexdigest()
