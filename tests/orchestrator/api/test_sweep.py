"""Sweeps opened from Python, over made-up journals."""

import json
import math
import re
import subprocess
import sys

import pytest

import orchestrator
from orchestrator.api.sweep import Sweep
from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.user_error import UsageError


@pytest.fixture
def lines(new_sweep):
    return new_sweep(trials=12, failing=[3, 5], repeats=1)


@pytest.fixture
def sweep(lines, tmp_path):
    return Sweep(tmp_path / "demo", lines)


def test_trials_hold_what_the_journal_says_of_each(sweep, lines):
    state = SweepState.of(lines)
    frame = sweep.trials
    assert list(frame.index) == [trial.name for trial in state.trials]
    for trial in state.trials:
        row = frame.loc[trial.name]
        assert row["state"] == trial.state
        for name in NATURAL_DIRECTIONS:
            assert row[name] == pytest.approx(trial.measure(name), nan_ok=True)
        for path, value in state.settings(trial).items():
            if isinstance(value, str | int | float):
                assert row[path] == value
    assert (
        frame.loc["t001", ["gain_low", "gain_high"]].tolist() == state.trial("t001").gain_interval
    )
    assert frame.loc["t003", list(NATURAL_DIRECTIONS)].isna().all()
    assert {str(frame[name].dtype) for name in NATURAL_DIRECTIONS} == {"float64"}


def test_the_front_shows_objectives_intervals_and_what_was_searched(sweep):
    assert list(sweep.front.index) == sweep.state.front
    objectives = list(sweep.state.experiment["objectives"])
    searched = ["method.adapter.kind", "method.adapter.r", "training.learning_rate"]
    shown = [*objectives, "gain_low", "gain_high", "champion", *searched]
    assert list(sweep.front.columns) == shown
    whole = sweep.trials.loc[sweep.state.front, shown]
    assert sweep.front.to_dict() == whole.to_dict()
    assert list(sweep.front.index[sweep.front["champion"]]) == [sweep.champion]


def test_a_matrix_has_a_row_for_the_base_and_for_every_task(sweep):
    matrix = sweep.matrix("t001")
    assert list(matrix.columns) == sweep.state.tasks
    assert list(matrix.index) == ["untouched base", *sweep.state.tasks]
    known = sweep.state.matrix(sweep.state.trial("t001"))
    assert matrix.to_numpy().tolist() == [list(row) for row in known.rows]
    assert matrix.iloc[-1].mean() == pytest.approx(sweep.trials.loc["t001", "accuracy"])
    assert len(sweep.matrix("base")) == 1


def test_curves_are_the_losses_of_every_step(sweep):
    curves = sweep.curves("t001")
    assert list(zip(curves.index, curves["loss"], strict=True)) == sweep.state.trial("t001").losses
    assert list(dict.fromkeys(curves["task"])) == sweep.state.tasks
    assert len(sweep.curves("t003")) == 0


def test_notebooks_show_front_and_matrix_as_tables(sweep):
    shown = sweep.front._repr_html_()
    assert shown.count("<table") == 1
    bold = re.findall(r"#(T_\w+?)_row(\d+)_col", shown.partition("font-weight: bold")[0])
    assert {int(row) for _, row in bold} == {list(sweep.front.index).index(sweep.champion)}
    matrix = sweep.matrix("t001")
    for score in matrix.to_numpy().ravel():
        assert ("-" if math.isnan(score) else f"{score:.3f}") in matrix._repr_html_()
    assert sweep.champion in sweep._repr_html_()


def test_a_name_in_a_sweep_cannot_become_markup(new_sweep, tmp_path):
    named = Sweep(tmp_path / "<b>", new_sweep(trials=2))
    assert "&lt;b&gt;" in named._repr_html_()


def test_a_sweep_that_has_not_ended_has_no_front(lines, tmp_path):
    begun = Sweep(tmp_path / "demo", lines[: len(lines) // 2])
    assert not begun.ended
    assert begun.champion is None
    assert len(begun.front) == 0
    assert len(begun.trials) == len(begun.state.trials) > 0
    assert "not ended" in repr(begun)
    empty = Sweep(tmp_path / "demo", lines[:1])
    assert len(empty.trials) == 0


def test_what_is_not_there_is_named_with_what_is(sweep, lines, tmp_path):
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert orchestrator.open_sweep(folder).trials.equals(sweep.trials)
    with pytest.raises(UsageError, match="'demo'"):
        orchestrator.open_sweep(tmp_path / "runs" / "dem")
    with pytest.raises(UsageError, match=r"No trial 't01'.*t001, t002"):
        sweep.matrix("t01")


def test_import_orchestrator_and_the_commands_load_no_pandas():
    code = (
        "import sys, orchestrator, orchestrator.cli\n"
        "assert {'Experiment', 'load', 'open_sweep', 'run_sweep'} <= set(orchestrator.__all__)\n"
        "print([m for m in ('pandas', 'torch', 'ray', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_the_package_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match="run_sweeps"):
        orchestrator.run_sweeps  # noqa: B018
