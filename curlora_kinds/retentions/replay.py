"""Experience replay: `curlora.retention.replay`."""

from __future__ import annotations

from curlora_kinds.retentions.kind import RetentionKind, waits_for_a_second_task
from curlora_kinds.retentions.penalty_settings import SEED, SHARE, capacity
from curlora_kinds.retentions.state import Setup, State, references, rows_elsewhere


def _state(setup: Setup) -> State:
    return State((references(setup),), scalars=4, remark=rows_elsewhere(setup))


KIND = RetentionKind(
    name="replay",
    summary="Experience replay: examples of finished tasks, a uniform sample kept by reservoir "
    "(Vitter 1985), join every batch (Chaudhry et al. 2019).",
    settings={"share": SHARE, "capacity": capacity(1000), "seed": SEED},
    made_by="curlora.retention.replay:Replay",
    state=_state,
    replays=True,
    guards_adapter=False,
    packable=True,
    first_task=waits_for_a_second_task,
)
