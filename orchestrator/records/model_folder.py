"""The folder that a trained adapter travels in: `adapter/`, `model.json` and its card.

It is written from a sweep's journal, sealed, and checked before it is used. Nothing in it is
executed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.records.cards.card import adapter_card, card_text
from orchestrator.records.cards.pruned import pruned_words
from orchestrator.records.errors import AdapterFolderError, ModelFolderError
from orchestrator.records.journal_facts import effective_experiment
from orchestrator.records.redaction import redacted_document
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.plugins import what_is_missing
from orchestrator.spec.sections import ModelSpec
from orchestrator.spec.task_files import TaskFileError, parse_task
from orchestrator.spec.task_kinds import TaskSpec
from orchestrator.spec.validation import render_validation_error
from orchestrator.system.seals import content_hash, file_hashes, flaw, read_seal, seal
from orchestrator.system.stores.opening import bring
from orchestrator.system.strict_json import read_object
from orchestrator.system.wording import cut

MODEL_FILE = "model.json"
CARD_FILE = "card.json"
"""The adapter's card, for people and other programs; nothing here reads it."""
LONGEST_QUESTION = 1 << 24
"""Tokens; no model reads more, and a larger number was never written by a sweep."""
_AGAIN = "It is written with the adapter: export or copy the model folder again."


def read_model_document(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself.

    Args:
        folder: The model folder.

    Returns:
        The document; it has `base`, `precision`, `max_length` and `tasks` of the right kinds.

    Raises:
        ModelFolderError: If it is missing or was damaged.
    """
    path = folder / MODEL_FILE
    document = read_object(path, ModelFolderError, _AGAIN)
    wanted = {
        "base": ("an object", lambda value: isinstance(value, Mapping)),
        "precision": ("fp32 or bf16", lambda value: value in ("fp32", "bf16")),
        "max_length": ("a number of tokens", _is_length),
        "tasks": ("an object of tasks", _are_tasks),
    }
    for name, (kind, fits) in wanted.items():
        if not fits(document.get(name)):
            raise ModelFolderError(
                f"{path}: `{name}` should be {kind}, got {cut(repr(document.get(name)))}. {_AGAIN}"
            )
    return document


def _is_length(value: object) -> bool:
    return type(value) is int and 0 < value <= LONGEST_QUESTION


def _are_tasks(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(t, Mapping) for t in value.values())


def base_of(document: Mapping[str, Any], folder: Path) -> ModelSpec:
    """The base model that a model folder belongs to.

    Args:
        document: What `read_model_document` gave.
        folder: The model folder, for messages.

    Returns:
        The base model.

    Raises:
        ModelFolderError: If the document names none.
    """
    source = document["base"]
    try:
        return ModelSpec(**{key: source.get(key) for key in ModelSpec.model_fields})
    except ValidationError as error:
        known = list(ModelSpec.model_fields)
        problem = render_validation_error(error, f"{folder / MODEL_FILE}: base", known)
        raise ModelFolderError(f"{problem}. {_AGAIN}") from None


def tasks_of(document: Mapping[str, Any], folder: Path) -> dict[str, TaskSpec]:
    """The tasks that a model was made for.

    Args:
        document: What `read_model_document` gave.
        folder: The model folder, for messages.

    Returns:
        Tasks by name, in the order in which they were learnt.

    Raises:
        TaskFileError: One of them is no task, or of a plugin that is not loaded.
    """
    try:
        return {
            name: parse_task(task, f"{folder / MODEL_FILE}: tasks.{name}")
            for name, task in document["tasks"].items()
        }
    except TaskFileError as error:
        raise TaskFileError(f"{error}{what_is_missing(document.get('experiment'))}") from None


ADAPTER_FOLDER = "adapter"

ADAPTER_MARKER = "adapter.json"
"""What `curlora.save_adapter` writes beside an adapter; named here because importing that package
brings torch."""
_ADAPTER_FILES = {".json", ".safetensors"}


def write_model_folder(
    target: Path,
    *,
    adapter_folder: Path,
    state: SweepState,
    trial: str,
    learnt: int | None = None,
) -> Path:
    """Write the folder that a trained adapter travels in: `adapter/` and `model.json`.

    Args:
        target: Where to; created when missing, and what it held of a model is replaced.
        adapter_folder: What PEFT's `save_pretrained` wrote.
        state: The sweep.
        trial: The trial that trained the adapter.
        learnt: After how many tasks it was kept; None: after the last.

    Returns:
        `target`.

    Raises:
        AdapterFolderError: If the folder holds no adapter in safetensors, or another than the
            trial made.
    """
    files = sorted(p for p in adapter_folder.glob("*") if p.suffix in _ADAPTER_FILES)
    names = {file.name for file in files}
    whole = {"adapter_config.json", "adapter_model.safetensors"} <= names
    if ADAPTER_MARKER not in names and not whole:
        raise AdapterFolderError(
            f"{adapter_folder} holds no adapter: {ADAPTER_MARKER}, or `adapter_config.json` and "
            f"`adapter_model.safetensors`, are needed, got {[file.name for file in files]}. "
            "Pickled weights (`.bin`) are never read."
        )
    document = model_document(state, trial, learnt)
    wrong = adapter_flaw(adapter_folder, document["adapter_sha256"], trial)
    if wrong is not None:
        raise AdapterFolderError(
            f"{adapter_folder} is not the adapter that trial {trial} made: {wrong}. It is not "
            "used. Restore it from a copy, or give the command of the sweep with `--retry-failed`, "
            "which trains it again."
        )
    shutil.rmtree(target / ADAPTER_FOLDER, ignore_errors=True)
    (target / ADAPTER_FOLDER).mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, target / ADAPTER_FOLDER / file.name)
    text = json.dumps(document, indent=2, allow_nan=False)
    (target / MODEL_FILE).write_text(text + "\n", encoding="utf-8")
    card = adapter_card(state, state.trial(trial), document["learnt"])
    (target / CARD_FILE).write_text(card_text(card), encoding="utf-8")
    seal(target, None)
    return target


def adapter_flaw(folder: Path, expected: str | None, trial: str) -> str | None:
    """Why an adapter is not the one that the journal vouches for.

    Args:
        folder: The adapter.
        expected: The journal's hash of it; None in journals of earlier versions.
        trial: Who made it.

    Returns:
        What is wrong; None if it is that one, or nothing can be known.
    """
    if expected is None:
        return None
    if not folder.is_dir():
        bring(folder)
    if not folder.is_dir():
        return pruned_words(folder) or "it is missing"
    if content_hash(file_hashes(folder)) == expected:
        return None
    wrong = flaw(folder)
    if wrong is not None:
        return wrong
    maker = read_seal(folder).get("trial")
    return f"it is that of trial {maker}" if maker != trial else "it is of another attempt"


def model_document(state: SweepState, trial: str, learnt: int | None = None) -> dict[str, Any]:
    """What `model.json` says of an adapter of a trial.

    Args:
        state: The sweep.
        trial: The trial.
        learnt: After how many tasks it was kept; None: after the last.

    Returns:
        The document; of an adapter before the last task its tasks are those that it has learnt.
    """
    record, base = state.trial(trial), state.base
    experiment = effective_experiment(state.experiment, record.overrides)
    model = experiment.model
    count = len(experiment.tasks) if learnt is None else learnt
    last = count == len(experiment.tasks)
    kept = (record.adapter, record.adapter_sha256)
    _, sha256 = kept if last else record.task_adapters.get(count, (None, None))
    document = {
        "base": {
            # It may have been moved since the sweep began.
            "name": base.get("name", model.name),
            "revision": base.get("revision", model.revision),
            "gguf": base.get("gguf", model.gguf),
            "quantization": model.quantization,
            "sha256": base.get("sha256"),
            "setup_sha256": base.get("setup_sha256"),
        },
        "precision": experiment.training.precision,
        "max_length": experiment.training.max_length,
        "tasks": {name: state.task_files[name] for name in experiment.tasks[:count]},
        "trial": trial,
        "sweep": state.name,
        "sweep_id": state.identity,
        "learnt": count,
        "adapter_sha256": sha256,
        "carried_sha256": record.carried_sha256 if last else None,
        "measures": record.measures if last else {},
        "overrides": record.overrides,
        "experiment": experiment.model_dump(mode="json"),
    }
    return redacted_document(document)
