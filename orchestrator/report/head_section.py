"""The head of the report: how far the sweep has come, its verdict, what the numbers mean."""

from __future__ import annotations

from typing import Any

from orchestrator.records.extension_words import extension_words
from orchestrator.records.sweep_state import SweepState
from orchestrator.report.tables import measure_cell
from orchestrator.system.formatting import count, moment, show_duration, show_interval, show_setting


def head(view: SweepState) -> dict[str, Any]:
    """Name, verdict, caveat and facts of a sweep."""
    seeds = {view.settings(t).get("training.seed") for t in view.searched} - {None}
    kind, title, sentences = verdict(view)
    return {
        "name": view.name,
        "kind": view.kind,
        "chooses": view.chooses,
        "verdict": {
            "kind": kind,
            "title": title,
            "sentences": [sentence for sentence in sentences if sentence],
        },
        "front": view.front,
        "repeated": bool(view.finalists),
        "seed": seeds.pop() if len(seeds) == 1 else None,
        "compared": view.compared,
        "facts": _facts(view),
    }


def _facts(view: SweepState) -> dict[str, str | None]:
    done = f"{len(view.finished)} of {count(view.total, 'trial')} finished"
    states = [trial.state for trial in view.trials]
    for state in ("FAILED", "STOPPED", "RUNNING"):
        done += f", {states.count(state)} {state.lower()}" * (state in states)
    length = None
    if view.opened is not None and view.changed is not None:
        length = view.changed - view.opened
    model = view.experiment.get("model") or {}
    return {
        "state": ("ended" if view.ended else "not ended") + f": {done}",
        "base model": model.get("name") or model.get("gguf"),
        "tasks in order": ", ".join(view.tasks),
        "probes": ", ".join(view.experiment.get("probes") or []),
        "opened": f"{moment(view.opened)}, last line after {show_duration(length)}",
    }


def verdict(view: SweepState) -> tuple[str, str, list[str]]:
    """What a sweep has come to.

    Args:
        view: The sweep; of its trials, the champion is enough once it has ended.

    Returns:
        Its class in the style sheet, its title, and sentences, of which some may be empty.
    """
    reason = f"{view.reason[:1].upper()}{view.reason[1:].rstrip('.')}."
    if not view.ended:
        return "", "Not ended yet", [_best_so_far(view)]
    if view.champion is None:
        return "none", "No champion", [reason, view.test_words]
    sentences = [view.test_words, reason, _chosen(view, view.champion)]
    if view.extension is not None and view.champion in view.extension.sides:
        sentences.insert(0, extension_words(view.extension, view.champion))
    if view.runner_up:
        sentences.append(
            f"Runner-up {view.runner_up}: champion minus runner-up "
            f"{show_interval(view.runner_up_interval)} on the same examples."
        )
    if view.model:
        sentences.append(f"Registered as {view.model}, version {view.version}.")
    return "won", f"Champion {view.champion}", sentences


def _best_so_far(view: SweepState) -> str:
    best = view.best
    if best is None:
        return "No trial has been completed so far."
    words = f"Best so far: {best.name}, gain {measure_cell(best, 'gain')} "
    return words + f"{show_interval(best.gain_interval)}."


def _chosen(view: SweepState, champion: str) -> str:
    """What the search chose for the champion, to be copied into a file."""
    settings = view.settings(view.trial(champion))
    return ", ".join(
        f"{p.rsplit('.', 1)[-1]} {show_setting(p, settings[p], exact=True)}"
        for p in view.searched_settings
        if p in settings
    )
