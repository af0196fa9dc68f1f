"""Cells that are scored later: equal to those scored at once, never twice, and judged on alike."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.journal_lines import JOURNAL_NAME, read_journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.load import load_experiment
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions
from orchestrator.sweep.scores import completion
from tests.conftest import Recorder

SCREEN, EVERY = 8, 24


@pytest.fixture(scope="module")
def sweeps(tiny_base, tiny_tasks, empty_database, tmp_path_factory):
    """The folder of the same sweep by its scoring: all at once, and screened."""
    import yaml

    found = {}
    for name, scoring in (("at-once", "full"), ("screened", {"screen": SCREEN})):
        storage = tmp_path_factory.mktemp(name)
        shutil.copyfile(empty_database, storage / "mlflow.db")
        document = {
            "name": name, "model": {"name": str(tiny_base)}, "tasks": ["mood", "being"],
            "probes": ["prose"],
            "method": {"adapter": {"kind": "lora", "r": 4, "target_modules": "all-linear"}},
            "training": {"learning_rate": 0.02, "batch_size": 8, "max_length": 48,
                         "precision": "fp32", "epochs": 2},
            "data": {"probe_tokens": 100, "probe_context": 32},
            "search": {"space": {"training.learning_rate": {"choice": [0.02, 1.0e-5, 0.01]}},
                       "searcher": "grid", "trials": 3},
            "champion": {"maximize": "gain", "subject_to": {}},
            "scoring": scoring, "resources": {"executor": "local"}, "storage": str(storage),
        }  # fmt: skip
        path = tiny_tasks / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        found[name] = path, run_sweep(load_experiment(path), SweepOptions(), Recorder()).folder
    return found


def state(folder):
    return SweepState.of(read_journal(folder))


def test_a_matrix_that_is_completed_later_is_the_one_that_is_scored_at_once(sweeps):
    at_once, screened = (state(sweeps[name][1]) for name in ("at-once", "screened"))
    whole = [trial for trial in screened.trials if trial.whole_examples is not None]
    assert whole
    assert {trial.name for trial in whole} >= {*screened.front, screened.champion} - {None}
    for trial in whole:
        same = at_once.trial(trial.name)
        assert trial.whole_examples == {"mood": EVERY, "being": EVERY}
        assert screened.matrix(trial) == at_once.matrix(same)
        assert trial.per_example == same.per_example
        for name, value in trial.measures.items():
            if name != "cost_s":
                assert value == pytest.approx(same.measures[name], abs=1e-12), name
        assert trial.gain_interval == pytest.approx(same.gain_interval)
    assert screened.champion == at_once.champion


def test_while_it_searches_only_the_needed_cells_are_scored_on_the_first_examples(sweeps):
    screened = state(sweeps["screened"][1])
    base = screened.everything["base"]
    for trial in screened.trials:
        first, last = (trial.by_stage[(index, 1.0)] for index in (0, 1))
        # Forgetting reads the first column, gain the last row.
        assert [value == value for value in first.row] == [True, False]
        assert [value == value for value in last.row] == [True, True]
        assert first.examples == {"mood": SCREEN}
        assert last.examples == {"mood": SCREEN, "being": SCREEN}
        assert (first.probes, list(last.probes)) == ({}, ["prose"])
        if trial.whole_examples is None:
            assert trial.examples == last.examples
            row_0 = screened.matrix(trial).rows[0]
            expected = [sum(base.per_example[t][:SCREEN]) / SCREEN for t in ("mood", "being")]
            assert list(row_0) == expected, "compared on the same examples"
    verdict = screened.verdict
    whole = [trial for trial in screened.trials if trial.whole_examples is not None]
    assert set(verdict.intervals) == {trial.name for trial in whole}
    assert verdict.compared == 3, "all that were looked at"


def interrupted(folder, storage, keep):
    """A copy of a sweep whose journal ends before its verdict, with some of what was completed."""
    shutil.copytree(folder.parent, storage)
    lines, done = [], 0
    for line in read_journal(folder):
        if line["event"] == "cells_scored":
            done += 1
        if done > keep or line["event"] in {"trial_measured", "sweep_ended", "test_read",
                                            "champion_registered"}:  # fmt: skip
            continue
        lines.append({k: v for k, v in line.items() if k != "sum"})
    text = "".join(json.dumps({**line, "n": n}) + "\n" for n, line in enumerate(lines))
    (storage / folder.name / JOURNAL_NAME).write_text(text)


@pytest.mark.parametrize("cached", [True, False])
def test_a_completion_that_goes_on_scores_nothing_twice(sweeps, tmp_path, monkeypatch, cached):
    path, folder = sweeps["screened"]
    storage = tmp_path / "runs"
    interrupted(folder, storage, keep=1)
    if not cached:
        shutil.rmtree(storage / "cache" / "cell")
    asked = []

    def scoring(sides, data):
        asked.extend(sides)
        return completion.score_here(sides, data)

    monkeypatch.setattr("orchestrator.sweep.run.score_here", scoring)
    loaded = load_experiment(path)
    moved = loaded.experiment.model_copy(update={"storage": str(storage)})
    outcome = run_sweep(loaded.model_copy(update={"experiment": moved}), SweepOptions(), Recorder())
    scored = [(x["trial"], x["learnt"]) for x in outcome.lines if x["event"] == "cells_scored"]
    assert len(scored) == len(set(scored))
    assert len(asked) == (0 if cached else len(scored) - 1)
    before, after = state(folder), SweepState.of(outcome.lines)
    assert (after.front, after.champion, after.reason) == (
        before.front, before.champion, before.reason,
    )  # fmt: skip


def score(storage, *words):
    answer = CliRunner().invoke(
        app, ["score", "screened", *words, "--storage", str(storage), "--json"]
    )
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def shard(folder):
    """Let a sweep's journal say that its workers held a shard of the base each."""
    lines = read_journal(folder)
    asked = lines[0]["experiment"]
    asked["training"]["deepspeed"] = {"zero_optimization": {"stage": 3}}
    asked["resources"] |= {"executor": "train", "workers": 2}
    lines = [{k: v for k, v in line.items() if k != "sum"} for line in lines]
    (folder / JOURNAL_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_finished_trial_is_scored_whole_and_on_a_task_that_nobody_thought_of(
    sweeps, tiny_tasks, tmp_path, sharded
):
    storage, (_, folder) = tmp_path / "runs", sweeps["screened"]
    shutil.copytree(folder.parent, storage)
    if sharded:
        shard(storage / folder.name)
    rest = [trial.name for trial in state(folder).trials if trial.whole_examples is None]
    name = rest[0] if rest else "t001"
    other = tmp_path / "kind.yaml"
    text = (tiny_tasks / "tasks" / "being.yaml").read_text()
    text = text.replace("name: being", "name: kind")
    other.write_text(text.replace("../data/being", str(tiny_tasks / "data" / "being")))
    found = score(storage, name, "--full", "--task", str(other))
    expected = state(sweeps["at-once"][1])
    matrix = expected.matrix(expected.trial(name))
    assert found["matrix"]["rows"] == [list(row) for row in matrix.rows]
    assert found["examples"] == {"mood": EVERY, "being": EVERY}
    # The same data under another name: the column of the task that it was made from.
    column = [row[1] for row in found["matrix"]["rows"]]
    assert [found["other_tasks"]["kind"][str(n)]["score"] for n in (0, 1, 2)] == column
    lines = len(read_journal(storage / "screened"))
    again = score(storage, name, "--task", str(other))
    assert again["other_tasks"] == found["other_tasks"]
    assert len(read_journal(storage / "screened")) == lines, "nothing was scored again"
    assert state(storage / "screened").verdict == state(folder).verdict, "a verdict stands"


def test_what_cannot_be_scored_later_says_why(sweeps, tiny_tasks, tmp_path):
    storage, (_, folder) = tmp_path / "runs", sweeps["screened"]
    shutil.copytree(folder.parent, storage)
    own = str(tiny_tasks / "tasks" / "being.yaml")

    def refused(*words):
        answer = CliRunner().invoke(app, ["score", "screened", *words, "--storage", str(storage)])
        assert answer.exit_code == 2, answer.output
        return " ".join(answer.output.split())

    assert "The sweep has a task 'being' already: `--full`" in refused("t001", "--task", own)
    assert "name another task with `--task`" in refused("base")
    assert "No trial 't009'" in refused("t009")
