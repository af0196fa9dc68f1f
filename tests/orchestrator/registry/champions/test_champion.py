"""Who is champion, of journals of any size and age, and when the alias was moved on a server."""

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.cards.card import adapter_card, carded
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.glance import look as looking
from orchestrator.records.mlflow.glance.server import NotAskedError
from orchestrator.records.mlflow.storage_folder import storage_identity
from orchestrator.records.registry.by_hand import AliasSeen
from orchestrator.records.registry.change import BY_MLFLOW, Change
from orchestrator.records.registry.registry_file import open_registry, read_changes
from orchestrator.records.registry.verdicts import verdict_change
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.champions import champion as champions
from orchestrator.registry.champions.adapters import find_adapter
from orchestrator.registry.champions.champion import champion, champion_names, verdict_in_journal
from orchestrator.registry.champions.comparison import compare
from orchestrator.serving.find import ModelUseError, registry_uri
from tests import written_journals

SERVER = "http://127.0.0.1:1"


@pytest.fixture
def lines(new_sweep):
    lines = new_sweep(trials=5, failing=[2], tested=True, sweep_id="one", sweep="demo")
    for line in lines:
        if line["event"] == "stage_report" and line["trial"] == "t004":
            line["report"]["taken_from"] = "t003" if line["report"]["task_index"] < 2 else None
        if line["event"] == "stage_report" and line["trial"] == "t003":
            line["report"]["taken_from"] = "t001" if line["report"]["task_index"] == 0 else None
    lines.append({"time": 9990.0, "event": "sweep_continued", "retried": ["t002"]})
    return lines


@pytest.fixture
def storage(tmp_path, lines):
    written_journals.write(tmp_path, "demo", lines)
    return tmp_path


def test_the_champion_of_a_sweep_without_cards_or_registry_is_that_of_its_journal(storage):
    state = SweepState.of(read_journal(storage / "demo"), whole=False)
    wanted = verdict_change(state)
    assert wanted is not None
    assert verdict_in_journal(storage / "demo") == wanted
    found = champion(storage, "demo")
    assert found.key.is_same(wanted.adapter)
    assert found.found.card == adapter_card(state, state.trial(found.key.trial), 3)


def test_a_wrong_name_is_answered_with_the_nearest_of_registry_and_journals(tmp_path, lines):
    storage = tmp_path
    written_journals.write(storage, "demo", lines[:-1])  # it has ended
    assert champion_names(storage) == ["demo"]
    with open_registry(storage) as registry:
        registry.append(Change("withdrawn", "mine", who=BY_MLFLOW))
    assert champion_names(storage) == ["demo", "mine"]
    for command in ("show", "history"):
        words = ["champion", command, "Demoo", "--storage", str(storage)]
        answer = CliRunner().invoke(app, words)
        assert answer.exit_code == 2
        assert "Did you mean 'demo'? There: demo, mine." in answer.stderr
    with pytest.raises(ModelUseError, match=r"Did you mean 'demo'\?"):
        registry_uri("demoo", storage, None)


def test_cards_made_of_a_part_of_the_journal_are_those_of_the_whole(storage):
    state = SweepState.of(read_journal(storage / "demo"), whole=False)
    made = 0
    for trial in state.trials:
        for learnt in carded(state, trial):
            found = find_adapter(storage, f"demo/{trial.name}@{learnt}")
            assert found.card == adapter_card(state, trial, learnt)
            made += found.card["same_as"] is not None
    assert made == 3, "of t003 the first, of t004 two"


def test_a_challenger_is_compared_without_either_card_being_there(storage):
    best = champion(storage, "demo").key.trial
    other = next(name for name in ("t001", "t003") if name != best)
    found = compare(storage, "demo", f"demo/{other}")
    state = SweepState.of(read_journal(storage / "demo"))
    mine, theirs = (state.trial(name).per_example for name in (best, other))
    validation = found.readings[0]
    assert [row.task for row in validation.tasks] == state.tasks
    for row in validation.tasks:
        # Without hashes of the data no examples are known to be the same.
        assert (row.examples, row.interval) == (None, None)
    assert set(mine) == set(theirs) == set(state.tasks)


@pytest.fixture
def on_a_server(tmp_path, lines, monkeypatch):
    """A storage folder whose sweep is recorded on a server; gives what to say of the alias."""
    lines[0]["experiment"]["tracking"] = {"uri": SERVER}
    written_journals.write(tmp_path, "demo", lines)
    storage_identity(SERVER, tmp_path, make=True)
    best = verdict_in_journal(tmp_path / "demo").adapter
    with open_registry(tmp_path, clock=lambda: 100.0) as registry:
        registry.append(Change("decided", "demo", who="driver", adapter=best))
        registry.append(Change("shown", "demo", adapter=best, version="1"))
    answers = {"seen": AliasSeen("demo", "1", "1")}

    def answer(uri, identity, name):
        assert (uri, name) == (SERVER, "demo")
        assert identity
        if isinstance(answers["seen"], Exception):
            raise answers["seen"]
        return answers["seen"]

    monkeypatch.setattr(looking, "alias_on_server", answer)
    return tmp_path, answers, best


def test_an_alias_that_was_moved_on_a_server_is_seen_by_who_looks(on_a_server):
    storage, answers, best = on_a_server
    assert champion(storage, "demo").key == best
    other = "t003" if best.trial != "t003" else "t004"
    tags = {"sweep": "one", "name": "demo", "trial": other, "learnt": "3"}
    answers["seen"] = AliasSeen("demo", "2", "1", tags)
    found = champion(storage, "demo")
    assert (found.key.trial, found.since.who, found.unasked) == (other, BY_MLFLOW, None)
    assert [change.event for change in read_changes(storage)] == ["decided", "shown", "moved"]
    assert compare(storage, "demo", f"demo/{best.trial}").champion.key.trial == other
    answers["seen"] = AliasSeen("demo", None, "1")
    with pytest.raises(champions.RegistryError, match="the alias was taken away in MLflow"):
        champion(storage, "demo")


def test_a_server_that_does_not_answer_leaves_what_was_known_with_its_age(on_a_server):
    storage, answers, best = on_a_server
    answers["seen"] = NotAskedError("connection refused")
    found = champion(storage, "demo")
    assert found.key == best
    assert found.unasked == (
        f"MLflow at {SERVER} was not asked (connection refused): whether the alias was moved there "
        "since 1970-01-01 00:01 UTC is not known."
    )
    assert len(read_changes(storage)) == 2
