"""The report's sections on what went into a sweep: settings, data, versions and hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.journal_facts import versions
from orchestrator.records.redaction import redacted, redacted_document
from orchestrator.records.scores import flat, number
from orchestrator.records.sweep_state import SweepState
from orchestrator.report.markup import Markup, element, join
from orchestrator.report.tables import fact_list, plain_table
from orchestrator.system.formatting import show


def asked(view: SweepState) -> Markup:
    """What was asked: method, objectives, search space, tasks."""
    experiment = view.experiment
    search = experiment.get("search") or {}
    space = [
        element("li", element("code", path), ": ", _range(choice))
        for path, choice in (search.get("space") or {}).items()
    ]
    champion = experiment.get("champion") or {}
    limits = ", ".join(
        f"{name} {'>=' if NATURAL_DIRECTIONS.get(name) == 'max' else '<='} {limit:g}"
        for name, limit in (champion.get("subject_to") or {}).items()
    )
    probes = experiment.get("probes") or []
    objectives = (experiment.get("objectives") or {}).items()
    return join(
        element("ol", *(_task(view, name) for name in view.tasks), class_="tasks"),
        element("ul", *(_task(view, name) for name in probes), class_="tasks") if probes else None,
        fact_list(
            {
                "objectives": ", ".join(f"{name} ({way}imum)" for name, way in objectives),
                "champion": f"{champion.get('maximize', '-')} decides"
                + (f", among trials that keep {limits}" if limits else "")
                + ", only if the interval of its gain, widened for the choice, lies above 0",
                "search": f"{search['searcher']}, seed {search.get('seed', 0)}"
                if search
                else "none",
                "searched": element("ul", *space, style="margin:0;padding-left:1.1rem")
                if space
                else "",
            }
        ),
    )


def _task(view: SweepState, name: str) -> Markup:
    """A task or probe in a list: kind and metric, what it asks, where it comes from."""
    spec = view.task_files.get(name, {})
    facts = ["probe, never learnt"] if name not in view.tasks else []
    facts += [str(spec[key]).replace("_", " ") for key in ("kind", "metric") if spec.get(key)]
    facts += ["a linear head of its own"] * (spec.get("head") == "linear")
    facts += ["chat template"] * (spec.get("template") == "chat")
    about, source = spec.get("description"), spec.get("source")
    return element(
        "li",
        element("strong", name),
        f": {', '.join(facts)}" if facts else None,
        element("div", about) if about else None,
        element("div", f"From: {source}", class_="quiet") if source else None,
    )


def _range(choice: Mapping[str, Any]) -> str:
    if "alternatives" in choice:
        return " | ".join(map(_range, choice["alternatives"]))
    told = []
    for kind, values in choice.items():
        if kind == "when":
            told += [f"when {path} is {value}" for path, value in (values or {}).items()]
        elif values is not None:
            told.append(f"{kind.replace('_', ' ')} {', '.join(str(value) for value in values)}")
    return "; ".join(told)


def data(view: SweepState) -> Markup | None:
    """The data of each task: rows, where they come from, hashes."""
    if not view.controls:
        return None
    rows = []
    for task, facts in view.controls.items():
        examples, present = facts.get("rows") or {}, facts.get("origins") or {}
        for split in ("train", "validation", "test"):
            if split not in present and not examples.get(split):
                continue
            used = facts.get(f"{split}_examples")
            rows.append(
                (
                    "",
                    [
                        task if split == "train" or "train" not in present else "",
                        split,
                        "-" if used is None else used,
                        examples.get(split, "-"),
                        present.get(split, "-"),
                    ],
                )
            )
    splits = plain_table(
        "Rows used and where they came from",
        ["task", "split", "used", "in the source", "origin"],
        rows,
        words=(1, 4),
    )
    known = (
        "rows",
        "origins",
        "train_examples",
        "validation_examples",
        "test_examples",
        "chance",
        "majority",
        "majority_label",
        "label_counts",
    )
    others = list(dict.fromkeys(k for f in view.controls.values() for k in f if k not in known))
    facts_rows = []
    for task, facts in view.controls.items():
        labels = ", ".join(f"{k} {v}" for k, v in (facts.get("label_counts") or {}).items()) or "-"
        majority = show(facts.get("majority"))
        majority += f" ({facts['majority_label']})" if facts.get("majority_label") else ""
        cells = [_fact(facts.get(name)) for name in others]
        facts_rows.append(("", [task, majority, show(facts.get("chance")), labels, *cells]))
    heads = ["task", "majority class", "chance", "labels in validation"]
    heads += [name.replace("_", " ") for name in others]
    return join(splits, plain_table("Controls and facts", heads, facts_rows, words=(3,)))


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


def made_from(view: SweepState) -> Markup:
    """Versions and hashes that the sweep was made from, and trials with others."""
    facts = flat(redacted_document(view.provenance))
    rows = [("", [name, element("code", _fact(value))]) for name, value in facts.items()]
    rows += [("", [f"{names} ran with", element("code", made)]) for names, made in _other(view)]
    origin = f"The experiment as written in {view.origin}" if view.origin else "The experiment"
    return join(
        plain_table("Hashes, code and packages", ["what", "value"], rows, words=(1,))
        if rows
        else None,
        element("h3", origin),
        element("pre", redacted(view.yaml)) if view.yaml else element("p", "It was not recorded."),
    )
