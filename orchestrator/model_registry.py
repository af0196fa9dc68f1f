"""What MLflow loads logged models by: each names this module, so it stays at this place."""

from orchestrator.serving.pyfunc import load_pyfunc as _load_pyfunc

__all__ = ["_load_pyfunc"]
