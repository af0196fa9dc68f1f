"""The report's sections on what went into a sweep: settings, data, versions and hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.journal_facts import versions
from orchestrator.records.redaction import redacted, redacted_document
from orchestrator.records.scores import flat, number
from orchestrator.records.sweep_state import SweepState
from orchestrator.report.tables import Row, Table
from orchestrator.system.formatting import show

_SHOWN = {
    "rows",
    "origins",
    "train_examples",
    "validation_examples",
    "test_examples",
    "chance",
    "majority",
    "majority_label",
    "label_counts",
}
"""Facts of a task that have a place of their own; others follow as they are."""


def asked(view: SweepState) -> dict[str, Any]:
    """What was asked: method, objectives, search space, tasks."""
    experiment = view.experiment
    search = experiment.get("search") or {}
    champion = experiment.get("champion") or {}
    limits = ", ".join(
        f"{name} {'>=' if NATURAL_DIRECTIONS.get(name) == 'max' else '<='} {limit:g}"
        for name, limit in (champion.get("subject_to") or {}).items()
    )
    objectives = (experiment.get("objectives") or {}).items()
    facts = {
        "objectives": ", ".join(f"{name} ({way}imum)" for name, way in objectives),
        "champion": f"{champion.get('maximize', '-')} decides"
        + (f", among trials that keep {limits}" if limits else "")
        + ", only if the interval of its gain, widened for the choice, lies above 0",
        "precision": _precision(view),
        "search": f"{search['searcher']}, seed {search.get('seed', 0)}" if search else "none",
    }
    return {
        "tasks": [_task(view, name) for name in view.tasks],
        "probes": [_task(view, name) for name in experiment.get("probes") or []],
        "facts": facts,
        "space": {path: _range(choice) for path, choice in (search.get("space") or {}).items()},
    }


def _precision(view: SweepState) -> str:
    used = str((view.experiment.get("training") or {}).get("precision", "-"))
    return f"{used} (auto: {view.precision['reason']})" if view.precision else used


def _task(view: SweepState, name: str) -> dict[str, Any]:
    """A task or probe in a list: kind and metric, what it asks, where it comes from."""
    spec = view.task_files.get(name, {})
    facts = ["probe, never learnt"] if name not in view.tasks else []
    facts += [str(spec[key]).replace("_", " ") for key in ("kind", "metric") if spec.get(key)]
    facts += ["a linear head of its own"] * (spec.get("head") == "linear")
    facts += ["chat template"] * (spec.get("template") == "chat")
    notes = {"about": spec.get("description"), "source": spec.get("source")}
    return {"name": name, "facts": ", ".join(facts), **notes}


def _range(choice: Mapping[str, Any]) -> str:
    if "alternatives" in choice:
        return " | ".join(map(_range, choice["alternatives"]))
    parts = []
    for kind, values in choice.items():
        if kind == "when":
            parts += [f"when {path} is {value}" for path, value in (values or {}).items()]
        elif values is not None:
            parts.append(f"{kind.replace('_', ' ')} {', '.join(str(value) for value in values)}")
    return "; ".join(parts)


def data(view: SweepState) -> list[Table]:
    """The data of each task: rows, where they come from, hashes."""
    return [_splits(view), _controls(view)] if view.controls else []


def _splits(view: SweepState) -> Table:
    rows: list[Row] = []
    for task, facts in view.controls.items():
        examples, present = facts.get("rows") or {}, facts.get("origins") or {}
        for split in ("train", "validation", "test"):
            if split not in present and not examples.get(split):
                continue
            name = task if split == "train" or "train" not in present else ""
            used = facts.get(f"{split}_examples")
            known = [examples.get(split, "-"), present.get(split, "-")]
            rows.append(("", [name, split, "-" if used is None else used, *known]))
    heads = ["task", "split", "used", "in the source", "origin"]
    return Table("Rows used and where they came from", heads, rows, words=(1, 4))


def _controls(view: SweepState) -> Table:
    others = list(dict.fromkeys(k for f in view.controls.values() for k in f if k not in _SHOWN))
    rows: list[Row] = []
    for task, facts in view.controls.items():
        labels = ", ".join(f"{k} {v}" for k, v in (facts.get("label_counts") or {}).items()) or "-"
        majority = show(facts.get("majority"))
        majority += f" ({facts['majority_label']})" if facts.get("majority_label") else ""
        cells = [_fact(facts.get(name)) for name in others]
        rows.append(("", [task, majority, show(facts.get("chance")), labels, *cells]))
    heads = ["task", "majority class", "chance", "labels in validation"]
    heads += [name.replace("_", " ") for name in others]
    return Table("Controls and facts", heads, rows, words=(3,))


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_fact(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_fact, value)) or "-"
    if isinstance(value, float):
        return f"{number(value):.4g}"
    return "-" if value is None else str(value)


def _other(view: SweepState) -> Iterator[tuple[str, str]]:
    """Trials that ran with other versions than the sweep was begun with, and with which."""
    begun, found = versions(view.provenance), dict[str, list[str]]()
    for trial in view.everything.values():
        for made_with in trial.versions:
            changes = [f"{k} {v}" for k, v in made_with.items() if begun.get(k) != v]
            if changes:
                found.setdefault(", ".join(changes), []).append(trial.name)
    for made, names in found.items():
        yield ", ".join(names), made


def made_from(view: SweepState) -> dict[str, Any]:
    """Versions and hashes that the sweep was made from, and trials with others."""
    facts = flat(redacted_document(view.provenance))
    rows: list[Row] = [("", [name, _fact(value)]) for name, value in facts.items()]
    rows += [("", [f"{names} ran with", made]) for names, made in _other(view)]
    heads = ["what", "value"]
    table = Table("Hashes, code and packages", heads, rows, words=(1,), code=1)
    return {
        "table": table if rows else None,
        "origin": view.origin,
        "yaml": redacted(view.yaml),
    }
