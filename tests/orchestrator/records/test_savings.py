"""What was not trained again: steps, tokens and seconds of the tasks that were taken over."""

from orchestrator.records.savings import Savings, savings
from orchestrator.records.stage_report import StageReport
from orchestrator.records.trial_record import TrialRecord


def trial(name, *ends):
    record = TrialRecord(name)
    for index, (steps, tokens, seconds, source) in enumerate(ends):
        for share in (0.5, 1.0):
            taken = int(steps * share)
            report = StageReport(
                "task", index, taken, steps, share, 0.5, tokens=tokens, seconds=seconds,
                taken_from=source,
            )  # fmt: skip
            record.take_report(report, 0)
    return record


def test_what_was_taken_over_is_counted_once_a_task():
    first = trial("t001", (10, 100, 4.0, None), (20, 300, 9.0, None))
    second = trial("t002", (10, 100, 4.0, "t001"), (20, 300, 12.0, None))
    twin = trial("t003", (10, 100, 4.0, "t001"), (20, 300, 9.0, "t001"))
    found = savings([first, second, twin])
    assert found == Savings(steps=40, all_steps=90, tokens=400, seconds=13.0, trials=2)
    assert found.words.startswith(
        "2 trials took over what others had learnt alike: 40 of 90 training steps (44%), 13 s of "
    )
    assert savings([first]).words == ""
