"""The next token of a row: the likeliest one, or one that is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float = 0.0
    """0: the likeliest token, always."""
    top_p: float = 1.0
    """Tokens are drawn from the likeliest that together have this probability, in (0, 1]."""
    seed: int | None = None
    """Of what is drawn; None: another one each time."""


GREEDY = Sampling()
"""The likeliest token, always."""


@dataclass(frozen=True)
class TokenChances:
    """A token, its log-probability in nats, and the likeliest tokens at its place."""

    token: int
    log_probability: float | None
    """None of a text's first token, before which nothing stands."""
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Sampler:
    """Chooses the tokens of one row."""

    sampling: Sampling
    _generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        if self.sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(self.sampling.seed % (1 << 63))

    def draw(self, scores: Tensor) -> int:
        """Draw a token.

        Args:
            scores: Of every token (vocabulary,), finite, on the CPU.

        Returns:
            The token.
        """
        chances = torch.softmax(scores.double() / self.sampling.temperature, -1)
        if self.sampling.top_p < 1.0:
            ordered, tokens = chances.sort(descending=True, stable=True)
            # The token that reaches `top_p` still counts (Holtzman et al. 2020, Sec. 3.1).
            kept = ordered.cumsum(-1) - ordered < self.sampling.top_p
            chances = torch.zeros_like(chances).scatter(0, tokens[kept], ordered[kept])
        return int(torch.multinomial(chances, 1, generator=self._generator))


def next_tokens(scores: Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """The next token of each row of a batch.

    Args:
        scores: (rows, vocabulary).
        samplers: Of each row.

    Returns:
        The tokens; None where scores are no numbers.
    """
    # Minus infinity is how tokens are ruled out; it is no sign of broken weights.
    largest, likeliest = (found.tolist() for found in scores.max(-1))
    broken = scores.isnan().any(-1).tolist()
    found: list[int | None] = []
    for row, sampler in enumerate(samplers):
        if broken[row] or not math.isfinite(largest[row]):
            found.append(None)
        elif sampler.sampling.temperature == 0.0:
            found.append(likeliest[row])
        else:
            found.append(sampler.draw(scores[row].cpu()))
    return found


def chances_of(scores: Tensor, tokens: Sequence[int], top: int) -> list[TokenChances]:
    """The log-probabilities of tokens under the model's own distribution, temperature 1.

    Args:
        scores: At each place (n, vocabulary).
        tokens: The token at each.
        top: How many of the likeliest are named.

    Returns:
        One for each place.
    """
    found = torch.log_softmax(scores.float(), -1)
    own = found.gather(-1, torch.tensor(tokens, device=found.device)[:, None])[:, 0].tolist()
    values, likeliest = (part.tolist() for part in found.topk(top, -1))
    return [
        TokenChances(token, value, tuple(zip(named, chances, strict=True)))
        for token, value, named, chances in zip(tokens, own, likeliest, values, strict=True)
    ]
