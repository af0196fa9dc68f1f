"""SECURA as a PEFT method: a widened core between columns and rows, and a change held back.

A frozen weight `W` (d_out, d_in) gets the update C (A B + M) R: `C` (d_out, r) and `R` (r, d_in)
are the columns and rows of least norm of `W`, `A` (r, m) and `B` (m, r) with m > r are trained, and
`M` (r, r) holds what was merged so far. The paper calls the core CABR-LoRA and the rule that holds
the change back S-MagNorm; with DeltaW = C A B R and W_M = W + C M R:

============ =====================================================================================
`norm`       what a layer computes
============ =====================================================================================
`none`       x (W_M + DeltaW)'
`bounded`    x (W_M + (S - 1) * DeltaW)', S = 2 - sigmoid(s (L / max L - 1/2)) of the weights'
             relative change L = |DeltaW / (W_M + 1e-10)|; S is not differentiated. Ours.
`released`   (y + f) / S with y = x W_M' + bias, f = x (W_M + DeltaW)' + bias and S = 2 -
             sigmoid(s L) of the outputs' relative change L = |(f - y) / (y + 1e-10)|; S = 2 while
             all of L is zero. As the author's code has it.
============ =====================================================================================

S lies in [1.05, 1.95] (`bounded`, s = 6) or [1, 1.5] (`released`); small means a large change. When
more than a share of its elements is at most `edge`, the update (`bounded`) or the output f
(`released`) is multiplied by `decay` on the outputs whose rows of `W_M` have the largest norm.

Merging (`after_step`): `M1` adds A B to M and sets B to zero; `M2` adds B to a sum B_L, sets M to
A B_L and B to zero. `C` and `R` never change, so what is merged stays a small matrix and the base
itself is never written.

Merged after every step (`merge_every` 1, as the author runs it), B is zero at every forward pass,
in training and in scoring. Then DeltaW = 0, f = y and S is the same for all elements, so no norm
ever acts on an output. It is a factor on B's gradient (1/2 with `released`, sigmoid(s / 2) with
`bounded`), which AdamW divides out: `released`, `bounded` and `none` are then one method. The
gradient of A, which is C' (dL/dW) R' B', is exactly zero, so A never trains and M gathers A_0 times
the steps of B. That holds for the author's code too, without the out-bias named below. DeltaW has
no scale of its own: it grows with the cube of the weights, and the rate has to be chosen for the
base.

References:
    Zhang (2025), "SECURA: Sigmoid-Enhanced CUR Decomposition with Uninterrupted Retention and
    Low-Rank Adaptation in Large Language Models". https://arxiv.org/abs/2502.18168, and its code,
    https://github.com/MeCuping/SECURA. Only the abstract of the paper was at hand: what is here
    follows the code, and no result of the paper was reproduced.

Deviations from the author's code:
    - `norm: bounded` is not in it. There, the line that divides L by its largest element is
      overwritten by the next, so an element that did not change gets S = 1.5 as soon as any other
      did: its output jumps to 4/3 of the base's at the first step. `released` keeps that; `bounded`
      does what the lines intend, on the weights, and is continuous at zero.
    - `A` starts as diag(sigma_1..r) V_r[:m]' of W = U Sigma V' (`init: truncated`), the rank-r part
      that is evidently meant. The code slices rows where columns were meant, which makes its full
      SVD of W come out as the corner W[:r, :m]; `init: released` gives that corner, without an SVD.
    - M1 writes W in bf16 there, which cannot be taken back; here M accumulates in the adapter. What
      is merged is DeltaW, not the part of it that `norm` lets through, in both: with a norm the
      output moves at a merge.
    - M2 keeps A_L and B_L there but never reads them, so it forgets what it merged; and it adds the
      current update to both outputs, y + d and y + 2 d, so that a layer gives (2 y + 3 d) / S. Here
      what is merged counts, and y has no part of the current update.
    - The outputs to be decayed are drawn at random there, in every forward pass, and by mistake: of
      the rows sorted by norm only the norms are kept, and the positions drawn from them are taken
      for outputs, so outputs 0, 1, 2, ... are hit most, whatever their norms. Here they are the
      rows of largest norm, which is evidently meant, and a pass can be repeated.
    - The share of S at most `edge` is a mean over all elements here; there, examples of a batch are
      added up, which is the same for the batches of one example that the author trains with.
    - Columns and rows without energy are never chosen; there, 1 / 0 puts them first.
    - The trained bias of the output is not built. The author's experiment switches it on and does
      not merge it, so there f differs from y, and S-MagNorm acts, from the second step on.

With `released` an example's output depends on which others are in the batch (by the share of S and
by "all of L is zero"), it cannot be merged into a weight, and adapters cannot be packed.
"""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from peft import PeftConfig
from torch import Tensor, nn

from curlora import cur_forward
from curlora.adapters import adapter_kind, secura_width
from curlora.cur import Selection, energy_shares
from curlora.curlora import TARGETS_BY_FAMILY, CurLayer, LayerSettings, holds_shared_weight
from curlora.peft_bridge import (
    BaseTuner,
    gather_params_ctx,
    get_quantization_kwargs,
    peft_type,
    register_method,
)

Norm = Literal["none", "released", "bounded"]
MergeRule = Literal["none", "M1", "M2"]
Start = Literal["truncated", "released"]

_EPS = 1e-10  # of the author's code


@dataclass
class SecuraConfig(PeftConfig):
    """Settings of a SECURA adapter.

    References:
        Zhang (2025). https://arxiv.org/abs/2502.18168
    """

    r: int = 16
    """Columns and rows kept of each weight (the code's `CURdivideRank`, 150 there)."""
    m: int | None = None
    """Inner width of the core, above r and at most d_in (`ABdivideRank`, 200). Default: 4/3 r."""
    norm: Norm = "bounded"
    """How the change is held back; see the module."""
    s: float = 6.0
    """Steepness of the sigmoid, positive."""
    merge: MergeRule = "none"
    """What `after_step` does."""
    merge_every: int = 1
    """Optimiser steps between merges (`FusionStep`)."""
    edge: float = 1.2
    """An element counts as strongly changed when its S is at most this (`EdgeNum`)."""
    share: float = 0.9
    """The share of such elements above which the update is damped, in [0, 1) (`Percent`)."""
    decay: float = 0.99
    """By how much, in (0, 1] (`decayRatio`)."""
    init: Start = "truncated"
    """Where `A` starts; see the module."""
    target_modules: list[str] | str | None = None
    """Names (by suffix), a regular expression, or "all-linear". Default: q, k and v where known."""
    exclude_modules: list[str] | str | None = None
    """Modules left out although `target_modules` names them."""
    modules_to_save: list[str] | None = None
    """Modules trained in full and saved with the adapter."""
    allow_base_mismatch: bool = False
    """Load the adapter even where the base is not the one it was made on. Not saved."""

    def __post_init__(self) -> None:
        """Complete the inner width and refuse what cannot work."""
        super().__post_init__()
        self.peft_type = peft_type("SECURA")
        names = adapter_kind("secura").settings
        values = adapter_kind("secura").complete({name: getattr(self, name) for name in names})
        self.m = secura_width(values)
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list | tuple):  # PEFT matches by membership
                setattr(self, name, set(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Give the settings that are saved: all but the leave to load on another base."""
        return super().to_dict() | {"allow_base_mismatch": False}


@dataclass(frozen=True)
class _Rules:
    """What one adapter does beside its tensors."""

    norm: Norm
    s: float
    merge: MergeRule
    merge_every: int
    edge: float
    share: float
    decay: float


class _Merged(nn.Module):
    """What an adapter has merged: M (r, r), and for `M2` the sum B_L (m, r)."""

    M: Tensor
    B_sum: Tensor | None

    def __init__(self, r: int, m: int, rule: MergeRule) -> None:
        super().__init__()
        self.register_buffer("M", torch.zeros(r, r))
        self.register_buffer("B_sum", torch.zeros(m, r) if rule == "M2" else None)


def least_norm(W: Tensor, r: int) -> Selection:
    """Choose the r columns and the r rows of least norm, of those that have any.

    Args:
        W: A weight (d_out, d_in).
        r: How many of each.

    Returns:
        The indices, by ascending norm and then position. There is no law, so no perplexity (NaN).

    Raises:
        ValueError: `W` has no finite energy, or fewer than `r` columns or rows with any.
    """
    columns, rows = (_least(shares, r) for shares in energy_shares(W))
    return Selection(columns, rows, column_perplexity=math.nan, row_perplexity=math.nan)


def _least(shares: Tensor, r: int) -> Tensor:
    with_energy = int((shares > 0).sum())
    if r > with_energy:
        raise ValueError(
            f"`r` is {r}, but only {with_energy} of {shares.numel()} columns or rows have energy. "
            "Lower `r`."
        )
    order = torch.where(shares > 0, shares, math.inf)
    return torch.argsort(order, stable=True)[:r]


def initial_A(  # noqa: N802 - A, as in the paper
    W: Tensor, r: int, m: int, init: Start
) -> Tensor:
    """Give where `A` starts.

    Args:
        W: The weight (d_out, d_in).
        r: Rows of `A`, at most min(d_out, d_in).
        m: Columns of `A`, at most d_in.
        init: `truncated`: sigma_i V_ji for i < r, j < m; `released`: the corner W[:r, :m].

    Returns:
        A matrix (r, m) in float32.
    """
    if init == "released":
        return W[:r, :m].float().clone()
    _, sigma, Vh = torch.linalg.svd(W.float(), full_matrices=False)
    return sigma[:r, None] * Vh[:r, :m]


def bounded_scale(delta: Tensor, W: Tensor, s: float) -> Tensor:
    """Give S of the bounded norm, element by element.

    Args:
        delta: The update (d_out, d_in).
        W: The weight it changes, likewise.
        s: Steepness.

    Returns:
        2 - sigmoid(s (L / max L - 1/2)), in [2 - sigmoid(s / 2), 2 - sigmoid(-s / 2)]: the larger
        the relative change L of an element, the smaller.
    """
    change = (delta / (W + _EPS)).abs()
    largest = change.max().clamp_min(torch.finfo(change.dtype).tiny)
    return 2 - torch.sigmoid(s * (change / largest - 0.5))


def released_scale(fused: Tensor, base: Tensor, s: float) -> Tensor:
    """Give S of the author's code, element by element.

    Args:
        fused: The output with the update (..., d_out).
        base: The output without it, likewise.
        s: Steepness.

    Returns:
        2 - sigmoid(s L), in [1, 1.5]; 2 where nothing changed at all.
    """
    change = ((fused - base) / (base + _EPS)).abs()
    # The code first computes change / max(change) - 1/2 and then overwrites it, as here.
    scale = 2 - torch.sigmoid(s * change)
    return torch.where(change.any(), scale, torch.full_like(scale, 2.0))


class SecuraLayer(CurLayer):
    """A linear layer, or Conv1D, with SECURA adapters; `sec_A` and `sec_B` train."""

    adapter_layer_names = ("sec_A", "sec_B")
    other_param_names = ("sec_factors", "sec_merged", "sec_settings", "sec_rules")
    method = "SECURA"
    factors_name = "sec_factors"
    settings_name = "sec_settings"

    def __init__(self, base_layer: nn.Module, *, module_name: str, **quantisation: Any) -> None:
        """Wrap a layer, without an adapter yet.

        Args:
            base_layer: A linear layer, quantised or not, or one wrapped by another PEFT method.
            module_name: Its name in the base model.
            **quantisation: What PEFT needs to write a quantised weight back.
        """
        super().__init__(base_layer, module_name=module_name, **quantisation)
        self.sec_A = nn.ParameterDict({})
        self.sec_B = nn.ParameterDict({})
        self.sec_merged = nn.ModuleDict({})
        self.sec_rules: dict[str, _Rules] = {}

    def update_layer(self, adapter_name: str, config: SecuraConfig) -> None:
        """Add an adapter that does not change the output yet.

        Args:
            adapter_name: Its name.
            config: Its settings.

        Raises:
            ValueError: The rank or the width does not fit the layer, or its weight cannot be read.
        """
        r, m = config.r, cast(int, config.m)
        with self._readable_weight() as W:
            factors, perplexities = self._new_factors(W, r, lambda W: least_norm(W, r))
            if m > W.shape[1]:
                raise ValueError(
                    f"`m` must be at most d_in = {W.shape[1]} in `{self.module_name}`, got {m}. "
                    "Lower `m` or `r`, or drop the layer from `target_modules`."
                )
            # An adapter that is loaded brings its own.
            given = W.is_meta or config.inference_mode
            A = torch.zeros(r, m) if given else initial_A(W, r, m, config.init)
        self.sec_A[adapter_name] = nn.Parameter(A.contiguous())
        self.sec_B[adapter_name] = nn.Parameter(torch.zeros(m, r))
        self.sec_merged[adapter_name] = _Merged(r, m, config.merge)
        self._all_factors()[adapter_name] = factors
        rules = {field.name: getattr(config, field.name) for field in dataclasses.fields(_Rules)}
        self.sec_rules[adapter_name] = _Rules(**rules)
        cast(Any, self).sec_settings[adapter_name] = LayerSettings(
            alpha=1.0,
            form="explicit",
            allow_base_mismatch=config.allow_base_mismatch,
            base_name=config.base_model_name_or_path or "an unnamed base",
            perplexities=perplexities,
        )
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merged_core(self, adapter_name: str) -> Tensor:
        """Give M (r, r), what an adapter has merged so far."""
        return cast(_Merged, self.sec_merged[adapter_name]).M

    def after_step(self, step: int) -> bool:
        """Merge where the rule says so.

        Args:
            step: The number of the optimiser step that was just made, from 1.

        Returns:
            Whether a parameter was written.
        """
        written = False
        for name in self.active_adapters:
            rules = self.sec_rules.get(name)
            if rules is None or rules.merge == "none" or step % rules.merge_every:
                continue
            A, B = self.sec_A[name], self.sec_B[name]
            merged = cast(_Merged, self.sec_merged[name])
            with gather_params_ctx([A, B]), torch.no_grad():
                total = merged.B_sum
                if total is None:
                    merged.M += (A @ B).to(merged.M.dtype)
                else:
                    total += B.to(total.dtype)
                    merged.M.copy_(A @ total.to(A.dtype))
                B.zero_()
            written = True
        return written

    # ------------------------------------------------------------------ dense form and merging

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Give the update as a dense matrix, in the layout and dtype of the base's weight.

        Args:
            adapter_name: Which adapter.

        Returns:
            (d_out, d_in), or (d_in, d_out) for a Conv1D.
        """
        return self._dense_delta(adapter_name).to(self.factors(adapter_name).C.dtype)

    def _dense_delta(self, adapter_name: str) -> Tensor:
        rules = self.sec_rules[adapter_name]
        if rules.norm == "released":
            raise ValueError(
                f"`norm: released` of `{self.module_name}` acts on outputs, so no weight computes "
                "the same. Serve the adapter unmerged, or train it with `norm: bounded`."
            )
        self._refresh_if_stale(adapter_name)
        with torch.no_grad():
            C, R = self._float_factors(adapter_name)
            dtype = C.dtype
            delta = C @ (self.merged_core(adapter_name).to(dtype) @ R)
            if rules.norm == "bounded":
                delta = delta + self._held_back(adapter_name)
            else:
                delta = delta + C @ (self._core(adapter_name).to(dtype) @ R)
        return self._oriented(delta)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Say whether the update is a product of low rank."""
        return self.sec_rules[adapter_name].norm == "none"

    def _core(self, adapter_name: str) -> Tensor:
        return self.sec_A[adapter_name] @ self.sec_B[adapter_name]

    def _float_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        factors = self.factors(adapter_name)
        dtype = torch.promote_types(factors.C.dtype, torch.float32)
        return factors.C.to(dtype), factors.R.to(dtype)

    def _held_back(self, adapter_name: str) -> Tensor:
        """Give (S - 1) * C A B R (d_out, d_in), damped where nearly everything changed much."""
        rules = self.sec_rules[adapter_name]
        C, R = self._float_factors(adapter_name)
        delta = C @ (self._core(adapter_name).to(C.dtype) @ R)
        with torch.no_grad(), self._readable_weight() as W:
            now = W.to(C.dtype) + C @ (self.merged_core(adapter_name).to(C.dtype) @ R)
            scale = bounded_scale(delta, now, rules.s)
            damping = self._damping(scale, now, adapter_name)
        return (scale - 1) * damping[:, None] * delta

    def _damping(self, scale: Tensor, W: Tensor, adapter_name: str) -> Tensor:
        """Give the factor (d_out,) of every output by the rule of restraint."""
        rules, r = self.sec_rules[adapter_name], self.sec_B[adapter_name].shape[1]
        d_out = W.shape[0]
        strongest = W.norm(dim=1).topk(max((d_out - r) // 2, d_out // 4)).indices
        crowded = (scale <= rules.edge).to(W.dtype).mean() > rules.share
        damped = torch.ones(d_out, dtype=W.dtype, device=W.device)
        damped[strongest] = rules.decay
        return torch.where(crowded, damped, torch.ones_like(damped))

    # ------------------------------------------------------------------ forward

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the base layer with the active adapters.

        Args:
            x: Input (..., d_in).
            *args: For the base layer.
            **kwargs: For the base layer.

        Returns:
            Output (..., d_out); see the module.

        Raises:
            ValueError: Several adapters are active and one of them holds changes back.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, *args, **kwargs)
        active = [name for name in self.active_adapters if name in self.sec_B]
        if self.disable_adapters or self.merged or not active:
            return y
        if len(active) > 1 and any(self.sec_rules[name].norm != "none" for name in active):
            raise ValueError(
                f"Adapters {active} are active at once, but a `norm` is defined for one. Activate "
                "one of them, or use `norm: none`."
            )
        if self.quantization_backend is not None:
            y = self.quantization_backend.maybe_clone_base_result(y)
        for name in active:
            self._refresh_if_stale(name)
            y = self._apply_to(y, x, name)
        return y

    def _apply_to(self, y: Tensor, x: Tensor, name: str) -> Tensor:
        rules, factors, M = self.sec_rules[name], self.factors(name), self.merged_core(name)
        if rules.norm == "none":
            return cur_forward.explicit(y, x, factors.C, self._core(name) + M, factors.R, 1.0)
        y = cur_forward.explicit(y, x, factors.C, M, factors.R, 1.0)
        if rules.norm == "bounded":
            held = self._held_back(name)
            return y + nn.functional.linear(x.to(held.dtype), held).to(y.dtype)
        fused = cur_forward.explicit(y, x, factors.C, self._core(name), factors.R, 1.0)
        with torch.no_grad(), self._readable_weight() as W:
            wide = torch.promote_types(y.dtype, torch.float32)
            scale = released_scale(fused.to(wide), y.to(wide), rules.s).to(y.dtype)
            damping = self._damping(scale, W.to(wide), name).to(y.dtype)
        return (y + fused * damping) / scale


class SecuraModel(BaseTuner):
    """PEFT's tuner for SECURA: puts a `SecuraLayer` in the place of every targeted layer."""

    prefix = "sec_"
    tuner_layer_cls = SecuraLayer
    target_module_mapping = TARGETS_BY_FAMILY

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        """Give one layer an adapter, wrapping it unless an earlier adapter already has.

        Raises:
            ValueError: A bare parameter is targeted.
        """
        if parameter_name is not None:
            raise ValueError(
                f"SECURA adapts layers, but `target_parameters` names the parameter "
                f"{parameter_name!r} of `{current_key}`. Use `target_modules`."
            )
        config = cast(SecuraConfig, peft_config)
        if isinstance(target, SecuraLayer):
            target.update_layer(adapter_name, config)
            return
        layer = SecuraLayer(target, module_name=current_key, **get_quantization_kwargs(self))
        layer.shares_weight = holds_shared_weight(self.model, layer.get_base_layer())
        layer.update_layer(adapter_name, config)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        """Nothing to warn of: a layer whose weight is tied gets one of its own when it merges."""

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:  # noqa: ARG002
        """Refuse what PEFT would otherwise drop in silence.

        Raises:
            ValueError: Different adapters are asked for within one batch.
        """
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "SECURA cannot give each row of a batch its own adapter, got `adapter_names`. "
                "Call `set_adapter` and run the rows of each adapter apart."
            )
        yield


def after_step(model: nn.Module, step: int) -> bool:
    """Let SECURA adapters merge; to be called after every optimiser step.

    Args:
        model: Any model; without a SECURA adapter nothing happens.
        step: The number of the step that was just made, from 1, counted over all tasks.

    Returns:
        Whether parameters were written. An optimiser that keeps its own copies of them in another
        precision must then read them again, or its next step brings the old values back.
    """
    layers = [module for module in model.modules() if isinstance(module, SecuraLayer)]
    written = [layer.after_step(step) for layer in layers]  # every one, before `any` stops
    return any(written)


def merged_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Give what SECURA adapters have merged: with the trained tensors, all that a run carries.

    Args:
        model: Any model; without a SECURA adapter there is nothing.

    Returns:
        The buffers themselves by their names in the model, so that writing to one restores it.
    """
    return {
        f"{place}.{name}": tensor
        for place, module in model.named_modules()
        if isinstance(module, _Merged)
        for name, tensor in module.named_buffers(recurse=False)
    }


register_method("secura", config_class=SecuraConfig, tuner_class=SecuraModel)
