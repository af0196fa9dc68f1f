"""A report of many trials shows the front, the finalists and a sample, and says so."""

import itertools

from orchestrator.measures.objectives import front
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.report.deciding.course import course
from orchestrator.report.page import render_page
from orchestrator.report.shown_trials import MOST, shown_trials
from orchestrator.report.sweep_figures import make_figures
from orchestrator.report.trial_roles import by_merit
from tests.synthetic_sweeps import OBJECTIVES, write_sweep


def state(folder, trials, **options):
    return SweepState.of(read_journal(write_sweep(folder, f"s{trials}", trials, **options)))


def test_few_trials_are_all_shown(tmp_path):
    view = state(tmp_path, MOST)
    assert shown_trials(view).view is view
    assert not shown_trials(view).words


def test_of_many_the_front_stands_whole_and_the_sample_spans_good_and_bad(tmp_path):
    view = state(tmp_path, 400)
    found = shown_trials(view)
    names = {trial.name for trial in found.view.trials}
    assert len(names) == MOST
    assert {view.champion, view.runner_up, *view.front} <= names
    order = [trial.name for trial in by_merit(view)]
    places = sorted(order.index(name) for name in names)
    assert places[-1] > 380
    assert max(b - a for a, b in itertools.pairwise(places)) < 12
    assert "400 trials" in found.words


def test_before_a_verdict_the_front_so_far_is_shown(tmp_path):
    view = state(tmp_path, 200, ended=False)
    whole = {t.name: t.searched_measures for t in view.trials if t.searched_measures}
    assert set(front(whole, OBJECTIVES)) <= {t.name for t in shown_trials(view).view.trials}


def test_a_page_of_many_trials_says_what_it_shows_and_has_few_stops(tmp_path):
    view = state(tmp_path, 400)
    text = render_page(view, make_figures(view), tmp_path)
    assert text.count("Shown of 400 trials") == 4
    assert text.count('<a href="#matrix') < 2 * MOST
    assert text.count("<summary>") <= MOST


def test_the_front_by_then_is_that_of_all_that_had_ended(tmp_path):
    view = state(tmp_path, 60)
    known = {}
    for step in course(view):
        own = {name: step.trial.searched_measure(name) for name in OBJECTIVES}
        known[step.trial.name] = own
        assert set(step.front) == set(front(known, OBJECTIVES))
