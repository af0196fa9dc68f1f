"""What is known of a sweep is what its journal says."""

import pytest

from orchestrator.records.events import TrialEnded, TrialProposed, TrialStarted
from orchestrator.spec.sections import ScoringSpec
from tests.made_up_sweep import TASK, answers


def test_reading_the_journal_again_gives_the_same_ledger(ledgers, reported):
    first = ledgers()
    for name in ("base", "t001"):
        first.record(TrialProposed(name, {}, "user"))
        first.record(TrialStarted(name))
        reported(first, name)
    again = ledgers()
    assert again.state.everything == first.state.everything
    assert again.row_0() == first.row_0() is None, "the base has not ended"
    assert again.base_report() == first.base_report() is not None


def test_what_is_recorded_is_journalled_before_it_is_told(ledgers, recorder):
    ledger = ledgers()
    ledger.record(TrialProposed("t001", {"training.seed": 3}, "user"))
    assert recorder.lines == [ledger.journal.lines[-1]]
    assert ledger.seed_of(ledger.trials["t001"]) == 3
    assert ledger.searched_seeds() == {3}


def test_the_experiment_of_a_trial_is_validated_once(ledgers):
    ledger = ledgers()
    ledger.record(TrialProposed("t001", {"training.learning_rate": 0.5}, "user"))
    assert ledger.experiment_of("t001").training.learning_rate == 0.5
    assert ledger.experiment_of("t001") is ledger.experiment_of("t001")


@pytest.mark.parametrize(
    ("scoring", "repeated"), [("full", "full"), (ScoringSpec(screen=3), ScoringSpec(screen="all"))]
)
def test_a_repetition_is_scored_on_all_examples_by_what_the_measures_need(
    ledgers, scoring, repeated
):
    ledger = ledgers(scoring=scoring)
    ledger.record(TrialProposed("t001", {}, "user"))
    ledger.record(TrialProposed("t001-s1", {"training.seed": 1}, "fresh seed", "t001"))
    assert ledger.experiment_of("t001").scoring == scoring
    assert ledger.experiment_of("t001-s1").scoring == repeated


def test_examples_are_those_of_the_journal_though_the_state_keeps_none(ledgers, reported):
    ledger = ledgers()
    ledger.record(TrialProposed("t001", {}, "user"))
    assert ledger.cells("t001") == {}
    reported(ledger, "t001", 0.8)
    assert ledger.last_report(ledger.trials["t001"]).per_example is None
    assert ledger.cells("t001")[(1, TASK)].per_example == answers(0.8, "t001")


def test_the_trials_of_the_search_are_known_as_they_are_proposed_and_when_the_journal_is_read(
    ledgers,
):
    first = ledgers()
    for name, by, of in (
        ("base", "control", None), ("t001", "tpe", None), ("t002", "request 7", None),
        ("t001-s1", "fresh seed", "t001"), ("fresh", "comparison", None),
    ):  # fmt: skip
        first.record(TrialProposed(name, {}, by, of))
    for ledger in (first, ledgers()):
        assert [trial.name for trial in ledger.searched()] == ["t001", "t002"]
        assert ledger.searched()[0] is ledger.trials["t001"]
        assert ledger.asked_for == 1


def test_of_a_trial_that_has_ended_no_experiment_is_kept_and_none_is_made_to_know_its_sequence(
    ledgers,
):
    ledger = ledgers()
    ledger.record(TrialProposed("t001", {"training.learning_rate": 0.5}, "user"))
    first = ledger.experiment_of("t001")
    ledger.record(TrialEnded("t001", "FAILED", "out of memory"))
    assert not ledger.learns_jointly("t001")
    assert ledger._experiments == {}
    assert ledger.experiment_of("t001") == first
    ledger.record(TrialProposed("joint", {"method.sequence": "joint"}, "user"))
    assert ledger.learns_jointly("joint")
