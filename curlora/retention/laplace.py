"""A quadratic pull weighted by a Laplace approximation of what was learnt: LaLoRA, and online.

The penalty is (strength / 2) d' (F + prior_precision I) d with d = theta - theta*. What F is made
of is chosen by `curvature` (see `curlora.curvature`), where it comes from by `source`:

    texts    F is measured once, before the first task, on each of several source sets and averaged;
             theta* is where the adapter starts. This is LaLoRA.
    tasks    F <- decay F + F_t after each task, and theta* is where that task ended: online
             Laplace, over any number of tasks.

With `texts` and `online` the source sets come first and the tasks are added to them.

LoRA starts at B = 0, where the log-probability does not depend on A: its gradient, its Fisher and
the coupling of A and B are exactly zero. Measured there (`texts`) the curvature leaves A free while
B is what is held. That loses nothing at the start, since nothing depends on A while B is zero, but
A goes on being free once B has moved; a `prior_precision` above 0 holds it too. Curvature taken at
the end of a task is not degenerate, and neither is CURLoRA's at U = 0.

The sum of two Kronecker products is none. So factors are carried on their own: with w the number of
curvatures taken in so far (each decayed like F), A <- (decay w A + A_t) / (decay w + 1) and
G <- decay G + G_t. The product is exact whenever the tasks agree in A or in G, and it is never
indefinite.

References:
    Sliwa et al. (2025), "Mitigating Forgetting in Low Rank Adaptation" (LaLoRA).
    https://arxiv.org/abs/2512.17720
    Ritter et al. (2018), "Online Structured Laplace Approximations For Overcoming Catastrophic
    Forgetting". https://arxiv.org/abs/1805.07810

Deviations from the papers:
    - LaLoRA's own notation and number of examples are not public in full; the form above is what
      its abstract and reviews describe.
    - `online`, `prior_precision` and curvature `full` (for CURLoRA's U) are ours.
    - The paper's lambda was not found. `strength` is found as each task begins, by default: see
      `curlora.retention.pull`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from curlora.curvature.forms import coupled_form, diagonal_form, full_form, kronecker_form
from curlora.curvature.layers import lora_pairs
from curlora.curvature.observation import Derivative, Observation, Params, statistic
from curlora.curvature.sums import Sums, averaged, sum_factors, sum_outer_products, sum_squares
from curlora.retention.protocol import Total, alone, no_penalty
from curlora.retention.pull import Pulling, Strength

Curvature = Literal["diag", "kfac", "tri_kfac", "full"]

_OBSERVED: dict[str, Derivative] = {
    "diag": "gradients",
    "kfac": "linear",
    "tri_kfac": "linear",
    "full": "gradients",
}


class Laplace(Pulling):
    """Pulls the parameters back along the directions that what was learnt depends on."""

    kind = "laplace"

    def __init__(
        self,
        curvature: Curvature,
        strength: Strength,
        pull: float,
        decay: float,
        prior_precision: float,
        source: Literal["tasks", "texts"],
        online: bool | None,
        max_examples: int,
    ) -> None:
        """Start with nothing seen.

        Args:
            curvature: The approximation of the Fisher.
            strength: Multiplies the penalty, at least 0; or `auto`.
            pull: With `auto`: see `curlora.retention.pull`.
            decay: What the earlier curvature is multiplied by after each task, in [0, 1].
            prior_precision: Added to the curvature of every parameter, at least 0.
            source: What curvature is measured on.
            online: Whether finished tasks add theirs; None: with source `tasks` only.
            max_examples: Examples for each estimate.

        Raises:
            ValueError: Nothing would ever be measured.
        """
        if source == "tasks" and online is False:
            raise ValueError(
                "With `source: tasks` and `online: false` no curvature is ever measured. Leave "
                "`online` out, or set `source: texts`."
            )
        settings = {"decay": decay, "prior_precision": prior_precision}
        super().__init__(strength, pull, max_examples, settings)
        self.curvature: Curvature = curvature
        self.source = source
        self.online = source == "tasks" if online is None else online
        self.observes = frozenset({_OBSERVED[curvature]})
        parts = {
            "diag": ("diagonal.",),
            "kfac": ("inputs.", "outputs.", "taken"),
            "tri_kfac": ("inputs.", "outputs.", "inputs_between.", "outputs_between.", "taken"),
            "full": ("full.",),
        }[curvature]
        self._prefixes = ("anchor.", *parts)
        self._parts = parts

    def _make_room(self, params: Params, tasks: int) -> None:  # noqa: ARG002
        for name, parameter in params.items():
            self._state[f"anchor.{name}"] = statistic(parameter).clone()
        empty = self._sums(params, ())
        self._state |= {key: value for key, value in empty.items() if self._owns(key)}
        if self.curvature in {"kfac", "tri_kfac"}:
            self._state["taken"] = torch.tensor(0.0, dtype=torch.float64)

    def _holds(self) -> bool:
        curved = (t for name, t in self._state.items() if name.startswith(self._parts))
        return bool(self._state["prior_precision"] > 0) or any(bool(t.any()) for t in curved)

    def begin_sequence(
        self,
        params: Params,
        *,
        tasks: int,
        observed: Sequence[Iterable[Observation]] = (),
        total: Total = alone,
    ) -> None:
        """Make room, and measure the source sets where `source` is `texts`.

        Args:
            params: The adapter as it starts: the anchor.
            tasks: How many tasks the sequence has.
            observed: This worker's share of each source set.
            total: Sums statistics over workers.

        Raises:
            ValueError: `source` is `texts` and there is no source set, or the reverse.
        """
        super().begin_sequence(params, tasks=tasks, observed=observed, total=total)
        if self.source != "texts":
            return
        if not observed:
            raise ValueError(
                "Retention 'laplace' with `source: texts` measures curvature on source sets before "
                "the first task, but none was given. Name some, or set `source: tasks`."
            )
        sets = [averaged(total(self._sums(params, one))) for one in observed]
        mean = {key: torch.stack([one[key] for one in sets]).mean(dim=0) for key in sets[0]}
        self._take_in(mean)

    @staticmethod
    def penalty_of(state: Mapping[str, Tensor], params: Params) -> Tensor:
        """Compute (strength / 2) d' (F + prior_precision I) d.

        Args:
            state: `strength`, `prior_precision`, `anchor.` of every parameter, and the curvature,
                whose names tell its kind.
            params: The adapter.

        Returns:
            0-dim, at least 0.
        """
        steps = {name: p - state[f"anchor.{name}"] for name, p in params.items()}
        form = no_penalty(params)
        coupled: set[str] = set()
        for A, B in lora_pairs(params):
            if f"inputs_between.{A}" in state:
                coupled |= {A, B}
                form = form + coupled_form(
                    (state[f"inputs.{A}"], state[f"inputs.{B}"], state[f"inputs_between.{A}"]),
                    (state[f"outputs.{A}"], state[f"outputs.{B}"], state[f"outputs_between.{A}"]),
                    steps[A],
                    steps[B],
                )
        for name, step in steps.items():
            if name not in coupled:
                form = form + _form_of(state, name, step)
        prior = sum((step.square().sum() for step in steps.values()), no_penalty(params))
        form = form + state["prior_precision"].to(form.dtype) * prior
        return 0.5 * state["strength"].to(form.dtype) * form

    def end_task(
        self,
        params: Params,
        task: int,  # noqa: ARG002
        observed: Iterable[Observation],
        total: Total,
        examples: int,  # noqa: ARG002
    ) -> None:
        """Add the task's curvature and anchor the parameters here, where `online`.

        Args:
            params: The adapter as the task leaves it.
            task: Not read.
            observed: Observations with what `observes` names; left unread unless `online`.
            total: Sums statistics over workers.
            examples: Not read.
        """
        if not self.online:
            return
        self._state_beside(params)
        self._take_in(averaged(total(self._sums(params, observed))))
        for name, parameter in params.items():
            self._state[f"anchor.{name}"] = statistic(parameter).clone()

    def _sums(self, params: Params, observed: Iterable[Observation]) -> Sums:
        if self.curvature == "diag":
            return sum_squares(params, observed)
        if self.curvature == "full":
            return sum_outer_products(params, observed)
        return sum_factors(params, observed, coupled=self.curvature == "tri_kfac")

    def _take_in(self, new: Mapping[str, Tensor]) -> None:
        """Add a curvature to that of before."""
        state, decay = self._state, float(self._state["decay"])
        taken = decay * float(state.get("taken", 0.0))
        changed: dict[str, Tensor] = {}
        for key, value in new.items():
            if key.startswith("inputs"):
                changed[key] = (taken * state[key] + value) / (taken + 1)
            else:
                changed[key] = decay * state[key] + value
        if "taken" in state:
            changed["taken"] = torch.full_like(state["taken"], taken + 1)
        self._state = state | changed


def _form_of(state: Mapping[str, Tensor], name: str, step: Tensor) -> Tensor:
    if f"inputs.{name}" in state:
        return kronecker_form(state[f"inputs.{name}"], state[f"outputs.{name}"], step)
    if f"full.{name}" in state:
        return full_form(state[f"full.{name}"], step)
    return diagonal_form(state[f"diagonal.{name}"], step)
