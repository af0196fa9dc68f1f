"""O-LoRA: `curlora.retention.olora`."""

from __future__ import annotations

from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.retentions.kind import RetentionKind, Values
from curlora_kinds.retentions.pairs import only_with
from curlora_kinds.retentions.state import Setup, State, earlier_adapters
from curlora_kinds.settings import Number


def _adds_two_factors(kind: AdapterKind) -> bool:
    """Say whether an adapter adds LoRA's two factors to the weight."""
    return kind.additive and kind.linear_factors == "lora"


def _state(setup: Setup) -> State:
    return State((earlier_adapters(setup),), scalars=3)


def _norm_alone(values: Values) -> Values:
    """Give the weight of the norm: there is no earlier subspace to overlap with."""
    return {"lambda2": values["lambda2"]} if values["lambda2"] else {}


KIND = RetentionKind(
    name="olora",
    summary="O-LoRA: each task learns a LoRA of its own, orthogonal to the frozen earlier ones "
    "(Wang et al. 2023, arXiv 2310.14152).",
    settings={
        "lambda1": Number(
            0.5, "Weight of the overlap with earlier tasks' input subspaces.", least=0
        ),
        "lambda2": Number(0.0, "Weight of the norm of the current task's factors.", least=0),
    },
    made_by="curlora.retention.olora:Olora",
    why_not=only_with(_adds_two_factors, need="LoRA's factor A, the subspace of each task"),
    state=_state,
    needs_whole_adapter=True,
    first_task=_norm_alone,
)
