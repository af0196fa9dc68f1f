"""A frozen base model that is sharded across workers by ZeRO stage 3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from orchestrator.base.loading import partitioned
from orchestrator.engines.deepspeed_config import deepspeed_config, lean_imports
from orchestrator.engines.scored_model import ScoredModel
from orchestrator.spec.sections import TrainingSpec


class ShardedBase:
    """A frozen base of which every worker holds a shard (ZeRO stage 3), whole a layer at a time."""

    def __init__(self, base: Any, config: Mapping[str, Any]) -> None:
        """Shard a base, if `partitioned` has not done so already; a collective.

        Args:
            base: A causal language model no parameter of which is trained. Adapters may be put
                around its layers afterwards; they stay whole.
            config: What `zero3_config` gave.
        """
        with lean_imports():
            import deepspeed

        world = torch.distributed.get_world_size()
        # Nothing is trained by DeepSpeed here, so it needs no sizes of batches; yet it checks them.
        self._config = {
            **config,
            "train_batch_size": world,
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
        }
        self.scored = ScoredModel(base).eval()
        """Every pass must go through it: that is where DeepSpeed begins to count layers again."""
        self._engine: Any = deepspeed.initialize(
            model=self.scored, config=self._config, dist_init_required=False
        )[0]

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Within it adapters gather the weights that they read, one layer at a time."""
        with partitioned(self._config):
            yield

    def release(self) -> None:
        """Let go of weights that a backward pass has left whole.

        The hooks that do so hang on gradients of a layer's input, which the lowest ones have not.
        """
        self._engine.optimizer.release_backward_leftovers()

    def release_all(self) -> None:
        """Let go of every weight, also after gradients of single tensors, which run no hooks."""
        self._engine.empty_partition_cache()


def zero3_config(spec: TrainingSpec) -> dict[str, Any] | None:
    """What `load_base` needs to shard a base across the workers while it is loaded.

    Args:
        spec: How to train; torch.distributed must be up.

    Returns:
        The DeepSpeed configuration of ZeRO stage 3, None of a lower stage.
    """
    config = deepspeed_config(spec, torch.distributed.get_world_size())
    if int(config["zero_optimization"]["stage"]) < 3:
        return None
    import deepspeed

    # Without its own view of torch.distributed DeepSpeed would count one worker.
    deepspeed.init_distributed(torch.distributed.get_backend(), dist_init_required=False)
    return config
