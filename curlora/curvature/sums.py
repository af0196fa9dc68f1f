"""Sums over examples that a curvature is made of; they add up over workers."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from curlora.curvature.layers import lora_pairs
from curlora.curvature.observation import Observation, Params, statistic

EXAMPLES = "examples"
"""The name under which sums carry how many examples they are over."""
SCORED = "scored"
"""The name under which a sum of gradients carries how many scored tokens it is over."""

Sums = dict[str, Tensor]


def sum_squares(params: Params, observed: Iterable[Observation]) -> Sums:
    """Sum the squared gradients of single examples.

    Args:
        params: The parameters; they give the shapes, also where there is no example.
        observed: Observations with `gradients`.

    Returns:
        `diagonal.<parameter>` in its shape, and `EXAMPLES`.
    """
    sums = {f"diagonal.{name}": torch.zeros_like(statistic(p)) for name, p in params.items()}
    count = 0
    for observation in observed:
        count += 1
        for name in params:
            sums[f"diagonal.{name}"] += _seen(observation.gradients, name).square()
    return _with_count(sums, count)


def sum_gradients(params: Params, observed: Iterable[Observation]) -> Sums:
    """Sum the gradients of single examples' log-probabilities.

    Args:
        params: The parameters; they give the shapes, also where there is no example.
        observed: Observations with `gradients`, or with `linear`.

    Returns:
        `gradient.<parameter>` in its shape, and under `SCORED` how many tokens were scored.
    """
    sums = {f"gradient.{name}": torch.zeros_like(statistic(p)) for name, p in params.items()}
    scored = 0
    for observation in observed:
        scored += observation.scored
        for name in params:
            if observation.linear:
                h, g = _seen(observation.linear, name)
                sums[f"gradient.{name}"] += g.t() @ h
            else:
                sums[f"gradient.{name}"] += _seen(observation.gradients, name)
    return sums | {SCORED: torch.tensor(float(scored))}


def sum_outer_products(params: Params, observed: Iterable[Observation]) -> Sums:
    """Sum the outer products of each parameter's gradient with itself.

    Args:
        params: Small parameters, of n entries each.
        observed: Observations with `gradients`.

    Returns:
        `full.<parameter>` (n, n), entries in row-major order, and `EXAMPLES`.
    """
    sums = {f"full.{name}": _square(p, p.numel()) for name, p in params.items()}
    count = 0
    for observation in observed:
        count += 1
        for name in params:
            gradient = _seen(observation.gradients, name).reshape(-1)
            sums[f"full.{name}"] += torch.outer(gradient, gradient)
    return _with_count(sums, count)


def sum_factors(params: Params, observed: Iterable[Observation], *, coupled: bool = False) -> Sums:
    """Sum what the Kronecker factors of each matrix are made of.

    Args:
        params: Matrices P (m, n) that act as z = P h.
        observed: Observations with `linear`.
        coupled: Also between the A and B of each LoRA layer.

    Returns:
        For each P `inputs.P` (n, n), `outputs.P` (m, m) and its number of tokens `tokens.P`; if
        coupled for each LoRA A (r, d_in) with its B (d_out, r) `inputs_between.A` (d_in, r) and
        `outputs_between.A` (r, d_out); and `EXAMPLES`.

    Raises:
        ValueError: A parameter is not a matrix.
    """
    sums: Sums = {}
    for name, parameter in params.items():
        if parameter.dim() != 2:
            raise ValueError(
                f"Kronecker factors are those of a matrix, but `{name}` has shape "
                f"{tuple(parameter.shape)}. Use curvature `diag` with this adapter."
            )
        m, n = parameter.shape
        sums[f"inputs.{name}"] = _square(parameter, n)
        sums[f"outputs.{name}"] = _square(parameter, m)
        sums[f"tokens.{name}"] = statistic(parameter.new_zeros(()))
    pairs = lora_pairs(params) if coupled else []
    for first, second in pairs:
        A, B = statistic(params[first]), params[second]
        sums[f"inputs_between.{first}"] = A.new_zeros(A.shape[1], B.shape[1])
        sums[f"outputs_between.{first}"] = A.new_zeros(A.shape[0], B.shape[0])
    count = 0
    for observation in observed:
        count += 1
        for name in params:
            h, g = _seen(observation.linear, name)
            sums[f"inputs.{name}"] += h.t() @ h
            sums[f"outputs.{name}"] += g.t() @ g
            sums[f"tokens.{name}"] += h.shape[0]
        for first, second in pairs:
            (h_A, g_A), (h_B, g_B) = observation.linear[first], observation.linear[second]
            sums[f"inputs_between.{first}"] += h_A.t() @ h_B
            sums[f"outputs_between.{first}"] += g_A.t() @ g_B
    return _with_count(sums, count)


def sum_weight_squares(
    shapes: Mapping[str, tuple[int, int]], observed: Iterable[Observation], *, like: Tensor
) -> Sums:
    """Sum the squared gradients with respect to the weights of adapted layers.

    Args:
        shapes: (d_out, d_in) by layer.
        observed: Observations with `weights`.
        like: A parameter: its device and precision are used.

    Returns:
        `weights.<layer>` (d_out, d_in), and `EXAMPLES`.
    """
    zero = statistic(like)
    sums = {f"weights.{name}": zero.new_zeros(shape) for name, shape in shapes.items()}
    count = 0
    for observation in observed:
        count += 1
        for name in shapes:
            x, dy = _seen(observation.weights, name)
            sums[f"weights.{name}"] += (dy.t() @ x).square()
    return _with_count(sums, count, like)


def averaged(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide sums over all workers by what they are over.

    Args:
        sums: As the functions above give them, summed over workers.

    Returns:
        The curvature: `inputs` and `inputs_between` are means over tokens, all else means over
        examples. The counts are left out.

    Raises:
        ValueError: No worker saw an example, or a derivative was not finite.
    """
    examples = sums[EXAMPLES]
    if float(examples) < 1:
        raise ValueError(
            "Curvature was asked for, but no example was observed on any worker. Give the task at "
            "least one training example and set `max_examples` to at least 1."
        )
    curvature: dict[str, Tensor] = {}
    for key, value in sums.items():
        part, _, name = key.partition(".")
        if part in {EXAMPLES, "tokens"}:
            continue
        over = examples if not part.startswith("inputs") else sums[f"tokens.{name}"].clamp_min(1)
        curvature[key] = value / over.to(value.dtype)
        if not bool(torch.isfinite(curvature[key]).all()):
            raise ValueError(
                f"The curvature `{key}` is not finite: an example's log-probability or its "
                "gradient is not. Lower the learning rate, or check the task's examples."
            )
    return curvature


def _with_count(sums: Sums, count: int, like: Tensor | None = None) -> Sums:
    device = next((t.device for t in sums.values()), like.device if like is not None else None)
    return sums | {EXAMPLES: torch.tensor(float(count), dtype=torch.float32, device=device)}


def _square(parameter: Tensor, n: int) -> Tensor:
    return statistic(parameter.new_zeros(())).new_zeros(n, n)


def _seen(derivatives: Mapping[str, Any], name: str) -> Any:
    if name not in derivatives:
        raise ValueError(
            f"An observation has no derivative for `{name}`; it has {sorted(derivatives)[:3]}. "
            "Observe the parameters that are learnt, and what the retention asks for in `observes`."
        )
    return derivatives[name]
