"""What the picture of a lineage draws: adapters over tasks, and what each was learnt on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.records.cards.pruned import kept_words
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.system.formatting import show
from orchestrator.web import addresses

MOST_TRIALS = 40


@dataclass
class _Drawing:
    """Nodes and links while they are found."""

    view: SweepState
    folder: SweepFolder
    nodes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    links: list[list[Any]] = field(default_factory=list[list[Any]])
    places: dict[tuple[str, int], int] = field(default_factory=dict["tuple[str, int]", int])

    def add(self, key: tuple[str, int], **node: Any) -> int:
        self.places[key] = len(self.nodes)
        self.nodes.append(node)
        return self.places[key]


def lineage(view: SweepState, trials: Sequence[TrialRecord], folder: SweepFolder) -> dict[str, Any]:
    """A row for each trial, a column for each task end.

    Args:
        view: The sweep, with these trials.
        trials: Which are drawn, in order.
        folder: The sweep's folder.

    Returns:
        Nodes with a place and words, and links (parent, child, whether the learning of that task
        was taken over from another trial); a node is filled where the adapter is kept.
    """
    begun = [trial for trial in trials if trial.learnt_rows]
    if not begun:
        return {"empty": "No trial has learnt a task to its end so far."}
    drawing = _Drawing(view, folder)
    parent = view.experiment.get("extends") or {}
    root = f"{parent['sweep']}/{parent['trial']}" if {"sweep", "trial"} <= set(parent) else "base"
    drawing.add(
        (root, 0), column=0, row=(len(begun) - 1) / 2, label=root, labelled=True, role="base",
        kept=True, words=f"{root}: what all begin from", href=None,
    )  # fmt: skip
    # A trial whose learning others take over stands before them.
    for row, trial in enumerate(sorted(begun, key=lambda one: bool(one.taken_over))):
        _add_trial(drawing, trial, row, root)
    columns = max(node["column"] for node in drawing.nodes)
    return {
        "nodes": drawing.nodes,
        "links": drawing.links,
        "rows": len(begun),
        "heads": ["", *view.tasks[:columns]],
    }


def _add_trial(drawing: _Drawing, trial: TrialRecord, row: int, root: str) -> None:
    view = drawing.view
    order = view.order_of(trial)
    before = drawing.places[(root, 0)]
    ends = sorted(trial.learnt_rows)
    for index in ends:
        task = order[index] if index < len(order) else f"task {index + 1}"
        source = trial.taken_over.get(task)
        taken = drawing.places.get((source, index)) if source else None
        if taken is not None:
            before = taken
            continue
        last = index == ends[-1]
        named = trial.adapter if last else trial.task_adapters.get(index + 1, (None, None))[0]
        kept = kept_words(None if named is None else drawing.folder.within(named))
        scores = ", ".join(
            f"{name} {show(score)}"
            for name, score in zip(view.tasks, trial.learnt_rows[index], strict=False)
        )
        role = "champion" if trial.name == view.champion else "front" if trial.name in view.front \
            else "trial"  # fmt: skip
        from_where = f", taken over from {source}" if source else ""
        now = drawing.add(
            (trial.name, index),
            column=index + 1, row=row, label=trial.name, labelled=last,
            role=role, kept=kept == "kept", href=addresses.trial_page(view.name, trial.name),
            words=f"{trial.name} after {task}{from_where}: {scores}"
            + ("" if kept == "kept" else f"; its adapter was {kept}"),
        )  # fmt: skip
        drawing.links.append([before, now, bool(source)])
        before = now
