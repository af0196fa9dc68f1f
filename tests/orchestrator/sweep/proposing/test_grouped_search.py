import random
from collections import Counter

from orchestrator.spec.space.search_space import SearchSpec
from orchestrator.sweep.proposing.grouped_search import GroupedProposer, part_of
from orchestrator.sweep.proposing.search import PastTrial

PER = "method.preset"
COSTS = {"seq": 1.0, "er": 2.0, "secura": 4.0}
RATE = "training.learning_rate"


def spec(**fields):
    space = {
        PER: {"choice": [*COSTS]},
        RATE: [
            {"log_uniform": [1e-4, 1e-2], "when": {PER: ["seq", "er"]}},
            {"log_uniform": [1e-6, 1e-4], "when": {PER: "secura"}},
        ],
        "method.retention.capacity": {"choice": [100, 1000], "when": {PER: "er"}},
    }
    return SearchSpec(space=space, per=PER, **{"trials": 28, **fields})


def proposer(search, past=(), **more):
    return GroupedProposer(search, {"gain": "max"}, past, **more)


def run(search, past=()):
    """All proposals of a search, each told at once, as past trials."""
    searches, done = proposer(search, past), list(past)
    while (overrides := searches.propose(name := f"t{len(done):03d}")) is not None:
        measures, cost = {"gain": random.Random(name).random()}, COSTS[overrides[PER]]
        searches.tell(name, measures, cost)
        done.append(PastTrial(name, overrides, "COMPLETE", measures, cost))
    return done


def test_each_value_gets_the_same_compute_and_not_the_same_number():
    done = run(spec())
    assert len(done) == 28
    spent = Counter()
    for trial in done:
        spent[trial.overrides[PER]] += trial.cost
    assert max(spent.values()) - min(spent.values()) <= max(COSTS.values())
    counts = Counter(trial.overrides[PER] for trial in done)
    assert counts == {"seq": 16, "er": 8, "secura": 4}


def test_each_value_has_its_own_part_of_the_space():
    for trial in run(spec()):
        preset, rate = trial.overrides[PER], trial.overrides[RATE]
        assert (1e-6 <= rate <= 1e-4) if preset == "secura" else (1e-4 <= rate <= 1e-2)
        assert ("method.retention.capacity" in trial.overrides) == (preset == "er")
    alone = part_of(spec(), "secura", 2)
    assert alone.per is None
    assert alone.space[RATE].log_uniform == (1e-6, 1e-4)
    assert not alone.space[RATE].when


def test_trials_that_run_count_with_what_such_trials_cost():
    searches = proposer(spec())
    groups = [searches.propose(f"t{i}")[PER] for i in range(6)]
    assert Counter(groups) == dict.fromkeys(COSTS, 2)


def test_a_search_that_goes_on_proposes_what_it_would_have_proposed():
    whole = run(spec(searcher="random"))
    assert run(spec(searcher="random"), whole[:11]) == whole


def test_known_good_starts_come_first_in_their_group():
    start = {PER: "er", RATE: 1e-3, "method.retention.capacity": 1000}
    done = run(spec(first=[start]))
    assert next(t.overrides for t in done if t.overrides[PER] == "er") == start
    assert sum(trial.overrides == start for trial in done) == 1


def test_no_group_pays_for_what_a_person_adds():
    added = {PER: "seq", RATE: 1e-3}
    searches = proposer(spec())
    for number in range(5):
        searches.observe(f"a{number}", added)
        searches.tell(f"a{number}", {"gain": 0.5}, 100.0)
    past = [PastTrial(f"a{n}", added, "COMPLETE", {"gain": 0.5}, 100.0, True) for n in range(5)]
    rebuilt = proposer(spec(), past)
    assert searches.total == rebuilt.total == 28
    for number in range(6):
        name = f"t{number:03d}"
        overrides = searches.propose(name)
        assert overrides == rebuilt.propose(name)
        for each in (searches, rebuilt):
            each.tell(name, {"gain": 0.1}, COSTS[overrides[PER]])
    done = Counter(trial.overrides[PER] for trial in run(spec(), past) if not trial.added)
    assert done == {"seq": 16, "er": 8, "secura": 4}
