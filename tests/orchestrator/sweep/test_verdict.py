"""The verdict over many trials: joint learning, fresh seeds, and what was chosen by what."""

import random

import pytest

from orchestrator.data.prepared import PreparedTask
from orchestrator.records.events import read_event
from orchestrator.records.readings import reading_words
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_state import SweepState
from orchestrator.sweep.baselines import Controls
from orchestrator.sweep.verdict import Judged, fresh_orders, fresh_seeds, judge
from tests.made_up_sweep import EXAMPLES, TASK, MadeUp, answers, experiment, report, spec


def test_joint_learning_is_no_finalist_even_when_it_scores_best(tmp_path, recorder):
    made = MadeUp(
        tmp_path / "sweep", recorder,
        search={"space": {"method.preset": {"choice": ["joint", "seq"]}}, "searcher": "grid",
                "trials": 2},
        finalists={"fresh_seeds": 2},
    )  # fmt: skip
    best = {"joint": 0.95, "seq": 0.9}

    def scores(name, overrides):
        return answers(best.get(overrides.get("method.preset"), 0.3), name)

    end = made.run(scores)
    repeats = {name: line["of"] for name, line in made.proposed().items() if line.get("of")}
    assert repeats == {"t002-s1": "t002", "t002-s2": "t002"}
    assert end["champion"] == "t002"
    assert "on 2 fresh seeds that had no part in the choice" in end["reason"]
    assert [finalist["trial"] for finalist in end["finalists"]] == ["t002"]


def test_fresh_seeds_are_none_of_those_that_were_searched(tmp_path, recorder):
    made = MadeUp(
        tmp_path / "sweep", recorder,
        search={"space": {"training.seed": {"choice": [0, 1, 3]}}, "searcher": "grid",
                "trials": 3},
        finalists={"fresh_seeds": 2},
    )  # fmt: skip
    end = made.run(lambda name, overrides: answers(0.9 if overrides else 0.3, name))
    searched, fresh = set(), set()
    for name, line in made.proposed().items():
        if name != "base":
            (fresh if line.get("of") else searched).add(line["overrides"]["training.seed"])
    assert searched == {0, 1, 3}
    assert fresh == {2, 4}
    assert end["champion"] in {"t001", "t002", "t003"}


def test_choices_that_are_lists_make_groups_of_finalists(tmp_path, recorder):
    path = "method.adapter.target_modules"
    made = MadeUp(
        tmp_path / "sweep", recorder,
        search={"space": {path: {"choice": [["q_proj"], ["q_proj", "v_proj"]]}},
                "searcher": "grid", "trials": 2},
        finalists={"fresh_seeds": 1, "per": path},
    )  # fmt: skip
    end = made.run(lambda name, overrides: answers(0.9 if overrides else 0.3, name))
    assert {f["trial"] for f in end["finalists"]} == {"t001", "t002"}


def test_a_seed_that_was_searched_later_is_fresh_no_longer():
    assert fresh_seeds(0, {0}, 2) == [1, 2]
    assert fresh_seeds(0, {0, 1, 3}, 2) == [2, 4]
    assert fresh_seeds(5, {0, 1}, 2) == [6, 7]


def controls(base):
    task = PreparedTask(TASK, spec(), (), (), (), ("no", "yes"), {"majority_label": "no"})
    return Controls([task], report(-1, base))


def judged(name, scores):
    gain = sum(scores) / EXAMPLES - 0.5
    return Judged(name, {"gain": gain}, {TASK: scores})


def test_the_best_of_many_has_to_clear_more_than_a_single_trial():
    """A gain that is convincing alone is what luck gives the best of forty."""
    base = tuple(float(i % 2) for i in range(EXAMPLES))
    lucky = tuple(1.0 if i in {0, 2, 4, 6, 8, 10, 12} else x for i, x in enumerate(base))
    alone = judge({"t001": judged("t001", lucky)}, {}, controls(base), experiment())
    assert alone.champion == "t001"
    assert alone.compared == 1
    generator = random.Random(1)
    many = {"t001": judged("t001", lucky)}
    for number in range(2, 41):
        turned = set(generator.sample(range(EXAMPLES), 10))
        scores = tuple(1.0 - x if i in turned else x for i, x in enumerate(base))
        many[f"t{number:03d}"] = judged(f"t{number:03d}", scores)
    among = judge(many, {}, controls(base), experiment())
    assert among.compared == 40
    assert among.champion is None
    assert "allows for the choice among 40 trials" in among.reason


def test_fresh_seeds_do_not_make_examples_fresh():
    """Repetitions are scored on the examples by which their finalist was chosen."""
    base = tuple(float(i % 2) for i in range(EXAMPLES))
    lucky = tuple(1.0 if i in {0, 2, 4, 6, 8, 10, 12} else x for i, x in enumerate(base))
    generator = random.Random(1)
    many = {"t001": judged("t001", lucky)}
    for number in range(2, 41):
        turned = set(generator.sample(range(EXAMPLES), 10))
        scores = tuple(1.0 - x if i in turned else x for i, x in enumerate(base))
        many[f"t{number:03d}"] = judged(f"t{number:03d}", scores)
    repeats = {"t001": [judged("t001-s1", lucky), judged("t001-s2", lucky)]}
    assert judge(many, repeats, controls(base), experiment()).champion is None
    few = {"t001": many["t001"]}
    assert judge(few, repeats, controls(base), experiment()).champion == "t001"


def test_an_interval_is_of_all_the_tasks_of_its_mean_or_of_none():
    base = answers(0.5)
    made = controls(base)
    assert made.interval({TASK: base}, {TASK: base}) is not None
    assert made.interval({}, {TASK: base}) is None
    assert made.joint_intervals({"t001": {}}) == {}


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_validation_examples_name_no_champion(count):
    base = StageReport(
        task="", task_index=-1, step=0, steps=0, fraction=1.0, score=0.0, row=(0.0,),
        per_example={TASK: (0.0,) * count},
    )  # fmt: skip
    task = PreparedTask(TASK, spec(), (), (), (), ("no", "yes"), {"majority_label": "no"})
    one = Judged("t001", {"gain": 1.0}, {TASK: (1.0,) * count})
    found = judge({"t001": one}, {}, Controls([task], base), experiment())
    assert found.champion is None


def test_another_champion_is_reading_2_and_what_was_read_is_not_read_again(tmp_path, recorder):
    rates = [0.001, 0.002, 0.003, 0.004]
    best = {"t001": 0.65, "t002": 0.85, "t003": 1.0, "t004": 0.5}
    asked = []

    def read(driver):
        sides = driver.judgement.to_be_read()
        asked.append(set(sides))
        driver.judgement.test_read({
            name: {"row": [best.get(name, 0.3)], "metrics": {},
                   "per_example": {TASK: list(answers(best.get(name, 0.3), name))}}
            for name in sides
        })  # fmt: skip

    def sweep(trials):
        search = {
            "space": {"training.learning_rate": {"choice": rates}}, "searcher": "grid",
            "trials": trials,
        }  # fmt: skip
        made = MadeUp(tmp_path / "sweep", recorder, search=search)
        verdict = made.run(lambda name, _: answers(best.get(name, 0.3), name), then=read)
        return verdict, [line for line in made.journal.lines if line["event"] == "test_read"]

    verdict, [first] = sweep(2)
    assert (verdict["champion"], first["reading"]) == ("t002", 1)
    assert asked == [{"base", "t001", "t002"}]
    verdict, [_, second] = sweep(3)
    assert (verdict["champion"], second["reading"]) == ("t003", 2)
    assert asked[1] == {"t003"}
    assert set(second["sides"]) == {"base", "t002", "t003"}
    assert second["sides"]["t002"] == first["sides"]["t002"]
    assert second["gain"]["t003"] == pytest.approx(0.7)
    assert "had been looked at before" in reading_words(read_event(second))
    assert "had no part in any choice" in reading_words(read_event(first))


def test_the_same_champion_and_runner_up_are_not_read_again():
    lines = [
        {"event": "sweep_ended", "champion": "t001", "runner_up": "t002"},
        {"event": "test_read", "champion": "t001", "runner_up": "t002", "reading": 1},
    ]
    assert not SweepState.of(lines).reading_due
    more = [*lines, {"event": "trial_proposed", "trial": "t003"}]
    assert not SweepState.of(more).reading_due, "no verdict stands"
    assert not SweepState.of([*more, lines[0]]).reading_due
    assert SweepState.of([*more, {**lines[0], "runner_up": "t003"}]).reading_due
    assert not SweepState.of([{**lines[0], "champion": None}]).reading_due


def repeated(gains, share=0.7):
    """A finalist's repetitions: the same answers, and gains of their own."""
    return [
        Judged(f"t001-s{i}", {"gain": gain}, {TASK: answers(share, "same")})
        for i, gain in enumerate(gains, start=1)
    ]


def test_the_interval_of_a_finalist_allows_for_the_spread_over_its_seeds():
    base = answers(0.3, "base")
    tried = {"t001": judged("t001", answers(0.7, "same"))}
    gains = {"close": (0.40, 0.40, 0.40), "apart": (0.30, 0.40, 0.50)}
    found = {
        name: judge(tried, {"t001": repeated(own)}, controls(base), experiment())
        for name, own in gains.items()
    }
    low, high = zip(*(found[name].intervals["t001"] for name in gains), strict=True)
    assert low[1] < low[0]
    assert high[1] > high[0]
    assert found["close"].seed_deviation == pytest.approx(0.0)
    assert found["apart"].seed_deviation == pytest.approx(0.1)
    assert "differ by 0.100 (sd)" in found["apart"].reason


def test_what_orders_do_is_told_from_what_seeds_do_and_shown():
    base, shares = answers(0.3, "base"), (0.7, 0.6)
    tried = {
        n: judged(n, answers(s, "same")) for n, s in zip(("t001", "t002"), shares, strict=True)
    }
    orders = fresh_orders([TASK, "other", "third"], 3)

    def runs(name, share, gains):
        return [
            Judged(f"{name}-s{i}", {"gain": g}, {TASK: answers(share, "same")}, tuple(orders[i]), i)
            for i, g in enumerate(gains)
        ]

    found = judge(
        tried,
        {"t001": runs("t001", 0.7, (0.4, 0.3, 0.42)), "t002": runs("t002", 0.6, (0.3, 0.2, 0.28))},
        controls(base), experiment(),
    )  # fmt: skip
    assert "on 3 fresh seeds and 2 orders of the tasks" in found.reason
    assert found.seed_deviation == pytest.approx(0.01 * 2**0.5)
    assert found.order_deviation == pytest.approx(0.1 / 2**0.5, abs=0.005)
    # What an order does to both alike does not part them.
    champion, rival = (found.intervals[name] for name in ("t001", "t002"))
    between = found.runner_up_interval
    assert between[1] - between[0] < max(champion[1] - champion[0], rival[1] - rival[0])


@pytest.mark.parametrize("tasks", [["a", "b"], ["a", "b", "c"], list("abcdefgh")])
def test_orders_of_repetitions_come_twice_and_stay_when_there_are_more(tasks):
    many = fresh_orders(tasks, 12)
    for count in range(1, 12):
        assert fresh_orders(tasks, count) == many[:count]
    assert all(sorted(order) == tasks for order in many)
    assert many[0] != many[1], "two repetitions tell of orders"
    assert many[0] == many[2], "and three tell them from seeds"
    assert tasks != many[0], "the sweep's own had a part in the choice"
    if len(tasks) > 2:
        assert tasks not in many[:8]
        assert len({tuple(order) for order in many[:8]}) == 4


def test_a_single_repetition_tells_nothing_of_the_spread():
    tried = {"t001": judged("t001", answers(0.7, "same"))}
    found = judge(tried, {"t001": repeated((0.4,))}, controls(answers(0.3, "base")), experiment())
    assert found.seed_deviation is None
    assert "(sd)" not in found.reason
