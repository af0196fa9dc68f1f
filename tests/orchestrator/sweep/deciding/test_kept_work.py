"""What is kept of a trial is what it made, and nothing else."""

import pytest

from orchestrator.records.events import TrialEnded, TrialProposed
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.system.seals import content_hash, file_hashes, seal


@pytest.fixture
def kept(ledgers, monkeypatch):
    """The work of two trials that differ in a setting."""
    monkeypatch.setattr("orchestrator.sweep.deciding.kept_work.SEEN_SECONDS", 0.0)
    ledger = ledgers()
    for seed, name in enumerate(("t001", "t002")):
        ledger.record(TrialProposed(name, {"training.seed": seed}, "user"))
    return ledger, KeptWork(ledger)


def saved(folder, maker, text="tensors"):
    """An adapter in a folder, sealed by somebody."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(text)
    seal(folder, maker)
    return folder


def test_an_adapter_is_kept_once_and_vouched_for(kept, tmp_path):
    ledger, work = kept
    source = saved(tmp_path / "new" / "adapter", work.maker("t001"))
    assert work.adapter_flaw("t001") == "it is missing"
    for _ in range(2):
        assert work.keep_adapter("t001", source) is None
        assert work.adapter_flaw("t001") is None
    file = ledger.folder.adapter("t001") / "adapter_model.safetensors"
    assert file.read_text() == "tensors"
    file.write_text("others!")
    assert work.adapter_flaw("t001") == "its file adapter_model.safetensors is damaged"


def test_large_states_are_kept_of_those_that_won_alone(kept, tmp_path):
    ledger, work = kept
    (tmp_path / "checkpoint").mkdir()
    for name in ("t001", "t002"):
        work.keep_carried(name, tmp_path / "checkpoint")
        assert not ledger.folder.carried(name).exists(), "there is nothing to keep"
    (tmp_path / "checkpoint" / "weights.safetensors").write_text("tensors")
    for name, size in (("t001", 7), ("t002", 2**30)):
        work.keep_carried(name, tmp_path / "checkpoint")
        ledger.record(TrialEnded(name, "COMPLETE", carried="carried", carried_bytes=size))
    work.remove_large({"t002"})
    assert ledger.folder.carried("t002").is_dir()
    work.remove_large(set())
    assert not ledger.folder.carried("t002").exists()
    assert ledger.folder.carried("t001").is_dir()


def test_an_adapter_is_on_the_disk_before_it_is_said_to_be_kept(kept, tmp_path, synced):
    """The journal's line that vouches for it comes next, and is synced as well."""
    _, work = kept
    source = saved(tmp_path / "new" / "adapter", work.maker("t001"))
    assert work.keep_adapter("t001", source) is None
    named = synced.index("name adapter")
    assert {"sync adapter_model.safetensors", "sync seal.json"} <= set(synced[:named])
    assert synced[named + 1 :] == ["sync t001"]


def test_another_trials_adapter_is_not_kept(kept, tmp_path):
    ledger, work = kept
    source = saved(tmp_path / "new" / "adapter", work.maker("t002"))
    assert "cannot be used: it belongs to trial t002" in work.keep_adapter("t001", source)
    assert "it is missing" in work.keep_adapter("t001", tmp_path / "nowhere" / "adapter")
    assert not ledger.folder.adapter("t001").exists()


def test_what_lies_in_its_place_is_set_aside_and_recorded(kept, tmp_path):
    ledger, work = kept
    saved(ledger.folder.adapter("t001"), work.maker("t002"), "of another")
    source = saved(tmp_path / "new" / "adapter", work.maker("t001"))
    assert work.keep_adapter("t001", source) is None
    assert work.adapter_flaw("t001") is None
    line = ledger.journal.lines[-1]
    assert (line["event"], line["what"]) == ("set_aside", "trials/t001/adapter")
    aside = ledger.folder.within(line["kept_as"]) / "adapter_model.safetensors"
    assert aside.read_text() == "of another"


@pytest.mark.parametrize("vouched", [True, False])
def test_nothing_is_read_from_an_adapter_that_the_journal_does_not_vouch_for(kept, vouched):
    ledger, work = kept
    adapter = saved(ledger.folder.adapter("t001"), work.maker("t001"))
    sha256 = content_hash(file_hashes(adapter)) if vouched else None
    ledger.record(TrialEnded("t001", "COMPLETE", adapter_sha256=sha256))
    work.set_other_adapter_aside("t001")
    assert adapter.is_dir()
    (adapter / "adapter_model.safetensors").write_text("others!")
    work.set_other_adapter_aside("t001")
    assert adapter.is_dir() == (not vouched), "of an earlier version nothing is known"
    if vouched:
        line = ledger.journal.lines[-1]
        assert line["because"] == "its file adapter_model.safetensors is damaged"
        assert ledger.folder.within(line["kept_as"]).is_dir()


def test_a_seal_says_of_what_settings_the_work_is(kept):
    ledger, work = kept
    assert work.maker("t001") == work.maker("t001")
    assert work.maker("t001").made_of != work.maker("t002").made_of
    assert KeptWork(ledger).maker("t001") == work.maker("t001")
