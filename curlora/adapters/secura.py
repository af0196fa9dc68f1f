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

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from peft import PeftConfig
from torch import Tensor, nn

from curlora.adapters.cur_tuner import TARGETS_BY_FAMILY, holds_shared_weight
from curlora.adapters.secura_config import SecuraConfig
from curlora.adapters.secura_layer import MergedUpdate, SecuraLinear
from curlora.peft_bridge import BaseTuner, get_quantization_kwargs, register_method


class SecuraModel(BaseTuner):
    """PEFT's tuner for SECURA: puts a `SecuraLinear` in the place of every targeted layer."""

    prefix = "sec_"
    tuner_layer_cls = SecuraLinear
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
        if isinstance(target, SecuraLinear):
            target.update_layer(adapter_name, config)
            return
        layer = SecuraLinear(target, module_name=current_key, **get_quantization_kwargs(self))
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
    layers = [module for module in model.modules() if isinstance(module, SecuraLinear)]
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
        if isinstance(module, MergedUpdate)
        for name, tensor in module.named_buffers(recurse=False)
    }


register_method("secura", config_class=SecuraConfig, tuner_class=SecuraModel)
