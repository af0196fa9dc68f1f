"""EWC: `curlora.retention.ewc`."""

from __future__ import annotations

from curlora_kinds.retentions.kind import RetentionKind, waits_for_a_second_task
from curlora_kinds.retentions.penalty_settings import DECAY, MAX_EXAMPLES, PULL, STRENGTH
from curlora_kinds.retentions.state import Part, Setup, State


def _state(setup: Setup) -> State:
    return State((Part(f"2 x {setup.trained:,} parameters", 2 * setup.trained),), scalars=2)


KIND = RetentionKind(
    name="ewc",
    summary="Online EWC over the adapter's parameters: a quadratic pull to the last task's end, "
    "weighted by the diagonal Fisher (Kirkpatrick et al. 2017; Schwarz et al. 2018).",
    settings={
        "decay": DECAY,
        "max_examples": MAX_EXAMPLES,
        "strength": STRENGTH,
        "pull": PULL,
    },
    made_by="curlora.retention.ewc:Ewc",
    state=_state,
    packable=True,
    first_task=waits_for_a_second_task,
)
