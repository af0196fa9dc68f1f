"""EWC-LoRA: a Fisher over the weights themselves, restricting what each task adds to them.

Every task learns a fresh update Delta W (LoRA's scale B A, CURLoRA's alpha C U R) on top of the
frozen ones before it. After a task Omega <- decay Omega + E[(dL/dW)^2], one entry for each weight
of an adapted layer, and the next task pays (strength / 2) sum Omega (Delta W)^2 for its own update.

References:
    EWC-LoRA (ICLR 2026). https://arxiv.org/abs/2602.17559

Deviations from the paper:
    - The updates of earlier tasks are kept beside the base, not merged into it: the base stays what
      it was, and any task's model can be put together again.
    - The gradients of single examples are squared, where the released code squares the mean of a
      batch of 128: its Omega is 128 times smaller than ours (for independent gradients of mean
      zero), so its lambda of 1e7 is 1e7 / 128 = 78,125 here, which is the default.
    - The released code adds (B_1 + B_2) (A_1 + A_2) for two tasks' updates; here their products are
      summed, as in the paper.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from curlora.curvature.forms import diagonal_form
from curlora.curvature.layers import lora_pairs
from curlora.curvature.observation import AdaptedLayer, Observation, Params, statistic
from curlora.curvature.sums import averaged, sum_weight_squares
from curlora.retention.protocol import Total, no_penalty
from curlora.retention.renewing import Renewing


class EwcWeight(Renewing):
    """Keeps each task's update small where the weights mattered to earlier tasks."""

    kind = "ewc_weight"
    observes = frozenset({"weights"})
    source = "tasks"
    _prefixes = (*Renewing._prefixes, "weights.", "scale.", "left.", "right.")

    def __init__(self, strength: float, decay: float, max_examples: int) -> None:
        """Start with nothing seen.

        Args:
            strength: Multiplies the penalty, at least 0.
            decay: What the earlier Omega is multiplied by after each task, in [0, 1].
            max_examples: Examples from which each task's Fisher is estimated.
        """
        super().__init__({"strength": strength, "decay": decay})
        self.max_examples = max_examples
        self._layers: dict[str, AdaptedLayer] = {}

    def bind(self, layers: Mapping[str, AdaptedLayer]) -> None:
        """Learn the layers' shapes, scales and frozen factors.

        Args:
            layers: As `curlora.curvature.layers.adapted_layers` gives them.
        """
        self._layers = dict(layers)

    def _make_room(self, params: Params, tasks: int) -> None:
        super()._make_room(params, tasks)
        products = {f for layer in self._layers.values() for f in layer.factors}
        without = [name for name in params if name not in products]
        if without:
            raise ValueError(
                f"Retention {self.kind!r} does not know how {without[:3]} update a weight. Call "
                "`bind` with the adapted layers first, and use it with lora, rslora or curlora, "
                "without other trained tensors."
            )
        like = statistic(next(iter(params.values())))
        for name, layer in self._layers.items():
            self._state[f"weights.{name}"] = like.new_zeros(layer.shape)
            self._state[f"scale.{name}"] = torch.tensor(layer.scale, dtype=torch.float64)
            first, *_, last = layer.factors
            if isinstance(first, Tensor) and isinstance(last, Tensor):
                self._state[f"left.{name}"] = statistic(first).to(like.dtype).contiguous().clone()
                self._state[f"right.{name}"] = statistic(last).to(like.dtype).contiguous().clone()

    @staticmethod
    def penalty_of(state: Mapping[str, Tensor], params: Params) -> Tensor:
        """Compute (strength / 2) sum Omega (Delta W)^2 over the current task's update.

        Args:
            state: `strength`; for each layer `weights.`, `scale.`, and with CURLoRA `left.` (C) and
                `right.` (R).
            params: The current task's adapter.

        Returns:
            0-dim, at least 0.
        """
        # Products in half precision would round the update before it is squared.
        params = {n: p.to(torch.promote_types(p.dtype, torch.float32)) for n, p in params.items()}
        products = {
            A.partition(".lora_A.")[0]: params[B] @ params[A] for A, B in lora_pairs(params)
        }
        for name, U in params.items():
            layer, core, _ = name.partition(".cur_U.")
            if core:
                products[layer] = state[f"left.{layer}"] @ U @ state[f"right.{layer}"]
        form = no_penalty(params)
        for layer, product in products.items():
            scale = state[f"scale.{layer}"].to(form.dtype)
            form = form + diagonal_form(state[f"weights.{layer}"], scale * product)
        return 0.5 * state["strength"].to(form.dtype) * form

    def end_task(
        self,
        params: Params,
        task: int,
        observed: Iterable[Observation],
        total: Total,
        examples: int,
    ) -> None:
        """Freeze the task's adapter, and add the task's Fisher.

        Args:
            params: The adapter as the task leaves it.
            task: Which, counted from 0.
            observed: Observations with `weights`, of the model with all updates so far.
            total: Sums statistics over workers.
            examples: Not read.
        """
        super().end_task(params, task, (), total, examples)
        state = self._state_beside(params)
        shapes: dict[str, tuple[int, int]] = {
            name: (omega.shape[0], omega.shape[1])
            for name, omega in self._under("weights.").items()
        }
        like = next(iter(params.values()))
        fisher = averaged(total(sum_weight_squares(shapes, observed, like=like)))
        for key, value in fisher.items():
            self._state[key] = state["decay"].to(value.dtype) * state[key] + value
