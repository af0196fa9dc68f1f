"""What an executor writes of a trial in a pack, written by tests."""

from orchestrator.loop.trial_state import write_state
from orchestrator.records.stage_report import DONE


def save_snapshot(pack, name, report, folder):
    """What a trial needs to go on from the report being made; the first worker writes."""
    engine = pack.engine(name)
    engine.save(folder, with_optimizer=report.fraction < DONE)
    if folder.is_dir():
        write_state(folder, pack.state(name))


def save_adapter(pack, name, folder):
    """Its adapter; all workers call, and the first writes."""
    engine = pack.engine(name)
    with engine.gathered():
        if engine._workers.first:
            engine.save_adapter(folder)
