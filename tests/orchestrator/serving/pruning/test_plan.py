"""Only what nothing needs goes, it is noted first, and commands say when it went."""

import json
import shutil
import time
from dataclasses import replace

import pytest

from orchestrator.cli import errors
from orchestrator.records.cards.card import adapter_key
from orchestrator.records.cards.pruned import pruned_words
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.address import recorded_uri
from orchestrator.records.mlflow.pruning import registered_trials
from orchestrator.records.registry.change import Change
from orchestrator.records.registry.registry_file import open_registry
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.serving.pruning import plan as plan_module
from orchestrator.serving.pruning.plan import Rule, carry_out, plan
from orchestrator.serving.pruning.storage import old_sweeps
from tests.orchestrator.serving.conftest import call

LATER = 90 * 86400.0


@pytest.fixture
def storage(chosen, tmp_path):
    """A copy of the storage folder."""
    copy = tmp_path / "runs"
    shutil.copytree(chosen.storage, copy)
    return copy


def test_what_nothing_needs_goes_and_is_said_to_have_gone(storage):
    state = SweepState.of(read_journal(storage / "picked"))
    done = call("prune", "--older-than", "1s", "--storage", storage, "--json")
    assert done.exit_code == 0, done.output
    planned = json.loads(done.stdout)
    others = {t.name for t in state.trials} - {state.champion, state.runner_up, *state.front}
    assert others
    assert {piece["trial"] for piece in planned["pieces"]} == others
    assert planned["bytes"] == sum(piece["bytes"] for piece in planned["pieces"]) > 0
    assert all((storage / "picked/trials" / name / "adapter").is_dir() for name in others)
    again = call("prune", "--older-than", "1s", "--storage", storage, "--yes", "--caches", "--runs")
    assert again.exit_code == 0, again.output
    assert not list((storage / "cache").glob("*/*"))
    for name in others:
        folder = storage / "picked/trials" / name
        assert {path.name for path in folder.iterdir() if path.is_dir()} <= {"cards"}
        said = call("predict", f"picked/{name}", "--task", "mood", "x", "--storage", storage)
        assert said.exit_code == errors.MISTAKE
        assert f"it was pruned on {time.strftime('%Y-%m-%d', time.gmtime())}" in said.stderr
        told = map(json.loads, (folder / "pruned.jsonl").read_text().splitlines())
        [entry] = [one for one in told if one["place"] == "adapter"]
        assert entry["sha256"] == state.trial(name).adapter_sha256
    kept = call("predict", "picked@champion", "--task", "mood", "good film", "--storage", storage)
    assert kept.exit_code == 0, kept.output
    # The journal is as it was, and the same command says that nothing is left to do.
    assert SweepState.of(read_journal(storage / "picked")).champion == state.champion
    empty = json.loads(call("prune", "--older-than", "1s", "--storage", storage, "--json").stdout)
    assert empty["pieces"] == []


def test_aliases_ancestors_and_shared_work_stay(storage, monkeypatch):
    folder = storage / "picked"
    lines = read_journal(folder)
    state = SweepState.of(lines)
    champion = state.champion
    spare = next(t.name for t in state.trials
                 if t.name not in {champion, state.runner_up, *state.front})  # fmt: skip
    uri = recorded_uri(state.experiment, storage, None)
    assert registered_trials(uri) == {(state.identity, champion)}
    rule = Rule(1.0, "champions", caches=False, runs=False)

    def goes(sweeps):
        return {(p.trial, p.what) for p in
                plan(sweeps, storage, rule, ("picked",), time.time() + LATER).pieces}  # fmt: skip

    sweeps = old_sweeps(storage, None)
    assert (spare, "adapter") in goes(sweeps)
    assert champion in sweeps["picked"].chosen
    # Somebody has registered it by hand.
    monkeypatch.setattr(
        "orchestrator.serving.pruning.storage.registered_trials",
        lambda uri: {(state.identity, spare)},
    )
    assert spare not in {trial for trial, _ in goes(old_sweeps(storage, None))}
    monkeypatch.undo()
    # Another sweep goes on from it.
    opening = json.loads((folder / "journal.jsonl").read_text().splitlines()[0])
    opening["experiment"]["extends"] = {"sweep_id": state.identity, "trial": spare}
    opening["sweep_id"] = "another"
    opening.pop("sum")
    (storage / "child").mkdir()
    (storage / "child" / "journal.jsonl").write_text(json.dumps(opening) + "\n")
    sweeps = old_sweeps(storage, None)
    assert "child goes on from it" in sweeps["picked"].protected[spare]
    assert plan(sweeps, storage, rule, (), time.time()).skipped["child"].startswith("it has not")
    shutil.rmtree(storage / "child")
    # The champion has taken over what it learnt.
    monkeypatch.setattr(
        TrialRecord, "taken_over",
        property(lambda self: {"mood": spare} if self.name == champion else {}),
    )  # fmt: skip
    assert "taken over" in old_sweeps(storage, None)["picked"].protected[spare]


def test_what_stands_in_the_history_of_any_champion_stays(storage):
    folder = storage / "picked"
    state = SweepState.of(read_journal(folder))
    spare = next(t for t in state.trials
                 if t.name not in {state.champion, state.runner_up, *state.front})  # fmt: skip
    rule = Rule(1.0, "champions", caches=False, runs=False)

    def goes():
        sweeps = old_sweeps(storage, None)
        found = plan(sweeps, storage, rule, ("picked",), time.time() + LATER)
        return (spare.name in {piece.trial for piece in found.pieces},
                sweeps["picked"].protected.get(spare.name))  # fmt: skip

    registry = storage / "registry.jsonl"
    before = registry.read_bytes()
    key = adapter_key(state, spare, len(state.tasks))
    assert goes() == (True, None)
    # Of another name, for a moment, a year ago: one may go back to it.
    with open_registry(storage, clock=lambda: time.time() - 365 * 86400) as changes:
        changes.append(Change("promoted", "elsewhere", who="me@here", reason="so", adapter=key))
        changes.append(Change("withdrawn", "elsewhere", who="me@here", before=key))
    assert goes() == (False, "it is in the history of a champion")
    # Only what another one took the place of.
    registry.write_bytes(before)
    with open_registry(storage) as changes:
        changes.append(Change("moved", "elsewhere", version="7", before=key))
    assert goes() == (False, "it is in the history of a champion")
    # A sweep of the same name and other identity is another sweep.
    registry.write_bytes(before)
    with open_registry(storage) as changes:
        other = replace(key, sweep_id="another")
        changes.append(Change("promoted", "elsewhere", who="me@here", adapter=other))
    assert goes() == (True, None)
    # A history that cannot be read protects nothing that is known, so nothing goes.
    registry.write_bytes(before.replace(b"driver", b"myself"))
    refused = call("prune", "--older-than", "1s", "--storage", storage, "--yes")
    assert refused.exit_code != 0
    assert "registry.jsonl: line 1 is not as it was written" in " ".join(refused.stderr.split())
    assert (folder / "trials" / spare.name / "adapter").is_dir()


def test_what_runs_is_too_young_or_was_only_looked_at_stays(storage, monkeypatch):
    rule = Rule(30 * 86400.0, "front", caches=True, runs=False)
    sweeps = old_sweeps(storage, None)
    assert plan(sweeps, storage, rule, ()).pieces == ()
    sweeps["picked"].busy = True
    later = plan(sweeps, storage, rule, (), time.time() + LATER)
    assert later.pieces == ()
    assert set(later.skipped) == {"picked", "cache"}
    sweeps["picked"].busy = False
    ready = plan(sweeps, storage, rule, (), time.time() + LATER)
    assert {piece.what for piece in ready.pieces} >= {"adapter", "cache"}
    # A sweep that has begun to run since then is left alone.
    monkeypatch.setattr(plan_module, "is_being_written", lambda folder: True)
    assert "meanwhile" in carry_out(ready, sweeps, rule)[0]
    assert all(piece.path.exists() for piece in ready.pieces)
    wrong = call("prune", "pickd", "--storage", storage)
    assert wrong.exit_code == errors.MISTAKE
    assert "picked" in wrong.stderr


def test_a_crash_between_note_and_removal_says_nothing_wrong(tmp_path):
    folder = tmp_path / "t001"
    (folder / "adapter").mkdir(parents=True)
    (folder / "pruned.jsonl").write_text('{"place": "adapter", "time": 0, "rule": "r"}\n{"pla')
    assert pruned_words(folder / "adapter") is None  # it is there
    (folder / "adapter").rmdir()
    assert "1970-01-01 (r)" in str(pruned_words(folder / "adapter"))
    assert pruned_words(folder / "carried") is None
