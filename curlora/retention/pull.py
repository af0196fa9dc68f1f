"""How strong a quadratic penalty is: a number, or found again from each task's own gradient.

A penalty (strength / 2) d' F d has a meaning only beside the loss that it is added to, and F, made
of squared gradients, has a scale that differs by decades between models, adapters and data: no
number acts everywhere. `strength: auto` states what is wanted instead: `pull`, the norm of the
penalty's gradient as a share of that of the task's loss, at the furthest that the task can go.

    strength = pull * |g| / |q(theta - reach * sign(g))|

g is the gradient of the task's mean loss per scored token over its first look (up to `LOOKED_AT` of
its training examples, at the parameters with which it begins), q the gradient of the penalty of
strength 1, and `reach` the sum of the learning rates of the task's steps: AdamW moves a parameter
by about its rate in a step, so no further than that in all, and -reach sign(g) is where it goes
while the gradient keeps its signs. Norms are over all parameters. Seen from the anchor with a
diagonal F this is pull |g| / (reach |F|).

Where nothing has been learnt yet (F is zero and so is q), or the task has no gradient, the strength
is 0. It depends on the examples that are looked at and on nothing else, is found once as each task
begins, and is carried in the state like a number that was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from curlora.curvature.observation import Observation, Params, statistic
from curlora.curvature.sums import SCORED, sum_gradients
from curlora.retention.protocol import Retention, Total, alone

Strength = float | Literal["auto"]
"""A number of at least 0, or to be found: see the module."""
LOOKED_AT = 32
"""Examples of a task from which its gradient is taken as it begins."""


class Pulling(Retention):
    """The base of kinds whose penalty is `strength` times a form in the parameters."""

    def __init__(
        self,
        strength: Strength,
        pull: float,
        max_examples: int,
        settings: Mapping[str, int | float],
    ) -> None:
        """Start with nothing seen.

        Args:
            strength: Multiplies the penalty, or `auto`.
            pull: With `auto`: the penalty's gradient as a share of the loss's, at least 0.
            max_examples: How many examples are read, over all workers, of each set.
            settings: Other numbers that the state carries.
        """
        super().__init__({"strength": 0.0 if strength == "auto" else strength, **settings})
        self._pull = pull if strength == "auto" else None
        self.max_examples = max_examples

    @property
    def looks_at(self) -> int:
        """How many of a task's training examples `begin_task` reads: see `Retention.looks_at`."""
        return min(LOOKED_AT, self.max_examples) if self._pull and self._holds() else 0

    def begin_task(
        self,
        params: Params,
        task: int,  # noqa: ARG002
        *,
        observed: Iterable[Observation] = (),
        total: Total = alone,
        reach: float = 0.0,
    ) -> None:
        """Find the strength, where it is to be found.

        Args:
            params: The adapter as the task finds it.
            task: Not read.
            observed: This worker's share of the examples that `looks_at` asks for.
            total: Sums statistics over workers.
            reach: The sum of the task's learning rates, above 0.

        Raises:
            ValueError: Examples were asked for and none was observed, `reach` is not above 0, or a
                gradient is not finite.
        """
        if self._pull is None:
            return
        strength = 0.0
        if self.looks_at:
            state = self._state_beside(params)
            sums = total(sum_gradients(params, observed))
            strength = self._pull * self._ratio(state, params, sums, reach)
        self._state = self._state | {"strength": torch.tensor(strength, dtype=torch.float64)}

    def _holds(self) -> bool:
        """Whether there is anything yet that the penalty holds."""
        raise NotImplementedError

    def _ratio(
        self, state: Mapping[str, Tensor], params: Params, sums: Mapping[str, Tensor], reach: float
    ) -> float:
        """The norm of the loss's gradient over that of the penalty of strength 1."""
        scored = float(sums[SCORED])
        if scored < 1 or not reach > 0:
            raise ValueError(
                f"With `strength: auto` a task begins with a look at its training examples, and "
                f"with the sum of its learning rates; got {scored:g} scored tokens and a sum of "
                f"{reach}. Give `begin_task` as many observations as `looks_at` says, and `reach`."
            )
        # The loss is minus the mean log-probability.
        g = {name: -sums[f"gradient.{name}"] / scored for name in params}
        there = {
            name: (statistic(p) - reach * g[name].sign().to(p.device)).requires_grad_()
            for name, p in params.items()
        }
        with torch.enable_grad():
            one = torch.ones_like(state["strength"])
            penalty = self.penalty_of({**state, "strength": one}, there)
            q = torch.autograd.grad(
                penalty, list(there.values()), allow_unused=True, materialize_grads=True
            )
        loss, held = _norm(g.values()), _norm(q)
        if not (torch.isfinite(loss) and torch.isfinite(held)):
            raise ValueError(
                f"The strength of retention {self.kind!r} cannot be found: the norm of the loss's "
                f"gradient is {loss:g} and that of the penalty's {held:g} as the task begins. "
                "Lower the learning rate, or give `strength` as a number."
            )
        return float(loss / held) if held > 0 else 0.0


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    squares = [tensor.double().square().sum() for tensor in tensors]
    if not squares:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(squares).cpu().sum().sqrt()
