"""The base of kinds that give every task a fresh adapter and keep the earlier ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from curlora.curvature.observation import Observation, Params
from curlora.retention.protocol import Retention, Total


class Renewing(Retention):
    """The base of kinds that give every task a fresh adapter and keep the earlier ones.

    Room for all of them is made at the start. What is still zeros is an adapter that does nothing.
    """

    renews_adapter = True
    _prefixes = ("earlier.", "finished")

    def _make_room(self, params: Params, tasks: int) -> None:
        self._state |= {
            f"earlier.{name}": torch.zeros((tasks, *p.shape), dtype=p.dtype, device=p.device)
            for name, p in params.items()
        }
        self._state["finished"] = torch.tensor(0)

    def _make_more_room(self, tasks: int) -> None:
        for name, kept in self._under("earlier.").items():
            room = kept.new_zeros((max(tasks - kept.shape[0], 0), *kept.shape[1:]))
            self._state[f"earlier.{name}"] = torch.cat([kept, room])

    @property
    def earlier(self) -> list[dict[str, Tensor]]:
        """The frozen adapters of finished tasks, in order: see `Retention.earlier`."""
        finished = int(self._state.get("finished", torch.tensor(0)))
        stacked = self._under("earlier.")
        return [{name: tensor[i] for name, tensor in stacked.items()} for i in range(finished)]

    def end_task(
        self,
        params: Params,
        task: int,
        observed: Iterable[Observation],  # noqa: ARG002
        total: Total,  # noqa: ARG002
        examples: int,  # noqa: ARG002
    ) -> None:
        """Freeze the task's adapter: see `Retention.end_task`.

        Args:
            params: The adapter as the task leaves it.
            task: Which, counted from 0.
            observed: Left unread.
            total: Not called.
            examples: Not read.

        Raises:
            ValueError: `begin_sequence` made no room for this task.
        """
        changed: dict[str, Tensor] = {}
        for name, parameter in params.items():
            stacked = self._state.get(f"earlier.{name}")
            if stacked is None or task >= stacked.shape[0]:
                raise ValueError(
                    f"There is no room for the adapter of task {task} (`{name}`): `begin_sequence` "
                    f"made room for {0 if stacked is None else stacked.shape[0]} tasks. Call it "
                    "with the number of tasks and the parameters that are learnt."
                )
            changed[f"earlier.{name}"] = stacked.clone()
            changed[f"earlier.{name}"][task] = parameter.detach().to(stacked.device)
        self._state |= {**changed, "finished": torch.tensor(task + 1)}
