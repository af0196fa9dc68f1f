"""A linear layer with SECURA adapters; see `curlora.adapters.secura`."""

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from curlora.adapters.cur_factors import LayerSettings
from curlora.adapters.cur_layer import CurLayer
from curlora.adapters.secura_config import (
    MergeRule,
    Norm,
    SecuraConfig,
    bounded_scale,
    initial_A,
    least_norm,
    released_scale,
)
from curlora.cur import forms
from curlora.peft_bridge import gather_params_ctx


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


class MergedUpdate(nn.Module):
    """What an adapter has merged: M (r, r), and for `M2` the sum B_L (m, r)."""

    M: Tensor
    B_sum: Tensor | None

    def __init__(self, r: int, m: int, rule: MergeRule) -> None:
        super().__init__()
        self.register_buffer("M", torch.zeros(r, r))
        self.register_buffer("B_sum", torch.zeros(m, r) if rule == "M2" else None)


class SecuraLinear(CurLayer):
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
        self.sec_merged[adapter_name] = MergedUpdate(r, m, config.merge)
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
        return cast(MergedUpdate, self.sec_merged[adapter_name]).M

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
            merged = cast(MergedUpdate, self.sec_merged[name])
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
            return forms.explicit(y, x, factors.C, self._core(name) + M, factors.R, 1.0)
        y = forms.explicit(y, x, factors.C, M, factors.R, 1.0)
        if rules.norm == "bounded":
            held = self._held_back(name)
            return y + nn.functional.linear(x.to(held.dtype), held).to(y.dtype)
        fused = forms.explicit(y, x, factors.C, self._core(name), factors.R, 1.0)
        with torch.no_grad(), self._readable_weight() as W:
            wide = torch.promote_types(y.dtype, torch.float32)
            scale = released_scale(fused.to(wide), y.to(wide), rules.s).to(y.dtype)
            damping = self._damping(scale, W.to(wide), name).to(y.dtype)
        return (y + fused * damping) / scale
