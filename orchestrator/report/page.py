"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.formatting import count, show, show_duration, show_interval, show_setting
from orchestrator.objectives import NATURAL_DIRECTIONS
from orchestrator.report import results
from orchestrator.report.assets import SCRIPT, STYLE
from orchestrator.report.figures import Figures
from orchestrator.report.markup import Markup, element, join
from orchestrator.report.tables import (
    fact_list,
    measure_cell,
    plain_table,
    trial_link,
)
from orchestrator.sweep_view import (
    SweepView,
    flat,
    number,
    versions,
)
from orchestrator.tracking_address import redacted, redacted_document


def render_page(view: SweepView, figures: Figures, folder: Path) -> str:
    """The whole page.

    Args:
        view: The sweep.
        figures: Its pictures.
        folder: The sweep's folder; logs are named relative to it.

    Returns:
        HTML without any address but those within the page.
    """
    sections = {
        "test": ("Test examples", results.test_readings(view)),
        "asked": ("What was asked", _asked(view)),
        "front": ("The front", results.front(view, figures)),
        "scores": ("Scores by task", results.scores_by_task(view)),
        "finalists": ("Finalists with fresh seeds", results.finalists(view)),
        "trials": ("All trials", results.all_trials(view)),
        "settings": ("Settings and measures", results.parallel(figures)),
        "curves": ("While it learnt", results.curves(view, figures)),
        "matrices": ("Every matrix", results.matrices(view)),
        "failed": ("What failed", results.failed(view, folder)),
        "data": ("The data", _data(view)),
        "made-from": ("What it was made from", _made_from(view)),
    }
    shown = {key: value for key, value in sections.items() if value[1]}
    links = (element("a", title, href=f"#{key}") for key, (title, _) in shown.items())
    body = join(
        element("header", _head(view), element("nav", *links, aria_label="Sections")),
        element(
            "main",
            *(
                element("section", element("h2", title), content, id=key)
                for key, (title, content) in shown.items()
            ),
        ),
    )
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # Nothing may be fetched, and no script runs but this one, whatever a task file holds.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", f"{view.name}: report"),
        element("style", STYLE),
    )
    page = element("html", head, element("body", body, element("script", SCRIPT)), lang="en")
    return f"<!doctype html>\n{page}\n"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _head(view: SweepView) -> Markup:
    done = f"{len(view.finished)} of {count(view.total, 'trial')} finished"
    states = [trial.state for trial in view.trials]
    for state in ("FAILED", "STOPPED", "RUNNING"):
        done += f", {states.count(state)} {state.lower()}" * (state in states)
    length = None
    if view.opened is not None and view.changed is not None:
        length = view.changed - view.opened
    return join(
        element("div", f"{view.kind} report".capitalize(), class_="quiet"),
        element("h1", view.name or "A sweep without a name"),
        _verdict(view),
        element("p", _caveat(view), class_="quiet"),
        fact_list(
            {
                "state": ("ended" if view.ended else "not ended") + f": {done}",
                "base model": (view.experiment.get("model") or {}).get("name")
                or (view.experiment.get("model") or {}).get("gguf"),
                "tasks in order": ", ".join(view.tasks),
                "probes": ", ".join(view.experiment.get("probes") or []),
                "opened": f"{_time(view.opened)}, last line after {show_duration(length)}",
            }
        ),
    )


def _verdict(view: SweepView) -> Markup:
    best = view.best
    told: list[object] = []
    if not view.ended:
        kind, title = "", "Not ended yet"
        words = "No trial has been completed so far."
        if best is not None:
            words = f"Best so far: {best.name}, gain {measure_cell(best, 'gain')} "
            words += f"{show_interval(best.gain_interval)}."
        told.append(words)
    elif view.champion is None:
        kind, title = "none", "No champion"
        told += [f"{view.reason[:1].upper()}{view.reason[1:]}.", view.test_words]
    else:
        kind, title = "won", f"Champion {view.champion}"
        settings = view.settings(view.trial(view.champion))
        chosen = [p for p in view.searched_settings if p in settings]
        words = [
            f"{p.rsplit('.', 1)[-1]} {show_setting(p, settings[p], exact=True)}" for p in chosen
        ]
        told += [view.test_words, f"{view.reason[:1].upper()}{view.reason[1:]}.", ", ".join(words)]
        if view.runner_up:
            told.append(
                f"Runner-up {view.runner_up}: champion minus runner-up "
                f"{show_interval(view.runner_up_interval)} on the same examples."
            )
        if view.model:
            told.append(f"Registered as {view.model}, version {view.version}.")
    if view.front:
        told.append(join("Front: ", *_separated([trial_link(name) for name in view.front]), "."))
    parts = (element("p", part) for part in told if part)
    return element(
        "div", element("strong", title), *parts, class_=f"verdict {kind}".strip(), role="status"
    )


def _separated(parts: Sequence[Markup]) -> list[object]:
    out: list[object] = []
    for part in parts:
        out += [", ", part] if out else [part]
    return out


def _caveat(view: SweepView) -> str:
    words = "Scores of trials are validation scores" + (
        ", by which the trials were chosen, so the best of them is optimistic. "
        if view.kind != "run"
        else ". "
    )
    seeds = {view.settings(t).get("training.seed") for t in view.searched} - {None}
    if view.finalists:
        words += "Finalists were learnt again with fresh seeds; all other numbers are of one seed. "
    elif len(seeds) == 1:
        words += f"All numbers are of one seed ({seeds.pop()}): another may land elsewhere. "
    return words + (
        "Intervals are 95 % paired bootstraps over the same examples and do not hold the spread "
        "over seeds. That of a trial is right for one that was named beforehand"
        + (
            f"; the verdict's allows for the choice among {view.compared}. "
            if view.compared is not None
            else ". "
        )
        + '"-" was not measured.'
    )


def _asked(view: SweepView) -> Markup:
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


def _task(view: SweepView, name: str) -> Markup:
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


def _data(view: SweepView) -> Markup | None:
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


def _other(view: SweepView) -> Iterator[tuple[str, str]]:
    """Trials that ran with other versions than the sweep was begun with, and with which."""
    begun, found = versions(view.provenance), dict[str, list[str]]()
    for trial in view.everything.values():
        for made_with in trial.versions:
            changes = [f"{k} {v}" for k, v in made_with.items() if begun.get(k) != v]
            if changes:
                found.setdefault(", ".join(changes), []).append(trial.name)
    for made, names in found.items():
        yield ", ".join(names), made


def _made_from(view: SweepView) -> Markup:
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
