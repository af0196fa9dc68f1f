"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.records.sweep_state import SweepState
from orchestrator.report import picture_sections, score_sections, trial_sections
from orchestrator.report.assets import SCRIPT, STYLE
from orchestrator.report.figures import Figures
from orchestrator.report.input_sections import asked, data, made_from
from orchestrator.report.markup import Markup, element, join
from orchestrator.report.tables import fact_list, measure_cell, trial_link
from orchestrator.system.formatting import count, show_duration, show_interval, show_setting


def render_page(view: SweepState, figures: Figures, folder: Path) -> str:
    """The whole page.

    Args:
        view: The sweep.
        figures: Its pictures.
        folder: The sweep's folder; logs are named relative to it.

    Returns:
        HTML without any address but those within the page.
    """
    sections = {
        "test": ("Test examples", score_sections.test_readings(view)),
        "asked": ("What was asked", asked(view)),
        "front": ("The front", picture_sections.front(view, figures)),
        "scores": ("Scores by task", score_sections.scores_by_task(view)),
        "finalists": ("Finalists with fresh seeds", score_sections.finalists(view)),
        "trials": ("All trials", trial_sections.all_trials(view)),
        "settings": ("Settings and measures", picture_sections.parallel(figures)),
        "curves": ("While it learnt", picture_sections.curves(view, figures)),
        "matrices": ("Every matrix", picture_sections.matrices(view)),
        "failed": ("What failed", trial_sections.failed(view, folder)),
        "data": ("The data", data(view)),
        "made-from": ("What it was made from", made_from(view)),
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


def _head(view: SweepState) -> Markup:
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


def _verdict(view: SweepState) -> Markup:
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


def _caveat(view: SweepState) -> str:
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
