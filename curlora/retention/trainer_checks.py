"""What a trainer of transformers or TRL is asked for that a retention does not go with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset

from curlora.retention.learner import Learner


def check_trainer(trainer: Any, learner: Learner) -> None:
    """Refuse a trainer whose steps would not be those of the retention.

    Args:
        trainer: A `transformers.Trainer`, made.
        learner: What it is to learn a task of.

    Raises:
        ValueError: It would compute something else; all reasons are named.
    """
    if trainer.model is not learner.model:
        raise ValueError(
            "The trainer has another model than the one that `ContinualTraining` was made with "
            "(`peft_config` and `model_init` make one). Attach the adapter first, and give the "
            "same model to both."
        )
    reasons = [
        *_distributed(trainer),
        *_other_losses(trainer),
        *_other_batches(trainer, learner),
        *_other_steps(trainer, learner),
    ]
    if reasons:
        kind = learner.retention.kind
        listed = "\n".join(f"- {reason}" for reason in reasons)
        raise ValueError(f"Retention {kind!r} does not go with this trainer:\n{listed}")


def _distributed(trainer: Any) -> Iterator[str]:
    args = trainer.args
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        yield (
            "DeepSpeed and FSDP shard the parameters that a penalty is computed from; leave "
            "`deepspeed` and `fsdp` out."
        )
    elif args.world_size > 1 or args.n_gpu > 1:
        yield (
            f"it runs in {max(args.world_size, args.n_gpu)} processes or on as many GPUs, and "
            "statistics are not summed over them; start one process, with one GPU visible "
            "(CUDA_VISIBLE_DEVICES)."
        )


def _other_losses(trainer: Any) -> Iterator[str]:
    args = trainer.args
    given = {
        "label_smoothing_factor": args.label_smoothing_factor,
        "compute_loss_func": trainer.compute_loss_func,
        "loss_type": getattr(args, "loss_type", "nll") not in {"nll", None},
    }
    changed = [f"`{name}`" for name, value in given.items() if value]
    if changed:
        yield (
            f"{' and '.join(changed)} changes the loss, and curvature and strength are those of "
            "the mean negative log-likelihood; leave it at its default."
        )
    config = trainer.model.config
    if getattr(config, "is_encoder_decoder", False):
        yield "its model has an encoder and a decoder; take a causal language model."


def _other_batches(trainer: Any, learner: Learner) -> Iterator[str]:
    args, rows = trainer.args, trainer.train_dataset
    if rows is None or isinstance(rows, IterableDataset) or not hasattr(rows, "__len__"):
        yield (
            "examples are read again by their position, so `train_dataset` must have a length and "
            f"positions, got {type(rows).__name__}."
        )
    if getattr(args, "packing", False) or getattr(trainer, "padding_free", False):
        yield (
            "`packing` and `padding_free` put several examples into one row, and curvature and "
            "replay are of single examples; set both to False."
        )
    if args.auto_find_batch_size:
        yield "`auto_find_batch_size` begins a task several times; set `batch_size` itself."
    if not learner.replays:
        return
    if args.gradient_accumulation_steps > 1:
        yield (
            "replayed rows are drawn for a whole step, so they cannot be spread over "
            f"`gradient_accumulation_steps` = {args.gradient_accumulation_steps}; set it to 1 and "
            "raise `per_device_train_batch_size`."
        )
    if args.dataloader_num_workers > 0:
        yield (
            "replayed rows are added to the batches in their order, which several processes do "
            f"not keep; set `dataloader_num_workers` to 0 (now {args.dataloader_num_workers})."
        )


def _other_steps(trainer: Any, learner: Learner) -> Iterator[str]:
    args = trainer.args
    if args.fp16:
        yield "`fp16` skips steps whose gradient overflows; set `bf16`, or neither."
    if args.torch_compile:
        yield "`torch_compile` hides the layers that curvature is read from; set it to False."
    kept = learner.merges or learner.retention.renews_adapter
    if args.load_best_model_at_end and kept:
        yield (
            "`load_best_model_at_end` would put back an adapter without what was frozen or merged "
            "beside it; set it to False."
        )
