"""Sweeps whose tasks have linear heads, write texts, or whose finalists are repeated."""

import json
import math

import pytest

from orchestrator.engines.checkpoints import read_tensors
from orchestrator.records.model_folder import write_model_folder
from orchestrator.records.sweep_state import SweepState
from orchestrator.serving.asking import PredictionError
from orchestrator.serving.predictor import Predictor
from orchestrator.spec.load import load_experiment
from orchestrator.spec.validation import ExperimentError
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions

pytestmark = pytest.mark.usefixtures("records")

LOCAL = {"executor": "local"}


def ends(lines):
    return {line["trial"]: line for line in lines if line["event"] == "trial_ended"}


def reports(lines, trial):
    return [
        line["report"] for line in lines
        if line["event"] == "stage_report" and line["trial"] == trial
    ]  # fmt: skip


def run(path, recorder, **options):
    return run_sweep(load_experiment(path), SweepOptions(**options), recorder)


@pytest.fixture
def headed(experiment_file):
    return experiment_file(
        head="linear",
        resources=LOCAL,
        training={
            "learning_rate": 0.02, "head_learning_rate": 0.05, "epochs": 3, "batch_size": 8,
            "max_length": 48, "precision": "fp32",
        },
    )  # fmt: skip


def test_a_linear_head_is_learnt_kept_and_asked(headed, recorder, tmp_path):
    outcome = run(headed, recorder, kind="run")
    base, trial = reports(outcome.lines, "base")[0], reports(outcome.lines, "t001")[-1]
    # Zero-shot does not exist for a head; nor does a score before its task is learnt.
    assert base["row"] == [None, None]
    first = next(r for r in reports(outcome.lines, "t001") if r["row"])
    assert first["row"][0] is not None
    assert first["row"][1] is None
    assert None not in trial["row"]
    end = ends(outcome.lines)["t001"]
    assert end["state"] == "COMPLETE"
    head_only = [base["head_only"][task]["accuracy"] for task in ("mood", "being")]
    expected = sum(trial["row"]) / 2 - sum(head_only) / 2
    assert end["measures"]["gain"] == pytest.approx(expected)
    assert end["measures"]["forgetting"] == pytest.approx(first["row"][0] - trial["row"][0])
    assert end["intervals"]["zero_shot"] is None
    assert end["intervals"]["head_only"] == end["gain_interval"]
    low, high = end["intervals"]["majority"]
    assert low <= high

    adapter = outcome.folder / "trials" / "t001" / "adapter"
    tensors = read_tensors(adapter / "heads.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "mood.weight": (2, 32), "mood.bias": (2,), "being.weight": (2, 32), "being.bias": (2,),
    }  # fmt: skip
    # The stored model answers as the trial did.
    folder = write_model_folder(
        tmp_path / "model", adapter_folder=adapter, state=SweepState.of(outcome.lines), trial="t001"
    )
    predictor = Predictor.from_folder(folder)
    rows = [
        json.loads(line)
        for line in (headed.parent / "data" / "mood" / "validation.jsonl").read_text().splitlines()
    ]
    said = predictor.predict("mood", rows)
    right = sum(p.label == row["label"] for p, row in zip(said, rows, strict=True))
    assert right / len(rows) == pytest.approx(trial["row"][0])
    assert all(sum(p.probabilities.values()) == pytest.approx(1.0) for p in said)
    bare = Predictor.from_folder(folder, adapter=False)
    with pytest.raises(PredictionError, match="untouched base has none"):
        bare.predict("mood", rows[:1])


def test_forward_transfer_cannot_be_an_objective_of_heads(experiment_file):
    path = experiment_file(head="linear", objectives={"forward_transfer": "max"})
    with pytest.raises(ExperimentError, match="none with a linear head"):
        load_experiment(path)


def test_finalists_are_repeated_with_fresh_seeds(experiment_file, recorder, search):
    search["trials"] = 4
    finalists = {"fresh_seeds": 2, "per": "method.adapter.kind"}
    path = experiment_file(search=search, resources=LOCAL, finalists=finalists)
    outcome = run(path, recorder)
    proposed = [line for line in outcome.lines if line["event"] == "trial_proposed"]
    searched = [line for line in proposed if not line.get("of") and line["trial"] != "base"]
    repeats = [line for line in proposed if line.get("of")]
    assert len(searched) == 4
    measures = {name: line["measures"] for name, line in ends(outcome.lines).items()}
    groups = {}
    for line in searched:
        groups.setdefault(line["overrides"]["method.adapter.kind"], []).append(line)
    assert len(repeats) == 2 * len(groups)
    end = next(line for line in outcome.lines if line["event"] == "sweep_ended")
    drift = 0.05

    def rank(name):
        return (measures[name]["probe_drift"] <= drift, measures[name]["gain"])

    for group in groups.values():
        best = max((line["trial"] for line in group), key=rank)
        mine = [line for line in repeats if line["of"] == best]
        assert [line["trial"] for line in mine] == [f"{best}-s1", f"{best}-s2"]
        original = next(line for line in group if line["trial"] == best)
        for number, line in enumerate(mine, start=1):
            assert line["overrides"] == {**original["overrides"], "training.seed": number}
        finalist = next(f for f in end["finalists"] if f["trial"] == best)
        gains = [measures[line["trial"]]["gain"] for line in mine]
        assert finalist["mean"]["gain"] == pytest.approx(sum(gains) / 2)
        assert finalist["spread"]["gain"] == pytest.approx(abs(gains[0] - gains[1]) / math.sqrt(2))
    assert set(end["front"]) <= {line["trial"] for line in searched}
    assert "on 2 fresh seeds" in end["reason"] or "none keeps" in end["reason"]
    again = run(path, recorder)
    assert again.lines == outcome.lines


@pytest.mark.parametrize(
    ("finalists", "expected"),
    [
        ({"per": "method.adapter.kin"}, "Did you mean 'method.adapter.kind'"),
        ({"per": "training.learning_rate"}, "with a `choice`"),
    ],
)
def test_a_wrong_group_of_finalists_is_refused(experiment_file, search, finalists, expected):
    path = experiment_file(search=search, finalists=finalists)
    with pytest.raises(ExperimentError, match=expected):
        load_experiment(path)


def test_writing_is_learnt_scored_and_asked(experiment_file, recorder, tiny_tasks, tmp_path):
    folder = tiny_tasks / "data" / "echo"
    folder.mkdir(exist_ok=True)
    colours = ["red", "blue", "green"]
    for split, count in (("train", 60), ("validation", 12), ("test", 12)):
        rows = [
            {"prompt": f"the {'a ' * (i % 5)}{colours[i % 3]} film", "target": colours[i % 3]}
            for i in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tiny_tasks / "tasks" / "echo.yaml").write_text(
        "name: echo\nkind: generation\ndata: {files: ../data/echo}\n"
        "prompt: '{prompt} is'\nmax_new_tokens: 1\nstop: []\n"
    )
    # Equal prompts stand in train and validation, and are taken out of train: leave some.
    rows = [{"prompt": f"{c} {w} {n}", "target": c} for c in colours for w in ("dog", "cat", "book")
            for n in ("one", "two", "three", "bad", "good", "sad")]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = experiment_file(
        tasks=["echo"], resources=LOCAL,
        training={"learning_rate": 0.1, "epochs": 8, "batch_size": 8, "max_length": 24,
                  "precision": "fp32"},
        method={"adapter": {"kind": "lora", "r": 8, "alpha": 32, "target_modules": "all-linear"}},
        objectives={"gain": "max"}, champion={"maximize": "gain", "subject_to": {}},
    )  # fmt: skip
    outcome = run(path, recorder, kind="run")
    base, trial = reports(outcome.lines, "base")[0], reports(outcome.lines, "t001")[-1]
    assert base["head_only"] == {}
    # A tiny base learns little, and single batches differ by more: quarters are compared.
    quarter = len(trial["losses"]) // 4
    assert sum(trial["losses"][-quarter:]) < sum(trial["losses"][:quarter]) - 0.01 * quarter
    assert trial["row"][0] == trial["metrics"]["echo"]["exact_match"]
    assert trial["row"][0] >= base["row"][0]
    adapter = outcome.folder / "trials" / "t001" / "adapter"
    folder = write_model_folder(
        tmp_path / "model", adapter_folder=adapter, state=SweepState.of(outcome.lines), trial="t001"
    )
    predictor = Predictor.from_folder(folder)
    lines = (tiny_tasks / "data" / "echo" / "validation.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    said = predictor.predict("echo", rows)
    right = sum(p.label == row["target"] for p, row in zip(said, rows, strict=True))
    assert right / len(rows) == pytest.approx(trial["row"][0])


@pytest.mark.parametrize("head", ["label_words", "linear"])
def test_repetitions_learn_the_tasks_in_another_order_and_measure_by_their_own(
    experiment_file, recorder, search, head
):
    search["trials"] = 1
    finalists = {"fresh_seeds": 1, "fresh_orders": True}
    path = experiment_file(search=search, resources=LOCAL, finalists=finalists, head=head)
    lines = run(path, recorder).lines
    [again] = [line for line in lines if line["event"] == "trial_proposed" and line.get("of")]
    assert again["overrides"]["tasks"] == ["being", "mood"]
    state = SweepState.of(lines)
    trial = state.trial(again["trial"])
    rows = [report for report in trial.reports if report.row is not None]
    assert [report.task for report in rows] == ["being", "mood"]
    # Rows stand in the sweep's order, (mood, being), whatever was learnt first.
    for report in rows:
        for task, score in zip(state.tasks, report.row, strict=True):
            if report.per_example.get(task):
                assert score == pytest.approx(sum(report.per_example[task]) / 24)
    assert math.isnan(rows[0].row[0]), "no measure needs what was not learnt yet"
    # What was learnt first is `being`: its drop is what is forgotten.
    drop = rows[0].row[1] - rows[1].row[1]
    assert trial.measure("forgetting_from_learned") == pytest.approx(drop)
    assert trial.measure("accuracy") == pytest.approx(sum(rows[1].row) / 2)
    assert state.order_of(trial) == ["being", "mood"]
    assert "and another order of the tasks" in state.reason or "none keeps" in state.reason


def test_orders_cannot_be_fresh_where_tasks_were_learnt_elsewhere(experiment_file):
    extends = {"sweep": "s", "sweep_id": "i", "trial": "t", "learnt": 1}
    path = experiment_file(extends=extends, finalists={"fresh_seeds": 1, "fresh_orders": True})
    with pytest.raises(ExperimentError, match="have been learnt in their order"):
        load_experiment(path)
