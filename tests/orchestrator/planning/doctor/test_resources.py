"""What doctor says of settings of other programs."""

import pytest

from orchestrator.planning.doctor.resources import check_environment


def test_settings_that_name_another_ray_are_told_and_do_no_harm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    check = check_environment()
    assert check.status == "PASS"
    assert "RAY_ADDRESS=10.0.0.7:6379: not followed" in check.found
    assert "`--address` joins a cluster" in check.found
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.delenv("RAY_RUNTIME_ENV_HOOK", raising=False)
    assert check_environment().found == "no variable names another Ray"
