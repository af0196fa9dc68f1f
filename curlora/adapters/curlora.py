"""CURLoRA as a PEFT method: config, layer and tuner.

A layer's frozen weight `W` (d_out, d_in) gets the update alpha C U R, where `C` (d_out, r) and `R`
(r, d_in) are columns and rows of `W` itself and only `U` (r, r), zero at the start, is trained.

    model = get_peft_model(model, CurloraConfig(r=16, target_modules=["q_proj", "v_proj"]))

An adapter is saved as `U`, the indices of the columns and rows, and a fingerprint of the weight.
`C` and `R` are not saved: they are read again from the base the adapter is loaded on, after the
fingerprint has shown that it is the same base.

References:
    Fawi (2024), "CURLoRA: Stable LLM Continual Fine-Tuning and Catastrophic Forgetting Mitigation",
    Eq. 3-8. https://arxiv.org/abs/2408.14572

Deviations from the paper:
    - How columns and rows are drawn: see `curlora.cur.selection`.
    - The update is applied in factored form, never as a dense matrix: see `curlora.cur.forms`.
    - Eq. 11 adds ||U||_F to the loss. The author's code has no such term and neither has this one.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from peft import PeftConfig
from torch import nn

from curlora.adapters.cur_factors import FormChoice
from curlora.adapters.cur_tuner import TARGETS_BY_FAMILY, holds_shared_weight
from curlora.adapters.curlora_config import CurloraConfig
from curlora.adapters.curlora_layer import CurloraLinear
from curlora.peft_bridge import BaseTuner, get_pattern_key, get_quantization_kwargs, register_method


class CurloraModel(BaseTuner):
    """PEFT's tuner for CURLoRA: puts a `CurloraLinear` in the place of every targeted layer."""

    prefix = "cur_"
    tuner_layer_cls = CurloraLinear
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
                f"CURLoRA adapts layers, but `target_parameters` names the parameter "
                f"{parameter_name!r} of `{current_key}`. Use `target_modules`."
            )
        config = cast(CurloraConfig, peft_config)
        settings = {
            "r": _by_pattern(config.rank_pattern, current_key, config.r),
            "alpha": _by_pattern(config.alpha_pattern, current_key, config.alpha),
        }
        if isinstance(target, CurloraLinear):
            target.update_layer(adapter_name, config, **settings)
            return
        layer = CurloraLinear(target, module_name=current_key, **get_quantization_kwargs(self))
        layer.shares_weight = holds_shared_weight(self.model, layer.get_base_layer())
        layer.update_layer(adapter_name, config, **settings)
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
                "CURLoRA cannot give each row of a batch its own adapter, got `adapter_names`. "
                "Call `set_adapter` and run the rows of each adapter apart."
            )
        yield


def _by_pattern(patterns: dict[str, Any], module_name: str, default: Any) -> Any:
    return patterns.get(get_pattern_key(list(patterns), module_name), default)


@contextmanager
def forward_form(model: nn.Module, form: FormChoice) -> Iterator[None]:
    """Apply every adapter in one form for a while, `explicit` for functorch or double backward.

    Args:
        model: A model with CURLoRA adapters.
        form: `auto`, `explicit`, `output_reuse`, `input_side` or `fused`; the last three only
            where exact.

    Yields:
        Nothing; the former forms are restored on leaving.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, CurloraLinear)]
    before = [layer.cur_settings for layer in layers]
    for layer in layers:
        layer.cur_settings = {
            name: dataclasses.replace(settings, form=form)
            for name, settings in layer.cur_settings.items()
        }
    try:
        yield
    finally:
        for layer, settings in zip(layers, before, strict=True):
            layer.cur_settings = settings


register_method("curlora", config_class=CurloraConfig, tuner_class=CurloraModel)
