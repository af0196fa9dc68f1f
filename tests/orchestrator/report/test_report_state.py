"""A report of many trials shows the same, whether all reports are whole or those that it shows."""

import pytest

from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.report.page import render_page
from orchestrator.report.report_state import report_state
from orchestrator.report.shown_trials import MOST
from orchestrator.report.sweep_figures import make_figures
from tests.synthetic_sweeps import write_sweep


@pytest.mark.parametrize("ended", [True, False])
def test_the_page_and_its_pictures_are_those_of_whole_reports(tmp_path, ended):
    folder = write_sweep(tmp_path, "s", MOST + 60, ended=ended)
    lines = read_journal(folder)
    whole, lean = SweepState.of(lines), report_state(lines)
    figures = make_figures(lean)
    assert figures == make_figures(whole)
    assert render_page(lean, figures, folder) == render_page(whole, figures, folder)
    held = [trial.name for trial in lean.trials if any(r.losses for r in trial.reports)]
    assert 0 < len(held) < len(lean.trials), "the others are without"


def test_of_few_trials_all_reports_are_whole(tmp_path):
    lines = read_journal(write_sweep(tmp_path, "s", 5))
    assert report_state(lines).everything == SweepState.of(lines).everything
