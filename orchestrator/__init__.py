"""Search, training and records around continual learning: from one YAML file to a champion.

`orchestrator.load("NAME@champion")` gives a trained model to be asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.inference import Predictor


def load(
    reference: str, storage: Path | str = "runs", *, tracking_uri: str | None = None
) -> Predictor:
    """Load a trained model by name.

    Args:
        reference: `NAME@champion`, `NAME/VERSION`, `SWEEP/TRIAL`, or the path of a model folder.
        storage: The folder that sweeps are kept in.
        tracking_uri: Where MLflow records; null: as the sweep says, else SQLite in `storage`.

    Returns:
        A predictor: `tasks` names what can be asked, `predict(task, rows)` answers.
    """
    # Imported here: the command line answers a mistake before anything heavy is loaded.
    from orchestrator import model_use

    return model_use.load(reference, storage, tracking_uri=tracking_uri)
