"""How sharply the log-probability of what was learnt bends in the adapter's parameters.

Four approximations of the empirical Fisher F = E[g g'], g the gradient of one example's
log-probability (the sum over its scored tokens):

    diagonal     E[g^2] parameter by parameter, from the gradients of single examples. The square
                 of a batch's mean gradient would be too small by about the size of the batch.
    Kronecker    for a matrix P (m, n) that acts as z = P h: F ~ A x G, A = mean of h h' over all
                 tokens (n, n), G = sum of (d log p / d z)(d log p / d z)' over an example's tokens,
                 averaged over examples (m, m). Exact for examples of one token if h and the
                 gradient are independent.
    coupled      the same for the two matrices of one LoRA layer and what lies between them: blocks
                 A_ij x G_ij with A_AB = mean of h_A h_B' and G_AB in the same way. The block
                 matrices (A_ij) and (G_ij) are positive semi-definite, being mean outer products of
                 stacked vectors, and the block-wise Kronecker (Khatri-Rao) product of two such
                 matrices is a principal submatrix of their Kronecker product. So the quadratic form
                 is never negative, which dropping or mixing blocks of different origin would break.
    full         E[g g'] of all entries of one small matrix, CURLoRA's U: (r^2, r^2).

A curvature is made of sums over examples, which add up over workers, and is divided by their
number at the end. `observe` computes what is summed, from a model.

References:
    Martens and Grosse (2015), "Optimizing Neural Networks with Kronecker-factored Approximate
    Curvature". https://arxiv.org/abs/1503.05671
    Eschenhagen et al. (2023), "Kronecker-Factored Approximate Curvature for Modern Neural Network
    Architectures" (K-FAC-expand). https://arxiv.org/abs/2311.00636
    Sliwa et al. (2025), "Mitigating Forgetting in Low Rank Adaptation" (the same three structures
    over LoRA's parameters). https://arxiv.org/abs/2512.17720
    Liu (1999), "Matrix results on the Khatri-Rao and Tracy-Singh products".
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from curlora.curlora import CurloraLayer
from curlora.retention.protocol import AdaptedLayer, Derivative, Observation, Params, statistic

_PARAMETER = re.compile(
    r"^(?P<layer>.+)\.(?P<part>lora_A|lora_B|cur_U)\.(?P<adapter>[^.]+)(?:\.weight)?$"
)
EXAMPLES = "examples"
"""The name under which sums carry how many examples they are over."""
SCORED = "scored"
"""The name under which a sum of gradients carries how many scored tokens it is over."""

Sums = dict[str, Tensor]


# ---------------------------------------------------------------------- sums over examples


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


# ---------------------------------------------------------------------- quadratic forms


def diagonal_form(diagonal: Tensor, step: Tensor) -> Tensor:
    """Give d' diag(F) d.

    Args:
        diagonal: Entries of F, in any shape.
        step: d, in the same shape.

    Returns:
        0-dim, at least 0.
    """
    return (diagonal * step.square()).sum()


def kronecker_form(inputs: Tensor, outputs: Tensor, step: Tensor) -> Tensor:
    """Give vec(D)' (A x G) vec(D), vec stacking columns: the trace of D' G D A.

    Args:
        inputs: A (n, n), positive semi-definite.
        outputs: G (m, m), positive semi-definite.
        step: D (m, n).

    Returns:
        0-dim, at least 0: what rounding leaves below zero is cut off.
    """
    return _kronecker(inputs, outputs, step).clamp_min(0)


def coupled_form(
    inputs: tuple[Tensor, Tensor, Tensor], outputs: tuple[Tensor, Tensor, Tensor], A: Tensor,
    B: Tensor,
) -> Tensor:  # fmt: skip
    """Give the form of one LoRA layer with both diagonal blocks and what couples them.

    Args:
        inputs: A_AA (d_in, d_in), A_BB (r, r) and A_AB (d_in, r).
        outputs: G_AA (r, r), G_BB (d_out, d_out) and G_AB (r, d_out).
        A: Step of LoRA's A (r, d_in).
        B: Step of LoRA's B (d_out, r).

    Returns:
        0-dim, at least 0 (see the module's docstring); rounding is cut off.
    """
    between = (A * (outputs[2] @ B @ inputs[2].t())).sum()
    own = _kronecker(inputs[0], outputs[0], A) + _kronecker(inputs[1], outputs[1], B)
    return (own + 2 * between).clamp_min(0)


def full_form(full: Tensor, step: Tensor) -> Tensor:
    """Give d' F d.

    Args:
        full: F (n, n), positive semi-definite.
        step: d with n entries, read in row-major order.

    Returns:
        0-dim, at least 0: what rounding leaves below zero is cut off.
    """
    flat = step.reshape(-1)
    return (flat * (full @ flat)).sum().clamp_min(0)


def _kronecker(inputs: Tensor, outputs: Tensor, step: Tensor) -> Tensor:
    return ((outputs @ step) * (step @ inputs)).sum()


# ---------------------------------------------------------------------- what a model tells


def lora_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Give the two parameters of each LoRA layer.

    Args:
        names: Names of parameters.

    Returns:
        (A, B) of each, in order.
    """
    known = set(names)
    pairs = [(name, name.replace(".lora_A.", ".lora_B.")) for name in names if ".lora_A." in name]
    return [(A, B) for A, B in pairs if B in known]


def adapted_layers(model: nn.Module, params: Params) -> dict[str, AdaptedLayer]:
    """Describe the layers whose update is a product: those with LoRA's factors or CURLoRA's U.

    Args:
        model: A PEFT model.
        params: Its trainable parameters by name.

    Returns:
        By the layer's name in `model`. Layers adapted in another way are left out.
    """
    layers: dict[str, AdaptedLayer] = {}
    for name, parameter in params.items():
        found = _PARAMETER.match(name)
        if found is None or found["part"] == "lora_B":
            continue
        layer = model.get_submodule(found["layer"])
        if isinstance(layer, CurloraLayer):
            factors = layer.factors(found["adapter"])
            C, R = statistic(factors.C), statistic(factors.R)
            layers[found["layer"]] = AdaptedLayer(
                (C.shape[0], R.shape[1]), layer.cur_settings[found["adapter"]].alpha, (C, name, R)
            )
        elif (second := name.replace(".lora_A.", ".lora_B.")) in params:
            layers[found["layer"]] = AdaptedLayer(
                (params[second].shape[0], parameter.shape[1]),
                float(cast(Any, layer).scaling[found["adapter"]]),
                (second, name),
            )
    return layers


def observe(
    model: nn.Module,
    forward: Callable[[Any], Tensor],
    params: Params,
    examples: Iterable[Any],
    what: Iterable[Derivative],
) -> Iterator[Observation]:
    """Compute the derivatives of single examples' log-probabilities, one example at a time.

    The model is in evaluation mode while it computes, and gets its modes back after each example.
    No `.grad` is read or written.

    Args:
        model: A PEFT model whose `params` require gradients.
        forward: Gives the log-probability of one example as a 0-dim tensor, by calling the model.
        params: Trainable parameters by their names in `model.named_parameters()`.
        examples: What `forward` takes, one at a time. Examples must not be padded: the tokens of
            padding would count.
        what: Which derivatives.

    Yields:
        One observation for each example, on the model's device, in float32 or better; empty ones,
        without running the model, where `what` is empty.

    Raises:
        ValueError: A parameter does not act as a matrix on its input though `linear` is asked for,
            the log-probability is no 0-dim tensor with a gradient, or a layer was bypassed.
    """
    wanted = frozenset(what)
    taps = _taps(model, params, wanted)
    for example in examples:
        if not wanted:
            yield Observation()
            continue
        with _evaluating(model), torch.enable_grad(), _recording(taps):
            observation = _derivatives(forward(example), params, wanted, taps)
        yield observation


@dataclass
class _Tap:
    """Where one parameter's (or layer's) input and output are read off."""

    name: str
    """The parameter, or the layer where the gradients of weights are asked for."""
    derivative: Derivative
    layer: nn.Module
    """The adapted layer as a whole."""
    module: nn.Module
    """What is called with h and gives z (LoRA), or the layer itself."""
    adapter: str
    widths: tuple[int, int]
    """Of what goes in, and of what comes out."""
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Input and output of each call for the present example."""
    layer_calls: int = 0


def _taps(model: nn.Module, params: Params, wanted: frozenset[Derivative]) -> list[_Tap]:
    taps: list[_Tap] = []
    if not wanted & {"linear", "weights"}:
        return taps
    for name in params:
        found = _PARAMETER.match(name)
        if found is None:
            raise ValueError(
                f"`{name}` is none of lora_A, lora_B and cur_U, the matrices whose input and "
                "output are known. Use a curvature over gradients (`diag`) with this adapter."
            )
        layer = acting = model.get_submodule(found["layer"])
        if not isinstance(layer, CurloraLayer):
            acting = model.get_submodule(name.removesuffix(".weight"))
        if "linear" in wanted:
            widths = (params[name].shape[1], params[name].shape[0])
            taps.append(_Tap(name, "linear", layer, acting, found["adapter"], widths))
    if "weights" in wanted:
        for name, described in adapted_layers(model, params).items():
            layer = model.get_submodule(name)
            taps.append(
                _Tap(name, "weights", layer, layer, "", (described.shape[1], described.shape[0]))
            )
    return taps


@contextmanager
def _recording(taps: Sequence[_Tap]) -> Iterator[None]:
    """Keep what passes the taps, and forget it at the end."""
    handles = []
    for tap in taps:

        def keep(_: nn.Module, inputs: Any, output: Tensor, tap: _Tap = tap) -> None:
            tap.calls.append((inputs[0], output))

        def count(*_: Any, tap: _Tap = tap) -> None:
            tap.layer_calls += 1

        handles.append(tap.module.register_forward_hook(keep))
        handles.append(tap.layer.register_forward_hook(count))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for tap in taps:
            tap.calls, tap.layer_calls = [], 0


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and checkpointing off, and give every module its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _derivatives(
    log_probability: Tensor, params: Params, wanted: frozenset[Derivative], taps: Sequence[_Tap]
) -> Observation:
    if log_probability.dim() != 0 or not log_probability.requires_grad:
        raise ValueError(
            "`forward` must give a 0-dim log-probability that depends on trainable parameters, got "
            f"shape {tuple(log_probability.shape)}, requires_grad="
            f"{log_probability.requires_grad}. Sum over the scored tokens, outside `no_grad`."
        )
    for tap in taps:
        if tap.layer_calls and not tap.calls:
            raise ValueError(
                f"The layer of `{tap.name}` ran without calling it, so its input is unknown. Use a "
                "curvature over gradients (`diag`) with this adapter."
            )
    sources = list(params.values()) if "gradients" in wanted else []
    outputs = [output for tap in taps for _, output in tap.calls]
    gradients = torch.autograd.grad(
        log_probability, [*sources, *outputs], allow_unused=True, materialize_grads=True
    )
    at_outputs = iter(gradients[len(sources) :])
    linear: dict[str, tuple[Tensor, Tensor]] = {}
    weights: dict[str, tuple[Tensor, Tensor]] = {}
    for tap in taps:
        calls = [(_rows(x), _rows(next(at_outputs))) for x, _ in tap.calls]
        if tap.derivative == "weights":
            weights[tap.name] = _joined(calls, tap.widths, params)
        else:
            calls = [_through_core(tap, x, dy) for x, dy in calls]
            linear[tap.name] = _joined(calls, tap.widths, params)
    return Observation(
        {name: statistic(g) for name, g in zip(params, gradients, strict=False) if sources},
        linear,
        weights,
    )


def _through_core(tap: _Tap, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Go from a CURLoRA layer's input and output to those of its U: y += alpha C (U (R x))."""
    if not isinstance(tap.layer, CurloraLayer):
        return x, dy
    factors = tap.layer.factors(tap.adapter)
    C, R = factors.C.detach().to(dy.dtype), factors.R.detach().to(x.dtype)
    return x @ R.t(), tap.layer.cur_settings[tap.adapter].alpha * (dy @ C)


def _rows(tensor: Tensor) -> Tensor:
    return statistic(tensor.reshape(-1, tensor.shape[-1]))


def _joined(
    calls: Sequence[tuple[Tensor, Tensor]], widths: tuple[int, int], params: Params
) -> tuple[Tensor, Tensor]:
    """Put the tokens of several calls below one another; none at all where there was no call."""
    if not calls:
        like = statistic(next(iter(params.values())))
        return like.new_zeros(0, widths[0]), like.new_zeros(0, widths[1])
    return torch.cat([x for x, _ in calls]), torch.cat([dy for _, dy in calls])
