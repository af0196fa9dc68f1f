"""LaLoRA, and Laplace online: `curlora.retention.laplace`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.table import ADAPTERS
from curlora_kinds.retentions.kind import RetentionKind
from curlora_kinds.retentions.pairs import only_with
from curlora_kinds.retentions.penalty_settings import DECAY, MAX_EXAMPLES, PULL, STRENGTH
from curlora_kinds.retentions.state import Part, Setup, State
from curlora_kinds.settings import Choice, Flag, Number

LARGEST_FULL_RANK = 32
"""Beyond it the full curvature of one `U` has over a million entries, r^4."""


def _has_matrices(kind: AdapterKind) -> bool:
    return kind.linear_factors is not None


def _has_two_factors(kind: AdapterKind) -> bool:
    return kind.linear_factors == "lora"


_NEEDED = {
    "kfac": only_with(_has_matrices, need="trained matrices that act on what they are given"),
    "tri_kfac": only_with(_has_two_factors, need="LoRA's two factors, which it couples"),
}


def _why_not(adapter_kind: str, settings: Mapping[str, Any]) -> str | None:
    """Give the reason why a curvature does not go with an adapter, if there is one."""
    curvature, rank = settings["curvature"], settings["r"]
    if curvature == "diag":
        return None
    if curvature == "full":
        if ADAPTERS[adapter_kind].linear_factors != "core":
            return (
                "Curvature `full` is kept for CURLoRA's small `U` only. Use `curlora`, or "
                "curvature `diag`."
            )
        if rank is not None and rank > LARGEST_FULL_RANK:
            return (
                f"Curvature `full` has r^4 entries a layer, and `r` is {rank}. Set `r` to at most "
                f"{LARGEST_FULL_RANK}, or use curvature `kfac`."
            )
        return None
    reason = _NEEDED[curvature](adapter_kind, settings)
    return reason and f"Curvature `{curvature}`: {reason} Or use curvature `diag`."


def _measured(values: dict[str, Any]) -> None:
    if values["source"] == "tasks" and values["online"] is False:
        raise ValueError(
            "With `source: tasks` and `online: false` no curvature is ever measured. Leave "
            "`online` out, or set `source: texts`."
        )


def _held_at_once(values: dict[str, Any]) -> dict[str, Any]:
    """Give everything where something is held already: by source texts, or by a prior alone."""
    return values if values["source"] == "texts" or values["prior_precision"] else {}


def _sides(curvature: str, setup: Setup, d_out: int, d_in: int) -> dict[str, int]:
    """Give the entries of one layer's curvature, by how they are written."""
    r = setup.r
    if curvature == "full":
        return {f"({r}^2)^2": r**4}
    if not _has_two_factors(setup.adapter):
        return {f"2 x {r}^2": 2 * r**2}
    sides = {f"{d_in}^2": d_in**2, f"2 x {r}^2": 2 * r**2, f"{d_out}^2": d_out**2}
    if d_in == d_out:
        sides = {f"2 x {d_in}^2": 2 * d_in**2, f"2 x {r}^2": 2 * r**2}
    if curvature == "tri_kfac":
        sides[f"{r} x {d_in + d_out}"] = r * (d_in + d_out)
    return sides


def _state(setup: Setup) -> State:
    curvature = str(setup.values["curvature"])
    parts = [Part(f"{setup.trained:,} anchors", setup.trained)]
    if curvature == "diag":
        parts.append(Part(f"{setup.trained:,} parameters", setup.trained))
    else:
        for (d_out, d_in), count in Counter(setup.layers.values()).items():
            sides = _sides(curvature, setup, d_out, d_in)
            text = f"{count} layers x ({' + '.join(sides)})"
            parts.append(Part(text, count * sum(sides.values())))
    # How many curvatures were taken in is counted where their products do not add up.
    scalars = 4 if curvature in {"kfac", "tri_kfac"} else 3
    return State(tuple(parts), scalars=scalars, form=curvature)


KIND = RetentionKind(
    name="laplace",
    summary="A quadratic pull weighted by a Laplace approximation: LaLoRA from source texts "
    "(Sliwa et al. 2025, arXiv 2512.17720), or online over tasks (Ritter et al. 2018).",
    settings={
        "decay": DECAY,
        "max_examples": MAX_EXAMPLES,
        "strength": STRENGTH,
        "pull": PULL,
        "curvature": Choice(
            "diag",
            "The approximation of the Fisher.",
            choices=("diag", "kfac", "tri_kfac", "full"),
        ),
        "prior_precision": Number(0.0, "Added to the curvature of every parameter.", least=0),
        "source": Choice(
            "tasks",
            "`tasks`: curvature of each finished task; `texts`: of source sets, before the first "
            "task, as LaLoRA does. A file names the sets.",
            choices=("tasks", "texts"),
            in_file=False,
        ),
        "online": Flag(
            None, "Whether tasks add their curvature as they end; None: with `tasks` only."
        ),
    },
    check=_measured,
    made_by="curlora.retention.laplace:Laplace",
    why_not=_why_not,
    state=_state,
    packable=True,
    reads_texts=True,
    first_task=_held_at_once,
)
