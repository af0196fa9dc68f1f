"""The methods that are tried where a user names none, each with a space of its own.

A method is tried with its learning rate and its central knob, over ranges that hold what its paper
or its authors' code has, as far as that is known, and the values beside it. A range says where to
look, not where the optimum is: `orchestrate select` narrows the learning rates to what the base
bears.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.spec.presets import PRESETS
from orchestrator.system.wording import suggestion

PRESET = "method.preset"
RATE = "training.learning_rate"
RANK = "method.adapter.r"

_RANKS = {"choice": [4, 8, 16, 32]}


@dataclass(frozen=True)
class Explored:
    """How a preset is searched."""

    rates: tuple[float, float]
    """Learning rates, lowest and highest."""
    knobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """Its central settings: dotted path to a domain."""
    start: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """A point that is known to be sensible; what it leaves open is proposed."""


_LORA = (1e-4, 1e-2)
_CURLORA = (2.5e-4, 2.5e-2)

PORTFOLIO: dict[str, Explored] = {
    "seq": Explored(_LORA, {RANK: _RANKS}, {RATE: 1e-3, RANK: 16}),
    "early-stopped-lora": Explored(
        _LORA, {"method.early_stopping.patience": {"choice": [1, 2, 4]}}, {RATE: 1e-3}
    ),
    "joint": Explored(_LORA, {}, {RATE: 1e-3}),
    "curlora": Explored(
        _CURLORA,
        # No alpha: AdamW moves U by about the rate whatever the gradient's size, so alpha times
        # the rate is one setting, and the preset's alpha is 1.
        {
            "method.adapter.temperature": {"log_uniform": [0.05, 4.0]},
            RANK: {"choice": [8, 16, 32]},
        },
        {RATE: 3e-3, "method.adapter.temperature": 1.0},
    ),
    "laplace-curlora": Explored(
        _CURLORA, {"method.retention.pull": {"log_uniform": [0.01, 100.0]}}, {RATE: 3e-3}
    ),
    "secura": Explored(
        # Its step grows with the square of the weights: at the published 1e-3 one step moves a
        # small base's projections by half their norm.
        (1e-6, 1e-3),
        {"method.adapter.norm": {"choice": ["released", "bounded"]}},
        {RATE: 1e-5, "method.adapter.norm": "released"},
    ),
    "lalora": Explored(
        _LORA,
        {"method.retention.pull": {"log_uniform": [1e-3, 1e3]}},
        {RATE: 1e-3, "method.retention.pull": 1.0},
    ),
    "ewc-lora": Explored(
        _LORA,
        {"method.retention.strength": {"log_uniform": [1e2, 1e8]}},
        {RATE: 1e-3, "method.retention.strength": 1e7 / 128},
    ),
    "er": Explored(
        _LORA,
        {"method.retention.capacity": {"choice": [50, 200, 1000]}},
        {RATE: 1e-3, "method.retention.capacity": 1000},
    ),
    "i-lora": Explored(
        (1e-5, 3e-3),
        {"method.retention.strength": {"choice": [0.0, 0.1, 1.0, 10.0]}},
        {RATE: 2.5e-4, "method.retention.strength": 1.0},
    ),
    "o-lora": Explored(
        _LORA,
        {"method.retention.lambda1": {"log_uniform": [0.01, 10.0]}},
        {RATE: 1e-3, "method.retention.lambda1": 0.5},
    ),
}
"""By preset. `curlora-author` draws its columns otherwise and has no knob that `curlora` lacks;
`head-only`, zero-shot and majority are controls that every sweep measures."""


def portfolio_search(
    presets: Iterable[str] | None = None,
    *,
    rates: Mapping[str, tuple[float, float]] | None = None,
    ranks: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """The `search` section that gives each of some methods the same compute.

    Args:
        presets: Names of `PORTFOLIO`; None: all.
        rates: Learning rates to look between in the place of the stated ones, by preset.
        ranks: Ranks to choose from in the place of the stated ones, by preset.

    Returns:
        `space`, `per` and `first`, as an experiment file has them.

    Raises:
        ValueError: If a name is unknown or comes twice, or there is none.
    """
    names = list(PORTFOLIO if presets is None else presets)
    for name in names:
        if name not in PORTFOLIO:
            known = "a preset, but a control that every sweep measures, or a variant; " * (
                name in PRESETS
            )
            raise ValueError(
                f"{name!r} is {known or 'no method of the portfolio.'}"
                f"{suggestion(name, list(PORTFOLIO))} Methods: {', '.join(PORTFOLIO)}"
            )
    if not names or len(set(names)) < len(names):
        raise ValueError(f"name each method once, and at least one; got {names}")
    explored = {name: _with_ranks(PORTFOLIO[name], (ranks or {}).get(name)) for name in names}
    ranges = {name: (rates or {}).get(name, its.rates) for name, its in explored.items()}
    space: dict[str, Any] = {PRESET: {"choice": names}}
    alike: dict[tuple[float, float], list[str]] = {}
    for name in names:
        alike.setdefault(ranges[name], []).append(name)
    space[RATE] = [
        {"log_uniform": list(bounds), "when": {PRESET: own[0] if len(own) == 1 else own}}
        for bounds, own in alike.items()
    ]
    for path in dict.fromkeys(path for its in explored.values() for path in its.knobs):
        space[path] = [
            {**its.knobs[path], "when": {PRESET: name}}
            for name, its in explored.items()
            if path in its.knobs
        ]
    first = [
        {PRESET: name, **its.start, RATE: _within(its.start[RATE], ranges[name])}
        for name, its in explored.items()
        if RATE in its.start
    ]
    return {"space": space, "per": PRESET, "first": first}


def _with_ranks(explored: Explored, ranks: Sequence[int] | None) -> Explored:
    if ranks is None or RANK not in explored.knobs:
        return explored
    knobs = {**explored.knobs, RANK: {"choice": list(ranks)}}
    start = {k: v for k, v in explored.start.items() if k != RANK or v in ranks}
    return Explored(explored.rates, knobs, start)


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
