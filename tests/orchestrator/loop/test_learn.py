import json
import math
from dataclasses import replace

import pytest
import torch

from curlora.retention.protocol import Retention
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.data.items import Example, Question, Window
from orchestrator.data.prepared import PreparedTask
from orchestrator.loop.answer import run
from orchestrator.loop.learn import learn_sequence, measure_base
from orchestrator.loop.scoring import DivergedError
from orchestrator.loop.task_sequence import (
    ALL_TASKS,
    Scored,
    Start,
    TaskSequence,
    rung_steps,
)
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.spec.methods import EarlyStoppingSpec
from orchestrator.spec.task_files import parse_task


def prepared(name: str, token: int, head: str = "label_words") -> PreparedTask:
    linear = name if head == "linear" else None
    spec = parse_task(
        {
            "name": name,
            "kind": "classification",
            "data": {"files": "."},
            "prompt": "{text}",
            "labels": {"0": " a", "1": " b"},
            "head": head,
        },
        name,
    )
    train = tuple(Example((token, 2, 3), 2, linear, i % 2) for i in range(16))
    questions = tuple(Question((token,), ((10,), (11,)), (1, 1), i % 2, linear) for i in range(8))
    facts = {"validation_tokens": 8, "train_tokens": 48}
    return PreparedTask(name, spec, train, questions, (), ("0", "1"), facts)


def probe() -> PreparedTask:
    spec = parse_task({"name": "p", "kind": "language_modelling", "data": {"files": "."}}, "p")
    return PreparedTask("p", spec, (), (Window((1, 2, 3), 1, 5),), ())


def sequence(**fields) -> TaskSequence:
    return TaskSequence(
        (prepared("a", 1), prepared("b", 2)), (probe(),), batch_size=4, epochs=2, seed=0, **fields
    )


class FakeEngine:
    """Remembers what it was asked; knows a task once it has trained on it."""

    learning_rate = 0.1

    def __init__(self, losses=None):
        self.begun, self.trained, self.steps = [], [], []
        self.sequences, self.ended, self.replayed = [], [], []
        self.held_out, self.held_out_losses = [], []
        self._losses = losses or {}

    def begin_sequence(self, tasks, sources):
        self.sequences.append((tasks, sources))

    def begin_task(self, index, steps, examples=()):
        self.begun.append(steps)

    def end_task(self, index, examples):
        self.ended.append((index, len(examples)))

    def held_out_loss(self, examples):
        self.held_out.append(len(examples))
        return self.held_out_losses.pop(0)

    def train_step(self, examples, step, replayed=()):
        self.replayed.append(len(replayed))
        self.trained.append(examples[0].tokens[0])
        self.steps.append(step)
        return self._losses.get(len(self.trained), 1.0 / len(self.trained))

    def hidden_states(self, rows):
        import torch

        return torch.tensor([[float(row.tokens[0]), float(len(row.tokens))] for row in rows])

    def log_probabilities(self, rows):
        known = set(self.trained)
        values = []
        for row in rows:
            right = -0.1 if row.tokens[0] in known else -5.0
            # Knowing a task makes answer 0 likeliest: half of the questions are right either way.
            values.append([right if token == 10 else -1.0 for _, token in row.picks])
        return values


def learn(engine, seq, *, matrix=None, start=None, retention=None):
    start = start or Start()
    reports, progress = [], []
    matrix = matrix or AccuracyMatrix.empty([t.name for t in seq.tasks])
    final = run(
        learn_sequence(seq, retention or Retention(), matrix, start),
        engine,
        sequence=seq,
        matrix=matrix,
        start=start,
        on_report=lambda report, m: reports.append((report, m)),
        on_progress=progress.append,
    )
    return final, reports, progress


def test_reports_come_at_a_quarter_a_half_and_the_end_of_each_task():
    final, reports, _ = learn(FakeEngine(), sequence())
    assert [(r.task, r.fraction, r.step) for r, _ in reports] == [
        ("a", 0.25, 2), ("a", 0.5, 4), ("a", 1.0, 8), ("b", 0.25, 2), ("b", 0.5, 4), ("b", 1.0, 8),
    ]  # fmt: skip
    assert final.complete
    ends = [r for r, _ in reports if r.fraction == 1.0]
    assert [len(r.row) for r in ends] == [2, 2]
    assert all(set(r.probes) == {"p"} for r in ends)
    assert {k: len(v) for k, v in ends[0].per_example.items()} == {"a": 8}
    assert {k: len(v) for k, v in ends[1].per_example.items()} == {"a": 8, "b": 8}


def test_what_another_trial_has_learnt_is_scored_and_not_learnt_again():
    engine, begun = FakeEngine(), Start(elsewhere=1)
    engine.trained.append(1)  # what the tensors that it goes on from have learnt
    final, reports, progress = learn(engine, sequence(inherited=1), start=begun)
    assert engine.sequences == [], "its retention has seen what was before"
    assert [r.task for r, _ in reports] == ["a", "b", "b", "b"]
    first = reports[0][0]
    assert (first.step, first.fraction, first.losses) == (0, 1.0, ())
    assert {*first.per_example} == {"a", "b"}, "what all is compared with, whole"
    assert final.complete
    assert progress[-1].done == pytest.approx(1.0)


def test_a_fresh_adapter_begins_after_what_another_trial_has_learnt():
    engine = FakeEngine()
    final, reports, _ = learn(engine, sequence(inherited=1, fresh=True))
    assert engine.sequences == [(2, ())]
    assert {r.task for r, _ in reports} == {"b"}
    assert all(map(math.isnan, final.rows[1]))


def test_an_adapter_that_has_learnt_nothing_is_not_taken_for_one_that_has():
    with pytest.raises(ValueError, match="its checkpoint with what that one has learnt is missing"):
        learn(FakeEngine(), sequence(inherited=1))


def test_every_report_tells_the_strength_that_held_while_its_task_was_learnt():
    retention = RETENTIONS["ewc"].build()
    engine = FakeEngine()
    engine.begin_sequence = lambda *_: None
    found = iter([0.0, 12.5])

    def begin_task(index, steps, examples=()):
        assert len(examples) == 16  # all that will be learnt
        state = retention.state_dict() | {"strength": torch.tensor(next(found))}
        retention.load_state_dict(state)

    engine.begin_task = begin_task
    engine.end_task = lambda *_: retention.load_state_dict(
        retention.state_dict() | {"strength": torch.tensor(99.0)}
    )
    _, reports, _ = learn(engine, sequence(), retention=retention)
    assert [r.strength for r, _ in reports] == [0.0] * 3 + [12.5] * 3
    again = StageReport.from_document(json.loads(json.dumps(reports[-1][0].as_document())))
    assert again.strength == 12.5
    older = reports[-1][0].as_document()
    del older["strength"]  # as journals before had it
    assert StageReport.from_document(older).strength is None
    _, reports, _ = learn(FakeEngine(), sequence())
    assert {r.strength for r, _ in reports} == {None}


def test_tokens_and_losses_are_counted_since_the_last_report():
    _, reports, _ = learn(FakeEngine(), sequence())
    assert [r.tokens for r, _ in reports] == [24, 48, 96, 120, 144, 192]
    assert [len(r.losses) for r, _ in reports] == [2, 2, 4, 2, 2, 4]
    assert reports[0][0].losses == (1.0, 0.5)
    assert reports[0][0].learning_rates == (0.1, 0.1)
    assert reports[0][0].loss == pytest.approx((1 + 1 / 2) / 2)
    assert reports[1][0].loss == pytest.approx((1 / 3 + 1 / 4) / 2)


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4])
def test_going_on_from_any_report_asks_for_exactly_what_is_missing(stop):
    whole = FakeEngine()
    final, reports, _ = learn(whole, sequence())
    report, matrix = reports[stop]
    inside = report.fraction < 1.0
    start = Start(report.step if inside else 0, report.tokens, report.seconds)
    engine = FakeEngine()
    engine.trained = whole.trained[: report.task_index * 8 + report.step]
    again, rest, _ = learn(engine, sequence(), matrix=matrix, start=start)
    assert again == final
    assert [(r.task, r.fraction, r.tokens) for r, _ in rest] == [
        (r.task, r.fraction, r.tokens) for r, _ in reports[stop + 1 :]
    ]
    assert engine.trained == whole.trained
    assert len(engine.begun) == len({r.task for r, _ in rest}) - int(inside)


def test_the_base_is_measured_without_training():
    engine = FakeEngine()
    seq = sequence()
    reports, progress = [], []
    matrix = run(
        measure_base(seq), engine, sequence=seq, matrix=AccuracyMatrix.empty(["a", "b"]),
        start=None, on_report=lambda r, m: reports.append(r), on_progress=progress.append,
    )  # fmt: skip
    assert engine.trained == []
    assert progress[-1].done == pytest.approx(1.0)
    # These hidden states do not depend on the label, so a head on them guesses one side.
    assert reports[0].head_only["a"]["accuracy"] == 0.5
    assert len(reports[0].head_only_per_example["b"]) == 8
    assert matrix.tasks_learnt == 0
    assert reports[0].row == (0.5, 0.5)
    assert len(reports[0].per_example["a"]) == 8


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_trial(loss):
    with pytest.raises(DivergedError, match=f"became {loss} at step 3 of task 'a'"):
        learn(FakeEngine({3: loss}), sequence())


def test_a_loss_that_explodes_stops_the_trial():
    with pytest.raises(DivergedError, match=r"exploded to 31\.0 nats per token at step 3"):
        learn(FakeEngine({3: 31.0}), sequence())
    learn(FakeEngine({3: 29.0}), sequence())


def test_a_linear_head_has_no_score_before_it_is_learnt():
    tasks = (prepared("a", 1, "linear"), prepared("b", 2, "linear"))
    seq = TaskSequence(tasks, (probe(),), batch_size=4, epochs=1, seed=0)
    final, reports, _ = learn(FakeEngine(), seq)
    assert math.isnan(final.rows[1][1])
    assert not math.isnan(final.rows[1][0])
    assert not any(math.isnan(value) for value in final.rows[2])
    assert set(reports[-1][0].per_example) == {"a", "b"}
    base = run(
        measure_base(seq), FakeEngine(), sequence=seq, matrix=AccuracyMatrix.empty(["a", "b"]),
        start=None, on_report=lambda r, m: reports.append((r, m)), on_progress=lambda p: None,
    )  # fmt: skip
    assert all(math.isnan(value) for value in base.rows[0])
    assert reports[-1][0].per_example == {}
    assert set(reports[-1][0].head_only) == {"a", "b"}


def test_progress_rises_to_one():
    _, _, progress = learn(FakeEngine(), sequence())
    shares = [p.done for p in progress]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert {p.task_index for p in progress} == {0, 1}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(8, {2: 0.25, 4: 0.5}), (3, {1: 0.5}), (2, {1: 0.5}), (1, {}), (4, {1: 0.25, 2: 0.5})],
)
def test_short_tasks_have_fewer_rungs(steps, expected):
    assert rung_steps(steps) == expected


def test_reports_survive_json():
    import json

    from orchestrator.system.strict_json import without_nan

    _, reports, _ = learn(FakeEngine(), sequence())
    for report, _ in reports:
        text = json.dumps(without_nan(report.as_document()))
        assert StageReport.from_document(json.loads(text)) == report


class Memory(Retention):
    """Adds the first example of every earlier task to each batch."""

    def rows(self, current, task, step):
        return [(earlier, 0) for earlier in range(task)]


def test_the_retention_is_told_of_every_task_and_its_rows_join_the_batches():
    engine = FakeEngine()
    _, reports, _ = learn(engine, sequence(), retention=Memory())
    assert engine.sequences == [(2, ())]
    assert engine.ended == [(0, 16), (1, 16)]
    assert engine.replayed == [0] * 8 + [1] * 8
    # Sixteen examples of three tokens, twice; then as many, with one more example in each step.
    assert reports[-1][0].tokens == 96 + 96 + 8 * 3


def test_a_sequence_that_goes_on_does_not_begin_again():
    engine = FakeEngine()
    matrix = AccuracyMatrix.empty(["a", "b"]).with_row((0.5, 0.5))
    learn(engine, sequence(), matrix=matrix, start=Start(step=2))
    assert (engine.sequences, engine.begun, engine.ended) == ([], [], [(1, 16)])


def test_joint_learning_fills_the_last_row_alone():
    engine = FakeEngine()
    final, reports, _ = learn(engine, sequence(joint=True))
    assert engine.begun == [16]
    assert engine.ended == [(1, 32)]
    assert final.complete
    assert all(math.isnan(score) for score in (*final.rows[0], *final.rows[1]))
    assert not any(math.isnan(score) for score in final.rows[2])
    assert [(r.task, r.task_index, r.fraction) for r, _ in reports] == [
        (ALL_TASKS, 1, 0.25), (ALL_TASKS, 1, 0.5), (ALL_TASKS, 1, 1.0),
    ]  # fmt: skip
    assert set(reports[0][0].metrics) == {"a", "b"}


STOPPING = EarlyStoppingSpec(held_out=0.25, checks=6, patience=2)


def test_learning_stops_when_held_out_examples_stop_getting_likelier():
    """Twelve of sixteen examples are learnt in six steps, with a look after each of them."""
    engine = FakeEngine()
    engine.held_out_losses = [1.0, 0.9, 0.95, 0.91, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    _, reports, _ = learn(engine, sequence(early_stopping=STOPPING))
    ends = {r.task: r for r, _ in reports if r.fraction == 1.0}
    assert (ends["a"].step, ends["a"].steps) == (4, 4)
    assert ends["b"].step == 6
    assert engine.held_out == [4] * 10
    assert engine.ended == [(0, 12), (1, 12)]


def test_fewer_held_out_examples_are_a_part_of_more():
    rows = tuple(Example((number, 1), 1) for number in range(16))
    few, more = (
        replace(
            sequence(early_stopping=EarlyStoppingSpec(held_out=share)),
            tasks=(replace(prepared("a", 1), train=rows),),
        )
        for share in (0.125, 0.5)
    )
    for stage in few.stages:
        mine, other = few.held_out(stage), more.held_out(stage)
        assert len(mine) < len(other)
        assert mine == other[: len(mine)]
        assert not set(other) & set(more.examples(stage))


def test_waiting_goes_on_where_it_was_interrupted():
    engine = FakeEngine()
    engine.held_out_losses = [0.95, 0.96] + [0.5] * 6
    start = Start(step=3, held_out_best=0.9, held_out_waited=1)
    _, reports, _ = learn(engine, sequence(early_stopping=STOPPING), start=start)
    assert [r.step for r, _ in reports if r.task == "a"] == [4]


def test_held_out_examples_are_not_learnt():
    seq = sequence(early_stopping=STOPPING)
    stage = seq.stages[0]
    assert len(seq.examples(stage)) == 12
    assert len(seq.held_out(stage)) == 4


def test_only_the_cells_that_are_asked_for_are_scored_on_the_first_examples():
    needed = Scored(frozenset({(1, 0), (2, 0), (2, 1)}), 4)
    seq = sequence(scored=needed, rung_examples=6)
    final, reports, progress = learn(FakeEngine(), seq)
    nan = math.isnan
    assert [[nan(score) for score in row] for row in final.rows[1:]] == [
        [False, True], [False, False],
    ]  # fmt: skip
    ends = [report for report, _ in reports if report.row is not None]
    assert [report.examples for report in ends] == [{"a": 4}, {"a": 4, "b": 4}]
    assert [{k: len(v) for k, v in report.per_example.items()} for report in ends] == [
        {"a": 4}, {"a": 4, "b": 4},
    ]  # fmt: skip
    assert [list(report.probes) for report in ends] == [[], ["p"]], "probes wait for the end"
    rungs = [report for report, _ in reports if report.row is None]
    assert {tuple(report.examples.values()) for report in rungs} == {(4,)}, "a nested subset"
    assert progress[-1].done == pytest.approx(1.0), "work is what is scored"


def test_cells_that_no_adapter_is_kept_for_are_scored_on_all_examples_at_once():
    needed = Scored(frozenset({(1, 0), (2, 0), (2, 1)}), 4, probes=False, later=False)
    _, reports, _ = learn(FakeEngine(), sequence(scored=needed))
    ends = [report for report, _ in reports if report.row is not None]
    assert [report.examples for report in ends] == [{"a": 8}, {"a": 4, "b": 4}]
    assert ends[-1].probes == {}
