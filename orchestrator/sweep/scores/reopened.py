"""A sweep that has ended, opened again by its journal alone: for scores that nobody asked for then.

It needs the data and what the trials have kept, no Ray, and not the experiment file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.base.facts import vocabulary
from orchestrator.base.files import UNKNOWN
from orchestrator.data.preparation import prepare, prepare_measured
from orchestrator.data.prepared import PreparedData
from orchestrator.records.journal import Journal
from orchestrator.records.journal_facts import effective_experiment
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.sections import ModelSpec
from orchestrator.spec.task_files import parse_task
from orchestrator.spec.task_kinds import TaskSpec
from orchestrator.sweep.conclusion import scores_follow_from
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.protocols import Observer
from orchestrator.sweep.provenance import check_provenance, provenance_now
from orchestrator.sweep.scores.readings_on_ray import is_sharded
from orchestrator.system.content_cache import ContentCache


@dataclass(frozen=True)
class Reopened:
    """A sweep that can be scored again."""

    ledger: Ledger
    cache: ContentCache
    follows: Mapping[str, Any] | None
    """What a score follows from; None where that is not known."""


def as_recorded(state: SweepState, base: Path | None) -> LoadedExperiment:
    """The experiment as the journal has it, with its base where it is now.

    Args:
        state: What the journal says.
        base: Where the base is now, if it was moved.

    Returns:
        The experiment and its tasks.
    """
    experiment = effective_experiment(state.experiment, {})
    place = {key: state.base.get(key) for key in ModelSpec.model_fields}
    if base is not None:
        place |= {"name": str(base.resolve()), "revision": None, "gguf": None}
    model = experiment.model.model_copy(
        update={k: v for k, v in place.items() if k != "quantization"}
    )
    experiment = experiment.model_copy(update={"model": model})
    tasks = {name: parse_task(file, name) for name, file in state.task_files.items()}
    return LoadedExperiment(
        experiment=experiment, tasks=tasks, text=state.yaml, origin=state.origin
    )


def reopened(
    journal: Journal,
    loaded: LoadedExperiment,
    observer: Observer,
    *,
    own: bool = True,
    others: Sequence[TaskSpec] = (),
) -> Reopened:
    """Read the base and the data of a sweep again, and check that they are what they were.

    Args:
        journal: The sweep's, open.
        loaded: See `as_recorded`.
        observer: Who is told what happens.
        own: Whether the sweep's own tasks are read.
        others: Further tasks.

    Returns:
        The sweep.

    Raises:
        ChangedSweepError: If base, data or code are others now.
        DataError: If the data cannot be read.
        ModelError: If the base cannot.
    """
    from orchestrator.base.identity import base_sha256, setup_sha256, tokenizer_sha256
    from orchestrator.base.loading import load_tokenizer

    experiment = loaded.experiment
    if is_sharded(experiment):
        # What was trained is saved whole, and is put on any copy of the base.
        observer.note(
            "the sweep's workers held a shard of the base each (ZeRO stage 3); here it is loaded "
            "whole, into one process"
        )
    observer.note("reading the base model's weights and tokenizer")
    sha256, tokenizer = base_sha256(experiment.model), load_tokenizer(experiment.model)
    rows, cache = vocabulary(experiment.model), ContentCache(journal.folder.parent / "cache")
    data = PreparedData({}, {}, {})
    if own:
        data = prepare(
            loaded, tokenizer, note=observer.note, cache=cache, vocabulary=rows,
            tokenizer_sha256=tokenizer_sha256(experiment.model, sha256),
        )  # fmt: skip
    provenance = {
        "base": {
            **experiment.model.model_dump(),
            "sha256": sha256,
            "setup_sha256": setup_sha256(experiment.model),
        },
        "data": data.hashes,
        **provenance_now(),
    }
    check_provenance(journal, provenance)
    for task in others:
        data = _joined(data, prepare_measured(task, experiment, tokenizer, vocabulary=rows))
    follows = None if sha256 == UNKNOWN else scores_follow_from(loaded, provenance)
    return Reopened(Ledger(loaded, journal, observer, data), cache, follows)


def _joined(one: PreparedData, other: PreparedData) -> PreparedData:
    return replace(one, tasks={**one.tasks, **other.tasks}, hashes={**one.hashes, **other.hashes})
