"""The head-only control: which examples it is fitted to, and when it cannot be."""

import json
import zlib

import pytest
import torch

from orchestrator.base.loading import load_tokenizer
from orchestrator.data import preparation, task_preparation
from orchestrator.data import prepared as prepared_module
from orchestrator.data.formats.placed_row import DataError
from orchestrator.data.items import Example, Question
from orchestrator.loop import head_only
from orchestrator.loop.scoring import DivergedError
from orchestrator.planning.plan import Machine
from orchestrator.planning.planner import make_plan
from orchestrator.spec.load import load_experiment
from orchestrator.spec.sections import DataLimits
from orchestrator.spec.task_files import parse_task


class Words:
    """A tokenizer of words."""

    bos_token_id = eos_token_id = None

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [zlib.crc32(word.encode()) for word in text.split()]}

    def decode(self, tokens):
        return " ".join("x" for _ in tokens)


def task(folder, **fields):
    document = {
        "name": "films", "kind": "classification", "data": {"files": str(folder)},
        "prompt": "{text} :", "labels": {"neg": " bad", "pos": " good"},
    }  # fmt: skip
    return parse_task(document | fields, "films.yaml")


def write(folder, split, labels):
    rows = [{"text": f"{split} {i} {label}", "label": label} for i, label in enumerate(labels)]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def hidden_states(rows):
    """Two numbers that say whether a prompt has the word "pos"."""
    said = torch.tensor([float(zlib.crc32(b"pos") in row.tokens) for row in rows])
    return torch.stack([said, 1.0 - said], dim=1)


@pytest.mark.parametrize("head", ["linear", "label_words"])
def test_a_file_sorted_by_label_gives_the_control_every_label(tmp_path, head, monkeypatch):
    monkeypatch.setattr(head_only, "MOST_EXAMPLES", 100)
    write(tmp_path, "train", ["neg"] * 300 + ["pos"] * 300)
    write(tmp_path, "validation", ["neg"] * 20 + ["pos"] * 20)
    limits = DataLimits(validation_examples=None)
    made = task_preparation.prepare_task(
        task(tmp_path, head=head, splits={"test": None}), Words(), limits, max_length=8, learnt=True
    )
    assert "head_only" not in made.facts
    assert head_only.head_only(made, hidden_states).value == 1.0


def prepared(train):
    asked = tuple(Question((label, 9), ((0,), (1,)), (1, 1), label) for label in (0, 1))
    return prepared_module.PreparedTask("films", task("."), tuple(train), asked, (), ("neg", "pos"))


def test_a_rare_label_takes_part(monkeypatch):
    monkeypatch.setattr(head_only, "MOST_EXAMPLES", 10)
    train = [Example((0, number, 0), 2, None, 0) for number in range(30)]
    train.append(Example((1, 9, 1), 2, None, 1))
    found = head_only.head_only(
        prepared(train), lambda rows: torch.tensor([[float(row.tokens[0])] for row in rows])
    )
    assert (found.value, found.metrics["examples"]) == (1.0, 11.0)


@pytest.mark.parametrize("count", [2, 3])
def test_the_fit_is_the_minimum_of_the_penalised_softmax_loss(count):
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(60) % count
    features = torch.randn(60, 5, dtype=torch.float64, generator=generator) + labels[:, None]
    features[:, 0] = 3.0  # never varies
    scaler, regression = head_only.fit(features, labels.tolist(), penalty=2.0)
    weight, bias = torch.tensor(regression.coef_), torch.tensor(regression.intercept_)
    if count == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    weight.requires_grad_(), bias.requires_grad_()
    logits = torch.tensor(scaler.transform(features.numpy())) @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    slopes = torch.autograd.grad(loss + weight.square().sum(), (weight, bias))
    assert loss.item() < 50
    assert max(slope.abs().max().item() for slope in slopes) < 1e-4


def test_hidden_states_that_are_not_finite_are_no_score():
    train = [Example((label, 9, label), 2, None, label) for label in (0, 1)]
    with pytest.raises(DivergedError, match="not finite"):
        head_only.head_only(prepared(train), lambda rows: torch.full((len(rows), 2), torch.nan))


def test_one_label_is_said_before_training_and_refused_where_all_is_measured_by_it(
    tmp_path, experiment_file, tiny_base, recorder
):
    write(tmp_path, "train", ["neg"] * 40)
    for split in ("validation", "test"):
        write(tmp_path, split, ["neg", "pos"] * 10)
    file = tmp_path / "films.yaml"
    document = task(tmp_path).model_dump(mode="json")
    file.write_text(json.dumps(document))
    fields = {"probes": [], "objectives": {"gain": "max"}, "champion": {"subject_to": {}}}
    path = experiment_file(tasks=[str(file)], resources={"executor": "local"}, **fields)
    loaded = load_experiment(path)
    said = "cannot be fitted: the 40 training rows that are used all have the label 'neg'"
    preparation.prepare(loaded, load_tokenizer(loaded.experiment.model), note=recorder.note)
    assert any(said in note for note in recorder.notes)
    plan = make_plan(loaded, Machine(2, 0, None, None, here=False), calibrate=False)
    assert any(said in warning for warning in plan.warnings)

    file.write_text(json.dumps(document | {"head": "linear"}))
    with pytest.raises(DataError, match="cannot be fitted to one label") as caught:
        preparation.prepare(load_experiment(path), load_tokenizer(loaded.experiment.model))
    assert str(file) in str(caught.value)
