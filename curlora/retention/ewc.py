"""Online EWC over an adapter's parameters.

After task t the diagonal Fisher is F <- decay F + E[(d log p / d theta)^2], from the gradients of
single examples, and the anchor theta* is where the task ended. The penalty while the next one is
learnt is (strength / 2) sum_i F_i (theta_i - theta*_i)^2.

References:
    Kirkpatrick et al. (2017), "Overcoming catastrophic forgetting in neural networks", Eq. 3.
    https://arxiv.org/abs/1612.00796
    Schwarz et al. (2018), "Progress & Compress", Section 3 (online EWC: one Fisher, one anchor).
    https://arxiv.org/abs/1805.06370

Deviations from the papers:
    - `decay` is 1 by default: earlier tasks count in full.
    - `strength` is found as each task begins, by default: see `curlora.retention.pull`.
    - The Fisher is the empirical one, at the examples' own labels.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from curlora.curvature.forms import diagonal_form
from curlora.curvature.observation import Observation, Params, statistic
from curlora.curvature.sums import averaged, sum_squares
from curlora.retention.protocol import Total, no_penalty
from curlora.retention.pull import Pulling, Strength


class Ewc(Pulling):
    """Pulls every parameter to where the last task left it, the harder the more it mattered."""

    kind = "ewc"
    observes = frozenset({"gradients"})
    source = "tasks"
    _prefixes = ("anchor.", "diagonal.")

    def __init__(self, strength: Strength, pull: float, decay: float, max_examples: int) -> None:
        """Start with nothing seen.

        Args:
            strength: Multiplies the penalty, at least 0; or `auto`.
            pull: With `auto`: see `curlora.retention.pull`.
            decay: What the earlier Fisher is multiplied by after each task, in [0, 1].
            max_examples: Examples from which each task's Fisher is estimated.
        """
        super().__init__(strength, pull, max_examples, {"decay": decay})

    def _make_room(self, params: Params, tasks: int) -> None:  # noqa: ARG002
        for name, parameter in params.items():
            self._state[f"anchor.{name}"] = statistic(parameter).clone()
            self._state[f"diagonal.{name}"] = torch.zeros_like(statistic(parameter))

    def _holds(self) -> bool:
        return any(bool(part.any()) for part in self._under("diagonal.").values())

    @staticmethod
    def penalty_of(state: Mapping[str, Tensor], params: Params) -> Tensor:
        """Compute (strength / 2) sum F (theta - theta*)^2.

        Args:
            state: `strength`, and `anchor.` and `diagonal.` of every parameter.
            params: The adapter.

        Returns:
            0-dim, at least 0.
        """
        form = no_penalty(params)
        for name, parameter in params.items():
            step = parameter - state[f"anchor.{name}"]
            form = form + diagonal_form(state[f"diagonal.{name}"], step)
        return 0.5 * state["strength"].to(form.dtype) * form

    def end_task(
        self,
        params: Params,
        task: int,  # noqa: ARG002
        observed: Iterable[Observation],
        total: Total,
        examples: int,  # noqa: ARG002
    ) -> None:
        """Add the task's Fisher, and anchor the parameters here.

        Args:
            params: The adapter as the task leaves it.
            task: Not read.
            observed: Observations with `gradients`.
            total: Sums statistics over workers.
            examples: Not read.
        """
        state = self._state_beside(params)
        fisher = averaged(total(sum_squares(params, observed)))
        for name, parameter in params.items():
            key = f"diagonal.{name}"
            self._state[key] = state["decay"].to(fisher[key].dtype) * state[key] + fisher[key]
            self._state[f"anchor.{name}"] = statistic(parameter).clone()
