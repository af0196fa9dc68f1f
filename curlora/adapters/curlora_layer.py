"""A linear layer with any number of CURLoRA adapters."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from curlora.adapters.cur_factors import CurFactors, LayerSettings
from curlora.adapters.cur_layer import CurLayer
from curlora.adapters.curlora_config import CurloraConfig
from curlora.cur import forms, fused_form
from curlora.cur.selection import Selection
from curlora.cur.weight_facts import kept_facts


class CurloraLinear(CurLayer):
    """A linear layer, or GPT-2's Conv1D, with any number of CURLoRA adapters; `cur_U` trains."""

    adapter_layer_names = ("cur_U",)
    other_param_names = ("cur_factors", "cur_settings")
    method = "CURLoRA"
    factors_name = "cur_factors"
    settings_name = "cur_settings"
    cur_settings: dict[str, "LayerSettings"]

    def __init__(self, base_layer: nn.Module, *, module_name: str, **quantisation: Any) -> None:
        """Wrap a layer, without an adapter yet.

        Args:
            base_layer: A linear layer, quantised or not, or one wrapped by another PEFT method.
            module_name: Its name in the base model; draws and messages depend on it.
            **quantisation: What PEFT needs to write a quantised weight back.
        """
        super().__init__(base_layer, module_name=module_name, **quantisation)
        self.cur_U = nn.ParameterDict({})

    def update_layer(
        self, adapter_name: str, config: CurloraConfig, *, r: int, alpha: float
    ) -> None:
        """Add an adapter: choose columns and rows from the unmerged weight, start `U` at zero.

        Args:
            adapter_name: Its name.
            config: Its settings.
            r: Its rank on this layer.
            alpha: Its scale on this layer.

        Raises:
            ValueError: The rank does not fit the layer, a form other than `explicit` is demanded of
                a layer that cannot give it, or the weight cannot be read.
        """
        if config.form not in {"auto", "explicit"} and not self._base_is_exact():
            raise ValueError(
                f"`form` {config.form!r} needs a plain linear layer, but `{self.module_name}` is a "
                f"{type(self.base_layer).__name__} or has hooks. Set `form: auto`."
            )
        known = kept_facts(self.get_base_layer())

        def select(W: Tensor) -> Selection:
            rule = config.selection_rule()
            return rule.select(W, r, name=self.module_name, shares=known and known.shares)

        with self._readable_weight() as W:
            factors, perplexities = self._new_factors(W, r, select)
        self.cur_U[adapter_name] = nn.Parameter(torch.zeros(r, r))
        self._all_factors()[adapter_name] = factors
        self.cur_settings[adapter_name] = LayerSettings(
            alpha=float(alpha),
            form=config.form,
            allow_base_mismatch=config.allow_base_mismatch,
            base_name=config.base_model_name_or_path or "an unnamed base",
            perplexities=perplexities,
        )
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Give alpha C U R as a dense matrix, in the layout and dtype of the base's weight.

        Args:
            adapter_name: Which adapter.

        Returns:
            (d_out, d_in), or (d_in, d_out) for a Conv1D.
        """
        delta = self._dense_delta(adapter_name)
        return delta.to(self.factors(adapter_name).C.dtype)

    def _dense_delta(self, adapter_name: str) -> Tensor:
        self._refresh_if_stale(adapter_name)
        factors, U = self.factors(adapter_name), self.cur_U[adapter_name].detach()
        dtype = torch.promote_types(factors.C.dtype, torch.float32)
        core = self.cur_settings[adapter_name].alpha * U.to(dtype)
        return self._oriented(factors.C.to(dtype) @ (core @ factors.R.to(dtype)))

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:  # noqa: ARG002
        """Say that the update is additive, so that PEFT can convert it."""
        return True

    # ------------------------------------------------------------------ forward

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the base layer with the active adapters.

        Args:
            x: Input (..., d_in).
            *args: For the base layer.
            **kwargs: For the base layer.

        Returns:
            x (W + sum of alpha C U R)' + bias (..., d_out).
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        active = [name for name in self.active_adapters if name in self.cur_U]
        if self.disable_adapters or self.merged or not active:
            return self.base_layer(x, *args, **kwargs)
        for name in active:
            self._refresh_if_stale(name)
        form = self._form(active, x)
        if form == "explicit":
            return self._explicit(x, active, *args, **kwargs)
        factors, U = self.factors(active[0]), self.cur_U[active[0]]
        alpha = self.cur_settings[active[0]].alpha
        if form == "input_side":
            return forms.input_side(self.base_layer, x, U, factors.R, factors.columns, alpha)
        if form == "fused":
            return self._fused(x, factors, U, alpha)
        y = self.base_layer(x)
        return forms.output_reuse(y, factors.C, U, factors.rows, factors.bias_at_rows, alpha)

    def _fused(self, x: Tensor, factors: CurFactors, U: Tensor, alpha: float) -> Tensor:
        base = cast(nn.Linear, self.base_layer)
        W = self._oriented(base.weight)
        reads_output = forms.bias_cancels(factors.relative_bias, W.dtype.itemsize < 4)
        return fused_form.fused(
            x,
            W,
            base.bias,
            factors.C,
            U,
            factors.R,
            factors.columns,
            factors.rows,
            factors.bias_at_rows,
            alpha,
            reads_output,
        )

    def _explicit(self, x: Tensor, active: list[str], *args: Any, **kwargs: Any) -> Tensor:
        y = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            y = self.quantization_backend.maybe_clone_base_result(y)
        for name in active:
            factors, alpha = self.factors(name), self.cur_settings[name].alpha
            y = forms.explicit(y, x, factors.C, self.cur_U[name], factors.R, alpha)
        return y

    def _form(self, active: list[str], x: Tensor) -> forms.Form:
        asked = self.cur_settings[active[0]].form
        exact = self._base_is_exact()
        factors = self.factors(active[0])
        autocast = torch.is_autocast_enabled(x.device.type)
        fusable = exact and not autocast and self._base_is_at_hand()
        possible = asked == "explicit" or (fusable if asked == "fused" else exact)
        if asked != "auto" and len(active) == 1 and possible:
            return asked
        return forms.choose_form(
            d_in=factors.R.shape[1],
            d_out=factors.C.shape[0],
            exact_base=exact,
            fusable=fusable,
            adapters=len(active),
            relative_bias=factors.relative_bias,
            low_precision=autocast or factors.C.dtype.itemsize < 4,
        )


def curlora_layers(model: nn.Module, adapter_name: str) -> dict[str, CurloraLinear]:
    """Give the layers on which an adapter sits, by their name in the base model.

    Args:
        model: A model with CURLoRA adapters.
        adapter_name: Which of them.

    Returns:
        Layers by name, in the model's order; empty if there is no such adapter.
    """
    return {
        layer.module_name: layer
        for layer in model.modules()
        if isinstance(layer, CurloraLinear) and adapter_name in layer.cur_U
    }


def sampling_perplexity(
    model: nn.Module, adapter_name: str = "default"
) -> dict[str, tuple[float, float]]:
    """Give, for every adapted layer, over how many columns and rows its sampling law spreads.

    A perplexity near the width of the layer means that the law was close to uniform.

    Args:
        model: A model with CURLoRA adapters.
        adapter_name: Which of them.

    Returns:
        (perplexity over columns, perplexity over rows) by module name.
    """
    layers = curlora_layers(model, adapter_name)
    return {name: layer.cur_settings[adapter_name].perplexities for name, layer in layers.items()}
