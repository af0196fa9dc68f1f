"""A sweep concludes once."""

from orchestrator.records.events import TrialEnded
from orchestrator.sweep.deciding.budget import Budget
from orchestrator.sweep.deciding.judgement import Judgement
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.sweep.deciding.proposals import Proposals


def judgement_of(ledger):
    return Judgement(ledger, Proposals(ledger, Budget(ledger)), KeptWork(ledger), Budget(ledger))


def test_a_verdict_is_made_once_and_asks_for_the_test_scores_of_its_champion(ledgers, reported):
    ledger = ledgers()
    proposals = Proposals(ledger, Budget(ledger))
    for share in (0.3, 0.95):
        name = proposals.next()
        reported(ledger, name, share)
        ledger.record(TrialEnded(name, "COMPLETE", measures={"gain": share - 0.3}))
    made = judgement_of(ledger)
    assert made.to_be_read() == {}
    made.conclude()
    before = len(ledger.journal.lines)
    made.conclude()
    assert len(ledger.journal.lines) == before
    assert ledger.state.champion == "t001"
    sides = made.to_be_read()
    assert {name: side.adapter for name, side in sides.items()} == {
        "base": None, "t001": ledger.folder.adapter("t001"),
    }  # fmt: skip


def test_the_champion_is_not_read_from_an_adapter_of_another(ledgers, reported):
    ledger = ledgers()
    proposals = Proposals(ledger, Budget(ledger))
    for share in (0.3, 0.95):
        name = proposals.next()
        reported(ledger, name, share)
        sha256 = None if name == "base" else "that of what it made"
        ledger.record(
            TrialEnded(name, "COMPLETE", measures={"gain": share - 0.3}, adapter_sha256=sha256)
        )
    ledger.folder.adapter("t001").mkdir(parents=True)
    made = judgement_of(ledger)
    made.conclude()
    assert not made.to_be_read()["t001"].adapter.exists(), "whoever reads finds nothing"
    assert ledger.journal.lines[-1]["event"] == "set_aside"


def test_what_could_not_be_read_is_journalled_and_not_asked_for_again(ledgers, reported):
    ledger = ledgers()
    proposals = Proposals(ledger, Budget(ledger))
    for share in (0.3, 0.95):
        name = proposals.next()
        reported(ledger, name, share)
        ledger.record(TrialEnded(name, "COMPLETE", measures={"gain": share - 0.3}))
    made = judgement_of(ledger)
    made.conclude()
    made.test_read({"t001": {"unread": "its adapter is gone"}})
    [read] = ledger.state.readings
    assert (read.reading, read.unread) == (None, {"t001": "its adapter is gone"})
    assert judgement_of(ledgers()).to_be_read() == {}
