import math

import pytest

from orchestrator.spec.space.search_space import SearchSpec
from orchestrator.sweep.proposing.search import PastTrial, Proposer

OBJECTIVES = {"gain": "max", "forgetting": "min"}


def spec(search, **fields) -> SearchSpec:
    return SearchSpec.model_validate({**search, **fields})


def scored(overrides):
    """A made-up outcome: a learning rate of 0.01 is best."""
    distance = abs(math.log10(overrides["training.learning_rate"]) + 2)
    return {"gain": 0.5 - 0.2 * distance, "forgetting": 0.1 * distance}


def play(proposer, first=1, count=None):
    history = []
    number = first
    while count is None or len(history) < count:
        name = f"t{number:03d}"
        overrides = proposer.propose(name)
        if overrides is None:
            break
        proposer.tell(name, scored(overrides))
        history.append(PastTrial(name, overrides, "COMPLETE", scored(overrides)))
        number += 1
    return history


@pytest.mark.parametrize("searcher", ["tpe", "random"])
def test_conditions_hold_and_bounds_are_kept(search, searcher):
    trials = play(Proposer(spec(search, searcher=searcher, trials=20), OBJECTIVES))
    assert len(trials) == 20
    kinds = {t.overrides["method.adapter.kind"] for t in trials}
    assert kinds == {"curlora", "lora"}
    for trial in trials:
        lora = trial.overrides["method.adapter.kind"] == "lora"
        assert ("method.adapter.temperature" in trial.overrides) != lora
        assert 0.001 <= trial.overrides["training.learning_rate"] <= 0.03


def test_proposals_depend_on_the_seed_only(search):
    once = play(Proposer(spec(search, trials=8), OBJECTIVES))
    assert once == play(Proposer(spec(search, trials=8), OBJECTIVES))
    assert once != play(Proposer(spec(search, trials=8, seed=1), OBJECTIVES))


def test_tpe_learns(search):
    """Proposals after the start-up lie nearer to the best learning rate than random ones."""
    space = {"training.learning_rate": {"log_uniform": [1e-5, 1.0]}}
    distances = {}
    for searcher in ("tpe", "random"):
        total = 0.0
        for seed in range(5):
            one = SearchSpec.model_validate(
                {"space": space, "searcher": searcher, "trials": 40, "seed": seed}
            )
            for trial in play(Proposer(one, OBJECTIVES))[20:]:
                total += abs(math.log10(trial.overrides["training.learning_rate"]) + 2)
        distances[searcher] = total
    assert distances["tpe"] < 0.6 * distances["random"]


def test_a_rebuilt_search_goes_on_where_it_was(search):
    """It proposes what is missing, repeats nothing, and knows what it knew."""
    past = play(Proposer(spec(search, trials=10), OBJECTIVES), count=6)
    past[2] = PastTrial(past[2].name, past[2].overrides, "FAILED")
    past[5] = PastTrial(past[5].name, past[5].overrides, "RUNNING")
    rebuilt = Proposer(spec(search, trials=10), OBJECTIVES, past)
    rebuilt.tell("t006", scored(past[5].overrides))
    rest = play(rebuilt, first=7)
    assert len(rest) == 4
    rates = [t.overrides["training.learning_rate"] for t in past + rest]
    assert len(set(rates)) == len(rates)


def test_an_interruption_changes_no_proposal(search):
    whole = play(Proposer(spec(search, trials=9), OBJECTIVES))
    for stop in (1, 4, 7):
        rest = play(Proposer(spec(search, trials=9), OBJECTIVES, whole[:stop]), first=stop + 1)
        assert rest == whole[stop:]


def test_grid_is_walked_once_in_order(search):
    del search["space"]["training.learning_rate"]
    search["space"]["method.adapter.temperature"] = {
        "choice": [0.5, 1.0], "when": {"method.adapter.kind": "curlora"},
    }  # fmt: skip
    proposer = Proposer(spec(search, searcher="grid", trials=100), OBJECTIVES)
    assert proposer.total == 6
    points = []
    while (overrides := proposer.propose(f"t{len(points):03d}")) is not None:
        points.append(overrides)
        proposer.tell(f"t{len(points) - 1:03d}", {"gain": 0.1, "forgetting": 0.0})
    assert len(points) == 6
    half = Proposer(
        spec(search, searcher="grid", trials=100),
        OBJECTIVES,
        [PastTrial(f"t{i:03d}", p, "COMPLETE", {"gain": 0, "forgetting": 0}) for i, p in
         enumerate(points[:4])],
    )  # fmt: skip
    assert half.propose("t004") == points[4]


def test_a_trial_without_all_objectives_counts_as_failed(search):
    proposer = Proposer(spec(search, trials=4), OBJECTIVES)
    proposer.propose("t001")
    proposer.tell("t001", {"gain": 0.5, "forgetting": math.nan})
    proposer.propose("t002")
    proposer.tell("t002", None)
    assert [t.state.name for t in proposer._study.trials] == ["FAIL", "FAIL"]


def test_lists_can_be_choices(search):
    modules = [["q_proj"], ["q_proj", "v_proj"], "all-linear"]
    space = {"method.adapter.target_modules": {"choice": modules}}
    trials = play_lists(SearchSpec.model_validate({"space": space, "trials": 12}))
    assert {str(m) for m in modules} == {str(t) for t in trials}


def play_lists(search):
    proposer = Proposer(search, {"gain": "max"})
    chosen = []
    for number in range(search.trials):
        overrides = proposer.propose(str(number))
        proposer.tell(str(number), {"gain": 0.0})
        chosen.append(overrides["method.adapter.target_modules"])
    return chosen


def test_what_a_person_adds_is_learnt_of_as_what_was_known_before_and_takes_no_place(search):
    one = spec(search, trials=10, startup_trials=2)
    known = play(Proposer(spec(search, trials=6, seed=5), OBJECTIVES))
    proposer = Proposer(one, OBJECTIVES)
    for trial in known:
        proposer.observe(f"a-{trial.name}", trial.overrides)
        proposer.tell(f"a-{trial.name}", trial.values)
    found = play(proposer)
    assert len(found) == proposer.total == 10
    assert found == play(Proposer(one, OBJECTIVES, prior=known))
    assert found != play(Proposer(one, OBJECTIVES))


def test_a_rebuilt_search_knows_what_a_person_has_added(search):
    one = spec(search, trials=10)
    proposer, past = Proposer(one, OBJECTIVES), []
    past += play(proposer, count=4)
    added = dict(past[0].overrides)
    proposer.observe("t005", added)
    past.append(PastTrial("t005", added, "RUNNING", added=True))
    next_one = proposer.propose("t006")
    rebuilt = Proposer(one, OBJECTIVES, past)
    assert rebuilt.propose("t006") == next_one
    for each in (proposer, rebuilt):
        each.tell("t005", scored(added))
        each.tell("t006", scored(next_one))
    assert rebuilt.propose("t007") == proposer.propose("t007")
    without = Proposer(one, OBJECTIVES, past[:4])
    assert without.total == rebuilt.total == 10


def test_a_grid_runs_its_own_points_whatever_a_person_adds(search):
    grid = {"space": {"method.adapter.r": {"choice": [2, 4, 8]}}, "searcher": "grid", "trials": 3}
    proposer = Proposer(SearchSpec.model_validate(grid), OBJECTIVES)
    proposer.observe("mine", {"method.adapter.r": 4})
    ranks = [proposer.propose(f"t{n}")["method.adapter.r"] for n in range(3)]
    assert sorted(ranks) == [2, 4, 8]
    assert proposer.propose("t3") is None


def test_a_search_with_many_trials_is_opened_and_told_without_copying_them(search, monkeypatch):
    """Reading a study copies all of its trials: once for each is ten thousand times for each."""
    import optuna

    past = play(Proposer(spec(search, searcher="random", trials=60), OBJECTIVES))
    copied, get_trials = [], optuna.Study.get_trials

    def counted(study, *rest, **options):
        copied.append(len(rest) or options)
        return get_trials(study, *rest, **options)

    monkeypatch.setattr(optuna.Study, "get_trials", counted)
    proposer = Proposer(spec(search, searcher="random", trials=62), OBJECTIVES, past)
    assert play(proposer, first=61)
    assert not copied


def test_a_study_holds_what_it_is_told_as_if_it_had_copied_it(search):
    past = play(Proposer(spec(search, trials=3), OBJECTIVES))
    study = Proposer(spec(search, trials=3), OBJECTIVES, past)._study
    first = study.get_trials(deepcopy=False)[0]
    copied = study.get_trials()[0]
    assert copied == first
    assert copied is not first
    assert copied.params is not first.params, "whoever asks for a copy has one of its own"
