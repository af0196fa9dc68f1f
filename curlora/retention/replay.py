"""Experience replay: some examples of finished tasks join every batch.

Which examples are kept is a uniform sample without replacement of all examples of all finished
tasks, drawn by Vitter's algorithm R as the tasks end. The state holds references (task, position),
no text.

References:
    Vitter (1985), "Random Sampling with a Reservoir", Algorithm R.
    https://doi.org/10.1145/3147.3165
    Chaudhry et al. (2019), "On Tiny Episodic Memories in Continual Learning": a replayed batch as
    large as the current one. https://arxiv.org/abs/1902.10486
"""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from curlora.curvature.observation import Observation, Params
from curlora.retention.protocol import Retention, Total


class Replay(Retention):
    """Keeps a reservoir of references to earlier examples, and draws from it at every step."""

    kind = "replay"
    source = "none"
    _prefixes = ("reservoir", "seen")

    def __init__(
        self,
        capacity: int,
        share: float,
        seed: int,
        settings: Mapping[str, int | float] | None = None,
    ) -> None:
        """Start with an empty reservoir.

        Args:
            capacity: How many examples are kept, at least 1.
            share: Replayed rows for each row of the batch, at least 0.
            seed: Where the draws come from.
            settings: Further settings of a kind that builds on this one.
        """
        super().__init__(
            {"capacity": capacity, "share": share, "seed": seed, **dict(settings or {})}
        )
        self._state["reservoir"] = torch.full((capacity, 2), -1)
        self._state["seen"] = torch.tensor(0)

    def _state_beside(self, params: Params) -> dict[str, Tensor]:  # noqa: ARG002
        # The references are read on the CPU, and there is no penalty that needs them elsewhere.
        return self._state

    def rows(self, current: int, task: int, step: int) -> list[tuple[int, int]]:
        """Draw from the reservoir without replacement, by (seed, task, step) alone.

        Args:
            current: Rows of the batch over all workers.
            task: Which task is being learnt.
            step: Which step of it.

        Returns:
            `share` times `current` references, rounded, or all there are if they are fewer; none
            while no task has ended.
        """
        reservoir = self._state["reservoir"]
        kept = min(int(self._state["seen"]), reservoir.shape[0])
        wanted = min(kept, round(float(self._state["share"]) * current))
        if wanted == 0:
            return []
        seed = int(self._state["seed"])
        # The first `wanted` swaps of a Fisher-Yates shuffle; `moved` holds what left its place.
        moved: dict[int, int] = {}
        drawn: list[int] = []
        for i in range(wanted):
            j = i + _draw(kept - i, seed, "rows", task, step, i)
            drawn.append(moved.get(j, j))
            moved[j] = moved.get(i, i)
        return [(int(of), int(position)) for of, position in reservoir[drawn].tolist()]

    def end_task(
        self,
        params: Params,  # noqa: ARG002
        task: int,
        observed: Iterable[Observation],  # noqa: ARG002
        total: Total,  # noqa: ARG002
        examples: int,
    ) -> None:
        """Pass the task's examples by the reservoir, in order.

        Args:
            params: Not read.
            task: Which task ended.
            observed: Left unread.
            total: Not called: every worker draws the same.
            examples: How many training examples it has.
        """
        reservoir = self._state["reservoir"].tolist()
        seen, seed = int(self._state["seen"]), int(self._state["seed"])
        for position in range(examples):
            place = seen
            if seen >= len(reservoir):
                place = _draw(seen + 1, seed, "reservoir", seen)
            if place < len(reservoir):
                reservoir[place] = [task, position]
            seen += 1
        self._state |= {"reservoir": torch.tensor(reservoir), "seen": torch.tensor(seen)}


def _draw(below: int, *counter: int | str) -> int:
    """Give a number in [0, below) from a counter, uniform up to a share of below / 2^64."""
    digest = hashlib.blake2b(repr(counter).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") * below >> 64
