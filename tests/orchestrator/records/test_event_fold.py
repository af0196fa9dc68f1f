"""What is kept of events: the same however it is read, and once for all who keep it."""

from orchestrator.records.event_fold import EventFold, read_without_series, without_series
from orchestrator.records.events import read_event
from orchestrator.records.journal_lines import read_journal
from tests.synthetic_sweeps import write_sweep


def test_what_is_left_out_need_not_be_read_first(tmp_path):
    lines = read_journal(write_sweep(tmp_path, "s", 6))
    short = [read_without_series(line) for line in lines]
    assert short == [without_series(read_event(line)) for line in lines]
    of_trials = [e for e in short if e.name == "stage_report" and e.trial != "base"]
    assert of_trials
    assert not any(event.report.losses or event.report.per_example for event in of_trials)
    assert any(e.report.per_example for e in short if getattr(e, "trial", "") == "base" and
               e.name == "stage_report"), "what trials are compared with"  # fmt: skip


def test_two_that_keep_an_event_share_what_they_keep(tmp_path):
    one, other = EventFold(whole=False), EventFold(whole=False)
    for line in read_journal(write_sweep(tmp_path, "s", 3)):
        event = read_without_series(line)
        one.take(event)
        other.take(event)
    for name, trial in one.everything.items():
        pairs = zip(trial.reports, other.everything[name].reports, strict=True)
        assert all(mine is theirs for mine, theirs in pairs)


def test_names_are_held_once_for_all_trials(tmp_path):
    fold = EventFold(whole=False)
    for line in read_journal(write_sweep(tmp_path, "s", 6)):
        fold.take(read_without_series(line))
    measured = [trial.measures for trial in fold.everything.values() if trial.measures]
    assert len(measured) > 2
    assert len({id(name) for measures in measured for name in measures}) == len(
        {name for measures in measured for name in measures}
    )
