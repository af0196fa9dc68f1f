"""Champions of a real sweep: promoted, rolled back, compared, moved, and shown by MLflow."""

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.cards.card_files import card_file, write_cards
from orchestrator.records.errors import RegistryError
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.address import tracking_uri
from orchestrator.records.mlflow.client import connect
from orchestrator.records.mlflow.projection import Projection
from orchestrator.records.registry.change import BY_MLFLOW
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.champions.champion import champion, history
from orchestrator.registry.champions.changing import promote, rollback
from orchestrator.registry.champions.comparison import compare
from orchestrator.registry.champions.refusals import mismatches
from orchestrator.serving.find import load, model_folder

pytestmark = pytest.mark.slow
SWEEP = "found"


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def write_task(folder, name, words):
    """A task that is learnt quickly: which of two words a text holds."""
    for split, count in (("train", 64), ("validation", 32), ("test", 24)):
        draw, rows = random.Random(f"{name}{split}"), []
        for _ in range(count):
            label, word = draw.choice(list(words.items()))
            filler = " ".join(
                draw.choices(["the", "a", "was", "is", "very", "and", "it"], k=draw.randrange(3, 8))
            )
            rows.append(json.dumps({"text": f"{word} {filler} {word}", "label": label}))
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    labels = ", ".join(f"{label}: ' {label}'" for label in words)
    (folder / f"{name}.yaml").write_text(
        f"name: {name}\nkind: classification\ndata: {{files: {name}}}\n"
        f"prompt: 'text : {{text}} label :'\nlabels: {{{labels}}}\n"
    )


@pytest.fixture(scope="module")
def finished(tiny_base, empty_database, tmp_path_factory):
    """The storage of a sweep over two tasks with a champion, a runner-up and a third trial."""
    home = tmp_path_factory.mktemp("champions")
    write_task(home, "mood", {"positive": "good", "negative": "bad"})
    write_task(home, "being", {"one": "red", "two": "blue"})
    storage = home / "runs"
    storage.mkdir()
    shutil.copyfile(empty_database, storage / "mlflow.db")
    document = {
        "name": SWEEP, "model": {"name": str(tiny_base)}, "tasks": ["mood", "being"],
        "method": {"adapter": {"kind": "lora", "r": 4, "target_modules": "all-linear"},
                   "retention": {"kind": "replay", "capacity": 32}},
        "training": {"learning_rate": 0.02, "epochs": 4, "batch_size": 8, "max_length": 48,
                     "precision": "fp32"},
        "search": {"space": {"training.learning_rate": {"choice": [0.02, 0.01, 1e-5]}},
                   "searcher": "grid", "trials": 3},
        "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
        "resources": {"executor": "local"}, "storage": str(storage),
    }  # fmt: skip
    path = home / "champions.yaml"
    path.write_text(yaml.safe_dump(document))
    done = call("sweep", path)
    assert done.exit_code == 0, done.output
    return storage


@pytest.fixture
def storage(finished, tmp_path):
    """A copy of it, which is a storage folder of its own."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def alias(storage):
    """The trial and the tasks learnt of the version that has the alias in MLflow."""
    client = connect(tracking_uri(None, storage))
    version = client.get_registered_model(SWEEP).aliases.get("champion")
    tags = client.get_model_version(SWEEP, str(version)).tags if version else {}
    return tags.get("orchestrator.trial"), int(tags.get("orchestrator.learnt", 0))


def others(storage):
    """The champion, the runner-up, and the trial that the test data were not read for."""
    state = SweepState.of(read_journal(storage / SWEEP))
    best, second = state.champion, state.runner_up
    assert best, state.reason
    assert second
    third = next(t.name for t in state.trials if t.name not in {best, second})
    return best, second, third


def test_a_sweep_leaves_its_cards_and_its_verdict(finished):
    folder, best = SweepFolder(finished / SWEEP), others(finished)[0]
    state = SweepState.of(read_journal(finished / SWEEP))
    assert write_cards(folder, state, state.everything) == 0, "they say what the journal says"
    assert len(list(folder.trials.glob("*/cards/after-*.json"))) == 6
    found = champion(finished, SWEEP)
    assert (found.key.trial, found.version, found.by_hand) == (best, "1", False)
    assert found.found.card["test"]["scores"]["mood"]["examples"] > 0
    assert [change.event for change in history(finished, SWEEP)] == ["decided"]
    assert alias(finished) == (best, 2)


def test_a_champion_is_promoted_and_rolled_back(storage):
    best, second, third = others(storage)
    made = promote(storage, f"{SWEEP}/{second}", reason="it is smaller", by="me@here")
    assert (made.before.trial, made.evidence["test"]["reading"]) == (best, 1)
    assert alias(storage) == (second, 2)
    with pytest.raises(RegistryError, match="is the champion of 'found' already"):
        promote(storage, f"{SWEEP}/{second}", reason="again")
    with pytest.raises(RegistryError, match=r"its test result is missing.*--force"):
        promote(storage, f"{SWEEP}/{third}", reason="why not")
    forced = promote(storage, f"{SWEEP}/{third}", reason="why not", force=True)
    assert ["test result is missing" in words for words in forced.overridden] == [True]
    assert alias(storage) == (third, 2)
    assert [rollback(storage, SWEEP, reason="no").adapter.trial for _ in range(2)] == [second, best]
    assert alias(storage) == (best, 2)
    with pytest.raises(RegistryError, match="no other champion to go back to"):
        rollback(storage, SWEEP, reason="no")
    told = history(storage, SWEEP)
    assert [change.event for change in told] == ["decided", "promoted", "promoted"] + 2 * [
        "rolled_back"
    ]
    with pytest.raises(RegistryError, match="A reason is needed"):
        rollback(storage, SWEEP, reason=" ")


def test_an_adapter_of_a_task_in_the_middle_is_used_like_any(storage, tmp_path):
    best = others(storage)[0]
    middle = f"{SWEEP}/{best}@mood"
    model = load(middle, storage)
    assert model.tasks == ["mood"]
    answer = model.predict("mood", [{"text": "a good film"}])[0]
    done = call("export", middle, "--as", "lora", "--to", tmp_path / "lora", "--storage", storage)
    assert done.exit_code == 0, done.output
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with model_folder(middle, storage, None) as folder:
        card = json.loads((folder / "card.json").read_text())
        base = AutoModelForCausalLM.from_pretrained(card["base"]["name"], dtype=torch.float32)
        plain = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    tokens = model.tokenizer("text : a good film label :", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        ours, theirs = (m(input_ids=tokens).logits for m in (model.model, plain))
    torch.testing.assert_close(ours, theirs)
    promote(storage, middle, reason="it forgets nothing", force=True)
    assert champion(storage, SWEEP).key.task == "mood"
    assert alias(storage) == (best, 1)
    assert load(f"{SWEEP}@champion", storage).predict("mood", [{"text": "a good film"}]) == [answer]
    refused = call("predict", f"{SWEEP}/{best}@moot", "--task", "mood", "x", "--storage", storage)
    assert "Did you mean 'mood'?" in refused.output


def test_mlflow_loads_the_adapter_after_each_task(storage):
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model

    client = connect(tracking_uri(None, storage))
    experiment = client.get_experiment_by_name(SWEEP).experiment_id
    best, _, third = others(storage)
    models = client.search_logged_models([experiment], filter_string="metrics.`score/mood` >= 0")
    shown = sorted(model.tags["orchestrator.card"] for model in models)
    # Two may be on the front with the same gain.
    front = {best, *SweepState.of(read_journal(storage / SWEEP)).front}
    assert shown == sorted(f"{SWEEP}/{name}{at}" for name in front for at in ("", "@mood"))
    assert third not in front, "it is dominated"
    Projection(tracking_uri(None, storage), storage / SWEEP).check()  # the copy's own places
    for model in client.search_logged_models([experiment]):
        learnt = int(model.params["learnt"])
        known = {metric.key: metric.value for metric in model.metrics}
        assert known["score/mood"] >= 0
        assert ("gain" in known) == (learnt == 2)
        root = Path(model.artifact_location.removeprefix("file://"))
        assert root.is_relative_to(storage)
        signature = Model.load(str(root)).signature
        said = {spec.name: spec.default for spec in signature.params}
        assert said["task_values"] == ["mood", "being"][:learnt]
        assert said["labels_of_mood"] == ["positive", "negative"]
        loaded = mlflow.pyfunc.load_model(str(root))
        frame = pd.DataFrame([{"text": "a good film"}])
        assert loaded.predict(frame, params={"task": "mood"})["label"][0] in said["labels_of_mood"]
        with pytest.raises(Exception, match="cannot be changed"):
            loaded.predict(frame, params={"task_values": ["other"]})


def test_a_promotion_in_mlflow_is_respected_and_recorded(storage):
    best, second, _ = others(storage)
    promote(storage, f"{SWEEP}/{second}", reason="for a moment")
    rollback(storage, SWEEP, reason="done")
    client = connect(tracking_uri(None, storage))
    client.set_registered_model_alias(SWEEP, "champion", "2")
    found = champion(storage, SWEEP)
    assert (found.key.trial, found.since.who, found.by_hand) == (second, BY_MLFLOW, True)
    assert [change.event for change in history(storage, SWEEP)][-1] == "moved"
    journal = (storage / SWEEP / "journal.jsonl").read_bytes()
    uri, lines = tracking_uri(None, storage), read_journal(storage / SWEEP)
    again = [*lines, {**next(line for line in lines if line["event"] == "sweep_ended"),
                      "n": len(lines), "time": lines[-1]["time"] + 60}]  # fmt: skip
    projection = Projection(uri, storage / SWEEP)
    projection.catch_up(again, running=False)
    text = projection.register(again, just_decided=True).text
    assert "stays with version 2, which a user gave it to in MLflow" in text
    assert alias(storage)[0] == second
    assert champion(storage, SWEEP).challenger.trial == best
    rollback(storage, SWEEP, reason="the verdict was right")
    assert alias(storage)[0] == best
    assert (storage / SWEEP / "journal.jsonl").read_bytes() == journal


def test_a_storage_that_was_moved_or_copied_goes_on(storage, tmp_path):
    best, second, _ = others(storage)
    moved = storage.rename(tmp_path / "elsewhere")
    copy = Path(shutil.copytree(moved, tmp_path / "copy"))
    for place in (moved, copy):
        assert load(f"{SWEEP}@champion", place).tasks == ["mood", "being"]
        shown = call("champion", "show", SWEEP, "--storage", place, "--json")
        assert json.loads(shown.output)["adapter"] == str(
            place / SWEEP / "trials" / best / "adapter"
        )
    promote(copy, f"{SWEEP}/{second}", reason="here alone")
    assert (alias(copy)[0], alias(moved)[0]) == (second, best)
    assert champion(moved, SWEEP).key.trial == best
    client = connect(tracking_uri(None, copy))
    experiment = client.get_experiment_by_name(SWEEP)
    assert experiment.artifact_location.startswith(copy.as_uri())
    (copy / SWEEP).rename(copy / "renamed")
    assert champion(copy, SWEEP).found.folder.path == copy / "renamed", "hashes are identity"


def test_what_people_did_in_mlflow_and_promotions_outlive_its_database(storage, empty_database):
    _, second, third = others(storage)
    uri = tracking_uri(None, storage)
    promote(storage, f"{SWEEP}/{second}", reason="it is smaller")
    client = connect(uri)
    experiment = client.get_experiment_by_name(SWEEP)
    run = client.search_runs([experiment.experiment_id], f"tags.`orchestrator.trial` = '{third}'")
    client.delete_run(run[0].info.run_id)
    client.rename_experiment(experiment.experiment_id, "my experiment")
    client.rename_registered_model(SWEEP, "my model")
    lines = read_journal(storage / SWEEP)

    def project():
        projection = Projection(uri, storage / SWEEP)
        projection.catch_up(lines, running=False)
        projection.register(lines, just_decided=False)
        here = connect(uri)
        found = here.get_experiment_by_name("my experiment")
        runs = here.search_runs([found.experiment_id])
        trials = {run.data.tags.get("orchestrator.trial") for run in runs}
        version = here.get_model_version_by_alias("my model", "champion")
        return third in trials, version.tags["orchestrator.trial"]

    assert project() == (False, second)
    shutil.copyfile(empty_database, storage / "mlflow.db")
    assert project() == (False, second)
    client = connect(uri)
    client.delete_registered_model("my model")
    projection = Projection(uri, storage / SWEEP)
    assert (
        "was deleted in MLflow, and is not made again"
        in projection.register(lines, just_decided=False).text
    )
    assert client.search_registered_models() == []


def test_a_challenger_is_compared_on_the_same_examples(finished):
    best, second, third = others(finished)
    found = compare(finished, SWEEP, f"{SWEEP}/{second}")
    assert [reading.data for reading in found.readings] == ["validation", "test"]
    assert found.against == ()
    for reading in found.readings:
        apart = [row.challenger - row.champion for row in reading.tasks]
        assert reading.difference == pytest.approx(sum(apart) / 2)
        assert reading.interval[0] <= reading.difference <= reading.interval[1]
    alone = compare(finished, SWEEP, f"{SWEEP}/{third}")
    assert [reading.data for reading in alone.readings if reading.interval] == ["validation"]
    shown = call("champion", "compare", SWEEP, f"{SWEEP}/{third}", "--storage", finished)
    assert "its test result is missing" in " ".join(shown.output.split())
    itself = compare(finished, SWEEP, f"{SWEEP}/{best}").readings[0]
    assert (itself.difference, itself.interval) == (0.0, (0.0, 0.0))


def test_other_weights_or_data_are_no_challenger(finished):
    card = champion(finished, SWEEP).found.card
    assert mismatches(card, card) == []
    other = json.loads(json.dumps(card))
    other["base"]["sha256"] = "0" * 64
    other["data"]["being"] = None
    other["tasks"] = ["being", "hue"]
    said = mismatches(card, other)
    assert [re.sub(r":.*", "", sentence) for sentence in said] == [
        "the base has other weights", "it has not learnt mood, which the champion has",
        "the data of being are others",
    ]  # fmt: skip


def test_the_champion_is_shown_without_mlflow_being_loaded(finished):
    best = others(finished)[0]
    code = (
        "import sys; from orchestrator.cli import app; "
        f"app(['champion', 'show', {SWEEP!r}, '--storage', {str(finished)!r}], "
        "standalone_mode=False); "
        "print({'mlflow', 'torch', 'pandas', 'ray'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "set()"
    words = " ".join(done.stdout.split())
    assert f"found@champion: found/{best}, version 1" in words
    assert "chosen by the verdict" in words
    assert "mood" in words
    assert "forgotten" in words
    assert len(done.stdout.splitlines()) <= 40, "one screen"
    card = card_file(SweepFolder(finished / SWEEP), best, 2)
    assert str(card) in "".join(done.stdout.split())
