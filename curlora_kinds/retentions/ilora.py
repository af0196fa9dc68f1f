"""I-LoRA: `curlora.retention.ilora`."""

from __future__ import annotations

from curlora_kinds.retentions.kind import RetentionKind, Values
from curlora_kinds.retentions.penalty_settings import SEED, SHARE, capacity
from curlora_kinds.retentions.state import Part, Setup, State, references, rows_elsewhere
from curlora_kinds.settings import Number


def _state(setup: Setup) -> State:
    slow = Part(f"{setup.trained:,} slow parameters", setup.trained)
    return State((references(setup), slow), scalars=7, remark=rows_elsewhere(setup))


def _slow_adapter(values: Values) -> Values:
    """Give what moves the slow adapter, which moves from the first step on."""
    return {"ema": values["ema"]}


KIND = RetentionKind(
    name="ilora",
    summary="I-LoRA: a slowly moving copy of the adapter guides the hidden states of replayed "
    "examples (Ren et al. 2024, arXiv 2402.18865).",
    settings={
        "share": SHARE,
        "capacity": capacity(500),
        "ema": Number(
            0.25, "Largest share of itself that the slow adapter keeps at a step.", least=0, most=1
        ),
        "strength": Number(
            1.0, "Weight of the hidden states' distance; 0 leaves replay alone.", least=0
        ),
        "seed": SEED,
    },
    made_by="curlora.retention.ilora:Ilora",
    state=_state,
    replays=True,
    needs_whole_adapter=True,
    first_task=_slow_adapter,
    follows=("shadow.", "steps"),
)
