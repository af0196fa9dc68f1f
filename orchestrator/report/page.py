"""The report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from orchestrator.records.sweep_state import SweepState
from orchestrator.report import input_sections, picture_sections, score_sections, trial_sections
from orchestrator.report.deciding.decision import decide
from orchestrator.report.deciding.words import decision_lines
from orchestrator.report.figures import COLOURS, Figures
from orchestrator.report.head_section import head
from orchestrator.report.shown_trials import shown_trials

if TYPE_CHECKING:
    from jinja2 import Environment

_OF_TRIALS = ("front", "trials", "settings", "matrices")
"""The sections that show trials one by one."""
_TEMPLATES = Path(__file__).parent / "templates"
# What XML and HTML allow in no text; a task file may hold anything.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def render_page(view: SweepState, figures: Figures, folder: Path) -> str:
    """The whole page.

    Args:
        view: The sweep.
        figures: Its pictures.
        folder: The sweep's folder; logs are named relative to it.

    Returns:
        HTML without any address but those within the page.
    """
    shown = shown_trials(view)
    # By id: the title, the template, and what the template shows; nothing to show, no section.
    decided = decision_lines(decide(view)) if view.ended else []
    sections = {
        "decision": ("The decision", "decision", decided),
        "test": ("Test examples", "readings", score_sections.test_readings(view)),
        "extension": ("Gained and lost", "tables", score_sections.extension(view)),
        "asked": ("What was asked", "asked", input_sections.asked(view)),
        "front": ("The front", "front", picture_sections.front(shown.view, figures)),
        "course": ("The course of the search", "course", picture_sections.search_course(view)),
        "scores": ("Scores by task", "tables", score_sections.scores_by_task(view)),
        "finalists": ("Finalists with fresh seeds", "tables", score_sections.finalists(view)),
        "trials": (
            "Trials" if shown.words else "All trials",
            "trials",
            trial_sections.all_trials(shown.view),
        ),
        "settings": ("Settings and measures", "settings", picture_sections.parallel(figures)),
        "curves": ("While it learnt", "curves", picture_sections.curves(shown.view, figures)),
        "matrices": ("Every matrix", "matrices", picture_sections.matrices(shown.view)),
        "failed": ("What failed", "tables", trial_sections.failed(view, folder)),
        "faults": ("What was survived", "tables", trial_sections.survived(view)),
        "data": ("The data", "tables", input_sections.data(view)),
        "made-from": ("What it was made from", "made_from", input_sections.made_from(view)),
    }
    script = (_TEMPLATES / "script.js").read_text(encoding="utf-8")
    page = _environment().get_template("page.html.jinja")
    text = page.render(
        head=head(view),
        sampled={key: shown.words for key in _OF_TRIALS if shown.words},
        sections={key: section for key, section in sections.items() if section[2]},
        colours=COLOURS,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
