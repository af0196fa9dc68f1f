"""What is imported with DeepSpeed, and what is not."""

import sys
from importlib.util import find_spec

import pytest

from orchestrator.engines.deepspeed_config import lean_imports


def test_mlflow_is_left_out_and_can_be_imported_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(ModuleNotFoundError), lean_imports():
        import mlflow  # noqa: F401
    assert "mlflow" not in sys.modules
    assert find_spec("mlflow") is not None


def test_what_was_imported_before_stays(monkeypatch):
    there = object()
    monkeypatch.setitem(sys.modules, "mlflow", there)
    with lean_imports():
        assert sys.modules["mlflow"] is there
    assert sys.modules["mlflow"] is there
