"""Predictions answer as the score was taken."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli.output.documents import trial_document
from orchestrator.data.encoding import encode_question
from orchestrator.data.formats.placed_row import DataError
from orchestrator.loop.scoring import score
from orchestrator.records.errors import JournalError
from orchestrator.records.sweep_state import SweepState
from orchestrator.serving.answers import predict_rows
from orchestrator.serving.asking import Asking, PredictionError
from orchestrator.serving.find import model_folder
from orchestrator.serving.predictor import Predictor
from orchestrator.serving.pyfunc import AdapterModel
from orchestrator.spec.task_files import parse_task


class Letters:
    """A tokenizer of letters."""

    bos_token_id, eos_token_id = None, 0

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, tokens):
        return "".join(map(chr, tokens))


class Answers:
    """Log-probabilities that depend on the token alone."""

    def __init__(self, table):
        self.table = table

    def log_probabilities(self, rows):
        return [[self.table.get(token, -0.5) for _, token in row.picks] for row in rows]


def quiz(metric):
    return parse_task(
        {"name": "quiz", "kind": "multiple_choice", "data": {"files": "."}, "prompt": "{text}",
         "metric": metric},
        "quiz.yaml",
    )  # fmt: skip


@pytest.fixture
def predictor(monkeypatch):
    """Makes a predictor without a model, for tasks and a table of log-probabilities."""
    monkeypatch.setattr("orchestrator.serving.predictor.PlainEngine", lambda *_, **__: None)

    def make(table, *tasks):
        base = SimpleNamespace(get_input_embeddings=lambda: None)
        made = Predictor(base, Letters(), {task.name: task for task in tasks}, 64)
        made._engine = Answers(table)
        return made

    return make


ROW = {"text": "which?", "choices": ["c", "ab", "zzzzzz"], "answer": 0}
TABLE = {ord("c"): -1.0, ord("a"): -0.9, ord("b"): -0.6, ord("z"): -0.3, ord(" "): 0.0}


@pytest.mark.parametrize(
    ("metric", "label", "scores"),
    [
        ("accuracy", "c", (-1.0, -1.5, -1.8)),
        # Per byte -1, -0.75 and -0.3, times 3, the choices' mean length.
        ("accuracy_norm", "zzzzzz", (-3.0, -2.25, -0.9)),
    ],
)
def test_the_answer_is_that_of_the_tasks_own_metric(
    predictor, metric, label, scores, tmp_path, monkeypatch
):
    made = predictor(TABLE, quiz(metric))
    [found] = made.predict("quiz", [ROW])
    expected = [math.exp(value) / sum(map(math.exp, scores)) for value in scores]
    assert found.label == label
    assert found.by_position == pytest.approx(expected)
    assert found.probability == found.probabilities[label] == max(found.by_position)

    [columns] = predict_rows(made, "quiz", quiz(metric), [ROW])
    assert columns["prediction"] == label

    # A model that was logged: its folder holds the task as it was, metric included.
    task = quiz(metric).model_dump(mode="json")
    document = {"base": {"name": "m"}, "precision": "fp32", "max_length": 8}
    document |= {"tasks": {"quiz": task}}
    (tmp_path / "model.json").write_text(json.dumps(document))
    monkeypatch.setattr(Predictor, "from_folder", lambda *_, **__: made)
    import pandas as pd

    answer = AdapterModel(tmp_path).predict(pd.DataFrame([ROW])).iloc[0]
    assert answer["label"] == label
    assert answer["probability"] == pytest.approx(max(expected))
    assert [answer[f"probability_{i}"] for i in range(3)] == pytest.approx(expected)


def test_choices_that_read_alike_keep_their_places(predictor):
    [found] = predictor(TABLE, quiz("accuracy")).predict(
        "quiz", [ROW | {"choices": ["c", "c", "ab"]}]
    )
    assert len(found.by_position) == 3
    assert found.by_position[0] == found.by_position[1] > found.by_position[2]
    [columns] = predict_rows(
        predictor(TABLE, quiz("accuracy")), "quiz", quiz("accuracy"),
        [ROW | {"choices": ["c", "c", "ab"]}],
    )  # fmt: skip
    assert columns["probability_2"] == pytest.approx(found.by_position[2], abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-9, 0), min_size=5, max_size=5),
    texts=st.lists(st.text("abcde", min_size=1, max_size=4), min_size=2, max_size=4, unique=True),
    metric=st.sampled_from(["accuracy", "accuracy_norm"]),
)
def test_a_right_prediction_is_a_scored_one(values, texts, metric):
    table = dict(zip(map(ord, "abcde"), values, strict=True))
    task = quiz(metric)
    made = Predictor.__new__(Predictor)
    made.tokenizer, made._engine = Letters(), Answers(table)
    made._asking = Asking({"quiz": task}, made.tokenizer, 64, None, has_heads=False)
    rows = [{"text": "?", "choices": texts, "answer": i} for i in range(len(texts))]
    questions = [encode_question(task, row, made.tokenizer, 64) for row in rows]
    right = score(questions, task, made._engine).per_example
    said = [answer.label for answer in made.predict("quiz", rows)]
    assert [float(label == texts[i]) for i, label in enumerate(said)] == list(right)


def test_a_row_with_a_token_that_the_base_lacks_is_refused(predictor):
    made = predictor(TABLE, quiz("accuracy"))
    made._asking = replace(made._asking, vocabulary=ord("z"))
    with pytest.raises(DataError, match="'z' as token 122"):
        made.predict("quiz", [ROW])


@pytest.mark.parametrize("changed", [{"text": "why \ud83d"}, {"choices": ["a", "\ude00 b"]}])
def test_half_a_character_is_refused_by_its_row(predictor, changed):
    place = next(iter(changed))
    with pytest.raises(PredictionError, match=f"Row 2: `{place}.* half of a character"):
        predictor(TABLE, quiz("accuracy")).predict("quiz", [ROW, ROW | changed])


@pytest.mark.parametrize("named", ["/etc", "../other/adapter", "trials/../../other"])
def test_a_journal_that_points_elsewhere_is_not_followed(new_story, tmp_path, named):
    story = new_story()
    story.start("t001")
    story.end("t001", "COMPLETE", 0.1, adapter=named)
    (tmp_path / "foreign").mkdir()
    lines = "".join(json.dumps(line) + "\n" for line in story.lines)
    (tmp_path / "foreign" / "journal.jsonl").write_text(lines)
    with (
        pytest.raises(JournalError, match="does not lie in the sweep's folder"),
        model_folder("foreign/t001", tmp_path, None),
    ):
        pass
    view = SweepState.of(story.lines)
    with pytest.raises(JournalError, match="does not lie in the sweep's folder"):
        trial_document(view, view.everything["t001"], tmp_path / "foreign")


def test_what_is_not_finite_is_no_answer(predictor):
    with pytest.raises(PredictionError, match="not finite"):
        predictor({ord("c"): math.nan}, quiz("accuracy")).predict("quiz", [ROW])
