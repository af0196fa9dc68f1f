"""Trials are proposed in order, and never what cannot be."""

import pytest

from orchestrator.records.events import TrialEnded
from orchestrator.spec.validation import ExperimentError
from orchestrator.sweep.deciding.budget import Budget
from orchestrator.sweep.deciding.proposals import Proposals

RATES = {"space": {"training.learning_rate": {"choice": [0.1, 0.2, 0.3]}}, "searcher": "grid",
         "trials": 3}  # fmt: skip


def end(ledger, name, gain):
    ledger.record(TrialEnded(name, "COMPLETE", measures={"gain": gain}))


def test_what_is_missing_is_proposed_one_after_the_other_and_no_more(ledgers):
    ledger = ledgers(search=RATES)
    proposals = Proposals(ledger, Budget(ledger))
    for missing, name in zip([4, 3, 2, 1], ["base", "t001", "t002", "t003"], strict=True):
        assert proposals.missing == missing
        assert proposals.next() == name
    assert (proposals.missing, proposals.next()) == (0, None)


def test_a_sweep_that_goes_on_proposes_what_one_that_was_not_stopped_would(ledgers):
    ledger = ledgers(search=RATES)
    proposals = Proposals(ledger, Budget(ledger))
    first = [proposals.next() for _ in range(2)]
    again = ledgers(search=RATES)
    later = Proposals(again, Budget(again))
    assert [*first, *(later.next() for _ in range(2))] == ["base", "t001", "t002", "t003"]
    rates = [trial.overrides["training.learning_rate"] for trial in again.searched()]
    assert sorted(rates) == [0.1, 0.2, 0.3]


def test_without_a_search_there_is_one_trial(ledgers):
    ledger = ledgers()
    proposals = Proposals(ledger, Budget(ledger))
    assert (proposals.total, proposals.missing) == (1, 2)
    assert [proposals.next() for _ in range(3)] == ["base", "t001", None]


def test_finalists_are_repeated_once_the_search_is_over_and_not_before(ledgers):
    ledger = ledgers(search=RATES, finalists={"fresh_seeds": 2})
    proposals = Proposals(ledger, Budget(ledger))
    assert proposals.missing == 6, "a repetition for each seed is to come"
    for _ in range(4):
        proposals.next()
    for name, gain in (("t001", 0.1), ("t002", 0.3)):
        end(ledger, name, gain)
    assert proposals.next() is None
    assert proposals.missing_repetitions == 2
    end(ledger, "t003", 0.2)
    assert [trial.name for trial in proposals.finalists()] == ["t002"]
    assert [proposals.next() for _ in range(3)] == ["t002-s1", "t002-s2", None]
    assert ledger.trials["t002-s1"].of == "t002"
    assert [trial.name for trial in ledger.searched()] == ["t001", "t002", "t003"]


def test_what_cannot_be_is_not_recorded(ledgers):
    ledger = ledgers()
    with pytest.raises(ExperimentError, match="rank"):
        Proposals(ledger, Budget(ledger)).propose("t001", {"method.adapter.rank": 2}, "user")
    assert ledger.trials == {}
    assert len(ledger.journal.lines) == 1


def test_an_extension_that_is_whole_is_compared_with_trials_that_cannot_win(ledgers):
    extends = {"sweep": "demo", "sweep_id": "1", "trial": "t003", "learnt": 1}
    one = {"space": {"training.learning_rate": {"choice": [0.1]}}, "searcher": "grid"}
    ledger = ledgers(tasks=["mood", "hue"], extends=extends, search=one)
    proposals = Proposals(ledger, Budget(ledger))
    assert proposals.missing == 4
    assert [proposals.next() for _ in range(3)] == ["base", "t001", None]
    end(ledger, "t001", 0.1)
    assert [proposals.next() for _ in range(3)] == ["joint", "fresh", None]
    assert proposals.missing == 0
    assert ledger.experiment_of("joint").extends is None
    assert ledger.experiment_of("joint").method.sequence == "joint"
    assert ledger.experiment_of("fresh").extends.begin == "fresh"
    for name in ("joint", "fresh"):
        end(ledger, name, 0.9)
        proposals.tell(ledger.trials[name], {"gain": 0.9})
    assert [trial.name for trial in ledger.eligible()] == ["t001"]
    assert ledger.state.best.name == "t001"


def test_a_budget_holds_room_for_the_finalists_of_the_groups_that_were_tried(ledgers):
    """Of six methods none was tried: two repetitions of one finalist, at most, are ahead."""
    presets = ["seq", "er", "lalora", "ewc-lora", "o-lora", "curlora"]
    ledger = ledgers(
        method={"preset": "seq"},
        search={"space": {"method.preset": {"choice": presets}}, "trials": 6},
        finalists={"per": "method.preset", "fresh_seeds": 2, "most": 3},
    )
    proposals = Proposals(ledger, Budget(ledger))
    asked = []
    proposals._budget.fits = lambda wanted: asked.append(wanted) or True
    for _ in range(5):
        proposals.next()
    presets = [trial.overrides["method.preset"] for trial in ledger.searched()]
    groups = [len(set(presets[:count])) for count in range(4)]
    assert asked == [1 + min(6, 2 * (number + 1)) for number in groups]
    assert asked[0] < 7
