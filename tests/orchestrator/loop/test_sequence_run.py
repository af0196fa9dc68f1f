"""A generator under way: what it asks, what is noted, and what its reports are completed with."""

from dataclasses import dataclass, field

import pytest

from orchestrator.data.items import Example, Question
from orchestrator.data.prepared import PreparedTask
from orchestrator.loop.requests import (
    BeginSequence,
    BeginTask,
    EndTask,
    Evaluate,
    HeldOutLoss,
    Report,
    TrainStep,
)
from orchestrator.loop.scoring import DivergedError
from orchestrator.loop.sequence_run import EXPLODED, SequenceRun
from orchestrator.loop.task_sequence import Start, TaskSequence
from orchestrator.loop.work_meter import WorkMeter
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.spec.task_files import parse_task

EXAMPLES = (Example((1, 2, 3), 1), Example((4, 5), 1))
MATRIX = AccuracyMatrix.empty(["a"])
STAGE = StageReport(
    task="a", task_index=0, step=2, steps=2, fraction=1.0, score=0.5, seconds=7.25
)  # fmt: skip


def prepared():
    spec = parse_task(
        {"name": "a", "kind": "multiple_choice", "data": {"files": "."}, "prompt": "{text}"}, "a"
    )
    questions = tuple(Question((1,), ((2,), (3,)), (1, 1), 0) for _ in range(5))
    return PreparedTask("a", spec, EXAMPLES, questions, (), (), {"validation_tokens": 10})


def run_of(learning):
    sequence = TaskSequence((prepared(),), (), batch_size=2, epochs=1, seed=0)
    return SequenceRun(learning, WorkMeter(sequence, MATRIX, Start()))


def asking(*requests):
    """A generator of these requests, which returns the matrix."""
    yield from requests
    return MATRIX


@dataclass
class Noted:
    """Phases that remember what they were asked."""

    calls: list = field(default_factory=list)

    def begin_sequence(self, tasks, sources):
        self.calls.append(("sequence", tasks, sources))

    def begin_task(self, index, steps, examples=()):
        self.calls.append(("task", index, steps, examples))

    def end_task(self, index, examples):
        self.calls.append(("end", index, examples))


def test_phases_are_answered_and_everything_else_is_left():
    phases = Noted()
    others = (TrainStep(EXAMPLES, 0), HeldOutLoss(EXAMPLES), Evaluate(prepared()),
              Report(STAGE, MATRIX))  # fmt: skip
    run = run_of(asking(BeginSequence(2, ()), BeginTask("a", 0, 3, EXAMPLES),
                        EndTask(0, EXAMPLES), *others))  # fmt: skip
    assert run.request is None
    answered = []
    while run.advance() is None:
        answered.append(run.answered_by(phases))
    assert answered == [True, True, True, False, False, False, False]
    assert phases.calls == [("sequence", 2, ()), ("task", 0, 3, EXAMPLES), ("end", 0, EXAMPLES)]
    assert (run.meter.task, run.meter.reading("training").steps) == ("a", 3)


def test_the_answer_reaches_the_generator_and_its_matrix_ends_the_run():
    heard = []

    def learning():
        heard.append((yield HeldOutLoss(EXAMPLES)))
        heard.append((yield Evaluate(prepared(), 3)))
        return MATRIX

    run = run_of(learning())
    assert run.advance() is None
    assert run.advance(0.5) is None
    assert isinstance(run.request, Evaluate)
    assert len(run.request.items) == 3
    assert run.advance("a score") is MATRIX
    assert heard == [0.5, "a score"]


def test_a_report_holds_the_steps_since_the_last_one_in_six_digits():
    step, asked = TrainStep(EXAMPLES, 0), Report(STAGE, MATRIX)
    run = run_of(asking(asked))
    run.trained(step, 1 / 3, 2 / 3)
    run.trained(step, 0.25, 0.125)
    report, matrix = run.report(asked)
    assert matrix is MATRIX
    assert report.losses == (0.333333, 0.25)
    assert (report.learning_rates, report.learning_rate) == ((0.666667, 0.125), 0.125)
    assert report.seconds == STAGE.seconds
    report, _ = run.report(asked, seconds=1.5)
    assert (report.losses, report.learning_rates, report.learning_rate) == ((), (), None)
    assert report.seconds == 1.5


def test_work_is_counted_by_what_was_learnt_and_scored():
    run = run_of(asking())
    before = run.meter.reading("training").done
    run.trained(TrainStep(EXAMPLES[:1], 0, EXAMPLES[1:]), 1.0, 0.1)
    learnt = run.meter.reading("training")
    run.scored(Evaluate(prepared(), 2))
    scored = run.meter.reading("evaluating")
    assert before == 0.0 < learnt.done < scored.done <= 1.0
    assert (learnt.step, learnt.loss) == (1, 1.0)
    # A token that is learnt costs three times one that is scored: 5 tokens of 5, 4 tokens of 10.
    assert learnt.done / scored.done == pytest.approx(15 / 19)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), EXPLODED + 1])
def test_a_loss_that_no_learning_explains_is_refused_with_its_step(loss):
    run = run_of(asking())
    run.answered_by(Noted())
    with pytest.raises(DivergedError, match=r"at step 5 of task .*lower the learning rate"):
        run.trained(TrainStep(EXAMPLES, 4), loss, 0.1)


def test_a_generator_that_is_closed_ends():
    closed = []

    def learning():
        try:
            yield HeldOutLoss(EXAMPLES)
        finally:
            closed.append(True)

    run = run_of(learning())
    run.advance()
    run.close()
    assert closed == [True]
