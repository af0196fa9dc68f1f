"""What is foreign, damaged or moved: told by its hash, set aside or found again, never mixed up."""

import json
import shutil
import tracemalloc
from types import SimpleNamespace

import pytest
import yaml

from orchestrator.api.differences import diff_trials
from orchestrator.base.errors import ModelError
from orchestrator.base.identity import base_sha256, found_base
from orchestrator.base.loading import load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.records.errors import AdapterFolderError
from orchestrator.records.journal import Journal
from orchestrator.records.journal_lines import last_line, read_journal
from orchestrator.records.model_folder import write_model_folder
from orchestrator.records.sweep_state import SweepState
from orchestrator.serving import find
from orchestrator.spec.load import load_experiment
from orchestrator.spec.sections import ModelSpec
from orchestrator.sweep import continuation, locally, run_options
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.provenance import (
    ChangedSweepError,
    check_provenance,
    check_same,
    differing_versions,
)
from orchestrator.system.seals import content_hash, file_hashes, flaw
from orchestrator.system.strict_json import fingerprint
from tests.conftest import Recorder
from tests.journals import say


@pytest.fixture(scope="module")
def write(tiny_base, tiny_tasks):
    """Writes an experiment of one short task and two trials; gives it as loaded."""

    def write(name="told", **fields):
        path = tiny_tasks / f"{name}.yaml"
        document = {
            "name": "told", "model": {"name": str(tiny_base)}, "tasks": ["mood"],
            "method": {"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj"]}},
            "training": {"learning_rate": 0.01, "batch_size": 4, "max_length": 48,
                         "precision": "fp32"},
            "data": {"train_examples": 16, "validation_examples": 4, "rung_examples": 2},
            "search": {"space": {"method.adapter.r": {"choice": [2, 4]}}, "searcher": "grid",
                       "trials": 2},
            "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
            "resources": {"executor": "local"}, **fields,
        }  # fmt: skip
        path.write_text(yaml.safe_dump(document))
        return load_experiment(path)

    return write


@pytest.fixture(scope="module")
def loaded(write):
    return write()


@pytest.fixture(scope="module")
def data(loaded):
    return prepare(loaded, load_tokenizer(loaded.experiment.model))


class StopError(Exception):
    """The driver dies here."""


class Dying(Recorder):
    def __init__(self, dies):
        super().__init__()
        self.dies = dies

    def line(self, line):
        super().line(line)
        if self.dies(line):
            raise StopError


def drive(loaded, data, folder, observer=None, sweep_id="5e8a41d0"):
    """Run what is missing of a sweep, without MLflow; its journal."""
    with Journal(folder) as journal:
        if not journal.lines:
            say(
                journal, "sweep_opened", sweep=folder.name, sweep_id=sweep_id, controls={},
                experiment=loaded.experiment.model_dump(mode="json"),
                tasks={n: t.model_dump(mode="json") for n, t in loaded.tasks.items()},
                provenance={
                    "base": {"sha256": base_sha256(loaded.experiment.model)},
                    "data": data.hashes, "packages": {"torch": "2.13.0"},
                },
            )  # fmt: skip
        driver = Driver(loaded, journal, observer or Recorder(), data)
        silent = SimpleNamespace(catch_up=lambda: None)
        locally.run_trials_locally(driver, silent, lambda: None)
    return read_journal(folder)


def drive_until(dies, *rest):
    with pytest.raises(StopError):
        drive(*rest, observer=Dying(dies))


def ended(lines):
    return {line["trial"]: line for line in lines if line["event"] == "trial_ended"}


def aside(lines):
    return [(x["what"], x["because"]) for x in lines if x["event"] == "set_aside"]


def losses(lines, trial):
    reports = {
        (x["report"]["task_index"], x["report"]["fraction"]): x["report"]["losses"]
        for x in lines
        if x["event"] == "stage_report" and x["trial"] == trial
    }
    return [loss for key in sorted(reports) for loss in reports[key]]


@pytest.fixture(scope="module")
def whole(loaded, data, tmp_path_factory):
    """A sweep that nothing disturbed: its folder and its journal; not to be changed."""
    folder = tmp_path_factory.mktemp("whole") / "told"
    return folder, drive(loaded, data, folder)


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of it, in another place."""
    shutil.copytree(whole[0], tmp_path / "told")
    return tmp_path / "told", whole[1]


# --- a trial's own work --------------------------------------------------------------------------


def test_an_adapter_is_sealed_and_its_hash_journalled(whole):
    folder, lines = whole
    assert [end["state"] for end in ended(lines).values()] == ["COMPLETE"] * 3
    for name in ("t001", "t002"):
        end = ended(lines)[name]
        adapter = folder / end["adapter"]
        assert end["adapter_sha256"] == content_hash(file_hashes(adapter))
        assert flaw(adapter) is None
        seal = json.loads((adapter / "seal.json").read_text())
        assert (seal["sweep"], seal["trial"]) == ("5e8a41d0", name)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    loaded, data, whole, tmp_path
):
    folder = tmp_path / "told"

    def half_way(line):
        return line.get("trial") == "t001" and line.get("report", {}).get("fraction") == 0.5

    drive_until(half_way, loaded, data, folder)
    weights = folder / "ray" / "t001" / "checkpoint" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    lines = drive(loaded, data, folder)
    assert aside(lines) == [
        ("ray/t001/checkpoint", "its file weights.safetensors is damaged"),
    ]
    assert losses(lines, "t001") == losses(whole[1], "t001")
    end, undisturbed = ended(lines)["t001"], ended(whole[1])["t001"]
    assert end["measures"]["gain"] == undisturbed["measures"]["gain"]


def test_what_another_sweep_left_in_the_folder_is_no_trials_own(write, data, copied, whole):
    folder, _ = copied
    (folder / "journal.jsonl").unlink()
    other = write("other", training={"learning_rate": 0.01, "batch_size": 4, "max_length": 48,
                                     "precision": "fp32", "seed": 5})  # fmt: skip
    lines = drive(other, data, folder, sweep_id="another")
    assert sorted(aside(lines)) == [
        (f"trials/{name}/adapter", f"it belongs to trial {name} of the sweep 5e8a41d0")
        for name in ("t001", "t002")
    ]
    for name in ("t001", "t002"):
        end = ended(lines)[name]
        assert end["adapter_sha256"] == content_hash(file_hashes(folder / end["adapter"]))
        assert end["adapter_sha256"] != ended(whole[1])[name]["adapter_sha256"]


def test_a_trial_whose_adapter_is_gone_makes_it_again(loaded, data, whole, tmp_path):
    folder = tmp_path / "told"

    def last(line):
        return line.get("trial") == "t001" and line.get("report", {}).get("fraction") == 1.0

    drive_until(last, loaded, data, folder)
    shutil.rmtree(folder / "trials" / "t001" / "adapter")
    shutil.rmtree(folder / "ray" / "t001")
    lines = drive(loaded, data, folder)
    end = ended(lines)["t001"]
    assert (end["state"], end["adapter"]) == ("COMPLETE", "trials/t001/adapter")
    assert flaw(folder / end["adapter"]) is None
    assert losses(lines, "t001") == losses(whole[1], "t001")
    view = SweepState.of(lines).everything["t001"]
    fractions = [report.fraction for report in view.reports]
    assert fractions == [0.25, 0.5, 1.0], "shown once"


def test_an_adapter_that_never_appears_fails_its_trial_with_the_place(
    loaded, data, tmp_path, monkeypatch
):
    monkeypatch.setattr("orchestrator.sweep.deciding.kept_work.SEEN_SECONDS", 0.0)
    keep = KeptWork.keep_adapter

    def unseen(self, name, source):
        return keep(self, name, source.with_name("elsewhere") if name == "t001" else source)

    monkeypatch.setattr(KeptWork, "keep_adapter", unseen)
    ends = ended(drive(loaded, data, tmp_path / "told"))
    assert (ends["t001"]["state"], ends["t002"]["state"]) == ("FAILED", "COMPLETE")
    assert ends["t001"]["reason"].endswith("elsewhere cannot be used: it is missing")


# --- what is registered, exported and served -----------------------------------------------------


def truncate(folder):
    file = folder / "t001" / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def remove(folder):
    (folder / "t001" / "adapter" / "adapter_model.safetensors").unlink()


def swap(folder):
    for source, target in (("t001", "x"), ("t002", "t001"), ("x", "t002")):
        (folder / source).rename(folder / target)


@pytest.mark.parametrize(
    ("damage", "because"),
    [
        (truncate, "its file adapter_model.safetensors is damaged"),
        (remove, "is missing|holds no adapter"),
        (swap, "it is that of trial t002"),
    ],
)
def test_an_adapter_that_the_journal_does_not_vouch_for_is_not_used(
    copied, tmp_path, damage, because
):
    folder, lines = copied
    damage(folder / "trials")
    with pytest.raises(AdapterFolderError, match=because):
        write_model_folder(
            tmp_path / "model", adapter_folder=folder / "trials" / "t001" / "adapter",
            state=SweepState.of(lines), trial="t001",
        )  # fmt: skip
    assert not (tmp_path / "model").exists()
    with pytest.raises((AdapterFolderError, find.ModelUseError)):  # noqa: SIM117
        with find.model_folder("told/t001", folder.parent, None):
            pass
    with Journal(folder) as journal:
        options = run_options.SweepOptions(retry_failed=True)
        lost = ["t001", "t002"] if damage is swap else ["t001"]
        state = SweepState.of(journal.lines)
        assert continuation.retried_trials(state, folder, options) == lost
        assert continuation.retried_trials(state, folder, run_options.SweepOptions()) == []


def test_a_model_folder_that_was_changed_is_not_used(copied, tmp_path):
    folder, lines = copied
    model = write_model_folder(
        tmp_path / "model", adapter_folder=folder / "trials" / "t001" / "adapter",
        state=SweepState.of(lines), trial="t001",
    )  # fmt: skip
    said = []
    with find.model_folder(str(model), tmp_path, None, note=said.append) as found:
        assert (found, said) == (model, [])
    document = json.loads((model / "model.json").read_text())
    assert document["adapter_sha256"] == ended(lines)["t001"]["adapter_sha256"]
    (model / "model.json").write_text(json.dumps({**document, "max_length": 47}))
    with pytest.raises(find.ModelUseError, match=r"its file model\.json is damaged"):  # noqa: SIM117
        with find.model_folder(str(model), tmp_path, None):
            pass
    (model / "seal.json").unlink()  # as an earlier version wrote it
    with find.model_folder(str(model), tmp_path, None, note=said.append):
        pass
    assert said == [f"{model} was made before checksums; it is not verified"]


def test_a_moved_base_is_known_by_its_hash(copied, tiny_base, tmp_path):
    folder, lines = copied
    model = write_model_folder(
        tmp_path / "model", adapter_folder=folder / "trials" / "t001" / "adapter",
        state=SweepState.of([
            {**lines[0], "experiment": {
                **lines[0]["experiment"], "model": {"name": str(tmp_path / "was here")}}},
            *lines[1:],
        ]),
        trial="t001",
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"was here any more.*--base DIR"):
        find.load_folder(model)
    shutil.copytree(tiny_base, tmp_path / "moved")
    predictor = find.load_folder(model, tmp_path / "moved")
    assert predictor.predict("mood", [{"text": "good film"}])[0].label in {"negative", "positive"}
    weights = tmp_path / "moved" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match="holds other weights than the model in"):
        find.load_folder(model, tmp_path / "moved")


def test_other_content_at_the_same_place_is_refused(tiny_base, tmp_path):
    shutil.copytree(tiny_base, tmp_path / "base")
    spec = ModelSpec(name=str(tmp_path / "base"))
    from orchestrator.base.identity import setup_sha256

    known = {"sha256": base_sha256(spec), "setup_sha256": setup_sha256(spec)}
    assert found_base(spec, known, "it").name == spec.name
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(
        json.dumps({**config, "transformers_version": "9"})
    )
    assert found_base(spec, known, "it").name == spec.name, "by whom it was written"
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    with pytest.raises(ModelError, match="another config or tokenizer"):
        found_base(spec, known, "it")


def test_a_commit_of_the_hub_stays_where_its_name_moves_on():
    commit = "c0ffee" * 6 + "cafe"
    found = found_base(ModelSpec(name="somebody/base"), {"sha256": commit}, "it")
    assert (found.name, found.revision) == ("somebody/base", commit)


def test_a_version_is_asked_for_where_a_sweep_of_that_name_is(copied, tmp_path, monkeypatch):
    folder, lines = copied
    model = write_model_folder(
        tmp_path / "model", adapter_folder=folder / "trials" / "t001" / "adapter",
        state=SweepState.of(lines), trial="t001",
    )  # fmt: skip
    asked = []

    def resolve(reference, uri, *rest, **options):
        asked.append(reference)
        return model

    monkeypatch.setattr("orchestrator.serving.find.resolve", resolve)
    with find.model_folder("told/1", folder.parent, "sqlite:///somewhere.db") as found:
        assert (found, asked) == (model, ["told/1"])
    with find.model_folder("told/t001", folder.parent, None) as found:
        assert (found / "model.json").is_file()
    assert asked == ["told/1"], "a trial is one of the sweep's own"


# --- what may change when a sweep is continued ---------------------------------------------------


def opened(loaded, folder, **provenance):
    journal = Journal(folder)
    say(
        journal, "sweep_opened", sweep="told",
        experiment=loaded.experiment.model_dump(mode="json"),
        tasks={n: t.model_dump(mode="json") for n, t in loaded.tasks.items()},
        provenance={"base": {"sha256": "a", "name": "x"}, "data": {}, **provenance},
    )  # fmt: skip
    return journal


def with_task(loaded, **fields):
    task = loaded.tasks["mood"].model_copy(update=fields)
    return loaded.model_copy(update={"tasks": {"mood": task}})


def test_a_tasks_description_and_place_may_change_and_nothing_that_is_computed_with(
    loaded, data, tmp_path
):
    described = with_task(loaded, description="newly put", source="and licensed")
    moved = with_task(loaded, data=loaded.tasks["mood"].data.model_copy(update={"files": "there"}))
    model = ModelSpec(name="/moved/base")
    rebased = loaded.model_copy(
        update={"experiment": loaded.experiment.model_copy(update={"model": model})}
    )
    with opened(loaded, tmp_path / "told", data=data.hashes) as journal:
        for changed in (described, moved, rebased):
            check_same(changed, journal)
        with pytest.raises(ChangedSweepError, match=r"tasks\.mood\.prompt"):
            check_same(with_task(loaded, prompt="{text}"), journal)
    again = prepare(described, load_tokenizer(loaded.experiment.model))
    assert again.hashes == data.hashes


def test_the_text_that_an_adapter_is_made_from_may_not_change(write, tmp_path):
    def corda(source):
        return write(
            "corda", search=None, probes=["prose", "being"],
            method={"adapter": {"kind": "corda", "r": 2, "target_modules": ["q_proj"],
                                "source": source}},
        )  # fmt: skip

    with opened(corda("being"), tmp_path / "told") as journal:
        check_same(corda("being"), journal)
        with pytest.raises(ChangedSweepError, match=r"method\.adapter\.source: 'being' -> 'prose'"):
            check_same(corda("prose"), journal)


def test_data_and_base_are_compared_by_their_hashes(loaded, tmp_path):
    task = loaded.tasks["mood"].model_dump(mode="json", exclude={"data"})
    earlier = fingerprint([task, "tokens"])  # as earlier versions kept it
    for kept in ("tokens", earlier):
        with opened(loaded, tmp_path / kept, data={"mood": kept}) as journal:
            base = {"sha256": "a", "name": "y"}
            check_provenance(journal, {"base": base, "data": {"mood": "tokens"}})
            with pytest.raises(ChangedSweepError, match="this has changed: mood"):
                check_provenance(journal, {"base": base, "data": {"mood": "others"}})
            with pytest.raises(ChangedSweepError, match="the base model's weights"):
                check_provenance(journal, {"base": {"sha256": "b", "name": "x"}, "data": {}})
            with pytest.raises(ChangedSweepError, match="the base model"):
                check_provenance(journal, {"base": {"sha256": "unknown", "name": "x"}, "data": {}})


def test_other_packages_are_said_and_shown_by_trial(new_story):
    story = new_story()
    story.lines[0]["provenance"] = {"packages": {"torch": "2.13.0"}, "python": "3.11.9"}
    story.complete("t001", 0.1)
    before = SweepState.of(story.lines).versions
    story.add("sweep_continued", trials=2, packages={"torch": "2.14.0"}, python="3.11.9")
    story.complete("t002", 0.2)
    view = SweepState.of(story.lines)
    assert differing_versions(before, view.versions) == ["torch 2.13.0 -> 2.14.0"]
    assert view.everything["t001"].versions == [{"torch": "2.13.0", "python": "3.11.9"}]
    first, second = view.everything["t001"], view.everything["t002"]
    assert diff_trials((view, first), (view, second))["provenance"] == {
        "torch": {"left": "2.13.0", "right": "2.14.0"}
    }


# --- growth --------------------------------------------------------------------------------------


def test_the_driver_keeps_little_of_a_trial(loaded, data, tmp_path):
    """Four tasks of 1,000 examples and 500 steps each: at most 20 KiB."""
    folder, count = tmp_path / "told", 8
    with opened(loaded, folder) as journal:
        for number in range(1, count + 1):
            name = f"t{number:03d}"
            say(journal, "trial_proposed", trial=name, overrides={"method.adapter.r": 2}, by="x")
            for index in range(4):
                for fraction in (0.25, 0.5, 1.0):
                    report = {
                        "task": "mood", "task_index": index, "step": 1, "steps": 4,
                        "fraction": fraction, "score": 0.5, "losses": [0.5 + 1e-6 * number] * 250,
                        "learning_rates": [1e-3] * 250,
                        "row": [0.5] * len(loaded.experiment.tasks) if fraction == 1.0 else None,
                        "per_example": {"mood": [i * 1e-3 for i in range(1000)]},
                    }  # fmt: skip
                    say(journal, "stage_report", trial=name, report=report)
            say(journal, "trial_ended", trial=name, state="COMPLETE", measures={"gain": 0.1},
                           gain_interval=[0.0, 0.2])  # fmt: skip
    with opened(loaded, tmp_path / "none") as none:
        Driver(loaded, none, Recorder(), data)  # what is imported once
    tracemalloc.start()
    with Journal(folder) as journal:
        driver = Driver(loaded, journal, Recorder(), data)
        resident = tracemalloc.get_traced_memory()[0] / count
        tracemalloc.stop()
        examples = driver.ledger.cells("t003")[(4, "mood")].per_example
    assert examples == tuple(i * 1e-3 for i in range(1000)), "read again"
    assert resident <= 20 * 1024


def test_the_last_line_of_an_event_is_found_without_reading_all(copied):
    folder, lines = copied
    with Journal(folder) as journal:
        for event, trial in (("trial_ended", "t001"), ("trial_proposed", None), ("x", None)):
            assert last_line(journal.lines, event, trial) == last_line(lines, event, trial)
