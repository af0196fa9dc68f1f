"""Derivatives of single examples' log-probabilities, read off the adapted layers of a model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from curlora.adapters.curlora_layer import CurloraLinear
from curlora.curvature.layers import PARAMETER, adapted_layers, whole_shape
from curlora.curvature.observation import Derivative, Observation, Params, statistic


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
        found = PARAMETER.match(name)
        if found is None:
            raise ValueError(
                f"`{name}` is none of lora_A, lora_B and cur_U, the matrices whose input and "
                "output are known. Use a curvature over gradients (`diag`) with this adapter."
            )
        layer = acting = model.get_submodule(found["layer"])
        if not isinstance(layer, CurloraLinear):
            acting = model.get_submodule(name.removesuffix(".weight"))
        if "linear" in wanted:
            outputs, inputs = whole_shape(params[name])
            taps.append(_Tap(name, "linear", layer, acting, found["adapter"], (inputs, outputs)))
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
    if not isinstance(tap.layer, CurloraLinear):
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
