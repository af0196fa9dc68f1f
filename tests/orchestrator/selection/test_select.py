"""A selection from its command or call to its decision, on a tiny base."""

import json

import pytest
from typer.testing import CliRunner

import orchestrator
from orchestrator.cli import app
from orchestrator.selection.request import Request
from orchestrator.sweep.errors import SweepError

METHODS = ("seq", "er", "joint")


@pytest.fixture(scope="module")
def selection(tiny_base, tiny_tasks, tmp_path_factory):
    """A finished selection, and what was asked."""
    storage = tmp_path_factory.mktemp("selection") / "runs"
    request = Request(
        str(tiny_base), ("mood", "being"), ("prose",), "choice", METHODS, 32, 24,
        trials=6, executor="local", storage=str(storage),
    )  # fmt: skip
    return orchestrator.select(request, budget="20min", folder=tiny_tasks), request, tiny_tasks


@pytest.mark.slow
def test_it_explores_each_method_confirms_and_decides(selection):
    sweep, _, folder = selection
    presets = {sweep.state.settings(t)["method.preset"] for t in sweep.state.searched}
    assert presets == {*METHODS}
    assert sweep.ended
    decision = sweep.decision
    compared = [one.other for one in decision.comparisons]
    assert "zero-shot (untouched base)" in compared
    assert "head only (base frozen)" in compared
    assert any(other.startswith("joint training") for other in compared)
    for one in decision.comparisons:
        assert one.interval is None or one.interval[0] <= one.difference <= one.interval[1]
    assert decision.cost["trials"] == len(sweep.state.trials)
    kept = json.loads((sweep.folder / "decision.json").read_text())
    assert kept["reason"] == decision.reason
    assert "The decision" in (sweep.folder / "report" / "index.html").read_text()
    assert (folder / "choice.selected.yaml").is_file()
    repeated = {trial.of for trial in sweep.state.trials if trial.of}
    assert 1 <= len(repeated) <= 2  # joint is a control, and the best of each other method


@pytest.mark.slow
def test_the_same_call_again_runs_nothing_and_a_preference_trains_nothing(selection):
    sweep, request, folder = selection
    lines = (sweep.folder / "journal.jsonl").read_text()
    orchestrator.select(request, budget="20min", folder=folder)
    asked = ["select", "--from", "choice", "--storage", str(sweep.folder.parent), "--json"]
    for prefer in ("knee", "hypervolume", "accuracy", "weighted:gain=1,forgetting=-1"):
        result = CliRunner().invoke(app, [*asked, "--prefer", prefer])
        assert result.exit_code == 0, result.output
        decision = json.loads(result.stdout)
        assert decision["pick"] is not None
        assert (decision["pick"] == sweep.state.champion) != ("--read-test" in decision["test"])
    assert (sweep.folder / "journal.jsonl").read_text() == lines


@pytest.mark.slow
def test_another_preference_has_a_counted_reading_where_it_is_asked_for(selection):
    sweep, _, _ = selection
    # Whatever was picked, the worst of all is another one.
    measured = {t.name: t.measure("gain") for t in sweep.state.searched if t.state == "COMPLETE"}
    joint = {t.name for t in sweep.state.searched
             if sweep.state.settings(t)["method.preset"] == "joint"}  # fmt: skip
    worst = min(measured[name] for name in measured.keys() - joint)
    asked = ["select", "--from", "choice", "--storage", str(sweep.folder.parent), "--json",
             "--prefer", "weighted:gain=-1", "--read-test"]  # fmt: skip
    before = sweep.state.next_reading
    for _ in range(2):
        result = CliRunner().invoke(app, asked)
        assert result.exit_code == 0, result.output
        decision = json.loads(result.stdout)
        pick = decision["pick"]
        assert measured[pick] == worst
        assert "by the preference weighted:gain=-1" in decision["test"]
    state = orchestrator.open_sweep(sweep.folder).state
    own = [reading for reading in state.readings if reading.preference is not None]
    assert [(one.reading, one.champion) for one in own] == [(before, pick)], "once, and counted"
    assert {"base", pick, own[0].runner_up} == {*own[0].sides}
    assert state.champion == sweep.state.champion
    assert state.version == sweep.state.version, "and nothing is registered anew"
    assert state.reading == sweep.state.reading, "the verdict's reading stays its headline"
    assert "by the preference" in (sweep.folder / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "m", "--tasks", "a"], "--budget 2h"),
        (["--budget", "2h"], "name a base model and tasks"),
        (["--budget", "soon", "--model", "m", "--tasks", "a"], "--budget"),
        (["x.yaml", "--budget", "2h", "--model", "m"], "without a file"),
        (["--prefer", "knee", "--budget", "2h"], "--from SWEEP"),
        (["--from", "s", "--read-test"], "say which with `--prefer`"),
    ],
)
def test_what_is_missing_is_asked_for(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["select", *words])
    assert result.exit_code != 0
    assert said in result.output.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_without_a_verdict_is_not_read_again(selection):
    from orchestrator.records.sweep_state import SweepState
    from orchestrator.selection.preference import Preference
    from orchestrator.selection.select import read_again

    with pytest.raises(SweepError, match="no verdict yet"):
        read_again(SweepState(), Preference.parse("knee"))
