"""Ledgers of made-up sweeps."""

import pytest

from orchestrator.records.events import StageReported
from orchestrator.sweep.deciding.ledger import Ledger
from tests.made_up_sweep import answers, made_up_data, opened_journal, report


@pytest.fixture
def ledgers(tmp_path, recorder):
    """Makes a ledger of a made-up sweep; another one of the same reads the journal anew."""
    opened = []

    def make(**changes):
        if opened:
            opened.pop().close()
        loaded, data = made_up_data(**changes)
        opened.append(opened_journal(tmp_path / "sweep"))
        return Ledger(loaded, opened[-1], recorder, data)

    yield make
    for journal in opened:
        journal.close()


@pytest.fixture
def reported():
    """Lets a trial report its end, with a share of right answers."""

    def say(ledger, name, share=0.5):
        index = -1 if name == "base" else 0
        ledger.record(StageReported(name, report(index, answers(share, name))))

    return say
