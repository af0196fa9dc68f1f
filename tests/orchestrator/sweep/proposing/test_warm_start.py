import pytest

from orchestrator.records.events import SweepOpened
from orchestrator.records.journal import Journal
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.space.search_space import SearchSpec
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.proposing.search import PastTrial, Proposer
from orchestrator.sweep.proposing.warm_start import prior_trials
from tests.journals import say

RATE = "training.learning_rate"
PROVENANCE = {"base": {"sha256": "b"}, "data": {"mood": "m", "prose": "p"}}


def experiment(**search):
    space = {RATE: {"log_uniform": [1e-4, 1e-2]}}
    return Experiment.model_validate(
        {
            "name": "new", "model": {"name": "m"}, "tasks": ["mood"],
            "method": {"adapter": {"kind": "lora"}}, "objectives": {"gain": "max"},
            "champion": {"subject_to": {}},
            "search": {"space": space, "warm_start": ["old"], **search},
        }
    )  # fmt: skip


@pytest.fixture
def old(tmp_path):
    """Writes an earlier sweep with four trials, two of which this space holds."""

    def write(provenance=PROVENANCE, tasks=("mood",)):
        with Journal(tmp_path / "old") as journal:
            document = experiment(warm_start=[]).model_dump(mode="json") | {"tasks": list(tasks)}
            journal.append(SweepOpened("old", experiment=document, provenance=provenance))
            for number, (rate, gain) in enumerate(
                [(1e-3, 0.1), (5e-2, 0.2), (2e-3, 0.3), (3e-3, None)], start=1
            ):
                name = f"t{number:03d}"
                say(journal, "trial_proposed", trial=name, overrides={RATE: rate})
                say(journal, "trial_started", trial=name, attempt=1)
                say(journal, "trial_ended", trial=name, state="COMPLETE", measures={"gain": gain})
        return tmp_path

    return write


def test_whole_trials_that_the_space_holds_are_known(old):
    found, told = prior_trials(experiment(), PROVENANCE, old())
    assert [(past.overrides[RATE], past.values["gain"]) for past in found] == [
        (1e-3, 0.1), (2e-3, 0.3),
    ]  # fmt: skip
    assert told == [
        "the searcher knows 2 of 4 whole trials of old; the others are outside the space, or lack "
        "an objective"
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"provenance": {**PROVENANCE, "base": {"sha256": "c"}}}, "another base model"),
        ({"tasks": ["mood", "being"]}, "its tasks are mood, being"),
        ({"provenance": {**PROVENANCE, "data": {"mood": "n"}}}, "the data of mood are others"),
    ],
)
def test_a_sweep_of_something_else_is_refused(old, changes, said):
    with pytest.raises(SweepError, match=said):
        prior_trials(experiment(), PROVENANCE, old(**changes))


def test_a_sweep_that_is_not_there_is_named_with_the_nearest(old):
    with pytest.raises(SweepError, match=r"'odl'.*old"):
        prior_trials(experiment(warm_start=["odl"]), PROVENANCE, old())


def test_only_a_searcher_that_learns_takes_it():
    with pytest.raises(ValueError, match="learns from no trial"):
        experiment(searcher="random")


def test_the_searcher_proposes_near_what_was_good_and_counts_only_its_own():
    search = SearchSpec(
        space={RATE: {"log_uniform": [1e-6, 1.0]}}, trials=5, startup_trials=1, seed=3
    )
    good = [
        PastTrial(f"old/{i}", {RATE: rate}, "COMPLETE", {"gain": -abs(i - 10.0)})
        for i, rate in enumerate(10 ** (-6 + 0.3 * step) for step in range(20))
    ]
    warm = Proposer(search, {"gain": "max"}, prior=good)
    assert warm.total == 5
    proposed = [warm.propose(f"t{i}")[RATE] for i in range(5)]
    assert warm.propose("t5") is None
    near = [1e-5 <= rate <= 0.1 for rate in proposed]
    assert sum(near) >= 4
