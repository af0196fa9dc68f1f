"""Whatever the space, a proposal is valid before it is recorded, and a search can go on after it.

Spaces and experiments are drawn at random. What is not refused when the file is read is played:
every proposal must be a possible trial, survive the journal's JSON, and lead any later session to
the same proposals.
"""

import json
import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from orchestrator.base.loading import load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.records.journal import Journal
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import load_experiment
from orchestrator.spec.reach import refusal
from orchestrator.spec.sections import LARGEST_SEED
from orchestrator.spec.space.space_checks import check_space
from orchestrator.spec.validation import ExperimentError
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.proposing.search import PastTrial, Proposer
from tests.journals import say

DOMAINS = {
    "method.adapter.r": [{"choice": [2, 8]}, {"int_uniform": [2, 8]}, {"uniform": [2, 8]}],
    "method.adapter.m": [{"choice": [16, 4]}, {"int_uniform": [6, 12]}],
    "method.adapter.temperature": [{"log_uniform": [0.05, 4.0]}, {"choice": [0.5, "3e-1"]}],
    "method.adapter.alpha": [{"log_uniform": [0.5, 16.0]}, {"uniform": [1, 2]}],
    "method.adapter.target_modules": [{"choice": [["q_proj"], ["q_proj", "v_proj"], None]}],
    "method.adapter.kind": [{"choice": ["curlora", "lora"]}, {"choice": ["secura", "lora"]}],
    "method.adapter": [{"choice": [{"kind": "lora", "r": 4}, {"kind": "curlora"}]}],
    "method.preset": [{"choice": ["seq", "curlora", None]}, {"choice": ["ewc-lora", "er"]}],
    "method.retention.kind": [{"choice": ["none", "ewc"]}, {"choice": ["olora", "laplace"]}],
    "method.retention.strength": [{"log_uniform": [0.1, 10.0]}],
    "method.early_stopping": [{"choice": [None, {}]}],
    "method.early_stopping.patience": [{"int_uniform": [1, 3]}],
    "method.sequence": [{"choice": ["in_order", "joint"]}],
    "training.learning_rate": [{"log_uniform": [1e-4, 1e-2]}, {"choice": [1e-4, 1e-3]}],
    "training.batch_size": [{"int_uniform": [2, 64]}, {"choice": [2, 4, 6, 8]}],
    "training.accumulation": [{"choice": [1, 2]}, {"int_uniform": [1, 4]}],
    "training.max_grad_norm": [{"choice": [1.0, None]}],
    "training.seed": [{"int_uniform": [0, LARGEST_SEED]}, {"choice": [0, 1]}],
    "training.deepspeed.zero_optimization.stage": [{"choice": [0, 2, 3]}],
    "resources.workers": [{"choice": [1, 2]}, {"int_uniform": [1, 2]}],
}
"""Domains that may be right, alone or together; others that never are stand below."""
WRONG = [
    {"choice": [2, 2, 4]}, {"choice": [1, True]}, {"choice": [math.nan]}, {"choice": [math.inf]},
    {"choice": [{1, 2}]}, {"uniform": [-1e308, 1e308]}, {"uniform": [0, math.inf]},
    {"int_uniform": [0, 2**60]}, {"log_uniform": [1.0, 1.0 + 1e-15]}, {"choice": ["json:[]"]},
]  # fmt: skip


RELATED = [
    ["resources.workers", "training.batch_size"],
    ["training.accumulation", "training.batch_size"],
    ["method.adapter.r", "method.adapter.m"],
    ["method.retention.kind", "training.deepspeed.zero_optimization.stage"],
]
"""Fields of which not every pair of values goes together."""


@st.composite
def domains(draw, path, others):
    """A domain, or two alternatives, with conditions on a field that is drawn already."""
    one = draw(st.sampled_from([*DOMAINS[path] * 8, draw(st.sampled_from(WRONG))]))
    parents = {p: d["choice"] for p, d in others.items() if isinstance(d, dict) and "choice" in d}
    if not parents or draw(st.integers(0, 3)) > 1:
        return dict(one)
    parent = draw(st.sampled_from(list(parents)))
    values = parents[parent]
    if draw(st.booleans()):
        return {**one, "when": {parent: values[0]}}
    other = draw(st.sampled_from(DOMAINS[path]))
    return [{**one, "when": {parent: values[:1]}}, {**other, "when": {parent: values[1:]}}]


@st.composite
def entries(draw, space):
    """An entry of `first`: values from the space, or from anywhere."""
    entry = {}
    for path in draw(st.lists(st.sampled_from([*space, *DOMAINS]), max_size=2, unique=True)):
        domain = space.get(path, DOMAINS[path][0])
        domain = draw(st.sampled_from(domain)) if isinstance(domain, list) else domain
        values = next(value for key, value in domain.items() if key != "when")
        entry[path] = draw(st.sampled_from([*values, *values, 0.05, 64]))
    return entry


@st.composite
def searches(draw):
    space = {}
    several = st.lists(st.sampled_from(list(DOMAINS)), min_size=1, max_size=4, unique=True)
    for path in draw(st.one_of(several, st.sampled_from(RELATED))):
        space[path] = draw(domains(path, space))
    found = {
        "space": space,
        "searcher": draw(st.sampled_from(["tpe", "tpe", "random", "grid"])),
        "seed": draw(st.sampled_from([0, LARGEST_SEED])),
        "trials": draw(st.sampled_from([None, 1, 5, 7])),
        "startup_trials": 2,
    }
    if found["searcher"] != "grid":
        found["first"] = [draw(entries(space)) for _ in range(draw(st.integers(0, 2)))]
    return found


@st.composite
def experiments(draw):
    kind = draw(st.sampled_from(["lora", "curlora", "secura"]))
    return {
        "name": "drawn",
        "model": {"name": "m"},
        "tasks": ["a", "b"],
        "method": {"adapter": {"kind": kind, "r": 4}},
        "training": {"batch_size": draw(st.sampled_from([2, 4, 6]))},
        "resources": {
            "executor": draw(st.sampled_from(["pool", "train", "local"])),
            "workers": draw(st.sampled_from([1, 1, 2])),
        },
        "finalists": {"fresh_seeds": draw(st.sampled_from([0, 0, 2]))},
        "objectives": {"gain": "max"},
        "champion": {"subject_to": {}},
        "search": draw(searches()),
    }


def read(document):
    """The experiment as far as `load_experiment` checks it without task files; None: refused."""
    try:
        experiment = Experiment.model_validate(document)
        check_space(experiment)
    except ValueError:  # of which both an ExperimentError and pydantic's error are one
        return None
    return experiment


def recorded(value):
    return json.loads(json.dumps(value, allow_nan=False))


def proposer(experiment, past=()):
    return Proposer(
        experiment.search, experiment.objectives, past,
        refuses=lambda overrides: refusal(experiment, overrides),
    )  # fmt: skip


def outcome(number):
    """A made-up end of a trial: every fourth fails."""
    return None if number % 4 == 3 else {"gain": math.sin(number)}


def play(experiment, past=(), most=12):
    """The trials that a search proposes after what is known of earlier ones."""
    search, trials = proposer(experiment, past), list(past)
    while len(trials) < most:
        name = f"t{len(trials) + 1:03d}"
        overrides = search.propose(name)
        if overrides is None:
            break
        experiment.with_overrides(overrides)
        values = outcome(len(trials))
        search.tell(name, values)
        state = "FAILED" if values is None else "COMPLETE"
        trials.append(PastTrial(name, recorded(overrides), state, values))
    return trials


@settings(max_examples=40, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])  # fmt: skip
@given(experiments(), st.data())
def test_whatever_the_space_a_proposal_is_possible_and_a_search_can_go_on(document, data):
    experiment = read(document)
    assume(experiment is not None)
    whole = play(experiment)
    assert len(whole) == min(12, experiment.searched_trials)
    stop = data.draw(st.integers(0, len(whole)))
    assert play(experiment, whole[:stop]) == whole


# --- known cases ---------------------------------------------------------------------------------

WORKERS, BATCH, RATE = "resources.workers", "training.batch_size", "training.learning_rate"
KIND, R = "method.adapter.kind", "method.adapter.r"


def searching(space, **fields):
    """An experiment of which nothing is checked but its form, as an older version read it."""
    document = {
        "name": "drawn", "model": {"name": "m"}, "tasks": ["a", "b"],
        "method": {"adapter": {"kind": "lora", "r": 4}}, "objectives": {"gain": "max"},
        "champion": {"subject_to": {}},
    }  # fmt: skip
    return Experiment.model_validate(document | {"search": {"space": space, **fields}})


def test_the_searcher_is_asked_again_where_two_fields_do_not_go_together():
    space = {WORKERS: {"choice": [1, 2]}, BATCH: {"int_uniform": [2, 64]}}
    experiment = searching(space, trials=20)
    check_space(experiment)
    trials = play(experiment, most=20)
    pairs = {(t.overrides[WORKERS], t.overrides[BATCH] % 2) for t in trials}
    assert pairs == {(1, 0), (1, 1), (2, 0)}


def test_a_searcher_that_insists_on_the_impossible_is_passed_over(monkeypatch):
    """What it cannot find is drawn from what is possible, the same in any session."""
    experiment = searching({BATCH: {"int_uniform": [1, 64]}}, trials=6)

    def stubborn(past=()):
        search = Proposer(
            experiment.search, {"gain": "max"}, past,
            refuses=lambda overrides: "never" if overrides[BATCH] == 7 else None,
        )  # fmt: skip
        asked = search._ask
        monkeypatch.setattr(search, "_ask", lambda fixed: (asked(fixed)[0], {BATCH: 7}))
        return search

    search = stubborn()
    first, second = search.propose("t001"), search.propose("t002")
    assert 7 not in {first[BATCH], second[BATCH]}
    later = stubborn([PastTrial("t001", first, "RUNNING")])
    assert later.propose("t002") == second


def test_a_first_trial_from_outside_the_space_is_run_and_can_be_continued():
    """Older versions accepted it; a sweep that was begun so must go on."""
    experiment = searching(
        {RATE: {"log_uniform": [1e-4, 1e-2]}, R: {"choice": [4, 8]}}, trials=4,
        first=[{RATE: 0.05, R: 8}, {R: 64}],
    )  # fmt: skip
    whole = play(experiment)
    assert whole[0].overrides == {RATE: 0.05, R: 8}
    assert whole[1].overrides[R] == 64
    for stop in range(5):
        assert play(experiment, whole[:stop]) == whole


def test_a_cut_grid_is_spread_over_the_values_of_every_field():
    kinds, rates = ["curlora", "lora", "dora"], [1e-3 * n for n in range(1, 9)]
    space = {KIND: {"choice": kinds}, RATE: {"choice": rates}}
    tried = [t.overrides for t in play(searching(space, searcher="grid", trials=8))]
    assert sorted(Counter(one[KIND] for one in tried).values()) == [2, 3, 3]
    assert {one[RATE] for one in tried} == set(rates)
    nine = play(searching(space, searcher="grid", trials=9))
    assert [t.overrides for t in nine[:8]] == tried  # more trials go on from there


def test_more_trials_of_a_cut_grid_are_those_that_were_not_run():
    space = {KIND: {"choice": ["curlora", "lora"]}, RATE: {"choice": [1e-3, 2e-3, 3e-3]}}
    prefix = searching(space, searcher="grid").search.points[:2]  # as an older version cut it
    past = [PastTrial(f"t00{n}", p, "COMPLETE", {"gain": 0.5}) for n, p in enumerate(prefix, 1)]
    rest = [t.overrides for t in play(searching(space, searcher="grid"), past)]
    assert len(rest) == 6
    assert {json.dumps(one, sort_keys=True) for one in rest} == {
        json.dumps(one, sort_keys=True) for one in searching(space, searcher="grid").search.points
    }


def test_an_impossible_point_of_an_older_grid_is_not_proposed_again():
    space = {WORKERS: {"choice": [1, 2]}, BATCH: {"choice": [7, 8]}}
    experiment = searching(space, searcher="grid")
    past = [PastTrial("t001", {WORKERS: 2, BATCH: 7}, "FAILED")]
    assert [t.overrides for t in play(experiment, past)[1:]] == [
        {WORKERS: 1, BATCH: 7}, {WORKERS: 1, BATCH: 8}, {WORKERS: 2, BATCH: 8},
    ]  # fmt: skip


def test_choices_of_any_kind_come_back_as_they_were_written():
    values = [1, True, "json:[]", "1", None, ["q_proj"], {"kind": "lora"}, 0.5]
    search = searching({"training.deepspeed.some": {"choice": values}}, trials=40).search
    asked = Proposer(search, {"gain": "max"})
    got = []
    for number in range(40):
        got.append(asked.propose(f"t{number}")["training.deepspeed.some"])
        asked.tell(f"t{number}", {"gain": number % 3})
    assert all(any(g is v or (g == v and type(g) is type(v)) for v in values) for g in got)
    assert {repr(g) for g in got} == {repr(v) for v in values}


# --- in the driver -------------------------------------------------------------------------------


@pytest.fixture
def related(experiment_file):
    """An experiment in which two searched fields do not always go together, and its data."""
    search = {"space": {WORKERS: {"choice": [1, 2]}, BATCH: {"choice": [8, 7]}}, "trials": 6,
              "searcher": "random"}  # fmt: skip
    data = {"train_examples": 8, "validation_examples": 4, "probe_tokens": 64, "probe_context": 32}
    loaded = load_experiment(experiment_file(search=search, data=data))
    return loaded, prepare(loaded, load_tokenizer(loaded.experiment.model))


def test_an_impossible_trial_of_an_older_journal_fails_and_the_sweep_goes_on(
    related, tmp_path, recorder
):
    loaded, data = related
    with Journal(tmp_path / "old") as journal:
        say(journal, "sweep_opened", sweep="old", experiment={"name": "old"}, provenance={})
        for name, overrides in (("base", {}), ("t001", {WORKERS: 2, BATCH: 7})):
            say(journal, "trial_proposed", trial=name, overrides=overrides, by="tpe")
    for _ in range(2):  # at every resume
        with Journal(tmp_path / "old") as journal:
            driver = Driver(loaded, journal, recorder, data)
            end = next(line for line in journal.lines if line["event"] == "trial_ended")
            assert (end["trial"], end["state"]) == ("t001", "FAILED")
            assert "must be a multiple" in end["reason"]
            assert not driver.given_up
            assert driver.unfinished == 6  # the base, and five of six trials
    with Journal(tmp_path / "old") as journal:
        driver = Driver(loaded, journal, recorder, data)
        jobs = [driver.next_job().trial for _ in range(6)]
        assert jobs == ["base", "t002", "t003", "t004", "t005", "t006"]
        proposed = [x for x in journal.lines if x["event"] == "trial_proposed"]
        assert all(refusal(loaded.experiment, x["overrides"]) is None for x in proposed[2:])


def test_what_cannot_be_is_never_recorded(related, tmp_path, recorder):
    loaded, data = related
    with Journal(tmp_path / "new") as journal:
        driver = Driver(loaded, journal, recorder, data)
        with pytest.raises(ExperimentError, match="must be a multiple"):
            driver.proposals.propose("t001", {WORKERS: 2, BATCH: 7}, "nobody")
        assert not len(journal.lines)
        assert driver.trials == {}
