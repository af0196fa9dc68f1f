"""Where the storage folder lies, and whether MLflow's database is safe there."""

from pathlib import Path

import pytest

from orchestrator.planning import preflight
from orchestrator.planning.doctor import disk
from orchestrator.spec.experiment import Experiment


@pytest.fixture
def network_disk(monkeypatch: pytest.MonkeyPatch):
    """Every database of a path is on NFS."""
    for module in (disk, preflight):
        monkeypatch.setattr(
            module, "network_file_system", lambda uri: "nfs4" if uri.startswith("sqlite") else None
        )


@pytest.mark.usefixtures("network_disk")
def test_a_database_on_a_network_disk_is_warned_of(tmp_path: Path):
    check = disk.check_database(tmp_path)
    assert check.status == "WARN"
    assert "network file system (nfs4)" in check.found
    assert "tracking: {uri: sqlite:////" in check.fix


@pytest.mark.usefixtures("network_disk")
def test_a_sweep_on_a_network_disk_is_told_how_to_be_safe(tmp_path: Path):
    fields = {"name": "x", "model": {"name": "nowhere/at-all"}, "tasks": ["t"]}
    method = {"method": {"adapter": {"kind": "lora"}}}
    told = preflight.cautions(Experiment.model_validate(fields | method), tmp_path)
    assert any(
        "network file system (nfs4)" in line and "journals are safe" in line for line in told
    )
    server = {"tracking": {"uri": "http://127.0.0.1:5000"}}
    assert not preflight.cautions(Experiment.model_validate(fields | method | server), tmp_path)


def test_a_database_on_this_machine_is_fine(tmp_path: Path):
    assert disk.check_database(tmp_path).status == "PASS"
