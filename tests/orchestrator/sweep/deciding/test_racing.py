"""Early stopping: in made-up sweeps whose trials score what they are told to, and in a real one."""

import json
from dataclasses import replace

import pytest

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Reported
from orchestrator.records.events import read_event
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.load import load_experiment
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions
from tests.made_up_sweep import EXAMPLES, TASK, MadeUp, answers, report

SHARES = {0: 0.9, 1: 0.2, 2: 0.85, 3: 0.95, 4: 0.25, 5: 0.3}
"""What a trial answers right, by its seed."""
SEARCH = {
    "space": {"training.seed": {"choice": [*SHARES]}}, "searcher": "grid", "early_stopping": True,
}  # fmt: skip


def at_rung(share, seed, fraction):
    """A report within the one task."""
    scores = answers(share, f"{seed}")
    whole = report(0, scores)
    return replace(whole, fraction=fraction, row=None, examples={TASK: EXAMPLES})


def run(folder, recorder, *, until=99, **changes):
    """A sweep whose trials are stopped when the driver says so; its state, and how far each came.

    After so many trials it is interrupted.
    """
    made = MadeUp(folder, recorder, **{"search": SEARCH, **changes})
    came: dict[str, list[float]] = {}
    while len(came) < until and isinstance(job := made.driver.next_job(), Job):
        name = job.trial
        if name == "base":
            made.driver.hear(name, Reported(report(-1, answers(0.5, "base"))))
            made.driver.ended(name, error=False)
            continue
        seed = made.driver.trials[name].overrides["training.seed"]
        for fraction in (0.25, 0.5, 1.0):
            came.setdefault(name, []).append(fraction)
            if fraction == 1.0:
                found = report(0, answers(SHARES[seed], f"{seed}"))
            else:
                found = at_rung(SHARES[seed] * (0.5 + 0.5 * fraction), seed, fraction)
            made.driver.hear(name, Reported(found))
            if made.driver.stops(name):
                break
        made.driver.ended(name, error=False)
    if until == 99:
        made.driver.judgement.conclude()
    made.journal.close()
    lines = list(made.journal.lines)
    return SweepState.of(lines), came, lines


def by_seed(state):
    return {trial.overrides["training.seed"]: trial for trial in state.searched}


def test_who_is_behind_is_stopped_at_a_rung_and_the_journal_says_why(tmp_path, recorder):
    state, came, lines = run(tmp_path / "sweep", recorder)
    trials = by_seed(state)
    stopped = {seed for seed, trial in trials.items() if trial.state == "STOPPED"}
    # Of the first three none is stopped: there are too few to compare.
    assert stopped == {4, 5}
    assert all(came[trials[seed].name] == [0.25] for seed in stopped)
    for seed in stopped:
        stop = trials[seed].stop
        assert (stop.task, stop.fraction, stop.measure) == (TASK, 0.25, "gain")
        assert stop.rival in {trials[good].name for good in (0, 2, 3)}
        assert 0.0 < stop.interval[0] < stop.difference < stop.interval[1]
        assert f"after 25% of {TASK}, {stop.rival} is ahead in gain by +" in trials[seed].reason
        assert trials[seed].measures == {}
    assert state.verdict.champion == trials[3].name
    assert state.verdict.compared == len(SHARES)
    for line in lines:
        if line["event"] == "trial_ended":
            assert json.loads(json.dumps(read_event(line).to_line())) == line


def test_the_searcher_is_told_of_a_stopped_trial_and_not_too_much(tmp_path, recorder):
    state, _, _ = run(tmp_path / "sweep", recorder)
    trials = by_seed(state)
    whole = [t.searched_measure("gain") for t in trials.values() if t.state == "COMPLETE"]
    for seed in (4, 5):
        assert trials[seed].stop.told["gain"] < max(whole)


def test_a_sweep_that_goes_on_knows_who_was_where(tmp_path, recorder):
    whole, _, _ = run(tmp_path / "whole", recorder)
    run(tmp_path / "cut", recorder, until=4)
    again, _, _ = run(tmp_path / "cut", recorder)
    outcome = {seed: (t.state, t.reason, t.stop) for seed, t in by_seed(whole).items()}
    assert {s: (t.state, t.reason, t.stop) for s, t in by_seed(again).items()} == outcome


def test_without_early_stopping_no_trial_is_stopped(tmp_path, recorder):
    state, _, _ = run(
        tmp_path / "sweep",
        recorder,
        search={k: v for k, v in SEARCH.items() if k != "early_stopping"},
    )
    assert {trial.state for trial in state.searched} == {"COMPLETE"}


@pytest.mark.parametrize("executor", ["local", pytest.param("pool", marks=pytest.mark.ray)])
def test_a_trial_beyond_the_champions_limit_is_stopped_after_a_task(
    experiment_file, records, recorder, request, executor
):
    if executor == "pool":
        request.getfixturevalue("ray_cluster")
    space = {"training.learning_rate": {"choice": [1e-3, 1e-2]}}
    path = experiment_file(
        # One at a time, row 0 first: else a tiny trial may end before anything can be decided.
        search={"space": space, "searcher": "grid", "early_stopping": True, "max_concurrent": 1},
        resources={"executor": executor},
        champion={"maximize": "gain", "subject_to": {"probe_drift": -1.0}},
    )
    outcome = run_sweep(load_experiment(path), SweepOptions(), recorder)
    for trial in SweepState.of(outcome.lines).searched:
        stop = trial.stop
        assert trial.state == "STOPPED"
        assert (stop.measure, stop.rival, stop.fraction) == ("probe_drift", None, 1.0)
        assert "beyond the limit of -1" in trial.reason
        assert [report.stage for report in trial.reports] == [(0, 0.25), (0, 0.5), (0, 1.0)]


def test_what_was_reported_before_row_0_is_decided_once_it_is_known(tmp_path, recorder):
    made = MadeUp(tmp_path / "sweep", recorder, search=SEARCH)
    jobs = [made.driver.next_job() for _ in range(len(SHARES) + 1)]
    assert [job.trial for job in jobs] == ["base", *(f"t{n:03d}" for n in range(1, 7))]
    for job in jobs[1:]:
        seed = made.driver.trials[job.trial].overrides["training.seed"]
        made.driver.hear(job.trial, Reported(at_rung(SHARES[seed], seed, 0.25)))
        assert not made.driver.stops(job.trial)
    made.driver.hear("base", Reported(report(-1, answers(0.5, "base"))))
    behind = {f"t{seed + 1:03d}" for seed, share in SHARES.items() if share < 0.5}
    assert {job.trial for job in jobs if made.driver.stops(job.trial)} == behind
    made.journal.close()
