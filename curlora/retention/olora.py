"""O-LoRA: every task learns a LoRA of its own, whose input subspace avoids the earlier ones.

The penalty while task t is learnt is lambda1 sum_{i < t} sum |A_i A_t'| + lambda2 ||theta_t||_2,
theta_t being all parameters of the current adapter; earlier adapters are frozen and their updates
summed.

References:
    Wang et al. (2023), "Orthogonal Subspace Learning for Language Model Continual Learning".
    https://arxiv.org/abs/2310.14152

Deviations from the paper:
    - The overlap is a sum of absolute values, as in the published code; the paper's Eq. squares it.
    - The second term, off by default, is the norm of all parameters together, where the code adds
      up the norm of each.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from curlora.curvature.layers import lora_pairs
from curlora.curvature.observation import Params
from curlora.retention.protocol import no_penalty
from curlora.retention.renewing import Renewing


class Olora(Renewing):
    """Keeps each task's LoRA A orthogonal to those before."""

    kind = "olora"

    def __init__(self, lambda1: float, lambda2: float) -> None:
        """Start with no task learnt.

        Args:
            lambda1: Multiplies the overlap, at least 0.
            lambda2: Multiplies the norm, at least 0.
        """
        super().__init__({"lambda1": lambda1, "lambda2": lambda2})

    @staticmethod
    def penalty_of(state: Mapping[str, Tensor], params: Params) -> Tensor:
        """Compute lambda1 sum |A_i A'| + lambda2 ||theta||.

        Args:
            state: `lambda1`, `lambda2`, and `earlier.` (tasks, r, d_in) of every A: zeros where no
                task has ended, which overlap with nothing.
            params: The current task's adapter.

        Returns:
            0-dim, at least 0.
        """
        overlap = no_penalty(params)
        for A, _ in lora_pairs(params):
            earlier = state[f"earlier.{A}"]
            overlap = overlap + (earlier @ params[A].t()).abs().sum().to(overlap.dtype)
        flat = torch.cat([p.reshape(-1).to(overlap.dtype) for p in params.values()])
        norm = torch.linalg.vector_norm(flat)
        return state["lambda1"].to(overlap.dtype) * overlap + state["lambda2"].to(norm.dtype) * norm
