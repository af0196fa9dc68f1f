"""The card of an export says what the journal says, in the form that the hub reads."""

import math
import re

import pytest
import yaml

from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.serving.find import load, model_folder
from orchestrator.serving.hub.card import card_text
from orchestrator.serving.hub.card_facts import card_facts
from tests.orchestrator.serving.conftest import call


def test_every_form_of_an_export_has_a_card_of_its_sweeps_facts(chosen, tmp_path):
    state = SweepState.of(read_journal(chosen.sweep))
    matrix, test = state.matrix(state.trial(state.champion)), state.reading
    for form, library in (("lora", "peft"), ("merged", "transformers"), ("adapter", "peft")):
        to = tmp_path / form
        done = call("export", "picked@champion", "--as", form, "--to", to, "--storage",
                    chosen.storage)  # fmt: skip
        assert done.exit_code == 0, done.output
        assert "states no licence" in done.stdout
        text = (to / "README.md").read_text()
        _, matter, body = text.split("---\n", 2)
        data = yaml.safe_load(matter)
        assert data["library_name"] == library
        assert "license" not in data
        assert "base_model" not in data, "a folder of this machine is nobody else's"
        assert str(chosen.storage.parent) not in text
        assert "lora" in data["tags"]
        [index] = data["model-index"]
        assert index["name"] == "picked@champion"
        scores = {found["task"]["name"]: found["metrics"][0]["value"] for found in index["results"]}
        expected = dict(zip(state.tasks, test.sides[state.champion].row, strict=True))
        assert scores == pytest.approx(expected, abs=1e-6)
        assert all(found["dataset"]["split"] == "test" for found in index["results"])
        for row in matrix.rows:
            cells = ["-" if math.isnan(cell) else f"{cell:.3f}" for cell in row]
            assert f"| {' | '.join(cells)} |" in body
        assert "| at best after it was learnt | at the end | change |" in body
        assert "License:** not stated" in body
        for name in state.tasks:
            assert str(state.provenance["data"][name]) in body
    # What was copied is sealed again, so it is used as before.
    assert load(str(tmp_path / "adapter")).tasks == ["mood", "again"]


def test_a_hub_base_and_hub_data_are_named_and_what_is_not_known_is_said(chosen, tmp_path):
    with model_folder("picked/t001", chosen.storage, None, note=print) as folder:
        facts = card_facts(folder, tmp_path, "picked/t001")
    assert facts.matrix is None
    document = dict(facts.document)
    document["base"] = {"name": "owner/base", "sha256": "a" * 40}
    facts = type(facts)(**{**vars(facts), "document": document})
    text = card_text(facts, "lora", "me/it")
    data = yaml.safe_load(text.split("---\n")[1])
    assert data["base_model"] == "owner/base"
    assert data["base_model_relation"] == "adapter"
    assert "model-index" not in data
    assert 'from_pretrained(base, "me/it")' in text
    assert text.count("Not stated") + text.count("Not read") == 2
    assert re.search(r"\| mood \| `text : \{text\} label :` \| ` negative`, ` positive` \|", text)
