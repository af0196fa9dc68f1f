"""The process group of torch that Ray Train makes for its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend  # pyright: ignore[reportPrivateUsage]

from orchestrator.executors.links.interface import meet_at
from orchestrator.executors.watching.progress_watch import FIRST_SECONDS


def _meet_at_own_address() -> None:
    meet_at(ray.util.get_node_ip_address())


class _GroupBackend(_TorchBackend):
    """As Ray Train's; each worker listens at the address of its own node."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_meet_at_own_address)
        super().on_start(worker_group, backend_config)


@dataclass
class GroupConfig(TorchConfig):
    """What Ray Train is told of a group."""

    timeout_s: int = int(FIRST_SECONDS)
    """Seconds that a worker waits for the others; as long as one that starts may be silent."""

    @property
    def backend_cls(self) -> type[_GroupBackend]:
        """Who makes the group."""
        return _GroupBackend
