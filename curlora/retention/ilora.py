"""I-LoRA: replay, and a slow copy of the adapter that guides the hidden states of replayed rows.

After step s (counted from 0 over the whole sequence) the slow parameters move to
a slow + (1 - a) fast with a = min(1 - 1 / (s + 1), ema). The loss on the batch and the replayed
rows gets strength times the mean over layers of MSE(h, max(h, h_slow)), h_slow without gradient: it
acts only where the slow adapter's hidden state is the larger.

References:
    Ren et al. (2024), "Analyzing and Reducing Catastrophic Forgetting in Parameter Efficient
    Tuning". https://arxiv.org/abs/2402.18865

At strength 0 the hidden states are not compared, and what is left is replay.

Deviations from the published code (method/ILORA.py of which47/LLMCL):
    - The slow adapter follows the formula above. In the code it never moves: its update looks for
      the fast adapter's names among the slow one's and finds none, so hidden states are held near
      those of the start, where B is zero: near the base's. With the published `ema` of 0.25 three
      quarters of the fast weights are taken over at every step here, a lag of a third of a step.
    - The reservoir takes in each training example once, when its task ends; the code adds rows as
      they are seen, so rows of the task that is being learnt are replayed as well.
    - Padding is left out of the mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from curlora.curvature.observation import Params, statistic
from curlora.retention.replay import Replay


class Ilora(Replay):
    """Keeps a reservoir and a slow adapter."""

    kind = "ilora"
    _prefixes = (*Replay._prefixes, "shadow.", "steps")

    def __init__(self, strength: float, ema: float, capacity: int, share: float, seed: int) -> None:
        """Start with an empty reservoir and no slow adapter.

        Args:
            strength: Multiplies the distance of the hidden states, at least 0.
            ema: Largest share of the slow parameters kept at a step, in [0, 1].
            capacity: How many examples are kept.
            share: Replayed rows for each row of the batch.
            seed: Where the draws come from.
        """
        super().__init__(capacity, share, seed, {"strength": strength, "ema": ema})

    def _make_room(self, params: Params, tasks: int) -> None:  # noqa: ARG002
        for name, parameter in params.items():
            self._state[f"shadow.{name}"] = statistic(parameter).clone()
        self._state["steps"] = torch.tensor(0)

    @property
    def shadow(self) -> dict[str, Tensor] | None:
        """The slow parameters, in float32 or better; None where their strength is 0."""
        return (self._under("shadow.") or None) if float(self._state["strength"]) > 0 else None

    def hidden_loss(self, fast: Sequence[Tensor], slow: Sequence[Tensor]) -> Tensor:
        """Give strength x mean over layers of MSE(fast, max(fast, slow)).

        Args:
            fast: Hidden states (tokens, hidden) of each layer, without padding.
            slow: The same under `shadow`; no gradient flows into it.

        Returns:
            0-dim, at least 0, in float32 or better.

        Raises:
            ValueError: There are no layers, or the two differ in number or shape.
        """
        shapes = [[tuple(layer.shape) for layer in layers] for layers in (fast, slow)]
        if not fast or shapes[0] != shapes[1]:
            raise ValueError(
                "`fast` and `slow` must hold the hidden states of the same layers and rows, got "
                f"shapes {shapes[0]} and {shapes[1]}."
            )
        layers: list[Tensor] = []
        for h, h_slow in zip(fast, slow, strict=True):
            precise = torch.promote_types(h.dtype, torch.float32)
            # MSE(h, max(h, h_slow)) = mean of (h_slow - h)^2 where h_slow is the larger.
            layers.append((h_slow.detach().to(precise) - h.to(precise)).relu().square().mean())
        loss = torch.stack(layers).mean()
        return float(self._state["strength"]) * loss

    def after_step(self, params: Params) -> None:
        """Let the slow parameters follow.

        Args:
            params: The adapter after the step.
        """
        step = int(self._state["steps"])
        kept = min(1 - 1 / (step + 1), float(self._state["ema"]))
        for name, parameter in params.items():
            slow, fast = self._state[f"shadow.{name}"], statistic(parameter)
            self._state[f"shadow.{name}"] = kept * slow.to(fast.device) + (1 - kept) * fast
        self._state["steps"] = torch.tensor(step + 1)
