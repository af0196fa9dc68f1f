"""What a model card says of a trained adapter: from its model folder and its sweep's journal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.event_values import SideScores
from orchestrator.records.model_folder import read_model_document, tasks_of
from orchestrator.records.opening import folder_of
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.index.index import open_index
from orchestrator.registry.part import part_of
from orchestrator.spec.task_kinds import TaskSpec


@dataclass(frozen=True)
class CardFacts:
    """What is known of a model; what is not is None or empty."""

    document: Mapping[str, Any]
    """Its model.json."""
    tasks: dict[str, TaskSpec]
    kind: str
    """Of its adapter."""
    name: str
    """How it was asked for, without what only this machine knows."""
    matrix: AccuracyMatrix | None = None
    """On validation examples."""
    examples: Mapping[str, int] = field(default_factory=dict)
    """How many of each task stand behind the matrix."""
    test: SideScores | None = None
    base_test: SideScores | None = None
    test_tasks: tuple[str, ...] = ()
    test_examples: Mapping[str, int] = field(default_factory=dict)
    reading: int | None = None
    """Which reading of the test data it was."""
    data_hashes: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    gain_interval: tuple[float, float] | None = None

    @property
    def base_name(self) -> str | None:
        """The base's name on the hub; None of a folder, whose place nobody else has."""
        name = self.document["base"].get("name")
        return None if not name or Path(str(name)).is_absolute() else str(name)

    @property
    def shown_base(self) -> str:
        """The base in words."""
        base = self.document["base"]
        digest = f" (sha256 of its weights: `{base['sha256']}`)" if base.get("sha256") else ""
        known = self.base_name
        return f"`{known or Path(str(base.get('gguf') or base.get('name'))).name}`{digest}"

    @property
    def lost(self) -> dict[str, tuple[float, float]]:
        """By task but the last learnt: its best score after it was learnt, and that at the end."""
        if self.matrix is None or not self.matrix.complete:
            return {}
        rows, found = self.matrix.rows, {}
        for place, task in enumerate(self.matrix.tasks[:-1]):
            after = [row[place] for row in rows[place + 1 :] if not math.isnan(row[place])]
            if after and not math.isnan(rows[-1][place]):
                found[task] = (max(after), rows[-1][place])
        return found


def card_facts(folder: Path, storage: Path, reference: str) -> CardFacts:
    """What is known of a model.

    Args:
        folder: Its model folder.
        storage: The folder that sweeps are kept in, where its sweep's journal is looked for.
        reference: How it was asked for.

    Returns:
        The facts; those of the model folder alone where the journal is not there.
    """
    document = read_model_document(folder)
    adapter = ((document.get("experiment") or {}).get("method") or {}).get("adapter") or {}
    name = "/".join(str(document[key]) for key in ("sweep", "trial") if document.get(key))
    known = CardFacts(
        document=document,
        tasks=tasks_of(document, folder),
        kind=str(adapter.get("kind", "adapter")),
        name=reference if "@" in reference else name or folder.name,
    )
    sweep, trial = sweep_of(document, storage), str(document.get("trial"))
    state = None if sweep is None else _part(sweep, trial)
    if state is None:
        return known
    record, reading = state.everything[trial], state.reading_of(trial)
    sides = {} if reading is None else reading.sides
    return CardFacts(
        document=document,
        tasks=known.tasks,
        kind=known.kind,
        name=known.name,
        matrix=state.matrix(record),
        examples=state.examples(record),
        test=sides.get(trial),
        base_test=sides.get("base"),
        test_tasks=tuple(state.tasks),
        test_examples={} if reading is None else reading.examples,
        reading=None if reading is None else reading.reading,
        data_hashes=state.provenance.get("data") or {},
        versions=state.versions_of(record),
        gain_interval=_pair(record.gain_interval),
    )


def sweep_of(document: Mapping[str, Any], storage: Path) -> Path | None:
    """The folder of the sweep that a model came from, whatever it is called by now."""
    identity, name = document.get("sweep_id"), str(document.get("sweep") or "")
    if not identity or Path(name).name != name:  # a document may be anyone's
        return None
    return folder_of(storage, name, identity)


def _part(folder: Path, trial: str) -> SweepState | None:
    """What the journal of a sweep says of it and of a trial; None where it has no such trial."""
    with open_index(folder.parent) as index:
        known = index.lines(folder.name, [trial]).spans
        return part_of(index, folder.name, [trial])[1] if known else None


def _pair(interval: list[float] | None) -> tuple[float, float] | None:
    return None if not interval else (float(interval[0]), float(interval[1]))
